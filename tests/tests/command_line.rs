//! The commands as a person types them: exit code and words.

use pacer_tests::{
    binaries,
    pacer::WEBHOOK_SECRET,
    process::{Process, Said, run, run_with},
    wait::{SOON, eventually},
    webhook::JobPayload,
    world::{REPO, World},
};
use rustix::process::Signal;
use serde_json::Value;

#[tokio::test]
async fn version_names_itself() {
    let said = run(binaries::pacer(), &["version"], &std::env::temp_dir());
    assert_eq!(said.code, 0, "{}", said.all());
    assert!(said.out.contains(env!("CARGO_PKG_VERSION")), "{}", said.out);
}

#[tokio::test]
async fn every_command_has_a_help_and_a_mistyped_one_says_which() {
    for command in [
        &["serve"][..],
        &["check"],
        &["match"],
        &["explain"],
        &["plugin", "list"],
        &["plugin", "inspect"],
        &["version"],
    ] {
        let mut arguments = command.to_vec();
        arguments.push("--help");
        let said = run(binaries::pacer(), &arguments, &std::env::temp_dir());
        assert_eq!(said.code, 0, "{command:?}: {}", said.all());
        assert!(said.out.contains("Usage"), "{command:?}: {}", said.out);
    }
    let said = run(binaries::pacer(), &["sevre"], &std::env::temp_dir());
    assert_eq!(said.code, 2);
    assert!(said.err.contains("serve"), "{}", said.err);
}

#[tokio::test]
async fn without_a_configuration_every_command_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["serve", "check"] {
        let said = run(binaries::pacer(), &[command], folder.path());
        assert_ne!(said.code, 0);
        assert!(said.all().contains("config.yaml"), "{}", said.all());
    }
}

#[tokio::test]
async fn the_configuration_is_found_by_option_variable_and_place_and_its_paths_go_from_it() {
    let world = World::start().await;
    let pacer = world.pacer().prepare();
    let elsewhere = tempfile::tempdir().unwrap();
    let config = pacer.config_path().to_str().unwrap().to_owned();
    let fine = |said: Said| assert_eq!(said.code, 0, "{}", said.all());
    fine(run(binaries::pacer(), &["check", "--config", &config], elsewhere.path()));
    let variable = [("PACER_CONFIG".to_owned(), config)];
    fine(run_with(binaries::pacer(), &["check"], elsewhere.path(), &variable));
    fine(run(binaries::pacer(), &["check"], pacer.folder()));
    // The option wins.
    let said = run_with(binaries::pacer(), &["check", "--config", "none.yaml"], elsewhere.path(), &variable);
    assert!(said.code == 1 && said.all().contains("none.yaml"), "{}", said.all());

    // Served from elsewhere, everything is still beside the file.
    let mut command = std::process::Command::new(binaries::pacer());
    command.arg("serve").current_dir(elsewhere.path()).envs(variable);
    let mut process = Process::start(command, &elsewhere.path().join("log")).unwrap();
    eventually("it serves", SOON, async || pacer.api.try_get("/readyz").await.ok().filter(|ready| ready.status == 200))
        .await;
    process.signal(Signal::TERM);
    assert!(process.wait(SOON).await.is_some_and(|status| status.success()), "{}", process.log());
    assert!(pacer.folder().join("pacer.db").is_file());
    let there: Vec<_> = std::fs::read_dir(elsewhere.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(there, ["log"]);
}

#[tokio::test]
async fn an_endpoint_that_is_missing_is_an_error_of_check() {
    let world = World::start().await;
    let pacer = world.pacer().backends("  sim: { plugin: simulated }").prepare();
    let said = pacer.command(&["check"]);
    assert_eq!(said.code, 1, "{}", said.all());
    assert!(said.all().contains("`cloud`") && said.all().contains("backends.sim.endpoints"), "{}", said.all());
}

#[tokio::test]
async fn check_passes_on_a_good_configuration() {
    let world = World::start().await;
    let pacer = world.pacer().prepare();
    let said = pacer.command(&["check"]);
    assert_eq!(said.code, 0, "{}", said.all());
}

#[tokio::test]
async fn check_names_each_fault_its_place_and_the_way_out() {
    let world = World::start().await;
    for (from, to, expected) in [
        ("priority: 100", "prioritty: 100", &["prioritty", "priority"][..]),
        ("priority: 100", "priority: high", &["priority"]),
        ("labels: [linux, x64]", "labels: [\"---\"]", &["---", "label"]),
        ("backend: sim", "backend: nowhere", &["nowhere", "sim"]),
        ("max_runners: 10", "max_runners: -1", &["max_runners"]),
        (
            "private_key_path: gh-app.pem",
            "private_key_path: missing.pem",
            &["config invalid: github.private_key_path required: `", "missing.pem` cannot be read: No such file"],
        ),
        ("private_key_path: gh-app.pem, ", "", &["config invalid: github.private_key_path required"]),
        ("plugin: simulated", "plugin: unheard-of", &["unheard-of"]),
        ("[octocat/hello-world]", "[octocat]", &["octocat", "owner/name"]),
    ] {
        let pacer = world.pacer().prepare();
        pacer.edit_config(from, to);
        let said = pacer.command(&["check"]);
        assert_ne!(said.code, 0, "`{to}` passes: {}", said.all());
        for word in expected {
            assert!(said.all().contains(word), "`{to}`: `{word}` is not said: {}", said.all());
        }
        // A backend that cannot be loaded does not keep the others from serving.
        if !to.starts_with("plugin: ") {
            let served = pacer.command(&["serve"]);
            assert_ne!(served.code, 0, "`{to}` is served: {}", served.all());
        }
    }
}

#[tokio::test]
async fn a_key_that_is_none_is_told_apart_from_one_that_is_missing() {
    let world = World::start().await;
    let pacer = world.pacer().prepare();
    std::fs::write(pacer.folder().join("gh-app.pem"), "not a key\n").unwrap();
    let said = pacer.command(&["check"]);
    assert_ne!(said.code, 0);
    assert!(said.all().contains("gh-app.pem"), "{}", said.all());
    assert!(!said.all().contains("not a key\n"), "the file's content is not repeated");
}

#[tokio::test]
async fn two_defaults_are_one_too_many() {
    let world = World::start().await;
    let pacer = world.pacer().projects(
        "  - { name: my-app, scope: repo, repos: [octocat/hello-world], pools: [
             { name: a, backend: sim, default: true }, { name: b, backend: sim, default: true } ] }",
    );
    let said = pacer.prepare().command(&["check"]);
    assert_ne!(said.code, 0);
    assert!(said.all().contains("default"), "{}", said.all());
}

#[tokio::test]
async fn match_prints_the_tree_of_reasons() {
    let world = World::start().await;
    let pacer = world.pacer().prepare();
    let said = pacer.command(&["match", "--repo", REPO, "--labels", "self-hosted,linux"]);
    assert_eq!(said.code, 0, "{}", said.all());
    assert!(said.out.contains("small"), "{}", said.out);

    let json = pacer.command(&["match", "--repo", REPO, "--labels", "self-hosted,linux", "--json"]);
    assert!(serde_json::from_str::<Value>(&json.out).is_ok(), "{}", json.out);

    let spaced = pacer.command(&["match", "--repo", REPO, "--labels", "self-hosted, linux"]);
    assert_eq!(spaced.out, said.out, "{}", spaced.err);

    let nothing = pacer.command(&["match", "--repo", REPO, "--labels", "self-hosted,gpu"]);
    assert_ne!(nothing.code, 0, "scripts see that nothing fits: {}", nothing.all());
    assert!(nothing.out.contains("gpu"), "the missing label is named: {}", nothing.all());
}

#[tokio::test]
async fn explain_says_why_a_job_is_where_it_is() {
    let world = World::start().await;
    let pacer = world.pacer().prepare();
    pacer.edit_config("max_runners: 10", "max_runners: 1");
    let mut pacer = pacer;
    pacer.start().await;
    for id in [7000, 7001] {
        JobPayload::queued(id, REPO, &["self-hosted"]).signed(WEBHOOK_SECRET).send(&pacer.api).await;
    }
    for id in ["7001-1", "7001"] {
        let said = pacer.command(&["explain", id]);
        assert_eq!(said.code, 0, "{}", said.all());
        assert!(said.out.contains("max_runners"), "the cap that holds it is named: {}", said.out);
        let json = pacer.command(&["explain", id, "--json"]);
        assert!(serde_json::from_str::<Value>(&json.out).is_ok(), "{}", json.out);
    }
    let unknown = pacer.command(&["explain", "9999-1"]);
    assert_ne!(unknown.code, 0);
    assert!(unknown.all().contains("9999-1"), "{}", unknown.all());
    assert_ne!(pacer.command(&["explain", "not-a-job"]).code, 0);
}

#[tokio::test]
async fn plugins_are_listed_and_introduce_themselves() {
    let world = World::start().await;
    let pacer = world.pacer().prepare();
    let list = pacer.command(&["plugin", "list"]);
    assert_eq!(list.code, 0, "{}", list.all());
    assert!(list.out.contains("docker") && list.out.contains("simulated"), "{}", list.out);
    let inspect = pacer.command(&["plugin", "inspect", "docker"]);
    assert_eq!(inspect.code, 0, "{}", inspect.all());
    for word in ["engine", "image"] {
        assert!(inspect.out.contains(word), "{}", inspect.out);
    }
    let unknown = pacer.command(&["plugin", "inspect", "unheard-of"]);
    assert_ne!(unknown.code, 0);
    assert!(unknown.all().contains("unheard-of"), "{}", unknown.all());
}
