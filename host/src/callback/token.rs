//! Tokens that a machine is given for its way back: which runner it is, signed. Nothing is stored.
//!
//! The key comes from the App's private key, so that every replica and every restart has the same, and a replaced
//! App key ends all tokens. Whether a token was used before is the runner's own record, not the token's.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::fleet::runner::RunnerName;

const KEY: &[u8] = b"pacer runner callback v1";
/// Longer than any name of a runner with its signature.
const LONGEST: usize = 256;

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Fetching the just-in-time configuration, once.
    Config,
    /// Saying how far the machine has come.
    Phase,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Phase => "phase",
        }
    }
}

/// Makes and checks tokens.
pub struct Tokens {
    key: [u8; 32],
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    pub fn new(private_key: &SecretString) -> Self {
        Self { key: mac(private_key.expose_secret().as_bytes(), KEY) }
    }

    /// A token of this runner's machine: `<runner>.<hex signature>`.
    pub fn issue(&self, purpose: Purpose, runner: &RunnerName) -> SecretString {
        format!("{runner}.{}", hex::encode(self.sign(purpose, runner.as_str()))).into()
    }

    /// The part of a token that must not be told: the rest is the runner's name.
    pub fn secret_part(token: &SecretString) -> SecretString {
        let token = token.expose_secret();
        token.rsplit_once('.').map_or(token, |(_, signature)| signature).into()
    }

    /// The runner a token speaks for, if it is one of ours and for this purpose.
    pub fn verify(&self, purpose: Purpose, token: &str) -> Option<RunnerName> {
        let (runner, signature) = token.rsplit_once('.').filter(|_| token.len() <= LONGEST)?;
        let signature = hex::decode(signature).ok()?;
        let right: bool = self.sign(purpose, runner).ct_eq(signature.as_slice()).into();
        right.then(|| RunnerName::new(runner))
    }

    fn sign(&self, purpose: Purpose, runner: &str) -> [u8; 32] {
        mac(&self.key, format!("{}\n{runner}", purpose.word()).as_bytes())
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_runner_one_purpose_and_one_key() {
        let tokens = Tokens::new(&"a key".into());
        let runner = RunnerName::new("pacer-small-a");
        let token = tokens.issue(Purpose::Config, &runner);
        let token = token.expose_secret();
        assert_eq!(tokens.verify(Purpose::Config, token), Some(runner));
        assert_eq!(tokens.verify(Purpose::Phase, token), None, "another purpose");
        assert_eq!(tokens.verify(Purpose::Config, &token.replace("small-a", "small-b")), None, "another runner");
        assert_eq!(Tokens::new(&"another".into()).verify(Purpose::Config, token), None, "another key");
        for broken in ["", ".", "pacer-small-a", "pacer-small-a.", &token[..token.len() - 2], &format!("{token}00")] {
            assert_eq!(tokens.verify(Purpose::Config, broken), None, "{broken}");
        }
        assert_eq!(format!("{tokens:?}"), "Tokens");
    }
}
