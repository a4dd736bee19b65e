//! Walks the mappings of the file, with the key path at hand, and collects whatever is wrong on the way. What a
//! single value means is in [`super::value`].
//!
//! Every method that can fail records a [`Problem`] and answers `None`, so that the reader of a section goes on to
//! its next key and a person sees all problems at once.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Environment,
    document::{Content, Key, Location, Node},
    problem::Problem,
    value::Value,
};

/// What reading one file needs and collects.
pub(super) struct Reader<'a> {
    /// The directory relative paths are relative to.
    pub base: &'a Path,
    pub env: &'a dyn Environment,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
}

impl<'a> Reader<'a> {
    pub fn new(base: &'a Path, env: &'a dyn Environment) -> Self {
        Self { base, env, problems: RefCell::default(), warnings: RefCell::default() }
    }

    pub fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub fn warn(&self, warning: impl Into<String>) {
        self.warnings.borrow_mut().push(warning.into());
    }

    /// The problems in the order of the file, and the warnings in the order they were found.
    pub fn finish(self) -> (Vec<Problem>, Vec<String>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.at);
        (problems, self.warnings.into_inner())
    }

    pub fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }
}

/// The closest of the known words, if it is close enough to be meant.
pub(super) fn suggestion<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const CLOSE_ENOUGH: f64 = 0.75;
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word, candidate), candidate))
        .filter(|(score, _)| *score >= CLOSE_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The words in backticks, separated by commas.
pub(super) fn listed<'k>(words: impl IntoIterator<Item = &'k str>) -> String {
    words.into_iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A mapping with a fixed set of keys.
pub(super) struct Section<'r, 'a> {
    pub reader: &'r Reader<'a>,
    pub path: String,
    pub at: Location,
    pub entries: &'r [(Key, Node)],
}

impl<'r, 'a> Section<'r, 'a> {
    /// The whole file.
    pub fn root(reader: &'r Reader<'a>, node: &'r Node, known: &'static [&'static str]) -> Self {
        Value { reader, path: String::new(), at: node.at, node }.section(known)
    }

    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The value of a key; one that is null counts as absent.
    pub fn get(&self, key: &str) -> Option<Value<'r, 'a>> {
        let (_, node) = self.entries.iter().find(|(found, _)| found.name == key)?;
        if matches!(node.content, Content::Null) {
            return None;
        }
        Some(Value { reader: self.reader, path: self.path_of(key), at: node.at, node })
    }

    pub fn required(&self, key: &str, hint: &str) -> Option<Value<'r, 'a>> {
        let value = self.get(key);
        if value.is_none() {
            self.problem(key, "required", hint);
        }
        value
    }

    /// Records what is wrong with a key of this section, at the key if it is there.
    pub fn problem(&self, key: &str, what: impl Into<String>, hint: impl Into<String>) {
        let at = self.entries.iter().find(|(found, _)| found.name == key).map_or(self.at, |(_, node)| node.at);
        self.reader.problem(Problem::new(self.path_of(key), at, what).hint(hint));
    }

    /// A mapping below this one; one that is absent reads as empty.
    pub fn section(&self, key: &str, known: &'static [&'static str]) -> Section<'r, 'a> {
        match self.get(key) {
            Some(value) => value.section(known),
            None => Section { reader: self.reader, path: self.path_of(key), at: self.at, entries: &[] },
        }
    }

    pub fn duration_or(&self, key: &str, default: Duration) -> Option<Duration> {
        self.get(key).map_or(Some(default), |value| value.duration())
    }

    pub fn size_or(&self, key: &str, default: u64) -> Option<u64> {
        self.get(key).map_or(Some(default), |value| value.size())
    }

    pub fn count_or(&self, key: &str, default: u32) -> Option<u32> {
        self.get(key).map_or(Some(default), |value| value.positive())
    }

    pub fn bool_or(&self, key: &str, default: bool) -> Option<bool> {
        self.get(key).map_or(Some(default), |value| value.boolean())
    }

    /// A JSON object, empty when absent.
    pub fn settings(&self, key: &str) -> Option<serde_json::Value> {
        self.get(key).map_or(Some(serde_json::Value::Object(serde_json::Map::new())), |value| {
            if let Content::Map(_) = &value.node.content {
                value.json()
            } else {
                value.wrong("a mapping");
                None
            }
        })
    }
}
