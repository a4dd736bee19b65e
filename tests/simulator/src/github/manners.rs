//! The manners that GitHub asks of every call, and whether a call is one of those that its description knows.
//!
//! What does not fit the description is a violation, whatever GitHub would have made of it: a mistyped parameter is
//! ignored there, and the answer is to another question.

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{GitHub, description::GITHUB, rest::refuse};

/// Versions of the API that are in use.
const VERSIONS: [&str; 2] = ["2022-11-28", "2026-03-10"];
/// The most that a request holds: 100 labels of 256 characters.
const MAX_BODY: usize = 1024 * 1024;
/// Operations that the excerpt of the description does not hold, by the end of their path, and their parameters.
const NOT_IN_THE_EXCERPT: [(&str, &str, &[&str]); 3] = [
    ("GET", "/app/installations", &["per_page", "page"]),
    ("GET", "/installation/repositories", &["per_page", "page"]),
    ("POST", "/rerun", &[]),
];

pub async fn around(State(github): State<GitHub>, request: Request, next: Next) -> Response {
    if let Err(refusal) = is_polite(request.headers()) {
        return *refusal;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else { return StatusCode::PAYLOAD_TOO_LARGE.into_response() };
    let (strange, faults) = faults(parts.method.as_str(), &parts.uri, &body);
    github
        .inner
        .state()
        .violations
        .extend(strange.iter().chain(&faults).map(|fault| format!("{} {}: {fault}", parts.method, parts.uri)));
    if !strange.is_empty() {
        return refuse(StatusCode::UNPROCESSABLE_ENTITY, strange.join("; ")).into_response();
    }
    next.run(Request::from_parts(parts, Body::from(body))).await
}

fn is_polite(headers: &HeaderMap) -> Result<(), Box<Response>> {
    if !headers.contains_key(header::USER_AGENT) {
        let message =
            "Request forbidden by administrative rules. Please make sure your request has a User-Agent header.";
        return Err(Box::new((StatusCode::FORBIDDEN, message).into_response()));
    }
    if let Some(version) = headers.get("x-github-api-version")
        && !VERSIONS.iter().any(|known| version == known)
    {
        let message = format!("{version:?} is not a supported version of the API");
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, message).into_response()));
    }
    Ok(())
}

/// What is wrong with the query, and what with the rest.
fn faults(method: &str, uri: &Uri, body: &[u8]) -> (Vec<String>, Vec<String>) {
    let Ok(url) = reqwest::Url::parse(&format!("http://localhost{uri}")) else { return (Vec::new(), Vec::new()) };
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let Some(operation) = GITHUB.operation(method, uri.path()) else {
        let known = NOT_IN_THE_EXCERPT.iter().find(|(its, end, _)| *its == method && uri.path().ends_with(end));
        return match known {
            Some((_, _, parameters)) => {
                let strange = pairs.iter().filter(|(name, _)| !parameters.contains(&name.as_str()));
                (strange.map(|(name, _)| format!("there is no parameter `{name}`")).collect(), Vec::new())
            }
            None => (Vec::new(), vec!["there is no such operation".to_owned()]),
        };
    };
    let strange = GITHUB.faults_of_query(&operation, pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let body = (!body.is_empty()).then(|| serde_json::from_slice(body).unwrap_or_default());
    (strange, GITHUB.faults_of_request(&operation, body.as_ref()))
}
