//! Requests with AWS signatures.

use ::http::{Request, header};
use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use std::time::Duration;
use wasmtime_wasi_http::{Error as Code, WasiBody};

use super::{Fixture, Logged, full, get, guarded, http, server, sigv4};
use crate::config::{AwsSigV4, AwsSource, Credential, Endpoint, EndpointTarget, PluginLimits};

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn signed(port: u16, service: &str, token: Option<&str>) -> Endpoint {
    let source = AwsSource::Keys {
        access_key_id: ID.into(),
        secret_access_key: SECRET.into(),
        session_token: token.map(Into::into),
    };
    let aws = AwsSigV4 { region: "eu-west-1".into(), service: service.into(), source };
    guarded(http(port), Credential::AwsSigV4(aws))
}

fn ok() -> server::Answer {
    ::http::Response::new(Full::new(Bytes::from_static(b"ok")).boxed())
}

fn unknown_length(pieces: usize) -> WasiBody {
    let frames = (0..pieces).map(|_| Ok::<_, Code>(Frame::data(Bytes::from_static(&[b'x'; 1_024]))));
    StreamBody::new(stream::iter(frames.collect::<Vec<_>>())).boxed_unsync()
}

#[tokio::test]
async fn what_arrives_is_signed_over_what_arrives() {
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|_| ok());
    let fixture =
        Fixture::new([("cloud", signed(port, "ec2", None)), ("token", signed(port, "ec2", Some("the-token")))]);
    let call = fixture.call();
    let form = "Action=RunInstances&Version=2016-11-15&MaxCount=1";
    let post = |name: &str, body: WasiBody| {
        Request::post(format!("http://{name}/"))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body)
            .unwrap()
    };
    let requests = [
        get("http://cloud/?Version=2016-11-15&Action=DescribeInstances&Filter.1.Name=tag%3Aa"),
        get("http://cloud/"),
        post("cloud", full(form.as_bytes())),
        post("cloud", unknown_length(3)),
        post("token", full(form.as_bytes())),
        Request::post("http://cloud/").header("x-amz-target", "Service.Operation").body(full(b"{}")).unwrap(),
    ];
    for request in requests {
        call.send(request, None).await.unwrap().into_body().collect().await.unwrap();
        let (parts, body) = seen.last();
        assert_eq!(sigv4::fault(&parts, &body, ID, SECRET, "eu-west-1", "ec2"), None, "{parts:?}");
        assert!(parts.headers[header::AUTHORIZATION].to_str().unwrap().starts_with("AWS4-HMAC-SHA256 "));
        assert_eq!(parts.headers["x-amz-date"], "20260830T123600Z");
        assert_eq!(parts.headers.get(header::TRANSFER_ENCODING), None);
        // The check can fail.
        assert!(sigv4::fault(&parts, b"another body", ID, SECRET, "eu-west-1", "ec2").is_some());
        assert!(sigv4::fault(&parts, &body, ID, "another secret", "eu-west-1", "ec2").is_some());
    }
    assert_eq!(seen.header("x-amz-target").as_deref(), Some("Service.Operation"));
    assert_eq!(seen.header("x-amz-security-token"), None);
    assert_eq!(seen.paths().len(), 6);
    fixture.clock.pass(Duration::from_secs(61));
    call.send(get("http://token/"), None).await.unwrap();
    let (parts, body) = seen.last();
    assert_eq!(parts.headers["x-amz-date"], "20260830T123701Z");
    assert_eq!(parts.headers["x-amz-security-token"], "the-token");
    assert_eq!(sigv4::fault(&parts, &body, ID, SECRET, "eu-west-1", "ec2"), None);
}

#[tokio::test]
async fn a_component_has_no_part_in_its_signature() {
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|_| ok());
    let fixture = Fixture::new([("cloud", signed(port, "ec2", None))]);
    let mut request = get("http://cloud/");
    for (name, value) in [
        ("authorization", "AWS4-HMAC-SHA256 Credential=mine"),
        ("x-amz-date", "20010101T000000Z"),
        ("x-amz-security-token", "mine"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("X-Amz-Algorithm", "mine"),
        ("cookie", "mine"),
        ("host", "elsewhere"),
    ] {
        request.headers_mut().append(::http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    fixture.call().send(request, None).await.unwrap();
    let (parts, body) = seen.last();
    assert_eq!(sigv4::fault(&parts, &body, ID, SECRET, "eu-west-1", "ec2"), None);
    for (name, value) in &parts.headers {
        assert!(!value.to_str().unwrap().contains("mine"), "{name}: {value:?}");
    }
    assert_eq!(parts.headers.get("x-amz-content-sha256"), None);
    assert_eq!(parts.headers["x-amz-date"], "20260830T123600Z");
    assert_eq!(parts.headers[header::HOST], format!("127.0.0.1:{port}"));
}

#[tokio::test]
async fn a_body_that_is_too_large_to_be_signed_is_refused_and_nothing_is_sent() {
    let (logged, _guard) = Logged::start();
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|_| ok());
    let fixture = Fixture::new([("cloud", signed(port, "ec2", None))]);
    let post = |body| Request::post("http://cloud/").body(body).unwrap();
    let call = fixture.call();
    let code = call.send(post(unknown_length(129)), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestBodySize(Some(0x2_0000))), "{code:?}");
    assert!(logged.text().contains("signed is held in memory"), "{}", logged.text());
    assert_eq!(seen.connections(), 0);
    call.send(post(unknown_length(128)), None).await.unwrap();
    assert_eq!(seen.body().len(), 128 << 10);
    // The backend's own limit is the lower one.
    let limits = PluginLimits { request_size: 1_000, ..PluginLimits::default() };
    let fixture = Fixture::limited(limits, [("cloud", signed(port, "ec2", None))]);
    let code = fixture.call().send(post(unknown_length(1)), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestBodySize(Some(1_000))), "{code:?}");
    assert!(logged.text().contains("`backends.main.limits.request`"), "{}", logged.text());
}

#[tokio::test]
async fn a_signature_does_not_cross_the_network_in_the_clear() {
    let target = EndpointTarget::Http { tls: false, host: "192.0.2.1".into(), port: 80, base_path: String::new() };
    let fixture = Fixture::new([("cloud", Endpoint { target, ..signed(80, "ec2", None) })]);
    let code = fixture.call().send(get("http://cloud/"), None).await.unwrap_err();
    assert!(matches!(code, Code::HttpRequestDenied), "{code:?}");
}

#[tokio::test]
async fn s3_is_told_the_digest_of_the_body() {
    let server = server::tcp().await;
    let port = server.port;
    let seen = server.serve(|_| ok());
    let fixture = Fixture::new([("store", signed(port, "s3", None))]);
    let request = Request::put("http://store/bucket/a%20b").body(full(b"hello")).unwrap();
    fixture.call().send(request, None).await.unwrap();
    let (parts, body) = seen.last();
    assert_eq!(sigv4::fault(&parts, &body, ID, SECRET, "eu-west-1", "s3"), None);
    let digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(parts.headers["x-amz-content-sha256"], digest);
}
