//! Forward proxies: a tunnel with `CONNECT` for what is encrypted or no HTTP, the whole address in the request line
//! for plain HTTP.
//!
//! Only what the configuration names for an endpoint; the environment's proxies are nobody's. Behind a proxy the name
//! of a target is looked up by the proxy, so its addresses cannot be judged here.

use std::pin::pin;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout_at};
use wasmtime_wasi_http::Error as Code;

use super::{
    call::Failure,
    dial::{Stream, late},
    grants::bracketed,
    http::wire,
};
use crate::config;

/// Of the head of a proxy's answer: a status, and a challenge at most.
const HEAD: usize = 16 << 10;

pub(super) struct Proxy {
    pub host: String,
    pub port: u16,
    authorization: Option<HeaderValue>,
}

impl Proxy {
    /// The reason never quotes the secret.
    pub fn new(proxy: &config::Proxy) -> Result<Self, &'static str> {
        let authorization = proxy.login.as_ref().map(|(username, password)| {
            let pair = config::basic(username, password);
            let mut value = HeaderValue::try_from(format!("Basic {}", pair.expose_secret()))
                .map_err(|_| "its proxy's name and password fit into no header")?;
            value.set_sensitive(true);
            Ok::<_, &'static str>(value)
        });
        Ok(Self { host: proxy.host.clone(), port: proxy.port, authorization: authorization.transpose()? })
    }

    /// Where it is, for people.
    pub fn text(&self) -> String {
        format!("http://{}:{}", bracketed(&self.host), self.port)
    }

    /// What it wants to see in a request for somebody else.
    pub fn authorize(&self, headers: &mut http::HeaderMap) {
        if let Some(value) = &self.authorization {
            headers.insert(header::PROXY_AUTHORIZATION, value.clone());
        }
    }

    /// That it did not let a request through, if its answer says so.
    pub fn refusal(&self, status: StatusCode) -> Option<Failure> {
        let text = self.text();
        let way_out = match (status, &self.authorization) {
            (StatusCode::PROXY_AUTHENTICATION_REQUIRED, None) => {
                "it wants to know who asks; write `username` and `password` into `proxy`"
            }
            (StatusCode::PROXY_AUTHENTICATION_REQUIRED, Some(_)) => {
                "it does not take `username` and `password` of `proxy`"
            }
            _ => return None,
        };
        Some(Failure::denied(format!("the proxy `{text}` answered {status}: {way_out}")))
    }

    /// Has it connect to `host`, and hands over what is then a connection to there.
    pub async fn tunnel(
        &self,
        stream: Box<dyn Stream>,
        host: &str,
        port: u16,
        until: Instant,
    ) -> Result<Box<dyn Stream>, Failure> {
        let there = format!("{}:{port}", bracketed(host));
        match timeout_at(until, self.ask(stream, &there)).await {
            Ok(tunnel) => tunnel,
            Err(_) => Err(late(&format!("the answer of the proxy `{}`", self.text()))),
        }
    }

    async fn ask(&self, stream: Box<dyn Stream>, there: &str) -> Result<Box<dyn Stream>, Failure> {
        let broke = |error: hyper::Error| {
            let failure = wire(&error, false);
            Failure { reason: format!("the proxy `{}`: {failure}", self.text()), ..failure }
        };
        let unfit = |_| Failure::denied(format!("`{there}` cannot be asked of a proxy"));
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(there.parse::<Uri>().map_err(unfit)?)
            .header(header::HOST, there)
            .body(Empty::<Bytes>::new())
            .map_err(|error| Failure::denied(error.to_string()))?;
        self.authorize(request.headers_mut());
        let (mut sender, connection) =
            http1::Builder::new().max_buf_size(HEAD).handshake(TokioIo::new(stream)).await.map_err(broke)?;
        let asked = async move {
            let response = sender.send_request(request).await.map_err(broke)?;
            let status = response.status();
            if !status.is_success() {
                return Err(self.not_connected(status, there));
            }
            hyper::upgrade::on(response).await.map_err(broke)
        };
        let (mut asked, mut connection) = (pin!(asked), pin!(connection.with_upgrades()));
        let mut driven = false;
        let tunnel = loop {
            tokio::select! {
                tunnel = &mut asked => break tunnel?,
                // What goes wrong with it is told to who asked.
                _ = &mut connection, if !driven => driven = true,
            }
        };
        Ok(Box::new(TokioIo::new(tunnel)))
    }

    fn not_connected(&self, status: StatusCode, there: &str) -> Failure {
        if let Some(failure) = self.refusal(status) {
            return failure;
        }
        let text = self.text();
        if status.is_client_error() {
            let way_out = "its operator decides where it leads";
            return Failure::denied(format!("the proxy `{text}` does not lead to `{there}`: {status}; {way_out}"));
        }
        Failure::unreachable(
            Code::DestinationUnavailable,
            format!("the proxy `{text}` could not connect to `{there}`: {status}"),
        )
    }
}
