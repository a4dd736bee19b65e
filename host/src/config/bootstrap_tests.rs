//! How machines become runners, as a pool says it.

use super::*;

fn with_bootstrap(bootstrap: &str) -> String {
    format!("{GITHUB}{REST}{PROJECT}      - {{ name: vm, backend: engine, bootstrap: {bootstrap} }}\n")
}

#[test]
fn a_pool_says_how_its_machines_become_runners() {
    let yaml = with_bootstrap(&format!(
        "{{ mode: inline, kind: cloud-init, user: ci, max_life: 8h, runner: {{ version: \"2.330.0\", sha256: {{ arm64: {} }}, mirror: \"https://m.example/runner/\", dir: /srv/runner/ }} }}",
        "AB".repeat(32)
    ));
    let config = Fixture::new().load(&yaml).unwrap();
    let pool = &config.projects[0].pools[0];
    let bootstrap = &pool.bootstrap;
    assert_eq!((bootstrap.mode, bootstrap.kind), (BootstrapMode::Inline, Some(BootstrapKind::CloudInit)));
    assert_eq!((bootstrap.user.as_str(), bootstrap.max_life), ("ci", Some(std::time::Duration::from_secs(8 * 3600))));
    let runner = &bootstrap.runner;
    assert_eq!(runner.version.as_deref(), Some("2.330.0"));
    assert_eq!(runner.sha256, BTreeMap::from([(Arch::Arm64, "ab".repeat(32))]));
    assert_eq!((runner.mirror.as_deref(), runner.dir.as_str()), (Some("https://m.example/runner"), "/srv/runner"));

    let latest = Fixture::new().load(&with_bootstrap("{ runner: { version: latest } }")).unwrap();
    assert_eq!(latest.projects[0].pools[0].bootstrap, crate::config::Bootstrap::default());
}

#[test]
fn a_bootstrap_that_cannot_work_is_refused() {
    for (bootstrap, expected) in [
        ("{ mode: outline }", "inline"),
        ("{ kind: ignition }", "cloud-init"),
        ("{ user: root }", "unprivileged user"),
        ("{ user: \"a b\" }", "unprivileged user"),
        ("{ runner: { version: \"2.330\" } }", "three numbers"),
        ("{ runner: { version: \"2.330.0\", sha256: { x64: abc } } }", "64 hexadecimal digits"),
        ("{ runner: { sha256: { x64: aa } } }", "is not a SHA-256"),
        ("{ runner: { mirror: \"https://user:pw@m.example\" } }", "without credentials"),
        ("{ runner: { mirror: \"ftp://m.example\" } }", "https://host/path"),
        ("{ runner: { mirror: \"http://m.example\" } }", "pin `version` and its `sha256`"),
        ("{ runner: { dir: runner } }", "absolute directory"),
        ("{ runner: { sha256: { sparc: aa } } }", "arm64"),
    ] {
        check(&with_bootstrap(bootstrap), expected);
    }
    let pinned = format!(
        "{{ runner: {{ mirror: \"http://m.example\", version: \"2.330.0\", sha256: {{ x64: {} }} }} }}",
        "a".repeat(64)
    );
    for bootstrap in [pinned.as_str(), "{ runner: { mirror: \"http://127.0.0.1:8080\" } }"] {
        Fixture::new().load(&with_bootstrap(bootstrap)).unwrap();
    }
    let unpinned = format!("{{ runner: {{ sha256: {{ x64: {} }} }} }}", "a".repeat(64));
    check(&with_bootstrap(&unpinned), "pin it with `version`");
}

#[test]
fn a_machine_lives_longer_than_its_job_may_take() {
    let pool = |text: &str| format!("{GITHUB}{REST}{PROJECT}      - {{ name: vm, backend: engine, {text} }}\n");
    let timeouts = "timeouts: { register: 1m, create: 2m, boot: 5m, idle: 10m, run: 1h, stop: 2m }";
    let hours = |config: &Config| config.projects[0].pools[0].max_life().as_secs_f64() / 3600.0;
    let load = |text: &str| Fixture::new().load(&pool(&format!("{timeouts}, {text}"))).unwrap();
    let warned = |config: &Config| config.warnings.iter().any(|text| text.contains("less than `timeouts.idle`"));

    check(&pool(&format!("{timeouts}, bootstrap: {{ max_life: 69m }}")), "write 70 min or more");
    let tight = load("bootstrap: { max_life: 70m }");
    assert!(warned(&tight), "{:?}", tight.warnings);
    let last_call = tight.projects[0].pools[0].last_call();
    assert_eq!(last_call, std::time::Duration::from_secs(8 * 60), "there is time to come up");
    let roomy = load("bootstrap: { max_life: 80m }");
    assert!(!warned(&roomy), "{:?}", roomy.warnings);

    let (cold, warm) = (load("enabled: true"), load("min_idle: 1"));
    assert!((hours(&cold) - 70.0 / 60.0 - 1.0).abs() < 1e-9, "{}", hours(&cold));
    assert!((hours(&warm) - 70.0 / 60.0 - 24.0).abs() < 1e-9, "{}", hours(&warm));
}
