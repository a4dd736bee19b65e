//! A machine that runs a start script, as far as pacer sees it: what the real one does over HTTP, without a machine.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

/// Attempts at a request, and the pause between them: the real script is more patient.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Fetched {
    jit_config: String,
    phase_token: String,
}

/// Reports the phases of a machine.
pub struct Reporter {
    client: reqwest::Client,
    url: String,
    token: String,
}

/// What a script assigns to a name at its head.
pub fn value(script: &str, name: &str) -> Option<String> {
    let prefix = format!("{name}='");
    script.lines().find_map(|line| line.strip_prefix(&prefix)?.strip_suffix('\'')).map(str::to_owned)
}

/// Reports, fetches the configuration and reports again; an error says why the machine powers off.
pub async fn run(script: &str) -> Result<(String, Option<Reporter>), String> {
    let value = |name| value(script, name).ok_or_else(|| format!("the start script has no `{name}`"));
    if let Ok(config) = value("PACER_JIT_CONFIG") {
        return Ok((config, None));
    }
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().map_err(|error| error.to_string())?;
    let mut reporter = Reporter { client, url: value("PACER_URL")?, token: value("PACER_TOKEN")? };
    reporter.report("booted").await;
    let fetched = match reporter.fetch().await {
        Ok(fetched) => fetched,
        Err(why) => {
            reporter.send("failed", Some(&why)).await;
            return Err(why);
        }
    };
    reporter.token = fetched.phase_token;
    reporter.report("runner-ready").await;
    Ok((fetched.jit_config, Some(reporter)))
}

impl Reporter {
    pub async fn report(&self, phase: &str) {
        self.send(phase, None).await;
    }

    /// A report that does not arrive changes nothing.
    async fn send(&self, phase: &str, log: Option<&str>) {
        let request = self.client.post(format!("{}/api/runner/phase", self.url)).bearer_auth(&self.token);
        let _ = request.json(&json!({ "phase": phase, "log": log })).send().await;
    }

    async fn fetch(&self) -> Result<Fetched, String> {
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            let request = self.client.post(format!("{}/api/runner/config", self.url)).bearer_auth(&self.token);
            match request.send().await {
                Ok(answer) if answer.status().is_success() => match answer.json().await {
                    Ok(fetched) => return Ok(fetched),
                    Err(error) => why = format!("the configuration cannot be read: {error}"),
                },
                Ok(answer) if matches!(answer.status().as_u16(), 400 | 401 | 403 | 404 | 410) => {
                    return Err(format!("pacer refused the configuration: {}", answer.status()));
                }
                Ok(answer) => why = format!("pacer answered {}", answer.status()),
                Err(error) => why = format!("pacer does not answer: {error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(why)
    }
}
