//! The command: what it says, and with what it ends.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Longer than anything here takes, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

fn command(folder: &Path, webhook: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pacer-simulator"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--cloud", "127.0.0.1:0", "--webhook", webhook])
        .arg("--key-out")
        .arg(folder.join("gh-app.pem"))
        .env("SIMULATOR_WEBHOOK_SECRET", "secret")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

async fn ended(mut command: Command) -> (Option<i32>, String) {
    let run = move || command.output().expect("it runs");
    let Output { status, stdout, stderr } = tokio::task::spawn_blocking(run).await.expect("it is waited for");
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// A server that takes everything in and serves no job.
async fn idle_server() -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/api/webhook", listener.local_addr().expect("an address"));
    let router = Router::new().route("/healthz", get(|| async {})).route("/api/webhook", post(|| async {}));
    let served = TaskTracker::new().spawn(async move { axum::serve(listener, router).await.expect("it serves") });
    (url, AbortOnDropHandle::new(served))
}

#[tokio::test]
async fn a_job_that_is_not_served_ends_it_with_1_and_a_summary() {
    let folder = tempfile::tempdir().expect("a folder");
    let (url, _server) = idle_server().await;
    let mut serve = command(folder.path(), &url);
    serve.args(["--rate", "50", "--for", "1", "--drain", "1", "--seed", "9"]);
    let (code, said) = ended(serve).await;
    assert_eq!(code, Some(1), "{said}");
    for words in ["seed 9", " 0 served", "NOT every job was served", "wait from queued to running"] {
        assert!(said.contains(words), "`{words}` is missing in:\n{said}");
    }
    let mode = std::fs::metadata(folder.path().join("gh-app.pem")).expect("the key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only its owner reads the key");
}

#[tokio::test]
async fn an_interrupt_ends_it_cleanly_even_before_a_server_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    // The discard port: reserved, and nobody listens on it.
    let child = command(folder.path(), "http://127.0.0.1:9/api/webhook").spawn().expect("it starts");
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let key = folder.path().join("gh-app.pem");
    let written = async {
        while std::fs::read_to_string(&key).unwrap_or_default().is_empty() {
            tick.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.expect("it writes the key");
    let told = Command::new("kill").arg("-INT").arg(child.id().to_string()).status().expect("kill runs");
    assert!(told.success());
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().expect("it ends"));
    let output = tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("it is waited for");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("jobs: 0 queued"), "{said}");
}

#[tokio::test]
async fn help_names_every_option_and_nonsense_is_refused_with_what_is_wrong() {
    let mut help = Command::new(env!("CARGO_BIN_EXE_pacer-simulator"));
    help.args(["serve", "--help"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (code, said) = ended(help).await;
    assert_eq!(code, Some(0));
    for option in [
        "--listen",
        "--cloud",
        "--webhook",
        "--secret",
        "--key-out",
        "--app-id",
        "--repo",
        "--org",
        "--seed",
        "--rate",
        "--labels",
        "--duration-ms",
        "--boot-ms",
        "--lose",
        "--for",
        "--drain",
    ] {
        assert!(said.contains(option), "`{option}` is missing in:\n{said}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut nonsense = command(folder.path(), "nowhere");
    nonsense.args(["--duration-ms", "9..1"]);
    let (code, said) = ended(nonsense).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("`9..1` is not a range of milliseconds"), "{said}");
    let (code, said) = ended(command(folder.path(), "nowhere")).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("--webhook is not a URL"), "{said}");
}
