//! A pool's `bootstrap`: how its machines become runners.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Arch, Bootstrap, BootstrapKind, BootstrapMode, Pool, RunnerSoftware, Timeouts,
    reader::{Reader, Section},
    sections::is_in_clear,
    value::Value,
};

pub(super) const BOOTSTRAP: &[&str] = &["mode", "kind", "user", "max_life", "runner"];
pub(super) const RUNNER: &[&str] = &["version", "sha256", "mirror", "dir"];
const SHA256: &[&str] = &["x64", "arm64"];

/// As the official images and the documentation of GitHub's runner have it.
const DEFAULT_USER: &str = "runner";
const DEFAULT_DIR: &str = "/opt/actions-runner";
/// What `useradd` takes.
const LONGEST_USER: usize = 32;

/// How long a runner may wait for a job where the pool does not say how long its machines live: in a pool that is kept
/// warm, a day, so that one machine is replaced a day; otherwise what is paid for at once where time is paid by the hour.
const WAIT: (Duration, Duration) = (Duration::from_secs(24 * 3600), Duration::from_secs(3600));

impl Pool {
    /// From the moment a runner is planned: when its machine powers itself off, pacer or not.
    pub fn max_life(&self) -> Duration {
        let wait = if self.warm.most() > 0 { WAIT.0 } else { WAIT.1 };
        self.bootstrap.max_life.unwrap_or_else(|| self.timeouts.life_beside_waiting() + wait.max(self.timeouts.idle))
    }

    /// From the same moment: until when a runner may be given a job that takes as long as jobs may.
    pub fn last_call(&self) -> Duration {
        self.max_life().saturating_sub(self.timeouts.run + self.timeouts.stop)
    }
}

impl Timeouts {
    /// The longest life of a runner that need not wait for a job.
    pub fn life_beside_waiting(&self) -> Duration {
        self.register + self.create + self.boot + self.run + self.stop
    }
}

pub(super) fn default() -> Bootstrap {
    Bootstrap {
        mode: BootstrapMode::Callback,
        kind: None,
        user: DEFAULT_USER.to_owned(),
        max_life: None,
        runner: RunnerSoftware { version: None, sha256: BTreeMap::new(), mirror: None, dir: DEFAULT_DIR.to_owned() },
    }
}

pub(super) fn bootstrap(
    section: &Section<'_, '_>,
    timeouts: Option<&Timeouts>,
    reader: &Reader<'_>,
) -> Option<Bootstrap> {
    let modes = [("callback", BootstrapMode::Callback), ("inline", BootstrapMode::Inline)];
    let mode = section.get("mode").map_or(Some(default().mode), |value| value.word(&modes));
    let kinds = BootstrapKind::ALL.map(|kind| (kind.as_str(), kind));
    let kind = section.get("kind").map_or(Some(None), |value| value.word(&kinds).map(Some));
    let user = section.get("user").map_or(Some(DEFAULT_USER.to_owned()), |value| user(&value));
    let max_life = section.get("max_life").map_or(Some(None), |value| max_life(&value, timeouts, reader).map(Some));
    let runner = software(&section.section("runner", RUNNER));
    Some(Bootstrap { mode: mode?, kind: kind?, user: user?, max_life: max_life?, runner: runner? })
}

/// A machine powers itself off then, whatever it does: a job that has not ended is lost.
fn max_life(value: &Value<'_, '_>, timeouts: Option<&Timeouts>, reader: &Reader<'_>) -> Option<Duration> {
    let life = value.duration()?;
    let Some(timeouts) = timeouts else { return Some(life) };
    let least = timeouts.life_beside_waiting();
    match life.checked_sub(least) {
        None => {
            value.problem(
                "is shorter than a job may take, and its machine would power off under it",
                format!(
                    "write {} min or more (`register`, `create`, `boot`, `run` and `stop` of `timeouts`), or lower \
                     `timeouts.run`",
                    least.as_secs().div_ceil(60)
                ),
            );
            return None;
        }
        Some(wait) if wait < timeouts.idle => reader.warn(format!(
            "{}: leaves a runner {} s to wait for a job, less than `timeouts.idle`: it is replaced by then",
            value.path,
            wait.as_secs()
        )),
        Some(_) => {}
    }
    Some(life)
}

fn user(value: &Value<'_, '_>) -> Option<String> {
    let text = value.text()?;
    let fits = text.len() <= LONGEST_USER
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if !fits || text == "root" {
        value.problem(
            "is not the name of an unprivileged user",
            "write a name of a-z, 0-9, `-` and `_` other than `root`; it is made if the image has none",
        );
        return None;
    }
    Some(text.to_owned())
}

fn software(section: &Section<'_, '_>) -> Option<RunnerSoftware> {
    let version = section.get("version").map_or(Some(None), |value| version(&value));
    let sums = section.section("sha256", SHA256);
    let mut sha256 = Some(BTreeMap::new());
    for arch in Arch::ALL {
        let Some(value) = sums.get(arch.as_str()) else { continue };
        match (digest(&value), &mut sha256) {
            (Some(digest), Some(all)) => {
                all.insert(arch, digest);
            }
            _ => sha256 = None,
        }
    }
    if let (Some(None), Some(sums)) = (&version, &sha256)
        && !sums.is_empty()
    {
        section.problem(
            "sha256",
            "is given and `version` is not",
            "a checksum belongs to one version: pin it with `version`",
        );
        return None;
    }
    let mirror = section.get("mirror").map_or(Some(None), |value| mirror(&value).map(Some));
    if let (Some(Some(url)), Some(sums)) = (&mirror, &sha256)
        && sums.is_empty()
        && is_in_clear(url)
    {
        section.problem(
            "mirror",
            "is an `http://` address, and there is nothing to compare with what it gives: every job would run it",
            "use `https://`, or pin `version` and its `sha256`",
        );
        return None;
    }
    let dir = section.get("dir").map_or(Some(DEFAULT_DIR.to_owned()), |value| dir(&value));
    Some(RunnerSoftware { version: version?, sha256: sha256?, mirror: mirror?, dir: dir? })
}

/// `2.330.0`, or `latest`, which is none.
fn version(value: &Value<'_, '_>) -> Option<Option<String>> {
    let text = value.text()?;
    if text == "latest" {
        return Some(None);
    }
    let numbers: Vec<&str> = text.split('.').collect();
    let fits = numbers.len() == 3
        && numbers.iter().all(|n| (1..=5).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()));
    if !fits {
        value.problem(
            "is not a version of GitHub's runner",
            "write three numbers in quotes, as in `\"2.330.0\"`, or `latest`",
        );
        return None;
    }
    Some(Some(text.to_owned()))
}

fn digest(value: &Value<'_, '_>) -> Option<String> {
    let text = value.text()?.to_ascii_lowercase();
    let fits = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !fits {
        value.problem("is not a SHA-256", "write the 64 hexadecimal digits that the runner's release page shows");
    }
    fits.then_some(text)
}

fn mirror(value: &Value<'_, '_>) -> Option<String> {
    let text = value.text()?.trim_end_matches('/');
    let fits = text.parse::<http::Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && url.query().is_none()
    });
    if !fits || text.contains('#') {
        value.problem(
            "is not the base of a download URL",
            "write `https://host/path`, without credentials: every machine and every job can read it",
        );
        return None;
    }
    Some(text.to_owned())
}

fn dir(value: &Value<'_, '_>) -> Option<String> {
    let text = value.text()?.trim_end_matches('/');
    let fits = text.starts_with('/') && text.len() > 1 && text.len() <= 255 && !text.chars().any(char::is_control);
    if !fits {
        value.problem("is not an absolute directory of the machine", "write a path such as `/opt/actions-runner`");
    }
    fits.then(|| text.to_owned())
}
