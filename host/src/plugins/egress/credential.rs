//! What the host adds to a request so that a component never holds a key.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::timeout_at;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wasmtime_wasi_http::{Error as Code, WasiBody};

use super::{
    super::held,
    aws::Signer,
    call::{Call, Failure},
    dial::Dialer,
    fresh::{Fetched, Fresh, Missing, Owner},
    oauth::Bearer,
    outside::Outside,
    proxy::Proxy,
    tls,
};
use crate::{
    clock::SharedClock,
    config::{self, Credential, Endpoint},
};

/// Fields of one connection alone; a component has no say in them.
const OF_A_CONNECTION: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// What proves who is asking.
pub(super) enum Proof {
    /// The same for every request.
    Field {
        name: HeaderName,
        value: HeaderValue,
    },
    Token(Bearer),
    Signature(Signer),
}

/// What a proof may use that has to be fetched.
pub(super) struct Means {
    pub owner: Owner,
    pub clock: SharedClock,
    pub dialer: Dialer,
    pub proxy: Option<Arc<Proxy>>,
    pub tasks: TaskTracker,
    pub closing: CancellationToken,
}

impl Means {
    fn outside(&self, endpoint: &Endpoint) -> Result<Outside, String> {
        Ok(Outside { dialer: self.dialer.clone(), tls: tls::anonymous(endpoint)?, proxy: self.proxy.clone() })
    }

    fn fresh<T: Send + Sync + 'static>(
        &self,
        fetch: Box<dyn Fn() -> BoxFuture<'static, Result<Fetched<T>, Missing>> + Send + Sync>,
    ) -> Fresh<T> {
        Fresh::new(fetch, self.owner.clone(), self.clock.clone(), self.tasks.clone(), self.closing.clone())
    }
}

impl Proof {
    /// The reason never quotes the secret.
    pub fn new(endpoint: &Endpoint, means: &Means) -> Result<Option<Self>, String> {
        let Some(credential) = &endpoint.credential else { return Ok(None) };
        Ok(Some(match credential {
            Credential::Bearer(token) => field(header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()))?,
            Credential::Basic { username, password } => {
                let pair = config::basic(username, password);
                field(header::AUTHORIZATION, format!("Basic {}", pair.expose_secret()))?
            }
            Credential::Header { name, value } => {
                let name = HeaderName::try_from(name.as_str()).map_err(|_| "the name of its header is malformed")?;
                field(name, value.expose_secret().to_owned())?
            }
            Credential::AwsSigV4(aws) => {
                let outside = means.outside(endpoint)?;
                Self::Signature(Signer::new(aws, means.clock.clone(), |fetch| means.fresh(fetch), outside))
            }
            Credential::OAuth2(oauth) => {
                let outside = means.outside(endpoint)?;
                Self::Token(Bearer::new(oauth, means.clock.clone(), |fetch| means.fresh(fetch), outside)?)
            }
        }))
    }

    /// The secrets that were fetched for it.
    pub fn known(&self) -> Vec<SecretString> {
        match self {
            Self::Field { .. } => Vec::new(),
            Self::Token(token) => token.known(),
            Self::Signature(signer) => signer.known(),
        }
    }

    /// An endpoint did not take what was in `Authorization`.
    pub fn refused(&self, proved: Option<&HeaderValue>) {
        match self {
            // Each signature is made anew, and what is the same for every request cannot be had anew.
            Self::Field { .. } | Self::Signature(_) => {}
            Self::Token(token) => token.refused(proved),
        }
    }

    /// Proves who sends a request, over whatever the component said about that.
    pub async fn add(&self, parts: &mut Parts, body: WasiBody, call: &Call) -> Result<WasiBody, Failure> {
        parts.headers.remove(header::AUTHORIZATION);
        parts.headers.remove(header::COOKIE);
        match self {
            Self::Field { name, value } => {
                parts.headers.insert(name.clone(), value.clone());
                Ok(body)
            }
            Self::Token(token) => {
                parts.headers.insert(header::AUTHORIZATION, token.value(call).await?);
                Ok(body)
            }
            Self::Signature(signer) => {
                let body = whole(body, call).await?;
                // What is sent is what was held, so its length is known.
                parts.headers.remove(header::CONTENT_LENGTH);
                signer.sign(parts, &body, call).await?;
                Ok(Full::new(body).map_err(Code::from).boxed_unsync())
            }
        }
    }
}

fn field(name: HeaderName, value: String) -> Result<Proof, &'static str> {
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| "its secret holds characters that no header can hold, such as a line end")?;
    value.set_sensitive(true);
    Ok(Proof::Field { name, value })
}

/// All of a body.
async fn whole(body: WasiBody, call: &Call) -> Result<Bytes, Failure> {
    let limit = held::SIGNED_BODY.min(call.limits.request_size);
    let read = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    let late = |_| Failure::unreachable(Code::HttpRequestBodySize(None), "the body of the request did not end");
    let read = timeout_at(call.deadline, read).await.map_err(late)?;
    read.map(|body| body.to_bytes()).map_err(|error| {
        if error.is::<LengthLimitError>() && limit < call.limits.request_size {
            let reason =
                format!("a request that is signed is held in memory, and its body has more than {limit} bytes");
            return Failure::limit(Code::HttpRequestBodySize(Some(limit)), reason);
        }
        if error.is::<LengthLimitError>() {
            return call.request_too_large();
        }
        Failure::unreachable(Code::HttpRequestBodySize(None), "the component broke off the body of the request")
    })
}

/// Takes out what is not a component's to say.
pub(super) fn undress(headers: &mut HeaderMap, host: &HeaderValue) {
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
    let proxy: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with("proxy-")).cloned().collect();
    for name in proxy {
        headers.remove(name);
    }
    headers.insert(header::HOST, host.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_never_shows_its_value_and_refuses_what_no_header_holds() {
        let proof = field(header::AUTHORIZATION, "Bearer t0ken".into()).map_err(str::to_owned).unwrap();
        let Proof::Field { value, .. } = proof else { panic!("it is a field") };
        assert!(!format!("{value:?}").contains("t0ken"), "{value:?}");
        let reason = field(header::AUTHORIZATION, "Bearer two\nlines".into()).err().unwrap();
        assert!(!reason.contains("lines,") && reason.contains("line end"), "{reason}");
    }
}
