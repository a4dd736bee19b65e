//! One log line for each request: method, path, status, duration, who. Never the query, which may hold anything.

use std::time::Instant;

use axum::{extract::Request, middleware::Next, response::Response};

use crate::console::Actor;

/// The layer. The actor comes from the response's extensions, where the door leaves it.
pub async fn access_log(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    let status = response.status().as_u16();
    let actor = response.extensions().get::<Actor>().map_or("-", |actor| actor.as_str());
    // Control characters in a path are escaped by the formatter of `?`.
    tracing::info!(
        target: "pacer::access",
        { http.method = %method, http.path = ?path, http.status = status, duration_ms, actor },
        "{method} {path:?} {status}"
    );
    response
}
