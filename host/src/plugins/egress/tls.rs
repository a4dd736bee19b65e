//! Trust and identity of an encrypted endpoint.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use secrecy::ExposeSecret as _;
use tokio_rustls::TlsConnector;

use crate::config::{ClientIdentity, Endpoint};

/// The system's roots, read once: there are a hundred and more files of them.
static SYSTEM: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();

/// To the endpoint, as who it wants to see.
pub(super) fn connector(endpoint: &Endpoint, protocol: &[u8]) -> Result<TlsConnector, String> {
    build(endpoint, endpoint.identity.as_ref(), protocol)
}

/// To who gives out its credential: trusted alike, but a stranger.
pub(super) fn anonymous(endpoint: &Endpoint) -> Result<TlsConnector, String> {
    build(endpoint, None, b"http/1.1")
}

/// A connector that trusts the system's roots and the endpoint's own.
fn build(endpoint: &Endpoint, identity: Option<&ClientIdentity>, protocol: &[u8]) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(SYSTEM.get_or_init(|| rustls_native_certs::load_native_certs().certs).clone());
    if let Some(ca) = &endpoint.ca {
        for certificate in certificates(ca, "ca")? {
            roots.add(certificate).map_err(|error| format!("`ca` holds a certificate that is no root: {error}"))?;
        }
    }
    if roots.is_empty() {
        return Err("there is no root certificate to trust: the system has none, and `ca` is not set".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates(&identity.certificate, "client_certificate")?;
            let key = PrivateKeyDer::from_pem_slice(identity.key.expose_secret().as_bytes())
                .map_err(|_| "`client_key` is not a PEM private key".to_owned())?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("`client_certificate` and `client_key` do not work together: {error}"))?
        }
    };
    if !protocol.is_empty() {
        config.alpn_protocols = vec![protocol.to_owned()];
    }
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| format!("`{key}` is not a PEM file of certificates"))
}
