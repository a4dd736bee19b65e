//! The spellings in which a secret turns up: as it is, and as the usual encodings write it, alone or within more.
//!
//! Encodings of encodings and compressed texts are not among them: there is no end to that.

use std::fmt::Write as _;

use base64::{
    Engine as _,
    engine::general_purpose::{GeneralPurpose, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};

/// In bytes. Longer texts are scripts around a secret rather than one, and each spelling is searched for in every line.
const LONGEST: usize = 16 << 10;

/// What no URL has to escape.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The secret itself first, then its other spellings, each once.
pub(crate) fn spellings(secret: &SecretString) -> Vec<SecretString> {
    let text = secret.expose_secret();
    let mut spellings = vec![secret.clone()];
    if text.len() > LONGEST {
        return spellings;
    }
    let (percent, careful) = (utf8_percent_encode(text, UNRESERVED), utf8_percent_encode(text, NON_ALPHANUMERIC));
    let (percent, careful) = (percent.to_string(), careful.to_string());
    let hex = hex::encode(text);
    let mut others = vec![lower_escapes(&percent), percent, lower_escapes(&careful), careful, hex.to_uppercase(), hex];
    for alphabet in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
        // Without padding it is found with padding as well.
        others.push(alphabet.encode(text));
        others.extend((0..3).map(|before| within_base64(alphabet, before, text)));
    }
    others.extend(JSON.iter().map(|escaped| json(text, escaped)));
    for other in others {
        if !other.is_empty() && spellings.iter().all(|known| known.expose_secret() != other) {
            spellings.push(other.into());
        }
    }
    spellings
}

/// What base64 makes of `text` for certain when it stands within more, so many bytes after a multiple of three.
fn within_base64(alphabet: &GeneralPurpose, before: usize, text: &str) -> String {
    let mut bytes = vec![0; before];
    bytes.extend_from_slice(text.as_bytes());
    // Without the characters that also hold bits of what stands before or behind.
    let certain = (before * 8).div_ceil(6)..bytes.len() * 8 / 6;
    alphabet.encode(&bytes).get(certain).unwrap_or_default().to_owned()
}

/// What a writer of JSON escapes although it need not: nothing, what is not ASCII, that and slashes, what is special in
/// HTML.
const JSON: [fn(char) -> bool; 4] =
    [|_| false, |c| !c.is_ascii(), |c| !c.is_ascii() || c == '/', |c| matches!(c, '<' | '>' | '&')];

/// As it stands in a string of JSON.
fn json(text: &str, escaped: &fn(char) -> bool) -> String {
    let mut json = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            '/' if escaped(c) => json.push_str("\\/"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            _ if c.is_control() || escaped(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
            _ => json.push(c),
        }
    }
    json
}

/// `%2F` as `%2f`, which some write.
fn lower_escapes(percent: &str) -> String {
    let mut lower = 0;
    let spelled = percent.chars().map(|c| {
        lower = if c == '%' { 2 } else { i32::max(lower - 1, -1) };
        if (0..2).contains(&lower) { c.to_ascii_lowercase() } else { c }
    });
    spelled.collect()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Vec<String> {
        spellings(&text.into()).iter().map(|spelling| spelling.expose_secret().to_owned()).collect()
    }

    #[test]
    fn each_spelling_once() {
        let expected = [
            "a?b/Z~>",
            "a%3fb%2fZ~%3e",
            "a%3Fb%2FZ~%3E",
            "a%3fb%2fZ%7e%3e",
            "a%3Fb%2FZ%7E%3E",
            "613F622F5A7E3E",
            "613f622f5a7e3e",
            "YT9iL1p+Pg",
            "YT9iL1p+P",
            "E/Yi9afj",
            "hP2IvWn4+",
            "YT9iL1p-Pg",
            "YT9iL1p-P",
            "E_Yi9afj",
            "hP2IvWn4-",
            "a?b\\/Z~>",
            "a?b/Z~\\u003e",
        ];
        assert_eq!(of("a?b/Z~>"), expected);
        assert_eq!(of("plain-x").len(), 9);
        assert_eq!(of(&"x".repeat(LONGEST + 1)).len(), 1);
        assert_eq!(of(""), [""]);
    }

    #[test]
    fn as_writers_of_json_escape_it() {
        let spelled = of("q\"b\\n\nö/<😀\u{7f}");
        for json in [
            r#"q\"b\\n\nö/<😀\u007f"#,
            r#"q\"b\\n\n\u00f6/<\ud83d\ude00\u007f"#,
            r#"q\"b\\n\n\u00f6\/<\ud83d\ude00\u007f"#,
            r#"q\"b\\n\nö/\u003c😀\u007f"#,
        ] {
            assert!(spelled.iter().any(|spelling| spelling == json), "{json}");
        }
    }

    proptest! {
        #[test]
        fn base64_of_more_holds_one_of_them(before in ".{0,6}", secret in "\\PC{6,30}", behind in ".{0,6}") {
            for text in [
                STANDARD.encode(format!("{before}{secret}{behind}")),
                URL_SAFE_NO_PAD.encode(format!("{before}{secret}{behind}")),
            ] {
                prop_assert!(of(&secret).iter().any(|spelling| spelling.len() >= 6 && text.contains(spelling)), "{}", text);
            }
        }
    }
}
