//! HTTP/1.1 to an endpoint. No redirect is followed and no connection is upgraded: a component gets the answer as it
//! is and asks again, through the same checks.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};
use wasmtime_wasi_http::{Error as Code, RequestOptions, WasiBody};

use super::{
    super::held,
    Egress, Route,
    body::{RequestBody, ResponseBody, begun},
    call::{Call, Failure},
    credential::undress,
    dial::{CONNECT, Stream, tls_code},
    grants,
};

/// A guest that asks for no timeout gets the deadline of its call.
const NO_LIMIT: Duration = Duration::MAX;

/// A connection to an endpoint; its driver is a task of the backend.
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// Whether anything came back since the last request.
    heard: Arc<AtomicBool>,
}

impl Connection {
    pub async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

/// Sends one request of a component and waits for the head of the answer.
pub(super) async fn send(
    egress: &Egress,
    route: &Arc<Route>,
    call: &Arc<Call>,
    request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Result<Response<WasiBody>, Failure> {
    let slot = call.slot()?;
    let options = options.unwrap_or_default();
    let (mut parts, body) = prepare(route, call, request)?.into_parts();
    let body = match &route.proof {
        Some(proof) => proof.add(&mut parts, body, call).await?,
        None => body,
    };
    let proved = parts.headers.get(header::AUTHORIZATION).cloned();
    if let Some(proxy) = route.forwarder() {
        proxy.authorize(&mut parts.headers);
        parts.uri = absolute(&route.host, parts.uri)?;
    }
    let body = if parts.headers.contains_key(header::CONTENT_LENGTH) || body.size_hint().exact().is_some() {
        body
    } else {
        let late = |_| Failure::unreachable(Code::HttpRequestBodySize(None), "the body of the request did not begin");
        timeout_at(call.deadline, begun(body)).await.map_err(late)?
    };
    // What has no body and may be repeated can be asked again when a connection turns out to be dead.
    let repeat = (body.is_end_stream() && parts.method.is_idempotent()).then(|| parts.clone());
    let mut request = Request::from_parts(parts, RequestBody::new(body, route, call));
    let first_byte = options.first_byte_timeout.unwrap_or(NO_LIMIT);
    let answered = async {
        if let Some(mut connection) = route.pool.take().await {
            match exchange(&mut connection, request, call.until(first_byte)).await {
                Ok(response) => return Ok((response, connection)),
                Err(Trouble { unsent: Some(unsent), .. }) => request = *unsent,
                Err(Trouble { silent: true, failure, .. }) => match repeat {
                    Some(parts) => request = Request::from_parts(parts, RequestBody::empty(route, call)),
                    None => return Err(failure),
                },
                Err(trouble) => return Err(trouble.failure),
            }
        }
        let mut connection = open(egress, route, call.until(options.connect_timeout.unwrap_or(CONNECT))).await?;
        match exchange(&mut connection, request, call.until(first_byte)).await {
            Ok(response) => Ok((response, connection)),
            Err(trouble) => Err(trouble.failure),
        }
    };
    let (response, connection) = answered.await?;
    if response.status() == StatusCode::UNAUTHORIZED
        && let Some(proof) = &route.proof
    {
        proof.refused(proved.as_ref());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Failure::unreachable(Code::HttpUpgradeFailed, "it switched protocols, which nobody asked for"));
    }
    if let Some(refusal) = route.forwarder().and_then(|proxy| proxy.refusal(response.status())) {
        return Err(refusal);
    }
    let (mut parts, incoming) = response.into_parts();
    if incoming.size_hint().lower() > call.limits.response_size {
        return Err(call.response_too_large());
    }
    if route.proof.is_some() {
        parts.headers.remove(header::SET_COOKIE);
    }
    let pause = options.between_bytes_timeout.unwrap_or(NO_LIMIT);
    let body = ResponseBody::new(incoming, pause, (connection, slot), route.clone(), call.clone());
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}

/// The request as it goes over the wire.
fn prepare(route: &Route, call: &Call, request: Request<WasiBody>) -> Result<Request<WasiBody>, Failure> {
    let (mut parts, body) = request.into_parts();
    let unfit = match parts.method {
        Method::CONNECT => Some("the method `CONNECT` would turn the connection into something else"),
        // It has the server repeat what was sent, and with it what proves who asks.
        Method::TRACE => Some("the method `TRACE` asks for the credential back"),
        _ => None,
    };
    if let Some(reason) = unfit {
        return Err(Failure { code: Code::HttpRequestMethodInvalid, ..Failure::denied(reason) });
    }
    let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.unwrap_or(0).max(body.size_hint().lower()) > call.limits.request_size {
        return Err(call.request_too_large());
    }
    let path = grants::path(&route.name, &route.base_path, &parts.uri)
        .map_err(|refused| Failure::denied(refused.to_string()))?;
    parts.uri = Uri::from(path);
    parts.version = Version::HTTP_11;
    undress(&mut parts.headers, &route.host);
    Ok(Request::from_parts(parts, body))
}

/// The whole address, for a proxy that finds its way by it.
fn absolute(host: &HeaderValue, uri: Uri) -> Result<Uri, Failure> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let whole = Uri::builder().scheme("http").authority(host.as_bytes()).path_and_query(path).build();
    whole.map_err(|error| Failure::denied(format!("the request fits into no address: {error}")))
}

async fn open(egress: &Egress, route: &Route, until: Instant) -> Result<Connection, Failure> {
    let stream = egress.dialer.dial(&route.place, until).await?;
    let heard = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Heard { stream, heard: heard.clone() });
    let (sender, driver) =
        http1::Builder::new().max_buf_size(held::HEAD).handshake(io).await.map_err(|error| wire(&error, false))?;
    let closing = egress.closing.clone();
    egress.tasks.spawn(async move {
        tokio::select! {
            // What goes wrong here is told to whoever waits for the answer.
            _ = driver => {}
            () = closing.cancelled() => {}
        }
    });
    Ok(Connection { sender, heard })
}

/// No answer.
struct Trouble {
    failure: Failure,
    /// The connection ended without a byte of an answer.
    silent: bool,
    /// Nothing of it was written.
    unsent: Option<Box<Request<RequestBody>>>,
}

async fn exchange(
    connection: &mut Connection,
    request: Request<RequestBody>,
    until: Instant,
) -> Result<Response<Incoming>, Trouble> {
    connection.heard.store(false, Ordering::Relaxed);
    match timeout_at(until, connection.sender.try_send_request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut error)) => {
            let unsent = error.take_message().map(Box::new);
            let error = error.into_error();
            let heard = connection.heard.load(Ordering::Relaxed);
            // What the component's own body failed with is no fault of the connection.
            let silent = !heard && !error.is_user();
            Err(Trouble { failure: wire(&error, heard), silent, unsent })
        }
        Err(_) => {
            let failure = Failure::unreachable(Code::HttpResponseTimeout, "the answer took too long");
            Err(Trouble { failure, silent: false, unsent: None })
        }
    }
}

/// What a fault of a connection means. `heard` is whether an answer had begun.
pub(super) fn wire(error: &hyper::Error, heard: bool) -> Failure {
    let mut cause = std::error::Error::source(error);
    let mut reason = error.to_string();
    let mut code = None;
    while let Some(error) = cause {
        reason = format!("{reason}: {error}");
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let ended = if heard { Code::HttpResponseIncomplete } else { Code::ConnectionTerminated };
            code = tls_code(error).or(Some(ended));
        } else if let Some(Code::HttpRequestBodySize(size)) = error.downcast_ref::<Code>() {
            // Told already, where it was counted.
            code = Some(Code::HttpRequestBodySize(*size));
        }
        cause = error.source();
    }
    let code = code.unwrap_or_else(|| {
        if error.is_parse_too_large() {
            Code::HttpResponseHeaderSectionSize(None)
        } else if error.is_timeout() {
            Code::HttpResponseTimeout
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            if heard { Code::HttpResponseIncomplete } else { Code::ConnectionTerminated }
        } else {
            Code::HttpProtocolError
        }
    });
    Failure::unreachable(code, format!("the exchange failed: {reason}"))
}

/// Notes when something comes back.
struct Heard {
    stream: Box<dyn Stream>,
    heard: Arc<AtomicBool>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
