//! HTTP to endpoints: grants, connections, bodies, credentials, failures.

use std::{convert::Infallible, time::Duration};

use ::http::{Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::io::AsyncReadExt as _;
use wasmtime_wasi_http::{Error as Code, RequestOptions};

use super::{
    super::call::Class,
    Fixture, Logged, SHORT, empty, endpoint, full, get, guarded, http,
    server::{self, Answer, head, write},
};
use crate::config::{Credential, EndpointTarget, PluginLimits};

fn answer(text: &'static str) -> Answer {
    Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed())
}

/// In pieces, so that nobody knows the size before the end.
fn pieces(size: usize) -> Answer {
    let frames = (0..size / 100).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 100]))));
    Response::new(http_body_util::BodyExt::boxed(StreamBody::new(stream::iter(frames))))
}

#[tokio::test]
async fn requests_go_to_the_granted_socket_over_one_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine.sock");
    let seen = server::unix(&path).serve(|_| answer("pong"));
    let fixture = Fixture::new([("engine", endpoint(EndpointTarget::Unix(path)))]);
    for _ in 0..3 {
        let mut request = get("http://engine/v1/_ping?x=1");
        request.headers_mut().insert(header::HOST, "elsewhere".parse().unwrap());
        request.headers_mut().insert("proxy-thing", "x".parse().unwrap());
        request.headers_mut().insert(header::AUTHORIZATION, "mine".parse().unwrap());
        // Calls come and go; what is open stays.
        let response = fixture.call().send(request, None).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "pong");
    }
    assert_eq!(seen.connections(), 1);
    assert_eq!(seen.paths(), ["/v1/_ping?x=1"; 3]);
    assert_eq!(seen.header("host").as_deref(), Some("localhost"));
    assert_eq!(seen.header("proxy-thing"), None);
    assert_eq!(seen.header("authorization").as_deref(), Some("mine"));
    assert_eq!(fixture.idle("engine"), 1);
}

#[tokio::test]
async fn a_base_path_comes_first_and_the_host_is_the_targets() {
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|_| answer(""));
    let target = EndpointTarget::Http { tls: false, host: "127.0.0.1".into(), port, base_path: "/base".into() };
    let fixture = Fixture::new([("engine", endpoint(target))]);
    let call = fixture.call();
    let request = Request::post("https://engine:80/x").body(full(b"hello")).unwrap();
    call.send(request, None).await.unwrap();
    assert_eq!(seen.paths(), ["/base/x"]);
    assert_eq!(seen.body(), "hello");
    assert_eq!(seen.header("host"), Some(format!("127.0.0.1:{port}")));
    let code = call.send(get("http://engine/%2e%2e/x"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestDenied));
    assert_eq!(seen.paths().len(), 1);
}

#[tokio::test]
async fn what_is_not_granted_is_denied_and_the_log_says_how_to_grant_it() {
    let (logged, _guard) = Logged::start();
    let fixture = Fixture::new([]);
    let call = fixture.call();
    for _ in 0..3 {
        let code = call.send(get("http://engine/x"), None).await.unwrap_err();
        assert!(matches!(code, Code::HttpRequestDenied));
    }
    let text = logged.text();
    let yaml = "backends:\n  main:\n    endpoints:\n      engine: \"unix:///…\"";
    assert_eq!(text.matches(yaml).count(), 1, "{text}");
    assert!(text.contains("WARN") && text.contains("backend.name=main"), "{text}");
    let code = call.send(get("http://hunter2-hunter2@engine/x"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestDenied));
    let text = logged.text();
    assert!(text.contains("not the bare name") && !text.contains("hunter2"), "{text}");
    for nth in 0..100 {
        call.send(get(&format!("http://flood-{nth}/")), None).await.unwrap_err();
    }
    assert!(logged.text().matches("WARN").count() < 20);
}

#[tokio::test]
async fn a_dead_connection_is_replaced_where_asking_again_does_no_harm() {
    let cases = [(Method::GET, "", true), (Method::POST, "", false), (Method::GET, "HTTP/1.1 20", false)];
    for (method, begun, repeated) in cases {
        let mut server = server::tcp().await;
        let fixture = Fixture::new([("engine", endpoint(http(server.port)))]);
        let call = fixture.call();
        let ask = || Request::builder().method(&method).uri("http://engine/").body(empty()).unwrap();
        let script = async {
            let mut first = server.next().await;
            head(&mut first).await;
            write(&mut first, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            // Takes the second request and dies, without a word or in the middle of one.
            head(&mut first).await;
            write(&mut first, begun).await;
            drop(first);
            if repeated {
                let mut second = server.next().await;
                head(&mut second).await;
                write(&mut second, "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await;
            }
        };
        let calls = async {
            call.send(ask(), None).await.unwrap();
            call.send(ask(), None).await.map(|response| response.status())
        };
        let ((), second) = tokio::join!(script, calls);
        match second {
            Ok(status) => assert!(repeated && status == StatusCode::CREATED),
            Err(Code::ConnectionTerminated) => assert!(!repeated && begun.is_empty()),
            Err(Code::HttpResponseIncomplete) => assert!(!repeated && !begun.is_empty()),
            Err(code) => panic!("{code:?}"),
        }
    }
}

#[tokio::test]
async fn a_fresh_connection_that_dies_is_not_tried_again_nor_is_half_an_answer() {
    let mut server = server::tcp().await;
    let fixture = Fixture::new([("engine", endpoint(http(server.port)))]);
    let call = fixture.call();
    let script = async {
        let mut first = server.next().await;
        head(&mut first).await;
        drop(first);
        let mut second = server.next().await;
        head(&mut second).await;
        write(&mut second, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    };
    let calls = async {
        let code = call.send(get("http://engine/"), None).await.unwrap_err();
        assert!(matches!(code, Code::ConnectionTerminated), "{code:?}");
        let response = call.send(get("http://engine/"), None).await.unwrap();
        let code = response.into_body().collect().await.unwrap_err();
        assert!(matches!(code, Code::HttpResponseIncomplete), "{code:?}");
    };
    tokio::join!(script, calls);
    assert_eq!(fixture.idle("engine"), 0);
}

#[tokio::test]
async fn bodies_are_cut_off_at_their_limits() {
    let (logged, _guard) = Logged::start();
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|parts| match parts.uri.path() {
        "/declared" => answer("x".repeat(1_001).leak()),
        "/streamed" => pieces(1_100),
        "/fits" => pieces(1_000),
        _ => answer(""),
    });
    let limits = PluginLimits { response_size: 1_000, request_size: 1_000, ..PluginLimits::default() };
    let fixture = Fixture::limited(limits, [("engine", endpoint(http(port)))]);
    let call = fixture.call();
    let code = call.send(get("http://engine/declared"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpResponseBodySize(Some(1_000))), "{code:?}");
    let streamed = call.send(get("http://engine/streamed"), None).await.unwrap();
    let code = streamed.into_body().collect().await.unwrap_err();
    assert!(matches!(code, Code::HttpResponseBodySize(Some(1_000))), "{code:?}");
    let fits = call.send(get("http://engine/fits"), None).await.unwrap();
    assert_eq!(fits.into_body().collect().await.unwrap().to_bytes().len(), 1_000);
    assert!(logged.text().contains("`backends.main.limits.response`"), "{}", logged.text());

    let sent = seen.paths().len();
    let declared = Request::post("http://engine/").body(full(&[0; 1_001])).unwrap();
    let code = call.send(declared, None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestBodySize(Some(1_000))), "{code:?}");
    let frames = stream::iter((0..11).map(|_| Ok::<_, Code>(Frame::data(Bytes::from_static(&[0; 100])))));
    let streamed = Request::post("http://engine/").body(StreamBody::new(frames).boxed_unsync()).unwrap();
    let code = call.send(streamed, None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestBodySize(Some(1_000))), "{code:?}");
    assert!(logged.text().contains("`backends.main.limits.request`"), "{}", logged.text());
    assert_eq!(seen.paths().len(), sent, "no whole request may arrive");
}

#[tokio::test]
async fn requests_under_way_are_counted_until_their_answers_are_read() {
    let server = server::tcp().await;
    let port = server.port;
    server.serve(|_| answer("pong"));
    let limits = PluginLimits { requests: 1, ..PluginLimits::default() };
    let fixture = Fixture::limited(limits, [("engine", endpoint(http(port)))]);
    let mut call = fixture.call();
    let first = call.send(get("http://engine/"), None).await.unwrap();
    let code = call.send(get("http://engine/"), None).await.unwrap_err();
    assert!(matches!(code, Code::ConnectionLimitReached), "{code:?}");
    // Others have their own count.
    fixture.call().send(get("http://engine/"), None).await.unwrap();
    first.into_body().collect().await.unwrap();
    let dropped = call.send(get("http://engine/"), None).await.unwrap();
    drop(dropped);
    call.send(get("http://engine/"), None).await.unwrap();
    assert!(call.open("nothing").await.is_err());
}

#[tokio::test]
async fn a_silent_server_does_not_outlast_the_deadline_or_the_components_own_timeouts() {
    let mut server = server::tcp().await;
    let fixture = Fixture::new([("engine", endpoint(http(server.port)))]);
    let patient = RequestOptions { first_byte_timeout: Some(Duration::MAX), ..RequestOptions::default() };
    let hasty = RequestOptions { first_byte_timeout: Some(SHORT), ..RequestOptions::default() };
    let script = async {
        let _first = server.next().await;
        let _second = server.next().await;
        let mut third = server.next().await;
        head(&mut third).await;
        write(&mut third, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
        std::future::pending::<()>().await;
    };
    let calls = async {
        let code = fixture.call_until(SHORT).send(get("http://engine/"), Some(patient)).await.unwrap_err();
        assert!(matches!(code, Code::HttpResponseTimeout), "{code:?}");
        let code = fixture.call().send(get("http://engine/"), Some(hasty)).await.unwrap_err();
        assert!(matches!(code, Code::HttpResponseTimeout), "{code:?}");
        let halting = RequestOptions { between_bytes_timeout: Some(SHORT), ..RequestOptions::default() };
        let response = fixture.call().send(get("http://engine/"), Some(halting)).await.unwrap();
        let code = response.into_body().collect().await.unwrap_err();
        assert!(matches!(code, Code::ConnectionReadTimeout), "{code:?}");
    };
    tokio::select! {
        () = script => {}
        () = calls => {}
    }
}

#[tokio::test]
async fn a_credential_is_added_and_the_components_own_is_dropped() {
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|_| {
        let mut answer = answer("");
        answer.headers_mut().insert(header::SET_COOKIE, "session=1".parse().unwrap());
        answer
    });
    let bearer = guarded(http(port), Credential::Bearer("t0ken".into()));
    let key = guarded(http(port), Credential::Header { name: "X-Key".into(), value: "k3y".into() });
    let fixture = Fixture::new([("bearer", bearer), ("key", key), ("open", endpoint(http(port)))]);
    let call = fixture.call();
    let ask = async |name: &str| {
        let request = Request::get(format!("http://{name}/"))
            .header(header::AUTHORIZATION, "mine")
            .header(header::COOKIE, "mine")
            .header("x-key", "mine")
            .body(empty())
            .unwrap();
        call.send(request, None).await.unwrap().headers().contains_key(header::SET_COOKIE)
    };
    assert!(!ask("bearer").await);
    assert_eq!(seen.header("authorization").as_deref(), Some("Bearer t0ken"));
    assert_eq!(seen.header("cookie"), None);
    assert!(!ask("key").await);
    assert_eq!(seen.header("x-key").as_deref(), Some("k3y"));
    assert_eq!(seen.header("authorization"), None);
    assert!(ask("open").await);
    assert_eq!(seen.header("authorization").as_deref(), Some("mine"));
    assert_eq!(seen.connections(), 3, "connections of different identities are never shared");
}

#[tokio::test]
async fn a_credential_does_not_cross_the_network_in_the_clear() {
    let (logged, _guard) = Logged::start();
    // An address for documentation: nobody is there, and nobody is asked.
    let target = EndpointTarget::Http { tls: false, host: "192.0.2.1".into(), port: 80, base_path: String::new() };
    let fixture = Fixture::new([("engine", guarded(target, Credential::Bearer("t0ken".into())))]);
    let code = fixture.call().send(get("http://engine/"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestDenied), "{code:?}");
    let text = logged.text();
    assert!(text.contains("unencrypted") && text.contains("http://192.0.2.1:80") && !text.contains("t0ken"), "{text}");
}

#[tokio::test]
async fn redirects_and_upgrades_are_not_followed() {
    let elsewhere = server::tcp().await;
    let location = format!("http://127.0.0.1:{}/", elsewhere.port);
    let followed = elsewhere.serve(|_| answer(""));
    let server = server::tcp().await;
    let port = server.port;
    server.serve(move |parts| {
        let mut answer = answer("");
        if parts.uri.path() == "/upgrade" {
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        } else {
            *answer.status_mut() = StatusCode::FOUND;
            answer.headers_mut().insert(header::LOCATION, location.parse().unwrap());
        }
        answer
    });
    let fixture = Fixture::new([("engine", endpoint(http(port)))]);
    let call = fixture.call();
    let response = call.send(get("http://engine/"), None).await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    assert_eq!(followed.connections(), 0);
    let code = call.send(get("http://engine/upgrade"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpUpgradeFailed), "{code:?}");
    for method in [Method::CONNECT, Method::TRACE] {
        let request = Request::builder().method(method).uri("http://engine/").body(empty()).unwrap();
        let code = call.send(request, None).await.unwrap_err();
        assert!(matches!(code, Code::HttpRequestMethodInvalid), "{code:?}");
    }
}

#[tokio::test]
async fn trailers_arrive() {
    let mut server = server::tcp().await;
    let fixture = Fixture::new([("engine", endpoint(http(server.port)))]);
    let call = fixture.call();
    let script = async {
        let mut stream = server.next().await;
        head(&mut stream).await;
        let text =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n";
        write(&mut stream, text).await;
    };
    let ((), response) = tokio::join!(script, call.send(get("http://engine/"), None));
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["x-sum"], "1");
    assert_eq!(body.to_bytes(), "hi");
}

#[tokio::test]
async fn who_does_not_answer_is_told_apart() {
    let (logged, _guard) = Logged::start();
    let dir = tempfile::tempdir().unwrap();
    let port = {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        closed.local_addr().unwrap().port()
    };
    let gone = endpoint(EndpointTarget::Unix(dir.path().join("gone.sock")));
    let fixture = Fixture::new([("gone", gone), ("closed", endpoint(http(port)))]);
    let call = fixture.call();
    let code = call.send(get("http://gone/"), None).await.unwrap_err();
    assert!(matches!(code, Code::DestinationNotFound), "{code:?}");
    let code = call.send(get("http://closed/"), None).await.unwrap_err();
    assert!(matches!(code, Code::ConnectionRefused), "{code:?}");
    let text = logged.text();
    assert!(text.contains("DEBUG") && text.contains("gone.sock") && !text.contains("WARN"), "{text}");
}

#[tokio::test]
async fn nothing_stays_open_when_the_backend_is_gone() {
    let server = server::tcp().await;
    let port = server.port;
    server.serve(|_| answer("pong"));
    let Fixture { egress, tasks, clock: _ } = {
        let fixture = Fixture::new([("engine", endpoint(http(port)))]);
        let response = fixture.call().send(get("http://engine/"), None).await.unwrap();
        response.into_body().collect().await.unwrap();
        assert_eq!(fixture.idle("engine"), 1);
        fixture
    };
    tasks.close();
    drop(egress);
    tokio::time::timeout(super::LONG / 6, tasks.wait()).await.unwrap();
}

#[tokio::test]
async fn what_a_call_leaves_behind_is_closed() {
    let mut server = server::tcp().await;
    let fixture = Fixture::new([("engine", endpoint(http(server.port)))]);
    // Ended while it waits for an answer, and while it reads one.
    for answered in [false, true] {
        let call = fixture.call();
        let mut asked = Box::pin(call.send(get("http://engine/"), None));
        let script = async {
            let mut stream = server.next().await;
            head(&mut stream).await;
            if answered {
                write(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
            }
            stream
        };
        let mut stream = if answered {
            let (stream, response) = tokio::join!(script, &mut asked);
            drop(response);
            stream
        } else {
            tokio::select! {
                stream = script => stream,
                _ = &mut asked => panic!("nobody answered"),
            }
        };
        drop((asked, call));
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0, "answered: {answered}");
    }
    assert_eq!(fixture.idle("engine"), 0);
}

#[tokio::test]
async fn idle_connections_are_few_and_close_after_a_while() {
    let server = server::tcp().await;
    let port = server.port;
    server.serve(|_| answer("pong"));
    let limits = PluginLimits { requests: 100, ..PluginLimits::default() };
    let fixture = Fixture::limited(limits, [("engine", endpoint(http(port)))]);
    let call = fixture.call();
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(call.send(get("http://engine/"), None).await.unwrap());
    }
    for answer in answers {
        answer.into_body().collect().await.unwrap();
    }
    assert_eq!(fixture.idle("engine"), 32);
    let pool = &fixture.egress.routes[&"engine".parse().unwrap()].pool;
    let now = tokio::time::Instant::now();
    assert!(pool.close_expired(now).is_some());
    assert_eq!(pool.len(), 32);
    assert_eq!(pool.close_expired(now + Duration::from_secs(30)), None);
    assert_eq!(pool.len(), 0);
}

#[test]
fn classes_lead_to_kinds() {
    use super::super::call::Failure;
    use crate::plugins::ErrorKind;
    let kind = |class| Failure { code: Code::ConfigurationError, class, reason: String::new() }.kind();
    assert_eq!(kind(Class::Denied), ErrorKind::Unauthorized);
    assert_eq!(kind(Class::Limit), ErrorKind::Internal);
    assert_eq!(kind(Class::Unreachable), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_body_that_ends_empty_is_sent_as_none_and_one_of_unknown_length_in_chunks() {
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|_| answer(""));
    let fixture = Fixture::new([("engine", endpoint(http(port)))]);
    let call = fixture.call();
    // A component finishes its body after it has begun the request: nobody knows that it is empty.
    let unknown = |frames: Vec<&'static [u8]>| {
        let frames = frames.into_iter().map(|data| Ok::<_, Code>(Frame::data(Bytes::from_static(data))));
        StreamBody::new(stream::iter(frames.collect::<Vec<_>>())).boxed_unsync()
    };
    call.send(Request::post("http://engine/start").body(unknown(vec![])).unwrap(), None).await.unwrap();
    assert_eq!((seen.header("transfer-encoding"), seen.body().len()), (None, 0));
    call.send(Request::post("http://engine/x").body(unknown(vec![b"ab", b"c"])).unwrap(), None).await.unwrap();
    assert_eq!(seen.header("transfer-encoding").as_deref(), Some("chunked"));
    assert_eq!(seen.body(), "abc");
}
