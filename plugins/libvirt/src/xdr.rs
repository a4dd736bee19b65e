//! XDR (RFC 4506), the part of it that libvirt's messages use: big-endian words of four bytes, everything padded to them.
//!
//! Reading never trusts a length: what is claimed must be there, so nothing larger than the message is ever allocated.

/// The message ends before what it should hold, or holds something else.
#[derive(Debug, PartialEq)]
pub struct Malformed;

/// What is being written.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    #[must_use]
    pub fn uint(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    #[must_use]
    pub fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    #[must_use]
    pub fn hyper(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Bytes whose number both sides know.
    #[must_use]
    pub fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    #[must_use]
    pub fn string(self, text: &str) -> Self {
        // No message may be that long; the other side refuses what is.
        self.uint(u32::try_from(text.len()).unwrap_or(u32::MAX)).fixed(text.as_bytes())
    }

    #[must_use]
    pub fn optional(self, text: Option<&str>) -> Self {
        match text {
            None => self.uint(0),
            Some(text) => self.uint(1).string(text),
        }
    }
}

/// What is left to be read.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn uint(&mut self) -> Result<u32, Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*head))
    }

    pub fn int(&mut self) -> Result<i32, Malformed> {
        self.uint().map(u32::cast_signed)
    }

    pub fn hyper(&mut self) -> Result<u64, Malformed> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*head))
    }

    pub fn fixed(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let padded = length.checked_next_multiple_of(4).ok_or(Malformed)?;
        let (head, rest) = self.0.split_at_checked(padded).ok_or(Malformed)?;
        self.0 = rest;
        Ok(&head[..length])
    }

    pub fn string(&mut self) -> Result<String, Malformed> {
        let length = usize::try_from(self.uint()?).map_err(|_| Malformed)?;
        // libvirt's texts are UTF-8 but for what guests and files are called.
        Ok(String::from_utf8_lossy(self.fixed(length)?).into_owned())
    }

    pub fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.uint()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Malformed),
        }
    }

    /// A list of any length; each item takes at least a word, so a lie about the number ends with the message.
    pub fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = self.uint()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Malformed, Reader, Writer};

    #[test]
    fn words_are_big_endian_and_padded() {
        let bytes = Writer::default().uint(1).string("abcde").optional(None).optional(Some("x")).int(-2).0;
        #[rustfmt::skip]
        assert_eq!(bytes, [
            0, 0, 0, 1, 0, 0, 0, 5, b'a', b'b', b'c', b'd', b'e', 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0, 0, 255, 255, 255, 254,
        ]);
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        for bytes in
            [&[0, 0, 0, 5, b'a'][..], &[255, 255, 255, 255], &[0, 0, 0], &[0, 0, 0, 5, b'a', b'b', b'c', b'd', b'e']]
        {
            assert_eq!(Reader(bytes).string(), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(Reader(&[255, 255, 255, 255, 0, 0, 0, 1]).list(Reader::uint), Err(Malformed));
        assert_eq!(Reader(&[0, 0, 0, 2]).optional(Reader::string), Err(Malformed));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(word: u32, int: i32, hyper: u64, text: String, maybe: Option<String>, fixed: [u8; 16]) {
            let written = Writer::default().uint(word).int(int).hyper(hyper).string(&text).optional(maybe.as_deref()).fixed(&fixed).0;
            prop_assert_eq!(written.len() % 4, 0);
            let mut read = Reader(&written);
            prop_assert_eq!(read.uint(), Ok(word));
            prop_assert_eq!(read.int(), Ok(int));
            prop_assert_eq!(read.hyper(), Ok(hyper));
            prop_assert_eq!(read.string(), Ok(text));
            prop_assert_eq!(read.optional(Reader::string), Ok(maybe));
            prop_assert_eq!(read.fixed(16), Ok(&fixed[..]));
            prop_assert!(read.0.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Reader(&bytes).string();
            let _ = Reader(&bytes).hyper();
            let _ = Reader(&bytes).fixed(usize::MAX);
            let _ = Reader(&bytes).list(|item| item.optional(Reader::string));
        }
    }
}
