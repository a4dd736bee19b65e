//! What a component may reach: names it was granted, spelled exactly so, and nothing below their base path.
//!
//! Pure: no request leaves from here. A name is the whole authority of a request, so that no address, no user name
//! and no port of a component's choice ever gets further than this file.

use http::{
    Uri,
    uri::{PathAndQuery, Scheme},
};
use percent_encoding::percent_decode_str;

use crate::{
    config::EndpointTarget,
    routing::{BackendName, EndpointName},
};

/// Why a name does not lead anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Without the text, which may be anything: what quotes it blanks out secrets first.
    #[error(
        "what it asks for is not the bare name of an endpoint; a component may name what it was granted, nothing else"
    )]
    NotAName,
    #[error("endpoint `{0}` is not granted")]
    NotGranted(EndpointName),
    #[error("the request names a path that could leave the base path of endpoint `{0}`")]
    Path(EndpointName),
}

impl Refused {
    /// With the configuration that would allow it.
    pub fn told(&self, backend: &BackendName) -> String {
        match self {
            Self::NotAName | Self::Path(_) => format!("backend `{backend}`: {self}"),
            Self::NotGranted(name) => format!(
                "backend `{backend}`: {self}; to grant it, write where it is into the configuration:\n\
                 backends:\n  {backend}:\n    endpoints:\n      {name}: \"unix:///…\""
            ),
        }
    }
}

/// The name in the authority of a request. Guests say `http`; `https` means the same, the host decides on TLS.
pub(super) fn name(uri: &Uri) -> Result<EndpointName, Refused> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let scheme = uri.scheme().ok_or(Refused::NotAName)?;
    if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
        return Err(Refused::NotAName);
    }
    // Whatever else an authority may hold, a name has neither `@` nor `:`.
    authority.strip_suffix(":80").unwrap_or(authority).parse().map_err(|_| Refused::NotAName)
}

/// The name given to `connect.open`.
pub(super) fn bare_name(text: &str) -> Result<EndpointName, Refused> {
    text.parse().map_err(|_| Refused::NotAName)
}

/// What goes into the request line.
pub(super) fn path(name: &EndpointName, base: &str, uri: &Uri) -> Result<PathAndQuery, Refused> {
    let refused = || Refused::Path(name.clone());
    let path = uri.path();
    if !path.starts_with('/') || (!base.is_empty() && climbs(path)) {
        return Err(refused());
    }
    let text = match uri.query() {
        Some(query) => format!("{base}{path}?{query}"),
        None => format!("{base}{path}"),
    };
    PathAndQuery::try_from(text).map_err(|_| refused())
}

/// Whether a server could read a step upwards out of it. Decoded twice, since proxies decode once more than they should.
fn climbs(path: &str) -> bool {
    let once = percent_decode_str(path).decode_utf8_lossy();
    let twice = percent_decode_str(&once).decode_utf8_lossy();
    [path, &once, &twice]
        .iter()
        .any(|text| text.split(['/', '\\']).any(|step| matches!(step.split(';').next(), Some(".." | "."))))
}

/// Where an endpoint is, for people. The configuration lets no secret into it.
pub(super) fn target_text(target: &EndpointTarget) -> String {
    match target {
        EndpointTarget::Unix(path) => format!("unix://{}", path.display()),
        EndpointTarget::Http { tls, host, port, base_path } => {
            let scheme = if *tls { "https" } else { "http" };
            format!("{scheme}://{}:{port}{base_path}", bracketed(host))
        }
        EndpointTarget::Stream { tls, host, port } => {
            let scheme = if *tls { "tls" } else { "tcp" };
            format!("{scheme}://{}:{port}", bracketed(host))
        }
    }
}

/// What goes into `Host`.
pub(super) fn host_text(target: &EndpointTarget) -> String {
    match target {
        EndpointTarget::Unix(_) => "localhost".to_owned(),
        EndpointTarget::Http { tls, host, port, .. } | EndpointTarget::Stream { tls, host, port } => {
            let usual = if *tls { 443 } else { 80 };
            if *port == usual { bracketed(host) } else { format!("{}:{port}", bracketed(host)) }
        }
    }
}

/// As a host stands before a port.
pub(super) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uri(scheme: &str, authority: &str) -> Option<Uri> {
        Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build().ok()
    }

    #[test]
    fn the_authority_is_a_name_and_nothing_else() {
        for (scheme, authority) in [("http", "engine"), ("https", "engine"), ("http", "engine:80")] {
            assert_eq!(name(&uri(scheme, authority).unwrap()).unwrap().as_str(), "engine", "{scheme}://{authority}");
        }
        for (scheme, authority) in [
            ("http", "Engine"),
            ("http", "engine:"),
            ("http", "engine:443"),
            ("http", "engine:8080"),
            ("http", "user@engine"),
            ("http", "user:pw@engine"),
            ("http", "user@engine:80"),
            ("http", "engine."),
            ("http", "127.0.0.1"),
            ("http", "[::1]"),
            ("http", "169.254.169.254:80"),
            ("ftp", "engine"),
        ] {
            if let Some(uri) = uri(scheme, authority) {
                assert!(matches!(name(&uri), Err(Refused::NotAName)), "{scheme}://{authority}");
            }
        }
        assert!(name(&Uri::from_static("/path")).is_err());
        assert!(bare_name("/run/engine.sock").is_err());
        assert!(bare_name("").is_err());
    }

    #[test]
    fn a_path_stays_below_its_base() {
        let name: EndpointName = "e".parse().unwrap();
        let check = |base: &str, path_and_query: &str| {
            let uri = Uri::builder().scheme("http").authority("e").path_and_query(path_and_query).build().unwrap();
            path(&name, base, &uri).map(|path| path.to_string()).ok()
        };
        assert_eq!(check("", "/v1/x?y=1").as_deref(), Some("/v1/x?y=1"));
        assert_eq!(check("/base", "/x").as_deref(), Some("/base/x"));
        assert_eq!(check("/base", "/").as_deref(), Some("/base/"));
        assert_eq!(check("/base", "?q").as_deref(), Some("/base/?q"));
        assert_eq!(check("/base", "/x/..hidden").as_deref(), Some("/base/x/..hidden"));
        assert_eq!(check("", "/a/../b").as_deref(), Some("/a/../b"));
        for climbing in
            ["/../x", "/a/..", "/%2e%2e/x", "/.%2E/x", "/a%2f..%2fx", "/a%5c..%5cx", "/%252e%252e/x", "/..;a/x", "/./x"]
        {
            assert_eq!(check("/base", climbing), None, "{climbing}");
        }
        assert_eq!(check("", "*"), None);
    }

    #[test]
    fn a_refusal_shows_what_would_allow_it() {
        let refused = Refused::NotGranted("engine".parse().unwrap());
        let told = refused.told(&"main".parse().unwrap());
        let (_, yaml) = told.split_once(":\nbackends").unwrap();
        assert_eq!(yaml, ":\n  main:\n    endpoints:\n      engine: \"unix:///…\"");
    }

    #[test]
    fn texts_of_targets() {
        let http =
            |tls, host: &str, port| EndpointTarget::Http { tls, host: host.into(), port, base_path: "/b".into() };
        assert_eq!(target_text(&EndpointTarget::Unix("/run/e.sock".into())), "unix:///run/e.sock");
        assert_eq!(target_text(&http(true, "::1", 8443)), "https://[::1]:8443/b");
        assert_eq!(host_text(&EndpointTarget::Unix("/run/e.sock".into())), "localhost");
        assert_eq!(host_text(&http(true, "h", 443)), "h");
        assert_eq!(host_text(&http(false, "::1", 81)), "[::1]:81");
    }

    proptest! {
        #[test]
        fn no_authority_but_the_name_is_taken_for_it(
            authority in "(engine|Engine|user)?[@:.]{0,2}(engine)?[-a-zA-Z0-9.:@%\\[\\]_]{0,12}"
        ) {
            if let Some(uri) = uri("http", &authority)
                && let Ok(name) = name(&uri)
            {
                let bare = authority.strip_suffix(":80").unwrap_or(&authority);
                prop_assert_eq!(name.as_str(), bare);
                prop_assert!(!bare.contains(['@', ':', '.', '[', '%']));
            }
        }

        #[test]
        fn a_path_that_is_let_through_never_climbs(path_text in "/([.%25eEfF/\\\\a;]{0,12})") {
            let name: EndpointName = "e".parse().unwrap();
            if let Ok(uri) = Uri::builder().scheme("http").authority("e").path_and_query(path_text.as_str()).build()
                && let Ok(path) = path(&name, "/base", &uri)
            {
                let decoded = percent_decode_str(path.path()).decode_utf8_lossy().into_owned();
                prop_assert!(!decoded.split(['/', '\\']).any(|step| step == ".."), "{}", decoded);
            }
        }
    }
}
