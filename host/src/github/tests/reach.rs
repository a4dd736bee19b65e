//! Whether GitHub can be reached, and what is said when it cannot.

use super::*;

#[tokio::test]
async fn slow_and_absent_servers_are_unavailable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let clock = Arc::new(ManualClock(AtomicI64::new(START)));
    let client = Client::with_timeout(&config(&url), clock.clone(), Duration::from_millis(50)).unwrap();
    let error = client.ping().await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unavailable);
    assert!(error.message.contains("no answer in time"), "{error}");
    drop(listener);
    let nameless = Client::new(&config("http://github.invalid"), clock.clone()).unwrap();
    assert!(nameless.ping().await.unwrap_err().message.contains("its name cannot be resolved"));
    let client = Client::with_timeout(&config(&url), clock, Duration::from_millis(50)).unwrap();
    let error = client.ping().await.unwrap_err();
    assert!(error.message.contains("no connection could be made"), "{error}");
}

#[tokio::test]
async fn a_ping_knows_the_app_and_is_remembered_for_a_while() {
    let fake = Fake::new(|seen, _| match seen.path.as_str() {
        "/app" => answer(200, json!({ "id": 4711, "slug": "pacer", "name": "Pacer", "permissions": { "actions": "read" }, "events": ["workflow_job"] })),
        _ => pass(),
    })
    .await;
    fake.client.ping().await.unwrap();
    fake.client.ping().await.unwrap();
    assert_eq!(fake.seen("/app").len(), 1);
    let app = fake.client.app_permissions().await.unwrap();
    assert_eq!((app.permissions["actions"].as_str(), app.events), ("read", vec!["workflow_job".to_owned()]));

    let other = Fake::new(|_, _| {
        answer(200, json!({ "id": 1, "slug": "other", "name": "Other", "permissions": {}, "events": [] }))
    })
    .await;
    assert!(other.client.ping().await.unwrap_err().message.contains("App 1 (`other`)"));
}

/// A CA and a certificate of its for `name`.
fn chain(name: &str) -> (rcgen::Certificate, Vec<rustls::pki_types::CertificateDer<'static>>, Vec<u8>) {
    let mut root = rcgen::CertificateParams::new(vec![]).unwrap();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.distinguished_name.push(rcgen::DnType::CommonName, "A CA of one's own");
    let root_key = rcgen::KeyPair::generate().unwrap();
    let certificate = root.self_signed(&root_key).unwrap();
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(root, root_key);
    let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    (certificate, vec![leaf.der().clone()], leaf_key.serialize_der())
}

/// Serves the App over TLS, with a certificate for `name`; its port, and the CA.
async fn over_tls(name: &str) -> (u16, Vec<u8>) {
    let (root, chain, key) = chain(name);
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, rustls::pki_types::PrivatePkcs8KeyDer::from(key).into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(async || {
        answer(200, json!({ "id": 4711, "slug": "pacer", "name": "Pacer", "permissions": {}, "events": [] }))
    });
    TaskTracker::new().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let io = hyper_util::rt::TokioIo::new(stream);
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            }
        }
    });
    (port, root.pem().into_bytes())
}

#[tokio::test]
async fn a_private_ca_is_trusted_when_it_is_configured() {
    let (port, ca) = over_tls("localhost").await;
    let url = format!("https://localhost:{port}");
    let clock = Arc::new(ManualClock(AtomicI64::new(START)));
    let trusted = config::GitHub { ca: Some(ca), ..config(&url) };
    Client::new(&trusted, clock.clone()).unwrap().ping().await.unwrap();
    let error = Client::new(&config(&url), clock.clone()).unwrap().ping().await.unwrap_err();
    assert_eq!(error.kind, GitHubErrorKind::Unavailable);
    assert!(
        error.message.contains("its certificate is not trusted") && error.message.contains("`github.ca`"),
        "{error}"
    );

    let (port, ca) = over_tls("elsewhere.example").await;
    let other = config::GitHub { ca: Some(ca), ..config(&format!("https://localhost:{port}")) };
    let error = Client::new(&other, clock).unwrap().ping().await.unwrap_err();
    assert!(error.message.contains("its certificate is for another name"), "{error}");
}

#[tokio::test]
async fn however_many_ask_whether_github_answers_it_is_asked_once() {
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", hanging.local_addr().unwrap());
    let clock = Arc::new(ManualClock(AtomicI64::new(START)));
    let client = Client::with_timeout(&config(&url), clock, Duration::from_millis(100)).unwrap();
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    TaskTracker::new().spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = hanging.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    // Some do not wait for the answer.
    for _ in 0..20 {
        assert!(futures::poll!(std::pin::pin!(client.ping())).is_pending());
    }
    for outcome in join_all((0..50).map(|_| client.ping())).await {
        assert_eq!(outcome.unwrap_err().kind, GitHubErrorKind::Unavailable);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 3, "one question, and two more tries at it");
}

#[tokio::test]
async fn a_github_that_holds_back_calls_is_there() {
    let fake = Fake::new(|seen, _| match seen.path.as_str() {
        "/app" => with(answer(429, json!({})), &[("retry-after", "90")]),
        _ => pass(),
    })
    .await;
    fake.client.ping().await.unwrap();
}
