//! The names of the domain, each of its own type.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A text that is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {kind}: {rule}")]
pub struct InvalidName {
    text: String,
    kind: &'static str,
    rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let fits = !text.is_empty()
                    && text.len() <= 64
                    && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
                if fits {
                    Ok(Self(text.into()))
                } else {
                    Err(InvalidName {
                        text: text.chars().take(80).collect(),
                        kind: $kind,
                        rule: "use 1 to 64 of the characters a-z, 0-9, `-` and `_`",
                    })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.to_string()
            }
        }
    };
}

name!(
    /// A project of the configuration.
    ProjectName, "a project name"
);
name!(
    /// A pool, unique within its project.
    PoolName, "a pool name"
);
name!(
    /// A backend of the configuration.
    BackendName, "a backend name"
);
name!(
    /// An endpoint as a backend calls it.
    EndpointName, "an endpoint name"
);

/// A repository, `owner/name`. Compares without case and keeps the spelling it came with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoName {
    spelled: Arc<str>,
    key: Arc<str>,
}

impl RepoName {
    /// As GitHub or the operator spelled it.
    pub fn as_str(&self) -> &str {
        &self.spelled
    }

    /// In lower case: what equality and the database go by.
    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn owner(&self) -> &str {
        self.spelled.split_once('/').map_or("", |(owner, _)| owner)
    }

    pub fn name(&self) -> &str {
        self.spelled.split_once('/').map_or("", |(_, name)| name)
    }
}

impl PartialEq for RepoName {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for RepoName {}

impl std::hash::Hash for RepoName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl PartialOrd for RepoName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RepoName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spelled)
    }
}

impl FromStr for RepoName {
    type Err = InvalidName;

    /// GitHub: logins of at most 39 characters (longer on GHES with suffixes), repository names of at most 100.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let part = |part: &str| {
            !part.is_empty()
                && part.len() <= 100
                && part != "."
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        match text.split_once('/') {
            Some((owner, name)) if part(owner) && part(name) => {
                let key = text.to_ascii_lowercase();
                Ok(Self { spelled: text.into(), key: key.into() })
            }
            Some(_) | None => Err(InvalidName {
                text: text.chars().take(80).collect(),
                kind: "a repository",
                rule: "expected `owner/name`",
            }),
        }
    }
}

impl TryFrom<String> for RepoName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RepoName> for String {
    fn from(name: RepoName) -> Self {
        name.spelled.to_string()
    }
}
