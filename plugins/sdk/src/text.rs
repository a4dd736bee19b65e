//! Text out of an engine: the end of a log, however long it is, and errors that quote no secret.

use std::io::{self, Read};

use crate::Error;

/// What is read at once.
const CHUNK: usize = 16 * 1024;
/// Bytes of a secret that are enough to know it by, where a message was cut in the middle of it.
const SECRET_START: usize = 16;

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

/// The error without what follows the start of a secret in it: an engine may quote what it was sent.
#[must_use]
pub fn without(secret: &str, mut error: Error) -> Error {
    let start = &secret[..secret.floor_char_boundary(SECRET_START)];
    if let Some(at) = error.message.find(start).filter(|_| !start.is_empty()) {
        error.message.truncate(at);
        error.message.push_str("[secret]");
    }
    error
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
        let secret = "0123456789abcdefghijklmnop";
        let check = |message: &str, expected: &str| {
            assert_eq!(without(secret, Error::other(message)).message, expected);
        };
        check("unknown `0123456789abcdefghijklmnop`", "unknown `[secret]");
        check("cut: 0123456789abcdef…", "cut: [secret]");
        check("nothing of it", "nothing of it");
        assert_eq!(without("", Error::other("kept")).message, "kept");
    }
}
