//! What people and programs look at: the pages, the API, the stream of changes, health and metrics.
//!
//! It only reads, but for its own entries in the audit, and only through the traits of `read`. Every route is in one table with who may use it: what is
//! not listed as public asks for credentials, the answer for unknown paths included. All answers carry the security
//! headers. No rule of the fleet lives here.

mod api;
mod assets;
mod auth;
mod error;
mod headers;
mod live;
mod pages;
mod query;
mod read;
#[cfg(test)]
mod reference;
mod session;
mod shapes;
#[cfg(test)]
mod tests;
mod throttle;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, get, post},
};
use futures::FutureExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use auth::Actor;
pub(crate) use auth::client_address;
pub use error::ApiError;
pub use read::{
    Answer, Audit, BackendStatus, BackendView, Explain, Explanation, GrantView, HealthView, LatencyView, Part, Read,
    Readiness,
};
pub use throttle::Throttle;

use crate::{clock::SharedClock, config::Config, store::StoreError, telemetry};

/// Longer than any healthy query takes, shorter than a browser's patience.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest thing posted is the sign-in form.
const MAX_BODY: usize = 16 * 1024;

/// What the console is made from. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pub config: Arc<ArcSwap<Config>>,
    pub read: Arc<dyn Read>,
    pub audit: Arc<dyn Audit>,
    pub backends: Arc<dyn BackendStatus>,
    pub readiness: Arc<dyn Readiness>,
    pub explain: Arc<dyn Explain>,
    pub metrics: telemetry::Metrics,
    pub clock: SharedClock,
    /// Ends the streams, which would otherwise hold a shutdown up.
    pub shutdown: CancellationToken,
    throttle: Arc<Throttle>,
    ended: Arc<auth::Ended>,
    streams: Arc<Semaphore>,
}

/// The sources of a [`State`].
pub struct Sources {
    pub read: Arc<dyn Read>,
    pub audit: Arc<dyn Audit>,
    pub backends: Arc<dyn BackendStatus>,
    pub readiness: Arc<dyn Readiness>,
    pub explain: Arc<dyn Explain>,
}

impl State {
    pub fn new(
        config: Arc<ArcSwap<Config>>,
        sources: Sources,
        metrics: telemetry::Metrics,
        clock: SharedClock,
        shutdown: CancellationToken,
    ) -> Self {
        let Sources { read, audit, backends, readiness, explain } = sources;
        Self {
            config,
            read,
            audit,
            backends,
            readiness,
            explain,
            metrics,
            clock,
            shutdown,
            throttle: Arc::default(),
            ended: Arc::default(),
            streams: Arc::new(Semaphore::new(live::MAX_STREAMS)),
        }
    }

    /// A read of the store with its deadline.
    async fn within<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, ApiError> {
        match tokio::time::timeout(READ_TIMEOUT, read).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(ApiError::timeout()),
        }
    }
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Public,
    /// Without credentials: 401.
    Api,
    /// Without credentials: to the sign-in form.
    Page,
}

struct Route {
    path: &'static str,
    access: Access,
    methods: MethodRouter<State>,
}

fn routes() -> Vec<Route> {
    use Access::{Api, Page, Public};
    let route = |access, path, methods| Route { path, access, methods };
    vec![
        route(Public, "/healthz", get(api::healthz)),
        route(Public, "/readyz", get(api::readyz)),
        route(Public, "/signin", get(session::form).post(session::sign_in)),
        route(Public, assets::CSS_ROUTE, get(assets::css)),
        route(Public, assets::JS_ROUTE, get(assets::js)),
        route(Public, assets::ICON_ROUTE, get(assets::icon)),
        route(Page, "/signout", post(session::sign_out)),
        route(Page, "/", get(async || Redirect::to("/jobs"))),
        route(Page, "/jobs", get(pages::jobs::list)),
        route(Page, "/jobs/{id}", get(pages::job::show)),
        route(Page, "/runners", get(pages::runners::list)),
        route(Page, "/runners/{name}", get(pages::runners::show)),
        route(Page, "/backends", get(pages::backends::list)),
        route(Api, "/metrics", get(api::metrics)),
        route(Api, "/api/v1/jobs", get(api::jobs)),
        route(Api, "/api/v1/jobs/{id}", get(api::job)),
        route(Api, "/api/v1/runners", get(api::runners)),
        route(Api, "/api/v1/runners/{name}", get(api::runner)),
        route(Api, "/api/v1/backends", get(api::backends)),
        route(Api, "/api/v1/pools", get(api::pools)),
        route(Api, "/api/v1/deliveries", get(api::deliveries)),
        route(Api, "/api/v1/audit", get(api::audit)),
        route(Api, "/api/v1/events", get(live::events)),
    ]
}

/// Everything but the webhook. Serve it with connect info, or all clients share one slow-down.
pub fn router(state: State) -> Router {
    let mut public = Router::new();
    let mut closed = Router::new().fallback(unknown);
    for Route { path, access, methods } in routes() {
        match access {
            Access::Public => public = public.route(path, methods),
            Access::Api | Access::Page => closed = closed.route(path, methods),
        }
    }
    let closed = closed.layer(from_fn_with_state(state.clone(), session::require));
    public
        .merge(closed)
        .layer(from_fn(contain_panics))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(state.clone(), headers::secure))
        .layer(from_fn(telemetry::access_log))
        .with_state(state)
}

/// Whether the answer is for a program: by path, and by what the client says it takes.
fn wants_json(request: &http::request::Parts) -> bool {
    let path = request.uri.path();
    path.starts_with("/api/") || path == "/metrics" || path == "/readyz" || !accepts_html(&request.headers)
}

fn accepts_html(headers: &http::HeaderMap) -> bool {
    headers
        .get(http::header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}

async fn unknown(request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if wants_json(&parts) {
        ApiError::not_found(format!("there is nothing at `{}`", parts.uri.path())).into_response()
    } else {
        error::PageError(ApiError::not_found("there is nothing at this address")).into_response()
    }
}

/// A request that panics is answered, in the words that its client understands; the others do not notice.
async fn contain_panics(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let json = wants_json(&parts);
    match AssertUnwindSafe(next.run(Request::from_parts(parts, body))).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!("a console request panicked; this is a bug in pacer");
            if json {
                ApiError::internal().into_response()
            } else {
                error::PageError(ApiError::internal()).into_response()
            }
        }
    }
}
