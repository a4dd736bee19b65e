//! What proves to an endpoint who is asking. No message about it quotes a secret.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    endpoint::{Address, parse_address},
    reader::{Section, listed},
    value::Value,
};
use crate::routing::shown;

pub(super) const CREDENTIAL: &[&str] = &["bearer", "basic", "header", "aws_sigv4", "oauth2"];
pub(super) const BASIC: &[&str] = &["username", "password"];
pub(super) const HEADER: &[&str] = &["name", "value"];
pub(super) const AWS_SIGV4: &[&str] =
    &["region", "service", "access_key_id", "secret_access_key", "session_token", "profile", "role"];
pub(super) const OAUTH2: &[&str] = &["token_url", "client_id", "client_secret", "scope"];

/// Header fields that belong to the connection: one set from a configuration would break it.
const RESERVED_HEADERS: [&str; 6] = ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te"];

/// Added by the host to what a component sends; a component never sees it.
#[derive(Debug)]
pub enum Credential {
    Bearer(SecretString),
    Basic { username: String, password: SecretString },
    Header { name: String, value: SecretString },
    AwsSigV4(AwsSigV4),
    OAuth2(OAuth2),
}

/// Requests are signed, with AWS Signature Version 4.
#[derive(Debug)]
pub struct AwsSigV4 {
    pub region: String,
    pub service: String,
    pub source: AwsSource,
}

/// Where the keys that sign come from.
#[derive(Debug)]
pub enum AwsSource {
    Keys {
        access_key_id: String,
        secret_access_key: SecretString,
        session_token: Option<SecretString>,
    },
    /// Of the files that AWS's own tools read.
    Profile(String),
    Role(AwsRole),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwsRole {
    /// What the container that pacer runs in was given.
    Container,
    /// What the machine that pacer runs on was given.
    Instance,
}

/// A token, asked for with the client credentials grant and put into `Authorization`.
#[derive(Debug)]
pub struct OAuth2 {
    pub token_url: OAuth2Url,
    pub client_id: String,
    pub client_secret: SecretString,
    pub scope: Option<String>,
}

/// Where tokens are given out: encrypted, or on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth2Url(pub(super) Uri);

impl OAuth2Url {
    #[cfg(test)]
    pub(crate) fn at(url: &str) -> Self {
        Self(url.parse().unwrap())
    }

    pub fn uri(&self) -> &Uri {
        &self.0
    }
}

impl Credential {
    /// Which one it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bearer(_) => "bearer token",
            Self::Basic { .. } => "name and password",
            Self::Header { .. } => "header",
            Self::AwsSigV4(AwsSigV4 { source, .. }) => match source {
                AwsSource::Keys { .. } => "AWS signature, with keys",
                AwsSource::Profile(_) => "AWS signature, as a profile",
                AwsSource::Role(AwsRole::Container) => "AWS signature, as the container's role",
                AwsSource::Role(AwsRole::Instance) => "AWS signature, as the instance's role",
            },
            Self::OAuth2(_) => "OAuth 2.0 token",
        }
    }

    /// The secrets in it, also as they travel.
    pub fn secrets(&self) -> Vec<SecretString> {
        match self {
            Self::Bearer(secret) | Self::Header { value: secret, .. } => vec![secret.clone()],
            Self::Basic { username, password } => vec![password.clone(), basic(username, password)],
            Self::AwsSigV4(AwsSigV4 { source, .. }) => match source {
                AwsSource::Keys { secret_access_key, session_token, .. } => {
                    std::iter::once(secret_access_key).chain(session_token).cloned().collect()
                }
                AwsSource::Profile(_) | AwsSource::Role(_) => Vec::new(),
            },
            Self::OAuth2(oauth @ OAuth2 { client_id, client_secret, .. }) => {
                vec![client_secret.clone(), basic(client_id, client_secret), oauth.pair()]
            }
        }
    }
}

impl OAuth2 {
    /// Name and secret as RFC 6749, section 2.3.1, puts them together.
    pub(crate) fn pair(&self) -> SecretString {
        basic(&form_encoded(&self.client_id), &form_encoded(self.client_secret.expose_secret()).into())
    }
}

/// As it stands in a form.
pub(crate) fn form_encoded(text: &str) -> String {
    /// All but what also stands for itself in a name or a password.
    const SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, SET).to_string()
}

/// Name and password as HTTP puts them together.
pub(crate) fn basic(username: &str, password: &SecretString) -> SecretString {
    STANDARD.encode(format!("{username}:{}", password.expose_secret())).into()
}

pub(super) fn credential(value: &Value<'_, '_>) -> Option<Credential> {
    let section = value.section(CREDENTIAL);
    let given: Vec<_> = CREDENTIAL.iter().filter_map(|key| Some((*key, section.get(key)?))).collect();
    let [(key, value)] = given.as_slice() else {
        value.problem("must have exactly one way", format!("write one of {}", listed(CREDENTIAL.iter().copied())));
        return None;
    };
    match *key {
        "bearer" => value.secret().map(Credential::Bearer),
        "basic" => login(&value.section(BASIC)).map(|(username, password)| Credential::Basic { username, password }),
        "header" => header(&value.section(HEADER)),
        "aws_sigv4" => aws_sigv4(value).map(Credential::AwsSigV4),
        _ => oauth2(&value.section(OAUTH2)).map(Credential::OAuth2),
    }
}

/// `username` and `password` of a section.
pub(super) fn login(section: &Section<'_, '_>) -> Option<(String, SecretString)> {
    let username = section.required("username", "write the name to sign in with").and_then(|value| value.text());
    let password = section.required("password", "`${VARIABLE}` or `file:path`").and_then(|value| value.secret());
    if username.is_some_and(|name| name.contains(':')) {
        section.problem("username", "must not hold a colon", "HTTP separates name and password with it");
        return None;
    }
    Some((username?.to_owned(), password?))
}

fn header(section: &Section<'_, '_>) -> Option<Credential> {
    let name = section.required("name", "write the name of a header field").and_then(|value| {
        let text = value.text()?;
        let fits = http::HeaderName::try_from(text).is_ok_and(|name| !RESERVED_HEADERS.contains(&name.as_str()));
        if !fits {
            value.problem(
                format!("is `{}`, not a header field that can be set", shown(text)),
                "write a name such as `X-Api-Key`",
            );
        }
        fits.then(|| text.to_owned())
    });
    let value = section.required("value", "`${VARIABLE}` or `file:path`").and_then(|value| value.secret());
    Some(Credential::Header { name: name?, value: value? })
}

fn aws_sigv4(value: &Value<'_, '_>) -> Option<AwsSigV4> {
    let section = value.section(AWS_SIGV4);
    let region = section.required("region", "write the region of the endpoint, for instance `eu-west-1`");
    let service = section.required("service", "write the service that the endpoint is of, for instance `ec2`");
    let (region, service) = (region.and_then(|value| aws_word(&value)), service.and_then(|value| aws_word(&value)));
    let source = aws_source(value, &section);
    Some(AwsSigV4 { region: region?, service: service?, source: source? })
}

/// The name of a region or a service: it becomes part of what is signed.
fn aws_word(value: &Value<'_, '_>) -> Option<String> {
    let text = value.text()?;
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !fits {
        let hint = "write lower-case letters, digits and `-`, as AWS names it: `eu-west-1`, `ec2`";
        value.problem(format!("is `{}`, not a name that AWS signs with", shown(text)), hint);
    }
    fits.then(|| text.to_owned())
}

fn aws_source(value: &Value<'_, '_>, section: &Section<'_, '_>) -> Option<AwsSource> {
    const KEYS: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];
    let keys = KEYS.iter().any(|key| section.get(key).is_some());
    match (keys, section.get("profile"), section.get("role")) {
        (true, None, None) => {
            let id = section.required("access_key_id", "`secret_access_key` is of no use without it");
            let id = id.and_then(|value| value.secret());
            let key = section.required("secret_access_key", "`${VARIABLE}` or `file:path`");
            let key = key.and_then(|value| value.secret());
            let token = match section.get("session_token") {
                None => Some(None),
                Some(value) => value.secret().map(Some),
            };
            Some(AwsSource::Keys {
                access_key_id: id?.expose_secret().to_owned(),
                secret_access_key: key?,
                session_token: token?,
            })
        }
        (false, Some(profile), None) => {
            let name = profile.text()?;
            if name.trim().is_empty() {
                profile.problem("is empty", "write the name of a profile in AWS's configuration files");
                return None;
            }
            Some(AwsSource::Profile(name.to_owned()))
        }
        (false, None, Some(role)) => {
            role.word(&[("container", AwsRole::Container), ("instance", AwsRole::Instance)]).map(AwsSource::Role)
        }
        (..) => {
            value.problem(
                "must have exactly one source of keys",
                "write `access_key_id` and `secret_access_key`, or `profile`, or `role: container`, or `role: instance`",
            );
            None
        }
    }
}

fn oauth2(section: &Section<'_, '_>) -> Option<OAuth2> {
    let token_url = section.required("token_url", "write where tokens are given out");
    let token_url = token_url.and_then(|value| oauth2_url(&value));
    let id = section.required("client_id", "write the name that the client is registered under");
    let id = id.and_then(|value| value.text());
    let secret = section.required("client_secret", "`${VARIABLE}` or `file:path`").and_then(|value| value.secret());
    let scope = match section.get("scope") {
        None => Some(None),
        Some(value) => value.text().map(Some),
    };
    Some(OAuth2 {
        token_url: token_url?,
        client_id: id?.to_owned(),
        client_secret: secret?,
        scope: scope?.map(str::to_owned),
    })
}

fn oauth2_url(value: &Value<'_, '_>) -> Option<OAuth2Url> {
    let text = value.text()?;
    let why = match parse_address(text, &["https", "http"]) {
        Ok(Address { scheme: "http", host, .. }) if !super::is_loopback(&host) => {
            "the client's secret would cross the network unencrypted".to_owned()
        }
        Ok(_) => match text.parse() {
            Ok(uri) => return Some(OAuth2Url(uri)),
            Err(_) => "it is malformed".to_owned(),
        },
        Err(why) => why,
    };
    value.problem(format!("is not the address of a token service: {why}"), "write `https://host/path`");
    None
}
