//! Every address under which a libvirt daemon can be granted: its socket, a port, and a port with TLS. The component is
//! told none of it, so the same machine comes up behind each.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;
use pacer::{
    clock::SystemClock,
    config::{self, ProcessEnvironment},
    fleet::runner::RunnerName,
    plugins::{
        BackendError, Backends as _, Bootstrap, Compiler, Destruction, ErrorKind, Host, InstanceState, RunnerRequest,
    },
    routing::BackendName,
};
use pacer_tests::{engine::not_run, process::free_port};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::subjects::{component, libvirt::Libvirt};

/// No single thing takes it longer, even on a busy machine that emulates in software.
const PATIENCE: Duration = Duration::from_secs(120);
/// A configuration needs the key of an App, which nothing here uses.
const KEY: &str = include_str!("../../../host/src/config/testdata/rsa.pem");

/// Writes an authority, what it signed for the daemon, and what it signed for pacer.
fn certificates(folder: &Path) -> anyhow::Result<()> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.pem"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    for (name, subject, purpose) in [
        ("daemon", "127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth),
        ("pacer", "pacer", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let mut params = CertificateParams::new(vec![subject.to_owned()])?;
        params.extended_key_usages = vec![purpose];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate()?;
        fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, &issuer)?.pem())?;
        fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem())?;
        fs::set_permissions(folder.join(format!("{name}-key.pem")), fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// A host of components that was granted this endpoint.
async fn host(folder: &Path, endpoint: &Value) -> anyhow::Result<Arc<Host>> {
    fs::create_dir_all(folder.join("plugins"))?;
    fs::copy(component("libvirt"), folder.join("plugins/libvirt.wasm"))?;
    fs::write(folder.join("key.pem"), KEY)?;
    fs::set_permissions(folder.join("key.pem"), fs::Permissions::from_mode(0o600))?;
    // Every JSON document is YAML.
    let whole = json!({
        "server": { "addr": "127.0.0.1:3000", "public_url": "https://pacer.example.com" },
        "github": { "app_id": 1, "private_key_path": "key.pem", "webhook_secret": "secret-of-the-contract-suite-0001" },
        "database": { "url": "sqlite:pacer.db" },
        "plugins": { "dir": "plugins", "cache_dir": "cache" },
        "auth": { "disabled": true },
        "backends": { "vm": {
            "plugin": "libvirt", "endpoints": { "libvirt": endpoint },
            "settings": { "uri": "qemu:///session", "cpu_overcommit": 1000, "memory_reserve": "1m" },
        } },
        "projects": [{ "name": "my-app", "scope": "repo", "repos": ["octocat/hello-world"], "pools": [{
            "name": "vm", "backend": "vm", "bootstrap": { "kind": "cloud-init" }, "settings": Libvirt::pool(),
        }] }],
    });
    let path = folder.join("config.yaml");
    fs::write(&path, whole.to_string())?;
    let config = Arc::new(config::load(&path, &ProcessEnvironment)?);
    let host = Host::start_with(&config, Arc::new(SystemClock), Compiler::InProcess).await?;
    host.settled().await;
    Ok(host)
}

/// A machine's life behind this endpoint.
async fn machine(folder: &Path, name: &str, endpoint: &Value) -> anyhow::Result<()> {
    let (host, backend): (_, BackendName) = (host(folder, endpoint).await?, "vm".parse()?);
    let request = RunnerRequest {
        name: RunnerName::new(name),
        owner: "addresses".to_owned(),
        labels: vec!["linux".to_owned()],
        settings: Libvirt::pool(),
        bootstrap: Bootstrap::CloudInit(SecretString::from("#cloud-config\n{}\n")),
        secrets: Vec::new(),
        lease_until: Timestamp::from_second(1_900_000_000)?,
        tags: Vec::new(),
    };
    let made = host.create(&backend, Arc::new(request), PATIENCE).await?;
    assert!(matches!(made.state, InstanceState::Running), "{name}: {made:?}");
    let listed = host.list(&backend, "addresses", PATIENCE).await?;
    assert_eq!(listed.iter().map(|one| one.handle.as_str()).collect::<Vec<_>>(), [made.handle.as_str()], "{name}");
    assert_eq!(host.destroy(&backend, &made.handle, Duration::ZERO, PATIENCE).await?, Destruction::Gone, "{name}");
    assert_eq!(host.get(&backend, &made.handle, PATIENCE).await?.map(|one| one.handle), None, "{name}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_comes_up_over_a_socket_over_a_port_and_over_tls() {
    let (tcp, tls) = (free_port(), free_port());
    let prepare = |dir: &Path| {
        certificates(dir).unwrap();
        let at = dir.display();
        let settings = format!(
            "listen_addr = \"127.0.0.1\"\nlisten_tcp = 1\ntcp_port = \"{tcp}\"\nauth_tcp = \"none\"\n\
             listen_tls = 1\ntls_port = \"{tls}\"\nauth_tls = \"none\"\n\
             ca_file = \"{at}/ca.pem\"\ncert_file = \"{at}/daemon.pem\"\nkey_file = \"{at}/daemon-key.pem\"\n"
        );
        fs::write(dir.join("listen.conf"), settings).unwrap();
    };
    let daemon = match Libvirt::start_with(prepare) {
        Ok(daemon) => daemon,
        Err(why) => return not_run("a_machine_comes_up_over_a_socket_over_a_port_and_over_tls", &why),
    };
    let pki = daemon.folder();
    let url = format!("tls://127.0.0.1:{tls}");
    let known = json!({
        "url": url, "ca": pki.join("ca.pem"),
        "client_certificate": pki.join("pacer.pem"), "client_key": pki.join("pacer-key.pem"),
    });
    for (name, endpoint) in [
        ("socket", json!({ "url": format!("unix://{}", daemon.socket().display()) })),
        ("port", json!({ "url": format!("tcp://127.0.0.1:{tcp}") })),
        ("tls", known),
    ] {
        let folder = tempfile::tempdir().unwrap();
        machine(folder.path(), name, &endpoint).await.unwrap_or_else(|error| panic!("over {name}: {error:#}"));
    }
    // Whom the daemon does not know it does not let in.
    let folder = tempfile::tempdir().unwrap();
    let stranger = machine(folder.path(), "stranger", &json!({ "url": url, "ca": pki.join("ca.pem") })).await;
    let refused = stranger.unwrap_err();
    assert_eq!(
        refused.downcast_ref::<BackendError>().map(|error| error.kind),
        Some(ErrorKind::Unavailable),
        "{refused:#}"
    );
}
