//! The reason tree in words, for terminals and pages.

use std::fmt::Write as _;

use super::matching::{Binding, Explanation, MissingLabel, Rule, Standing};
use crate::config::{Pool, Project};

/// Why a job of a bound repository has no pool, in a sentence with the way out.
pub(super) fn unmatched(project: &Project, nearest: &Pool, missing: &[MissingLabel], more: usize) -> String {
    let (project, pool) = (&project.name, &nearest.name);
    if missing.is_empty() {
        return format!("pool `{pool}` of project `{project}` fits but is disabled: set `enabled: true`");
    }
    let state = if nearest.enabled { "" } else { "is disabled and " };
    format!("no pool of project `{project}` fits; the nearest, `{pool}`, {state}lacks {}", lacking(missing, more))
}

/// `gpu`, `My Label` (the pool registers `my-label`) and 3 more.
fn lacking(missing: &[MissingLabel], more: usize) -> String {
    let mut text = String::new();
    for (index, missing) in missing.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        let _ = write!(text, "`{}`", missing.label);
        if let Some(registered) = &missing.registered_as {
            let _ = write!(text, " (GitHub asks for `{}`, the pool registers `{registered}`)", missing.label);
        }
    }
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

impl Standing {
    /// In a sentence, without the name of the pool.
    pub fn sentence(&self) -> String {
        match self {
            Self::Chosen { rule } => match rule {
                Rule::Only => "chosen: the only one that fits".to_owned(),
                Rule::Named => "chosen: `runs-on` names it".to_owned(),
                Rule::Default => "chosen: the default of the project".to_owned(),
                Rule::Priority => "chosen: the best priority".to_owned(),
                Rule::Name => "chosen: first by name among equal priorities".to_owned(),
            },
            Self::Lost { rule, to } => match rule {
                Rule::Only => format!("fits, but `{to}` was chosen"),
                Rule::Named => format!("fits, but `runs-on` names `{to}`"),
                Rule::Default => format!("fits, but `{to}` is the default"),
                Rule::Priority => format!("fits, but `{to}` has the better priority"),
                Rule::Name => format!("fits, but `{to}` has the same priority and comes first by name"),
            },
            Self::Missing { missing, more } => format!("lacks {}", lacking(missing, *more)),
            Self::Disabled { missing, more } if missing.is_empty() && *more == 0 => "fits, but is disabled".to_owned(),
            Self::Disabled { missing, more } => format!("is disabled, and lacks {}", lacking(missing, *more)),
        }
    }

    /// A sign for the margin.
    pub fn sign(&self) -> char {
        match self {
            Self::Chosen { .. } => '✓',
            Self::Lost { .. } => '·',
            Self::Missing { .. } | Self::Disabled { .. } => '✗',
        }
    }
}

/// The tree as lines of text, each ended by a line break.
pub fn render(tree: &Explanation) -> String {
    let mut text = String::new();
    let requested = tree.requested.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
    let more = if tree.requested_more > 0 { format!(" and {} more", tree.requested_more) } else { String::new() };
    let by = match tree.bound_by {
        Binding::Repo => "lists the repository",
        Binding::Org => "has its organisation",
    };
    let _ = writeln!(text, "{} asks for {requested}{more}", tree.repo);
    let _ = writeln!(text, "└─ project {} ({by})", tree.project);
    for (index, reason) in tree.pools.iter().enumerate() {
        let last = index + 1 == tree.pools.len();
        let (branch, below) = if last { ("└─", "  ") } else { ("├─", "│ ") };
        let default = if reason.default { ", default" } else { "" };
        let _ = writeln!(
            text,
            "   {branch} {} {} (priority {}{default}, backend {}): {}",
            reason.standing.sign(),
            reason.pool,
            reason.priority,
            reason.backend,
            reason.standing.sentence()
        );
        let _ = writeln!(text, "   {below}     labels: {}", reason.labels.join(", "));
    }
    text
}
