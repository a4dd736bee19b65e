//! The App itself: whether GitHub knows it, what it may do, where it is installed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    auth::guard,
    budget::Class,
    client::{Call, Client, Identity, Inner},
    error::unavailable,
    model::{GitHubError, GitHubErrorKind},
    runners::PER_PAGE,
};
use crate::fleet::runner::Target;

/// `/readyz` is open to everybody; GitHub is not asked more often than this for it.
const PING_KNOWN_FOR: Duration = Duration::from_secs(10);
/// GitHub answers in well under a second; whoever asks `/readyz` waits for twice as long as this.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
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

/// Whether GitHub answers, as far as that is known.
#[derive(Default)]
pub(super) enum Pinged {
    #[default]
    Never,
    Asking(Shared<BoxFuture<'static, Result<(), GitHubError>>>),
    Known(Instant, Result<(), GitHubError>),
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

    /// However many ask, GitHub is asked once. The question outlives whoever asked it, so that those who come and go do
    /// not make it many.
    pub async fn ping(self: &Arc<Self>) -> Result<(), GitHubError> {
        let asking = {
            let mut pinged = guard(&self.pinged);
            match &*pinged {
                Pinged::Known(at, outcome) if at.elapsed() < PING_KNOWN_FOR => return outcome.clone(),
                Pinged::Asking(asking) => asking.clone(),
                Pinged::Known(..) | Pinged::Never => {
                    let asking = Arc::clone(self).ask().boxed().shared();
                    self.tracker.spawn(asking.clone());
                    *pinged = Pinged::Asking(asking.clone());
                    asking
                }
            }
        };
        asking.await
    }

    async fn ask(self: Arc<Self>) -> Result<(), GitHubError> {
        let outcome = match tokio::time::timeout(PING_TIMEOUT, self.app()).await {
            Ok(Ok(_)) => Ok(()),
            // Whoever keeps to a limit is on speaking terms.
            Ok(Err(error)) if error.kind == GitHubErrorKind::RateLimited => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                Err(unavailable("App", format_args!("`{}`: no answer within {PING_TIMEOUT:?}", self.http.host())))
            }
        };
        *guard(&self.pinged) = Pinged::Known(Instant::now(), outcome.clone());
        outcome
    }
}
