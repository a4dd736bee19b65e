//! What a person reads when GitHub refuses or fails: the call, the status, the way out.
//!
//! Of an answer's body only GitHub's own `message` is shown: shortened, its control characters escaped, and without
//! the token that was sent. No message holds a secret.

use std::{fmt, time::Duration};

use http::{StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822};
use serde::Deserialize;

use super::{
    budget::Wait,
    client::{Call, Identity},
    http::Answer,
    model::{GitHubError, GitHubErrorKind},
};
use crate::fleet::runner::Target;

/// Characters of GitHub's own message that are shown.
const MAX_QUOTED: usize = 200;
/// GitHub refuses a JWT from the future; a clock that is off by more than this is worth a word.
const NOTABLE_SKEW: Duration = Duration::from_secs(30);

pub(super) fn unavailable(subject: &str, what: fmt::Arguments<'_>) -> GitHubError {
    GitHubError { kind: GitHubErrorKind::Unavailable, message: format!("{subject}: {what}"), retry_after: None }
}

/// The answer is of another shape. The decoder's own words may quote it, so only the place is told.
pub(super) fn shape(subject: &str, expected: &str, reason: &serde_json::Error) -> GitHubError {
    let (line, column) = (reason.line(), reason.column());
    unavailable(
        subject,
        format_args!(
            "the answer is not {expected} (line {line}, column {column}); check that `github.api_url` is GitHub's API"
        ),
    )
}

pub(super) fn rate_limited(subject: &str, wait: Wait) -> GitHubError {
    let Wait { time, limit } = wait;
    GitHubError {
        kind: GitHubErrorKind::RateLimited,
        message: format!("{subject}: {limit}; the next call may be made in {} s", time.as_secs().max(1)),
        retry_after: Some(time),
    }
}

/// Whether a refusal is a limit and not a missing permission: both can be 403.
pub(super) fn limit_refusal(answer: &Answer) -> bool {
    let exhausted = || answer.headers.get("x-ratelimit-remaining").is_some_and(|value| value.as_bytes() == b"0");
    let says_so = || {
        let message = message(answer).to_lowercase();
        message.contains("rate limit") || message.contains("abuse detection")
    };
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::FORBIDDEN => answer.headers.contains_key(header::RETRY_AFTER) || exhausted() || says_so(),
        _ => false,
    }
}

/// An answer that the call does not accept, as an error.
pub(super) fn refusal(call: &Call<'_>, answer: &Answer, bearer: &str, now: Timestamp) -> GitHubError {
    let kind = match answer.status {
        StatusCode::UNAUTHORIZED => GitHubErrorKind::Unauthorized,
        StatusCode::FORBIDDEN => GitHubErrorKind::Forbidden,
        StatusCode::NOT_FOUND | StatusCode::GONE => GitHubErrorKind::NotFound,
        status if status.is_client_error() => GitHubErrorKind::Rejected,
        _ => GitHubErrorKind::Unavailable,
    };
    let way_out = way_out(call, kind, answer, now).map(|text| format!(": {text}")).unwrap_or_default();
    let said = message(answer);
    let said = quoted(&if bearer.is_empty() { said } else { said.replace(bearer, "[redacted]") });
    let said = if said.is_empty() { said } else { format!(" (GitHub says `{said}`)") };
    let status = answer.status;
    GitHubError { kind, message: format!("{}: {status}{way_out}{said}", call.subject), retry_after: None }
}

fn way_out(call: &Call<'_>, kind: GitHubErrorKind, answer: &Answer, now: Timestamp) -> Option<String> {
    let token_refused = "GitHub refuses a token that it has just given for the App's installation";
    let place = match call.identity {
        Identity::Installation { target: Target::Repo(repo), .. } => format!("repository `{repo}`"),
        Identity::Installation { target: Target::Org(org), .. } => format!("organisation `{org}`"),
        Identity::Mint(id) => format!("installation {id}"),
        Identity::App => "the App".into(),
    };
    match kind {
        GitHubErrorKind::Unauthorized => {
            let theirs = answer.headers.get(header::DATE).and_then(|date| date.to_str().ok());
            let theirs = theirs.and_then(|date| rfc2822::parse(date).ok()).map(|date| date.timestamp());
            let skew =
                theirs.map(|theirs| now.duration_since(theirs)).filter(|skew| skew.unsigned_abs() > NOTABLE_SKEW);
            Some(match skew {
                Some(skew) if skew.is_positive() => {
                    format!("this machine's clock is {} s ahead of GitHub's; set it right", skew.as_secs())
                }
                Some(skew) => {
                    format!("this machine's clock is {} s behind GitHub's; set it right", skew.unsigned_abs().as_secs())
                }
                None => match call.identity {
                    Identity::Installation { .. } => {
                        format!("{token_refused} on {place}; look at GitHub whether it is suspended or was taken away")
                    }
                    Identity::App | Identity::Mint(_) => {
                        "GitHub does not know the App by this key; check `github.app_id` and `github.private_key_path`"
                            .into()
                    }
                },
            })
        }
        GitHubErrorKind::Forbidden => Some(match call.permission {
            Some(permission) => format!(
                "the App lacks the permission `{permission}` for {place}; grant it in the App's settings and accept it on the installation"
            ),
            None => format!("{place} may be suspended; look at its installation's settings at GitHub"),
        }),
        GitHubErrorKind::NotFound => match call.identity {
            Identity::Installation { .. } => Some(format!(
                "{place} is not there for the App; check its spelling and that the App is installed on it"
            )),
            Identity::Mint(_) => Some(format!("{place} does not exist (any more)")),
            Identity::App => None,
        },
        GitHubErrorKind::NameTaken
        | GitHubErrorKind::Rejected
        | GitHubErrorKind::RateLimited
        | GitHubErrorKind::Unavailable => None,
    }
}

/// GitHub's own words in a refusal; empty where it has none.
pub(super) fn message(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    serde_json::from_slice::<Refusal>(&answer.body).map(|refusal| refusal.message).unwrap_or_default()
}

fn quoted(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == MAX_QUOTED {
            shown.push('…');
            break;
        }
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}
