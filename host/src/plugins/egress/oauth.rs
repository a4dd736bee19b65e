//! OAuth 2.0 tokens for the host itself: the client credentials grant (RFC 6749, section 4.4).

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderValue, Request, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    call::{Call, Class, Failure},
    fresh::{Fetched, Fresh, Missing},
    outside::Outside,
};
use crate::{
    clock::SharedClock,
    config::{OAuth2, form_encoded},
    routing::shown,
};

/// One exchange with a token service.
const EXCHANGE: Duration = Duration::from_secs(10);
/// Where a service does not say how long a token lasts: the least that is usual.
const LASTS: u64 = 300;

/// Puts a token into the requests to one endpoint.
pub(super) struct Bearer(Fresh<HeaderValue>);

impl Bearer {
    pub fn new(
        config: &OAuth2,
        clock: SharedClock,
        fresh: impl FnOnce(
            Box<dyn Fn() -> BoxFuture<'static, Result<Fetched<HeaderValue>, Missing>> + Send + Sync>,
        ) -> Fresh<HeaderValue>,
        outside: Outside,
    ) -> Result<Self, &'static str> {
        let mut authorization = HeaderValue::try_from(format!("Basic {}", config.pair().expose_secret()))
            .map_err(|_| "its `client_secret` fits into no header")?;
        authorization.set_sensitive(true);
        let mut form = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &config.scope {
            form.push_str("&scope=");
            form.push_str(&form_encoded(scope));
        }
        let (uri, form) = (config.token_url.uri().clone(), Bytes::from(form));
        let fetch = move || {
            let mut request = Request::post(uri.clone())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(header::ACCEPT, "application/json")
                .body(form.clone());
            if let Ok(request) = &mut request {
                request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
            }
            fetch(request, outside.clone(), clock.clone()).boxed()
        };
        Ok(Self(fresh(Box::new(fetch))))
    }

    /// What goes into `Authorization`.
    pub async fn value(&self, call: &Call) -> Result<HeaderValue, Failure> {
        let value = self.0.get(call.deadline).await.map_err(Failure::from)?;
        token(&value).into_iter().for_each(|token| call.hide(token));
        Ok(HeaderValue::clone(&value))
    }

    /// An endpoint did not take it: it may have been withdrawn before its end.
    pub fn refused(&self, used: Option<&HeaderValue>) {
        self.0.refused(|value| Some(value) == used);
    }

    /// The secrets that were fetched.
    pub fn known(&self) -> Vec<SecretString> {
        self.0.known().iter().filter_map(|value| token(value)).collect()
    }
}

fn token(value: &HeaderValue) -> Option<SecretString> {
    Some(value.to_str().ok()?.strip_prefix("Bearer ")?.into())
}

#[derive(Deserialize)]
struct Token {
    access_token: SecretString,
    token_type: Option<String>,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

async fn fetch(
    request: Result<Request<Bytes>, http::Error>,
    outside: Outside,
    clock: SharedClock,
) -> Result<Fetched<HeaderValue>, Missing> {
    let request = request.map_err(|error| Missing::denied(format!("a token cannot be asked for: {error}")))?;
    let service = format!("the token service `{}`", request.uri());
    let asked = clock.now();
    let answer = outside.exchange(request, Instant::now() + EXCHANGE).await.map_err(|failure| match failure.class {
        Class::Unreachable => Missing::unavailable(format!("{service} cannot be asked: {failure}")),
        Class::Denied | Class::Limit => Missing::denied(format!("{service} cannot be asked: {failure}")),
    })?;
    let (status, body) = (answer.status(), answer.body());
    if status != StatusCode::OK {
        // Of its answer only the code is told, which the standard names: the rest may repeat what was sent.
        let code = serde_json::from_slice::<Refusal>(body).map(|refusal| format!(" `{}`", shown(&refusal.error)));
        let reason = format!("{service} answered {status}{}", code.unwrap_or_default());
        let later = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        return Err(if later { Missing::unavailable(reason) } else { Missing::denied(reason) });
    }
    let Ok(token) = serde_json::from_slice::<Token>(body) else {
        return Err(Missing::unavailable(format!("{service} answered with something else than a token")));
    };
    if let Some(kind) = token.token_type.filter(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(Missing::denied(format!("{service} gives tokens of the type `{}`, not `Bearer`", shown(&kind))));
    }
    let value = HeaderValue::try_from(format!("Bearer {}", token.access_token.expose_secret()));
    let mut value =
        value.map_err(|_| Missing::unavailable(format!("{service} gave a token that fits into no header")))?;
    value.set_sensitive(true);
    // From before it was asked for, so that the way here is counted.
    let until = asked.checked_add(Duration::from_secs(token.expires_in.unwrap_or(LASTS))).ok();
    Ok(Fetched { value, until })
}
