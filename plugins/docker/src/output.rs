//! A container's output: its frames taken apart, and only the end of it kept.

use std::io::{self, Read};

/// What is read at once.
const CHUNK: usize = 16 * 1024;

/// The last `max` bytes of a log's text. Reads to the end of the stream and keeps at most twice that.
///
/// Without a terminal an engine wraps each piece in a frame: one byte of stream, three of zero, four of length. What
/// does not look like one is taken as it is.
pub fn tail(mut stream: impl Read, max: usize) -> io::Result<String> {
    let mut kept = Tail { bytes: Vec::new(), max };
    let mut head = [0; 8];
    loop {
        let got = fill(&mut stream, &mut head)?;
        match head {
            [0..=2, 0, 0, 0, a, b, c, d] if got == head.len() => {
                kept.copy(&mut (&mut stream).take(u32::from_be_bytes([a, b, c, d]).into()))?;
            }
            _ => {
                kept.push(&head[..got]);
                kept.copy(&mut stream)?;
                break;
            }
        }
    }
    Ok(kept.text())
}

struct Tail {
    bytes: Vec<u8>,
    max: usize,
}

impl Tail {
    fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
        if self.bytes.len() >= self.max.saturating_mul(2).max(CHUNK) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let over = self.bytes.len().saturating_sub(self.max);
        self.bytes.drain(..over);
    }

    fn copy(&mut self, stream: &mut impl Read) -> io::Result<()> {
        let mut chunk = [0; CHUNK];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(got) => self.push(&chunk[..got]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn text(mut self) -> String {
        self.cut();
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        // A replacement is longer than what it replaces.
        let over = text.len().saturating_sub(self.max);
        text.drain(..text.ceil_char_boundary(over));
        // The cut may have gone through a character.
        text.trim_start_matches('\u{FFFD}').to_owned()
    }
}

/// Reads until `into` is full or the stream ends.
fn fill(stream: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match stream.read(&mut into[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::tail;

    fn frame(stream: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    #[test]
    fn both_streams_are_joined_in_their_order() {
        let log = [frame(1, "out\n"), frame(2, "err\n"), frame(1, "")].concat();
        assert_eq!(tail(&log[..], 100).unwrap(), "out\nerr\n");
    }

    #[test]
    fn a_terminals_output_has_no_frames() {
        assert_eq!(tail(&b"hello, world"[..], 100).unwrap(), "hello, world");
        assert_eq!(tail(&b"hey"[..], 100).unwrap(), "hey");
        assert_eq!(tail(&b""[..], 100).unwrap(), "");
    }

    #[test]
    fn the_end_is_kept_however_long_it_is() {
        let mut log = frame(1, &"x".repeat(9_000_000));
        log.extend(frame(2, "the end"));
        assert_eq!(tail(&log[..], 8).unwrap(), "xthe end");
        assert_eq!(tail(&log[..], 0).unwrap(), "");
    }

    #[test]
    fn a_cut_character_is_left_out_and_the_limit_holds() {
        assert_eq!(tail(&frame(1, "äöü")[..], 3).unwrap(), "ü");
        let broken = [frame(1, "")[..4].to_vec(), 4u32.to_be_bytes().to_vec(), vec![0xff; 4]].concat();
        assert!(tail(&broken[..], 4).unwrap().len() <= 4);
    }

    #[test]
    fn a_frame_that_is_cut_off_ends_the_text() {
        assert_eq!(tail(&frame(1, "half of it")[..12], 100).unwrap(), "half");
    }
}
