//! Runners: registering one, finding, listing and removing them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{
    auth::guard,
    budget::Class,
    client::{Call, Identity, Inner},
    error::unavailable,
    installations::path,
    model::{Deleted, GitHubError, GitHubErrorKind, GitHubRunner, JitRunner, Registration},
};
use crate::{
    config::RunnerGroup,
    fleet::runner::{RunnerName, Target},
};

/// GitHub's largest page.
pub(super) const PER_PAGE: usize = 100;
/// GitHub allows 10,000 runners in a group; more than two such groups in one place are not expected.
const MAX_RUNNER_PAGES: usize = 200;
/// Far more groups than an organisation has.
const MAX_GROUP_PAGES: usize = 20;
/// A group's id changes only when it is made anew under its old name.
const GROUP_KNOWN_FOR: Duration = Duration::from_secs(10 * 60);
/// Names of groups that are remembered.
const MAX_GROUPS: usize = 1_000;
/// GitHub's group `Default`; at repositories the only one.
const DEFAULT_GROUP: i64 = 1;
/// The part of its caller's time that a registration waits for its turn; the rest is for the call itself.
const PATIENT: f64 = 0.8;
/// A configuration is about 5 KiB. One that would not fit an environment is no configuration.
const MAX_JIT_CONFIG: usize = 128 * 1024;

#[derive(Deserialize)]
struct Registered {
    runner: RunnerAnswer,
    encoded_jit_config: SecretString,
}

#[derive(Deserialize)]
struct RunnerAnswer {
    id: i64,
    name: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    busy: bool,
}

#[derive(Deserialize)]
struct RunnerPage {
    total_count: usize,
    runners: Vec<RunnerAnswer>,
}

#[derive(Deserialize)]
struct GroupPage {
    runner_groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    id: i64,
    name: String,
}

impl From<RunnerAnswer> for GitHubRunner {
    fn from(answer: RunnerAnswer) -> Self {
        Self { id: answer.id, name: answer.name, online: answer.status == "online", busy: answer.busy }
    }
}

/// How the configuration names a group; none for the one that every organisation has.
fn named(group: &RunnerGroup) -> Option<String> {
    match group {
        RunnerGroup::Default => None,
        RunnerGroup::Id(id) => Some(id.to_string()),
        RunnerGroup::Name(name) => Some(format!("`{name}`")),
    }
}

/// What the App must be allowed to manage the runners of a target.
fn permission(target: &Target) -> &'static str {
    match target {
        Target::Repo(_) => "administration:write",
        Target::Org(_) => "organization_self_hosted_runners:write",
    }
}

impl Inner {
    pub async fn register(self: &Arc<Self>, registration: &Registration) -> Result<JitRunner, GitHubError> {
        // Whoever waits is to hear what it was waited for, and not only that it took too long.
        let deadline = Some(Instant::now() + registration.within.mul_f64(PATIENT));
        let target = &registration.target;
        let identity = Identity::Installation { target, hint: registration.installation_id };
        let group = self.group(registration, identity, deadline).await?;
        let url = self.http.url(&format!("{}/actions/runners/generate-jitconfig", path(target)), &[]);
        let call = Call {
            method: Method::POST,
            body: Some(json!({
                "name": registration.name.as_str(),
                "runner_group_id": group,
                "labels": registration.labels,
                "work_folder": "_work",
            })),
            accept: &[StatusCode::CREATED, StatusCode::CONFLICT],
            permission: Some(permission(target)),
            repeatable: false,
            registers: Some(target),
            deadline,
            ..Call::get("jitconfig", "jit config", identity, Class::Jit, url)
        };
        let answer = match self.call(&call).await {
            Ok(answer) => answer,
            Err(mut error) => {
                if matches!(error.kind, GitHubErrorKind::NotFound | GitHubErrorKind::Forbidden) {
                    self.forget_group(registration);
                    if let (Target::Org(_), Some(named)) = (target, named(&registration.group)) {
                        error.message = format!(
                            "{}; or it is the runner group {named}: check that it exists, that it is not GitHub's own, and `runner_group`",
                            error.message
                        );
                    }
                }
                return Err(error);
            }
        };
        if answer.status == StatusCode::CONFLICT {
            return Err(GitHubError {
                kind: GitHubErrorKind::NameTaken,
                message: format!("jit config: 409 Conflict: a runner named `{}` is registered", registration.name),
                retry_after: None,
            });
        }
        let expected = "a registered runner and its configuration";
        let registered: Registered = serde_json::from_slice(&answer.body)
            .map_err(|reason| super::error::shape(call.subject, expected, &reason))?;
        let config = registered.encoded_jit_config.expose_secret();
        let fits = !config.is_empty() && config.len() <= MAX_JIT_CONFIG && config.bytes().all(|b| b.is_ascii_graphic());
        if !fits || !registered.runner.name.eq_ignore_ascii_case(registration.name.as_str()) {
            return Err(unavailable(
                call.subject,
                format_args!("the answer is not {expected} for `{}`", registration.name),
            ));
        }
        Ok(JitRunner { id: registered.runner.id, config: registered.encoded_jit_config })
    }

    async fn group(
        self: &Arc<Self>,
        registration: &Registration,
        identity: Identity<'_>,
        deadline: Option<Instant>,
    ) -> Result<i64, GitHubError> {
        let (org, name) = match (&registration.target, &registration.group) {
            (Target::Repo(_), _) | (Target::Org(_), RunnerGroup::Default) => return Ok(DEFAULT_GROUP),
            (Target::Org(_), RunnerGroup::Id(id)) => return Ok(*id),
            (Target::Org(org), RunnerGroup::Name(name)) => (org, name),
        };
        let key = (org.clone(), name.to_lowercase());
        let now = self.clock.now();
        if let Some((id, since)) = guard(&self.groups).get(&key)
            && now.duration_since(*since).unsigned_abs() < GROUP_KNOWN_FOR
        {
            return Ok(*id);
        }
        for page in 1..=MAX_GROUP_PAGES {
            let query = [("per_page", "100"), ("page", &page.to_string())];
            let url = self.http.url(&format!("{}/actions/runner-groups", path(&registration.target)), &query);
            let call = Call {
                permission: Some(permission(&registration.target)),
                deadline,
                ..Call::get("runner_groups", "runner group", identity, Class::Jit, url)
            };
            let (answer, _): (GroupPage, _) = self.fetch(&call, "a list of runner groups").await?;
            let count = answer.runner_groups.len();
            if let Some(group) = answer.runner_groups.into_iter().find(|group| group.name.to_lowercase() == key.1) {
                let mut groups = guard(&self.groups);
                if groups.len() >= MAX_GROUPS {
                    groups.clear();
                }
                groups.insert(key, (group.id, now));
                return Ok(group.id);
            }
            if count < PER_PAGE {
                break;
            }
        }
        Err(GitHubError {
            kind: GitHubErrorKind::Rejected,
            message: format!(
                "runner group: organisation `{org}` has no group `{name}`; make it there or correct `runner_group`"
            ),
            retry_after: None,
        })
    }

    fn forget_group(&self, registration: &Registration) {
        if let (Target::Org(org), RunnerGroup::Name(name)) = (&registration.target, &registration.group) {
            guard(&self.groups).remove(&(org.clone(), name.to_lowercase()));
        }
    }

    pub async fn find_runner(
        self: &Arc<Self>,
        target: &Target,
        hint: Option<i64>,
        name: &RunnerName,
    ) -> Result<Option<GitHubRunner>, GitHubError> {
        // Servers that do not know the filter list everything, so the name is compared and the pages are followed.
        let mut found = None;
        self.pages(target, hint, Some(name), |runner| {
            if runner.name.eq_ignore_ascii_case(name.as_str()) {
                found = Some(runner);
            }
            found.is_none()
        })
        .await?;
        Ok(found)
    }

    pub async fn list_runners(
        self: &Arc<Self>,
        target: &Target,
        hint: Option<i64>,
    ) -> Result<Vec<GitHubRunner>, GitHubError> {
        // Pages shift while runners come and go: a runner may be seen twice.
        let mut runners = HashMap::new();
        self.pages(target, hint, None, |runner| {
            runners.insert(runner.id, runner);
            true
        })
        .await?;
        let mut runners: Vec<_> = runners.into_values().collect();
        runners.sort_by_key(|runner| runner.id);
        Ok(runners)
    }

    /// Goes through the pages until `more` has seen enough. A list that is cut short is an error, never an answer:
    /// what is missing in it would be taken for gone.
    async fn pages(
        self: &Arc<Self>,
        target: &Target,
        hint: Option<i64>,
        name: Option<&RunnerName>,
        mut more: impl FnMut(GitHubRunner) -> bool,
    ) -> Result<(), GitHubError> {
        let identity = Identity::Installation { target, hint };
        // A name is looked up when a registration was refused for it: a job start waits.
        let (endpoint, class) = match name {
            Some(_) => ("runner_find", Class::Jit),
            None => ("runners", Class::Reconcile),
        };
        let mut seen = 0;
        for page in 1..=MAX_RUNNER_PAGES {
            let number = page.to_string();
            let mut query = vec![("per_page", "100"), ("page", number.as_str())];
            query.extend(name.map(|name| ("name", name.as_str())));
            let url = self.http.url(&format!("{}/actions/runners", path(target)), &query);
            let call = Call {
                permission: Some(permission(target)),
                ..Call::get(endpoint, "runner list", identity, class, url)
            };
            let (answer, _): (RunnerPage, _) = self.fetch(&call, "a list of runners").await?;
            let count = answer.runners.len();
            seen += count;
            for runner in answer.runners {
                if !more(runner.into()) {
                    return Ok(());
                }
            }
            if count < PER_PAGE || seen >= answer.total_count {
                return Ok(());
            }
        }
        Err(unavailable("runner list", format_args!("{target} has more than {} runners", MAX_RUNNER_PAGES * PER_PAGE)))
    }

    pub async fn delete_runner(
        self: &Arc<Self>,
        target: &Target,
        hint: Option<i64>,
        id: i64,
    ) -> Result<Deleted, GitHubError> {
        let identity = Identity::Installation { target, hint };
        let url = self.http.url(&format!("{}/actions/runners/{id}", path(target)), &[]);
        let call = Call {
            method: Method::DELETE,
            accept: &[StatusCode::NO_CONTENT, StatusCode::NOT_FOUND, StatusCode::UNPROCESSABLE_ENTITY],
            permission: Some(permission(target)),
            ..Call::get("runner_delete", "runner removal", identity, Class::Delete, url)
        };
        let answer = self.call(&call).await?;
        Ok(if answer.status == StatusCode::UNPROCESSABLE_ENTITY { Deleted::Busy } else { Deleted::Gone })
    }
}
