//! Labels: what Hetzner keeps with a server. A value has at most 63 of `[A-Za-z0-9._-]` and begins and ends with a letter
//! or digit.

use pacer_backend::Error;

pub const OWNER: &str = "pacer-owner";
pub const LEASE: &str = "pacer-lease-until-ms";
/// An operator's: the server is to be kept.
pub const HOLD: &str = "pacer.hold";
/// Before the host's own tags.
pub const TAG: &str = "pacer-tag.";

const LONGEST: usize = 63;

pub fn is_value(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= LONGEST
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Any text as a label, each byte that none may hold as `_` and its two hexadecimal digits. None for what is too long or
/// begins with such a byte.
pub fn encode(text: &str) -> Option<String> {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'.' | b'-' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("_{byte:02x}")),
        }
    }
    is_value(&out).then_some(out)
}

/// What [`encode`] was given; a label that somebody else wrote as it is.
pub fn decode(label: &str) -> String {
    let parse = || {
        let mut parts = label.split('_');
        let mut bytes = parts.next()?.as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
            bytes.extend(&part.as_bytes()[2..]);
        }
        String::from_utf8(bytes).ok()
    };
    parse().unwrap_or_else(|| label.to_owned())
}

/// The owner as a label. Another owner has another one, so what does not fit is refused, never bent.
pub fn encode_owner(owner: &str) -> Result<String, Error> {
    if is_value(owner) {
        return Ok(owner.to_owned());
    }
    Err(Error::invalid_config(format!(
        "`server.owner` is `{owner}`, which is no label of Hetzner's; use at most {LONGEST} letters, digits, `.`, `_` and `-`"
    )))
}
