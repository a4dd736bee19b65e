//! Requests of the host itself, for what it needs before it can speak for a component: keys and tokens.
//!
//! Each has a connection of its own: there is one in minutes. Encrypted ones take the endpoint's proxy; what is plain
//! is on this machine or beside it, where clouds give out identities, and never goes through a proxy nor anywhere else.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::Error as Code;

use super::{
    call::Failure,
    dial::{Dialer, Place, Unencrypted, Via, late},
    grants::bracketed,
    http::wire,
    proxy::Proxy,
};

/// Of an answer: keys and tokens have a few KiB.
const ANSWER: usize = 256 << 10;

#[derive(Clone)]
pub(super) struct Outside {
    pub dialer: Dialer,
    pub tls: TlsConnector,
    pub proxy: Option<Arc<Proxy>>,
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outside")
    }
}

impl Outside {
    /// Sends a request to the absolute address in it, and reads the whole answer.
    pub async fn exchange(&self, request: Request<Bytes>, until: Instant) -> Result<Response<Bytes>, Failure> {
        let (mut parts, body) = request.into_parts();
        let unfit = || Failure::denied(format!("`{}` is not an address that can be asked", parts.uri));
        let host = parts.uri.host().ok_or_else(unfit)?.trim_matches(['[', ']']).to_owned();
        let tls = match parts.uri.scheme_str() {
            Some("https") => Some((self.tls.clone(), ServerName::try_from(host.clone()).map_err(|_| unfit())?)),
            Some("http") => None,
            _ => return Err(unfit()),
        };
        let usual = if tls.is_some() { 443 } else { 80 };
        let port = parts.uri.port_u16().unwrap_or(usual);
        let named = if port == usual { bracketed(&host) } else { format!("{}:{port}", bracketed(&host)) };
        let via = self.proxy.clone().filter(|_| tls.is_some()).map(Via::Tunnel);
        // Whatever is sent here is a secret, or is answered with one.
        let unencrypted = if tls.is_some() { Unencrypted::Anywhere } else { Unencrypted::Beside };
        let place = Place::Tcp { host, port, tls, unencrypted, via };
        let stream = self.dialer.dial(&place, until).await?;
        parts.headers.insert(header::HOST, HeaderValue::try_from(&named).map_err(|_| unfit())?);
        parts.uri = Uri::from(parts.uri.path_and_query().cloned().ok_or_else(unfit)?);
        let request = Request::from_parts(parts, Full::new(body));
        let exchange = async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| wire(&error, false))?;
            let asked = async {
                let response = sender.send_request(request).await.map_err(|error| wire(&error, false))?;
                let (parts, body) = response.into_parts();
                let body = Limited::new(body, ANSWER).collect().await.map_err(|error| {
                    Failure::unreachable(Code::HttpResponseIncomplete, format!("its answer cannot be read: {error}"))
                })?;
                Ok(Response::from_parts(parts, body.to_bytes()))
            };
            tokio::pin!(asked, connection);
            let mut driven = false;
            loop {
                tokio::select! {
                    answer = &mut asked => return answer,
                    // What goes wrong with it is told to who asked.
                    _ = &mut connection, if !driven => driven = true,
                }
            }
        };
        let answer = timeout_at(until, exchange).await.unwrap_or_else(|_| Err(late("the answer")));
        answer.map_err(|failure| Failure { reason: format!("`{named}`: {failure}"), ..failure })
    }
}
