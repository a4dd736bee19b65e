//! The way out of the sandbox: HTTP and byte streams to granted endpoints, by name.
//!
//! A component names an endpoint; where it is, how it is trusted and what proves who asks is the host's. In order:
//! the name is checked, the component's own proof of identity is dropped, timeouts are cut to the call's deadline,
//! the name of the target is looked up, its addresses are judged, the connection goes to a judged address, TLS checks
//! the name, the credential is added. Not here: what a component may ask of an endpoint. Who is granted an engine's
//! socket can do whatever that engine does.

mod address;
mod aws;
mod body;
mod call;
mod credential;
mod dial;
mod fresh;
mod grants;
mod http;
mod oauth;
mod outside;
mod pool;
mod proxy;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use ::http::{HeaderValue, Request, Response, uri::PathAndQuery};
use rustls::pki_types::ServerName;
use secrecy::SecretString;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
    time::Instant,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream,
    pipe::{AsyncReadStream, AsyncWriteStream},
};
use wasmtime_wasi_http::{Error as Code, RequestOptions, WasiBody, WasiHttpHooks};

use self::{
    call::{Call, Failure},
    credential::{Means, Proof},
    dial::{CONNECT, Dialer, Place, Stream, Unencrypted, Via},
    fresh::Owner,
    grants::Refused,
    pool::Pool,
    proxy::Proxy,
};
use super::{CallLog, ErrorKind, PluginError, held, redact::Patterns};
use crate::{
    clock::SharedClock,
    config::{self, Credential, Endpoint, EndpointTarget, PluginLimits},
    routing::{BackendName, EndpointName, shown},
};

/// What a component may write into a stream before it has to wait.
const STREAM_BUFFER: usize = 32 << 10;

/// The endpoints of one backend; shared by its calls. Its connections close when it is dropped.
pub(super) struct Egress {
    backend: BackendName,
    limits: PluginLimits,
    routes: BTreeMap<EndpointName, Arc<Route>>,
    /// What is put on the wire for the backend, and its component must not be able to repeat.
    secrets: Vec<SecretString>,
    /// The same with what was fetched, ready to be searched for.
    patterns: Mutex<Arc<Patterns>>,
    dialer: Dialer,
    tasks: TaskTracker,
    closing: CancellationToken,
    _close: DropGuard,
}

/// An endpoint that is granted, for people: without secrets.
pub(super) struct Granted<'r> {
    pub name: &'r EndpointName,
    /// Where it is.
    pub target: &'r str,
    /// What proves who is asking, each by its kind.
    pub credentials: &'r [&'static str],
    /// Where the proxy on the way is.
    pub proxy: Option<String>,
}

/// How one endpoint is reached.
struct Route {
    name: EndpointName,
    /// For people.
    target: String,
    protocol: Protocol,
    place: Place,
    base_path: String,
    host: HeaderValue,
    proof: Option<Proof>,
    /// How it proves who it is, for people.
    credentials: Vec<&'static str>,
    proxy: Option<Arc<Proxy>>,
    pool: Arc<Pool>,
}

/// What may be spoken with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Stream,
    /// A unix socket speaks whatever its server does.
    Any,
}

impl Egress {
    pub fn new(backend: &config::Backend, clock: &SharedClock, tasks: TaskTracker) -> Result<Self, PluginError> {
        let closing = CancellationToken::new();
        let dialer = Dialer::new(tasks.clone());
        let mut routes = BTreeMap::new();
        for (name, endpoint) in &backend.endpoints {
            let means = Means {
                owner: Owner { backend: backend.name.clone(), endpoint: name.clone() },
                clock: clock.clone(),
                dialer: dialer.clone(),
                proxy: None,
                tasks: tasks.clone(),
                closing: closing.clone(),
            };
            let route = Route::new(name, endpoint, means).map_err(|reason| PluginError::Endpoint {
                backend: backend.name.clone(),
                endpoint: name.clone(),
                reason,
            })?;
            routes.insert(name.clone(), Arc::new(route));
        }
        let secrets: Vec<SecretString> = backend.endpoints.values().flat_map(Endpoint::secrets).collect();
        Ok(Self {
            backend: backend.name.clone(),
            limits: backend.limits.clone(),
            routes,
            patterns: Mutex::new(Arc::new(Patterns::new(secrets.iter().cloned()))),
            secrets,
            dialer,
            tasks,
            _close: closing.clone().drop_guard(),
            closing,
        })
    }

    /// For a backend whose endpoints cannot be used: it reaches none.
    pub fn nothing(backend: &config::Backend, tasks: TaskTracker) -> Self {
        let closing = CancellationToken::new();
        Self {
            backend: backend.name.clone(),
            limits: backend.limits.clone(),
            routes: BTreeMap::new(),
            secrets: Vec::new(),
            patterns: Mutex::default(),
            dialer: Dialer::new(tasks.clone()),
            tasks,
            _close: closing.clone().drop_guard(),
            closing,
        }
    }

    /// What is granted, in the order of the names.
    pub fn grants(&self) -> impl Iterator<Item = Granted<'_>> {
        self.routes.values().map(|route| Granted {
            name: &route.name,
            target: &route.target,
            credentials: &route.credentials,
            proxy: route.proxy.as_ref().map(|proxy| proxy.text()),
        })
    }

    /// What no call may repeat: what was fetched too, since an endpoint may have repeated it in another call, and the
    /// component kept it.
    pub fn secrets(&self) -> Arc<Patterns> {
        let proofs = self.routes.values().filter_map(|route| route.proof.as_ref());
        let fetched: Vec<SecretString> = proofs.flat_map(Proof::known).collect();
        let mut patterns = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        if !fetched.iter().all(|secret| patterns.has(secret)) {
            *patterns = Arc::new(Patterns::new(self.secrets.iter().cloned().chain(fetched)));
        }
        patterns.clone()
    }

    fn route(&self, name: Result<EndpointName, Refused>) -> Result<&Arc<Route>, Refused> {
        let name = name?;
        self.routes.get(&name).ok_or(Refused::NotGranted(name))
    }
}

impl Route {
    fn new(name: &EndpointName, endpoint: &Endpoint, mut means: Means) -> Result<Self, String> {
        let proxy = endpoint.proxy.as_ref().map(Proxy::new).transpose()?.map(Arc::new);
        means.proxy = proxy.clone();
        let proof = Proof::new(endpoint, &means)?;
        let tcp = |tls: bool, host: &str, port: u16, protocol: &[u8]| {
            let server = ServerName::try_from(host.to_owned()).map_err(|_| "its host is not a name".to_owned());
            let tls = if tls { Some((tls::connector(endpoint, protocol)?, server?)) } else { None };
            let clear = proof.is_some() && tls.is_none();
            let unencrypted = if clear { Unencrypted::Here } else { Unencrypted::Anywhere };
            let via = proxy.clone().map(|proxy| match (&endpoint.target, &tls) {
                (EndpointTarget::Http { .. }, None) => Via::Forward(proxy),
                _ => Via::Tunnel(proxy),
            });
            Ok::<_, String>(Place::Tcp { host: host.to_owned(), port, tls, unencrypted, via })
        };
        let (protocol, place, base_path) = match &endpoint.target {
            EndpointTarget::Unix(path) => (Protocol::Any, Place::Unix(path.clone()), String::new()),
            EndpointTarget::Http { tls, host, port, base_path } => {
                (Protocol::Http, tcp(*tls, host, *port, b"http/1.1")?, base_path.clone())
            }
            EndpointTarget::Stream { tls, host, port } => {
                (Protocol::Stream, tcp(*tls, host, *port, b"")?, String::new())
            }
        };
        PathAndQuery::try_from(format!("{base_path}/")).map_err(|_| "the path in its address is malformed")?;
        let host = HeaderValue::try_from(grants::host_text(&endpoint.target)).map_err(|_| "its host is malformed")?;
        let target = grants::target_text(&endpoint.target);
        let certificate = endpoint.identity.as_ref().map(|_| "client certificate");
        let credentials = endpoint.credential.iter().map(Credential::kind).chain(certificate).collect();
        let pool = Pool::new(means.tasks, means.closing);
        Ok(Self { name: name.clone(), target, protocol, place, base_path, host, proof, credentials, proxy, pool })
    }

    /// The proxy that is told with each request where that goes.
    fn forwarder(&self) -> Option<&Proxy> {
        match &self.place {
            Place::Tcp { via: Some(Via::Forward(proxy)), .. } => Some(proxy),
            Place::Tcp { via: Some(Via::Tunnel(_)) | None, .. } | Place::Unix(_) => None,
        }
    }

    fn tell(&self, call: &Call, failure: &Failure) {
        call.tell(self.name.as_str(), &self.target, failure);
    }
}

/// The egress of one call.
pub(super) struct CallEgress {
    egress: Arc<Egress>,
    call: Arc<Call>,
}

/// Why a stream was not opened.
#[derive(Debug)]
pub(super) struct OpenError {
    pub kind: ErrorKind,
    pub message: String,
}

impl CallEgress {
    pub fn new(egress: Arc<Egress>, deadline: Instant, log: Arc<CallLog>) -> Self {
        let call = Call::new(egress.backend.clone(), egress.limits.clone(), deadline, log);
        Self { egress, call }
    }

    /// Whether anything was asked of an endpoint.
    pub fn reached_out(&self) -> bool {
        self.call.reached_out()
    }

    /// Opens a byte stream for a protocol that is not HTTP.
    pub async fn open(&mut self, endpoint: &str) -> Result<(DynInputStream, DynOutputStream), OpenError> {
        let stream = self.connect(endpoint).await.map_err(|failure| {
            let kind = failure.kind();
            OpenError { kind, message: format!("endpoint `{}`: {failure}", shown(endpoint)) }
        })?;
        let (input, output) = tokio::io::split(stream);
        Ok((Box::new(AsyncReadStream::new(input)), Box::new(AsyncWriteStream::new(STREAM_BUFFER, output))))
    }

    async fn connect(&self, endpoint: &str) -> Result<Held, Failure> {
        let call = &self.call;
        let route =
            self.egress.route(grants::bare_name(endpoint)).map_err(|refused| call.refused(endpoint, &refused))?;
        let connected = async {
            match route.protocol {
                Protocol::Stream | Protocol::Any => {}
                Protocol::Http => {
                    return Err(Failure::denied(
                        "it is an HTTP endpoint, which takes requests and no byte streams; use `tcp://` or `tls://` \
                         in `url` if the backend speaks something else with it",
                    ));
                }
            }
            let slot = call.slot()?;
            let until = call.deadline.min(Instant::now() + CONNECT);
            Ok(Held { stream: self.egress.dialer.dial(&route.place, until).await?, _slot: slot })
        };
        connected.await.inspect_err(|failure| route.tell(call, failure))
    }

    /// Sends one request; the answer's body is counted and bounded in time while it is read.
    fn send(
        &self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> impl Future<Output = Result<Response<WasiBody>, Code>> + Send + use<> {
        let (egress, call) = (self.egress.clone(), self.call.clone());
        async move {
            let route = match egress.route(grants::name(request.uri())) {
                Ok(route) => route,
                Err(refused) => {
                    let asked = request.uri().authority().map_or("", |authority| authority.as_str());
                    return Err(call.refused(asked, &refused).code);
                }
            };
            let answer = match route.protocol {
                Protocol::Http | Protocol::Any => http::send(&egress, route, &call, request, options).await,
                Protocol::Stream => Err(Failure::denied(
                    "it is a byte stream, which takes no requests; use `http://` or `https://` in `url` if the \
                     backend speaks HTTP with it",
                )),
            };
            answer.map_err(|failure| {
                route.tell(&call, &failure);
                failure.code
            })
        }
    }
}

impl WasiHttpHooks for CallEgress {
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        held::CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        held::CHUNK
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Code>> + Send>,
    ) -> Box<
        dyn Future<Output = Result<(Response<WasiBody>, Box<dyn Future<Output = Result<(), Code>> + Send>), Code>>
            + Send,
    > {
        let answer = self.send(request, options);
        Box::new(async move {
            // The connection is driven by a task of the backend, so there is nothing left to drive here.
            let driven: Box<dyn Future<Output = Result<(), Code>> + Send> = Box::new(std::future::ready(Ok(())));
            Ok((answer.await?, driven))
        })
    }
}

/// A stream that counts as one of the call's connections until both of its halves are gone.
struct Held {
    stream: Box<dyn Stream>,
    _slot: OwnedSemaphorePermit,
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
