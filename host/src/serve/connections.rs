//! Connections: so many at once, each with a deadline for its headers, all told when the server stops.
//!
//! Anybody can reach the port, so a connection costs its opener as much as it costs us. Bodies have bounds of their
//! own where they are read.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::{debug, info, warn};

/// Some 100 MiB with the buffers of all of them; GitHub, a team's tabs and ten thousand machines that boot share it.
const CONNECTIONS: usize = 4096;
/// For a request's headers, from the end of the one before. Longer than common reverse proxies keep an idle connection
/// (nginx 60 s, Caddy 2 min): who closes it first must be the one that sends.
const HEADERS: Duration = Duration::from_secs(130);
/// After an `accept` that failed for want of something, which passes.
const PAUSE: Duration = Duration::from_secs(1);

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    connections: usize,
    headers: Duration,
}

impl Limits {
    /// Allows this process all the open files that the system lets it have, and leaves half of them to the backends
    /// and the database.
    pub fn of_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, ..limit };
        let files = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit.maximum,
            Err(error) => {
                warn!(%error, "the limit of open files stays as it is");
                limit.current
            }
        };
        let half = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
        let connections = CONNECTIONS.min(half.max(1));
        let files = files.map_or_else(|| "any number of".to_owned(), |files| files.to_string());
        info!("{files} files may be open at once (`ulimit -Hn`), and {connections} connections be served");
        Self { connections, headers: HEADERS }
    }
}

/// Takes connections until it is told to stop. Requests under way then come to their end in `tasks`.
pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stopping: CancellationToken,
    tasks: TaskTracker,
) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let next = async || {
        // The one after the last waits at the system's door until another is gone.
        let permit = room.clone().acquire_owned().await.ok()?;
        Some((permit, listener.accept().await))
    };
    while let Some(Some((permit, accepted))) = stopping.run_until_cancelled(next()).await {
        match accepted {
            Ok((stream, peer)) => {
                tasks.spawn(serve(stream, peer, router.clone(), limits.headers, stopping.clone(), permit));
            }
            Err(error) => {
                warn!(%error, "a connection cannot be taken");
                stopping.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    headers: Duration,
    stopping: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    // Answers are small and awaited: nothing is won by waiting for more to send.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "a connection keeps its delay");
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().oneshot(request.map(Body::new));
        async { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(client.address = %peer, %error, "a connection broke");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        sync::Notify,
    };

    use super::*;

    struct Server {
        address: SocketAddr,
        stopping: CancellationToken,
        tasks: TaskTracker,
    }

    async fn start(router: Router, limits: Limits) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stopping, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(listener, router, limits, stopping.clone(), tasks.clone()));
        Server { address, stopping, tasks }
    }

    impl Server {
        async fn send(&self, text: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            stream
        }
    }

    /// Everything until the server closes the connection.
    async fn rest(mut stream: TcpStream) -> String {
        let mut text = String::new();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut text)).await;
        read.expect("the server closes the connection").unwrap();
        text
    }

    const WHOLE: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn a_request_whose_headers_do_not_come_is_let_go() {
        let router = Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()));
        let server = start(router, Limits { connections: 8, headers: Duration::from_millis(50) }).await;
        for begun in ["", "GET / HTTP/1.1\r\nhost: x\r\nx-slow: "] {
            assert!(!rest(server.send(begun).await).await.contains("200 OK"));
        }
        let stream = server.send(WHOLE).await;
        let own = stream.local_addr().unwrap().to_string();
        let answer = rest(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(&own), "{answer}");
    }

    #[tokio::test]
    async fn more_connections_than_there_is_room_for_wait_their_turn() {
        let (now, most, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let entered = Arc::new(Notify::new());
        let handler = {
            let (now, most, go, entered) = (now.clone(), most.clone(), go.clone(), entered.clone());
            async move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                entered.notify_one();
                go.notified().await;
                now.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let router = Router::new().route("/", get(handler));
        let server = start(router, Limits { connections: 2, headers: Duration::from_secs(60) }).await;
        let mut waiting = Vec::new();
        for _ in 0..6 {
            let stream = server.send(WHOLE).await;
            waiting.push(server.tasks.spawn(rest(stream)));
        }
        while now.load(Ordering::SeqCst) < 2 {
            entered.notified().await;
        }
        while !waiting.iter().all(tokio::task::JoinHandle::is_finished) {
            go.notify_one();
            tokio::task::yield_now().await;
        }
        for answered in waiting {
            assert!(answered.await.unwrap().starts_with("HTTP/1.1 200 OK"));
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_server_that_stops_ends_idle_connections_and_answers_what_is_under_way() {
        let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let handler = {
            let (entered, go) = (entered.clone(), go.clone());
            async move || {
                entered.notify_one();
                go.notified().await;
                "done"
            }
        };
        let server =
            start(Router::new().route("/", get(handler)), Limits { connections: 8, headers: Duration::from_secs(600) })
                .await;
        let idle = server.send("").await;
        let busy = server.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        entered.notified().await;
        server.stopping.cancel();
        assert_eq!(rest(idle).await, "");
        go.notify_one();
        assert!(rest(busy).await.ends_with("done"));
        server.tasks.close();
        server.tasks.wait().await;
    }
}
