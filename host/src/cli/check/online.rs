//! The App at GitHub: what it may do, which events it gets, where it is installed; held against the configuration.
//!
//! What is needed is computed from the configuration, so that an App with exactly the permissions of the guide has
//! nothing to be told, and one that may do more hears of it.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};

use super::{Finding, Level, finding};
use crate::{
    clock::SharedClock,
    config::{Config, Scope},
    fleet::runner::Target,
    github::{App, Client, GitHubError, GitHubErrorKind, Installation},
    routing::{RepoName, shown},
};

/// All questions together. Each has a deadline of its own; a rate limit could hold them back for an hour.
const PATIENCE: Duration = Duration::from_secs(120);

/// Repositories that are asked about at once; GitHub frowns on more than a few from one client.
const AT_ONCE: usize = 8;

/// The one event that pacer lives on.
const EVENT: &str = "workflow_job";

/// Subjects of findings.
const APP: &str = "GitHub";
const PERMISSIONS: &str = "permissions";
const EVENTS: &str = "events";
const INSTALLATIONS: &str = "installations";

/// A permission of the App, and what it is for.
struct Need {
    permission: &'static str,
    access: &'static str,
    /// The most that is not called too much.
    most: &'static str,
    /// As the App's settings at GitHub call it.
    title: &'static str,
    purpose: &'static str,
}

pub(super) async fn look(config: &Config, clock: SharedClock) -> Vec<Finding> {
    match tokio::time::timeout(PATIENCE, ask(config, clock)).await {
        Ok(findings) => findings,
        Err(_) => vec![finding(
            Level::Error,
            APP,
            format!(
                "GitHub did not answer everything within {} s: try again later, and check that `{}` can be reached from here",
                PATIENCE.as_secs(),
                config.github.api_url
            ),
        )],
    }
}

async fn ask(config: &Config, clock: SharedClock) -> Vec<Finding> {
    let answer = async {
        let client = Client::new(&config.github, clock)?;
        let app = client.app_permissions().await?;
        let installations = client.installations().await?;
        Ok((client, app, installations))
    };
    let (client, app, installations) = match answer.await {
        Ok(answer) => answer,
        Err::<_, GitHubError>(error) => return vec![finding(Level::Error, APP, error.message)],
    };
    let needs = needs(config);
    let mut findings = judge_app(&app, &needs);
    let (judged, selected) = judge_installations(config, &installations, &needs);
    findings.extend(judged);
    let covered = stream::iter(selected).map(|repo| {
        let client = client.clone();
        async move {
            let answer = client.installation_on(&Target::Repo(repo.clone())).await;
            (repo, answer)
        }
    });
    let covered: Vec<_> = covered.buffered(AT_ONCE).collect().await;
    findings.extend(judge_selected(covered));
    findings
}

fn needs(config: &Config) -> Vec<Need> {
    let mut needs = vec![
        Need {
            permission: "metadata",
            access: "read",
            most: "read",
            title: "Repository permissions, Metadata",
            purpose: "every App has it",
        },
        Need {
            permission: "actions",
            access: "read",
            // Optional: running a job again that was lost with its machine.
            most: "write",
            title: "Repository permissions, Actions",
            purpose: "deliveries of `workflow_job` need it",
        },
    ];
    let repos = config.projects.iter().any(|project| matches!(project.scope, Scope::Repos(_)));
    let orgs = config.projects.iter().any(|project| matches!(project.scope, Scope::Org { .. }));
    if repos {
        needs.push(Need {
            permission: "administration",
            access: "write",
            most: "write",
            title: "Repository permissions, Administration",
            purpose: "projects with `scope: repo` register their runners by it",
        });
    }
    if orgs {
        needs.push(Need {
            permission: "organization_self_hosted_runners",
            access: "write",
            most: "write",
            title: "Organization permissions, Self-hosted runners",
            purpose: "projects with `scope: org` register their runners by it",
        });
    }
    needs
}

/// GitHub's words for access, in their order. One that is not known grants nothing that could be relied on.
fn rank(access: &str) -> u8 {
    match access {
        "read" => 1,
        "write" => 2,
        "admin" => 3,
        _ => 0,
    }
}

fn lacks<'n>(permissions: &BTreeMap<String, String>, needs: &'n [Need]) -> Vec<&'n Need> {
    let has = |need: &Need| permissions.get(need.permission).map_or(0, |access| rank(access));
    needs.iter().filter(|need| has(need) < rank(need.access)).collect()
}

fn judge_app(app: &App, needs: &[Need]) -> Vec<Finding> {
    let mut findings = vec![finding(Level::Ok, APP, format!("GitHub knows it as `{}`, {}", shown(&app.name), app.id))];
    let lacking = lacks(&app.permissions, needs);
    findings.extend(lacking.iter().map(|need| {
        let has = match app.permissions.get(need.permission) {
            Some(access) => format!("the App has `{}` only", shown(access)),
            None => "the App does not have it".to_owned(),
        };
        finding(
            Level::Error,
            PERMISSIONS,
            format!(
                "permission `{}:{}` is missing, {has}: {}; in the App's settings at GitHub, Permissions & events, set \
                 {} to {}, then accept it on every installation",
                need.permission,
                need.access,
                need.purpose,
                need.title,
                access_title(need.access)
            ),
        )
    }));
    if lacking.is_empty() {
        let names: Vec<_> = needs.iter().map(|need| format!("`{}:{}`", need.permission, need.access)).collect();
        findings.push(finding(
            Level::Ok,
            PERMISSIONS,
            format!("has the permissions that are needed: {}", names.join(", ")),
        ));
    }
    for (permission, access) in &app.permissions {
        let most = needs.iter().find(|need| need.permission == permission).map(|need| need.most);
        let way_out = match most {
            Some(most) if rank(access) <= rank(most) => continue,
            Some(most) => format!("`{most}` is enough"),
            None => "remove it".to_owned(),
        };
        findings.push(finding(
            Level::Warning,
            PERMISSIONS,
            format!(
                "permission `{}:{}` is more than pacer needs: {way_out}, in the App's settings at GitHub",
                shown(permission),
                shown(access)
            ),
        ));
    }
    findings.push(if app.events.iter().any(|event| event == EVENT) {
        finding(Level::Ok, EVENTS, format!("is subscribed to `{EVENT}`"))
    } else {
        finding(
            Level::Error,
            EVENTS,
            format!(
                "is not subscribed to `{EVENT}`, so no job is heard of: in the App's settings at GitHub, Permissions & \
                 events, tick Workflow job under Subscribe to events"
            ),
        )
    });
    let others: Vec<_> =
        app.events.iter().filter(|event| *event != EVENT).map(|event| format!("`{}`", shown(event))).collect();
    if !others.is_empty() {
        let others = others.join(", ");
        findings.push(finding(
            Level::Warning,
            EVENTS,
            format!("is subscribed to {others} too, which pacer drops: untick what is not `{EVENT}`"),
        ));
    }
    findings
}

fn access_title(access: &str) -> &'static str {
    if access == "read" { "Read-only" } else { "Read and write" }
}

/// Whose installations the configuration needs, and for which repositories; the latter empty for an organisation.
fn bound(config: &Config) -> BTreeMap<String, (String, Vec<RepoName>)> {
    let mut owners: BTreeMap<String, (String, Vec<RepoName>)> = BTreeMap::new();
    for project in &config.projects {
        match &project.scope {
            Scope::Repos(repos) => {
                for repo in repos {
                    let owner = owners.entry(repo.owner().to_lowercase());
                    owner.or_insert_with(|| (repo.owner().to_owned(), Vec::new())).1.push(repo.clone());
                }
            }
            Scope::Org { login, .. } => {
                owners.entry(login.to_lowercase()).or_insert_with(|| (login.clone(), Vec::new()));
            }
        }
    }
    owners
}

/// What is to be said of the installations, and the repositories of those that are for selected ones, which have to
/// be asked about one by one.
fn judge_installations(
    config: &Config,
    installations: &[Installation],
    needs: &[Need],
) -> (Vec<Finding>, Vec<RepoName>) {
    let (mut findings, mut selected) = (Vec::new(), Vec::new());
    for (key, (owner, repos)) in bound(config) {
        let found = installations
            .iter()
            .find(|found| found.account.as_ref().is_some_and(|account| account.login.to_lowercase() == key));
        let Some(installation) = found else {
            let what = match repos.first() {
                Some(repo) if repos.len() == 1 => format!("a project is bound to `{repo}`"),
                Some(repo) => {
                    format!("projects are bound to `{repo}` and {} more of its repositories", repos.len() - 1)
                }
                None => "a project with `scope: org` is bound to it".to_owned(),
            };
            findings.push(finding(
                Level::Error,
                INSTALLATIONS,
                format!(
                    "the App is not installed on `{owner}`, and {what}: install it there, from the App's page at GitHub"
                ),
            ));
            continue;
        };
        if installation.suspended_at.is_some() {
            findings.push(finding(
                Level::Error,
                INSTALLATIONS,
                format!("the one on `{owner}` is suspended: an owner of `{owner}` can end that in the installation's settings at GitHub"),
            ));
            continue;
        }
        // An organisation's permission means nothing to a user's account, and a repository's nothing to an
        // organisation whose repositories are not bound one by one.
        let org_scoped = config
            .projects
            .iter()
            .any(|project| matches!(&project.scope, Scope::Org { login, .. } if login.to_lowercase() == key));
        let lacking: Vec<_> = lacks(&installation.permissions, needs)
            .into_iter()
            .filter(|need| match need.permission {
                "organization_self_hosted_runners" => org_scoped,
                "administration" => !repos.is_empty(),
                _ => true,
            })
            .map(|need| format!("`{}:{}`", need.permission, need.access))
            .collect();
        if !lacking.is_empty() {
            findings.push(finding(
                Level::Error,
                INSTALLATIONS,
                format!(
                    "the one on `{owner}` does not grant {}: an owner of `{owner}` has to accept the App's permissions in the \
                     installation's settings at GitHub",
                    lacking.join(", ")
                ),
            ));
            continue;
        }
        if installation.repository_selection == "selected" {
            selected.extend(repos.iter().cloned());
        }
        let whole = if org_scoped { "the organisation" } else { "the account" };
        let covers = match repos.len() {
            0 => whole.to_owned(),
            1 => "1 bound repository".to_owned(),
            count => format!("{count} bound repositories"),
        };
        findings.push(finding(Level::Ok, INSTALLATIONS, format!("on `{owner}`, for {covers}")));
    }
    (findings, selected)
}

/// What came of asking about each repository.
fn judge_selected(answers: Vec<(RepoName, Result<i64, GitHubError>)>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut covered = 0_usize;
    for (repo, answer) in answers {
        let message = match answer {
            Ok(_) => {
                covered += 1;
                continue;
            }
            Err(error) if error.kind == GitHubErrorKind::NotFound => format!(
                "the one on `{}` is for selected repositories and `{repo}` is not one of them, or it does not \
                 exist: add it in the installation's settings at GitHub, or correct its name",
                repo.owner()
            ),
            Err(error) => error.message,
        };
        findings.push(finding(Level::Error, INSTALLATIONS, message));
    }
    if covered > 0 {
        let repositories = if covered == 1 { "repository" } else { "repositories" };
        findings.push(finding(Level::Ok, INSTALLATIONS, format!("{covered} selected {repositories} can be reached")));
    }
    findings
}

#[cfg(test)]
#[path = "online_tests.rs"]
mod tests;
