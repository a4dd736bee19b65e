//! A real browser, driven as a person would use it: look, click, wait.
//!
//! Chromium is spoken to over a pipe in its DevTools protocol: messages of JSON that end with a zero byte, on its file
//! descriptors 3 and 4. No port is opened, no driver is needed. It has a profile of its own that ends with it.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::wait::within;

/// How long the browser may take for one answer, its start on a busy machine included.
const ANSWER: Duration = Duration::from_secs(60);

/// Started without its own sandbox because tests may run as root, and without whatever reaches for the network.
const FLAGS: [&str; 12] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--window-size=1280,900",
];

/// Where the browser is, if there is one.
pub fn installed() -> Option<PathBuf> {
    let names = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    names.into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// A browser with one page.
#[derive(Debug)]
pub struct Browser {
    // Held so that the browser ends with this value.
    _child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _profile: TempDir,
    session: Option<String>,
    last_id: u64,
    /// What the page complained about: exceptions, refused scripts, failed requests.
    complaints: VecDeque<String>,
}

impl Browser {
    /// Starts the browser with an empty page.
    pub async fn start() -> anyhow::Result<Self> {
        let program = installed().context("no Chromium is installed")?;
        let profile = tempfile::Builder::new().prefix("pacer-browser-").tempdir()?;
        let mut child = Command::new("/bin/sh")
            // The shell's own pipes become the descriptors the browser speaks on.
            .args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>&2"#, "sh"])
            .arg(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let to = child.stdin.take().context("the browser has no way in")?;
        let from = BufReader::new(child.stdout.take().context("the browser has no way out")?);
        let mut browser =
            Self { _child: child, to, from, _profile: profile, session: None, last_id: 0, complaints: VecDeque::new() };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach).await?;
        browser.session = Some(session["sessionId"].as_str().context("the page has no session")?.to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(browser)
    }

    pub async fn open(&mut self, url: &str) -> anyhow::Result<()> {
        let opened = self.call("Page.navigate", json!({ "url": url })).await?;
        if let Some(error) = opened["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        self.wait_for("the page is there", "document.readyState !== 'loading'").await.map(drop)
    }

    /// The value of an expression in the page.
    pub async fn evaluate(&mut self, expression: &str) -> anyhow::Result<Value> {
        let arguments = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", arguments).await?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("`{expression}` throws: {exception}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true (or anything that counts as such) and returns its value.
    pub async fn wait_for(&mut self, what: &str, expression: &str) -> anyhow::Result<Value> {
        let seen = within(ANSWER, async || match self.evaluate(expression).await {
            // While a page is replaced by the next one, expressions fail; that passes.
            Err(_) | Ok(Value::Null | Value::Bool(false)) => None,
            Ok(Value::String(text)) if text.is_empty() => None,
            Ok(value) => Some(value),
        })
        .await;
        match seen {
            Some(value) => Ok(value),
            None => {
                let page = self.evaluate("document.body.innerText").await.unwrap_or_default();
                bail!("waited in vain: {what}; the page shows:\n{}", page.as_str().unwrap_or_default())
            }
        }
    }

    /// Presses and releases the mouse in the middle of the first element that fits.
    pub async fn click(&mut self, selector: &str) -> anyhow::Result<()> {
        let element = format!("document.querySelector({})", Value::from(selector));
        let middle = format!(
            "(() => {{ const e = {element}; if (!e) return null; e.scrollIntoView({{ block: 'center', behavior: 'instant' }});
               const r = e.getBoundingClientRect(); return {{ x: r.x + r.width / 2, y: r.y + r.height / 2 }}; }})()"
        );
        let at = self.wait_for(&format!("`{selector}` is there to click"), &middle).await?;
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if kind == "mouseMoved" { "none" } else { "left" };
            let event = json!({ "type": kind, "x": at["x"], "y": at["y"], "button": button, "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event).await?;
        }
        Ok(())
    }

    /// Types text into what has the focus.
    pub async fn type_text(&mut self, text: &str) -> anyhow::Result<()> {
        self.call("Input.insertText", json!({ "text": text })).await.map(drop)
    }

    /// Shows pages as a phone of this width would.
    pub async fn be_a_phone(&mut self, width: u32) -> anyhow::Result<()> {
        let phone = json!({ "width": width, "height": 844, "deviceScaleFactor": 2, "mobile": true });
        self.call("Emulation.setDeviceMetricsOverride", phone).await.map(drop)
    }

    /// Runs a script in every document from now on, before the page's own.
    pub async fn run_first(&mut self, script: &str) -> anyhow::Result<()> {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await.map(drop)
    }

    /// `light` or `dark`.
    pub async fn prefer(&mut self, scheme: &str) -> anyhow::Result<()> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// Saves a picture of what is visible.
    pub async fn screenshot(&mut self, path: &Path) -> anyhow::Result<()> {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" })).await?;
        let data = picture["data"].as_str().context("the picture is empty")?;
        Ok(std::fs::write(path, STANDARD.decode(data)?)?)
    }

    /// What the page complained about so far: exceptions, refused scripts and styles, failed requests.
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.iter().cloned().collect()
    }

    async fn call(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        let answered = tokio::time::timeout(ANSWER, self.exchange(method, params)).await;
        answered.with_context(|| format!("the browser did not answer {method} within {ANSWER:?}"))?
    }

    async fn exchange(&mut self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes).await?;
        loop {
            let mut bytes = Vec::new();
            if self.from.read_until(0, &mut bytes).await? == 0 {
                bail!("the browser ended while it was asked for {method}");
            }
            bytes.pop();
            let mut message: Value = serde_json::from_slice(&bytes)?;
            if message["id"] != json!(id) {
                self.note(&message);
                continue;
            }
            if let Some(error) = message.get("error") {
                bail!("the browser refused {method}: {error}");
            }
            return Ok(message["result"].take());
        }
    }

    fn note(&mut self, event: &Value) {
        let complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
            Some("Log.entryAdded") if event["params"]["entry"]["level"] == "error" => &event["params"]["entry"],
            Some(_) | None => return,
        };
        self.complaints.push_back(complaint.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_click_reaches_the_page() {
        let Some(_) = installed() else { return eprintln!("no browser here") };
        let mut browser = Browser::start().await.unwrap();
        browser.open("data:text/html,<button onclick=\"this.textContent='clicked'\">go</button>").await.unwrap();
        browser.click("button").await.unwrap();
        browser.wait_for("the button says so", "document.body.innerText === 'clicked'").await.unwrap();
        assert_eq!(browser.complaints(), Vec::<String>::new());
    }
}
