//! Where the App is installed, for jobs whose delivery did not say so and for installations that have changed.

use std::{collections::HashMap, sync::Arc, sync::Mutex, time::Duration};

use http::StatusCode;
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    auth::guard,
    budget::Class,
    client::{Call, Identity, Inner},
    model::{GitHubError, GitHubErrorKind},
    runners::PER_PAGE,
};
use crate::{fleet::runner::Target, routing::RepoName};

/// How long an installation that was looked up is believed; a wrong one is noticed at its first use.
const KNOWN_FOR: Duration = Duration::from_secs(60 * 60);
/// How long an installation that GitHub did not know is not tried again.
const GONE_FOR: Duration = Duration::from_secs(10 * 60);
/// Of either kind; each is about 100 bytes.
const MAX_KNOWN: usize = 10_000;

/// 10,000 repositories: asking that many for their jobs takes hours already.
const MAX_REPOSITORY_PAGES: usize = 100;

/// What may stand in a path as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

#[derive(Default)]
pub(super) struct Installations(Mutex<Known>);

#[derive(Default)]
struct Known {
    at: HashMap<Target, (i64, Timestamp)>,
    gone: HashMap<i64, Timestamp>,
}

impl Installations {
    /// This installation is not there any more.
    pub fn forget(&self, id: i64, now: Timestamp) {
        let mut known = guard(&self.0);
        known.at.retain(|_, (at, _)| *at != id);
        if known.gone.len() >= MAX_KNOWN {
            known.gone.clear();
        }
        known.gone.insert(id, now);
    }

    fn known(&self, target: &Target, hint: Option<i64>, now: Timestamp) -> Option<i64> {
        let known = guard(&self.0);
        let gone =
            |id: &i64| known.gone.get(id).is_some_and(|since| now.duration_since(*since).unsigned_abs() < GONE_FOR);
        hint.filter(|id| !gone(id)).or_else(|| {
            let (id, since) = known.at.get(target)?;
            (now.duration_since(*since).unsigned_abs() < KNOWN_FOR).then_some(*id)
        })
    }

    fn learn(&self, target: &Target, id: i64, now: Timestamp) {
        let mut known = guard(&self.0);
        if known.at.len() >= MAX_KNOWN {
            known.at.clear();
        }
        known.gone.remove(&id);
        known.at.insert(target.clone(), (id, now));
    }
}

/// The path of a target, without a leading slash.
pub(super) fn path(target: &Target) -> String {
    match target {
        Target::Repo(repo) => format!("repos/{}/{}", repo.owner(), repo.name()),
        Target::Org(org) => format!("orgs/{}", utf8_percent_encode(org, SEGMENT)),
    }
}

#[derive(Deserialize)]
struct Found {
    id: i64,
}

#[derive(Deserialize)]
struct RepositoryPage {
    repositories: Vec<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
    #[serde(default)]
    archived: bool,
}

impl Inner {
    /// What the installation on a target reaches and can have jobs.
    pub async fn repositories(self: &Arc<Self>, target: &Target) -> Result<Vec<RepoName>, GitHubError> {
        let identity = Identity::Installation { target, hint: None };
        let mut repositories = Vec::new();
        for page in 1..=MAX_REPOSITORY_PAGES {
            let query = [("per_page", "100"), ("page", &page.to_string())];
            let url = self.http.url("installation/repositories", &query);
            let call = Call::get("repositories", "repository list", identity, Class::List, url);
            let (answer, _): (RepositoryPage, _) = self.fetch(&call, "a list of repositories").await?;
            let count = answer.repositories.len();
            let in_use = answer.repositories.into_iter().filter(|repository| !repository.archived);
            repositories.extend(in_use.filter_map(|repository| repository.full_name.parse().ok()));
            if count < PER_PAGE {
                break;
            }
        }
        Ok(repositories)
    }

    /// The installation that covers a target: the one the caller knows of, unless it is gone.
    pub async fn installation(self: &Arc<Self>, target: &Target, hint: Option<i64>) -> Result<i64, GitHubError> {
        if let Some(id) = self.installations.known(target, hint, self.clock.now()) {
            return Ok(id);
        }
        let url = self.http.url(&format!("{}/installation", path(target)), &[]);
        let call = Call {
            accept: &[StatusCode::OK, StatusCode::NOT_FOUND],
            ..Call::get("installation", "installation", Identity::App, Class::Mint, url)
        };
        let answer = self.call_for_credential(&call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            let what = match target {
                Target::Repo(repo) => format!("repository `{repo}`"),
                Target::Org(org) => format!("organisation `{org}`"),
            };
            return Err(GitHubError {
                kind: GitHubErrorKind::NotFound,
                message: format!("installation: 404 Not Found: the App is not installed on {what}; install it there"),
                retry_after: None,
            });
        }
        let found: Found = serde_json::from_slice(&answer.body)
            .map_err(|reason| super::error::shape(call.subject, "an installation", &reason))?;
        self.installations.learn(target, found.id, self.clock.now());
        Ok(found.id)
    }
}
