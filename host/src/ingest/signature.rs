//! Whether a delivery is GitHub's: HMAC-SHA256 over the raw bytes, before anything looks into them.
//!
//! Every live secret is tried to the end, in constant time, so the time taken tells neither how much of a signature
//! was right nor which secret it was made with. SHA-1 is never accepted.

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::Choice;

const SHA256: &str = "x-hub-signature-256";
const SHA1: &str = "x-hub-signature";

/// The secrets that verify a delivery: during a rotation, the old one and the new one.
pub struct WebhookSecrets(Vec<Hmac<Sha256>>);

impl std::fmt::Debug for WebhookSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebhookSecrets({} live)", self.0.len())
    }
}

impl WebhookSecrets {
    /// An empty secret is left out: anybody could sign with it.
    pub fn new(secrets: &[SecretString]) -> Self {
        let keyed = secrets.iter().map(|secret| secret.expose_secret().as_bytes()).filter(|secret| !secret.is_empty());
        Self(keyed.filter_map(|secret| Hmac::new_from_slice(secret).ok()).collect())
    }

    /// Starts to hash a body.
    pub(super) fn verifier(&self) -> Verifier {
        Verifier(self.0.clone())
    }
}

/// Why a delivery is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error(
        "`X-Hub-Signature-256` is missing: set a webhook secret in the App's settings on GitHub, the same as `github.webhook_secret`"
    )]
    Missing,
    #[error(
        "`X-Hub-Signature-256` is missing and `X-Hub-Signature` (SHA-1) is not accepted: a proxy may have dropped the header"
    )]
    Sha1Only,
    #[error("`X-Hub-Signature-256` is malformed: expected `sha256=` and 64 hexadecimal digits")]
    Malformed,
    #[error(
        "the signature does not fit: the webhook secret on GitHub and `github.webhook_secret` differ, or something changed the body on its way"
    )]
    Wrong,
}

/// The signature that a delivery claims.
#[derive(Debug)]
pub(super) struct Claimed([u8; 32]);

impl Claimed {
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, SignatureError> {
        let mut values = headers.get_all(SHA256).iter();
        let Some(value) = values.next() else {
            return Err(if headers.contains_key(SHA1) { SignatureError::Sha1Only } else { SignatureError::Missing });
        };
        let digits = value.as_bytes().strip_prefix(b"sha256=").ok_or(SignatureError::Malformed)?;
        let mut claimed = [0; 32];
        hex::decode_to_slice(digits, &mut claimed).map_err(|_| SignatureError::Malformed)?;
        match values.next() {
            Some(_) => Err(SignatureError::Malformed),
            None => Ok(Self(claimed)),
        }
    }
}

/// Hashes a body as it comes in, with every live secret.
pub(super) struct Verifier(Vec<Hmac<Sha256>>);

impl Verifier {
    pub fn update(&mut self, bytes: &[u8]) {
        for mac in &mut self.0 {
            mac.update(bytes);
        }
    }

    pub fn finish(self, claimed: &Claimed) -> Result<(), SignatureError> {
        let mut fits = Choice::from(0);
        for mac in self.0 {
            fits |= Choice::from(u8::from(mac.verify_slice(&claimed.0).is_ok()));
        }
        if bool::from(fits) { Ok(()) } else { Err(SignatureError::Wrong) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verify(secrets: &[&str], body: &[u8], header: &str) -> Result<(), SignatureError> {
        let secrets: Vec<_> = secrets.iter().map(|secret| SecretString::from(*secret)).collect();
        let mut headers = HeaderMap::new();
        headers.insert(SHA256, header.parse().unwrap());
        let claimed = Claimed::from_headers(&headers)?;
        let mut verifier = WebhookSecrets::new(&secrets).verifier();
        for part in body.chunks(3) {
            verifier.update(part);
        }
        verifier.finish(&claimed)
    }

    const SECRET: &str = "It's a Secret to Everybody";
    const OFFICIAL: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn githubs_own_example_verifies_with_any_live_secret() {
        assert_eq!(verify(&[SECRET], b"Hello, World!", OFFICIAL), Ok(()));
        assert_eq!(verify(&["new", SECRET], b"Hello, World!", OFFICIAL), Ok(()));
        assert_eq!(verify(&[SECRET, "new"], b"Hello, World!", OFFICIAL), Ok(()));
        assert_eq!(verify(&["new"], b"Hello, World!", OFFICIAL), Err(SignatureError::Wrong));
        assert_eq!(verify(&[SECRET], b"Hello, World?", OFFICIAL), Err(SignatureError::Wrong));
    }

    #[test]
    fn without_a_secret_nothing_verifies() {
        assert_eq!(verify(&[], b"Hello, World!", OFFICIAL), Err(SignatureError::Wrong));
        let of_empty = "sha256=b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad";
        assert_eq!(verify(&[""], b"", of_empty), Err(SignatureError::Wrong));
    }

    #[test]
    fn every_other_form_is_malformed() {
        for header in ["", "sha256=", "757107ea", &OFFICIAL[7..], "sha1=abc", &OFFICIAL[..70], &format!("{OFFICIAL}0")]
        {
            assert_eq!(verify(&[SECRET], b"Hello, World!", header), Err(SignatureError::Malformed), "{header}");
        }
    }

    proptest! {
        #[test]
        fn one_changed_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 0..200), bit in 0usize..256) {
            let mut mac = Hmac::<Sha256>::new_from_slice(b"key").unwrap();
            mac.update(&body);
            let mut tag: [u8; 32] = mac.finalize().into_bytes().into();
            prop_assert_eq!(verify(&["key"], &body, &format!("sha256={}", hex::encode(tag))), Ok(()));
            tag[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify(&["key"], &body, &format!("sha256={}", hex::encode(tag))), Err(SignatureError::Wrong));
        }
    }
}
