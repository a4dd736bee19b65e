//! `/api/v1/events`: what changes, as server-sent events.
//!
//! An event says what changed, not how: whoever is told loads what it shows. A client that cannot keep up is told so (`lagged`) and loads the listing anew; nothing is kept for it. A stream
//! ends after a while, so that a session that is over does not go on watching; browsers come back by themselves.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State as Extract,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{StreamExt, stream};
use http::{HeaderName, StatusCode};
use serde_json::json;
use tokio::sync::{
    OwnedSemaphorePermit,
    broadcast::{self, error::RecvError},
};

use super::{State, error::ApiError};
use crate::store::Changed;

/// Streams at once: open tabs of a team, each a connection and a task.
pub const MAX_STREAMS: usize = 256;
/// Proxies close connections that are silent for about a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const MAX_AGE: Duration = Duration::from_secs(3600);

struct Following {
    changes: broadcast::Receiver<Arc<[Changed]>>,
    /// At most one commit's changes.
    waiting: VecDeque<Event>,
    _permit: OwnedSemaphorePermit,
}

pub async fn events(Extract(state): Extract<State>) -> Result<Response, ApiError> {
    let permit = Arc::clone(&state.streams).try_acquire_owned().map_err(|_| ApiError {
        retry_after: Some(30),
        ..ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_streams",
            format!("{MAX_STREAMS} live streams are open already; close some or poll instead"),
        )
    })?;
    let hello = Event::default().event("hello").retry(Duration::from_secs(3)).data("{}");
    let following = Following { changes: state.read.subscribe(), waiting: VecDeque::from([hello]), _permit: permit };
    let end = {
        let shutdown = state.shutdown.clone();
        async move {
            let _ = tokio::time::timeout(MAX_AGE, shutdown.cancelled()).await;
        }
    };
    let changes = stream::unfold(following, next).take_until(end).map(Ok::<_, Infallible>);
    let stream = Sse::new(changes).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // nginx would collect events until it has a buffer full of them.
    Ok(([(HeaderName::from_static("x-accel-buffering"), "no")], stream).into_response())
}

async fn next(mut following: Following) -> Option<(Event, Following)> {
    loop {
        if let Some(event) = following.waiting.pop_front() {
            return Some((event, following));
        }
        match following.changes.recv().await {
            Ok(changes) => following.waiting.extend(changes.iter().filter_map(event)),
            Err(RecvError::Lagged(missed)) => {
                let data = format!("{{\"missed\":{missed}}}");
                following.waiting.push_back(Event::default().event("lagged").data(data));
            }
            Err(RecvError::Closed) => return None,
        }
    }
}

fn event(change: &Changed) -> Option<Event> {
    let (kind, data) = match change {
        Changed::Job(job) => ("job", json!({ "id": job.key.to_string(), "status": job.status })),
        Changed::Runner(runner) => ("runner", json!({ "name": runner.name.as_str(), "state": runner.state })),
        Changed::Pause { .. } => return None,
    };
    Some(Event::default().event(kind).data(data.to_string()))
}
