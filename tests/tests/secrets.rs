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
    let world = World::start().await;
    let pacer = world
        .pacer()
        .auth("{ token: \"${PACER_TOKEN}\" }")
        .env("PACER_TOKEN", TOKEN)
        .section("telemetry: { log: \"trace,hyper=debug,h2=info\" }")
        .start()
        .await;
    world.deliver_to(&pacer);
    // Errors are where secrets slip out.
    world.simulator.github.faults().next("jit", 1, Fault::Status { status: 502 });
    world.simulator.cloud.faults().next("create", 1, Fault::Garbage);
    world.queue(6, Duration::from_millis(300));
    world.settled().await;

    let api = pacer.api.with_token(Some(TOKEN));
    let mut said = String::new();
    for path in ["jobs", "runners", "backends", "pools", "deliveries", "audit"] {
        said.push_str(&api.get(&format!("/api/v1/{path}")).await.text);
    }
    for path in ["/metrics", "/jobs", "/runners", "/backends", "/readyz"] {
        said.push_str(&api.get(path).await.text);
    }
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
