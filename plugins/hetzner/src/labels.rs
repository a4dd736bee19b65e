//! Labels: what Hetzner keeps with a server. A value has at most 63 of `[A-Za-z0-9._-]` and begins and ends with a letter
//! or digit.

use std::collections::BTreeMap;

const LONGEST: usize = 63;

pub fn is_value(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= LONGEST
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Puts a text into labels, each byte that none may hold as `_` and its two hexadecimal digits. What is too long for one
/// goes on in `KEY.2`, `KEY.3`, …. False for what cannot be put: it begins or ends with such a byte, or has too many in a row.
pub fn put(into: &mut BTreeMap<String, String>, key: &str, text: &str) -> bool {
    let (mut rest, mut found) = (text, Vec::new());
    while !rest.is_empty() {
        let fits = |at: &usize| {
            let follows = rest.as_bytes().get(*at).is_none_or(u8::is_ascii_alphanumeric);
            follows && rest.get(..*at).is_some_and(|piece| is_value(&code(piece)))
        };
        let Some(at) = (1..=rest.len().min(LONGEST)).rev().find(fits) else { return false };
        found.push(code(&rest[..at]));
        rest = &rest[at..];
    }
    let keys = std::iter::once(key.to_owned()).chain((2..).map(|number| format!("{key}.{number}")));
    into.extend(keys.zip(found));
    true
}

fn code(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'.' | b'-' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("_{byte:02x}"),
    };
    text.bytes().map(byte).collect()
}

/// What [`put`] was given, by key without this prefix; a label that somebody else wrote as it is.
pub fn read(labels: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    // A first part comes before the second.
    for (key, value) in labels.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value))) {
        let key = key.rsplit_once('.').filter(|(_, number)| number.parse::<u8>().is_ok()).map_or(key, |(key, _)| key);
        all.entry(key.to_owned()).or_default().push_str(&decode(value));
    }
    all
}

fn decode(label: &str) -> String {
    let decoded = pacer_backend::http::decode(&label.replace('_', "%"));
    decoded.unwrap_or_else(|| label.to_owned())
}
