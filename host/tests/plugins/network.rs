//! The way out: endpoints by name, and nothing else.

use std::net::SocketAddr;

use pacer::plugins::ErrorKind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::support::{World, assert_works, host, host_with, log, run};

/// A server that answers a few paths and ends with the test.
struct Server {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { addr, _tasks: tasks }
    }

    async fn http() -> Self {
        Self::start(|mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => return,
                }
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap();
            let body = match path {
                "/big" => "b".repeat(2 << 20),
                "/head" => format!("{head}known: {}", head.contains("Bearer real-token-of-the-host\r\n")),
                // Answered before the body was read, of which the rest is thrown away.
                "/early" => {
                    let answer =
                        b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 9\r\n\r\ntoo large";
                    let _ = stream.write_all(answer).await;
                    let _ = stream.shutdown().await;
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                    return;
                }
                // Held until the other side gives up.
                "/slow" => {
                    let _ = stream.read_u8().await;
                    return;
                }
                _ => format!("you asked for {path}"),
            };
            // No length: what is too large is found while it is read.
            let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await
    }

    async fn echo() -> Self {
        Self::start(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_is_reached_by_its_name_alone() {
    let server = Server::http().await;
    let (_world, host) = host_with(&format!("endpoints: {{ engine: \"http://{}/base\" }}", server.addr)).await;
    assert_eq!(run(&host, "get engine /v1/things?a=b").await.unwrap(), "200 you asked for /base/v1/things?a=b");
    for elsewhere in ["other".to_owned(), server.addr.to_string(), "engine:81".into(), "x@engine".into()] {
        let error = run(&host, &format!("get {elsewhere} /")).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Unauthorized | ErrorKind::Internal), "{elsewhere}: {error}");
        assert_works(&host, "guest").await;
    }
    let grant = "backends:\n  guest:\n    endpoints:\n      other: \"unix:///…\"";
    assert!(log().contains(grant), "the log says how to grant it: {}", log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_granted_is_nothing_reached() {
    let (_world, host) = host().await;
    assert_eq!(run(&host, "get engine /").await.unwrap_err().kind, ErrorKind::Unauthorized);
    assert_eq!(run(&host, "echo engine hello").await.unwrap_err().kind, ErrorKind::Unauthorized);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_and_whom_is_said_by_the_host() {
    let server = Server::http().await;
    let endpoint = format!(
        "endpoints: {{ engine: {{ url: \"http://{}\", credential: {{ bearer: real-token-of-the-host }} }} }}",
        server.addr
    );
    let (_world, host) = host_with(&endpoint).await;
    for (header, value) in [("authorization", "Bearer forged"), ("host", "evil.example"), ("x-own", "kept")] {
        let answer = run(&host, &format!("get-as engine /head {header} {value}")).await;
        if header == "host" {
            // Not a component's to set at all.
            assert!(answer.unwrap_err().message.contains("refused the request's headers"));
            continue;
        }
        let head = answer.unwrap();
        assert!(head.contains(&format!("host: {}", server.addr)), "{head}");
        assert!(!head.contains("forged") && !head.contains("evil.example"), "{head}");
        assert!(head.contains("authorization: Bearer [secret]") && head.ends_with("known: true"), "{head}");
        assert_eq!(head.contains("x-own: kept"), header == "x-own");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_requests_are_bounded() {
    let server = Server::http().await;
    let keys =
        format!("endpoints: {{ engine: \"http://{}\" }}, limits: {{ response: 1MiB, requests: 4 }}", server.addr);
    let world = World::new(&format!("  guest: {{ plugin: guest, {keys} }}"), "");
    let host = world.start().await;
    let error = run(&host, "get engine /big").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Internal, "{error}");
    assert!(log().contains("1048576 bytes that `backends.guest.limits.response`"));

    let many = crate::support::run_on(&host, "guest", "many engine 20", std::time::Duration::from_secs(2)).await;
    // The four that are under way wait for ever; the others were refused at once, and the log says by what.
    assert_eq!(many.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(log().contains("`backends.guest.limits.requests`"));
    assert_works(&host, "guest").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_counts_that_comes_before_the_whole_request_went_out() {
    let server = Server::http().await;
    let (_world, host) = host_with(&format!("endpoints: {{ engine: \"http://{}\" }}", server.addr)).await;
    let form = "x".repeat(1 << 20);
    for _ in 0..10 {
        let answer = run(&host, &format!("post-form engine /early {form}")).await;
        assert_eq!(answer.unwrap(), "413 too large");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_over_a_stream() {
    let server = Server::echo().await;
    let (_world, host) = host_with(&format!("endpoints: {{ engine: \"tcp://{}\" }}", server.addr)).await;
    assert_eq!(run(&host, "echo engine hello").await.unwrap(), "hello");
}
