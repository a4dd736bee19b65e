//! The sections `backends` and `projects`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    Backend, Plugins, Pool, Project, RunnerGroup, Scope, Timeouts, Warm, bootstrap, endpoint,
    reader::{Reader, Section, listed, suggestion},
    sections,
    value::Value,
    warm,
};
use crate::{
    fleet::runner::Target,
    routing::{self, BackendName, MOST_LABELS, PoolName, ProjectName, RepoName, shown},
};

pub(super) const BACKEND: &[&str] = &["plugin", "digest", "endpoints", "settings", "limits", "poll"];
/// As [`sections::LIMITS`], without the one that is about all backends together.
pub(super) const BACKEND_LIMITS: &[&str] =
    &["file_size", "memory", "cpu", "response", "request", "requests", "log", "concurrency"];
pub(super) const PROJECT: &[&str] =
    &["name", "scope", "repos", "org", "runner_group", "max_runners", "max_runners_per_repo", "pools"];
pub(super) const POOL: &[&str] = &[
    "name",
    "backend",
    "default",
    "enabled",
    "priority",
    "labels",
    "max_runners",
    "min_idle",
    "warm",
    "time_zone",
    "timeouts",
    "bootstrap",
    "settings",
];
pub(super) const TIMEOUTS: &[&str] = &["register", "create", "boot", "idle", "run", "stop"];

/// Of a pool that does not say: enough to try things out, too few to empty an account.
const DEFAULT_MAX_RUNNERS: u32 = 10;
const DEFAULT_PRIORITY: i32 = 100;
/// GitHub's own runner refuses longer ones.
const LONGEST_LABEL: usize = 256;

/// The backends that could be read, and the names of all, so that one broken backend is not reported twice.
pub(super) struct Backends {
    pub read: BTreeMap<BackendName, Arc<Backend>>,
    names: BTreeSet<String>,
}

pub(super) fn backends(root: &Section<'_, '_>, reader: &Reader<'_>, plugins: Option<&Plugins>) -> Backends {
    let mut backends = Backends { read: BTreeMap::new(), names: BTreeSet::new() };
    let Some(section) = root.get("backends") else { return backends };
    for (name, _, value) in section.entries() {
        backends.names.insert(name.clone());
        if let Some(backend) = backend(&name, &value, reader, plugins) {
            backends.read.insert(backend.name.clone(), Arc::new(backend));
        }
    }
    backends
}

fn backend(name: &str, value: &Value<'_, '_>, reader: &Reader<'_>, plugins: Option<&Plugins>) -> Option<Backend> {
    let name = name.parse::<BackendName>().map_err(|error| value.problem("is malformed", error.to_string())).ok();
    let section = value.section(BACKEND);
    let plugin = section.required("plugin", "name the file in `plugins.dir`, without `.wasm`").and_then(|value| {
        let text = value.text()?;
        let fits = !text.is_empty()
            && text.len() <= 100
            && !text.starts_with('.')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !fits {
            value.problem(
                format!("is `{}`", shown(text)),
                "name the file in `plugins.dir`, without directory and without `.wasm`",
            );
        }
        fits.then(|| text.strip_suffix(".wasm").unwrap_or(text).to_owned())
    });
    let digest = match section.get("digest") {
        None => Some(None),
        Some(value) => value.text().and_then(|text| {
            let hex = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
            let fits = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
            if !fits {
                value.problem("is not a SHA-256", "write the 64 hexadecimal digits that `pacer plugin inspect` prints");
            }
            fits.then_some(Some(hex))
        }),
    };
    let endpoints = endpoint::endpoints(section.get("endpoints"), reader);
    let settings = section.settings("settings");
    let base = plugins.map(|plugins| plugins.limits.clone()).unwrap_or_default();
    let limits = sections::limits(&section.section("limits", BACKEND_LIMITS), &base);
    let poll = section.duration_or("poll", Duration::from_secs(5));
    Some(Backend {
        name: name?,
        plugin: plugin?,
        digest: digest?,
        endpoints: endpoints?,
        settings: settings?,
        limits: limits?,
        poll: poll?,
    })
}

pub(super) fn projects(root: &Section<'_, '_>, reader: &Reader<'_>, backends: &Backends) -> Vec<Arc<Project>> {
    let items = root.get("projects").map(|value| value.items()).unwrap_or_default();
    if items.is_empty() {
        reader.warn("projects: there is none, so every job is ignored");
    }
    let mut names = HashMap::new();
    let mut repos = HashMap::new();
    let mut orgs = HashMap::new();
    let mut projects = Vec::new();
    for value in &items {
        let section = value.section(PROJECT);
        let name = name::<ProjectName>(&section, "name");
        if let Some(name) = &name
            && let Some(first) = names.insert(name.as_str().to_owned(), value.path.clone())
        {
            section.problem(
                "name",
                format!("is `{name}`, as that of `{first}`"),
                "give each project a name of its own",
            );
        }
        let owner = name.as_ref().map_or_else(|| value.path.clone(), ToString::to_string);
        let scope = scope(&section, &owner, &mut repos, &mut orgs);
        let cap = |key: &str| section.get(key).map_or(Some(None), |value| value.positive().map(Some));
        let (max_runners, max_runners_per_repo) = (cap("max_runners"), cap("max_runners_per_repo"));
        let pools = pools(&section, reader, backends, &owner);
        let project = || {
            Some(Project {
                name: name?,
                scope: scope?,
                max_runners: max_runners?,
                max_runners_per_repo: max_runners_per_repo?,
                pools: pools?,
            })
        };
        if let Some(project) = project() {
            check_labels(&project, &section, reader);
            projects.push(Arc::new(project));
        }
    }
    for name in backends.read.keys() {
        if !projects.iter().any(|project| project.pools.iter().any(|pool| pool.backend == *name)) {
            reader.warn(format!("backends.{name}: no pool uses it"));
        }
    }
    projects
}

/// A name that is its own label: what a person writes into `runs-on` is what the file says.
fn name<T: std::str::FromStr>(section: &Section<'_, '_>, key: &str) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    let value = section.required(key, "give it a name of a-z, 0-9, `-` and `_`: it is a label of its runners")?;
    let text = value.text()?;
    match routing::normalise(text) {
        Some(normal) if normal == text => value.parsed(),
        Some(normal) => {
            value.problem(format!("is `{}`, which is not a normal label", shown(text)), format!("write `{normal}`"));
            None
        }
        None => {
            value.problem(
                format!("is `{}`, of which no label can be made", shown(text)),
                "use the characters a-z, 0-9, `-` and `_`",
            );
            None
        }
    }
}

fn scope(
    section: &Section<'_, '_>,
    owner: &str,
    repos: &mut HashMap<RepoName, String>,
    orgs: &mut HashMap<String, String>,
) -> Option<Scope> {
    let is_org = section
        .required("scope", "write `repo`, with `repos`, or `org`, with `org`")?
        .word(&[("repo", false), ("org", true)])?;
    let stray: &[&str] = if is_org { &["repos"] } else { &["org", "runner_group"] };
    for key in stray {
        if section.get(key).is_some() {
            let other = if is_org { "repo" } else { "org" };
            section.problem(key, format!("belongs to `scope: {other}`"), "remove it, or change `scope`");
        }
    }
    if !is_org {
        let items = section.required("repos", "list the repositories as `owner/name`")?.items();
        if items.is_empty() {
            section.problem("repos", "is empty", "list the repositories as `owner/name`");
            return None;
        }
        let mut bound = Some(Vec::new());
        for value in items {
            let Some(repo) = value.parsed::<RepoName>() else {
                bound = None;
                continue;
            };
            if let Some(first) = repos.insert(repo.clone(), owner.to_owned()) {
                value.problem(
                    format!("is `{repo}`, which project `{first}` has already"),
                    "a repository belongs to one project: remove it from one of them",
                );
            }
            if let Some(bound) = &mut bound {
                bound.push(repo);
            }
        }
        return bound.map(Scope::Repos);
    }
    let value = section.required("org", "write the organisation's login, as in `https://github.com/<org>`")?;
    let login = value.text()?;
    let fits = (1..=100).contains(&login.len())
        && login.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if !fits {
        value.problem(
            format!("is `{}`, not an organisation's login", shown(login)),
            "write it as GitHub's address has it",
        );
        return None;
    }
    if let Some(first) = orgs.insert(login.to_ascii_lowercase(), owner.to_owned()) {
        value.problem(
            format!("is `{login}`, which project `{first}` has already"),
            "an organisation belongs to one project: put the pools into that one, or bind repositories with `scope: repo`",
        );
    }
    let runner_group = match section.get("runner_group") {
        None => RunnerGroup::Default,
        Some(value) if value.is_integer() => RunnerGroup::Id(value.positive()?),
        Some(value) => {
            let text = value.text()?.trim();
            if text.is_empty() {
                value.problem("is empty", "write the group's id or name, or remove the key");
                return None;
            }
            RunnerGroup::Name(text.to_owned())
        }
    };
    Some(Scope::Org { login: login.to_owned(), runner_group })
}

fn pools(project: &Section<'_, '_>, reader: &Reader<'_>, backends: &Backends, owner: &str) -> Option<Vec<Arc<Pool>>> {
    let items = project.required("pools", "a project needs at least one pool")?.items();
    if items.is_empty() {
        project.problem("pools", "is empty", "a project needs at least one pool");
        return None;
    }
    let mut names = HashMap::new();
    let mut default: Option<String> = None;
    let mut pools = Some(Vec::new());
    for value in items {
        let section = value.section(POOL);
        if section.bool_or("default", false) == Some(true) {
            match &default {
                Some(first) => section.problem(
                    "default",
                    format!("is the second default of project `{owner}`, after `{first}`"),
                    "at most one pool of a project is the default: remove one of the two",
                ),
                None => default = Some(value.path.clone()),
            }
        }
        match (pool(&section, reader, backends, owner), &mut pools) {
            (Some(pool), Some(pools)) => {
                if let Some(first) = names.insert(pool.name.clone(), value.path.clone()) {
                    section.problem(
                        "name",
                        format!("is `{}`, as that of `{first}`", pool.name),
                        "give each pool of a project a name of its own",
                    );
                }
                pools.push(Arc::new(pool));
            }
            _ => pools = None,
        }
    }
    pools
}

fn pool(section: &Section<'_, '_>, reader: &Reader<'_>, backends: &Backends, owner: &str) -> Option<Pool> {
    let name = name::<PoolName>(section, "name");
    let backend = section.required("backend", "name one of `backends`").and_then(|value| {
        let text = value.text()?;
        if backends.names.contains(text) {
            return text.parse::<BackendName>().ok();
        }
        let known = || backends.names.iter().map(String::as_str);
        let mut hint = suggestion(text, known()).map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
        hint.push_str(&match backends.names.is_empty() {
            true => "there are no `backends` yet: add one".to_owned(),
            false => format!("the backends are {}", listed(known())),
        });
        value.problem(format!("is `{}`, which is not in `backends`", shown(text)), hint);
        None
    });
    let enabled = section.bool_or("enabled", true);
    let default = section.bool_or("default", false);
    let priority = section.get("priority").map_or(Some(DEFAULT_PRIORITY), |value| value.integer());
    let labels = match section.get("labels") {
        None => Some(Vec::new()),
        Some(value) => labels(&value),
    };
    let max_runners = section.get("max_runners").map_or(Some(DEFAULT_MAX_RUNNERS), |value| {
        let count = value.integer::<u32>()?;
        if count == 0 {
            value.problem("must be more than zero", "to switch a pool off, write `enabled: false`");
        }
        (count > 0).then_some(count)
    });
    let min_idle = section.get("min_idle").map_or(Some(0), |value| value.integer::<u32>());
    let warm = warm::warm(section, min_idle);
    if let (Some(max), Some(most)) = (max_runners, warm.as_ref().map(Warm::most))
        && most > max
    {
        let key = if min_idle.is_some_and(|min| min > max) { "min_idle" } else { "warm" };
        section.problem(
            key,
            format!("asks for {most} idle runners, more than the {max} of `max_runners`"),
            "lower it, or raise the other",
        );
    }
    let timeouts = timeouts(&section.section("timeouts", TIMEOUTS));
    let bootstrap = section.section("bootstrap", bootstrap::BOOTSTRAP);
    let bootstrap = bootstrap::bootstrap(&bootstrap, timeouts.as_ref(), reader);
    let settings = section.settings("settings");
    if let (Some(name), Some(false)) = (&name, enabled) {
        reader.warn(format!("pool `{name}` of project `{owner}` is disabled"));
    }
    Some(Pool {
        name: name?,
        backend: backend?,
        enabled: enabled?,
        default: default?,
        priority: priority?,
        labels: labels?,
        max_runners: max_runners?,
        warm: warm?,
        timeouts: timeouts?,
        bootstrap: bootstrap?,
        settings: settings?,
    })
}

fn labels(value: &Value<'_, '_>) -> Option<Vec<String>> {
    let items = value.items();
    if items.len() > MOST_LABELS {
        value.problem(
            format!("has {} labels", items.len()),
            format!("GitHub takes at most {MOST_LABELS} for a runner: remove some"),
        );
        return None;
    }
    let mut labels = Some(Vec::new());
    for value in items {
        let label = value.text().filter(|text| match routing::normalise(text) {
            None => {
                value.problem(
                    format!("is `{}`, of which nothing is left as a label", shown(text)),
                    "use letters, digits, `-` and `_`",
                );
                false
            }
            Some(normal) if normal.chars().count() > LONGEST_LABEL => {
                value.problem(
                    format!("has {} characters", normal.chars().count()),
                    format!("GitHub takes at most {LONGEST_LABEL} for a label"),
                );
                false
            }
            Some(_) => true,
        });
        match (label, &mut labels) {
            (Some(label), Some(labels)) => labels.push(label.to_owned()),
            _ => labels = None,
        }
    }
    labels
}

/// The longest that a runner may be in a state. Beyond these nothing good comes: GitHub gives up a job after five days,
/// and a machine that has not booted in an hour costs money for nothing.
const LONGEST: [(&str, Duration); 6] = [
    ("register", Duration::from_secs(600)),
    ("create", Duration::from_secs(1800)),
    ("boot", Duration::from_secs(3600)),
    ("idle", Duration::from_secs(24 * 3600)),
    ("run", Duration::from_secs(5 * 24 * 3600)),
    ("stop", Duration::from_secs(1800)),
];

fn timeouts(section: &Section<'_, '_>) -> Option<Timeouts> {
    let base = sections::DEFAULT_TIMEOUTS;
    let register = section.duration_or("register", base.register);
    let create = section.duration_or("create", base.create);
    let boot = section.duration_or("boot", base.boot);
    let idle = section.duration_or("idle", base.idle);
    let run = section.duration_or("run", base.run);
    let stop = section.duration_or("stop", base.stop);
    for ((key, longest), time) in LONGEST.into_iter().zip([register, create, boot, idle, run, stop]) {
        if time.is_some_and(|time| time > longest) {
            section.problem(
                key,
                "is longer than makes sense",
                format!("write {} h at most", longest.as_secs_f64() / 3600.0),
            );
        }
    }
    Some(Timeouts { register: register?, create: create?, boot: boot?, idle: idle?, run: run?, stop: stop? })
}

/// The labels of each pool as a whole. No pool can be out of reach: `runs-on` can always name it.
fn check_labels(project: &Project, section: &Section<'_, '_>, reader: &Reader<'_>) {
    let target = match &project.scope {
        Scope::Repos(repos) => repos.first().cloned().map(Target::Repo),
        Scope::Org { login, .. } => Some(Target::org(login)),
    };
    let Some(target) = target else { return };
    for pool in &project.pools {
        // `runner_labels` cuts off what is too many, so the count is taken before.
        let all = routing::label_count(project, pool, &target);
        if all > MOST_LABELS {
            section.problem(
                "pools",
                format!("of which `{}` has {all} labels, with those that pacer adds", pool.name),
                format!("GitHub takes at most {MOST_LABELS} for a runner: remove {}", all - MOST_LABELS),
            );
        }
        for label in &pool.labels {
            if let Some(normal) = routing::normalise(label)
                && normal != routing::lower(label)
            {
                reader.warn(format!(
                    "label `{}` of pool `{}` is registered as `{normal}`: workflows must ask for that",
                    shown(label),
                    pool.name
                ));
            }
        }
    }
}
