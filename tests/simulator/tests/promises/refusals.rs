//! Who is let in, with what, and how often.

use std::time::Duration;

use pacer_simulator::{
    faults::Fault,
    github::{self, Access, NewJob},
};
use reqwest::Method;
use serde_json::json;

use crate::play::{As, ORG, Play, REPO};

#[tokio::test]
async fn tokens_of_the_app_are_checked_as_github_checks_them() {
    let play = Play::start().await;
    let app = json!("123456");
    let good = [
        play.jwt(&app, -60, 540),
        play.jwt(&json!(123_456), -60, 540),
        play.jwt(&json!("Iv1.0123456789abcdef"), -60, 540),
        play.jwt(&app, 30, 590),
    ];
    for token in good {
        assert_eq!(play.get(As::Bearer(&token), "/app").await.status, 200);
    }
    let foreign = Play::start().await;
    let bad = [
        ("another App's id", play.jwt(&json!("654321"), -60, 540)),
        ("issued in the future", play.jwt(&app, 300, 540)),
        ("expired", play.jwt(&app, -700, -100)),
        ("lives too long", play.jwt(&app, -60, 900)),
        ("lives too long in all", play.jwt(&app, -590, 590)),
        ("another App's key", foreign.app()),
        ("not a token", "nonsense".to_owned()),
        ("an installation's token", play.token().await),
    ];
    for (why, token) in &bad {
        let refused = play.get(As::Bearer(token), "/app").await;
        assert_eq!(refused.status, 401, "{why}");
        assert!(refused.body["message"].is_string(), "{why}: {refused:?}");
    }
    assert_eq!(play.simulator.audit(), [format!("{} calls were not authorised", bad.len())]);
    foreign.simulator.stop().await;
    play.simulator.stop().await;
}

#[tokio::test]
async fn an_installations_token_is_opaque_long_and_good_for_its_owner_alone() {
    let play = Play::start().await;
    let token = play.token().await;
    assert!(token.starts_with("ghs_") && token.len() == 520, "{token}");
    let runners = |owner: &str| format!("{owner}/actions/runners");
    assert_eq!(play.get(As::Bearer(&token), &runners(&format!("/repos/{REPO}"))).await.status, 200);
    assert_eq!(play.get(As::Bearer(&token), &runners(&format!("/repos/{ORG}/widgets"))).await.status, 403);
    assert_eq!(play.get(As::Bearer(&token), &runners(&format!("/orgs/{ORG}"))).await.status, 403);
    assert_eq!(play.get(As::Bearer(&token), &runners("/orgs/nobody")).await.status, 404, "nobody installed it there");
    assert_eq!(play.get(As::Bearer("ghs_unknown"), &runners(&format!("/repos/{REPO}"))).await.status, 401);
    assert_eq!(play.get(As::App, &runners(&format!("/repos/{REPO}"))).await.status, 401);

    play.simulator.github.suspend("octocat", true);
    assert_eq!(play.get(As::Bearer(&token), &runners(&format!("/repos/{REPO}"))).await.status, 403);
    play.simulator.github.uninstall("octocat");
    assert_eq!(play.get(As::Bearer(&token), &runners(&format!("/repos/{REPO}"))).await.status, 401);
    assert_eq!(play.get(As::App, &format!("/repos/{REPO}/installation")).await.status, 404);
    play.simulator.stop().await;
}

#[tokio::test]
async fn every_call_needs_its_permission() {
    let play = Play::start().await;
    let (token, org) = (play.token().await, play.org_token().await);
    play.simulator.github.queue(NewJob::new(REPO, &["linux"], Duration::ZERO));
    let body = json!({ "name": "pacer-one", "runner_group_id": 1, "labels": ["linux"] });
    let (repo_runners, org_runners) =
        (format!("/repos/{REPO}/actions/runners"), format!("/orgs/{ORG}/actions/runners"));
    let calls = [
        ("octocat", &token, "administration", Method::POST, format!("{repo_runners}/generate-jitconfig")),
        ("octocat", &token, "administration", Method::GET, repo_runners.clone()),
        ("octocat", &token, "administration", Method::DELETE, format!("{repo_runners}/1")),
        ("octocat", &token, "actions", Method::GET, format!("/repos/{REPO}/actions/runs")),
        (ORG, &org, "organization_self_hosted_runners", Method::POST, format!("{org_runners}/generate-jitconfig")),
        (ORG, &org, "organization_self_hosted_runners", Method::GET, org_runners.clone()),
        (ORG, &org, "organization_self_hosted_runners", Method::GET, format!("/orgs/{ORG}/actions/runner-groups")),
    ];
    for (owner, token, permission, method, path) in calls {
        let mut less = github::documented();
        less.remove(permission);
        play.simulator.github.grant(owner, less);
        let body = (method == Method::POST).then_some(&body);
        let refused = play.call(As::Bearer(token), method.clone(), &path, body).await;
        assert_eq!(refused.status, 403, "{method} {path} without {permission}");
        assert_eq!(refused.body["message"], "Resource not accessible by integration");
        play.simulator.github.grant(owner, github::documented());
        assert_ne!(play.call(As::Bearer(token), method, &path, body).await.status, 403);
    }
    let mut read_only = github::documented();
    read_only.insert("administration".to_owned(), Access::Read);
    play.simulator.github.grant("octocat", read_only);
    let jit = format!("{repo_runners}/generate-jitconfig");
    assert_eq!(play.post(As::Bearer(&token), &jit, &body).await.status, 403, "reading is not writing");
    play.simulator.stop().await;
}

#[tokio::test]
async fn a_narrowed_token_reaches_no_further_than_it_was_asked_for() {
    let repos = vec![REPO.to_owned(), "octocat/spoon-knife".to_owned()];
    let play = Play::with(github::Settings { repos, ..github::Settings::default() }).await;
    let installation = format!("/repos/{REPO}/installation");
    let body = json!({ "repositories": ["spoon-knife"], "permissions": { "actions": "read" } });
    let token = play.token_for(&installation, Some(&body)).await;
    let who = As::Bearer(&token);
    assert_eq!(play.get(who, "/repos/octocat/spoon-knife/actions/runs").await.status, 200);
    assert_eq!(play.get(who, "/repos/octocat/spoon-knife/actions/runners").await.status, 403);
    assert_eq!(play.get(who, &format!("/repos/{REPO}/actions/runs")).await.status, 404);
    play.simulator.stop().await;
}

#[tokio::test]
async fn the_primary_limit_counts_down_says_so_and_ends_in_403() {
    let play = Play::with(github::Settings { hourly_limit: Some(3), ..github::Settings::default() }).await;
    let token = play.token().await;
    let path = format!("/repos/{REPO}/actions/runners");
    for (left, status) in [("2", 200), ("1", 200), ("0", 200), ("0", 403)] {
        let answer = play.get(As::Bearer(&token), &path).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.headers["x-ratelimit-remaining"], left);
        assert_eq!(answer.headers["x-ratelimit-limit"], "3");
        let reset: i64 = answer.headers["x-ratelimit-reset"].to_str().unwrap().parse().unwrap();
        assert!((1..=3600).contains(&(reset - crate::play::now_seconds())), "{reset}");
    }
    let overview = play.get(As::Bearer(&token), "/rate_limit").await;
    assert_eq!((overview.status, &overview.body["rate"]["remaining"]), (200, &json!(0)), "asking costs nothing");
    assert_eq!(
        play.get(As::Bearer(&play.org_token().await), &format!("/orgs/{ORG}/actions/runners")).await.status,
        200
    );
    play.simulator.stop().await;
}

#[tokio::test]
async fn without_manners_nothing_is_answered() {
    let play = Play::start().await;
    let rude = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("{}/app", play.simulator.github_url);
    let refused = rude.get(&url).bearer_auth(play.app()).send().await.expect("an answer");
    assert_eq!(refused.status(), 403);
    assert!(refused.text().await.expect("a text").contains("User-Agent"));
    let polite = rude.get(&url).bearer_auth(play.app()).header("user-agent", "somebody");
    let outdated = polite.try_clone().expect("no body").header("x-github-api-version", "2011-01-01");
    assert_eq!(outdated.send().await.expect("an answer").status(), 400);
    let current = polite.header("x-github-api-version", "2022-11-28");
    assert_eq!(current.send().await.expect("an answer").status(), 200);
    play.simulator.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_and_nonsense_is_not_found() {
    let play = Play::start().await;
    let token = play.token().await;
    for number in 0..5 {
        play.jit(&token, &format!("pacer-{number}"), &["linux"]).await;
    }
    let path = format!("/repos/{REPO}/actions/runners");
    let first = play.get(As::Bearer(&token), &format!("{path}?per_page=2")).await;
    assert_eq!(first.body["total_count"], 5);
    let link = first.headers["link"].to_str().expect("a link");
    assert_eq!(link, format!("<{}{path}?per_page=2&page=2>; rel=\"next\"", play.simulator.github_url));
    let last = play.get(As::Bearer(&token), &format!("{path}?per_page=2&page=3")).await;
    assert_eq!(last.body["runners"].as_array().map(Vec::len), Some(1));
    assert!(!last.headers.contains_key("link"));
    let beyond = play.get(As::Bearer(&token), &format!("{path}?page={}", u64::MAX)).await;
    assert_eq!((beyond.status, &beyond.body["runners"]), (200, &json!([])));
    for _ in 0..2 {
        play.simulator.github.queue(NewJob::new(REPO, &["windows"], Duration::ZERO));
    }
    let runs = format!("/repos/{REPO}/actions/runs");
    let queued = play.get(As::Bearer(&token), &format!("{runs}?status=queued&per_page=1")).await;
    let link = queued.headers["link"].to_str().expect("a link");
    let next = format!("{}{runs}?per_page=1&status=queued&page=2", play.simulator.github_url);
    assert_eq!(link, format!("<{next}>; rel=\"next\""), "the next page is of the same list");
    for nonsense in [
        format!("{path}/nonsense"),
        format!("/repos/{REPO}/actions/runs/0/jobs"),
        format!("/repos/{REPO}/actions/runs/18446744073709551615/jobs"),
        format!("/repos/{REPO}/actions/jobs/-1"),
        format!("/repos/{REPO}/nowhere"),
    ] {
        let answer = play.get(As::Bearer(&token), &nonsense).await;
        assert_eq!(answer.status, 404, "{nonsense}");
        assert_eq!(answer.body["message"], "Not Found", "{nonsense}");
    }
    assert_eq!(play.post(As::Bearer(&token), &path, &json!({})).await.status, 404, "nothing is posted there");
    play.simulator.stop().await;
}

#[tokio::test]
async fn what_is_not_described_is_refused_and_a_violation() {
    let play = Play::start().await;
    let token = play.token().await;
    let who = As::Bearer(&token);
    let runs = format!("/repos/{REPO}/actions/runs");
    play.simulator.github.queue(NewJob::new(REPO, &["linux"], Duration::ZERO));
    let run = play.get(who, &runs).await.body["workflow_runs"][0]["id"].as_u64().expect("a run");
    assert_eq!(play.simulator.audit(), Vec::<String>::new());
    let strange = [
        format!("{runs}?status=qeued"),
        format!("{runs}?state=queued"),
        format!("{runs}/{run}/jobs?filter=lastest"),
        format!("{runs}?per_page=many"),
    ];
    for path in &strange {
        assert_eq!(play.try_call(who, Method::GET, path, None).await.expect("an answer").status, 422, "{path}");
    }
    assert_eq!(play.simulator.audit().len(), strange.len(), "{:?}", play.simulator.audit());
    assert!(play.simulator.audit()[0].contains("the parameter `status` may not be `qeued`"));
    play.simulator.stop().await;
}

#[tokio::test]
async fn what_is_too_much_in_a_short_time_is_refused_without_a_time_to_come_back() {
    let secondary = github::Secondary { at_once: 2, points: 12, registrations: 1 };
    let play = Play::with(github::Settings { secondary: Some(secondary), ..github::Settings::default() }).await;
    let token = play.token().await;
    let who = As::Bearer(&token);
    let path = format!("/repos/{REPO}/actions/runners");
    play.simulator.github.faults().next("runners", 2, Fault::Slow { ms: 2_000 });
    let (a, b, c) = tokio::join!(play.get(who, &path), play.get(who, &path), play.get(who, &path));
    let mut statuses = [a.status, b.status, c.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 403], "two at once");

    let body = |name: &str| json!({ "name": name, "runner_group_id": 1, "labels": ["linux"] });
    let jit = format!("{path}/generate-jitconfig");
    assert_eq!(play.post(who, &jit, &body("pacer-one")).await.status, 201, "seven points");
    let refused = play.post(who, &jit, &body("pacer-two")).await;
    assert_eq!(refused.status, 403, "one registration");
    assert!(refused.body["message"].as_str().is_some_and(|message| message.contains("secondary rate limit")));
    assert!(!refused.headers.contains_key("retry-after"));
    assert_eq!(play.get(who, &path).await.status, 403, "twelve points: what was refused counts");
    assert_eq!(play.simulator.github.over_limit(), 3);
    play.simulator.stop().await;
}
