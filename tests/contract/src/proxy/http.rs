//! Faults between HTTP requests and their answers. Request and answer are held as a whole only where a fault needs it.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{body::Incoming, client, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt as _, sync::mpsc, time::timeout};

use super::{ANSWER, Answer, Fault, GARBAGE, PIECES, State, Stream};

type Body = BoxBody<Bytes, hyper::Error>;

/// How a connection ends before its time.
enum Ending {
    Reset,
    /// These bytes in pieces, with a pause after each.
    Raw(Vec<u8>, Duration),
}

pub(super) async fn serve(state: &Arc<State>, stream: Box<dyn Stream>) {
    let (end, mut ended) = mpsc::channel::<Ending>(1);
    let service = service_fn(|request: Request<Incoming>| {
        let (state, end) = (state.clone(), end.clone());
        async move { Ok::<_, Infallible>(answer(&state, request, &end).await) }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let ending = tokio::select! {
        _ = &mut connection => return,
        ending = ended.recv() => ending,
    };
    let mut stream = connection.into_parts().io.into_inner();
    match ending {
        Some(Ending::Raw(bytes, pause)) => {
            for piece in bytes.chunks(bytes.len().div_ceil(PIECES).max(1)) {
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
            let _ = stream.shutdown().await;
        }
        Some(Ending::Reset) | None => stream.reset(),
    }
}

async fn answer(state: &Arc<State>, request: Request<Incoming>, end: &mpsc::Sender<Ending>) -> Response<Body> {
    let ending = match state.turn() {
        None => match forward(state, request).await {
            Ok(response) => return response.map(|body| body.boxed()),
            Err(_) => Ending::Reset,
        },
        Some(Fault::Refuse(answer)) => {
            // The request is read first, as an engine would.
            let _ = request.into_body().collect().await;
            return refusal(&answer);
        }
        Some(Fault::Echo(status)) => {
            let sent = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let message = format!("cannot understand: {}", String::from_utf8_lossy(&sent));
            let body = serde_json::json!({ "message": message }).to_string();
            return refusal(&Answer::new(status, body).header("content-type", "application/json"));
        }
        Some(Fault::Stall) => return pending().await,
        Some(Fault::Reset) => Ending::Reset,
        Some(Fault::Garbage) => Ending::Raw(GARBAGE.to_vec(), Duration::ZERO),
        Some(Fault::LoseAnswer) => {
            let _ = whole(state, request).await;
            Ending::Reset
        }
        Some(Fault::Truncate) => match whole(state, request).await {
            Ok((mut bytes, body)) => {
                bytes.truncate(bytes.len() - body.div_ceil(2).max(3));
                Ending::Raw(bytes, Duration::ZERO)
            }
            Err(_) => Ending::Reset,
        },
        Some(Fault::Slow(pause)) => match whole(state, request).await {
            Ok((bytes, _)) => Ending::Raw(bytes, pause),
            Err(_) => Ending::Reset,
        },
    };
    let _ = end.send(ending).await;
    pending().await
}

fn refusal(answer: &Answer) -> Response<Body> {
    let body = Full::new(Bytes::from(answer.body.clone())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = answer.status.try_into().unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

async fn forward(state: &Arc<State>, request: Request<Incoming>) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(state.dial().await?)).await?;
    state.tasks.spawn(timeout(ANSWER, connection));
    Ok(timeout(ANSWER, sender.send_request(request)).await??)
}

/// The engine's whole answer as it goes over the wire, and how many bytes of that are its body.
async fn whole(state: &Arc<State>, request: Request<Incoming>) -> anyhow::Result<(Vec<u8>, usize)> {
    let (parts, body) = forward(state, request).await?.into_parts();
    let body = timeout(ANSWER, body.collect()).await??.to_bytes();
    let mut bytes = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    for (name, value) in &parts.headers {
        if ![header::TRANSFER_ENCODING, header::CONTENT_LENGTH, header::CONNECTION].contains(name) {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes.extend_from_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    Ok((bytes, body.len()))
}
