//! By values, and against a small GitHub in this process.

use std::sync::Arc;

use axum::{Router, extract::Path, http::StatusCode, routing::get};
use serde_json::{Value, json};

use super::*;
use crate::{
    clock::SystemClock,
    config::{Project, RunnerGroup, fixture},
};

fn project(name: &str, scope: Scope) -> Arc<Project> {
    Arc::new(Project {
        name: name.parse().unwrap(),
        scope,
        max_runners: None,
        max_runners_per_repo: None,
        pools: Vec::new(),
    })
}

fn repos(names: &[&str]) -> Scope {
    Scope::Repos(names.iter().map(|name| name.parse().unwrap()).collect())
}

fn org(login: &str) -> Scope {
    Scope::Org { login: login.to_owned(), runner_group: RunnerGroup::Default }
}

fn config(scopes: Vec<Scope>) -> Config {
    let projects = scopes.into_iter().enumerate().map(|(number, scope)| project(&format!("p{number}"), scope));
    fixture(projects.collect())
}

fn permissions(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, access)| ((*name).to_owned(), (*access).to_owned())).collect()
}

const REPO_SCOPE: &[(&str, &str)] = &[("metadata", "read"), ("actions", "read"), ("administration", "write")];
const ORG_SCOPE: &[(&str, &str)] =
    &[("metadata", "read"), ("actions", "read"), ("organization_self_hosted_runners", "write")];

fn app(list: &[(&str, &str)], events: &[&str]) -> App {
    App {
        id: 1,
        slug: "pacer".to_owned(),
        name: "pacer".to_owned(),
        permissions: permissions(list),
        events: events.iter().map(|event| (*event).to_owned()).collect(),
    }
}

fn installation(login: &str, list: &[(&str, &str)]) -> Installation {
    Installation {
        id: 7,
        account: Some(crate::github::Account { login: login.to_owned() }),
        repository_selection: "all".to_owned(),
        permissions: permissions(list),
        events: Vec::new(),
        suspended_at: None,
    }
}

/// That these are the findings that are not fine, by parts of them.
fn check(findings: &[Finding], expected: &[(Level, &str)]) {
    let found: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).collect();
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, (level, part)) in found.iter().zip(expected) {
        assert_eq!(found.level, *level, "{found:?}");
        assert!(found.message.contains(part), "`{part}` is not in: {}", found.message);
    }
}

#[test]
fn an_app_as_the_guide_makes_it_is_told_nothing() {
    let by_repo = needs(&config(vec![repos(&["o/r"])]));
    check(&judge_app(&app(REPO_SCOPE, &[EVENT]), &by_repo), &[]);
    let with_retry = [("metadata", "read"), ("actions", "write"), ("administration", "write")];
    check(&judge_app(&app(&with_retry, &[EVENT]), &by_repo), &[]);
    check(&judge_app(&app(ORG_SCOPE, &[EVENT]), &needs(&config(vec![org("acme")]))), &[]);
}

#[test]
fn what_is_missing_is_named_with_its_place_in_the_settings() {
    let by_repo = needs(&config(vec![repos(&["o/r"])]));
    check(
        &judge_app(&app(&[("administration", "read")], &[]), &by_repo),
        &[
            (Level::Error, "`metadata:read` is missing"),
            (Level::Error, "`actions:read` is missing, the App does not have it"),
            (Level::Error, "`administration:write` is missing, the App has `read` only"),
            (Level::Error, "is not subscribed to `workflow_job`"),
        ],
    );
    let missing = judge_app(&app(REPO_SCOPE, &[EVENT]), &needs(&config(vec![org("acme")])));
    check(
        &missing,
        &[
            (Level::Error, "set Organization permissions, Self-hosted runners to Read and write"),
            (Level::Warning, "`administration:write` is more than pacer needs: remove it"),
        ],
    );
}

#[test]
fn more_than_is_needed_is_a_warning() {
    let more = [("metadata", "read"), ("actions", "read"), ("administration", "admin"), ("contents", "write")];
    check(
        &judge_app(&app(&more, &[EVENT, "push"]), &needs(&config(vec![repos(&["o/r"])]))),
        &[
            (Level::Warning, "`administration:admin` is more than pacer needs: `write` is enough"),
            (Level::Warning, "`contents:write` is more than pacer needs: remove it"),
            (Level::Warning, "is subscribed to `push` too"),
        ],
    );
}

#[test]
fn every_owner_that_is_bound_has_an_installation() {
    let config = config(vec![repos(&["One/a", "one/b", "two/a"]), org("acme")]);
    let needs = needs(&config);
    let judge = |installations: &[Installation]| judge_installations(&config, installations, &needs);
    let everywhere =
        [installation("one", REPO_SCOPE), installation("TWO", REPO_SCOPE), installation("Acme", ORG_SCOPE)];
    let (findings, selected) = judge(&everywhere);
    check(&findings, &[]);
    assert!(selected.is_empty());

    let (findings, _) = judge(&[]);
    check(
        &findings,
        &[
            (Level::Error, "is not installed on `acme`, and a project with `scope: org`"),
            (Level::Error, "is not installed on `One`, and projects are bound to `One/a` and 1 more"),
            (Level::Error, "is not installed on `two`, and a project is bound to `two/a`"),
        ],
    );

    let mut suspended = everywhere.clone();
    suspended[0].suspended_at = Some("2026-01-01T00:00:00Z".to_owned());
    suspended[1].permissions = permissions(&[("metadata", "read"), ("actions", "read")]);
    suspended[2].repository_selection = "selected".to_owned();
    let (findings, selected) = judge(&suspended);
    check(&findings, &[(Level::Error, "is suspended"), (Level::Error, "does not grant `administration:write`")]);
    assert!(selected.is_empty(), "an organisation's runners do not depend on its selected repositories");
}

#[test]
fn an_account_without_a_name_is_passed_over() {
    let config = config(vec![repos(&["o/r"])]);
    let enterprise = Installation { account: None, ..installation("", REPO_SCOPE) };
    check(
        &judge_installations(&config, &[enterprise], &needs(&config)).0,
        &[(Level::Error, "is not installed on `o`")],
    );
}

/// A GitHub with these answers to `/app` and `/app/installations`, on which only `o/in` is selected.
async fn github(app: Value, installations: Value) -> String {
    let (app, installations) = (app.to_string(), installations.to_string());
    let router = Router::new()
        .route("/app", get(move || async move { app }))
        .route("/app/installations", get(move || async move { installations }))
        .route(
            "/repos/{owner}/{repo}/installation",
            get(|Path((_, repo)): Path<(String, String)>| async move {
                match repo.as_str() {
                    "in" => (StatusCode::OK, json!({ "id": 7 }).to_string()),
                    _ => (StatusCode::NOT_FOUND, json!({ "message": "Not Found" }).to_string()),
                }
            }),
        );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio_util::task::TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
    url
}

fn at(url: String, scopes: Vec<Scope>) -> Config {
    let mut config = config(scopes);
    config.github.api_url = url;
    config.github.private_key = include_str!("../../config/testdata/rsa.pem").into();
    config
}

#[tokio::test]
async fn github_is_asked_and_selected_repositories_one_by_one() {
    let permissions = json!({ "metadata": "read", "actions": "read", "administration": "write" });
    let app = json!({ "id": 1, "name": "pacer", "permissions": permissions, "events": ["workflow_job"] });
    let installation = json!({
        "id": 7, "account": { "login": "o" }, "repository_selection": "selected", "permissions": permissions,
        "suspended_at": null,
    });
    let url = github(app, json!([installation])).await;
    let findings = look(&at(url, vec![repos(&["o/in", "o/out"])]), Arc::new(SystemClock)).await;
    check(&findings, &[(Level::Error, "is for selected repositories and `o/out` is not one of them")]);
    assert!(findings.iter().any(|finding| finding.message == "1 selected repository can be reached"), "{findings:?}");
}

#[tokio::test]
async fn a_github_that_is_of_another_app_or_not_there_is_an_error() {
    let other = json!({ "id": 2, "name": "other", "permissions": {}, "events": [] });
    let url = github(other, json!([])).await;
    check(&look(&at(url, Vec::new()), Arc::new(SystemClock)).await, &[(Level::Error, "for App 2")]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let findings = look(&at(nobody, Vec::new()), Arc::new(SystemClock)).await;
    assert_eq!((findings.len(), findings[0].level), (1, Level::Error), "{findings:?}");
}
