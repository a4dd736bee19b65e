//! `pacer check --online`: whether GitHub knows the App, lets it do what the projects need, and has it installed there.

use std::{collections::BTreeMap, sync::Arc};

use super::check::{Finding, Level, finding};
use crate::{
    clock::SystemClock,
    config::{Config, Scope},
    github::{App, Client, Installation},
};

/// Asks GitHub. Every answer is a finding, the lack of one as well.
pub(super) async fn check(config: &Arc<Config>) -> Vec<Finding> {
    let client = match Client::new(&config.github, Arc::new(SystemClock)) {
        Ok(client) => client,
        Err(error) => return vec![finding(Level::Error, "GitHub", error.to_string())],
    };
    let app = match client.app_permissions().await {
        Ok(app) => app,
        Err(error) => return vec![finding(Level::Error, "GitHub", error.to_string())],
    };
    let mut findings = vec![finding(Level::Ok, "GitHub", format!("App {} is `{}`", app.id, app.name))];
    findings.extend(permissions(config, &app));
    match client.installations().await {
        Ok(installations) => findings.extend(installed(config, &installations)),
        Err(error) => findings.push(finding(Level::Error, "installations", error.to_string())),
    }
    findings
}

/// What the projects need, and nothing else: permission, level, what for.
fn needed(config: &Config) -> BTreeMap<&'static str, (&'static str, &'static str)> {
    let mut needed = BTreeMap::from([
        ("actions", ("read", "the `workflow_job` webhook")),
        ("metadata", ("read", "every App has it")),
    ]);
    for project in &config.projects {
        match &project.scope {
            Scope::Repos(_) => needed.insert("administration", ("write", "runners of repositories")),
            Scope::Org { .. } => {
                needed.insert("organization_self_hosted_runners", ("write", "runners of organisations"))
            }
        };
    }
    needed
}

fn suffices(has: &str, needs: &str) -> bool {
    has == needs || has == "admin" || (has == "write" && needs == "read")
}

fn permissions(config: &Config, app: &App) -> Vec<Finding> {
    let needed = needed(config);
    let mut findings = Vec::new();
    for (name, (level, purpose)) in &needed {
        if !app.permissions.get(*name).is_some_and(|has| suffices(has, level)) {
            findings.push(finding(
                Level::Error,
                "permissions",
                format!("`{name}:{level}` is missing ({purpose}): add it in the App's settings, and accept it where the App is installed"),
            ));
        }
    }
    for (name, level) in &app.permissions {
        // Re-running a job that was lost with its machine takes this one, where an operator wants it.
        let optional = name == "actions" && level == "write";
        if !optional && needed.get(name.as_str()).is_none_or(|(needs, _)| level != needs) {
            let message = format!("`{name}:{level}` is more than pacer needs: take it away in the App's settings");
            findings.push(finding(Level::Warning, "permissions", message));
        }
    }
    if !app.events.iter().any(|event| event == "workflow_job") {
        let message = "the App does not get the event `workflow_job`: subscribe to it in the App's settings";
        findings.push(finding(Level::Error, "events", message));
    }
    if findings.is_empty() {
        findings.push(finding(Level::Ok, "permissions", "what the projects need, and nothing else"));
    }
    findings
}

fn installed(config: &Config, installations: &[Installation]) -> Vec<Finding> {
    let of = |owner: &str| {
        installations.iter().find(|installation| {
            installation.account.as_ref().is_some_and(|account| account.login.eq_ignore_ascii_case(owner))
        })
    };
    let owners = config.projects.iter().flat_map(|project| match &project.scope {
        Scope::Repos(repos) => repos.iter().map(|repo| repo.owner().to_owned()).collect::<Vec<_>>(),
        Scope::Org { login, .. } => vec![login.clone()],
    });
    let owners: std::collections::BTreeSet<String> = owners.collect();
    owners
        .iter()
        .map(|owner| match of(owner) {
            None => finding(
                Level::Error,
                "installations",
                format!("the App is not installed on `{owner}`: install it there"),
            ),
            Some(installation) if installation.suspended_at.is_some() => {
                finding(Level::Error, "installations", format!("the installation on `{owner}` is suspended"))
            }
            Some(installation) => {
                let selection = if installation.repository_selection == "selected" {
                    "selected repositories; make sure the bound ones are among them"
                } else {
                    "all repositories"
                };
                finding(Level::Ok, "installations", format!("on `{owner}`, {selection}"))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    fn app(permissions: &[(&str, &str)], events: &[&str]) -> App {
        App {
            id: 1,
            slug: "pacer".to_owned(),
            name: "pacer".to_owned(),
            permissions: permissions.iter().map(|(name, level)| ((*name).to_owned(), (*level).to_owned())).collect(),
            events: events.iter().map(|event| (*event).to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_named() {
        let config = fixture(Vec::new());
        let say = |app: App| -> Vec<String> { permissions(&config, &app).into_iter().map(|f| f.message).collect() };
        assert_eq!(
            say(app(&[("actions", "read"), ("metadata", "read")], &["workflow_job"])),
            ["what the projects need, and nothing else"]
        );
        let said = say(app(&[("metadata", "read"), ("contents", "write")], &[]));
        assert!(said[0].starts_with("`actions:read` is missing"), "{said:?}");
        assert!(said[1].starts_with("`contents:write` is more than pacer needs"), "{said:?}");
        assert!(said[2].contains("`workflow_job`"), "{said:?}");
    }
}
