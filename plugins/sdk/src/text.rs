//! Text out of an engine: the end of a log, however long it is, and errors that quote no secret.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use crate::{Error, http::encode};

/// What is read at once.
const CHUNK: usize = 16 * 1024;
/// Bytes of a secret that are enough to know it by. Fewer help nobody, and ordinary words have them.
const PIECE: usize = 16;

/// The last `max` bytes of a stream's text. Reads to its end and keeps at most twice that.
pub fn tail(mut stream: impl Read, max: usize) -> io::Result<String> {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => kept.extend_from_slice(&chunk[..got]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if kept.len() >= max.saturating_mul(2).max(CHUNK) {
            kept.drain(..kept.len().saturating_sub(max));
        }
    }
    kept.drain(..kept.len().saturating_sub(max));
    let mut text = String::from_utf8_lossy(&kept).into_owned();
    // A replacement is longer than what it replaces.
    text.drain(..text.ceil_char_boundary(text.len().saturating_sub(max)));
    // The cut may have gone through a character.
    Ok(text.trim_start_matches('\u{FFFD}').to_owned())
}

/// The error up to where it repeats a secret.
///
/// An engine may quote what it was sent, so the spellings that requests are made of are looked for.
/// [`Exported`](crate::Exported) does this to every error of `create`, with the bootstrap.
#[must_use]
pub fn without(secret: &str, mut error: Error) -> Error {
    let coded = base64(secret.as_bytes());
    let escaped = serde_json::Value::from(secret).to_string();
    let spellings = [secret.to_owned(), encode(secret), encode(&coded), coded, escaped.trim_matches('"').to_owned()];
    let repeated = spellings.iter().filter_map(|spelling| shared(error.message.as_bytes(), spelling.as_bytes())).min();
    if let Some(at) = repeated {
        error.message.truncate(error.message.floor_char_boundary(at));
        error.message.push_str("[left out]");
    }
    error
}

/// Where the text first has a piece of the secret.
fn shared(text: &[u8], secret: &[u8]) -> Option<usize> {
    let piece = secret.len().clamp(1, PIECE);
    let mut places = BTreeMap::new();
    for (at, window) in text.windows(piece).enumerate() {
        places.entry(window).or_insert(at);
    }
    secret.windows(piece).filter_map(|window| places.get(window).copied()).min()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, at| word << 8 | usize::from(three.get(at).copied().unwrap_or_default()));
        for digit in 0..4 {
            let shown = char::from(DIGITS[word >> (18 - 6 * digit) & 63]);
            text.push(if digit <= three.len() { shown } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{tail, without};
    use crate::Error;

    #[test]
    fn the_end_is_kept_however_long_it_is() {
        let log = format!("{}the end", "x".repeat(9_000_000));
        assert_eq!(tail(log.as_bytes(), 8).unwrap(), "xthe end");
        assert_eq!(tail(log.as_bytes(), 0).unwrap(), "");
        assert_eq!(tail(&b"short"[..], usize::MAX).unwrap(), "short");
    }

    #[test]
    fn a_cut_character_is_left_out_and_the_limit_holds() {
        assert_eq!(tail("äöü".as_bytes(), 3).unwrap(), "ü");
        assert!(tail(&[0xff; 4][..], 4).unwrap().len() <= 4);
    }

    #[test]
    fn an_error_does_not_quote_the_secret() {
        let secret = "#!/bin/sh\n: 0123456789 \"abcdefghijklmnopqrst\"\n";
        let check = |message: &str, expected: &str| {
            assert_eq!(without(secret, Error::other(message)).message, expected);
        };
        check("whole: #!/bin/sh\n: 0123456789", "whole: [left out]");
        check("its middle: abcdefghijklmnopq!", "its middle: [left out]");
        check("cut: abcdefghijklmno", "cut: abcdefghijklmno");
        check("json: #!/bin/sh\\n: 0123456789", "json: [left out]");
        check("ä=%23%21%2Fbin%2Fsh%0A%3A%20", "ä=[left out]");
        check("base64: IyEvYmluL3NoCjogMDEyMzQ", "base64: [left out]");
        check("nothing of it", "nothing of it");
        assert_eq!(without("", Error::other("kept")).message, "kept");
        assert_eq!(without("short", Error::other("a short one")).message, "a [left out]");
        assert_eq!(without("ööööööööö", Error::other("xööööööööö")).message, "x[left out]");
    }

    #[test]
    fn base64_is_that_of_everybody() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(super::base64(text.as_bytes()), coded);
        }
    }
}
