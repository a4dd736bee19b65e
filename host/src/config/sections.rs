//! The sections that are about pacer itself: `server`, `database`, `plugins`, `auth`, `retention`, `telemetry`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use secrecy::ExposeSecret;

use super::{
    Auth, Database, LogFormat, PluginLimits, Plugins, Retention, Server, Telemetry, is_loopback,
    reader::{Reader, Section},
    value::Value,
};
use crate::routing::shown;

pub(super) const ROOT: &[&str] =
    &["server", "github", "database", "plugins", "backends", "projects", "auth", "retention", "telemetry"];
pub(super) const SERVER: &[&str] = &["addr", "public_url", "owner", "shutdown_grace", "trusted_proxies"];
pub(super) const DATABASE: &[&str] = &["url"];
pub(super) const PLUGINS: &[&str] = &["dir", "cache_dir", "limits"];
pub(super) const LIMITS: &[&str] =
    &["file_size", "memory", "cpu", "response", "request", "requests", "log", "concurrency", "total_memory"];
pub(super) const AUTH: &[&str] = &["token", "disabled"];
pub(super) const RETENTION: &[&str] = &["jobs", "deliveries", "audit"];
pub(super) const TELEMETRY: &[&str] = &["log", "format"];

/// Shorter ones can be guessed; `openssl rand -hex 32` makes 64.
const SHORTEST_TOKEN: usize = 32;

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;

pub(super) fn server(root: &Section<'_, '_>, reader: &Reader<'_>, app_id: Option<u64>) -> Option<Server> {
    let section = root.section("server", SERVER);
    let addr = match section.get("addr") {
        None => Some(SocketAddr::from(([127, 0, 0, 1], 3000))),
        Some(value) => value.text().and_then(|text| {
            text.parse()
                .map_err(|_| {
                    let what = format!("is `{}`, not an address to listen on", shown(text));
                    value.problem(what, "write address and port, for instance `127.0.0.1:3000` or `[::]:3000`");
                })
                .ok()
        }),
    };
    let public_url = match section.get("public_url") {
        Some(value) => web_url(&value)
            .filter(|url| {
                let has_path = url.splitn(4, '/').count() > 3;
                if has_path {
                    value.problem("has a path", "pacer's pages are at `/`: give it a host name of its own");
                }
                !has_path
            })
            .inspect(|url| warn_plain_http(reader, "server.public_url", url)),
        None => {
            if let Some(addr) = addr
                && !addr.ip().is_loopback()
            {
                reader.warn("server.public_url is not set: machines and people elsewhere will not find this server");
            }
            addr.map(|addr| format!("http://{addr}"))
        }
    };
    let owner = match section.get("owner") {
        None => Some(format!("app-{}", app_id.unwrap_or_default())),
        Some(value) => value.text().and_then(|text| {
            let fits = (1..=63).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !fits {
                value.problem(format!("is `{}`", shown(text)), "use 1 to 63 of the characters a-z, 0-9 and `-`");
            }
            fits.then(|| text.to_owned())
        }),
    };
    let shutdown_grace = section.duration_or("shutdown_grace", Duration::from_secs(30));
    let proxies = section.get("trusted_proxies").map_or_else(Vec::new, |list| list.items());
    let proxies: Vec<_> = proxies.iter().map(network).collect();
    Some(Server {
        addr: addr?,
        public_url: public_url?,
        owner: owner?,
        shutdown_grace: shutdown_grace?,
        trusted_proxies: proxies.into_iter().collect::<Option<_>>()?,
    })
}

/// An address, or a network in CIDR notation.
fn network(value: &Value<'_, '_>) -> Option<IpNet> {
    let text = value.text()?;
    let network = text.parse().or_else(|_| text.parse().map(|address: IpAddr| address.into()));
    if network.is_err() {
        let what = format!("is `{}`, neither an address nor a network", shown(text));
        value.problem(what, "write for instance `10.0.0.7` or `10.0.0.0/8`");
    }
    network.ok()
}

/// An `http` or `https` address without query or trailing slash, scheme and host in lower case.
pub(super) fn web_url(value: &Value<'_, '_>) -> Option<String> {
    let text = value.text()?;
    let uri = text.parse::<http::Uri>().ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.query().is_none()
            && !text.contains('#')
    });
    let Some(uri) = uri else {
        // The text is not quoted: it may hold a password.
        value.problem("is not an `http://` or `https://` address", "write for instance `https://pacer.example.com`");
        return None;
    };
    let host = uri.authority()?.as_str().to_lowercase();
    Some(format!("{}://{host}{}", uri.scheme_str()?, uri.path().trim_end_matches('/')))
}

/// Whether what goes to this address can be read, and what comes from it replaced, on the way.
pub(super) fn is_in_clear(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    uri.scheme_str() == Some("http") && !uri.host().is_some_and(is_loopback)
}

pub(super) fn warn_plain_http(reader: &Reader<'_>, key: &str, url: &str) {
    if is_in_clear(url) {
        reader.warn(format!("{key}: tokens cross the network unencrypted; use `https://`"));
    }
}

pub(super) fn database(root: &Section<'_, '_>, reader: &Reader<'_>) -> Option<Database> {
    const HINT: &str = "write `sqlite:` and the path of a file, for instance `sqlite:pacer.db`";
    let section = root.section("database", DATABASE);
    let Some(value) = section.get("url") else {
        return Some(Database { url: format!("sqlite:{}", reader.resolve("pacer.db").display()) });
    };
    let text = value.text()?;
    // The text is not quoted: a database address may hold a password.
    let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")) else {
        let what = if text.starts_with("postgres") {
            "is PostgreSQL, which is not supported yet"
        } else {
            "is not a database"
        };
        value.problem(what, HINT);
        return None;
    };
    if path.is_empty() || path == ":memory:" || path.contains(['?', '#', '%']) || path.ends_with('/') {
        value.problem("does not name a file", HINT);
        return None;
    }
    Some(Database { url: format!("sqlite:{}", reader.resolve(path).display()) })
}

pub(super) fn plugins(root: &Section<'_, '_>, reader: &Reader<'_>) -> Option<Plugins> {
    let section = root.section("plugins", PLUGINS);
    let path = |key: &str, default: &str| -> Option<PathBuf> {
        section.get(key).map_or_else(|| Some(reader.resolve(default)), |value| value.path())
    };
    let dir = path("dir", "plugins");
    let cache_dir = path("cache_dir", ".pacer-cache");
    let limits = limits(&section.section("limits", LIMITS), &PluginLimits::default());
    Some(Plugins { dir: dir?, cache_dir: cache_dir?, limits: limits? })
}

/// Reads limits; what is not given is as in `base`.
pub(super) fn limits(section: &Section<'_, '_>, base: &PluginLimits) -> Option<PluginLimits> {
    let file_size = section.size_or("file_size", base.file_size);
    let memory = section.size_or("memory", base.memory);
    let cpu = section.duration_or("cpu", base.cpu);
    let response_size = section.size_or("response", base.response_size);
    let request_size = section.size_or("request", base.request_size);
    let requests = section.count_or("requests", base.requests);
    let log_size = section.size_or("log", base.log_size);
    let concurrency = section.count_or("concurrency", base.concurrency);
    let total_memory = section.size_or("total_memory", base.total_memory);
    if let (Some(memory), Some(total)) = (memory, total_memory)
        && memory > total
    {
        section.problem(
            "memory",
            "is more than `plugins.limits.total_memory`",
            "no call could ever start: lower it, or raise the total",
        );
    }
    Some(PluginLimits {
        file_size: file_size?,
        memory: memory?,
        cpu: cpu?,
        response_size: response_size?,
        request_size: request_size?,
        requests: requests?,
        log_size: log_size?,
        concurrency: concurrency?,
        total_memory: total_memory?,
    })
}

impl PluginLimits {
    /// Of `concurrency`, how many may be removals at once: one waits for its machine to stop, however long that takes,
    /// and must not keep machines from being made and looked at.
    pub fn removals(&self) -> u32 {
        (self.concurrency / 2).max(1)
    }
}

impl Default for PluginLimits {
    /// Room for a component in an interpreted language, and no more than a small machine can give.
    fn default() -> Self {
        Self {
            file_size: 64 << 20,
            memory: 64 << 20,
            cpu: Duration::from_secs(10),
            response_size: 16 << 20,
            request_size: 4 << 20,
            requests: 16,
            log_size: 64 << 10,
            concurrency: 32,
            total_memory: 2 << 30,
        }
    }
}

pub(super) fn auth(root: &Section<'_, '_>) -> Option<Auth> {
    const HINT: &str = "set `auth.token` to `${PACER_TOKEN}` (make one with `openssl rand -hex 32`), or, \
                        where everyone who reaches the server may do everything, `auth: { disabled: true }`";
    let section = root.section("auth", AUTH);
    let disabled = section.bool_or("disabled", false)?;
    match (section.get("token"), disabled) {
        (None, true) => Some(Auth::Disabled),
        (None, false) => {
            root.problem("auth", "has neither `token` nor `disabled: true`", HINT);
            None
        }
        (Some(value), true) => {
            value.problem("contradicts `auth.disabled: true`", "remove one of the two");
            None
        }
        (Some(value), false) => {
            let token = value.secret()?;
            let length = token.expose_secret().chars().count();
            if length < SHORTEST_TOKEN {
                value.problem(
                    format!("has {length} characters, fewer than {SHORTEST_TOKEN}"),
                    "make one with `openssl rand -hex 32`",
                );
                return None;
            }
            if !token.expose_secret().bytes().all(|b| b.is_ascii_graphic()) {
                value.problem("holds characters that cannot go into a header", "make one with `openssl rand -hex 32`");
                return None;
            }
            Some(Auth::Token(token))
        }
    }
}

pub(super) fn retention(root: &Section<'_, '_>) -> Option<Retention> {
    let section = root.section("retention", RETENTION);
    let days = |key: &str, days: u64| section.duration_or(key, Duration::from_secs(days * DAY));
    let (jobs, deliveries, audit) = (days("jobs", 90), days("deliveries", 14), days("audit", 365));
    // GitHub's delivery log goes back three days: a delivery forgotten earlier could be taken in twice.
    const SHORTEST: Duration = Duration::from_secs(4 * DAY);
    if deliveries.is_some_and(|kept| kept < SHORTEST) {
        section.problem("deliveries", "is less than `4d`", "GitHub may send a delivery of three days ago again");
        return None;
    }
    Some(Retention { jobs: jobs?, deliveries: deliveries?, audit: audit? })
}

pub(super) fn telemetry(root: &Section<'_, '_>) -> Option<Telemetry> {
    let section = root.section("telemetry", TELEMETRY);
    let log = match section.get("log") {
        None => Some("info".to_owned()),
        Some(value) => value.text().and_then(|text| {
            let fits = tracing_subscriber::EnvFilter::try_new(text).is_ok();
            if !fits {
                value.problem(
                    format!("is `{}`, not a log filter", shown(text)),
                    "write for instance `info,pacer=debug`",
                );
            }
            fits.then(|| text.to_owned())
        }),
    };
    let format = match section.get("format") {
        None => Some(LogFormat::Text),
        Some(value) => value.word(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
    };
    Some(Telemetry { log: log?, format: format? })
}

/// How long a runner may be in each state unless the pool says otherwise.
pub(super) const DEFAULT_TIMEOUTS: super::Timeouts = super::Timeouts {
    register: Duration::from_secs(MINUTE),
    create: Duration::from_secs(2 * MINUTE),
    boot: Duration::from_secs(5 * MINUTE),
    idle: Duration::from_secs(10 * MINUTE),
    run: Duration::from_secs(360 * MINUTE),
    stop: Duration::from_secs(2 * MINUTE),
};
