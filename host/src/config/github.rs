//! The section `github`, and what can be wrong with the App's key.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use secrecy::SecretString;

use super::{
    GitHub,
    endpoint::certificates,
    reader::{Reader, Section},
    sections::{warn_plain_http, web_url},
    value::{UNREADABLE, Value, content},
};

pub(super) const GITHUB: &[&str] =
    &["app_id", "private_key_path", "webhook_secret", "api_url", "ca", "recovery_interval", "runner_poll"];

/// Deliveries are tried against each of them: two while one replaces the other, a few more do no harm.
const MOST_SECRETS: usize = 8;

pub(super) fn github(root: &Section<'_, '_>, reader: &Reader<'_>) -> Option<GitHub> {
    let section = root.section("github", GITHUB);
    let app_id = section
        .required("app_id", "the App's page on GitHub shows it as `App ID`")
        .and_then(|value| value.positive::<i64>());
    let private_key = section
        .required("private_key_path", "name the `.pem` file that the App's page on GitHub lets you generate")
        .and_then(|value| private_key(&value, reader));
    let webhook_secrets = section
        .required("webhook_secret", "set it here as in the App's settings; make one with `openssl rand -hex 32`")
        .and_then(|value| secrets(&value));
    let api_url = match section.get("api_url") {
        None => Some("https://api.github.com".to_owned()),
        Some(value) => web_url(&value),
    };
    if let Some(url) = &api_url {
        warn_plain_http(reader, "github.api_url", url);
    }
    let ca = match section.get("ca") {
        None => Some(None),
        Some(value) => certificates(&value).map(Some),
    };
    let recovery_interval = section.duration_or("recovery_interval", Duration::from_secs(120));
    let runner_poll = section.duration_or("runner_poll", Duration::from_secs(5));
    Some(GitHub {
        app_id: app_id?.unsigned_abs(),
        private_key: private_key?,
        webhook_secrets: webhook_secrets?,
        api_url: api_url?,
        ca: ca?,
        recovery_interval: recovery_interval?,
        runner_poll: runner_poll?,
    })
}

fn secrets(value: &Value<'_, '_>) -> Option<Vec<SecretString>> {
    if !value.is_list() {
        return value.secret().map(|secret| vec![secret]);
    }
    let items = value.items();
    if items.is_empty() || items.len() > MOST_SECRETS {
        value.problem(
            format!("has {} secrets", items.len()),
            format!("give one, two while the secret is being replaced, at most {MOST_SECRETS}"),
        );
        return None;
    }
    let secrets: Vec<_> = items.iter().map(Value::secret).collect();
    secrets.into_iter().collect()
}

fn private_key(value: &Value<'_, '_>, reader: &Reader<'_>) -> Option<SecretString> {
    const HINT: &str = "generate a key on the App's page on GitHub, and name the `.pem` file that it downloads";
    let path = value.path()?;
    let shown = path.display();
    let unreadable = |fault| value.problem(format!("required: `{shown}` cannot be read: {fault}"), UNREADABLE);
    let content = content(&path).map_err(unreadable).ok()?;
    let Ok(pem) = String::from_utf8(content) else {
        value.problem(format!("is not a PEM file: `{shown}`"), HINT);
        return None;
    };
    if let Err(why) = check_key(&pem) {
        value.problem(format!("{why}: `{shown}`"), HINT);
        return None;
    }
    if let Ok(metadata) = std::fs::metadata(&path) {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode != 0o400 && mode != 0o600 {
            reader.warn(format!("github.private_key_path: `{shown}` has mode {mode:04o}; run `chmod 400 {shown}`"));
        }
    }
    Some(pem.into())
}

/// What keeps the text from being a key that GitHub takes. Signs once, which is the only proof.
fn check_key(pem: &str) -> Result<(), String> {
    let Some(label) = pem.lines().find_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
    else {
        return Err("is not a PEM file".to_owned());
    };
    match label {
        "RSA PRIVATE KEY" | "PRIVATE KEY" => {}
        "ENCRYPTED PRIVATE KEY" => return Err("is a key with a passphrase, which pacer cannot ask for".to_owned()),
        "PUBLIC KEY" | "RSA PUBLIC KEY" => return Err("is a public key, not the App's private key".to_owned()),
        "CERTIFICATE" => return Err("is a certificate, not the App's private key".to_owned()),
        other => return Err(format!("is not an RSA key but `{}`", crate::routing::shown(other))),
    }
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes())
        .map_err(|_| "is not an RSA key, or damaged".to_owned())?;
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
    jsonwebtoken::encode(&header, &serde_json::json!({}), &key)
        .map(|_| ())
        .map_err(|_| "is not an RSA key that can sign, or damaged".to_owned())
}
