//! What a backend is granted: endpoints, their trust and their credentials.

use std::collections::BTreeMap;

use http::uri::Authority;

use super::{
    ClientIdentity, Endpoint, EndpointTarget, Proxy,
    credential::{credential, login},
    reader::{Reader, suggestion},
    value::Value,
};
use crate::routing::{EndpointName, shown};

pub(super) const ENDPOINT: &[&str] = &["url", "ca", "client_certificate", "client_key", "credential", "proxy"];
pub(super) const PROXY: &[&str] = &["url", "username", "password"];

const SCHEMES: [&str; 5] = ["unix", "http", "https", "tcp", "tls"];

pub(super) fn endpoints(value: Option<Value<'_, '_>>, reader: &Reader<'_>) -> Option<BTreeMap<EndpointName, Endpoint>> {
    let Some(value) = value else { return Some(BTreeMap::new()) };
    let mut endpoints = Some(BTreeMap::new());
    for (name, _, value) in value.entries() {
        let name = name.parse::<EndpointName>().map_err(|error| value.problem("is malformed", error.to_string())).ok();
        match (name, endpoint(&value, reader), &mut endpoints) {
            (Some(name), Some(endpoint), Some(endpoints)) => {
                endpoints.insert(name, endpoint);
            }
            _ => endpoints = None,
        }
    }
    endpoints
}

fn endpoint(value: &Value<'_, '_>, reader: &Reader<'_>) -> Option<Endpoint> {
    if value.is_text() {
        return Some(Endpoint {
            target: target(value, reader)?,
            ca: None,
            identity: None,
            credential: None,
            proxy: None,
        });
    }
    let section = value.section(ENDPOINT);
    let target = section.required("url", "write the address, for instance `https://engine:2376`").and_then(|url| {
        let target = target(&url, reader)?;
        Some((url, target))
    });
    let ca = section.get("ca").map(|value| certificates(&value));
    let certificate = section.get("client_certificate").map(|value| certificates(&value));
    let key = section.get("client_key").map(|value| private_key(&value));
    let credential = section.get("credential").map(|value| credential(&value));
    let proxy = section.get("proxy").map(|value| proxy(&value, reader));
    let (_, target) = target?;
    let (encrypted, speaks_http) = match &target {
        EndpointTarget::Unix(_) => (false, true),
        EndpointTarget::Http { tls, .. } => (*tls, true),
        EndpointTarget::Stream { tls, .. } => (*tls, false),
    };
    for key in ["ca", "client_certificate", "client_key"] {
        if !encrypted && section.get(key).is_some() {
            section.problem(key, "needs an encrypted endpoint", "use `https://` or `tls://` in `url`, or remove it");
        }
    }
    if credential.is_some() && !speaks_http {
        section.problem("credential", "needs HTTP", "a byte stream has no header to put it in: remove it");
    }
    if let (Some(_), EndpointTarget::Http { tls: false, host, .. }) = (&credential, &target)
        && !super::is_loopback(host)
    {
        reader.warn(format!("{}: its credential crosses the network unencrypted; use `https://`", value.path));
    }
    if proxy.is_some() && matches!(target, EndpointTarget::Unix(_)) {
        section.problem("proxy", "needs an endpoint on the network", "a unix socket is on this machine: remove it");
    }
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(ClientIdentity { certificate: certificate?, key: key? }),
        (None, None) => None,
        (Some(_), None) => {
            section.problem("client_key", "required", "`client_certificate` is of no use without its key");
            return None;
        }
        (None, Some(_)) => {
            section.problem("client_certificate", "required", "`client_key` is of no use without its certificate");
            return None;
        }
    };
    let ca = match ca {
        Some(ca) => Some(ca?),
        None => None,
    };
    let credential = match credential {
        Some(credential) => Some(credential?),
        None => None,
    };
    let proxy = match proxy {
        Some(proxy) => Some(proxy?),
        None => None,
    };
    Some(Endpoint { target, ca, identity, credential, proxy })
}

/// The PEM of one certificate or more.
pub(super) fn certificates(value: &Value<'_, '_>) -> Option<Vec<u8>> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let content = value.file()?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Some(content),
        Ok(_) | Err(_) => {
            value.problem("is not a PEM file of certificates", "it must hold `-----BEGIN CERTIFICATE-----`");
            None
        }
    }
}

fn private_key(value: &Value<'_, '_>) -> Option<secrecy::SecretString> {
    use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
    let content = value.file()?;
    if PrivateKeyDer::from_pem_slice(&content).is_err() {
        value.problem("is not a PEM file of a private key", "it must hold `-----BEGIN PRIVATE KEY-----` or the like");
        return None;
    }
    String::from_utf8(content).ok().map(Into::into)
}

/// The proxy of an endpoint: its address alone, or with what it asks for.
fn proxy(value: &Value<'_, '_>, reader: &Reader<'_>) -> Option<Proxy> {
    let (url, login) = if value.is_text() {
        (value.clone(), None)
    } else {
        let section = value.section(PROXY);
        let named = ["username", "password"].iter().any(|key| section.get(key).is_some());
        let login = if named { Some(login(&section)?) } else { None };
        (section.required("url", "write where the proxy is, for instance `http://proxy:3128`")?, login)
    };
    let why = match parse_address(url.text()?, &["http"]) {
        Ok(Address { path, .. }) if !path.trim_end_matches('/').is_empty() => "a proxy has no path".to_owned(),
        Ok(Address { port: None, .. }) => "it has no port".to_owned(),
        Ok(Address { host, port: Some(port), .. }) => {
            if login.is_some() && !super::is_loopback(&host) {
                reader.warn(format!("{}: its password crosses the network to the proxy unencrypted", value.path));
            }
            return Some(Proxy { host, port, login });
        }
        Err(why) => why,
    };
    url.problem(
        format!("is not a proxy: {why}"),
        "write `http://host:port`; a name and a password go into `username` and `password` beside `url`",
    );
    None
}

fn target(value: &Value<'_, '_>, reader: &Reader<'_>) -> Option<EndpointTarget> {
    let text = value.text()?;
    match parse_target(text) {
        Ok(EndpointTarget::Unix(path)) => Some(EndpointTarget::Unix(reader.base.join(path))),
        Ok(target) => Some(target),
        Err(why) => {
            value.problem(
                format!("is not an endpoint: {why}"),
                "write `unix:///path`, `http://host`, `https://host`, `tcp://host:port` or `tls://host:port`",
            );
            None
        }
    }
}

/// An address as it is written: everything but what comes after the port is checked.
pub(super) struct Address<'t> {
    pub scheme: &'t str,
    pub host: String,
    pub port: Option<u16>,
    pub path: &'t str,
}

fn parse_target(text: &str) -> Result<EndpointTarget, String> {
    if let Some(path) = text.strip_prefix("unix://") {
        has_no_space(text)?;
        return if path.is_empty() { Err("it has no path".into()) } else { Ok(EndpointTarget::Unix(path.into())) };
    }
    let Address { scheme, host, port, path } = parse_address(text, &SCHEMES)?;
    match scheme {
        "http" | "https" => {
            let tls = scheme == "https";
            let port = port.unwrap_or(if tls { 443 } else { 80 });
            Ok(EndpointTarget::Http { tls, host, port, base_path: path.trim_end_matches('/').to_owned() })
        }
        _ if !path.trim_end_matches('/').is_empty() => Err("a byte stream has no path".to_owned()),
        _ => match port {
            Some(port) => Ok(EndpointTarget::Stream { tls: scheme == "tls", host, port }),
            None => Err("it has no port".to_owned()),
        },
    }
}

fn has_no_space(text: &str) -> Result<(), String> {
    let space = text.chars().any(|c| c.is_whitespace() || c.is_control());
    if space { Err("it holds white space".to_owned()) } else { Ok(()) }
}

/// Never quotes the text: a person may have put a password into it.
pub(super) fn parse_address<'t>(text: &'t str, schemes: &[&'static str]) -> Result<Address<'t>, String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("it has no scheme".to_owned());
    };
    has_no_space(text)?;
    if !schemes.contains(&scheme) {
        let meant = suggestion(scheme, schemes.iter().copied());
        let meant = meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
        return Err(format!("`{}` is not a scheme it can have{meant}", shown(scheme)));
    }
    let (authority, path) = match rest.find(['/', '?', '#']) {
        Some(end) => rest.split_at(end),
        None => (rest, ""),
    };
    if authority.contains('@') {
        return Err("a name or password does not go into it, there are keys for them".to_owned());
    }
    if path.contains(['?', '#']) {
        return Err("it cannot have a query or a fragment".to_owned());
    }
    let authority: Authority = authority.parse().map_err(|_| "its host is malformed".to_owned())?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err("it has no host".to_owned());
    }
    let colon = authority.as_str().len() > authority.host().len();
    let port = authority.port_u16();
    if colon && port.is_none_or(|port| port == 0) {
        return Err("its port is not a number from 1 to 65535".to_owned());
    }
    Ok(Address { scheme, host, port, path })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets() {
        let http = |tls, host: &str, port, base: &str| EndpointTarget::Http {
            tls,
            host: host.into(),
            port,
            base_path: base.into(),
        };
        assert_eq!(parse_target("unix:///run/e.sock"), Ok(EndpointTarget::Unix("/run/e.sock".into())));
        assert_eq!(parse_target("http://h"), Ok(http(false, "h", 80, "")));
        assert_eq!(parse_target("https://h/base/"), Ok(http(true, "h", 443, "/base")));
        assert_eq!(parse_target("http://[::1]:81"), Ok(http(false, "::1", 81, "")));
        let stream = |tls| EndpointTarget::Stream { tls, host: "h".into(), port: 9 };
        assert_eq!(parse_target("tcp://h:9"), Ok(stream(false)));
        assert_eq!(parse_target("tls://h:9/"), Ok(stream(true)));
    }

    #[test]
    fn malformed_targets_say_what_is_wrong() {
        let check = |text: &str, expected: &str| assert_eq!(parse_target(text).unwrap_err(), expected, "{text}");
        check("/var/run/docker.sock", "it has no scheme");
        check("unix://", "it has no path");
        check("htps://h", "`htps` is not a scheme it can have (did you mean `https`?)");
        check("http://u:p@h", "a name or password does not go into it, there are keys for them");
        check("http://h?x", "it cannot have a query or a fragment");
        check("http://h:0", "its port is not a number from 1 to 65535");
        check("http://h:99999", "its port is not a number from 1 to 65535");
        check("tcp://h", "it has no port");
        check("tcp://h:1/x", "a byte stream has no path");
        check("http:// h", "it holds white space");
        check("http://", "its host is malformed");
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_a_panic(text in "(unix|http|https|tcp|tls)?(://)?.{0,40}") {
            let _ = parse_target(&text);
        }
    }
}
