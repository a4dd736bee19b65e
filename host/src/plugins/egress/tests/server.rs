//! Servers that count who comes and keep what is said.

use std::{
    convert::Infallible,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Response, request::Parts};
use http_body_util::{BodyExt as _, combinators::BoxBody};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::plugins::egress::dial::Stream;

pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Connections as they are accepted.
pub struct Accepted {
    pub port: u16,
    streams: mpsc::UnboundedReceiver<Box<dyn Stream>>,
    tasks: TaskTracker,
}

#[derive(Clone, Default)]
pub struct Seen {
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<(Parts, Bytes)>>>,
}

impl Seen {
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Of the last request.
    pub fn header(&self, name: &str) -> Option<String> {
        let requests = self.requests.lock().unwrap();
        Some(requests.last().unwrap().0.headers.get(name)?.to_str().unwrap().to_owned())
    }

    pub fn paths(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(parts, _)| parts.uri.to_string()).collect()
    }

    pub fn last(&self) -> (Parts, Bytes) {
        self.requests.lock().unwrap().last().unwrap().clone()
    }

    pub fn body(&self) -> Bytes {
        self.requests.lock().unwrap().last().unwrap().1.clone()
    }
}

pub fn unix(path: &Path) -> Accepted {
    let listener = UnixListener::bind(path).unwrap();
    let (sender, streams) = mpsc::unbounded_channel::<Box<dyn Stream>>();
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = sender.send(Box::new(stream));
        }
    });
    Accepted { port: 0, streams, tasks }
}

pub async fn tcp() -> Accepted {
    accept(None).await
}

pub async fn tls(acceptor: TlsAcceptor) -> Accepted {
    accept(Some(acceptor)).await
}

async fn accept(acceptor: Option<TlsAcceptor>) -> Accepted {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, streams) = mpsc::unbounded_channel::<Box<dyn Stream>>();
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &acceptor {
                None => drop(sender.send(Box::new(stream))),
                // Who does not trust us is not our concern.
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = sender.send(Box::new(stream));
                    }
                }
            }
        }
    });
    Accepted { port, streams, tasks }
}

impl Accepted {
    pub async fn next(&mut self) -> Box<dyn Stream> {
        self.streams.recv().await.unwrap()
    }

    /// Speaks HTTP on every connection.
    pub fn serve(mut self, answer: impl Fn(&Parts) -> Answer + Clone + Send + Sync + 'static) -> Seen {
        let seen = Seen::default();
        let (noted, tasks) = (seen.clone(), self.tasks.clone());
        self.tasks.clone().spawn(async move {
            while let Some(stream) = self.streams.recv().await {
                noted.connections.fetch_add(1, Ordering::SeqCst);
                let (noted, answer) = (noted.clone(), answer.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (noted, answer) = (noted.clone(), answer.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let response = answer(&parts);
                        noted.requests.lock().unwrap().push((parts, body));
                        Ok::<_, hyper::Error>(response)
                    }
                });
                tasks.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        seen
    }

    /// Takes connections and answers on none of them, which stay open.
    pub fn mute(mut self) {
        self.tasks.clone().spawn(async move {
            let mut open = Vec::new();
            while let Some(stream) = self.streams.recv().await {
                open.push(stream);
            }
        });
    }
}

/// Reads up to the end of a request's head.
pub async fn head(stream: &mut Box<dyn Stream>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

pub async fn write(stream: &mut Box<dyn Stream>, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}
