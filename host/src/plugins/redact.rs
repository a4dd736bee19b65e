//! Blanks secrets out of texts, in whole and in part.
//!
//! A component may cut, wrap, split or encode what it tells. So not whole secrets are looked for but any [`PIECE`] of
//! one, in each of its spellings; only what is shorter than a piece is looked for as a whole.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use secrecy::{ExposeSecret as _, SecretString};

use crate::spelling::spellings;

/// In bytes. Short enough that what is left of a secret helps nobody, long enough that ordinary words stay.
const PIECE: usize = 16;
/// Shorter secrets would blank out ordinary words.
const SHORTEST: usize = 6;
/// What stands in the place of a secret.
const BLANK: &str = "[secret]";

/// The secrets of a call: those that all calls of its backend share, and its own.
pub(super) struct Secrets {
    shared: Arc<Patterns>,
    own: Mutex<Arc<Patterns>>,
}

impl Secrets {
    pub(super) fn new(shared: Arc<Patterns>, own: Vec<SecretString>) -> Self {
        Self { shared, own: Mutex::new(Arc::new(Patterns::new(own))) }
    }

    /// One more. Each is kept once.
    pub(super) fn add(&self, secret: SecretString) {
        if !self.shared.has(&secret) && !self.own().has(&secret) {
            Arc::make_mut(&mut *self.own()).add(&secret);
        }
    }

    fn own(&self) -> MutexGuard<'_, Arc<Patterns>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `text` with every piece of every secret blanked out.
    pub(super) fn redact(&self, text: &str) -> String {
        self.redact_up_to(text, text.len())
    }

    /// As [`Secrets::redact`], of so many bytes of `text` at most. No more of it is looked at than that takes.
    pub(super) fn redact_up_to(&self, text: &str, longest: usize) -> String {
        let wanted = text.floor_char_boundary(longest);
        // A piece that begins within what is wanted ends within what is searched.
        let searched = &text.as_bytes()[..text.len().min(wanted + PIECE)];
        let own = self.own().clone();
        let mut hidden = self.shared.found_in(searched);
        hidden.extend(own.found_in(searched));
        hidden.sort_unstable_by_key(|range| range.start);
        let (mut shown, mut from) = (String::with_capacity(wanted), 0);
        for (index, range) in hidden.iter().filter(|range| range.start < wanted).enumerate() {
            // What touches what was blanked out before goes with it.
            let (start, end) = (text.floor_char_boundary(range.start), text.ceil_char_boundary(range.end));
            if index == 0 || start > from {
                shown.push_str(&text[from..start]);
                shown.push_str(BLANK);
            }
            from = from.max(end);
        }
        shown.push_str(text.get(from..wanted).unwrap_or_default());
        shown
    }
}

/// Secrets in all their spellings, searched for at once.
#[derive(Clone, Default)]
pub(super) struct Patterns {
    whole: Vec<SecretString>,
    /// By the size of their pieces.
    groups: BTreeMap<usize, Group>,
}

#[derive(Clone, Default)]
struct Group {
    spelled: Vec<SecretString>,
    /// Made when it is first needed.
    filter: OnceLock<Filter>,
}

impl Patterns {
    pub(super) fn new(secrets: impl IntoIterator<Item = SecretString>) -> Self {
        let mut all = Self::default();
        secrets.into_iter().for_each(|secret| all.add(&secret));
        all
    }

    pub(super) fn has(&self, secret: &SecretString) -> bool {
        self.whole.iter().any(|known| known.expose_secret() == secret.expose_secret())
    }

    fn add(&mut self, secret: &SecretString) {
        if secret.expose_secret().len() < SHORTEST || self.has(secret) {
            return;
        }
        self.whole.push(secret.clone());
        for spelled in spellings(secret) {
            let group = self.groups.entry(spelled.expose_secret().len().min(PIECE)).or_default();
            group.spelled.push(spelled);
            group.filter = OnceLock::new();
        }
    }

    fn found_in(&self, text: &[u8]) -> Vec<Range<usize>> {
        self.groups.iter().flat_map(|(size, group)| group.found_in(text, *size)).collect()
    }
}

impl Group {
    /// Where pieces of any of them are.
    fn found_in(&self, text: &[u8], size: usize) -> Vec<Range<usize>> {
        let filter = self.filter.get_or_init(|| Filter::of(&self.spelled, size));
        let (mut found, mut at) = (Vec::new(), 0);
        while let Some(window) = text.get(at..at + size) {
            let end = if filter.may_have(window) { self.end(text, at, size) } else { None };
            at = match end {
                Some(end) => {
                    found.push(at..end);
                    // What goes on where this ends begins at most a piece before.
                    end - size + 1
                }
                None => at + 1,
            };
        }
        found
    }

    /// Where the piece that begins at `at` ends, with what follows of the same secret.
    fn end(&self, text: &[u8], at: usize, size: usize) -> Option<usize> {
        let ends = self.spelled.iter().filter_map(|secret| {
            let secret = secret.expose_secret().as_bytes();
            let place = secret.windows(size).position(|piece| piece == &text[at..at + size])?;
            let more = secret[place..].iter().zip(&text[at..]).take_while(|(secret, text)| secret == text);
            Some(at + more.count())
        });
        ends.max()
    }
}

/// Which pieces secrets have, and by accident a few more (a Bloom filter): made and asked in less time than an exact
/// answer takes, since most texts are short and hold none.
#[derive(Clone)]
struct Filter(Vec<u64>);

impl Filter {
    /// With two bits of a piece set, about one other piece in three hundred passes.
    const BITS_OF_A_PIECE: usize = 32;

    fn of(secrets: &[SecretString], size: usize) -> Self {
        let pieces: usize = secrets.iter().map(|secret| secret.expose_secret().len()).sum();
        let words = (pieces * Self::BITS_OF_A_PIECE).next_power_of_two() / 64;
        let mut filter = Self(vec![0; words.max(1)]);
        for piece in secrets.iter().flat_map(|secret| secret.expose_secret().as_bytes().windows(size)) {
            for (word, bit) in filter.places(piece) {
                filter.0[word] |= bit;
            }
        }
        filter
    }

    fn may_have(&self, piece: &[u8]) -> bool {
        self.places(piece).into_iter().all(|(word, bit)| self.0[word] & bit != 0)
    }

    /// Of the first and the last eight bytes, which are all of a piece. Who makes pieces collide gets them looked at.
    fn places(&self, piece: &[u8]) -> [(usize, u64); 2] {
        let word = |bytes: &[u8]| bytes.iter().take(8).fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        let hash = (word(piece) ^ word(&piece[piece.len().saturating_sub(8)..]).rotate_left(23))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        [hash >> 40, hash >> 20].map(|place| ((place >> 6) as usize & (self.0.len() - 1), 1 << (place & 63)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first is shared.
    fn of(secrets: &[&str]) -> Secrets {
        let mut secrets = secrets.iter().map(|secret| SecretString::from(*secret));
        let shared = Patterns::new(secrets.next());
        Secrets::new(Arc::new(shared), secrets.collect())
    }

    fn redact(secrets: &[&str], text: &str) -> String {
        of(secrets).redact(text)
    }

    #[test]
    fn whole_and_in_part() {
        let secret = "abcdefghijklmnopqrstuvwxyz0123456789";
        assert_eq!(redact(&[secret], &format!("it is {secret}.")), "it is [secret].");
        assert_eq!(redact(&[secret], "cut: abcdefghijklmnopqrst…"), "cut: [secret]…");
        assert_eq!(redact(&[secret], "wrapped: abcdefghijklmnopqr\nstuvwxyz0123456789"), "wrapped: [secret]\n[secret]");
        assert_eq!(redact(&[secret], "the alphabet begins with abcdefghij"), "the alphabet begins with abcdefghij");
        assert_eq!(redact(&["hunter22", "one-more"], "hunter22one-more, hunter2"), "[secret], hunter2");
        assert_eq!(redact(&["", "abc"], "abc"), "abc", "too short to be told from words");
        assert_eq!(redact(&["ääääääääääää"], "xääääääääääää"), "x[secret]");
        assert_eq!(redact(&[], "nothing to hide"), "nothing to hide");
    }

    #[test]
    fn encoded_and_in_part() {
        let secret = "pass/wörd+with=all?sorts&of~things";
        let encoded = [
            "cGFzcy93w7ZyZCt3aXRoPWFsbD9zb3J0cyZvZn50aGluZ3M=",
            "cGFzcy93w7ZyZCt3aXRoPWFsbD9zb3J0cyZvZn50aGluZ3M",
            "pass%2Fw%C3%B6rd%2Bwith%3Dall%3Fsorts%26of~things",
            "pass%2fw%c3%b6rd%2bwith%3dall%3fsorts%26of~things",
            "706173732f77c3b672642b776974683d616c6c3f736f727473266f667e7468696e6773",
            "706173732F77C3B672642B776974683D616C6C3F736F727473266F667E7468696E6773",
        ];
        for text in encoded {
            let shown = redact(&[secret], &format!("it is {text}."));
            assert!(["it is [secret].", "it is [secret]=."].contains(&shown.as_str()), "{shown}");
            let part: String = text.chars().skip(5).take(20).collect();
            assert_eq!(redact(&[secret], &format!("cut {part}")), "cut [secret]");
        }
        let secrets = of(&[]);
        secrets.add("fetched-later".into());
        secrets.add("fetched-later".into());
        assert_eq!(secrets.redact("a fetched-later b"), "a [secret] b");
        assert_eq!(secrets.own().whole.len(), 1);
    }

    #[test]
    fn a_script_line_by_line() {
        let script = "#!/bin/sh\nexport TOKEN=0123456789\nexec /run\n";
        assert_eq!(redact(&[script], "export TOKEN=0123456789"), "[secret]");
    }

    #[test]
    fn what_is_shown_is_what_all_of_it_would_show_and_no_more_is_looked_at() {
        let secrets = of(&["abcdefghijklmnopqrstuvwxyz", "hunter22"]);
        let text = "it is abcdefghijklmnopqrstuvwxyz, or hunter22";
        assert_eq!(secrets.redact_up_to(text, 5), "it is");
        for longest in 7..32 {
            assert_eq!(secrets.redact_up_to(text, longest), "it is [secret]", "{longest}");
        }
        assert_eq!(secrets.redact_up_to(text, 38), "it is [secret], or [secret]");
        assert_eq!(secrets.redact_up_to("äöü", 3), "ä");
        let searched = secrets.redact_up_to(&format!("{}{text}", "x".repeat(20)), 10);
        assert_eq!(searched, "xxxxxxxxxx");
    }

    proptest! {
        #[test]
        fn a_part_begins_as_the_whole_does(
            secrets in prop::collection::vec("[a-c]{6,40}", 0..4), text in "[a-cä]{0,80}", longest in 0_usize..90,
        ) {
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            let secrets = of(&secrets);
            let (part, whole) = (secrets.redact_up_to(&text, longest), secrets.redact(&text));
            prop_assert!(whole.starts_with(&part), "{part} {whole}");
        }

        #[test]
        fn no_piece_passes(
            secret in "[a-c]{20,60}", before in "[a-z ä]{0,20}", from in 0_usize..20, len in 16_usize..60, after in "[a-z ö]{0,20}",
        ) {
            let part: String = secret.chars().skip(from).take(len).collect();
            let shown = redact(&[&secret], &format!("{before}{part}{after}"));
            for at in 0..=secret.len() - PIECE {
                prop_assert!(!shown.contains(&secret[at..at + PIECE]), "{}", shown);
            }
        }
    }
}
