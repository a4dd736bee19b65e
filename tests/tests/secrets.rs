//! No secret that the server was given, or got, is in anything it writes or says.

use std::time::Duration;

use pacer_simulator::faults::Fault;
use pacer_tests::{
    pacer::WEBHOOK_SECRET,
    secrets::{Secret, found_in, found_under},
    world::World,
};

const TOKEN: &str = "a-token-of-the-tests-that-is-long-enough-0123";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_written_or_said_holds_a_secret() {
    holds_no_secret("text").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_logged_in_json_holds_a_secret() {
    holds_no_secret("json").await;
}

async fn holds_no_secret(format: &str) {
    let world = World::start().await;
    let pacer = world
        .pacer()
        .auth("{ token: \"${PACER_TOKEN}\" }")
        .env("PACER_TOKEN", TOKEN)
        .section(&format!("telemetry: {{ log: \"trace,hyper=debug,h2=info\", format: {format} }}"))
        .start()
        .await;
    world.deliver_to(&pacer);
    // Errors are where secrets slip out.
    world.simulator.github.faults().next("jit", 1, Fault::Status { status: 502 });
    world.simulator.cloud.faults().next("create", 1, Fault::Garbage);
    world.queue(6, Duration::from_millis(300));
    world.settled().await;

    let api = pacer.api.with_token(Some(TOKEN));
    let (jobs, runners) = (api.jobs().await, api.runners().await);
    let mut paths: Vec<String> =
        ["jobs", "runners", "backends", "pools", "deliveries", "audit"].map(|list| format!("/api/v1/{list}")).into();
    paths.extend(["/metrics", "/jobs", "/runners", "/backends", "/readyz"].map(str::to_owned));
    for job in &jobs {
        paths.extend([format!("/jobs/{}", job.id), format!("/api/v1/jobs/{}", job.id)]);
    }
    for runner in &runners {
        paths.extend([format!("/runners/{}", runner.name), format!("/api/v1/runners/{}", runner.name)]);
    }
    assert!(jobs.len() == 6 && runners.len() >= 6, "{} jobs, {} runners", jobs.len(), runners.len());
    let mut said = String::new();
    for path in paths {
        let answer = api.get(&path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        said.push_str(&answer.text);
    }
    let explained = pacer.command(&["explain", &jobs[0].id]);
    assert!(explained.out.starts_with(&format!("job {}", jobs[0].id)), "{}", explained.all());
    said.push_str(&explained.all());
    let check = pacer.command(&["check", "--online"]);
    assert!(check.all().contains("the simulator's small cloud"), "it was checked: {}", check.all());
    said.push_str(&check.all());

    let github = &world.simulator.github;
    let (jit_configs, tokens) = (github.jit_configs(), github.tokens());
    assert!(jit_configs.len() >= 6 && !tokens.is_empty(), "there is something to look for");
    let mut secrets =
        vec![Secret::new("the webhook secret", WEBHOOK_SECRET), Secret::new("the console's token", TOKEN)];
    secrets.extend(Secret::of_pem("the App's key", github.private_key_pem()));
    secrets.extend(jit_configs.iter().map(|config| Secret::new("a runner's configuration", config)));
    secrets.extend(tokens.iter().map(|token| Secret::new("an installation's token", token)));

    assert_eq!(found_in(said.as_bytes(), &secrets), Vec::<String>::new());
    // The configuration and the key are the operator's own files.
    let own = ["config.yaml", "gh-app.pem"].map(|name| pacer.folder().join(name));
    assert_eq!(found_under(pacer.folder(), &own, &secrets), Vec::<String>::new());
    assert!(pacer.folder().join("pacer.db").is_file(), "the database was looked at");
}
