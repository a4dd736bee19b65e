//! Requests with OAuth 2.0 tokens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::http::{Response, StatusCode, header, request::Parts};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use wasmtime_wasi_http::Error as Code;

use super::{
    Fixture, Logged, get, guarded, http,
    proxied::{Forward, Mood},
    server,
    tls::{Authority, https},
};
use crate::config::{Credential, Endpoint, OAuth2, OAuth2Url};

fn text(status: StatusCode, text: String) -> server::Answer {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response
}

fn with_token(port: u16, service: u16) -> Endpoint {
    guarded(http(port), of(&format!("http://127.0.0.1:{service}/token")))
}

fn of(token_url: &str) -> Credential {
    Credential::OAuth2(OAuth2 {
        token_url: OAuth2Url::at(token_url),
        client_id: "pacer at work".into(),
        client_secret: "s3cret+s3cret".into(),
        scope: Some("machines read".into()),
    })
}

fn a_token(_: &Parts) -> server::Answer {
    text(StatusCode::OK, r#"{"access_token":"t0ken-t0ken","expires_in":3600}"#.to_owned())
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_again_before_it_ends() {
    let (service, engine) = (server::tcp().await, server::tcp().await);
    let (service_port, port) = (service.port, engine.port);
    let given = Arc::new(AtomicU64::new(0));
    let asked = service.serve(move |_| {
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        let token = format!(r#"{{"access_token":"token-{number}","token_type":"bearer","expires_in":3600}}"#);
        text(StatusCode::OK, token)
    });
    let seen = engine.serve(|_| text(StatusCode::OK, String::new()));
    let fixture = Fixture::new([("cloud", with_token(port, service_port))]);
    let calls = (0..8).map(|_| async {
        let mut request = get("http://cloud/");
        request.headers_mut().insert(header::AUTHORIZATION, "mine".parse().unwrap());
        fixture.call().send(request, None).await.unwrap();
    });
    futures::future::join_all(calls).await;
    assert_eq!(seen.header("authorization").as_deref(), Some("Bearer token-1"));
    assert_eq!(asked.paths(), ["/token"]);
    assert_eq!(asked.body(), "grant_type=client_credentials&scope=machines%20read");
    // `pacer%20at%20work:s3cret%2Bs3cret`
    let basic = "Basic cGFjZXIlMjBhdCUyMHdvcms6czNjcmV0JTJCczNjcmV0";
    assert_eq!(asked.header("authorization").as_deref(), Some(basic));
    assert_eq!(asked.header("host"), Some(format!("127.0.0.1:{service_port}")));
    fixture.clock.pass(Duration::from_secs(3_595));
    fixture.call().send(get("http://cloud/"), None).await.unwrap();
    assert_eq!(seen.header("authorization").as_deref(), Some("Bearer token-2"));
}

#[tokio::test]
async fn what_gives_no_token_is_told_apart_and_its_answer_is_not_repeated() {
    let cases = [
        (
            StatusCode::UNAUTHORIZED,
            r#"{"error":"invalid_client","error_description":"s3cret+s3cret is wrong"}"#,
            true,
            "`invalid_client`",
        ),
        (StatusCode::BAD_GATEWAY, "s3cret+s3cret", false, "502 Bad Gateway"),
        (StatusCode::OK, "s3cret+s3cret", false, "something else than a token"),
        (StatusCode::OK, r#"{"access_token":"x","token_type":"mac"}"#, true, "of the type `mac`"),
    ];
    for (status, answer, denied, told) in cases {
        let (logged, _guard) = Logged::start();
        let (service, engine) = (server::tcp().await, server::tcp().await);
        let (service_port, port) = (service.port, engine.port);
        service.serve(move |_| text(status, answer.to_owned()));
        let seen = engine.serve(|_| text(StatusCode::OK, String::new()));
        let fixture = Fixture::new([("cloud", with_token(port, service_port))]);
        for _ in 0..2 {
            let code = fixture.call().send(get("http://cloud/"), None).await.unwrap_err();
            assert_eq!(matches!(code, Code::HttpRequestDenied), denied, "{code:?}");
            assert_eq!(matches!(code, Code::DestinationUnavailable), !denied, "{code:?}");
        }
        let log = logged.text();
        assert_eq!(log.matches("WARN").count(), 1, "{log}");
        assert!(log.contains("no credential for endpoint `cloud`") && log.contains(told), "{log}");
        assert!(!log.contains("s3cret"), "{log}");
        assert_eq!(seen.connections(), 0);
    }
}

#[tokio::test]
async fn an_encrypted_token_service_is_trusted_as_the_endpoint_is_and_asked_through_its_proxy() {
    let authority = Authority::new();
    let (service, engine) = (server::tls(authority.acceptor(false)).await, server::tls(authority.acceptor(true)).await);
    let (service_port, port) = (service.port, engine.port);
    let asked = service.serve(a_token);
    let seen = engine.serve(|_| text(StatusCode::OK, String::new()));
    let proxy = Forward::start(Mood::Open).await;
    let endpoint = Endpoint {
        ca: Some(authority.pem()),
        identity: Some(authority.identity()),
        proxy: proxy.config(),
        ..guarded(https("localhost", port), of(&format!("https://localhost:{service_port}/token")))
    };
    Fixture::new([("cloud", endpoint)]).call().send(get("http://cloud/"), None).await.unwrap();
    assert_eq!(seen.header("authorization").as_deref(), Some("Bearer t0ken-t0ken"));
    assert_eq!(asked.paths(), ["/token"]);
    let first = |head: &String| head.lines().next().unwrap().to_owned();
    let asked_of_proxy: Vec<_> = proxy.heads().iter().map(first).collect();
    let connect = |port: u16| format!("CONNECT localhost:{port} HTTP/1.1");
    assert_eq!(asked_of_proxy, [connect(service_port), connect(port)]);
}

#[tokio::test]
async fn a_token_service_beside_pacer_is_asked_directly_and_never_shown_the_certificate() {
    let authority = Authority::new();
    let (service, engine) = (server::tcp().await, server::tls(authority.acceptor(true)).await);
    let (service_port, port) = (service.port, engine.port);
    let asked = service.serve(a_token);
    engine.serve(|_| text(StatusCode::OK, String::new()));
    let proxy = Forward::start(Mood::Open).await;
    let endpoint = |token_url: String| Endpoint {
        ca: Some(authority.pem()),
        identity: Some(authority.identity()),
        proxy: proxy.config(),
        ..guarded(https("localhost", port), of(&token_url))
    };
    let fixture = Fixture::new([("cloud", endpoint(format!("http://127.0.0.1:{service_port}/token")))]);
    fixture.call().send(get("http://cloud/"), None).await.unwrap();
    assert_eq!(asked.paths(), ["/token"]);
    let heads = proxy.heads();
    assert!(heads.len() == 1 && heads[0].starts_with(&format!("CONNECT localhost:{port} ")), "{heads:?}");
    // One that insists on a certificate gets none.
    let (logged, _guard) = Logged::start();
    let strict = server::tls(authority.acceptor(true)).await;
    let strict_port = strict.port;
    let asked = strict.serve(a_token);
    let fixture = Fixture::new([("cloud", endpoint(format!("https://localhost:{strict_port}/token")))]);
    let code = fixture.call().send(get("http://cloud/"), None).await.unwrap_err();
    assert!(matches!(code, Code::DestinationUnavailable), "{code:?}");
    assert!(logged.text().contains("cannot be asked") && asked.connections() == 0, "{}", logged.text());
}

#[tokio::test]
async fn a_token_that_is_not_taken_is_not_used_again() {
    let (service, engine) = (server::tcp().await, server::tcp().await);
    let (service_port, port) = (service.port, engine.port);
    let given = Arc::new(AtomicU64::new(0));
    let asked = service.serve(move |_| {
        let number = given.fetch_add(1, Ordering::SeqCst) + 1;
        text(StatusCode::OK, format!(r#"{{"access_token":"token-{number}","expires_in":3600}}"#))
    });
    let seen = engine.serve(|parts| {
        let withdrawn = parts.headers[header::AUTHORIZATION] == "Bearer token-1";
        text(if withdrawn { StatusCode::UNAUTHORIZED } else { StatusCode::OK }, String::new())
    });
    let fixture = Fixture::new([("cloud", with_token(port, service_port))]);
    let ask = async || fixture.call().send(get("http://cloud/"), None).await.unwrap().status();
    // One that came just now is not thrown away for it.
    assert_eq!((ask().await, ask().await), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
    assert_eq!(asked.paths().len(), 1);
    fixture.clock.pass(Duration::from_secs(6));
    assert_eq!(ask().await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask().await, StatusCode::OK);
    assert_eq!(seen.header("authorization").as_deref(), Some("Bearer token-2"));
    assert_eq!(asked.paths().len(), 2);
}

#[tokio::test]
async fn the_secret_of_a_client_does_not_cross_the_network_in_the_clear() {
    let (logged, _guard) = Logged::start();
    let engine = server::tcp().await;
    let fixture = Fixture::new([("cloud", guarded(http(engine.port), of("http://192.0.2.1/token")))]);
    let code = fixture.call().send(get("http://cloud/"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestDenied), "{code:?}");
    assert!(logged.text().contains("would cross the network unencrypted"), "{}", logged.text());
}
