//! Deliveries as GitHub makes them: a payload of its shape and size, its headers, its signature.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::api::{Answer, Api};

/// A delivery to send. Everything about it can be made wrong.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub event: String,
    pub guid: String,
    pub body: Vec<u8>,
    /// The whole header; none leaves it out.
    pub signature: Option<String>,
}

/// A job to tell about.
#[derive(Debug, Clone)]
pub struct JobPayload {
    pub id: i64,
    pub run_attempt: i64,
    pub repo: String,
    pub labels: Vec<String>,
    pub action: String,
    pub status: String,
    pub conclusion: Option<String>,
    pub runner: Option<String>,
    pub installation: Option<i64>,
}

impl JobPayload {
    /// A job that was queued just now.
    pub fn queued(id: i64, repo: &str, labels: &[&str]) -> Self {
        Self {
            id,
            run_attempt: 1,
            repo: repo.to_owned(),
            labels: labels.iter().map(|&label| label.to_owned()).collect(),
            action: "queued".into(),
            status: "queued".into(),
            conclusion: None,
            runner: None,
            installation: Some(4242),
        }
    }

    pub fn waiting(self) -> Self {
        Self { action: "waiting".into(), status: "waiting".into(), ..self }
    }

    pub fn in_progress(self, runner: &str) -> Self {
        Self { action: "in_progress".into(), status: "in_progress".into(), runner: Some(runner.into()), ..self }
    }

    pub fn completed(self, conclusion: &str) -> Self {
        Self { action: "completed".into(), status: "completed".into(), conclusion: Some(conclusion.into()), ..self }
    }

    /// The whole payload, of the size GitHub sends.
    pub fn json(&self) -> Value {
        let (owner, name) = self.repo.split_once('/').expect("a repository is owner/name");
        let api = format!("https://api.github.com/repos/{}", self.repo);
        let html = format!("https://github.com/{}", self.repo);
        let run = self.id / 10 + 1;
        let started = self.runner.is_some() || self.conclusion.is_some();
        let mut payload = json!({
            "action": self.action,
            "workflow_job": {
                "id": self.id, "run_id": run, "run_attempt": self.run_attempt, "workflow_name": "CI", "head_branch": "main",
                "run_url": format!("{api}/actions/runs/{run}"), "node_id": "CR_kwDOGb2v8c8AAAAB",
                "head_sha": "7638417db6d59f3c431d3e1f261cc637155684cd", "url": format!("{api}/actions/jobs/{}", self.id),
                "html_url": format!("{html}/actions/runs/{run}/job/{}", self.id), "status": self.status,
                "conclusion": self.conclusion, "created_at": "2026-01-02T03:04:05Z", "started_at": "2026-01-02T03:04:06Z",
                "completed_at": self.conclusion.as_ref().map(|_| "2026-01-02T03:05:06Z"), "name": "test", "steps": steps(started),
                "check_run_url": format!("{api}/check-runs/{}", self.id), "labels": self.labels,
                "runner_id": self.runner.as_ref().map(|_| 7), "runner_name": self.runner,
                "runner_group_id": self.runner.as_ref().map(|_| 1),
                "runner_group_name": self.runner.as_ref().map(|_| "Default"),
            },
            "repository": repository(owner, name),
            "organization": organization(owner),
            "sender": person("monalisa", "User"),
        });
        if let Some(id) = self.installation {
            payload["installation"] = json!({ "id": id, "node_id": "MDIzOkludGVncmF0aW9uSW5zdGFsbGF0aW9uNDI0Mg==" });
        }
        payload
    }

    /// The delivery of it, signed.
    pub fn signed(&self, secret: &str) -> Delivery {
        Delivery::signed("workflow_job", serde_json::to_vec(&self.json()).expect("JSON can be written"), secret)
    }
}

impl Delivery {
    pub fn signed(event: &str, body: impl Into<Vec<u8>>, secret: &str) -> Self {
        let body = body.into();
        let signature = Some(sign(secret, &body));
        Self { event: event.into(), guid: next_guid(), body, signature }
    }

    pub fn with_signature(self, signature: Option<&str>) -> Self {
        Self { signature: signature.map(str::to_owned), ..self }
    }

    /// As a request that can still be changed.
    pub fn request(&self, api: &Api) -> reqwest::RequestBuilder {
        let request = api
            .request(Method::POST, "/api/webhook")
            .header("content-type", "application/json")
            .header("user-agent", "GitHub-Hookshot/044aadd")
            .header("x-github-hook-id", "292430182")
            .header("x-github-hook-installation-target-type", "integration")
            .header("x-github-event", &self.event)
            .header("x-github-delivery", &self.guid)
            .body(self.body.clone());
        match &self.signature {
            Some(signature) => request.header("x-hub-signature-256", signature),
            None => request,
        }
    }

    pub async fn send(&self, api: &Api) -> Answer {
        self.try_send(api).await.unwrap_or_else(|error| panic!("the delivery got no answer: {error:?}"))
    }

    pub async fn try_send(&self, api: &Api) -> reqwest::Result<Answer> {
        api.send(self.request(api)).await
    }
}

/// What `X-Hub-Signature-256` must say.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// A delivery id that no other delivery of any run has.
pub fn next_guid() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("0b989ba4-242f-11e5-{:04x}-{count:012x}", std::process::id() & 0xffff)
}

fn steps(started: bool) -> Value {
    let names = ["Set up job", "Run actions/checkout", "Run make test", "Post Run actions/checkout", "Complete job"];
    let step = |(number, name): (usize, &&str)| {
        json!({ "name": name, "status": "queued", "conclusion": null, "number": number + 1,
                "started_at": null, "completed_at": null })
    };
    if started { names.iter().enumerate().map(step).collect() } else { json!([]) }
}

fn person(login: &str, kind: &str) -> Value {
    let api = format!("https://api.github.com/users/{login}");
    json!({
        "login": login, "id": 21031067, "node_id": "MDQ6VXNlcjIxMDMxMDY3", "gravatar_id": "", "type": kind, "site_admin": false,
        "avatar_url": "https://avatars.githubusercontent.com/u/21031067?v=4", "url": api, "html_url": format!("https://github.com/{login}"),
        "followers_url": format!("{api}/followers"), "following_url": format!("{api}/following{{/other_user}}"),
        "gists_url": format!("{api}/gists{{/gist_id}}"), "starred_url": format!("{api}/starred{{/owner}}{{/repo}}"),
        "subscriptions_url": format!("{api}/subscriptions"), "organizations_url": format!("{api}/orgs"),
        "repos_url": format!("{api}/repos"), "events_url": format!("{api}/events{{/privacy}}"),
        "received_events_url": format!("{api}/received_events"),
    })
}

fn organization(login: &str) -> Value {
    let api = format!("https://api.github.com/orgs/{login}");
    json!({
        "login": login, "id": 33435682, "node_id": "MDEyOk9yZ2FuaXphdGlvbjMzNDM1Njgy", "url": api,
        "repos_url": format!("{api}/repos"), "events_url": format!("{api}/events"), "hooks_url": format!("{api}/hooks"),
        "issues_url": format!("{api}/issues"), "members_url": format!("{api}/members{{/member}}"),
        "public_members_url": format!("{api}/public_members{{/member}}"),
        "avatar_url": "https://avatars.githubusercontent.com/u/33435682?v=4",
        "description": "The people behind the first repository that anybody ever clones",
    })
}

fn repository(owner: &str, name: &str) -> Value {
    /// The addresses that GitHub repeats for every repository, after its own.
    const ADDRESSES: [(&str, &str); 37] = [
        ("forks_url", "/forks"),
        ("keys_url", "/keys{/key_id}"),
        ("collaborators_url", "/collaborators{/collaborator}"),
        ("teams_url", "/teams"),
        ("hooks_url", "/hooks"),
        ("issue_events_url", "/issues/events{/number}"),
        ("events_url", "/events"),
        ("assignees_url", "/assignees{/user}"),
        ("branches_url", "/branches{/branch}"),
        ("tags_url", "/tags"),
        ("blobs_url", "/git/blobs{/sha}"),
        ("git_tags_url", "/git/tags{/sha}"),
        ("git_refs_url", "/git/refs{/sha}"),
        ("trees_url", "/git/trees{/sha}"),
        ("statuses_url", "/statuses/{sha}"),
        ("languages_url", "/languages"),
        ("stargazers_url", "/stargazers"),
        ("contributors_url", "/contributors"),
        ("subscribers_url", "/subscribers"),
        ("subscription_url", "/subscription"),
        ("commits_url", "/commits{/sha}"),
        ("git_commits_url", "/git/commits{/sha}"),
        ("comments_url", "/comments{/number}"),
        ("issue_comment_url", "/issues/comments{/number}"),
        ("contents_url", "/contents/{+path}"),
        ("compare_url", "/compare/{base}...{head}"),
        ("merges_url", "/merges"),
        ("archive_url", "/{archive_format}{/ref}"),
        ("downloads_url", "/downloads"),
        ("issues_url", "/issues{/number}"),
        ("pulls_url", "/pulls{/number}"),
        ("milestones_url", "/milestones{/number}"),
        ("notifications_url", "/notifications{?since,all,participating}"),
        ("labels_url", "/labels{/name}"),
        ("releases_url", "/releases{/id}"),
        ("deployments_url", "/deployments"),
        ("url", ""),
    ];
    let full = format!("{owner}/{name}");
    let api = format!("https://api.github.com/repos/{full}");
    let html = format!("https://github.com/{full}");
    let mut repository = json!({
        "id": 186853002, "node_id": "MDEwOlJlcG9zaXRvcnkxODY4NTMwMDI=", "name": name, "full_name": full, "private": false,
        "owner": person(owner, "User"), "html_url": html, "description": null, "fork": false,
        "created_at": "2019-05-15T15:19:25Z", "updated_at": "2019-05-15T15:21:03Z", "pushed_at": "2019-05-15T15:20:57Z",
        "git_url": format!("git://github.com/{full}.git"), "ssh_url": format!("git@github.com:{full}.git"),
        "clone_url": format!("{html}.git"), "svn_url": html, "homepage": null, "size": 0, "stargazers_count": 0,
        "watchers_count": 0, "language": "Rust", "has_issues": true, "has_projects": true, "has_downloads": true,
        "has_wiki": true, "has_pages": true, "forks_count": 1, "mirror_url": null, "archived": false, "disabled": false,
        "open_issues_count": 2, "license": null, "forks": 1, "open_issues": 2, "watchers": 0, "default_branch": "main",
        "allow_forking": true, "is_template": false, "visibility": "public",
    });
    repository["topics"] =
        json!(["continuous-integration", "self-hosted-runners", "github-actions", "webassembly", "rust"]);
    repository["license"] = json!({ "key": "apache-2.0", "name": "Apache License 2.0", "spdx_id": "Apache-2.0",
        "url": "https://api.github.com/licenses/apache-2.0", "node_id": "MDc6TGljZW5zZTI=" });
    repository["custom_properties"] = json!({ "team": "platform", "tier": "1" });
    repository["permissions"] =
        json!({ "admin": false, "maintain": false, "push": true, "triage": true, "pull": true });
    for (key, path) in ADDRESSES {
        repository[key] = json!(format!("{api}{path}"));
    }
    repository
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_size_that_github_sends() {
        let bytes =
            JobPayload::queued(1, "acme-engineering/storefront-services", &["self-hosted"]).json().to_string().len();
        assert!((8_000..12_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn signs_as_github_documents_it() {
        let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(sign("It's a Secret to Everybody", b"Hello, World!"), expected);
    }
}
