//! The fake GitHub against GitHub's own published description: every answer fits the schema of its status, and what
//! the description requires of a request is refused when it is missing.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail a test by panicking, as tests do")]

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pacer_simulator::{
    Settings, Simulator,
    github::{self, NewJob},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const REPO: &str = "octocat/hello-world";
const ORG: &str = "acme";

/// GitHub's description, in the JSON Schema that validators speak: `nullable` is OpenAPI's own.
fn description() -> Value {
    fn translate(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if map.get("nullable") == Some(&json!(true)) {
                    let kind = map.get("type").and_then(Value::as_str);
                    let nullable = kind.map(|kind| ("type", json!([kind, "null"])));
                    match nullable {
                        Some((key, kind)) => {
                            map.insert(key.to_owned(), kind);
                            if let Some(Value::Array(words)) = map.get_mut("enum") {
                                words.push(Value::Null);
                            }
                        }
                        None => {
                            let inner = Value::Object(std::mem::take(map));
                            map.insert("anyOf".to_owned(), json!([inner_without_nullable(inner), { "type": "null" }]));
                        }
                    }
                }
                map.values_mut().for_each(translate);
            }
            Value::Array(items) => items.iter_mut().for_each(translate),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    fn inner_without_nullable(mut value: Value) -> Value {
        if let Some(map) = value.as_object_mut() {
            map.remove("nullable");
        }
        value
    }
    let mut description: Value =
        serde_json::from_str(include_str!("../openapi/github-excerpt.json")).expect("the excerpt is JSON");
    translate(&mut description);
    description
}

struct Fixture {
    simulator: Simulator,
    description: Value,
    client: reqwest::Client,
    covered: std::cell::RefCell<BTreeSet<String>>,
}

impl Fixture {
    async fn start() -> Self {
        let settings = Settings {
            github: github::Settings {
                repos: vec![REPO.to_owned()],
                orgs: vec![ORG.to_owned()],
                ..github::Settings::default()
            },
            ..Settings::default()
        };
        Self {
            simulator: Simulator::start(settings).await.unwrap(),
            description: description(),
            client: reqwest::Client::builder().no_proxy().user_agent("conformance").build().unwrap(),
            covered: Default::default(),
        }
    }

    fn jwt(&self, age: i64, life: i64, issuer: &str) -> String {
        #[expect(clippy::disallowed_methods, reason = "a token is of this moment")]
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({ "iat": now - age, "exp": now - age + life, "iss": issuer });
        let key = EncodingKey::from_rsa_pem(self.simulator.github.private_key_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap()
    }

    fn app(&self) -> String {
        self.jwt(60, 600, "123456")
    }

    async fn token(&self, owner_path: &str) -> String {
        let (_, installation) = self.call(Method::GET, &format!("{owner_path}/installation"), &self.app(), None).await;
        let path = format!("/app/installations/{}/access_tokens", installation["id"]);
        let (status, token) = self.call(Method::POST, &path, &self.app(), Some(json!({}))).await;
        assert_eq!(status, StatusCode::CREATED);
        token["token"].as_str().unwrap().to_owned()
    }

    /// Calls, and holds the answer to the description.
    async fn call(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request =
            self.client.request(method.clone(), format!("{}{path}", self.simulator.github_url)).bearer_auth(token);
        if let Some(body) = &body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        let value: Value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        self.check(&method, path.split('?').next().unwrap(), status, &value);
        (status, value)
    }

    fn check(&self, method: &Method, path: &str, status: StatusCode, answer: &Value) {
        let word = method.as_str().to_lowercase();
        let paths = self.description["paths"].as_object().unwrap();
        let fits = |template: &str| {
            let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            template.len() == path.len() && template.iter().zip(&path).all(|(t, p)| t.starts_with('{') || t == p)
        };
        let template =
            paths.keys().filter(|template| fits(template)).min_by_key(|template| template.matches('{').count());
        let template = template.unwrap_or_else(|| panic!("{path} is not described"));
        self.covered.borrow_mut().insert(format!("{word} {template}"));
        let mut described = &paths[template][&word]["responses"][status.as_str()];
        if let Some(name) = described["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/responses/")) {
            described = &self.description["components"]["responses"][name];
        }
        // What every call can get is not described with each.
        let schema = &described["content"]["application/json"]["schema"];
        if schema.is_null() && matches!(status.as_u16(), 204 | 401 | 403 | 404) {
            return;
        }
        assert!(!schema.is_null(), "{word} {template} answers {status}, which is not described: {answer}");
        let mut root = schema.clone();
        root["components"] = self.description["components"].clone();
        let validator = jsonschema::validator_for(&root).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(answer).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(errors.is_empty(), "{word} {template} {status}: {errors:#?}\n{answer:#}");
    }
}

fn jit(name: &str) -> Value {
    json!({ "name": name, "runner_group_id": 1, "labels": ["self-hosted", "Linux"], "work_folder": "_work" })
}

#[tokio::test]
async fn every_answer_fits_githubs_own_description() {
    let fixture = Fixture::start().await;
    let (app, github) = (fixture.app(), &fixture.simulator.github);
    let repo = format!("/repos/{REPO}");
    let org = format!("/orgs/{ORG}");
    let tokens = [(repo.as_str(), fixture.token(&repo).await), (org.as_str(), fixture.token(&org).await)];
    fixture.call(Method::GET, "/app", &app, None).await;
    fixture.call(Method::GET, "/app/hook/config", &app, None).await;
    let (_, installation) = fixture.call(Method::GET, &format!("{repo}/installation"), &app, None).await;
    fixture.call(Method::GET, &format!("/app/installations/{}", installation["id"]), &app, None).await;
    fixture.call(Method::GET, &format!("{org}/actions/runner-groups"), &tokens[1].1, None).await;
    fixture.call(Method::GET, "/rate_limit", &tokens[0].1, None).await;

    for (scope, token) in &tokens {
        let path = format!("{scope}/actions/runners/generate-jitconfig");
        let (status, made) = fixture.call(Method::POST, &path, token, Some(jit("r-1"))).await;
        assert_eq!(status, StatusCode::CREATED);
        assert_eq!(made["runner"]["labels"][0]["name"], "linux", "labels come back in lower case");
        let (status, _) = fixture.call(Method::POST, &path, token, Some(jit("r-1"))).await;
        assert_eq!(status, StatusCode::CONFLICT);
        let (_, listed) = fixture.call(Method::GET, &format!("{scope}/actions/runners?name=r-1"), token, None).await;
        assert_eq!(listed["total_count"], 1);
        let one = format!("{scope}/actions/runners/{}", made["runner"]["id"]);
        fixture.call(Method::GET, &one, token, None).await;

        // What the description requires is required.
        let body = &fixture.description["paths"]["/repos/{owner}/{repo}/actions/runners/generate-jitconfig"]["post"]["requestBody"]
            ["content"]["application/json"]["schema"];
        for key in body["required"].as_array().unwrap() {
            let mut short = jit("r-2");
            short.as_object_mut().unwrap().remove(key.as_str().unwrap());
            let (status, _) = fixture.call(Method::POST, &path, token, Some(short)).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "without {key}");
        }
        let many: Vec<String> = (0..101).map(|label| format!("l{label}")).collect();
        for (key, wrong) in [
            ("labels", json!([])),
            ("labels", json!(many)),
            ("labels", json!("linux")),
            ("name", json!("")),
            ("name", json!("x".repeat(65))),
            ("name", json!("with space")),
            ("runner_group_id", json!("one")),
        ] {
            let mut body = jit("r-2");
            body[key] = wrong.clone();
            let (status, _) = fixture.call(Method::POST, &path, token, Some(body)).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{key} = {wrong}");
        }
        assert_eq!(fixture.call(Method::DELETE, &one, token, None).await.0, StatusCode::NO_CONTENT);
        assert_eq!(fixture.call(Method::DELETE, &one, token, None).await.0, StatusCode::NOT_FOUND);
    }

    let (_, made) = fixture
        .call(Method::POST, &format!("{repo}/actions/runners/generate-jitconfig"), &tokens[0].1, Some(jit("r-3")))
        .await;
    let mut session = github.connect(made["encoded_jit_config"].as_str().unwrap()).unwrap();
    // Nobody listens: the delivery fails and is in the log.
    github.set_webhook_url("http://127.0.0.1:9/api/webhook");
    let id = github.queue(NewJob::new(REPO, &["self-hosted", "LINUX"], Duration::from_millis(1)));
    assert_eq!(session.job().await.unwrap().id, id);
    let busy = format!("{repo}/actions/runners/{}", made["runner"]["id"]);
    let (status, _) = fixture.call(Method::DELETE, &busy, &tokens[0].1, None).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "it runs a job");
    let (_, job) = fixture.call(Method::GET, &format!("{repo}/actions/jobs/{id}"), &tokens[0].1, None).await;
    assert_eq!(job["status"], "in_progress");
    fixture.call(Method::GET, &format!("{repo}/actions/runs?status=in_progress"), &tokens[0].1, None).await;
    fixture.call(Method::GET, &format!("{repo}/actions/runs/{}/jobs", job["run_id"]), &tokens[0].1, None).await;
    session.done("success");
    assert!(github.runners().is_empty(), "an ephemeral runner goes with its job");

    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let log = loop {
        tick.tick().await;
        let (_, log) = fixture.call(Method::GET, "/app/hook/deliveries?per_page=100", &app, None).await;
        if log.as_array().unwrap().len() == 3 {
            break log;
        }
    };
    let one = format!("/app/hook/deliveries/{}", log[0]["id"]);
    let (_, detail) = fixture.call(Method::GET, &one, &app, None).await;
    assert_eq!(detail["request"]["payload"]["workflow_job"]["id"], id);
    let (status, _) = fixture.call(Method::POST, &format!("{one}/attempts"), &app, Some(json!({}))).await;
    assert_eq!(status, StatusCode::ACCEPTED);

    let described: BTreeSet<String> = fixture.description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, operations)| operations.as_object().unwrap().keys().map(move |word| format!("{word} {path}")))
        .collect();
    let missed: Vec<_> = described.difference(&fixture.covered.borrow()).cloned().collect();
    assert_eq!(missed, Vec::<String>::new(), "operations of the excerpt that nothing called");
}

#[tokio::test]
async fn who_is_not_who_it_says_gets_nothing() {
    let fixture = Fixture::start().await;
    let refused = async |token: &str| fixture.call(Method::GET, "/app", token, None).await.0;
    assert_eq!(refused(&fixture.app()).await, StatusCode::OK);
    assert_eq!(refused(&fixture.jwt(60, 600, "999")).await, StatusCode::UNAUTHORIZED, "another App");
    assert_eq!(refused(&fixture.jwt(700, 600, "123456")).await, StatusCode::UNAUTHORIZED, "expired");
    assert_eq!(refused(&fixture.jwt(-300, 600, "123456")).await, StatusCode::UNAUTHORIZED, "of the future");
    assert_eq!(refused(&fixture.jwt(60, 3_600, "123456")).await, StatusCode::UNAUTHORIZED, "for too long");
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode("{}"));
    assert_eq!(refused(&unsigned).await, StatusCode::UNAUTHORIZED, "unsigned");

    let of_acme = fixture.token(&format!("/orgs/{ORG}")).await;
    let (status, _) = fixture.call(Method::GET, &format!("/repos/{REPO}/actions/runners"), &of_acme, None).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "a token of another installation");
    let (status, _) = fixture.call(Method::GET, "/repos/octocat/unknown/installation", &fixture.app(), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
