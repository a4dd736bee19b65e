//! Endpoints behind a forward proxy, which is a small real one.

use std::sync::{Arc, Mutex};

use ::http::{Response, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::TaskTracker;
use wasmtime_wasi_http::Error as Code;

use super::{
    Fixture, Logged, SHORT, endpoint, full, get, guarded, http, server,
    stream::ping,
    tls::{Authority, https},
};
use crate::{
    config::{Credential, Endpoint, EndpointTarget, Proxy},
    plugins::ErrorKind,
};

/// `pacer:s3cret`
const LOGIN: &str = "Basic cGFjZXI6czNjcmV0";

/// Takes `CONNECT` and absolute addresses, and keeps the heads of what it was asked.
#[derive(Clone)]
pub struct Forward {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy)]
pub enum Mood {
    Open,
    /// Wants [`LOGIN`].
    Guarded,
    Refuses(&'static str),
    Silent,
}

impl Forward {
    pub async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), heads: Arc::default() };
        let tasks = TaskTracker::new();
        let own = proxy.clone();
        tasks.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tasks.spawn(own.clone().serve(stream, mood));
            }
        });
        proxy
    }

    async fn serve(self, mut client: TcpStream, mood: Mood) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match client.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        self.heads.lock().unwrap().push(head.clone());
        let login = format!("proxy-authorization: {LOGIN}\r\n");
        let refusal = match mood {
            Mood::Open => None,
            Mood::Guarded if head.contains(&login) => None,
            Mood::Guarded => Some("407 Proxy Authentication Required"),
            Mood::Refuses(status) => Some(status),
            Mood::Silent => return std::future::pending().await,
        };
        if let Some(status) = refusal {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            client.write_all(answer.as_bytes()).await.unwrap();
            return;
        }
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        if method == "CONNECT" {
            let mut there = TcpStream::connect(target).await.unwrap();
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            let _ = copy_bidirectional(&mut client, &mut there).await;
            return;
        }
        let rest = target.strip_prefix("http://").unwrap();
        let (host, path) = rest.split_at(rest.find('/').unwrap());
        let mut there = TcpStream::connect(host).await.unwrap();
        let head = head.replacen(target, path, 1).replace(&login, "");
        there.write_all(head.as_bytes()).await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut there).await;
    }

    pub fn config(&self) -> Option<Proxy> {
        Some(Proxy { host: "127.0.0.1".into(), port: self.port, login: None })
    }

    fn known(&self) -> Option<Proxy> {
        let login = Some(("pacer".to_owned(), "s3cret".into()));
        Some(Proxy { host: "127.0.0.1".into(), port: self.port, login })
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn pong() -> server::Answer {
    Response::new(Full::new(Bytes::from_static(b"pong")).boxed())
}

#[tokio::test]
async fn what_is_encrypted_goes_through_a_tunnel_and_the_proxy_learns_the_host_alone() {
    let authority = Authority::new();
    let server = server::tls(authority.acceptor(true)).await;
    let port = server.port;
    let seen = server.serve(|_| pong());
    let proxy = Forward::start(Mood::Guarded).await;
    let credential = Some(Credential::Bearer("t0ken-t0ken".into()));
    let endpoint = Endpoint {
        ca: Some(authority.pem()),
        identity: Some(authority.identity()),
        credential,
        proxy: proxy.known(),
        ..endpoint(https("localhost", port))
    };
    let fixture = Fixture::new([("engine", endpoint)]);
    for _ in 0..2 {
        let mut request = get("http://engine/v1/x?y=1");
        request.headers_mut().insert(header::PROXY_AUTHORIZATION, "mine".parse().unwrap());
        let response = fixture.call().send(request, None).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "pong");
    }
    assert_eq!(seen.paths(), ["/v1/x?y=1"; 2]);
    assert_eq!(seen.header("authorization").as_deref(), Some("Bearer t0ken-t0ken"));
    assert_eq!(seen.header("proxy-authorization"), None);
    assert_eq!(seen.header("host"), Some(format!("localhost:{port}")));
    let expected =
        format!("CONNECT localhost:{port} HTTP/1.1\r\nhost: localhost:{port}\r\nproxy-authorization: {LOGIN}\r\n\r\n");
    assert_eq!(proxy.heads(), [expected], "one tunnel, kept open");
    // The server's certificate is still judged by the endpoint's own authority.
    let other = Endpoint {
        ca: Some(Authority::new().pem()),
        proxy: proxy.known(),
        ..super::endpoint(https("localhost", port))
    };
    let code = Fixture::new([("engine", other)]).call().send(get("http://engine/"), None).await.unwrap_err();
    assert!(matches!(code, Code::TlsCertificateError), "{code:?}");
}

#[tokio::test]
async fn plain_requests_name_the_whole_address() {
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|_| pong());
    let proxy = Forward::start(Mood::Guarded).await;
    let target = EndpointTarget::Http { tls: false, host: "127.0.0.1".into(), port, base_path: "/base".into() };
    let fixture = Fixture::new([("engine", Endpoint { proxy: proxy.known(), ..endpoint(target) })]);
    let request = ::http::Request::post("http://engine/x?y=1").body(full(b"hello")).unwrap();
    fixture.call().send(request, None).await.unwrap();
    assert_eq!(seen.paths(), ["/base/x?y=1"]);
    assert_eq!(seen.body(), "hello");
    assert_eq!(seen.header("host"), Some(format!("127.0.0.1:{port}")));
    let head = &proxy.heads()[0];
    assert!(head.starts_with(&format!("POST http://127.0.0.1:{port}/base/x?y=1 HTTP/1.1\r\n")), "{head}");
    assert!(head.contains(&format!("proxy-authorization: {LOGIN}\r\n")), "{head}");
}

#[tokio::test]
async fn streams_go_through_a_tunnel_encrypted_or_not() {
    let authority = Authority::new();
    let (mut plain, mut encrypted) = (server::tcp().await, server::tls(authority.acceptor(true)).await);
    let proxy = Forward::start(Mood::Open).await;
    let stream = |tls: bool, port: u16| Endpoint {
        proxy: proxy.config(),
        ca: tls.then(|| authority.pem()),
        identity: tls.then(|| authority.identity()),
        ..endpoint(EndpointTarget::Stream { tls, host: "localhost".into(), port })
    };
    let fixture = Fixture::new([("plain", stream(false, plain.port)), ("tls", stream(true, encrypted.port))]);
    let mut call = fixture.call();
    for (name, server) in [("plain", &mut plain), ("tls", &mut encrypted)] {
        let script = async {
            let mut stream = server.next().await;
            stream.read_exact(&mut [0; 4]).await.unwrap();
            stream.write_all(b"pong").await.unwrap();
            stream.flush().await.unwrap();
            stream
        };
        let calls = async {
            let (mut input, mut output) = call.open(name).await.unwrap();
            assert_eq!(ping(&mut input, &mut output).await, b"pong", "{name}");
        };
        tokio::join!(script, calls);
    }
    assert_eq!(proxy.heads().len(), 2);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_explained() {
    let (logged, _guard) = Logged::start();
    let cases = [
        (Mood::Guarded, ErrorKind::Unauthorized, "write `username` and `password` into `proxy`"),
        (Mood::Refuses("403 Forbidden"), ErrorKind::Unauthorized, "does not lead to `localhost:9`: 403 Forbidden"),
        (
            Mood::Refuses("502 Bad Gateway"),
            ErrorKind::Unavailable,
            "could not connect to `localhost:9`: 502 Bad Gateway",
        ),
        (Mood::Silent, ErrorKind::Unavailable, "took too long"),
    ];
    for (mood, kind, text) in cases {
        let proxy = Forward::start(mood).await;
        let target = EndpointTarget::Stream { tls: true, host: "localhost".into(), port: 9 };
        let fixture = Fixture::new([("raw", Endpoint { proxy: proxy.config(), ..endpoint(target) })]);
        let deadline = if matches!(mood, Mood::Silent) { SHORT } else { super::LONG };
        let refused = fixture.call_until(deadline).open("raw").await.err().unwrap();
        assert_eq!(refused.kind, kind, "{}", refused.message);
        assert!(refused.message.contains(text), "{}", refused.message);
        assert!(refused.message.contains(&format!("proxy `http://127.0.0.1:{}`", proxy.port)), "{}", refused.message);
    }
    // One that wants another password, asked for something plain.
    let proxy = Forward::start(Mood::Guarded).await;
    let login = Some(("pacer".to_owned(), "wr0ng-wr0ng".into()));
    let config = Proxy { host: "127.0.0.1".into(), port: proxy.port, login };
    let fixture = Fixture::new([("engine", Endpoint { proxy: Some(config), ..endpoint(http(9)) })]);
    let code = fixture.call().send(get("http://engine/"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestDenied), "{code:?}");
    let log = logged.text();
    assert!(log.contains("does not take `username` and `password` of `proxy`") && !log.contains("wr0ng"), "{log}");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let port = {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        closed.local_addr().unwrap().port()
    };
    let target = EndpointTarget::Stream { tls: false, host: "localhost".into(), port: 9 };
    let gone = Proxy { host: "127.0.0.1".into(), port, login: None };
    let fixture = Fixture::new([("raw", Endpoint { proxy: Some(gone), ..endpoint(target) })]);
    let refused = fixture.call().open("raw").await.err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    assert!(refused.message.contains(&format!("the proxy `http://127.0.0.1:{port}`: ")), "{}", refused.message);
}

#[tokio::test]
async fn a_credential_does_not_go_to_a_proxy_in_the_clear() {
    let proxy = Forward::start(Mood::Open).await;
    let guarded = guarded(http(9), Credential::Bearer("t0ken-t0ken".into()));
    let fixture = Fixture::new([("engine", Endpoint { proxy: proxy.config(), ..guarded })]);
    let code = fixture.call().send(get("http://engine/"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestDenied), "{code:?}");
    assert_eq!(proxy.heads(), Vec::<String>::new());
}
