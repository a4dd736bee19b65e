//! The match itself: from a repository and labels to a pool, with the reason for every pool.
//!
//! (1) Candidates are enabled pools whose labels include every requested one. (2) If `runs-on` names some of them,
//! the best priority among those; (3) else the project's default, if it is one; (4) else the best priority. Ties go by
//! the pool's name. The order of pools in the file never matters.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::Serialize;

use super::{
    BackendName, PoolName, ProjectName, RepoName,
    labels::{SELF_HOSTED, lower, normalise, pool_labels, repo_label, runner_labels, shown},
};
use crate::{
    config::{Config, Project, Scope},
    fleet::{job::Assignment, runner::Target},
};

/// A reason names at most so many labels; a job may ask for thousands.
const MOST_SHOWN: usize = 20;

/// Where a job belongs.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// `runs-on` has no `self-hosted`: GitHub's own machines take it.
    NotOurs,
    /// Neither the repository nor its owner belongs to a project.
    Unbound {
        reason: String,
    },
    Matched {
        project: ProjectName,
        pool: PoolName,
        tree: Explanation,
    },
    /// A project, but none of its pools.
    Unmatched {
        project: ProjectName,
        /// The pool that lacks least.
        nearest: Option<PoolName>,
        /// What that pool lacks; empty when it is disabled and would fit. Cut like every list of labels.
        missing: Vec<MissingLabel>,
        /// In a sentence, with the way out.
        reason: String,
        tree: Explanation,
    },
}

impl Decision {
    /// What is stored of it, or why the job is none of ours.
    pub fn assignment(&self) -> Result<Assignment, String> {
        match self {
            Self::NotOurs => Err("not self-hosted".to_owned()),
            Self::Unbound { reason } => Err(reason.clone()),
            Self::Matched { project, pool, .. } => {
                Ok(Assignment { project: project.clone(), pool: Some(pool.clone()), reason: None })
            }
            Self::Unmatched { project, reason, .. } => {
                Ok(Assignment { project: project.clone(), pool: None, reason: Some(reason.clone()) })
            }
        }
    }

    pub fn tree(&self) -> Option<&Explanation> {
        match self {
            Self::Matched { tree, .. } | Self::Unmatched { tree, .. } => Some(tree),
            Self::NotOurs | Self::Unbound { .. } => None,
        }
    }
}

/// The reason tree: for every pool of the project, why it was or was not chosen. Its texts are safe to show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub repo: String,
    /// What `runs-on` asks for, at most the first twenty.
    pub requested: Vec<String>,
    /// How many more it asks for.
    pub requested_more: usize,
    pub project: ProjectName,
    pub bound_by: Binding,
    pub chosen: Option<PoolName>,
    /// The best one first.
    pub pools: Vec<PoolReason>,
}

/// How the repository came to the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Binding {
    /// It is listed. Wins over its organisation.
    Repo,
    /// Its owner is the project's organisation.
    Org,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoolReason {
    pub pool: PoolName,
    pub backend: BackendName,
    pub default: bool,
    pub priority: i32,
    /// What its runners register with.
    pub labels: Vec<String>,
    #[serde(flatten)]
    pub standing: Standing,
}

/// What became of a pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "standing", rename_all = "lowercase")]
pub enum Standing {
    /// It is the one, by this rule.
    Chosen { rule: Rule },
    /// It would do, but another came first by this rule.
    Lost { rule: Rule, to: PoolName },
    /// Its runners do not have these labels.
    Missing { missing: Vec<MissingLabel>, more: usize },
    /// `enabled: false`. It may lack labels as well.
    Disabled { missing: Vec<MissingLabel>, more: usize },
}

/// A label that a job asks for and a pool does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingLabel {
    pub label: String,
    /// The pool registers this, which differs only in what normalising changes; GitHub does not take one for the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registered_as: Option<String>,
}

/// Which rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// No other pool fits.
    Only,
    /// `runs-on` names the pool.
    Named,
    /// It is the project's default.
    Default,
    /// It has the better priority.
    Priority,
    /// Equal priority; its name comes first.
    Name,
}

/// A configuration, indexed for routing deliveries.
#[derive(Debug)]
pub struct Router {
    projects: Vec<Entry>,
    repos: HashMap<RepoName, usize>,
    /// By login in lower case.
    orgs: HashMap<String, usize>,
}

#[derive(Debug)]
struct Entry {
    project: Arc<Project>,
    /// In the order of [`Project::pools`]: what every runner of the pool has, whatever its repository.
    labels: Vec<HashSet<String>>,
}

/// Routes once. Whoever routes often keeps a [`Router`].
pub fn route(config: &Config, repo: &RepoName, labels: &[String]) -> Decision {
    Router::new(config).route(repo, labels)
}

impl Router {
    pub fn new(config: &Config) -> Self {
        let mut router = Self { projects: Vec::new(), repos: HashMap::new(), orgs: HashMap::new() };
        for (index, project) in config.projects.iter().enumerate() {
            // The label of the repository is added when it is known.
            let labels = project.pools.iter().map(|pool| pool_labels(project, pool).into_iter().collect()).collect();
            match &project.scope {
                Scope::Repos(repos) => {
                    for repo in repos {
                        router.repos.entry(repo.clone()).or_insert(index);
                    }
                }
                Scope::Org { login, .. } => {
                    router.orgs.entry(login.to_ascii_lowercase()).or_insert(index);
                }
            }
            router.projects.push(Entry { project: project.clone(), labels });
        }
        router
    }

    /// The project of a repository: the one that lists it, else that of its organisation.
    pub fn project(&self, repo: &RepoName) -> Option<(&Arc<Project>, Binding)> {
        let (entry, binding) = self.entry(repo)?;
        Some((&entry.project, binding))
    }

    fn entry(&self, repo: &RepoName) -> Option<(&Entry, Binding)> {
        let listed = self.repos.get(repo).map(|index| (index, Binding::Repo));
        let (index, binding) =
            listed.or_else(|| self.orgs.get(&repo.owner().to_ascii_lowercase()).map(|index| (index, Binding::Org)))?;
        Some((&self.projects[*index], binding))
    }

    /// Finds the pool of a job. Costs time in proportion to the labels it asks for, not to their product with pools.
    pub fn route(&self, repo: &RepoName, labels: &[String]) -> Decision {
        let requested: Vec<String> = labels.iter().map(|label| lower(label)).collect();
        if !requested.iter().any(|label| label == SELF_HOSTED) {
            return Decision::NotOurs;
        }
        let Some((entry, bound_by)) = self.entry(repo) else {
            return Decision::Unbound {
                reason: format!(
                    "repository `{repo}` is not bound to any project: add it to `repos` of a project, or add a project \
                     with `scope: org` and `org: {}`",
                    repo.owner()
                ),
            };
        };
        let mut asked = HashSet::with_capacity(requested.len());
        let distinct: Vec<Asked<'_>> = labels
            .iter()
            .zip(&requested)
            .filter(|(_, lower)| asked.insert(lower.as_str()))
            .map(|(spelled, lower)| Asked { spelled, lower })
            .collect();
        entry.decide(repo, bound_by, &distinct, &asked)
    }
}

/// A requested label, as it came and as it compares.
struct Asked<'a> {
    spelled: &'a str,
    lower: &'a str,
}

impl Entry {
    fn decide(&self, repo: &RepoName, bound_by: Binding, distinct: &[Asked<'_>], asked: &HashSet<&str>) -> Decision {
        let project = &self.project;
        let target = Target::of(&project.scope, repo);
        let own = repo_label(project, &target);
        let lacks: Vec<Lack> = self.labels.iter().map(|labels| lack(labels, own.as_deref(), distinct, asked)).collect();

        // A smaller rank comes first; the order among pools that fit, and among those that do not.
        let rank = |index: usize| {
            let pool = &project.pools[index];
            let named = asked.contains(pool.name.as_str());
            (!named, !named && !pool.default, pool.priority, pool.name.clone())
        };
        let mut order: Vec<usize> = (0..project.pools.len()).collect();
        order.sort_by_cached_key(|index| {
            let count = lacks[*index].count();
            (count > 0 || !project.pools[*index].enabled, count, rank(*index))
        });
        let fits = |index: &&usize| project.pools[**index].enabled && lacks[**index].count() == 0;
        let candidates: Vec<usize> = order.iter().filter(fits).copied().collect();
        let chosen = candidates.first().copied();

        let rule_between = |winner: usize, loser: usize| {
            let (first, second) = (rank(winner), rank(loser));
            if first.0 != second.0 {
                Rule::Named
            } else if first.1 != second.1 {
                Rule::Default
            } else if first.2 != second.2 {
                Rule::Priority
            } else {
                Rule::Name
            }
        };
        let standing = |index: usize, lack: &Lack| {
            if !project.pools[index].enabled {
                return Standing::Disabled { missing: lack.missing.clone(), more: lack.more };
            }
            if lack.count() > 0 {
                return Standing::Missing { missing: lack.missing.clone(), more: lack.more };
            }
            match (chosen, candidates.get(1)) {
                (Some(chosen), _) if chosen != index => {
                    Standing::Lost { rule: rule_between(chosen, index), to: project.pools[chosen].name.clone() }
                }
                (_, Some(second)) => Standing::Chosen { rule: rule_between(index, *second) },
                (_, None) => Standing::Chosen { rule: Rule::Only },
            }
        };
        let pools = order
            .iter()
            .map(|index| {
                let pool = &project.pools[*index];
                PoolReason {
                    pool: pool.name.clone(),
                    backend: pool.backend.clone(),
                    default: pool.default,
                    priority: pool.priority,
                    labels: runner_labels(project, pool, &target),
                    standing: standing(*index, &lacks[*index]),
                }
            })
            .collect();
        let tree = Explanation {
            repo: repo.as_str().to_owned(),
            requested: distinct.iter().take(MOST_SHOWN).map(|asked| shown(asked.spelled)).collect(),
            requested_more: distinct.len().saturating_sub(MOST_SHOWN),
            project: project.name.clone(),
            bound_by,
            chosen: chosen.map(|index| project.pools[index].name.clone()),
            pools,
        };
        if let Some(index) = chosen {
            return Decision::Matched { project: project.name.clone(), pool: project.pools[index].name.clone(), tree };
        }
        // What lacks least is nearest, whether or not it is enabled: a disabled pool that fits is the best hint.
        // Of equals, the one whose label was only spelled differently.
        let nearest = order.iter().copied().min_by_key(|index| {
            let lack = &lacks[*index];
            let strange = lack.missing.iter().filter(|missing| missing.registered_as.is_none()).count();
            (lack.count(), strange, !project.pools[*index].enabled, rank(*index))
        });
        let missing = nearest.map(|index| lacks[index].missing.clone()).unwrap_or_default();
        let reason = match nearest {
            Some(index) => super::explain::unmatched(project, &project.pools[index], &missing, lacks[index].more),
            None => format!("project `{}` has no pools", project.name),
        };
        Decision::Unmatched {
            project: project.name.clone(),
            nearest: nearest.map(|index| project.pools[index].name.clone()),
            missing,
            reason,
            tree,
        }
    }
}

/// What a pool lacks of what was asked.
struct Lack {
    missing: Vec<MissingLabel>,
    more: usize,
}

impl Lack {
    fn count(&self) -> usize {
        self.missing.len() + self.more
    }
}

/// Looks at the pool's labels to count, and at the job's only until the message is full.
fn lack(labels: &HashSet<String>, own: Option<&str>, distinct: &[Asked<'_>], asked: &HashSet<&str>) -> Lack {
    let own_counts = own.is_some_and(|own| asked.contains(own) && !labels.contains(own));
    let present = labels.iter().filter(|label| asked.contains(label.as_str())).count() + usize::from(own_counts);
    let count = distinct.len() - present;
    let has = |label: &str| labels.contains(label) || own == Some(label);
    let missing: Vec<_> = distinct
        .iter()
        .filter(|asked| !has(asked.lower))
        .take(count.min(MOST_SHOWN))
        .map(|asked| MissingLabel {
            label: shown(asked.spelled),
            registered_as: normalise(asked.spelled).filter(|normal| has(normal)),
        })
        .collect();
    Lack { more: count - missing.len(), missing }
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
