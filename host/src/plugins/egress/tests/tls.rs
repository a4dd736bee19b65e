//! TLS to endpoints: authorities, identities.

use std::sync::Arc;

use ::http::Response;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use wasmtime_wasi_http::Error as Code;

use super::{Fixture, endpoint, get, server, stream::ping};
use crate::config::{ClientIdentity, Endpoint, EndpointTarget};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn sign(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub fn pem(&self) -> Vec<u8> {
        self.certificate.pem().into_bytes()
    }

    /// For `localhost`; asks for a certificate of this authority if `mutual`.
    pub fn acceptor(&self, mutual: bool) -> TlsAcceptor {
        let (certificate, key) = self.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        let provider = Arc::new(default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap()))
    }

    pub fn identity(&self) -> ClientIdentity {
        let (certificate, key) = self.sign("pacer", ExtendedKeyUsagePurpose::ClientAuth);
        ClientIdentity { certificate: certificate.pem().into_bytes(), key: key.serialize_pem().into() }
    }
}

pub fn https(host: &str, port: u16) -> EndpointTarget {
    EndpointTarget::Http { tls: true, host: host.into(), port, base_path: String::new() }
}

fn pong() -> server::Answer {
    Response::new(Full::new(Bytes::from_static(b"pong")).boxed())
}

#[tokio::test]
async fn only_a_trusted_certificate_for_the_name_will_do() {
    let authority = Authority::new();
    let server = server::tls(authority.acceptor(false)).await;
    let port = server.port;
    let seen = server.serve(|_| pong());
    let ca = |pem: Vec<u8>, target| Endpoint { ca: Some(pem), ..endpoint(target) };
    let fixture = Fixture::new([
        ("trusted", ca(authority.pem(), https("localhost", port))),
        ("other-authority", ca(Authority::new().pem(), https("localhost", port))),
        ("system-only", endpoint(https("localhost", port))),
        ("other-name", ca(authority.pem(), https("127.0.0.1", port))),
    ]);
    let call = fixture.call();
    for name in ["other-authority", "other-name"] {
        let code = call.send(get(&format!("http://{name}/")), None).await.unwrap_err();
        assert!(matches!(code, Code::TlsCertificateError), "{name}: {code:?}");
    }
    assert_eq!(seen.connections(), 0);
    for _ in 0..2 {
        let response = call.send(get("http://trusted/x"), None).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "pong");
    }
    assert_eq!(seen.connections(), 1);
    assert_eq!(seen.header("host"), Some(format!("localhost:{port}")));
    let code = call.send(get("http://system-only/"), None).await.unwrap_err();
    assert!(matches!(code, Code::TlsCertificateError), "{code:?}");
}

#[tokio::test]
async fn the_host_shows_its_certificate_where_one_is_asked_for() {
    let authority = Authority::new();
    let server = server::tls(authority.acceptor(true)).await;
    let port = server.port;
    let seen = server.serve(|_| pong());
    let plain = || Endpoint { ca: Some(authority.pem()), ..endpoint(https("localhost", port)) };
    let known = Endpoint { identity: Some(authority.identity()), ..plain() };
    let stranger = Endpoint { identity: Some(Authority::new().identity()), ..plain() };
    let fixture = Fixture::new([("known", known), ("stranger", stranger), ("nobody", plain())]);
    let call = fixture.call();
    for name in ["stranger", "nobody"] {
        let code = call.send(get(&format!("http://{name}/")), None).await.unwrap_err();
        // The refusal may come after the handshake, and the end of the connection before the refusal is read.
        assert!(matches!(code, Code::TlsAlertReceived { .. } | Code::ConnectionTerminated), "{name}: {code:?}");
    }
    assert_eq!(seen.connections(), 0);
    call.send(get("http://known/"), None).await.unwrap();
    assert_eq!(seen.connections(), 1);
}

#[tokio::test]
async fn streams_are_encrypted_too() {
    let authority = Authority::new();
    let mut server = server::tls(authority.acceptor(true)).await;
    let target = EndpointTarget::Stream { tls: true, host: "localhost".into(), port: server.port };
    let endpoint = Endpoint { ca: Some(authority.pem()), identity: Some(authority.identity()), ..endpoint(target) };
    let fixture = Fixture::new([("hypervisor", endpoint)]);
    let mut call = fixture.call();
    let script = async {
        let mut stream = server.next().await;
        stream.read_exact(&mut [0; 4]).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
        stream.flush().await.unwrap();
    };
    let calls = async {
        let (mut input, mut output) = call.open("hypervisor").await.unwrap();
        assert_eq!(ping(&mut input, &mut output).await, b"pong");
    };
    tokio::join!(script, calls);
}
