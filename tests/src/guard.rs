//! A door in front of the cloud that lets nobody in without proof, and a gossip when a test wants one: then it answers
//! with all it was sent, in many spellings.
//!
//! It also is where such proof is given out: a token service, and what AWS puts beside its containers and instances.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

/// The keys that are given out.
pub const ACCESS_KEY_ID: &str = "AKIDGIVENBYTHEGUARD";
pub const SECRET_ACCESS_KEY: &str = "canary-given-aws-secret-0123456789abcdef";
pub const SESSION_TOKEN: &str = "canary-given-aws-session-0123456789abcdef";
/// What opens the place where instances get their keys.
pub const METADATA_TOKEN: &str = "canary-metadata-token-0123456789abcdef";
/// What the token service gives out, for [`CLIENT`].
pub const TOKEN: &str = "canary-given-token-0123456789abcdef";
/// What a workload shows to be somebody, and keys that may do nothing but take a role.
pub const WEB_IDENTITY: &str = "canary-web-identity-0123456789abcdef";
pub const BASE_ACCESS_KEY_ID: &str = "AKIDMAYTAKETHEROLE";
pub const BASE_SECRET: &str = "canary-base-aws-secret-0123456789abcdef";
/// The `Authorization` of a client of the token service, and of a container that asks for its keys.
pub const CLIENT: &str = "canary-client-secret-0123456789abcdef";
pub const CONTAINER: &str = "canary-container-token-0123456789abcdef";

/// Ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct Guard {
    pub url: String,
    inside: Arc<Inside>,
}

#[derive(Debug)]
struct Inside {
    cloud: String,
    client: reqwest::Client,
    /// What must be in the head of each request to the cloud: name and part of the value.
    proof: Vec<(&'static str, String)>,
    /// What is told beside what was sent.
    knows: Vec<String>,
    gossips: AtomicBool,
    refused: Mutex<Vec<String>>,
}

impl Guard {
    /// In front of `cloud`, for who sends `proof`.
    pub async fn start(cloud: &str, proof: &[(&'static str, String)], knows: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of this machine is free");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let inside = Arc::new(Inside {
            cloud: cloud.to_owned(),
            client: reqwest::Client::builder().no_proxy().build().expect("a client without TLS can be made"),
            proof: proof.to_vec(),
            knows: knows.to_vec(),
            gossips: AtomicBool::new(false),
            refused: Mutex::default(),
        });
        let guard = Self { url, inside };
        let own = guard.clone();
        let router = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let guard = own.clone();
            async move { guard.answer(method, &uri, &headers, body).await }
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await });
        tasks.detach_all();
        guard
    }

    /// From now on nothing is made, and everything is told.
    pub fn gossip(&self) {
        self.inside.gossips.store(true, Ordering::SeqCst);
    }

    /// Who came without proof, or with the wrong one to where proof is given out.
    pub fn refused(&self) -> Vec<String> {
        self.inside.refused.lock().expect("nobody panicked with it").clone()
    }

    async fn answer(&self, method: Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Response {
        let has = |name: &str, part: &str| {
            headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(part))
        };
        let refuse = || {
            let said = format!("{method} {uri} {headers:?}");
            self.inside.refused.lock().expect("nobody panicked with it").push(said);
            (StatusCode::UNAUTHORIZED, "who are you?").into_response()
        };
        let keys = json!({
            "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2020-01-01T00:00:00Z",
            "AccessKeyId": ACCESS_KEY_ID, "SecretAccessKey": SECRET_ACCESS_KEY, "Token": SESSION_TOKEN,
            "Expiration": "2099-01-01T00:00:00Z",
        });
        let json = |value: serde_json::Value| value.to_string().into_response();
        match uri.path() {
            "/token" if has("authorization", &STANDARD.encode(format!("pacer:{CLIENT}"))) => {
                json(json!({ "access_token": TOKEN, "token_type": "Bearer", "expires_in": 3_600 }))
            }
            "/container" if has("authorization", CONTAINER) => json(keys),
            "/latest/api/token" if method == Method::PUT => {
                ([("x-aws-ec2-metadata-token-ttl-seconds", "21600")], METADATA_TOKEN).into_response()
            }
            path if path.starts_with("/latest/") && has("x-aws-ec2-metadata-token", METADATA_TOKEN) => {
                match path.trim_end_matches('/').strip_prefix("/latest/meta-data/iam/security-credentials") {
                    Some("") => "the-role".into_response(),
                    Some("/the-role") => json(keys),
                    Some(_) | None => StatusCode::NOT_FOUND.into_response(),
                }
            }
            // AWS's token service, which trades an identity for a role.
            "/" => {
                let form = String::from_utf8_lossy(&body);
                let by_key = form.contains("Action=AssumeRole&")
                    && has("authorization", &format!("AWS4-HMAC-SHA256 Credential={BASE_ACCESS_KEY_ID}/"));
                let by_identity = form.contains("Action=AssumeRoleWithWebIdentity&") && form.contains(WEB_IDENTITY);
                match (by_key, by_identity) {
                    (true, _) => assumed("AssumeRole"),
                    (_, true) => assumed("AssumeRoleWithWebIdentity"),
                    (false, false) => refuse(),
                }
            }
            path if path.starts_with("/v1/") => {
                if !self.inside.proof.iter().all(|(name, part)| has(name, part)) {
                    return refuse();
                }
                if self.inside.gossips.load(Ordering::SeqCst) {
                    return self.tell(headers);
                }
                self.pass(method, uri, headers, body).await
            }
            _ => refuse(),
        }
    }

    /// All it was sent and all it knows, as the cloud words its errors.
    fn tell(&self, headers: &HeaderMap) -> Response {
        let sent = headers.values().filter_map(|value| value.to_str().ok());
        // What it knows first: messages are cut.
        let told = self.inside.knows.iter().map(String::as_str).chain(sent).flat_map(|text| {
            [text.to_owned(), STANDARD.encode(text), STANDARD.encode(format!("token:{text}")), hex::encode(text)]
        });
        let message = told.collect::<Vec<_>>().join(" ");
        (StatusCode::FORBIDDEN, json!({ "code": "invalid", "message": message }).to_string()).into_response()
    }

    async fn pass(&self, method: Method, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Response {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = self.inside.client.request(method, format!("{}{path}", self.inside.cloud)).body(body);
        if let Some(kind) = headers.get("content-type") {
            request = request.header("content-type", kind);
        }
        match request.send().await {
            Ok(answer) => {
                let status = answer.status();
                (status, Body::from(answer.bytes().await.unwrap_or_default())).into_response()
            }
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        }
    }
}

/// The keys of a role.
fn assumed(action: &str) -> Response {
    let xml = format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><AssumedRoleUser>\
         <AssumedRoleId>AROA:pacer</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/the-role/pacer</Arn>\
         </AssumedRoleUser><Credentials><AccessKeyId>{ACCESS_KEY_ID}</AccessKeyId>\
         <SecretAccessKey>{SECRET_ACCESS_KEY}</SecretAccessKey><SessionToken>{SESSION_TOKEN}</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></{action}Result></{action}Response>"
    );
    ([("content-type", "text/xml")], xml).into_response()
}
