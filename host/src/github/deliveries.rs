//! The App's log of deliveries, page by page.
//!
//! GitHub does not deliver again by itself. The log of a delivery holds its payload, so what was missed can be taken
//! in directly, even when the webhook's URL cannot be reached.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    budget::Class,
    client::{Call, Identity, Inner},
    error::{shape, unavailable},
    http::Url,
    model::{DeliveryAttempt, DeliveryPage, GitHubError},
};

#[derive(Deserialize)]
struct Item {
    id: i64,
    guid: String,
    delivered_at: Timestamp,
    #[serde(default = "may_be")]
    redelivery: bool,
    #[serde(default)]
    status: String,
    #[serde(default)]
    status_code: i64,
    event: String,
}

fn may_be() -> bool {
    true
}

impl From<Item> for DeliveryAttempt {
    fn from(item: Item) -> Self {
        let arrived = item.status.eq_ignore_ascii_case("ok") || (200..300).contains(&item.status_code);
        let Item { id, guid, delivered_at, redelivery, event, .. } = item;
        Self { id, guid, event, delivered_at, redelivery, arrived }
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

impl Inner {
    pub async fn delivery_log(self: &Arc<Self>, cursor: Option<&str>) -> Result<DeliveryPage, GitHubError> {
        let mut query = vec![("per_page", "100")];
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let url = self.http.url("app/hook/deliveries", &query);
        let call = Call::get("deliveries", "delivery log", Identity::App, Class::Reconcile, url);
        let (page, headers): (Vec<Item>, _) = self.fetch(&call, "a list of deliveries").await?;
        let next = match next_link(&headers) {
            None => None,
            Some(link) => Some(cursor_of(&call.url, link).ok_or_else(|| {
                unavailable(
                    call.subject,
                    format_args!("the `Link` to its next page has no `cursor`, the rest cannot be read"),
                )
            })?),
        };
        Ok(DeliveryPage { attempts: page.into_iter().map(Into::into).collect(), next })
    }

    /// The payload of a delivery; none when the log has dropped it meanwhile.
    pub async fn delivery(self: &Arc<Self>, id: i64) -> Result<Option<Vec<u8>>, GitHubError> {
        let url = self.http.url(&format!("app/hook/deliveries/{id}"), &[]);
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
            return Err(unavailable(call.subject, format_args!("delivery {id} has no payload in the log")));
        };
        Ok(Some(String::from(Box::<str>::from(payload)).into_bytes()))
    }
}

/// The URL that a `Link` header calls the next page's.
fn next_link(headers: &HeaderMap) -> Option<&str> {
    let link = headers.get(header::LINK)?.to_str().ok()?;
    link.split(',').find_map(|part| {
        let (url, relation) = part.trim().strip_prefix('<')?.split_once('>')?;
        relation.contains("rel=\"next\"").then_some(url)
    })
}

/// Where in the log a link goes on. Only that is taken from it: a server behind a proxy may call itself by another name
/// than the one it is known by here, and a token goes nowhere else.
fn cursor_of(from: &Url, link: &str) -> Option<String> {
    let url = from.join(link).ok()?;
    url.query_pairs().find(|(key, _)| key == "cursor").map(|(_, cursor)| cursor.into_owned())
}
