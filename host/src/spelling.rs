//! The spellings in which a secret turns up: as it is, and as the usual encodings write the whole of it.
//!
//! What encodes a secret together with something else, at an odd offset, is not among them: there is no end to that.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
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
    let percent = utf8_percent_encode(text, UNRESERVED).to_string();
    let hex = hex::encode(text);
    // Without padding they are found with padding as well.
    let others = [
        STANDARD_NO_PAD.encode(text),
        URL_SAFE_NO_PAD.encode(text),
        lower_escapes(&percent),
        percent,
        hex.to_uppercase(),
        hex,
    ];
    for other in others {
        if spellings.iter().all(|known| known.expose_secret() != other) {
            spellings.push(other.into());
        }
    }
    spellings
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
    use super::*;

    #[test]
    fn each_spelling_once() {
        let of = |text: &str| -> Vec<String> {
            spellings(&text.into()).iter().map(|spelling| spelling.expose_secret().to_owned()).collect()
        };
        let expected = [
            "a?b/Z~>",
            "YT9iL1p+Pg",
            "YT9iL1p-Pg",
            "a%3fb%2fZ~%3e",
            "a%3Fb%2FZ~%3E",
            "613F622F5A7E3E",
            "613f622f5a7e3e",
        ];
        assert_eq!(of("a?b/Z~>"), expected);
        assert_eq!(of("plain"), ["plain", "cGxhaW4", "706C61696E", "706c61696e"]);
        assert_eq!(of(&"x".repeat(LONGEST + 1)).len(), 1);
    }
}
