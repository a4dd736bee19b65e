//! Byte streams to endpoints.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::{Fixture, Logged, SHORT, endpoint, http, server};
use crate::{
    config::{EndpointTarget, PluginLimits},
    plugins::ErrorKind,
};

fn tcp(port: u16) -> EndpointTarget {
    EndpointTarget::Stream { tls: false, host: "127.0.0.1".into(), port }
}

/// Says `ping` and reads the answer, as a component would.
pub async fn ping(input: &mut DynInputStream, output: &mut DynOutputStream) -> Vec<u8> {
    output.ready().await;
    assert!(output.check_write().unwrap() >= 4);
    output.write("ping".into()).unwrap();
    output.flush().unwrap();
    let mut answer = Vec::new();
    while answer.len() < 4 {
        input.ready().await;
        answer.extend_from_slice(&input.read(4 - answer.len()).unwrap());
    }
    answer
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_count_as_connections() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hypervisor.sock");
    let mut by_path = server::unix(&path);
    let mut by_port = server::tcp().await;
    let limits = PluginLimits { requests: 1, ..PluginLimits::default() };
    let endpoints = [("unix", endpoint(EndpointTarget::Unix(path))), ("tcp", endpoint(tcp(by_port.port)))];
    let fixture = Fixture::limited(limits, endpoints);
    let mut call = fixture.call();
    for (name, server) in [("unix", &mut by_path), ("tcp", &mut by_port)] {
        let script = async {
            let mut stream = server.next().await;
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"ping");
            stream.write_all(b"pong").await.unwrap();
            stream
        };
        let calls = async {
            let (mut input, mut output) = call.open(name).await.unwrap();
            assert_eq!(ping(&mut input, &mut output).await, b"pong");
            let refused = call.open(name).await.err().unwrap();
            assert_eq!(refused.kind, ErrorKind::Internal);
            assert!(refused.message.contains("`backends.main.limits.requests`"), "{}", refused.message);
            (input, output)
        };
        let (mut stream, (mut input, mut output)) = tokio::join!(script, calls);
        // As the host does when a component drops them.
        input.cancel().await;
        output.cancel().await;
        drop((input, output));
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "the connection is closed");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let (logged, _guard) = Logged::start();
    let dir = tempfile::tempdir().unwrap();
    let gone = EndpointTarget::Unix(dir.path().join("gone.sock"));
    let fixture = Fixture::new([("web", endpoint(http(80))), ("gone", endpoint(gone)), ("raw", endpoint(tcp(80)))]);
    let mut call = fixture.call();
    let mut check = async |name: &str, kind: ErrorKind, text: &str| {
        let refused = call.open(name).await.err().unwrap();
        assert_eq!(refused.kind, kind, "{}", refused.message);
        assert!(refused.message.contains(text), "{}", refused.message);
    };
    check("engine", ErrorKind::Unauthorized, "endpoints:\n      engine: ").await;
    check("/run/docker.sock", ErrorKind::Unauthorized, "not the bare name").await;
    check("web", ErrorKind::Unauthorized, "it is an HTTP endpoint").await;
    check("gone", ErrorKind::Unavailable, "cannot be connected to").await;
    assert!(logged.text().contains("endpoints:\n      engine: \"unix:///…\""), "{}", logged.text());
    let code = fixture.call().send(super::get("http://raw/"), None).await.unwrap_err();
    assert!(matches!(code, wasmtime_wasi_http::Error::HttpRequestDenied), "{code:?}");
}

#[tokio::test]
async fn opening_ends_with_the_deadline() {
    let server = server::tcp().await;
    // Connected, and then no TLS.
    let target = EndpointTarget::Stream { tls: true, host: "127.0.0.1".into(), port: server.port };
    server.mute();
    let fixture = Fixture::new([("raw", endpoint(target))]);
    let refused = fixture.call_until(SHORT).open("raw").await.err().unwrap();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    assert!(refused.message.contains("took too long"), "{}", refused.message);
}
