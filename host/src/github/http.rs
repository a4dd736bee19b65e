//! The wire: one HTTP client with every bound set, and answers as plain bytes.
//!
//! Nothing but this file knows reqwest. It follows no redirect by itself, reads no more of a body than its cap, and
//! has no `Debug` that could show a token or an answer. What an answer means is decided in `call`.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
pub(super) use reqwest::Url;
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::model::{GitHubError, GitHubErrorKind};

/// GitHub's version of the REST API that the requests and answers here are written for.
const API_VERSION: &str = "2022-11-28";
/// GitHub answers most calls in well under a second and gives up itself after 10 s; the rest is for the way.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A page of 100 jobs with their steps is about 1 MiB; the payload of a delivery is at most 25 MiB and its detail a
/// little more.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// The HTTP client and the origin it may talk to.
pub(super) struct Http {
    client: reqwest::Client,
    /// Ends in `/`.
    base: Url,
}

/// A request, complete but for the origin.
pub(super) struct Request<'a> {
    pub method: Method,
    pub url: Url,
    /// A token or JWT.
    pub bearer: &'a str,
    pub body: Option<&'a serde_json::Value>,
}

/// Deliberately without `Debug`: the body of some answers is a secret.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer. The text names no header and no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no connection could be made")]
    Connect,
    #[error("its name cannot be resolved; check `github.api_url` and this machine's DNS")]
    Name,
    #[error(
        "its certificate is not trusted; if it is of a CA of your own, set `github.ca` to a PEM file of that CA's certificate"
    )]
    Untrusted,
    #[error("its certificate is for another name; check `github.api_url`")]
    OtherName,
    #[error("its certificate has expired or is not valid yet; renew it there, or set this machine's clock right")]
    Expired,
    #[error("no TLS connection could be agreed on; check that `github.api_url` is where GitHub's API is served")]
    Tls,
    #[error("no answer in time")]
    Timeout,
    #[error("the answer is larger than {} MiB", MAX_ANSWER / 1024 / 1024)]
    TooLarge,
    #[error("the connection broke before the answer was complete")]
    Broken,
}

fn unusable(message: String) -> GitHubError {
    GitHubError { kind: GitHubErrorKind::Rejected, message, retry_after: None }
}

impl Http {
    pub fn new(api_url: &str, ca: Option<&[u8]>, timeout: Duration) -> Result<Self, GitHubError> {
        let base: Url = format!("{}/", api_url.trim_end_matches('/'))
            .parse()
            .map_err(|reason| unusable(format!("`github.api_url` `{api_url}` is not a URL: {reason}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() || !base.username().is_empty() {
            return Err(unusable(
                "`github.api_url` must look like `https://api.github.com` or `https://HOST/api/v3`, without a user"
                    .into(),
            ));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/vnd.github+json"));
        headers.insert(HeaderName::from_static("x-github-api-version"), HeaderValue::from_static(API_VERSION));
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("pacer/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout)
            .tls_backend_preconfigured(trust(base.scheme() == "https", ca)?);
        if is_loopback(&base) {
            // A proxy of the environment is for the way out, not for this machine.
            builder = builder.no_proxy();
        }
        let client =
            builder.build().map_err(|reason| unusable(format!("the HTTP client cannot be set up: {reason}")))?;
        Ok(Self { client, base })
    }

    /// The URL of a path below the API's root. `path` has no leading slash, and its parts are checked names or numbers.
    pub fn url(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Where `location` leads from `from`, if that is the same origin: a token goes nowhere else.
    pub fn same_origin(&self, from: &Url, location: &str) -> Option<Url> {
        from.join(location).ok().filter(|url| url.origin() == self.base.origin() && url.username().is_empty())
    }

    /// Whether this is GitHub's own service, whose limits are known, and not an Enterprise Server.
    pub fn is_github_com(&self) -> bool {
        self.base.host_str().is_some_and(|host| host == "api.github.com" || host.ends_with(".ghe.com"))
    }

    pub fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    pub async fn send(&self, request: Request<'_>) -> Result<Answer, NoAnswer> {
        let mut outgoing = self.client.request(request.method, request.url).bearer_auth(request.bearer);
        if let Some(body) = request.body {
            outgoing = outgoing.json(body);
        }
        let mut answer = outgoing.send().await.map_err(|error| no_answer(&error))?;
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| no_answer(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(NoAnswer::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, headers, body: body.into() })
    }
}

fn no_answer(error: &reqwest::Error) -> NoAnswer {
    if error.is_timeout() {
        NoAnswer::Timeout
    } else if error.is_connect() {
        no_connection(error)
    } else {
        NoAnswer::Broken
    }
}

fn no_connection(error: &reqwest::Error) -> NoAnswer {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return no_trust(tls);
        }
        // The connector's own error for names; it has no type that could be asked for.
        if cause.to_string().starts_with("dns error") {
            return NoAnswer::Name;
        }
        // What an I/O error wraps is not among its sources.
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        next = wrapped.map(|wrapped| wrapped as &dyn std::error::Error).or_else(|| cause.source());
    }
    NoAnswer::Connect
}

fn no_trust(error: &rustls::Error) -> NoAnswer {
    use rustls::CertificateError as Fault;
    let rustls::Error::InvalidCertificate(fault) = error else { return NoAnswer::Tls };
    if matches!(fault, Fault::NotValidForName | Fault::NotValidForNameContext { .. }) {
        NoAnswer::OtherName
    } else if matches!(
        fault,
        Fault::Expired | Fault::ExpiredContext { .. } | Fault::NotValidYet | Fault::NotValidYetContext { .. }
    ) {
        NoAnswer::Expired
    } else {
        NoAnswer::Untrusted
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The machine's roots and the operator's. Reading the machine's takes memory and time, so not for plain HTTP.
fn trust(tls: bool, ca: Option<&[u8]>) -> Result<rustls::ClientConfig, GitHubError> {
    let mut roots = rustls::RootCertStore::empty();
    if tls {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(pem) = ca {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate =
                certificate.map_err(|reason| unusable(format!("`github.ca` is not a PEM file: {reason}")))?;
            roots
                .add(certificate)
                .map_err(|reason| unusable(format!("`github.ca` holds an unusable certificate: {reason}")))?;
        }
        if roots.len() == before {
            return Err(unusable("`github.ca` holds no certificate; it must be a PEM file of one or more".into()));
        }
    }
    if tls && roots.is_empty() {
        return Err(unusable(
            "no root certificates are installed, so GitHub cannot be trusted; install `ca-certificates` or set `github.ca`"
                .into(),
        ));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|reason| unusable(format!("TLS cannot be set up: {reason}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
