//! A `workflow_job` payload, as far as pacer needs it, or a clear word on what is wrong with it.
//!
//! The sender is believed to be GitHub and nothing more: numbers are checked, texts are cut and cleaned, lists are
//! bounded while they are read, nesting is bounded before anything is parsed. What is cosmetic and odd (a date, a
//! link) is left out; what a decision rests on (ids, repository, labels) refuses the payload.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};

use crate::{
    fleet::job::{JobFact, JobKey, Phase},
    routing::RepoName,
};

/// GitHub takes at most 100 labels of a runner, so a job with more could never run.
pub const MAX_LABELS: usize = 100;
/// The runner's own bound for one label.
const MAX_LABEL: usize = 256;
/// GitHub's payloads nest six deep.
const MAX_DEPTH: usize = 64;
/// Characters of a name for people; longer ones are cut.
const MAX_TEXT: usize = 256;
const MAX_URL: usize = 2_048;
/// Characters of a message about a payload.
const MAX_MESSAGE: usize = 300;

/// The payload cannot be taken in. The message is for the sender and may quote the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a `workflow_job` payload: {0}")]
pub struct PayloadError(String);

/// What a payload says.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    Job {
        /// `queued`, `waiting`, `in_progress` or `completed`.
        action: &'static str,
        fact: Box<JobFact>,
    },
    /// An action that is not known, shortened.
    UnknownAction(String),
}

/// Reads a payload.
pub fn parse_workflow_job(body: &[u8]) -> Result<Payload, PayloadError> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(PayloadError("the body is no JSON object".into()));
    }
    check_depth(body)?;
    match serde_json::from_slice::<Delivery<'_>>(body) {
        Ok(delivery) => delivery.into_payload(),
        // An action that comes one day may come with another shape.
        Err(reason) => match serde_json::from_slice::<ActionOnly<'_>>(body) {
            Ok(ActionOnly { action }) if known(&action).is_none() => Ok(Payload::UnknownAction(text(&action))),
            Ok(_) | Err(_) => Err(PayloadError(cut(&reason.to_string(), MAX_MESSAGE))),
        },
    }
}

/// Brings what GitHub's API says of a job under the bounds of a payload.
pub(super) fn clean(fact: &mut JobFact) {
    let words = |raw: &mut Option<String>| *raw = Loose(raw.take().map(Cow::Owned)).words();
    fact.name = text(&fact.name);
    words(&mut fact.workflow);
    words(&mut fact.branch);
    words(&mut fact.runner);
    fact.html_url = Loose(fact.html_url.take().map(Cow::Owned)).link();
    fact.labels.truncate(MAX_LABELS);
    fact.labels.iter_mut().for_each(|label| *label = text(label));
}

fn known(action: &str) -> Option<&'static str> {
    ["queued", "waiting", "in_progress", "completed"].into_iter().find(|known| *known == action)
}

/// The decoder skips what it does not know without recursion; this is for whoever reads the payload after it.
fn check_depth(body: &[u8]) -> Result<(), PayloadError> {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for byte in body {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(PayloadError(format!("it is nested more than {MAX_DEPTH} deep")));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct ActionOnly<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Delivery<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow)]
    workflow_job: WorkflowJob<'a>,
    #[serde(borrow)]
    repository: Repository<'a>,
    #[serde(default)]
    installation: Option<Installation>,
}

#[derive(Deserialize)]
#[serde(expecting = "`repository` to be an object")]
struct Repository<'a> {
    #[serde(borrow)]
    full_name: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(expecting = "`installation` to be an object")]
struct Installation {
    #[serde(deserialize_with = "installation_id")]
    id: i64,
}

#[derive(Deserialize)]
#[serde(expecting = "`workflow_job` to be an object")]
struct WorkflowJob<'a> {
    #[serde(deserialize_with = "job_id")]
    id: i64,
    #[serde(deserialize_with = "run_id")]
    run_id: i64,
    /// Older servers do not send it.
    #[serde(default = "first_attempt", deserialize_with = "run_attempt")]
    run_attempt: i32,
    #[serde(default, borrow)]
    status: Loose<'a>,
    #[serde(default, borrow)]
    conclusion: Loose<'a>,
    #[serde(default, borrow)]
    name: Loose<'a>,
    #[serde(default, borrow)]
    workflow_name: Loose<'a>,
    #[serde(default, borrow)]
    head_branch: Loose<'a>,
    #[serde(default, borrow)]
    html_url: Loose<'a>,
    labels: Labels,
    #[serde(default, borrow)]
    runner_name: Loose<'a>,
    #[serde(default, borrow)]
    created_at: Loose<'a>,
    #[serde(default, borrow)]
    started_at: Loose<'a>,
    #[serde(default, borrow)]
    completed_at: Loose<'a>,
}

impl Delivery<'_> {
    fn into_payload(self) -> Result<Payload, PayloadError> {
        let Some(action) = known(&self.action) else {
            return Ok(Payload::UnknownAction(text(&self.action)));
        };
        let repo: RepoName = self
            .repository
            .full_name
            .parse()
            .map_err(|reason| PayloadError(format!("`repository.full_name`: {reason}")))?;
        let job = self.workflow_job;
        let phase = match action {
            "queued" if job.status.0.as_deref() == Some("waiting") => Phase::Waiting,
            "queued" => Phase::Queued,
            "waiting" => Phase::Waiting,
            "in_progress" => Phase::InProgress,
            _ => Phase::Completed { conclusion: job.conclusion.words() },
        };
        let fact = JobFact {
            key: JobKey { id: job.id, attempt: job.run_attempt },
            run_id: job.run_id,
            repo,
            installation_id: self.installation.map(|installation| installation.id),
            name: job.name.words().unwrap_or_default(),
            workflow: job.workflow_name.words(),
            branch: job.head_branch.words(),
            html_url: job.html_url.link(),
            labels: job.labels.0,
            phase,
            runner: job.runner_name.words(),
            created_at: job.created_at.time(),
            started_at: job.started_at.time(),
            completed_at: job.completed_at.time(),
        };
        Ok(Payload::Job { action, fact: Box::new(fact) })
    }
}

/// For people: without control characters, and not too long.
fn text(raw: &str) -> String {
    cut(raw, MAX_TEXT)
}

fn cut(raw: &str, most: usize) -> String {
    let mut shown: String = raw.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if raw.chars().nth(most).is_some() {
        shown.push('…');
    }
    shown
}

/// A text that may as well be null, 0 or anything else: then there is none.
#[derive(Default)]
struct Loose<'a>(Option<Cow<'a, str>>);

impl Loose<'_> {
    fn words(self) -> Option<String> {
        self.0.map(|raw| text(raw.trim())).filter(|text| !text.is_empty())
    }

    /// A link that a page may show.
    fn link(self) -> Option<String> {
        let plain = |url: &str| url.len() <= MAX_URL && url.bytes().all(|b| b.is_ascii_graphic());
        let web = |url: &str| url.starts_with("https://") || url.starts_with("http://");
        self.0.filter(|url| plain(url) && web(url)).map(Cow::into_owned)
    }

    fn time(self) -> Option<Timestamp> {
        self.0?.parse().ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Loose<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Loose(Some(Cow::Borrowed(text))))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Loose(Some(Cow::Owned(text.to_owned()))))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Loose(None))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Loose(None))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Loose(None))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Loose(None))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Loose(None))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// Whole numbers in a range, with the name of the field in the message.
struct Whole {
    field: &'static str,
    most: i64,
    null: Option<i64>,
}

impl Visitor<'_> for Whole {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` to be a whole number from 1 to {}", self.field, self.most)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<i64, E> {
        i64::try_from(number)
            .ok()
            .filter(|number| (1..=self.most).contains(number))
            .ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<i64, E> {
        u64::try_from(number)
            .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            .and_then(|number| self.visit_u64(number))
    }

    fn visit_unit<E: Error>(self) -> Result<i64, E> {
        self.null.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unit, &self))
    }
}

fn job_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(Whole { field: "workflow_job.id", most: i64::MAX, null: None })
}

fn run_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(Whole { field: "workflow_job.run_id", most: i64::MAX, null: None })
}

fn installation_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_any(Whole { field: "installation.id", most: i64::MAX, null: None })
}

fn run_attempt<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let field = "workflow_job.run_attempt";
    let number = deserializer.deserialize_any(Whole { field, most: i64::from(i32::MAX), null: Some(1) })?;
    i32::try_from(number).map_err(D::Error::custom)
}

fn first_attempt() -> i32 {
    1
}

/// What `runs-on` asks for. Stops reading at the first label too many.
struct Labels(Vec<String>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;

        impl<'de> Visitor<'de> for Bounded {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`workflow_job.labels` to be a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Labels, A::Error> {
                let mut labels = Vec::new();
                while labels.len() < MAX_LABELS {
                    let Some(label) = sequence.next_element::<String>()? else { return Ok(Labels(labels)) };
                    let number = labels.len() + 1;
                    if label.chars().any(char::is_control) {
                        return Err(A::Error::custom(format_args!(
                            "`workflow_job.labels`: label {number} holds a control character"
                        )));
                    }
                    if label.trim().is_empty() || label.chars().count() > MAX_LABEL {
                        return Err(A::Error::custom(format_args!(
                            "`workflow_job.labels`: label {number} is empty or longer than {MAX_LABEL} characters"
                        )));
                    }
                    labels.push(label);
                }
                match sequence.next_element::<IgnoredAny>()? {
                    None => Ok(Labels(labels)),
                    Some(IgnoredAny) => Err(A::Error::custom(format_args!(
                        "`workflow_job.labels`: more than {MAX_LABELS} labels; GitHub takes no runner with so many"
                    ))),
                }
            }
        }

        deserializer.deserialize_seq(Bounded)
    }
}
