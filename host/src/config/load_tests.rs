use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, path::PathBuf};

use proptest::prelude::*;
use secrecy::ExposeSecret;

use super::*;
use crate::config::{
    Arch, Auth, BootstrapKind, BootstrapMode, Credential, EndpointTarget, RunnerGroup, Scope, bootstrap, credential,
    endpoint, github, projects, sections, warm,
};

const RSA: &str = include_str!("testdata/rsa.pem");
const EC: &str = include_str!("testdata/ec.pem");

const GITHUB: &str = "github: { app_id: 1, private_key_path: key.pem, webhook_secret: s3cret }\n";
const REST: &str = "auth: { disabled: true }\nbackends:\n  engine: { plugin: docker }\n";
const PROJECT: &str = "projects:\n  - name: app\n    scope: repo\n    repos: [acme/app]\n    pools:\n";

/// A directory with what the configurations of these tests refer to.
struct Fixture {
    directory: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { directory: tempfile::tempdir().unwrap(), env: BTreeMap::new() };
        fixture.write("key.pem", RSA, 0o400);
        fixture.write("ec.pem", EC, 0o400);
        fixture.write("text.pem", "hello", 0o400);
        fixture.write("open.pem", RSA, 0o644);
        fixture.write("broken.pem", &RSA.replace("MII", "AII"), 0o400);
        fixture.write("public.pem", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", 0o400);
        fixture.write("secret", "from a file\n", 0o400);
        fixture
    }

    fn write(&self, name: &str, content: &str, mode: u32) {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn load(&self, yaml: &str) -> Result<Config, ConfigError> {
        self.write("config.yaml", yaml, 0o600);
        load(&self.path("config.yaml"), &self.env)
    }

    /// The whole message, with the directory left out.
    fn message(&self, yaml: &str) -> String {
        let error = self.load(yaml).expect_err(yaml);
        error.to_string().replace(&format!("{}/", self.directory.path().display()), "")
    }
}

/// Loads and expects this among what is wrong.
#[track_caller]
fn check(yaml: &str, expected: &str) {
    let message = Fixture::new().message(yaml);
    assert!(message.contains(expected), "expected\n{expected}\n\nin\n{message}\n\nof\n{yaml}");
}

#[track_caller]
fn check_pool(pools: &str, expected: &str) {
    check(&format!("{GITHUB}{REST}{PROJECT}{pools}"), expected);
}

#[track_caller]
fn good(yaml: &str) -> Config {
    Fixture::new().load(yaml).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_small_file_is_enough() {
    let config = good(&format!("{GITHUB}{REST}{PROJECT}      - {{ name: small, backend: engine }}\n"));
    assert_eq!(config.server.addr.to_string(), "127.0.0.1:3000");
    assert_eq!(config.server.owner, "app-1");
    assert_eq!(config.github.api_url, "https://api.github.com");
    assert!(config.database.url.starts_with("sqlite:/") && config.database.url.ends_with("/pacer.db"));
    assert!(config.plugins.dir.is_absolute() && config.plugins.cache_dir.ends_with(".pacer-cache"));
    assert_eq!(config.plugins.limits.total_memory, 2 << 30);
    assert_eq!(config.retention.jobs.as_secs(), 90 * 86_400);
    let pool = &config.projects[0].pools[0];
    assert_eq!((pool.priority, pool.max_runners, pool.warm.min_idle, pool.enabled), (100, 10, 0, true));
    assert_eq!(pool.timeouts.run.as_secs(), 6 * 3600);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn the_whole_message() {
    let yaml = format!("github:\n  app_id: 1\n  webhook_secret: s\n{REST}projects: []\n");
    assert_eq!(
        Fixture::new().message(&yaml),
        "config invalid: github.private_key_path required\n  at config.yaml:2:3\n  \
         name the `.pem` file that the App's page on GitHub lets you generate"
    );
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let message = Fixture::new().message("sever: {}\nretention: { jobs: 5 }\n");
    for expected in [
        "config invalid: sever is not a known key\n  at config.yaml:1:1\n  did you mean `server`? valid keys here: `server`,",
        "config invalid: github.app_id required",
        "config invalid: github.private_key_path required",
        "config invalid: github.webhook_secret required",
        "config invalid: auth has neither `token` nor `disabled: true`",
        "config invalid: retention.jobs has no unit\n  at config.yaml:2:20",
    ] {
        assert!(message.contains(expected), "{expected}\n\nin\n{message}");
    }
}

#[test]
fn the_key_of_the_app() {
    let key = |file: &str| format!("github: {{ app_id: 1, private_key_path: {file}, webhook_secret: s }}\n{REST}");
    check(
        &key("none.pem"),
        "config invalid: github.private_key_path required: `none.pem` cannot be read: No such file",
    );
    check(&key("."), "it is a directory");
    check(&key("text.pem"), "github.private_key_path is not a PEM file: `text.pem`");
    check(&key("ec.pem"), "github.private_key_path is not an RSA key but `EC PRIVATE KEY`: `ec.pem`");
    check(&key("public.pem"), "is a public key, not the App's private key");
    check(&key("broken.pem"), "or damaged: `broken.pem`");
    let config = good(&key("open.pem"));
    assert!(config.warnings[0].contains("has mode 0644; run `chmod 400"), "{:?}", config.warnings);
}

#[test]
fn secrets_and_where_they_come_from() {
    let github =
        |secret: &str| format!("github: {{ app_id: 1, private_key_path: key.pem, webhook_secret: {secret} }}\n{REST}");
    check(&github("''"), "github.webhook_secret is empty");
    check(&github("[]"), "github.webhook_secret has 0 secrets");
    check(&github("[a, '']"), "github.webhook_secret[1] is empty");
    check(
        &github("'${NOT_SET}'"),
        "github.webhook_secret refers to the environment variable `NOT_SET`, which is not set",
    );
    check(&github("file:none"), "github.webhook_secret unreadable: `none`");
    check(
        &github("12345"),
        "github.webhook_secret must be text, not a number\n  at config.yaml:1:65\n  put the value in quotes",
    );
    let mut fixture = Fixture::new();
    fixture.env.insert("SET".to_owned(), "from the environment".to_owned());
    let config = fixture.load(&github("['${SET}', file:secret, literal]")).unwrap();
    let secrets: Vec<_> = config.github.webhook_secrets.iter().map(|secret| secret.expose_secret()).collect();
    assert_eq!(secrets, ["from the environment", "from a file", "literal"]);
    let shown = format!("{config:?}");
    assert!(!shown.contains("from the environment") && !shown.contains("literal") && !shown.contains("RSA PRIVATE"));
}

#[test]
fn the_door() {
    let auth = |auth: &str| format!("{GITHUB}auth: {auth}\n");
    check(GITHUB, "auth has neither `token` nor `disabled: true`");
    check(&auth("{ disabled: false }"), "set `auth.token` to `${PACER_TOKEN}`");
    check(&auth("{ token: short }"), "auth.token has 5 characters, fewer than 32");
    check(&auth(&format!("{{ token: {}, disabled: true }}", "x".repeat(32))), "auth.token contradicts");
    let config = good(&auth(&format!("{{ token: {} }}", "x".repeat(32))));
    assert!(matches!(config.auth, Auth::Token(_)));
    check(&auth("yes"), "auth must be a mapping, not text");
}

#[test]
fn addresses_and_numbers() {
    let server = |server: &str| format!("{GITHUB}{REST}server: {server}\n");
    check(&server("{ addr: here }"), "server.addr is `here`, not an address to listen on");
    let config = good(&server("{ public_url: 'HTTPS://CI.Example.com/' }"));
    assert_eq!(config.server.public_url, "https://ci.example.com");
    check(&server("{ public_url: 'https://ci.example.com/pacer/' }"), "server.public_url has a path");
    check(&server("{ public_url: 'ftp://x' }"), "server.public_url is not an `http://` or `https://` address");
    check(&server("{ owner: A B }"), "server.owner is `A B`");
    check(&server("{ shutdown_grace: 0s }"), "server.shutdown_grace must be more than zero");
    check(&server("{ shutdown_grace: soon }"), "server.shutdown_grace is `soon`, not a duration");
    let plus = |text: &str| format!("{GITHUB}{REST}{text}\n");
    check(&plus("database: { url: 'postgres://u:pw@h/d' }"), "database.url is PostgreSQL, which is not supported yet");
    check(&plus("database: { url: 'sqlite::memory:' }"), "database.url does not name a file");
    check(&plus("plugins: { limits: { memory: 64 } }"), "plugins.limits.memory has no unit");
    check(&plus("plugins: { limits: { memory: 64mb } }"), "plugins.limits.memory is `64mb`, not a size");
    check(&plus("plugins: { limits: { memory: 4GiB } }"), "plugins.limits.memory is more than");
    check(&plus("plugins: { limits: { requests: 0 } }"), "plugins.limits.requests is 0");
    check(&plus("retention: { deliveries: 1d }"), "retention.deliveries is less than `4d`");
    check(&plus("telemetry: { format: xml }"), "telemetry.format is `xml`\n");
    check(&plus("telemetry: { log: 'a=b=c' }"), "telemetry.log is `a=b=c`, not a log filter");
    check(&plus("github: {}"), "github is given twice");
    check("github: [1, 2", "the file is not YAML");
    check("just text", "must be a mapping, not text");
    check(&GITHUB.replace("app_id: 1", "app_id: x"), "github.app_id must be a whole number, not text");
    check(&GITHUB.replace("app_id: 1", "app_id: 0"), "github.app_id is 0");
    let config = good(&plus("").replace("webhook_secret: s3cret", "webhook_secret: s, api_url: 'http://ghes.example'"));
    assert!(config.warnings.iter().any(|warning| warning.starts_with("github.api_url:")), "{:?}", config.warnings);
}

#[test]
fn backends_and_endpoints() {
    let backend = |backend: &str| format!("{GITHUB}auth: {{ disabled: true }}\nbackends: {{ b: {backend} }}\n");
    check(&backend("{}"), "backends.b.plugin required");
    check(&backend("{ plugin: ../x }"), "backends.b.plugin is `../x`");
    check(&backend("{ plugin: d, digest: abc }"), "backends.b.digest is not a SHA-256");
    check(&backend("{ plugin: d, settings: [] }"), "backends.b.settings must be a mapping, not a list");
    check(
        &backend("{ plugin: d, limits: { total_memory: 1GiB } }"),
        "backends.b.limits.total_memory is not a known key",
    );
    check(
        &backend("{ plugin: d, endpoints: { e: /x } }"),
        "backends.b.endpoints.e is not an endpoint: it has no scheme",
    );
    check(&backend("{ plugin: d, endpoints: { E!: 'http://x' } }"), "backends.b.endpoints.E! is malformed");
    check(&backend("{ plugin: d, endpoints: { e: { ca: x } } }"), "backends.b.endpoints.e.url required");
    check(
        &backend("{ plugin: d, endpoints: { e: { url: 'https://x', ca: text.pem } } }"),
        "is not a PEM file of certificates",
    );
    check(
        &backend("{ plugin: d, endpoints: { e: { url: 'https://x', credential: {} } } }"),
        "must have exactly one way",
    );
    check(
        &backend(
            "{ plugin: d, endpoints: { e: { url: 'https://x', credential: { header: { name: Host, value: v } } } } }",
        ),
        "is `Host`, not a header field that can be set",
    );
    let config = good(&backend(
        "{ plugin: d.wasm, endpoints: { a: 'unix:///x', h: { url: 'https://h', credential: { bearer: t0ken } } } }",
    ));
    let backend = &config.backends[&"b".parse().unwrap()];
    assert_eq!(backend.plugin, "d");
    assert_eq!(backend.endpoints[&"a".parse().unwrap()].target, EndpointTarget::Unix("/x".into()));
    assert!(matches!(backend.endpoints[&"h".parse().unwrap()].credential, Some(Credential::Bearer(_))));
}

#[test]
fn projects_and_pools() {
    check_pool(
        "      - { name: a, backend: enginee }\n",
        "which is not in `backends`\n  at config.yaml:10:29\n  did you mean `engine`? the backends are `engine`",
    );
    check_pool(
        "      - { name: a, backend: engine, default: true }\n      - { name: b, backend: engine, default: true }\n",
        "projects[0].pools[1].default is the second default of project `app`, after `projects[0].pools[0]`",
    );
    check_pool(
        "      - { name: a, backend: engine, labels: ['***'] }\n",
        "projects[0].pools[0].labels[0] is `***`, of which nothing is left as a label",
    );
    check_pool(
        "      - { name: a, backend: engine }\n      - { name: a, backend: engine }\n",
        "projects[0].pools[1].name is `a`, as that of",
    );
    check_pool("      - { name: A b, backend: engine }\n", "is `A b`, which is not a normal label");
    check_pool("      - { name: '-', backend: engine }\n", "of which no label can be made");
    check_pool("      - { name: a, backend: engine, max_runners: 0 }\n", "max_runners must be more than zero");
    check_pool("      - { name: a, backend: engine, min_idle: 11 }\n", "asks for 11 idle runners, more than the 10");
    check_pool(
        "      - { name: a, backend: engine, timeouts: { boot: 0s } }\n",
        "timeouts.boot must be more than zero",
    );
    check_pool(
        "      - { name: a, backend: engine, lables: [] }\n",
        "projects[0].pools[0].lables is not a known key\n  at config.yaml:10:37\n  did you mean `labels`?",
    );
    check_pool("      - { name: a, backend: engine, settings: { x: 1, x: 2 } }\n", "settings.x is given twice");
    check_pool("      - { name: a, name: b, backend: engine }\n", "projects[0].pools[0].name is given twice");
    check_pool("      []\n", "projects[0].pools is empty");
    let many: Vec<_> = (0..98).map(|n| format!("l{n}")).collect();
    check_pool(
        &format!("      - {{ name: a, backend: engine, labels: [{}] }}\n", many.join(", ")),
        "of which `a` has 102 labels",
    );
    check_pool(
        &format!("      - {{ name: a, backend: engine, labels: [{}] }}\n", "x".repeat(257)),
        "has 257 characters",
    );
}

#[test]
fn scopes() {
    let projects = |projects: &str| format!("{GITHUB}{REST}projects:\n{projects}");
    let pools = "pools: [{ name: a, backend: engine }]";
    check(&projects(&format!("  - {{ name: p, scope: repo, {pools} }}\n")), "projects[0].repos required");
    check(&projects(&format!("  - {{ name: p, scope: repo, repos: [], {pools} }}\n")), "projects[0].repos is empty");
    check(
        &projects(&format!("  - {{ name: p, scope: repo, repos: [x], {pools} }}\n")),
        "projects[0].repos[0] is malformed",
    );
    check(&projects(&format!("  - {{ name: p, scope: org, {pools} }}\n")), "projects[0].org required");
    check(&projects(&format!("  - {{ name: p, scope: all, {pools} }}\n")), "projects[0].scope is `all`\n");
    check(
        &projects(&format!("  - {{ name: p, scope: repo, repos: [a/b], org: x, {pools} }}\n")),
        "projects[0].org belongs to `scope: org`",
    );
    check(
        &projects(&format!(
            "  - {{ name: p, scope: repo, repos: [a/b], {pools} }}\n  - {{ name: q, scope: repo, repos: [A/B], {pools} }}\n"
        )),
        "projects[1].repos[0] is `A/B`, which project `p` has already",
    );
    check(
        &projects(&format!(
            "  - {{ name: p, scope: org, org: a, {pools} }}\n  - {{ name: q, scope: org, org: A, {pools} }}\n"
        )),
        "projects[1].org is `A`, which project `p` has already",
    );
    check(
        &projects(&format!(
            "  - {{ name: p, scope: org, org: a, {pools} }}\n  - {{ name: p, scope: org, org: b, {pools} }}\n"
        )),
        "projects[1].name is `p`, as that of `projects[0]`",
    );
    let config = good(&projects(&format!("  - {{ name: p, scope: org, org: Acme, runner_group: 7, {pools} }}\n")));
    assert_eq!(config.projects[0].scope, Scope::Org { login: "Acme".to_owned(), runner_group: RunnerGroup::Id(7) });
}

#[test]
fn the_example_loads_and_shows_every_key() {
    let example = include_str!("../../../config.example.yaml");
    let mut fixture = Fixture::new();
    fixture.write("gh-app.pem", RSA, 0o400);
    fixture.env.insert("PACER_WEBHOOK_SECRET".to_owned(), "s".to_owned());
    fixture.env.insert("PACER_TOKEN".to_owned(), "x".repeat(32));
    let config = fixture.load(example).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.warnings, Vec::<String>::new());

    let shown = keys_shown(example);
    let sets = [
        ("", sections::ROOT),
        ("server", sections::SERVER),
        ("database", sections::DATABASE),
        ("plugins", sections::PLUGINS),
        ("plugins.limits", sections::LIMITS),
        ("auth", sections::AUTH),
        ("retention", sections::RETENTION),
        ("telemetry", sections::TELEMETRY),
        ("github", github::GITHUB),
        ("backends.engine", projects::BACKEND),
        ("backends.engine.endpoints.engine", endpoint::ENDPOINT),
        ("backends.engine.endpoints.engine.proxy", endpoint::PROXY),
        ("backends.engine.endpoints.engine.credential", credential::CREDENTIAL),
        ("backends.engine.endpoints.engine.credential.basic", credential::BASIC),
        ("backends.engine.endpoints.engine.credential.header", credential::HEADER),
        ("backends.engine.endpoints.engine.credential.aws_sigv4", credential::AWS_SIGV4),
        ("backends.engine.endpoints.engine.credential.oauth2", credential::OAUTH2),
        ("projects", projects::PROJECT),
        ("projects.pools", projects::POOL),
        ("projects.pools.timeouts", projects::TIMEOUTS),
        ("projects.pools.bootstrap", bootstrap::BOOTSTRAP),
        ("projects.pools.bootstrap.runner", bootstrap::RUNNER),
        ("projects.pools.warm", warm::WINDOW),
    ];
    for (section, keys) in sets {
        for key in keys {
            let path = format!("{section}.{key}");
            let path = path.trim_start_matches('.');
            assert!(shown.contains(path), "`{path}` is not in config.example.yaml");
        }
    }
    assert!(projects::BACKEND_LIMITS.iter().all(|key| sections::LIMITS.contains(key)), "explained at `plugins.limits`");
}

/// The paths of all keys, commented out or not, by their indentation; several in braces on a line belong to its first.
fn keys_shown(example: &str) -> std::collections::BTreeSet<String> {
    let mut shown = std::collections::BTreeSet::new();
    let mut open: Vec<(usize, String)> = Vec::new();
    for line in example.lines() {
        let indent = line.len() - line.trim_start().len();
        let text = line[indent..].strip_prefix("# ").unwrap_or(&line[indent..]);
        let deeper = text.len() - text.trim_start().len();
        let (item, text) = match text.trim_start().strip_prefix("- ") {
            Some(item) => (2, item),
            None => (0, text.trim_start()),
        };
        let indent = indent + deeper + item;
        let mut keys = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c)));
        let mut keys = keys.by_ref().filter_map(|word| word.strip_suffix(':')).filter(|key| !key.is_empty());
        open.retain(|(at, _)| *at < indent);
        let parent: Vec<_> = open.iter().map(|(_, key)| key.clone()).collect();
        let path = |below: &[String], key: &str| [below, &[key.to_owned()]].concat().join(".");
        if text.starts_with('{') {
            shown.extend(keys.map(|key| path(&parent, key)));
        } else if let Some(first) = keys.next().filter(|first| text.starts_with(&format!("{first}:"))) {
            shown.insert(path(&parent, first));
            open.push((indent, first.to_owned()));
            let below = [parent, vec![first.to_owned()]].concat();
            shown.extend(keys.map(|key| path(&below, key)));
        }
    }
    shown
}

#[test]
fn a_file_that_is_not_there() {
    let fixture = Fixture::new();
    let error = load(&fixture.path("none.yaml"), &fixture.env).unwrap_err().to_string();
    assert!(error.starts_with("config invalid: `") && error.contains("cannot be read: No such file"), "{error}");
    assert!(error.contains("`--config FILE`"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_text_is_judged_without_a_panic(text in "(\\PC|[\\n:\\[\\]{} ,'\"&*-]){0,200}") {
        let env = BTreeMap::new();
        let _ = parse(&text, Path::new("c.yaml"), Path::new("/nonexistent/c.yaml"), &env);
    }
}

#[test]
fn what_machines_fetch_in_clear_is_warned_of() {
    for (url, warned) in
        [("http://pacer.example", true), ("http://127.0.0.1:3000", false), ("https://pacer.example", false)]
    {
        let server = format!("server: {{ public_url: \"{url}\" }}\n");
        let config = Fixture::new().load(&format!("{GITHUB}auth: {{ disabled: true }}\n{server}")).unwrap();
        let found = config.warnings.iter().any(|text| text.contains("server.public_url: tokens cross the network"));
        assert_eq!(found, warned, "{url}: {:?}", config.warnings);
    }
}

#[test]
fn a_trusted_proxy_is_a_network() {
    let server = "server: { trusted_proxies: [10.0.0.0/8, \"fd00::/8\"] }\n";
    let config = Fixture::new().load(&format!("{GITHUB}auth: {{ disabled: true }}\n{server}")).unwrap();
    assert_eq!(config.server.trusted_proxies.len(), 2);
    check(
        &format!("{GITHUB}auth: {{ disabled: true }}\nserver: {{ trusted_proxies: [proxy.example] }}\n"),
        "trusted_proxies",
    );
}

#[path = "credential_tests.rs"]
mod credentials;

#[path = "documents_tests.rs"]
mod documents;

#[test]
fn a_pool_says_when_it_is_warm() {
    let pool = |more: &str| format!("{GITHUB}{REST}{PROJECT}      - {{ name: vm, backend: engine, {more} }}\n");
    let yaml = pool(
        "min_idle: 1, time_zone: Europe/Berlin, warm: [{ days: [mon, fri], from: \"08:00\", to: \"24:00\", min_idle: 4 }]",
    );
    let config = Fixture::new().load(&yaml).unwrap();
    let warm = &config.projects[0].pools[0].warm;
    assert_eq!((warm.min_idle, warm.most(), warm.zone.iana_name()), (1, 4, Some("Europe/Berlin")));
    // A Monday evening in Berlin.
    assert_eq!(warm.at("2026-11-23T22:59:00Z".parse().unwrap()), (4, Some("2026-11-23T23:00:00Z".parse().unwrap())));
    for (more, expected) in [
        ("time_zone: Europe/Berlin", "add `warm`"),
        ("warm: [{ from: \"8\", to: \"9:00\", min_idle: 1 }]", "is no time of the day"),
        ("warm: [{ from: \"25:00\", to: \"9:00\", min_idle: 1 }]", "is no time of the day"),
        ("warm: [{ from: \"08:00\", to: \"09:00\" }]", "how many idle runners"),
        ("warm: [{ days: [moon], from: \"08:00\", to: \"09:00\", min_idle: 1 }]", "mon"),
        ("time_zone: Berlin, warm: [{ from: \"08:00\", to: \"09:00\", min_idle: 1 }]", "is no time zone"),
        ("max_runners: 2, warm: [{ from: \"08:00\", to: \"09:00\", min_idle: 3 }]", "asks for 3 idle runners"),
        ("timeouts: { boot: 2h }", "longer than makes sense"),
        ("timeouts: { run: 6d }", "write 120 h at most"),
    ] {
        check(&pool(more), expected);
    }
}

#[path = "bootstrap_tests.rs"]
mod bootstraps;
