//! What the App's delivery log says was not taken in.
//!
//! GitHub does not deliver again by itself. The log of a delivery holds its payload, so what was missed can be taken
//! in directly, even when the webhook's URL cannot be reached.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    budget::Class,
    client::{Call, Identity, Inner},
    error::{shape, unavailable},
    http::Url,
    model::{GitHubError, MissedDelivery},
};

/// Of 100 deliveries. A larger log since the last look means an outage of hours under load; the scan of
/// repositories then finds what is still open.
const MAX_PAGES: usize = 50;
/// Payloads are read a few at a time, so that other calls of the App get through.
const AT_ONCE: usize = 4;
/// Bytes of payloads that one look brings; at 10 KB each far more than the pages hold.
const MAX_BYTES: usize = 64 * 1024 * 1024;

#[derive(Deserialize)]
struct Item {
    id: i64,
    guid: String,
    delivered_at: Timestamp,
    #[serde(default)]
    status: String,
    #[serde(default)]
    status_code: i64,
    event: String,
}

impl Item {
    fn arrived(&self) -> bool {
        self.status.eq_ignore_ascii_case("ok") || (200..300).contains(&self.status_code)
    }
}

#[derive(Deserialize)]
struct Detail {
    request: DetailRequest,
}

#[derive(Deserialize)]
struct DetailRequest {
    payload: Option<Box<RawValue>>,
}

/// Failed attempts of deliveries that no attempt brought home: one a GUID, oldest first.
fn unhealed(items: Vec<Item>) -> Vec<Item> {
    let mut by_guid: HashMap<String, Option<Item>> = HashMap::new();
    for item in items {
        let arrived = item.arrived();
        let known = by_guid.entry(item.guid.clone()).or_insert_with(|| Some(item));
        if arrived {
            *known = None;
        }
    }
    let mut missed: Vec<_> = by_guid.into_values().flatten().collect();
    missed.sort_by_key(|item| (item.delivered_at, item.id));
    missed
}

impl Inner {
    pub async fn failed_deliveries(self: &Arc<Self>, since: Timestamp) -> Result<Vec<MissedDelivery>, GitHubError> {
        let mut items = Vec::new();
        let mut next = Some(self.http.url("app/hook/deliveries", &[("per_page", "100")]));
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { break };
            let call = Call::get("deliveries", "delivery log", Identity::App, Class::Reconcile, url);
            let (page, headers): (Vec<Item>, _) = self.fetch(&call, "a list of deliveries").await?;
            let oldest = page.iter().map(|item| item.delivered_at).min();
            items.extend(page.into_iter().filter(|item| item.event == "workflow_job" && item.delivered_at >= since));
            if oldest.is_some_and(|oldest| oldest >= since) {
                next = self.next_page(&call.url, &headers);
            }
        }
        if next.is_some() {
            tracing::warn!(
                pages = MAX_PAGES,
                "the delivery log is longer than is read at once; its oldest part is left to the scan of repositories"
            );
        }
        let details = stream::iter(unhealed(items)).map(|item| self.missed(item)).buffered(AT_ONCE);
        let mut bytes = 0;
        let missed: Vec<_> = details
            .try_filter_map(async |missed| Ok(missed))
            .try_take_while(|missed| {
                bytes += missed.payload.len();
                std::future::ready(Ok(bytes <= MAX_BYTES))
            })
            .try_collect()
            .await?;
        Ok(missed)
    }

    /// A delivery with its payload; none when the log has dropped it meanwhile.
    async fn missed(self: &Arc<Self>, item: Item) -> Result<Option<MissedDelivery>, GitHubError> {
        let url = self.http.url(&format!("app/hook/deliveries/{}", item.id), &[]);
        let call = Call {
            accept: &[StatusCode::OK, StatusCode::NOT_FOUND],
            ..Call::get("delivery", "delivery", Identity::App, Class::Reconcile, url)
        };
        let answer = self.call(&call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let detail: Detail = serde_json::from_slice(&answer.body)
            .map_err(|reason| shape(call.subject, "a delivery with its request", &reason))?;
        let Some(payload) = detail.request.payload else {
            return Err(unavailable(call.subject, format_args!("delivery {} has no payload in the log", item.id)));
        };
        let payload = String::from(Box::<str>::from(payload)).into_bytes();
        Ok(Some(MissedDelivery { guid: item.guid, event: item.event, payload }))
    }

    /// The page that a `Link` header calls the next, if it is of the same origin.
    fn next_page(&self, from: &Url, headers: &HeaderMap) -> Option<Url> {
        let link = headers.get(header::LINK)?.to_str().ok()?;
        link.split(',').find_map(|part| {
            let (url, relation) = part.trim().strip_prefix('<')?.split_once('>')?;
            relation.contains("rel=\"next\"").then(|| self.http.same_origin(from, url)).flatten()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: i64, guid: &str, status: &str, second: i64) -> Item {
        Item {
            id,
            guid: guid.into(),
            delivered_at: Timestamp::from_second(second).unwrap(),
            status: status.into(),
            status_code: 0,
            event: "workflow_job".into(),
        }
    }

    #[test]
    fn any_attempt_that_arrived_heals_the_delivery() {
        let log = vec![
            item(9, "c", "OK", 90),
            item(8, "b", "failed to connect to host", 80),
            item(7, "c", "timed out", 70),
            item(6, "b", "timed out", 60),
            item(5, "a", "Invalid HTTP Response: 503", 50),
        ];
        let missed: Vec<_> = unhealed(log).into_iter().map(|item| item.guid).collect();
        assert_eq!(missed, ["a", "b"]);
    }
}
