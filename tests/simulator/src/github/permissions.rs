//! Installations of the App: what each was granted, and what a call needs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// How far a permission goes: more includes less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    Read,
    Write,
    Admin,
}

/// By GitHub's name of the permission.
pub type Permissions = BTreeMap<String, Access>;

pub const ACTIONS: &str = "actions";
pub const ADMINISTRATION: &str = "administration";
pub const ORGANIZATION_RUNNERS: &str = "organization_self_hosted_runners";

/// What pacer's documentation tells an operator to grant.
pub fn documented() -> Permissions {
    [
        (ACTIONS, Access::Read),
        (ADMINISTRATION, Access::Write),
        ("metadata", Access::Read),
        (ORGANIZATION_RUNNERS, Access::Write),
    ]
    .into_iter()
    .map(|(name, access)| (name.to_owned(), access))
    .collect()
}

/// What a call needs.
#[derive(Debug, Clone, Copy)]
pub struct Need(pub &'static str, pub Access);

impl Need {
    pub fn met_by(self, permissions: &Permissions) -> bool {
        permissions.get(self.0).is_some_and(|access| *access >= self.1)
    }
}

/// The App on an account.
#[derive(Debug, Clone)]
pub struct Installation {
    /// As GitHub spells it.
    pub owner: String,
    pub permissions: Permissions,
    pub suspended: bool,
}

/// What the body of a request for a token asks for: less than the installation has.
#[derive(Debug, Default, Deserialize)]
pub struct Narrowing {
    pub repositories: Option<Vec<String>>,
    pub repository_ids: Option<Vec<u64>>,
    pub permissions: Option<Permissions>,
}

impl Narrowing {
    /// The permissions of the token; none if it asks for more than there is.
    pub fn permissions(&self, granted: &Permissions) -> Option<Permissions> {
        let Some(wanted) = &self.permissions else { return Some(granted.clone()) };
        let within = wanted.iter().all(|(name, access)| granted.get(name).is_some_and(|granted| granted >= access));
        within.then(|| wanted.clone())
    }

    /// The repositories of the token, `None` for all; an error if one of them is not the installation's.
    pub fn repositories(
        &self,
        owner: &str,
        known: impl Fn(&str) -> bool,
        by_id: impl Fn(u64) -> Option<String>,
    ) -> Result<Option<BTreeSet<String>>, ()> {
        if self.repositories.is_none() && self.repository_ids.is_none() {
            return Ok(None);
        }
        let named = self.repositories.iter().flatten().map(|name| format!("{owner}/{name}").to_lowercase());
        let named = named.map(|full| if known(&full) { Ok(full) } else { Err(()) });
        let numbered = self.repository_ids.iter().flatten().map(|id| by_id(*id).ok_or(()));
        named.chain(numbered).collect::<Result<_, ()>>().map(Some)
    }
}
