//! Payloads of `workflow_job` and a job in the API: all documented keys, in the size of real ones.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::state::{Job, Told};

const STEPS: [&str; 6] = ["Set up job", "Checkout", "Install dependencies", "Build", "Test", "Complete job"];

/// A time as GitHub writes it: in whole seconds.
pub fn written(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// The job as both the webhook and the API have it.
pub fn job(job: &Job, api: &str) -> Value {
    let base = format!("{api}/repos/{}", job.repo);
    let steps: Vec<Value> = match job.started_at {
        None => Vec::new(),
        Some(started) => STEPS
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let done = job.completed_at.is_some();
                json!({
                    "name": name,
                    "status": if done { "completed" } else { "in_progress" },
                    "conclusion": if done { job.conclusion.clone() } else { None },
                    "number": index + 1,
                    "started_at": written(started),
                    "completed_at": job.completed_at.map(written),
                })
            })
            .collect(),
    };
    json!({
        "id": job.id,
        "run_id": job.run_id,
        "workflow_name": "CI",
        "head_branch": "main",
        "run_url": format!("{base}/actions/runs/{}", job.run_id),
        "run_attempt": job.attempt,
        "node_id": format!("CR_kwDO{:016x}", job.id),
        "head_sha": format!("{:040x}", job.run_id),
        "url": format!("{base}/actions/jobs/{}", job.id),
        "html_url": format!("https://github.com/{}/actions/runs/{}/job/{}", job.repo, job.run_id, job.id),
        "status": job.state.word(),
        "conclusion": job.conclusion,
        "created_at": written(job.created_at),
        "started_at": written(job.started_at.unwrap_or(job.created_at)),
        "completed_at": job.completed_at.map(written),
        "name": format!("build ({})", job.number),
        "steps": steps,
        "check_run_url": format!("{base}/check-runs/{}", job.id),
        "labels": job.labels,
        "runner_id": job.runner.as_ref().map(|(id, _)| *id),
        "runner_name": job.runner.as_ref().map(|(_, name)| name.clone()),
        "runner_group_id": job.runner.as_ref().map(|_| 1),
        "runner_group_name": job.runner.as_ref().map(|_| "Default"),
    })
}

const TOPICS: [&str; 12] = [
    "continuous-integration",
    "github-actions",
    "self-hosted-runners",
    "webassembly",
    "component-model",
    "rust",
    "sandboxing",
    "just-in-time",
    "infrastructure",
    "developer-experience",
    "platform-engineering",
    "webhooks",
];

/// Links of a repository, which make up most of a payload, with what follows its own address.
const LINKS: [(&str, &str); 36] = [
    ("archive", "{archive_format}{/ref}"),
    ("assignees", "assignees{/user}"),
    ("blobs", "git/blobs{/sha}"),
    ("branches", "branches{/branch}"),
    ("collaborators", "collaborators{/collaborator}"),
    ("comments", "comments{/number}"),
    ("commits", "commits{/sha}"),
    ("compare", "compare/{base}...{head}"),
    ("contents", "contents/{+path}"),
    ("contributors", "contributors"),
    ("deployments", "deployments"),
    ("downloads", "downloads"),
    ("events", "events"),
    ("forks", "forks"),
    ("git_commits", "git/commits{/sha}"),
    ("git_refs", "git/refs{/sha}"),
    ("git_tags", "git/tags{/sha}"),
    ("hooks", "hooks"),
    ("issue_comment", "issues/comments{/number}"),
    ("issue_events", "issues/events{/number}"),
    ("issues", "issues{/number}"),
    ("keys", "keys{/key_id}"),
    ("labels", "labels{/name}"),
    ("languages", "languages"),
    ("merges", "merges"),
    ("milestones", "milestones{/number}"),
    ("notifications", "notifications{?since,all,participating}"),
    ("pulls", "pulls{/number}"),
    ("releases", "releases{/id}"),
    ("stargazers", "stargazers"),
    ("statuses", "statuses/{sha}"),
    ("subscribers", "subscribers"),
    ("subscription", "subscription"),
    ("tags", "tags"),
    ("teams", "teams"),
    ("trees", "git/trees{/sha}"),
];

pub fn user(login: &str, id: u64, kind: &str) -> Value {
    let mut user = json!({
        "login": login, "id": id, "node_id": format!("U_kgDO{id:08x}"),
        "avatar_url": format!("https://avatars.githubusercontent.com/u/{id}?v=4"), "gravatar_id": "",
        "html_url": format!("https://github.com/{login}"), "type": kind, "site_admin": false, "user_view_type": "public",
    });
    for link in [
        "followers",
        "following",
        "gists",
        "starred",
        "subscriptions",
        "organizations",
        "repos",
        "events",
        "received_events",
    ] {
        user[format!("{link}_url")] = format!("https://api.github.com/users/{login}/{link}").into();
    }
    user["url"] = format!("https://api.github.com/users/{login}").into();
    user
}

pub fn repository(full_name: &str, api: &str, organization: bool) -> Value {
    let (owner, name) = full_name.split_once('/').unwrap_or(("", full_name));
    let id = owner_id(full_name);
    let mut repository = json!({
        "id": id, "node_id": format!("R_kgDO{id:08x}"), "name": name, "full_name": full_name, "private": true,
        "owner": user(owner, owner_id(owner), if organization { "Organization" } else { "User" }),
        "html_url": format!("https://github.com/{full_name}"), "description": "A repository of the simulated GitHub: it has no commits, no branches and no files, and plenty of jobs",
        "fork": false, "url": format!("{api}/repos/{full_name}"),
        "created_at": "2024-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "pushed_at": "2026-01-01T00:00:00Z",
        "git_url": format!("git://github.com/{full_name}.git"), "ssh_url": format!("git@github.com:{full_name}.git"),
        "clone_url": format!("https://github.com/{full_name}.git"), "svn_url": format!("https://github.com/{full_name}"),
        "homepage": null, "size": 1234, "stargazers_count": 1, "watchers_count": 1, "language": "Rust",
        "has_issues": true, "has_projects": true, "has_downloads": true, "has_wiki": true, "has_pages": false,
        "has_discussions": false, "forks_count": 0, "mirror_url": null, "archived": false, "disabled": false,
        "open_issues_count": 2, "license": {
            "key": "apache-2.0", "name": "Apache License 2.0", "spdx_id": "Apache-2.0",
            "url": "https://api.github.com/licenses/apache-2.0", "node_id": "MDc6TGljZW5zZTI=",
        }, "allow_forking": true, "is_template": false,
        "web_commit_signoff_required": false, "topics": TOPICS, "visibility": "private", "forks": 0, "open_issues": 2,
        "watchers": 1, "default_branch": "main", "custom_properties": {
            "cost_center": "engineering-platform-4711", "data_classification": "internal-confidential",
            "environment": "production", "lifecycle": "active", "on_call": "platform-engineering-primary",
            "owner_team": "platform-engineering", "service_tier": "tier-1", "compliance": "iso-27001,soc-2",
        },
    });
    repository["permissions"] = json!({ "admin": true, "maintain": true, "push": true, "triage": true, "pull": true });
    repository["security_and_analysis"] = json!({
        "advanced_security": { "status": "enabled" }, "code_security": { "status": "enabled" },
        "dependabot_security_updates": { "status": "enabled" }, "secret_scanning": { "status": "enabled" },
        "secret_scanning_push_protection": { "status": "enabled" },
        "secret_scanning_non_provider_patterns": { "status": "disabled" },
        "secret_scanning_validity_checks": { "status": "disabled" },
    });
    for merging in
        ["allow_squash_merge", "allow_merge_commit", "allow_rebase_merge", "allow_auto_merge", "delete_branch_on_merge"]
    {
        repository[merging] = true.into();
    }
    for (merging, word) in [
        ("squash_merge_commit_title", "COMMIT_OR_PR_TITLE"),
        ("squash_merge_commit_message", "COMMIT_MESSAGES"),
        ("merge_commit_title", "MERGE_MESSAGE"),
        ("merge_commit_message", "PR_TITLE"),
    ] {
        repository[merging] = word.into();
    }
    for (link, path) in LINKS {
        repository[format!("{link}_url")] = format!("{api}/repos/{full_name}/{path}").into();
    }
    repository
}

/// Stable ids made of names: what matters is that they differ.
pub fn owner_id(name: &str) -> u64 {
    let hash = name
        .to_lowercase()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash % 900_000_000 + 1_000
}

/// The body of a delivery.
pub fn delivery(told: &Told, api: &str, organization: bool) -> Vec<u8> {
    let owner = told.job.repo.split('/').next().unwrap_or_default();
    let mut payload = json!({
        "action": told.action,
        "workflow_job": job(&told.job, api),
        "repository": repository(&told.job.repo, api, organization),
        "sender": user("octocat", 583_231, "User"),
        "installation": { "id": owner_id(owner), "node_id": "MDIzOkludGVncmF0aW9uSW5zdGFsbGF0aW9u" },
    });
    if organization {
        payload["organization"] = json!({
            "login": owner, "id": owner_id(owner), "node_id": "O_kgDO", "url": format!("{api}/orgs/{owner}"),
            "repos_url": format!("{api}/orgs/{owner}/repos"), "events_url": format!("{api}/orgs/{owner}/events"),
            "hooks_url": format!("{api}/orgs/{owner}/hooks"), "issues_url": format!("{api}/orgs/{owner}/issues"),
            "members_url": format!("{api}/orgs/{owner}/members{{/member}}"),
            "public_members_url": format!("{api}/orgs/{owner}/public_members{{/member}}"),
            "avatar_url": "https://avatars.githubusercontent.com/u/1?v=4", "description": null,
        });
    }
    payload.to_string().into_bytes()
}
