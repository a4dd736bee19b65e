//! Blanks secrets out of texts, in whole and in part.
//!
//! A component may cut, wrap, split or encode what it tells. So not whole secrets are looked for but any [`PIECE`] of
//! one, in each of its spellings; only what is shorter than a piece is looked for as a whole.

use std::{
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

/// The secrets of a call.
pub(super) struct Secrets(Mutex<Vec<Arc<Secret>>>);

struct Secret {
    text: SecretString,
    /// Made when it is first needed.
    filter: OnceLock<Filter>,
}

impl Secrets {
    pub(super) fn new(secrets: Vec<SecretString>) -> Self {
        let all = Self(Mutex::default());
        secrets.into_iter().for_each(|secret| all.add(secret));
        all
    }

    /// One more. Each is kept once.
    pub(super) fn add(&self, secret: SecretString) {
        if secret.expose_secret().len() < SHORTEST {
            return;
        }
        let mut all = self.all();
        if all.iter().any(|known| known.text.expose_secret() == secret.expose_secret()) {
            return;
        }
        let spelled = spellings(&secret).into_iter();
        all.extend(spelled.map(|text| Arc::new(Secret::new(text))));
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Secret>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `text` with every piece of every secret blanked out.
    pub(super) fn redact(&self, text: &str) -> String {
        let all = self.all().clone();
        let mut hidden: Vec<Range<usize>> = all.iter().flat_map(|secret| secret.found_in(text.as_bytes())).collect();
        hidden.sort_unstable_by_key(|range| range.start);
        let (mut shown, mut from) = (String::with_capacity(text.len()), 0);
        for (index, range) in hidden.iter().enumerate() {
            // What touches what was blanked out before goes with it.
            let (start, end) = (text.floor_char_boundary(range.start), text.ceil_char_boundary(range.end));
            if index == 0 || start > from {
                shown.push_str(&text[from..start]);
                shown.push_str(BLANK);
            }
            from = from.max(end);
        }
        shown.push_str(&text[from..]);
        shown
    }
}

impl Secret {
    fn new(text: SecretString) -> Self {
        Self { text, filter: OnceLock::new() }
    }

    /// Where pieces of it are, merged where they overlap.
    fn found_in(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        let secret = self.text.expose_secret().as_bytes();
        let size = secret.len().min(PIECE);
        let mut next = 0;
        for (at, window) in text.windows(size).enumerate() {
            // What goes on where the last piece ended is not searched for.
            let place = if secret[next..].starts_with(window) { Some(next) } else { self.place(window) };
            let Some(place) = place else { continue };
            next = place + 1;
            match found.last_mut() {
                Some(last) if last.end >= at => last.end = at + size,
                Some(_) | None => found.push(at..at + size),
            }
        }
        found
    }

    fn place(&self, window: &[u8]) -> Option<usize> {
        let secret = self.text.expose_secret().as_bytes();
        let filter = self.filter.get_or_init(|| Filter::of(secret, window.len()));
        filter.may_have(window).then(|| secret.windows(window.len()).position(|piece| piece == window)).flatten()
    }
}

/// Which pieces a secret has, and by accident a few more (a Bloom filter): made and asked in less time than an exact
/// answer takes, since most texts are short and hold none.
struct Filter(Vec<u64>);

impl Filter {
    /// With two bits of a piece set, about one other piece in three hundred passes.
    const BITS_OF_A_PIECE: usize = 32;

    fn of(secret: &[u8], size: usize) -> Self {
        let words = (secret.len() * Self::BITS_OF_A_PIECE).next_power_of_two() / 64;
        let mut filter = Self(vec![0; words.max(1)]);
        for piece in secret.windows(size) {
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

    fn redact(secrets: &[&str], text: &str) -> String {
        Secrets::new(secrets.iter().map(|secret| (*secret).into()).collect()).redact(text)
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
        let secrets = Secrets::new(vec![]);
        secrets.add("fetched-later".into());
        secrets.add("fetched-later".into());
        assert_eq!(secrets.redact("a fetched-later b"), "a [secret] b");
        assert_eq!(secrets.all().iter().filter(|secret| secret.text.expose_secret() == "fetched-later").count(), 1);
    }

    #[test]
    fn a_script_line_by_line() {
        let script = "#!/bin/sh\nexport TOKEN=0123456789\nexec /run\n";
        assert_eq!(redact(&[script], "export TOKEN=0123456789"), "[secret]");
    }

    proptest! {
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
