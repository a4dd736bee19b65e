//! The App itself: whether GitHub knows it, what it may do, where it is installed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::time::Instant;

use super::{
    auth::guard,
    budget::Class,
    client::{Call, Client, Identity, Inner},
    error::unavailable,
    model::GitHubError,
    runners::PER_PAGE,
};
use crate::fleet::runner::Target;

/// `/readyz` is open to everybody; GitHub is not asked more often than this for it.
const PING_KNOWN_FOR: Duration = Duration::from_secs(10);
/// 5,000 installations.
const MAX_INSTALLATION_PAGES: usize = 50;

/// The App as GitHub knows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct App {
    pub id: u64,
    #[serde(default)]
    pub slug: String,
    pub name: String,
    /// For instance `actions` → `read`.
    pub permissions: BTreeMap<String, String>,
    /// For instance `workflow_job`.
    pub events: Vec<String>,
}

/// A place where the App is installed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Installation {
    pub id: i64,
    pub account: Option<Account>,
    /// `all` or `selected`.
    #[serde(default)]
    pub repository_selection: String,
    #[serde(default)]
    pub permissions: BTreeMap<String, String>,
    #[serde(default)]
    pub events: Vec<String>,
    /// Set while the installation is suspended.
    pub suspended_at: Option<String>,
}

/// Whose installation it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Account {
    /// A user or organisation; an enterprise has none.
    #[serde(default)]
    pub login: String,
}

impl Client {
    /// What the App may do and which events it gets.
    pub async fn app_permissions(&self) -> Result<App, GitHubError> {
        self.inner.app().await
    }

    /// Everywhere the App is installed.
    pub async fn installations(&self) -> Result<Vec<Installation>, GitHubError> {
        let mut all = Vec::new();
        for page in 1..=MAX_INSTALLATION_PAGES {
            let query = [("per_page", "100"), ("page", &page.to_string())];
            let url = self.inner.http.url("app/installations", &query);
            let call = Call::get("installations", "installations", Identity::App, Class::List, url);
            let (answer, _): (Vec<Installation>, _) = self.inner.fetch(&call, "a list of installations").await?;
            let count = answer.len();
            all.extend(answer);
            if count < PER_PAGE {
                break;
            }
        }
        Ok(all)
    }
}

impl Client {
    /// The installation that covers a repository or an organisation; [`super::GitHubErrorKind::NotFound`] if none does.
    pub async fn installation_on(&self, target: &Target) -> Result<i64, GitHubError> {
        self.inner.installation(target, None).await
    }
}

impl Inner {
    async fn app(self: &Arc<Self>) -> Result<App, GitHubError> {
        let call = Call::get("app", "App", Identity::App, Class::Reconcile, self.http.url("app", &[]));
        let (app, _): (App, _) = self.fetch(&call, "a GitHub App").await?;
        if app.id != self.app.app_id() {
            return Err(unavailable(
                call.subject,
                format_args!("GitHub answers for App {} (`{}`), not for {}", app.id, app.slug, self.app.app_id()),
            ));
        }
        Ok(app)
    }

    pub async fn ping(self: &Arc<Self>) -> Result<(), GitHubError> {
        if let Some((at, outcome)) = &*guard(&self.pinged)
            && at.elapsed() < PING_KNOWN_FOR
        {
            return outcome.clone();
        }
        let outcome = self.app().await.map(|_| ());
        *guard(&self.pinged) = Some((Instant::now(), outcome.clone()));
        outcome
    }
}
