//! The fixture: a simulated world, somebody who calls its API as the App or as an installation, and a receiver of
//! webhooks.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pacer_simulator::{
    Settings, Simulator,
    github::{
        self,
        description::{GITHUB, Operation},
    },
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub const REPO: &str = "octocat/hello-world";
pub const ORG: &str = "acme";
pub const SECRET: &str = "It's a Secret to Everybody";
/// Longer than anything here takes, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Play {
    pub simulator: Simulator,
    client: reqwest::Client,
    /// What was called, and with which status.
    seen: Mutex<BTreeSet<(Operation, u16)>>,
    receiver: Receiver,
}

/// As whom a call is made.
#[derive(Debug, Clone, Copy)]
pub enum As<'a> {
    App,
    Bearer(&'a str),
    Nobody,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub body: Value,
}

/// A delivery as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: Bytes,
    pub payload: Value,
}

#[derive(Clone, Default)]
struct Inbox {
    received: Arc<Mutex<Vec<Received>>>,
    /// What the next deliveries are answered; 200 when there is none left.
    answers: Arc<Mutex<Vec<u16>>>,
    news: Arc<Notify>,
}

struct Receiver {
    inbox: Inbox,
    _served: AbortOnDropHandle<()>,
}

impl Play {
    pub async fn start() -> Self {
        Self::with(github::Settings::default()).await
    }

    pub async fn with(settings: github::Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/api/webhook", listener.local_addr().expect("an address"));
        let inbox = Inbox::default();
        let router = Router::new().route("/api/webhook", post(take)).with_state(inbox.clone());
        let served = TaskTracker::new().spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        let settings = github::Settings {
            webhook_url: Some(url),
            webhook_secret: SECRET.to_owned(),
            orgs: vec![ORG.to_owned()],
            ..settings
        };
        let simulator =
            Simulator::start(Settings { github: settings, ..Settings::default() }).await.expect("it starts");
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .user_agent("pacer-simulator-tests")
            .build()
            .expect("a client");
        let receiver = Receiver { inbox, _served: AbortOnDropHandle::new(served) };
        Self { simulator, client, seen: Mutex::default(), receiver }
    }

    /// A JSON web token of the App with these times, in seconds from now.
    pub fn jwt(&self, issuer: &Value, issued: i64, expires: i64) -> String {
        let key = EncodingKey::from_rsa_pem(self.simulator.github.private_key_pem().as_bytes()).expect("an RSA key");
        let now = now_seconds();
        let claims = json!({ "iss": issuer, "iat": now + issued, "exp": now + expires });
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).expect("a token")
    }

    pub fn app(&self) -> String {
        self.jwt(&json!(self.simulator.github.settings().app_id.to_string()), -60, 540)
    }

    /// A token of the installation of a repository's owner.
    pub async fn token(&self) -> String {
        self.token_for(&format!("/repos/{REPO}/installation"), None).await
    }

    pub async fn org_token(&self) -> String {
        self.token_for(&format!("/orgs/{ORG}/installation"), None).await
    }

    pub async fn token_for(&self, installation: &str, body: Option<&Value>) -> String {
        let id = self.get(As::App, installation).await.body["id"].as_u64().expect("an installation");
        let minted = self.call(As::App, Method::POST, &format!("/app/installations/{id}/access_tokens"), body).await;
        assert_eq!(minted.status, 201, "{minted:?}");
        minted.body["token"].as_str().expect("a token").to_owned()
    }

    pub async fn get(&self, who: As<'_>, path: &str) -> Answer {
        self.call(who, Method::GET, path, None).await
    }

    pub async fn post(&self, who: As<'_>, path: &str, body: &Value) -> Answer {
        self.call(who, Method::POST, path, Some(body)).await
    }

    pub async fn delete(&self, who: As<'_>, path: &str) -> Answer {
        self.call(who, Method::DELETE, path, None).await
    }

    /// Calls, and holds the answer against the description.
    pub async fn call(&self, who: As<'_>, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.try_call(who, method.clone(), path, body).await.expect("an answer");
        let Some(operation) = GITHUB.operation(method.as_str(), path) else { return answer };
        let body = (!answer.text.is_empty()).then_some(&answer.body);
        let faults = GITHUB.faults_of_answer(&operation, answer.status, body);
        assert!(faults.is_empty(), "{method} {path} answers {}: {faults:#?}\n{:#}", answer.status, answer.body);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert((operation, answer.status));
        answer
    }

    /// Calls, whatever comes back.
    pub async fn try_call(
        &self,
        who: As<'_>,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.simulator.github_url));
        request = match who {
            As::App => request.bearer_auth(self.app()),
            As::Bearer(token) => request.bearer_auth(token),
            As::Nobody => request,
        };
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { status, headers, text, body })
    }

    /// The operations that were called, each with the statuses it answered.
    pub fn seen(&self) -> BTreeSet<(Operation, u16)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A configuration for a runner of the repository.
    pub async fn jit(&self, token: &str, name: &str, labels: &[&str]) -> (u64, String) {
        let body = json!({ "name": name, "runner_group_id": 1, "labels": labels });
        let path = format!("/repos/{REPO}/actions/runners/generate-jitconfig");
        let made = self.post(As::Bearer(token), &path, &body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let id = made.body["runner"]["id"].as_u64().expect("an id");
        (id, made.body["encoded_jit_config"].as_str().expect("a configuration").to_owned())
    }

    /// Deliveries that came in, once there are as many as that.
    pub async fn received(&self, at_least: usize) -> Vec<Received> {
        let inbox = &self.receiver.inbox;
        let all = async {
            loop {
                let news = inbox.news.notified();
                let received = inbox.received.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if received.len() >= at_least {
                    return received;
                }
                news.await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the webhooks arrive")
    }

    /// What the next deliveries are answered, in this order.
    pub fn answer_next(&self, statuses: &[u16]) {
        let mut answers = self.receiver.inbox.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.extend(statuses.iter().rev());
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Simulator) -> bool) {
        let looking = async {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            while !holds(&self.simulator) {
                tick.tick().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "never so: {what}");
    }
}

async fn take(State(inbox): State<Inbox>, headers: HeaderMap, body: Bytes) -> axum::http::StatusCode {
    let payload = serde_json::from_slice(&body).unwrap_or_default();
    inbox.received.lock().unwrap_or_else(PoisonError::into_inner).push(Received { headers, body, payload });
    let answer = inbox.answers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or(200);
    inbox.news.notify_waiters();
    axum::http::StatusCode::from_u16(answer).expect("a status")
}

pub fn now_seconds() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the simulator's clock is the machine's")]
    jiff::Timestamp::now().as_second()
}
