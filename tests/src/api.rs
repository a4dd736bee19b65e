//! The server's HTTP surface as a script would use it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::metrics::Metrics;

/// Longer than any answer may take, shorter than a test.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client of one server; with a token, or without.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    pub base: String,
    token: Option<String>,
}

/// An answer, whatever it was.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    /// The body as JSON. `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// `result` of a webhook's answer.
    pub fn result(&self) -> String {
        self.json()["result"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A job as `/api/v1/jobs` shows it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Job {
    pub id: String,
    pub github_job_id: i64,
    pub run_id: i64,
    pub run_attempt: i64,
    pub repo: String,
    pub status: String,
    pub labels: Vec<String>,
    pub project: Option<String>,
    pub pool: Option<String>,
    pub runner: Option<String>,
    pub reason: Option<String>,
    pub queued_at: Option<String>,
    pub claimed_at: Option<String>,
    pub starting_at: Option<String>,
    pub running_at: Option<String>,
    pub completed_at: Option<String>,
    pub conclusion: Option<String>,
}

/// A runner as `/api/v1/runners` shows it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Runner {
    pub name: String,
    pub state: String,
    pub project: String,
    pub pool: String,
    pub backend: String,
    pub handle: Option<String>,
    pub job: Option<String>,
    pub created_at: String,
    pub deadline: Option<String>,
    pub error: Option<String>,
}

/// A delivery as `/api/v1/deliveries` shows it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Delivery {
    pub result: String,
    pub job: Option<String>,
    /// `webhook`, `delivery-log` or `repository-scan`.
    pub source: String,
}

#[derive(Debug, Deserialize)]
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

impl Api {
    pub fn new(base: impl Into<String>) -> Self {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without special wishes can be built");
        Self { client, base: base.into(), token: None }
    }

    /// The same client with another token, or none.
    pub fn with_token(&self, token: Option<&str>) -> Self {
        Self { token: token.map(str::to_owned), ..self.clone() }
    }

    /// A request to the server, for what has no method here.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request; an error when nobody answers.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> reqwest::Result<Answer> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    pub async fn try_get(&self, path: &str) -> reqwest::Result<Answer> {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    pub async fn post(&self, path: &str) -> Answer {
        let sent = self.send(self.request(Method::POST, path)).await;
        sent.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
    }

    /// Every job, newest first.
    pub async fn jobs(&self) -> Vec<Job> {
        self.all("/api/v1/jobs?limit=100").await
    }

    /// The jobs that fit a query, `status=queued&repo=octocat/hello-world`.
    pub async fn jobs_where(&self, query: &str) -> Vec<Job> {
        self.all(&format!("/api/v1/jobs?limit=100&{query}")).await
    }

    pub async fn runners(&self) -> Vec<Runner> {
        self.all("/api/v1/runners?limit=100").await
    }

    pub async fn deliveries(&self) -> Vec<Delivery> {
        self.all("/api/v1/deliveries?limit=100").await
    }

    /// From where every job is known: nothing is kept of what a repository was asked for.
    pub async fn told_by(&self) -> HashMap<String, HashSet<String>> {
        let mut told: HashMap<String, HashSet<String>> =
            self.jobs().await.into_iter().map(|job| (job.id, HashSet::new())).collect();
        for Delivery { job, source, .. } in self.deliveries().await {
            told.entry(job.unwrap_or_default()).or_default().insert(source);
        }
        told
    }

    /// A job with its events and explanation; none when the server does not know it.
    pub async fn job(&self, id: &str) -> Option<Value> {
        let answer = self.get(&format!("/api/v1/jobs/{id}")).await;
        (answer.status == StatusCode::OK).then(|| answer.json())
    }

    pub async fn metrics(&self) -> Metrics {
        let answer = self.get("/metrics").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        Metrics::parse(&answer.text)
    }

    async fn all<T: DeserializeOwned>(&self, path: &str) -> Vec<T> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let more = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let answer = self.get(&format!("{path}{more}")).await;
            assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
            let page: Page<T> = serde_json::from_str(&answer.text)
                .unwrap_or_else(|error| panic!("{path} answers with another shape ({error}): {}", answer.text));
            items.extend(page.items);
            match page.next {
                Some(next) => cursor = Some(next),
                None => return items,
            }
        }
    }
}
