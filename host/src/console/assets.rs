//! Style and script, part of the binary. Their addresses carry the version, so they are cached for good.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};

pub const CSS_ROUTE: &str = "/assets/console.css";
pub const JS_ROUTE: &str = "/assets/console.js";
pub const ICON_ROUTE: &str = "/assets/icon.svg";

static CSS: LazyLock<Asset> =
    LazyLock::new(|| Asset::new(CSS_ROUTE, "text/css; charset=utf-8", include_str!("../../assets/console.css")));
static JS: LazyLock<Asset> =
    LazyLock::new(|| Asset::new(JS_ROUTE, "text/javascript; charset=utf-8", include_str!("../../assets/console.js")));
static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new(ICON_ROUTE, "image/svg+xml", include_str!("../../assets/icon.svg")));

struct Asset {
    /// With the digest as its query.
    address: String,
    tag: String,
    kind: &'static str,
    body: &'static str,
}

impl Asset {
    fn new(route: &str, kind: &'static str, body: &'static str) -> Self {
        let digest = hex::encode(&Sha256::digest(body)[..8]);
        Self { address: format!("{route}?v={digest}"), tag: format!("\"{digest}\""), kind, body }
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        let caching = [(header::CACHE_CONTROL, "public, max-age=31536000, immutable"), (header::ETAG, &self.tag)];
        if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == self.tag.as_bytes()) {
            return (StatusCode::NOT_MODIFIED, caching).into_response();
        }
        (caching, [(header::CONTENT_TYPE, self.kind)], self.body).into_response()
    }
}

pub fn css_address() -> &'static str {
    &CSS.address
}

pub fn js_address() -> &'static str {
    &JS.address
}

pub fn icon_address() -> &'static str {
    &ICON.address
}

pub async fn css(headers: HeaderMap) -> Response {
    CSS.answer(&headers)
}

pub async fn js(headers: HeaderMap) -> Response {
    JS.answer(&headers)
}

pub async fn icon(headers: HeaderMap) -> Response {
    ICON.answer(&headers)
}
