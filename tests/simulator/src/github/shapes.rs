//! What the API answers, in GitHub's shapes: all that its published description requires.

use serde_json::{Value, json};

use super::{
    GitHub, payload,
    permissions::{Installation, Permissions},
    state::{Job, Runner},
    webhooks::Attempt,
};

/// Where GitHub's answers say that they are from.
pub const API: &str = "https://api.github.com";
/// What the App may call itself instead of its id.
pub const CLIENT_ID: &str = "Iv1.0123456789abcdef";

fn account(owner: &str, kind: &str) -> Value {
    payload::user(owner, payload::owner_id(owner), kind)
}

pub fn app(github: &GitHub, permissions: &Permissions, installations: usize) -> Value {
    json!({
        "id": github.settings().app_id, "slug": "pacer", "node_id": "MDExOkludGVncmF0aW9uMQ==", "client_id": CLIENT_ID,
        "owner": account("octocat", "User"),
        "name": "pacer", "description": "", "external_url": "https://example.com", "html_url": "https://github.com/apps/pacer",
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "permissions": permissions,
        "events": ["workflow_job"], "installations_count": installations,
    })
}

pub fn installation(github: &GitHub, installation: &Installation) -> Value {
    let owner = &installation.owner;
    let (id, kind) = (payload::owner_id(owner), if github.knows_org(owner) { "Organization" } else { "User" });
    json!({
        "id": id, "app_id": github.settings().app_id, "app_slug": "pacer", "client_id": CLIENT_ID,
        "target_id": id, "target_type": kind, "account": account(owner, kind),
        "access_tokens_url": format!("{API}/app/installations/{id}/access_tokens"),
        "repositories_url": format!("{API}/installation/repositories"),
        "html_url": format!("https://github.com/settings/installations/{id}"),
        "repository_selection": "selected", "permissions": installation.permissions, "events": ["workflow_job"],
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "single_file_name": null,
        "suspended_by": if installation.suspended { account("octocat", "User") } else { Value::Null },
        "suspended_at": if installation.suspended { json!("2026-01-01T00:00:00Z") } else { Value::Null },
    })
}

pub fn runner(runner: &Runner) -> Value {
    let labels: Vec<Value> = runner
        .spelled
        .iter()
        .enumerate()
        .map(|(index, label)| json!({ "id": index + 1, "name": label, "type": "custom" }))
        .collect();
    json!({
        "id": runner.id, "runner_group_id": runner.group, "name": runner.name,
        "os": if runner.connected { "linux" } else { "unknown" },
        "status": if runner.online { "online" } else { "offline" },
        "busy": runner.job.is_some(), "labels": labels, "ephemeral": true,
    })
}

pub fn group(org: &str, id: i64, name: &str) -> Value {
    json!({
        "id": id, "name": name, "visibility": "all", "default": id == 1, "inherited": false,
        "runners_url": format!("{API}/orgs/{org}/actions/runner-groups/{id}/runners"),
        "allows_public_repositories": false, "restricted_to_workflows": false, "selected_workflows": [],
        "workflow_restrictions_read_only": false,
    })
}

/// A run, as the job that says most of it.
pub fn run(job: &Job, organization: bool) -> Value {
    let (id, full) = (job.run_id, &job.repo);
    let base = format!("{API}/repos/{full}/actions/runs/{id}");
    let head_sha = format!("{id:040x}");
    let person = json!({ "name": "octocat", "email": "octocat@github.com" });
    let repository = payload::repository(full, API, organization);
    json!({
        "id": id, "name": "CI", "node_id": format!("WFR_kwLO{id:016x}"), "display_title": "Try it out",
        "run_number": id, "run_attempt": job.attempt, "event": "push", "path": ".github/workflows/ci.yml", "workflow_id": 7,
        "status": job.state.word(), "conclusion": job.conclusion, "head_branch": "main", "head_sha": head_sha,
        "created_at": payload::written(job.created_at), "updated_at": payload::written(job.completed_at.or(job.started_at).unwrap_or(job.created_at)),
        "run_started_at": payload::written(job.created_at),
        "url": base, "html_url": format!("https://github.com/{full}/actions/runs/{id}"),
        "jobs_url": format!("{base}/jobs"), "logs_url": format!("{base}/logs"),
        "check_suite_url": format!("{API}/repos/{full}/check-suites/{id}"), "cancel_url": format!("{base}/cancel"),
        "rerun_url": format!("{base}/rerun"), "artifacts_url": format!("{base}/artifacts"),
        "workflow_url": format!("{API}/repos/{full}/actions/workflows/7"), "pull_requests": [],
        "head_commit": {
            "id": head_sha, "tree_id": head_sha, "message": "Try it out", "timestamp": payload::written(job.created_at),
            "author": person, "committer": person,
        },
        "head_repository": repository, "repository": repository,
    })
}

/// A delivery as in the list.
pub fn delivery(attempt: &Attempt) -> Value {
    json!({
        "id": attempt.id, "guid": attempt.guid, "delivered_at": attempt.delivered_at, "redelivery": attempt.redelivery,
        "duration": attempt.duration, "status": attempt.status, "status_code": attempt.status_code,
        "event": "workflow_job", "action": attempt.told.action,
        "installation_id": payload::owner_id(attempt.told.owner()),
        "repository_id": payload::owner_id(&attempt.told.job.repo), "throttled_at": null,
    })
}
