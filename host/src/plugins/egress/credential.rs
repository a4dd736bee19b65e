//! What the host adds to a request so that a component never holds a key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use secrecy::ExposeSecret as _;

use crate::config::Credential;

/// Fields of one connection alone; a component has no say in them.
const OF_A_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// A header field that proves who is asking.
pub(super) struct Proof {
    name: HeaderName,
    value: HeaderValue,
}

impl Proof {
    /// The reason never quotes the secret.
    pub fn new(credential: &Credential) -> Result<Self, &'static str> {
        let (name, value) = match credential {
            Credential::Bearer(token) => {
                (header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {}", token.expose_secret())))
            }
            Credential::Basic { username, password } => {
                let pair = STANDARD.encode(format!("{username}:{}", password.expose_secret()));
                (header::AUTHORIZATION, HeaderValue::try_from(format!("Basic {pair}")))
            }
            Credential::Header { name, value } => (
                HeaderName::try_from(name.as_str()).map_err(|_| "the name of its header is malformed")?,
                HeaderValue::try_from(value.expose_secret()),
            ),
        };
        let mut value = value.map_err(|_| "its secret holds characters that no header can hold, such as a line end")?;
        value.set_sensitive(true);
        Ok(Self { name, value })
    }
}

/// Takes out what is not a component's to say, and puts in what the host says for it.
pub(super) fn dress(headers: &mut HeaderMap, host: &HeaderValue, proof: Option<&Proof>) {
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
    let proxy: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("proxy-")).cloned().collect();
    for name in proxy {
        headers.remove(name);
    }
    headers.insert(header::HOST, host.clone());
    if let Some(proof) = proof {
        headers.remove(header::AUTHORIZATION);
        headers.remove(header::COOKIE);
        headers.insert(proof.name.clone(), proof.value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_prove_it() {
        let check = |credential: Credential, name: &str, value: &str| {
            let proof = Proof::new(&credential).map_err(str::to_owned).unwrap();
            assert_eq!((proof.name.as_str(), proof.value.to_str().unwrap()), (name, value));
            assert!(!format!("{:?}", proof.value).contains(value), "{:?}", proof.value);
        };
        check(Credential::Bearer("t0ken".into()), "authorization", "Bearer t0ken");
        let basic = Credential::Basic { username: "me".into(), password: "pw".into() };
        check(basic, "authorization", "Basic bWU6cHc=");
        check(Credential::Header { name: "X-Key".into(), value: "k".into() }, "x-key", "k");
        let reason = Proof::new(&Credential::Bearer("two\nlines".into())).err().unwrap();
        assert!(!reason.contains("lines,") && reason.contains("line end"), "{reason}");
    }
}
