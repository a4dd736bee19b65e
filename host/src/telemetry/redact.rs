//! The writer between the log and stderr. The last net under secrets: they are kept out of messages where those are
//! made; what slips through is blanked out here.

use std::{
    io::{self, Write},
    sync::Arc,
};

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::fmt::MakeWriter;

use crate::spelling::spellings;

const BLANK: &str = "[hidden]";
/// Shorter texts would blank out ordinary words.
const MIN_LENGTH: usize = 6;

/// Writes to stderr what is left of a line without the secrets. Clones share what they hide.
#[derive(Clone, Default)]
pub struct Redactor {
    secrets: Arc<ArcSwap<Vec<SecretString>>>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

impl Redactor {
    /// Hides a secret in all of its spellings; of one of several lines, such as a key, also each line as it is.
    pub fn hide(&self, secret: &SecretString) {
        let lines: Vec<_> = secret.expose_secret().lines().filter(|line| line.len() >= MIN_LENGTH).collect();
        let long_enough = |form: &SecretString| form.expose_secret().len() >= MIN_LENGTH;
        let encoded: Vec<_> = spellings(secret).into_iter().skip(1).filter(long_enough).collect();
        self.secrets.rcu(|known| {
            let mut known = Vec::clone(known);
            for line in &lines {
                // Also as it looks inside JSON and inside `Debug`.
                let escaped = line.replace('\\', "\\\\").replace('"', "\\\"");
                for form in [escaped.as_str(), line] {
                    if !known.iter().any(|secret| secret.expose_secret() == form) {
                        known.push(form.to_owned().into());
                    }
                }
            }
            for form in &encoded {
                if !known.iter().any(|secret| secret.expose_secret() == form.expose_secret()) {
                    known.push(form.clone());
                }
            }
            known
        });
    }

    fn clean(&self, text: &str) -> Option<String> {
        let secrets = self.secrets.load();
        let mut cleaned: Option<String> = None;
        for secret in secrets.iter() {
            let secret = secret.expose_secret();
            let current = cleaned.as_deref().unwrap_or(text);
            if current.contains(secret) {
                cleaned = Some(current.replace(secret, BLANK));
            }
        }
        cleaned
    }
}

impl Write for Redactor {
    /// The formatter writes a whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(line).ok().and_then(|text| self.clean(text)) {
            Some(cleaned) => io::stderr().write_all(cleaned.as_bytes())?,
            None => io::stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Redactor {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_secrets_are_blanked_out() {
        let redactor = Redactor::default();
        redactor.hide(&"pass/word+with=all".into());
        for encoded in [
            "cGFzcy93b3JkK3dpdGg9YWxs",
            "pass%2Fword%2Bwith%3Dall",
            "706173732f776f72642b776974683d616c6c",
            r"pass\/word+with=all",
        ] {
            assert_eq!(redactor.clean(&format!("x {encoded} y")).as_deref(), Some("x [hidden] y"), "{encoded}");
        }
    }

    #[test]
    fn secrets_are_blanked_out_in_every_form() {
        let redactor = Redactor::default();
        redactor.hide(&"first-line-of-key\nsecond\"line\nab".to_owned().into());
        assert_eq!(redactor.clean("a first-line-of-key b").unwrap(), "a [hidden] b");
        assert_eq!(redactor.clean(r#"{"x":"second\"line"}"#).unwrap(), r#"{"x":"[hidden]"}"#);
        assert_eq!(redactor.clean("ab is an ordinary text"), None);
    }
}
