//! What proves who asks, and a component and an endpoint that try to tell it.
//!
//! Every kind of credential is a canary. It has to be on the wire, so that there is something to look for; it may not
//! be in the component's memory, and where an endpoint repeats it, in whatever spelling, it may not be in anything that
//! leaves the component.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex},
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use pacer::plugins::{Backends as _, Host};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs::default_provider, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{LONG, World, log, name, run_on};

/// Of what is looked for: fewer bytes of a secret help nobody.
const PIECE: usize = 16;
/// What an encoder that is not careful stumbles over.
const ODD: &str = r#"a"b\c/d+e&f<g>"#;

fn canary(kind: &str) -> String {
    format!("{ODD}-canary-of-{kind}-0123456789")
}

/// What may stand before a secret: nothing, and what a header, a mapping and a pair put there.
const BEFORE: [&str; 4] = ["", "Bearer ", "token: \"", "pacer:"];

/// What writers of URLs, of JSON and of dumps make of a text.
fn escaped(text: &str) -> Vec<String> {
    let json = serde_json::to_string(text).unwrap();
    let percent = |escape: fn(u8) -> String| {
        text.bytes()
            .map(|byte| if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { escape(byte) })
            .collect::<String>()
    };
    vec![
        text.to_owned(),
        json.trim_matches('"').to_owned(),
        json.trim_matches('"').replace('/', r"\/"),
        json.trim_matches('"').replace('<', r"\u003c").replace('>', r"\u003e").replace('&', r"\u0026"),
        percent(|byte| format!("%{byte:02X}")),
        percent(|byte| format!("%{byte:02x}")),
        hex::encode(text),
    ]
}

/// What base64 makes of a text, and which characters are of the text alone.
fn base64(text: &str) -> impl Iterator<Item = (String, Range<usize>)> {
    BEFORE.into_iter().flat_map(move |before| {
        let bytes = format!("{before}{text}\"");
        let own = (before.len() * 8).div_ceil(6)..(before.len() + text.len()) * 8 / 6;
        [(STANDARD.encode(&bytes), own.clone()), (URL_SAFE_NO_PAD.encode(&bytes), own)]
    })
}

/// Each spelling that an endpoint may repeat a text in.
fn spelled(text: &str) -> Vec<String> {
    escaped(text).into_iter().chain(base64(text).map(|(encoded, _)| encoded)).collect()
}

/// Gives `/plain` a plain answer, `/token` a token, and tells everybody else all it was told and all it knows.
#[derive(Clone, Default)]
struct Gossip {
    heads: Arc<Mutex<Vec<String>>>,
    knows: Arc<Vec<String>>,
}

impl Gossip {
    async fn start(&self, acceptor: Option<TlsAcceptor>, tasks: &mut JoinSet<()>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gossip = self.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (gossip, acceptor) = (gossip.clone(), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        None => gossip.answer(stream).await,
                        Some(acceptor) => gossip.answer(acceptor.accept(stream).await.unwrap()).await,
                    }
                });
            }
        });
        address
    }

    async fn answer(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        self.heads.lock().unwrap().push(head.clone());
        let path = head.split(' ').nth(1).unwrap();
        let (status, body) = if path.ends_with("/plain") {
            ("200 OK", "fine".to_owned())
        } else if path.ends_with("/token") {
            let token = serde_json::json!({ "access_token": canary("token"), "expires_in": 3_600 });
            ("200 OK", token.to_string())
        } else {
            let said = head.lines().filter_map(|line| Some(line.split_once(": ")?.1));
            let told = self.knows.iter().map(String::as_str).chain(said).flat_map(spelled);
            ("403 Forbidden", told.collect::<Vec<_>>().join(" | "))
        };
        let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }

    fn heard(&self, text: &str) -> bool {
        self.heads.lock().unwrap().iter().any(|head| head.contains(text))
    }
}

/// A server's and a client's certificate of one authority, which goes into a file.
struct Certificates {
    authority: String,
    acceptor: TlsAcceptor,
    certificate: String,
    key: String,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let sign = |purpose| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
            params.extended_key_usages = vec![purpose];
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let (server, server_key) = sign(ExtendedKeyUsagePurpose::ServerAuth);
        let (client, client_key) = sign(ExtendedKeyUsagePurpose::ClientAuth);
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![server.der().clone()], server_key.into())
            .unwrap();
        Self {
            authority: authority.pem(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            certificate: client.pem(),
            key: client_key.serialize_pem(),
        }
    }

    /// What is secret of the key.
    fn secret(&self) -> Vec<String> {
        self.key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned).collect()
    }
}

struct Kind {
    name: &'static str,
    /// The rest of the endpoint, as YAML.
    endpoint: String,
    /// What must be seen nowhere.
    secrets: Vec<String>,
    /// What the server has to hear of it.
    heard: Option<String>,
}

fn kinds(certificates: &Certificates) -> Vec<Kind> {
    let plain = |more: String| format!("url: \"http://127.0.0.1:PORT\", {more}");
    let (bearer, basic, header) = (canary("bearer"), canary("basic"), canary("header"));
    let (key, session) = (canary("aws-key"), canary("aws-session"));
    let (client, token, proxy) = (canary("client"), canary("token"), canary("proxy"));
    let pair = |password: &str| STANDARD.encode(format!("pacer:{password}"));
    let field = |name: &str, value: &str| format!("{name}: {value}\r\n");
    vec![
        Kind {
            name: "bearer",
            endpoint: plain(format!("credential: {{ bearer: '{bearer}' }}")),
            heard: Some(field("authorization", &format!("Bearer {bearer}"))),
            secrets: vec![bearer],
        },
        Kind {
            name: "basic",
            endpoint: plain(format!("credential: {{ basic: {{ username: pacer, password: '{basic}' }} }}")),
            heard: Some(field("authorization", &format!("Basic {}", pair(&basic)))),
            secrets: vec![pair(&basic), basic],
        },
        Kind {
            name: "header",
            endpoint: plain(format!("credential: {{ header: {{ name: X-Api-Key, value: '{header}' }} }}")),
            heard: Some(field("x-api-key", &header)),
            secrets: vec![header],
        },
        Kind {
            name: "aws",
            endpoint: plain(format!(
                "credential: {{ aws_sigv4: {{ region: eu-west-1, service: ec2, access_key_id: AKIDEXAMPLE, \
                 secret_access_key: '{key}', session_token: '{session}' }} }}"
            )),
            heard: Some(field("x-amz-security-token", &session)),
            secrets: vec![key, session],
        },
        Kind {
            name: "oauth",
            endpoint: plain(format!(
                "credential: {{ oauth2: {{ token_url: \"http://127.0.0.1:PORT/token\", client_id: pacer, client_secret: '{client}' }} }}"
            )),
            heard: Some(field("authorization", &format!("Bearer {token}"))),
            secrets: vec![pair(&client), client, token],
        },
        Kind {
            name: "certificate",
            endpoint: "url: \"https://localhost:PORT\", ca: ca.pem, client_certificate: client.pem, \
                       client_key: client-key.pem"
                .to_owned(),
            // Without it there is no connection.
            heard: None,
            secrets: certificates.secret(),
        },
        Kind {
            name: "proxy",
            endpoint: format!(
                "url: \"http://engine.example:1234\", proxy: {{ url: \"http://127.0.0.1:PORT\", username: pacer, password: '{proxy}' }}"
            ),
            heard: Some(field("proxy-authorization", &format!("Basic {}", pair(&proxy)))),
            secrets: vec![pair(&proxy), proxy],
        },
    ]
}

/// Which pieces of which secrets stand in a text.
fn pieces_in(text: &str, secrets: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for secret in secrets {
        let encoded = base64(secret).map(|(encoded, own)| encoded[own].to_owned());
        for spelling in escaped(secret).into_iter().chain(encoded) {
            let pieces = spelling.as_bytes().windows(PIECE).map(|piece| std::str::from_utf8(piece).unwrap());
            found.extend(pieces.filter(|piece| text.contains(piece)).map(str::to_owned));
        }
    }
    found
}

async fn told(host: &Host, backend: &str, behaviour: &str) -> String {
    match run_on(host, backend, behaviour, LONG).await {
        Ok(text) => text,
        Err(error) => format!("{error:?} {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_credential_is_seen_by_a_component_or_told_by_it() {
    let certificates = Certificates::new();
    let mut tasks = JoinSet::new();
    let mut kinds = kinds(&certificates);
    let mut servers = BTreeMap::new();
    for kind in &mut kinds {
        // A server may know more than what it is sent.
        let server = Gossip { knows: Arc::new(kind.secrets.clone()), ..Gossip::default() };
        let acceptor = (kind.name == "certificate").then(|| certificates.acceptor.clone());
        let port = server.start(acceptor, &mut tasks).await.port().to_string();
        kind.endpoint = kind.endpoint.replace("PORT", &port);
        servers.insert(kind.name, server);
    }
    let backends = kinds.iter().map(|kind| {
        format!("  {}: {{ plugin: guest, endpoints: {{ engine: {{ {} }} }} }}\n", kind.name, kind.endpoint)
    });
    let files = [
        ("ca.pem", certificates.authority.as_str()),
        ("client.pem", &certificates.certificate),
        ("client-key.pem", &certificates.key),
    ];
    let world =
        World::with_files(&files, &format!("  guest: {{ plugin: guest }}\n{}", backends.collect::<String>()), "");
    let host = world.start().await;
    for Kind { name: kind, secrets, heard, .. } in &kinds {
        assert_eq!(told(&host, kind, "get engine /plain").await, "200 fine", "{kind}");
        if let Some(heard) = heard {
            assert!(servers[kind].heard(heard), "{kind}: `{heard}` was not on the wire");
        }
        for secret in secrets {
            let backwards: String = secret.chars().rev().collect();
            let looked = |path: &str| format!("find engine {path} {backwards}");
            assert_eq!(told(&host, kind, &looked("/plain")).await, "not found", "{kind}");
            assert_eq!(told(&host, kind, &looked("/gossip")).await, "found", "{kind}: it can be found");
        }
        for behaviour in ["get engine /gossip", "tell engine /gossip", "tell engine /gossip panic", "recall told"] {
            let told = told(&host, kind, behaviour).await;
            assert!(told.contains("[secret]"), "{kind}, {behaviour}: {told}");
            assert_eq!(pieces_in(&told, secrets), Vec::<String>::new(), "{kind}, {behaviour}: {told}");
        }
        let description = format!("{:?}", host.described(&name(kind), LONG).await.unwrap());
        assert_eq!(pieces_in(&description, secrets), Vec::<String>::new(), "{kind}");
    }
    let all: Vec<String> = kinds.iter().flat_map(|kind| kind.secrets.clone()).collect();
    let status = format!("{:?} {}", host.status(), serde_json::to_string(&host.status()).unwrap());
    assert_eq!(pieces_in(&status, &all), Vec::<String>::new(), "{status}");
    let log = log();
    assert!(log.contains("[secret]"));
    assert_eq!(pieces_in(&log, &all), Vec::<String>::new());
    assert!(!pieces_in(&base64(&all[0]).last().unwrap().0, &all).is_empty(), "it can be found");
}
