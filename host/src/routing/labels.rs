//! Labels: the one normaliser, and what a runner registers.

use std::collections::HashSet;

use crate::{
    config::{Pool, Project, Scope},
    fleet::runner::Target,
};

/// What marks a job as one for machines of one's own.
pub const SELF_HOSTED: &str = "self-hosted";

/// GitHub takes no more for one runner.
pub const MOST_LABELS: usize = 100;

/// Lower-case; letters, digits and `_` stay; every other run of characters becomes one `-`, none at the ends.
///
/// `None` when nothing is left.
pub fn normalise(text: &str) -> Option<String> {
    let mut label = String::with_capacity(text.len());
    let mut gap = false;
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_alphanumeric() || c == '_' {
            if gap && !label.is_empty() {
                label.push('-');
            }
            gap = false;
            label.push(c);
        } else {
            gap = true;
        }
    }
    (!label.is_empty()).then_some(label)
}

/// As GitHub compares labels: without case, and otherwise to the letter.
pub(crate) fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// Text of strangers, safe to show on a terminal or in a log: escaped and cut.
pub(crate) fn shown(text: &str) -> String {
    shown_up_to(text, 80)
}

/// As [`shown`], cut after this many characters.
pub(crate) fn shown_up_to(text: &str, longest: usize) -> String {
    let mut safe = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == longest {
            safe.push('…');
            break;
        }
        if misleads(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// What hides or turns text around is as good as a control character for misleading a reader: directions, zero widths,
/// soft hyphens, tags.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// The label that stands for a repository, `owner-name`.
pub(super) fn repo_label(project: &Project, target: &Target) -> Option<String> {
    match (&project.scope, target) {
        (Scope::Repos(_), Target::Repo(repo)) => normalise(repo.as_str()),
        (Scope::Repos(_), Target::Org(_)) | (Scope::Org { .. }, _) => None,
    }
}

/// What every runner of the pool has: all of [`runner_labels`] but the repository's.
pub fn pool_labels(project: &Project, pool: &Pool) -> Vec<String> {
    // An organisation's target has no label.
    runner_labels(project, pool, &Target::Org(String::new()))
}

fn all_labels(project: &Project, pool: &Pool, target: &Target) -> Vec<String> {
    let fixed = [SELF_HOSTED, project.name.as_str(), pool.name.as_str()].into_iter().filter_map(normalise);
    let extra = pool.labels.iter().filter_map(|label| normalise(label));
    let mut seen = HashSet::new();
    fixed.chain(repo_label(project, target)).chain(extra).filter(|label| seen.insert(label.clone())).collect()
}

/// How many labels a runner of the pool would have; more than [`MOST_LABELS`] is a fault of the configuration.
pub(crate) fn label_count(project: &Project, pool: &Pool, target: &Target) -> usize {
    all_labels(project, pool, target).len()
}

/// What a runner of the pool registers with: `self-hosted`, project, pool, the repository (repository scope only),
/// then the extra labels; each once, in this order.
pub fn runner_labels(project: &Project, pool: &Pool, target: &Target) -> Vec<String> {
    let mut labels = all_labels(project, pool, target);
    labels.truncate(MOST_LABELS);
    labels
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normalising() {
        let check = |text: &str, expected: Option<&str>| assert_eq!(normalise(text).as_deref(), expected, "{text:?}");
        check("My Label", Some("my-label"));
        check("octocat/Hello-World", Some("octocat-hello-world"));
        check("--a__b..c--", Some("a__b-c"));
        check("ÄRGER 2", Some("ärger-2"));
        check("ubuntu-24.04", Some("ubuntu-24-04"));
        check("", None);
        check(" -./\u{7f}", None);
    }

    #[test]
    fn text_of_strangers_is_escaped_and_cut() {
        assert_eq!(shown("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        assert_eq!(shown("\u{202e}x"), "\\u{202e}x");
        assert_eq!(shown("a\u{ad}b\u{2060}c\u{e0041}"), "a\\u{ad}b\\u{2060}c\\u{e0041}");
        assert_eq!(shown("Grüße 日本語 🦀"), "Grüße 日本語 🦀");
        assert_eq!(shown(&"x".repeat(1000)).chars().count(), 81);
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{0,40}|.{0,40}") {
            let once = normalise(&text);
            prop_assert_eq!(once.as_deref().and_then(normalise), once);
        }

        #[test]
        fn a_normal_label_has_single_dashes_inside_only(text in ".{0,40}") {
            if let Some(label) = normalise(&text) {
                prop_assert!(!label.starts_with('-') && !label.ends_with('-') && !label.contains("--"));
                prop_assert!(label.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-'));
                prop_assert_eq!(lower(&label), label);
            }
        }
    }
}
