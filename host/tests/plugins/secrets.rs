//! A bootstrap that a component tries to tell.

use pacer::plugins::{Backends as _, InstanceState};
use serde_json::json;

use crate::support::{LONG, World, host, log, name, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_is_blanked_out_wherever_it_is_told() {
    let world = World::new("  leaky: { plugin: guest }\n  guest: { plugin: guest }", "");
    let host = world.start().await;
    let one_line = format!("eyJ-canary-{}", "0123456789abcdef".repeat(300));
    let script = format!("#!/bin/sh\nexport TOKEN=canary-two-{}\nrun it\n", "fedcba".repeat(10));
    for (secret, parts) in
        [(&one_line, vec!["canary-0123", "456789abcdef0123456789"]), (&script, vec!["canary-two", "fedcbafedcba"])]
    {
        for behaviour in ["leak", "leak-and-panic", "leak-as-state"] {
            let request = request("pacer-small-1", json!({ "behaviour": behaviour }), secret);
            let told = match host.create(&name("leaky"), request.into(), LONG).await {
                Ok(instance) => {
                    let InstanceState::Failed(reason) = instance.state else { panic!("{:?}", instance.state) };
                    reason
                }
                Err(error) => error.message,
            };
            // An error is cleared by the crate that the guest is built with already.
            let blank = if behaviour == "leak" { "[left out]" } else { "[secret]" };
            assert!(told.contains(blank), "{behaviour}: {told}");
            let health = format!("{:?}", host.status());
            for part in &parts {
                assert!(!told.contains(part), "{behaviour}: {told}");
                assert!(!health.contains(part), "{behaviour}: {health}");
            }
        }
        let log = log();
        assert!(log.contains("the configuration is [secret]"));
        for part in parts {
            assert!(!log.contains(part), "{part} is in the log");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_is_not_stored_as_a_handle() {
    let (_world, host) = host().await;
    let secret = format!("eyJ-canary-{}", "0123456789abcdef".repeat(20));
    let request = request("pacer-small-1", json!({ "behaviour": "leak-as-handle" }), &secret);
    let error = host.create(&name("guest"), request.into(), LONG).await.unwrap_err();
    assert!(error.message.contains("the handle of a machine holds a secret"), "{error}");
}
