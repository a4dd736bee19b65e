//! Runners outside of this process: the wire, and the script that speaks it.

use std::{
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pacer_simulator::github::NewJob;
use reqwest::Method;
use serde_json::Value;

use crate::play::{Answer, As, Play, REPO};

async fn call(play: &Play, method: Method, path: &str) -> Answer {
    play.try_call(As::Nobody, method, path, None).await.expect("an answer")
}

/// Where a configuration says to connect.
fn connect_path(config: &str) -> String {
    let config: Value = serde_json::from_slice(&STANDARD.decode(config).expect("base64")).expect("JSON");
    format!("/_runner/connect?id={}&secret={}", config["id"], config["secret"].as_str().expect("a secret"))
}

#[tokio::test]
async fn a_runner_outside_connects_once_takes_a_job_and_reports_it() {
    let play = Play::start().await;
    let token = play.token().await;
    let (id, config) = play.jit(&token, "pacer-out", &["linux"]).await;
    let connect = connect_path(&config);
    assert_eq!(call(&play, Method::POST, &format!("/_runner/connect?id={id}&secret=guess")).await.status, 404);
    let session = call(&play, Method::POST, &connect).await.text;
    assert_eq!(call(&play, Method::POST, &connect).await.status, 409);

    let job = play.simulator.github.queue(NewJob::new(REPO, &["linux"], Duration::from_millis(1500)));
    let assigned = call(&play, Method::GET, &format!("/_runner/{session}/job")).await;
    assert_eq!((assigned.status, assigned.text), (200, format!("{job} 1.5 success\n")));
    assert_eq!(call(&play, Method::POST, &format!("/_runner/{session}/alive")).await.status, 200);
    assert_eq!(call(&play, Method::POST, &format!("/_runner/{session}/done?conclusion=failure")).await.status, 200);
    assert_eq!(play.simulator.github.job(job).and_then(|job| job.conclusion).as_deref(), Some("failure"));
    assert_eq!(call(&play, Method::POST, &format!("/_runner/{session}/alive")).await.status, 404, "it is over");
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_runner_outside_that_was_removed_is_told_so_and_one_that_leaves_is_offline() {
    let play = Play::start().await;
    let token = play.token().await;
    let (id, config) = play.jit(&token, "pacer-removed", &["linux"]).await;
    let session = call(&play, Method::POST, &connect_path(&config)).await.text;
    let path = format!("/repos/{REPO}/actions/runners/{id}");
    assert_eq!(play.delete(As::Bearer(&token), &path).await.status, 204);
    assert_eq!(call(&play, Method::GET, &format!("/_runner/{session}/job")).await.status, 410);

    let (_, config) = play.jit(&token, "pacer-leaves", &["linux"]).await;
    let session = call(&play, Method::POST, &connect_path(&config)).await.text;
    assert_eq!(call(&play, Method::POST, &format!("/_runner/{session}/leave")).await.status, 200);
    assert!(play.simulator.github.runners().iter().all(|runner| !runner.online));
    play.simulator.stop().await;
}

/// The script in a shell of this machine; `None`, said loudly, where it has not what the script needs.
fn script(config: &str) -> Option<Child> {
    let has =
        |tool: &str| Command::new(tool).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let mut shell = if has("busybox") {
        let mut busybox = Command::new("busybox");
        busybox.arg("sh");
        busybox
    } else if has("wget") {
        Command::new("sh")
    } else {
        #[expect(clippy::disallowed_methods, reason = "whether this is a build is nobody's configuration")]
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!in_ci, "missing: busybox or wget");
        eprintln!("NOT RUN: the runner's script needs busybox or wget; `apt-get install busybox-static`");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("runner.sh");
    shell.arg(script).env("ACTIONS_RUNNER_INPUT_JITCONFIG", config).env("no_proxy", "127.0.0.1").stdout(Stdio::null());
    Some(shell.spawn().expect("the shell starts"))
}

async fn ended(mut child: Child) -> ExitStatus {
    tokio::task::spawn_blocking(move || child.wait().expect("it ends")).await.expect("it is waited for")
}

#[tokio::test]
async fn the_script_takes_one_job_reports_it_and_ends_with_0() {
    let play = Play::start().await;
    let token = play.token().await;
    let (_, config) = play.jit(&token, "pacer-script", &["linux"]).await;
    let Some(child) = script(&config) else { return };
    play.until("it is online", |simulator| simulator.github.runners().iter().any(|runner| runner.online)).await;
    let mut new = NewJob::new(REPO, &["linux"], Duration::from_millis(100));
    new.conclusion = "failure".to_owned();
    let job = play.simulator.github.queue(new);
    assert_eq!(ended(child).await.code(), Some(0));
    let job = play.simulator.github.job(job).expect("it is known");
    assert_eq!((job.runner.as_deref(), job.conclusion.as_deref()), (Some("pacer-script"), Some("failure")));
    assert_eq!(play.simulator.left(), Vec::<String>::new());
    play.simulator.stop().await;
}

#[tokio::test]
async fn the_script_told_to_stop_while_idle_leaves_and_ends_with_0_and_with_2_where_it_may_not_connect() {
    let play = Play::start().await;
    let token = play.token().await;
    let (id, config) = play.jit(&token, "pacer-script", &["linux"]).await;
    let Some(child) = script(&config) else { return };
    play.until("it is online", |simulator| simulator.github.runners().iter().any(|runner| runner.online)).await;
    let told = Command::new("kill").arg(child.id().to_string()).status().expect("kill runs");
    assert!(told.success());
    assert_eq!(ended(child).await.code(), Some(0));
    play.until("it is offline", |simulator| simulator.github.runners().iter().all(|runner| !runner.online)).await;

    assert_eq!(play.delete(As::Bearer(&token), &format!("/repos/{REPO}/actions/runners/{id}")).await.status, 204);
    let Some(child) = script(&config) else { return };
    assert_eq!(ended(child).await.code(), Some(2), "the runner is not known any more");
    play.simulator.stop().await;
}
