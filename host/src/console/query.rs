//! The parameters of listings, parsed into filters. What cannot be right is refused by name, with what could.

use std::{fmt, str::FromStr};

use super::error::ApiError;
use crate::{
    fleet::{
        job::{JobKey, JobStatus},
        runner::RunnerState,
    },
    store::{JobFilter, MAX_PAGE, RunnerFilter},
};

/// What one page of a listing holds unless `limit` says otherwise.
const DEFAULT_LIMIT: u32 = 50;
/// Far longer than any cursor of ours.
const MAX_CURSOR: usize = 256;

pub type Pairs = Vec<(String, String)>;

/// Filter, cursor and size of a listing.
#[derive(Debug, Default)]
pub struct Listing<F> {
    pub filter: F,
    pub cursor: Option<String>,
    pub limit: u32,
}

pub fn jobs(pairs: &Pairs) -> Result<Listing<JobFilter>, ApiError> {
    let mut filter = JobFilter::default();
    listing(pairs, &["status", "project", "repo"], |key, value| {
        match key {
            "status" => filter.status.extend(states(value, &JobStatus::ALL)?),
            "project" => filter.project = Some(name(key, value)?),
            _ => filter.repo = Some(name(key, value)?),
        }
        Ok(())
    })
    .map(|(cursor, limit)| Listing { filter, cursor, limit })
}

pub fn runners(pairs: &Pairs) -> Result<Listing<RunnerFilter>, ApiError> {
    let mut filter = RunnerFilter::default();
    listing(pairs, &["status", "project", "repo"], |key, value| {
        match key {
            "status" => filter.state.extend(states(value, &RunnerState::ALL)?),
            "project" => filter.project = Some(name(key, value)?),
            _ => filter.repo = Some(name(key, value)?),
        }
        Ok(())
    })
    .map(|(cursor, limit)| Listing { filter, cursor, limit })
}

/// A listing that cannot be filtered.
pub fn plain(pairs: &Pairs) -> Result<Listing<()>, ApiError> {
    listing(pairs, &[], |_, _| Ok(())).map(|(cursor, limit)| Listing { filter: (), cursor, limit })
}

/// Whether only the part that changes is wanted.
pub fn wants_fragment(pairs: &Pairs) -> bool {
    pairs.iter().any(|(key, value)| key == "fragment" && value == "rows")
}

/// How an address names a job: by its key, or by GitHub's id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobAddress {
    Key(JobKey),
    Latest(i64),
}

impl FromStr for JobAddress {
    type Err = ApiError;

    fn from_str(text: &str) -> Result<Self, ApiError> {
        if let Ok(id) = text.parse::<i64>() {
            return Ok(Self::Latest(id));
        }
        text.parse().map(Self::Key).map_err(|error| ApiError::not_found(format!("{error}")))
    }
}

fn listing(
    pairs: &Pairs,
    filters: &[&str],
    mut filter: impl FnMut(&str, &str) -> Result<(), ApiError>,
) -> Result<(Option<String>, u32), ApiError> {
    let mut cursor = None;
    let mut limit = DEFAULT_LIMIT;
    for (key, value) in pairs {
        // A form sends its empty fields along.
        if value.is_empty() {
            continue;
        }
        match key.as_str() {
            "limit" => limit = page_size(value)?,
            "cursor" if value.len() <= MAX_CURSOR => cursor = Some(value.clone()),
            "cursor" => {
                return Err(ApiError::bad_parameter("`cursor` is too long; take `next` of the previous page as it is"));
            }
            "fragment" => {}
            key if filters.contains(&key) => filter(key, value)?,
            key => {
                let known: Vec<_> = filters.iter().copied().chain(["limit", "cursor"]).collect();
                return Err(ApiError::bad_parameter(format!(
                    "there is no parameter `{}`; there are: {}",
                    short(key),
                    known.join(", ")
                )));
            }
        }
    }
    Ok((cursor, limit))
}

/// Whoever asks for more than there is on a page gets a whole page, and its `next`.
fn page_size(text: &str) -> Result<u32, ApiError> {
    let refused = || ApiError::bad_parameter(format!("`limit` is `{}`: use 1 to {MAX_PAGE}", short(text)));
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    match text.parse::<u32>().unwrap_or(MAX_PAGE).min(MAX_PAGE) {
        0 => Err(refused()),
        limit => Ok(limit),
    }
}

fn states<S: FromStr + fmt::Display>(value: &str, all: &[S]) -> Result<Vec<S>, ApiError> {
    let state = |text: &str| {
        text.parse().map_err(|_| {
            let valid: Vec<_> = all.iter().map(ToString::to_string).collect();
            ApiError::bad_parameter(format!("`status` is `{}`: use one or more of {}", short(text), valid.join(", ")))
        })
    };
    value.split(',').map(str::trim).filter(|text| !text.is_empty()).map(state).collect()
}

fn name<N: FromStr<Err: fmt::Display>>(key: &str, value: &str) -> Result<N, ApiError> {
    value.parse().map_err(|error| ApiError::bad_parameter(format!("`{key}`: {error}")))
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
