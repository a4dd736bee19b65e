use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{Pool, RunnerGroup, Timeouts};

fn pool(name: &str, labels: &[&str], default: bool, priority: i32, enabled: bool) -> Arc<Pool> {
    let time = Duration::from_secs(60);
    Arc::new(Pool {
        name: name.parse().unwrap(),
        backend: "engine".parse().unwrap(),
        enabled,
        default,
        priority,
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        max_runners: 10,
        warm: crate::config::Warm::always(0),
        timeouts: Timeouts { register: time, create: time, boot: time, idle: time, run: time, stop: time },
        bootstrap: crate::config::Bootstrap::default(),
        settings: serde_json::json!({}),
    })
}

fn project(name: &str, scope: Scope, pools: Vec<Arc<Pool>>) -> Arc<Project> {
    Arc::new(Project { name: name.parse().unwrap(), scope, max_runners: None, max_runners_per_repo: None, pools })
}

fn repos(names: &[&str]) -> Scope {
    Scope::Repos(names.iter().map(|name| name.parse().unwrap()).collect())
}

fn org(login: &str) -> Scope {
    Scope::Org { login: login.to_owned(), runner_group: RunnerGroup::Default }
}

fn router(projects: Vec<Arc<Project>>) -> Router {
    Router::new(&crate::config::fixture(projects))
}

fn ask(router: &Router, repo: &str, labels: &str) -> Decision {
    let labels: Vec<String> = labels.split(',').map(str::to_owned).collect();
    router.route(&repo.parse().unwrap(), &labels)
}

fn chosen(decision: &Decision) -> Option<&str> {
    match decision {
        Decision::Matched { pool, .. } => Some(pool.as_str()),
        Decision::NotOurs | Decision::Unbound { .. } | Decision::Unmatched { .. } => None,
    }
}

fn standing(decision: &Decision, pool: &str) -> String {
    let tree = decision.tree().expect("a project was found");
    tree.pools.iter().find(|reason| reason.pool.as_str() == pool).expect("every pool is there").standing.sentence()
}

fn example() -> Router {
    router(vec![
        project(
            "app",
            repos(&["acme/App"]),
            vec![
                pool("small", &["linux", "x64"], true, 100, true),
                pool("large", &["linux", "x64", "Big Machine"], false, 50, true),
                pool("arm", &["linux", "arm64"], false, 100, true),
                pool("gpu", &["linux", "gpu"], false, 1, false),
            ],
        ),
        project("everything", org("Acme"), vec![pool("any", &["linux"], false, 100, true)]),
    ])
}

#[test]
fn the_rules_in_their_order() {
    let router = example();
    let check = |labels: &str, expected: Option<&str>| {
        assert_eq!(chosen(&ask(&router, "acme/app", labels)), expected, "{labels}");
    };
    check("self-hosted", Some("small"));
    check("Self-Hosted,LINUX", Some("small"));
    check("self-hosted,large", Some("large"));
    check("self-hosted,app,acme-app", Some("small"));
    check("self-hosted,big-machine", Some("large"));
    check("self-hosted,arm64", Some("arm"));
    check("self-hosted,gpu", None);
    check("self-hosted,windows", None);
    check("self-hosted,small,large", None);
}

#[test]
fn a_repository_wins_over_its_organisation_without_case() {
    let router = example();
    assert_eq!(chosen(&ask(&router, "ACME/aPP", "self-hosted")), Some("small"));
    assert_eq!(chosen(&ask(&router, "aCMe/other", "self-hosted")), Some("any"));
    // The label of a repository exists in repository scope only.
    assert_eq!(chosen(&ask(&router, "acme/other", "self-hosted,acme-other")), None);
}

#[test]
fn what_is_not_ours_and_what_is_not_bound() {
    let router = example();
    assert_eq!(ask(&router, "acme/app", "ubuntu-latest"), Decision::NotOurs);
    assert_eq!(router.route(&"acme/app".parse().unwrap(), &[]), Decision::NotOurs);
    let Err(reason) = ask(&router, "else/where", "self-hosted").assignment() else { panic!("it is not bound") };
    assert_eq!(
        reason,
        "repository `else/where` is not bound to any project: add it to `repos` of a project, or add a project with \
         `scope: org` and `org: else`"
    );
}

#[test]
fn every_pool_has_its_reason() {
    let decision = ask(&example(), "acme/app", "self-hosted,linux");
    assert_eq!(standing(&decision, "small"), "chosen: the default of the project");
    assert_eq!(standing(&decision, "large"), "fits, but `small` is the default");
    assert_eq!(standing(&decision, "gpu"), "fits, but is disabled");
    let decision = ask(&example(), "acme/app", "self-hosted,arm64,nope");
    assert_eq!(standing(&decision, "arm"), "lacks `nope`");
    assert_eq!(standing(&decision, "gpu"), "is disabled, and lacks `arm64`, `nope`");
}

#[test]
fn no_match_names_the_nearest_pool() {
    let check = |labels: &str, expected: &str| {
        let assignment = ask(&example(), "acme/app", labels).assignment().unwrap();
        assert_eq!(assignment.reason.as_deref(), Some(expected));
        assert_eq!(assignment.pool, None);
    };
    check("self-hosted,arm64,fpga", "no pool of project `app` fits; the nearest, `arm`, lacks `fpga`");
    check("self-hosted,gpu", "pool `gpu` of project `app` fits but is disabled: set `enabled: true`");
    check(
        "self-hosted,Big Machine",
        "no pool of project `app` fits; the nearest, `large`, lacks `Big Machine` \
         (GitHub asks for `Big Machine`, the pool registers `big-machine`)",
    );
}

#[test]
fn a_near_miss_is_explained_and_not_a_match() {
    let decision = ask(&example(), "acme/app", "self-hosted,Big Machine");
    assert_eq!(
        standing(&decision, "large"),
        "lacks `Big Machine` (GitHub asks for `Big Machine`, the pool registers `big-machine`)"
    );
}

#[test]
fn ten_thousand_labels_and_control_characters_are_told_in_a_few_words() {
    let mut labels: Vec<String> = (0..10_000).map(|n| format!("\u{1b}[2J{n}\n")).collect();
    labels.push("self-hosted".to_owned());
    let decision = example().route(&"acme/app".parse().unwrap(), &labels);
    let text = super::super::render(decision.tree().unwrap());
    assert!(text.len() < 10_000, "{}", text.len());
    assert!(!text.contains('\u{1b}'));
    assert!(text.contains("and 9980 more"), "{text}");
    assert!(!decision.assignment().unwrap().reason.unwrap().contains(char::is_control));
}

#[test]
fn the_tree_as_text_and_as_json() {
    let decision = ask(&example(), "acme/other", "self-hosted,linux");
    let tree = decision.tree().unwrap();
    assert_eq!(
        super::super::render(tree),
        "acme/other asks for `self-hosted`, `linux`\n\
         └─ project everything (has its organisation)\n   \
         └─ ✓ any (priority 100, backend engine): chosen: the only one that fits\n          \
         labels: self-hosted, everything, any, linux\n"
    );
    let json = serde_json::to_value(tree).unwrap();
    assert_eq!(json["pools"][0]["standing"], "chosen");
    assert_eq!(json["pools"][0]["rule"], "only");
    assert_eq!(json["bound_by"], "org");
}

const WORDS: [&str; 6] = ["linux", "x64", "gpu", "p0", "p1", "self-hosted"];

fn pools() -> impl Strategy<Value = Vec<Arc<Pool>>> {
    let one = (proptest::collection::vec(0..WORDS.len(), 0..4), 0..3_i32, any::<bool>());
    (proptest::collection::vec(one, 1..6), proptest::option::of(0_usize..6)).prop_map(|(pools, default)| {
        pools
            .into_iter()
            .enumerate()
            .map(|(index, (labels, priority, enabled))| {
                let labels: Vec<_> = labels.into_iter().map(|word| WORDS[word]).collect();
                pool(&format!("p{index}"), &labels, default == Some(index), priority, enabled)
            })
            .collect()
    })
}

fn requests() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(0..WORDS.len(), 0..4).prop_map(|words| {
        let asked = words.into_iter().map(|word| WORDS[word].to_uppercase());
        std::iter::once("self-hosted".to_owned()).chain(asked).collect()
    })
}

fn with(pools: Vec<Arc<Pool>>) -> Router {
    router(vec![project("app", repos(&["acme/app"]), pools)])
}

proptest! {
    #[test]
    fn the_choice_obeys_every_rule(pools in pools(), requested in requests()) {
        let repo: RepoName = "acme/app".parse().unwrap();
        let app = project("app", repos(&["acme/app"]), pools.clone());
        let asked: HashSet<String> = requested.iter().map(|label| label.to_lowercase()).collect();
        let labels = |pool: &Pool| -> HashSet<String> {
            runner_labels(&app, pool, &Target::Repo(repo.clone())).into_iter().collect()
        };
        let fitting: Vec<_> = pools.iter().filter(|pool| pool.enabled && asked.is_subset(&labels(pool))).collect();
        let decision = with(pools.clone()).route(&repo, &requested);
        let Some(name) = chosen(&decision) else {
            prop_assert!(fitting.is_empty());
            return Ok(());
        };
        let winner = fitting.iter().find(|pool| pool.name.as_str() == name);
        prop_assert!(winner.is_some(), "only what GitHub would accept is chosen");
        let winner = winner.unwrap();
        let named: Vec<_> = fitting.iter().filter(|pool| asked.contains(pool.name.as_str())).collect();
        let best = |pools: &mut dyn Iterator<Item = &&Arc<Pool>>| {
            pools.map(|pool| (pool.priority, pool.name.clone())).min().map(|(_, name)| name)
        };
        if !named.is_empty() {
            prop_assert_eq!(best(&mut named.into_iter().copied().collect::<Vec<_>>().iter()), Some(winner.name.clone()));
        } else if let Some(default) = fitting.iter().find(|pool| pool.default) {
            prop_assert_eq!(&default.name, &winner.name);
        } else {
            prop_assert_eq!(best(&mut fitting.iter()), Some(winner.name.clone()));
        }
    }

    #[test]
    fn the_order_of_pools_does_not_matter(pools in pools(), requested in requests(), by in 0_usize..6) {
        let repo: RepoName = "acme/app".parse().unwrap();
        let mut turned = pools.clone();
        let length = turned.len();
        turned.rotate_left(by % length);
        prop_assert_eq!(with(pools).route(&repo, &requested), with(turned).route(&repo, &requested));
    }

    #[test]
    fn every_enabled_pool_can_be_reached_by_its_name(pools in pools()) {
        let repo: RepoName = "acme/app".parse().unwrap();
        for pool in pools.iter().filter(|pool| pool.enabled) {
            let requested = ["self-hosted".to_owned(), pool.name.to_string()];
            let decision = with(pools.clone()).route(&repo, &requested);
            prop_assert_eq!(chosen(&decision), Some(pool.name.as_str()));
        }
    }

    #[test]
    fn any_labels_are_routed_without_a_panic(labels in proptest::collection::vec(".{0,20}", 0..20), pools in pools()) {
        let mut labels = labels;
        labels.push("self-hosted".to_owned());
        let decision = with(pools).route(&"acme/app".parse().unwrap(), &labels);
        prop_assert!(decision.assignment().is_ok());
    }
}
