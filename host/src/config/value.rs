//! A single value of the file: what it must be, what it refers to, and what is said when it is something else.
//!
//! As in [`super::reader`], whatever is wrong becomes a [`Problem`] and the answer is `None`. No message repeats what
//! a secret, or a file that may hold one, says.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;

use super::{
    document::{Content, Key, Location, Node},
    problem::Problem,
    quantity,
    reader::{Reader, Section, listed, suggestion},
};

/// Files that the configuration names (keys, certificates, secrets) are small; anything above is a mistake.
const LARGEST_FILE: u64 = 1 << 20;

/// A value, and the key path that leads to it.
#[derive(Clone)]
pub(super) struct Value<'r, 'a> {
    pub reader: &'r Reader<'a>,
    pub path: String,
    pub at: Location,
    pub node: &'r Node,
}

impl<'r, 'a> Value<'r, 'a> {
    pub fn problem(&self, what: impl Into<String>, hint: impl Into<String>) {
        self.reader.problem(Problem::new(self.path.clone(), self.at, what).hint(hint));
    }

    pub fn wrong(&self, expected: &str) {
        let found = self.node.content.kind();
        let hint = match (&self.node.content, expected.starts_with("text")) {
            (Content::Bool(_) | Content::Integer(_) | Content::Float(_), true) => "put the value in quotes".to_owned(),
            _ => format!("write {expected} here"),
        };
        self.problem(format!("must be {expected}, not {found}"), hint);
    }

    pub fn is_text(&self) -> bool {
        matches!(self.node.content, Content::Text(_))
    }

    pub fn is_list(&self) -> bool {
        matches!(self.node.content, Content::List(_))
    }

    pub fn is_integer(&self) -> bool {
        matches!(self.node.content, Content::Integer(_))
    }

    /// A mapping with these keys. Others, and repeated ones, are problems.
    pub fn section(&self, known: &'static [&'static str]) -> Section<'r, 'a> {
        let entries: &'r [(Key, Node)] = if let Content::Map(entries) = &self.node.content {
            entries
        } else {
            if !matches!(self.node.content, Content::Null) {
                self.wrong("a mapping");
            }
            &[]
        };
        let section = Section { reader: self.reader, path: self.path.clone(), at: self.at, entries };
        self.check_duplicates(entries);
        for (key, _) in entries {
            if known.contains(&key.name.as_str()) {
                continue;
            }
            let mut hint = String::new();
            if let Some(meant) = suggestion(&key.name, known.iter().copied()) {
                hint = format!("did you mean `{meant}`? ");
            }
            hint.push_str(&format!("valid keys here: {}", listed(known.iter().copied())));
            let name = crate::routing::shown(&key.name);
            self.reader.problem(Problem::new(section.path_of(&name), key.at, "is not a known key").hint(hint));
        }
        section
    }

    fn check_duplicates(&self, entries: &[(Key, Node)]) {
        let mut seen = std::collections::HashMap::new();
        for (key, _) in entries {
            if let Some(first) = seen.insert(key.name.as_str(), key.at) {
                let path = if self.path.is_empty() { key.name.clone() } else { format!("{}.{}", self.path, key.name) };
                self.reader.problem(
                    Problem::new(path, key.at, "is given twice")
                        .hint(format!("it is there already, in line {}: remove one of the two", first.line)),
                );
            }
        }
    }

    /// A mapping whose keys are names.
    pub fn entries(&self) -> Vec<(String, Location, Value<'r, 'a>)> {
        let Content::Map(entries) = &self.node.content else {
            self.wrong("a mapping");
            return Vec::new();
        };
        self.check_duplicates(entries);
        let value = |key: &Key, node: &'r Node| Value {
            reader: self.reader,
            path: format!("{}.{}", self.path, crate::routing::shown(&key.name)),
            at: node.at,
            node,
        };
        entries.iter().map(|(key, node)| (key.name.clone(), key.at, value(key, node))).collect()
    }

    pub fn items(&self) -> Vec<Value<'r, 'a>> {
        let Content::List(items) = &self.node.content else {
            self.wrong("a list");
            return Vec::new();
        };
        let value = |(index, node): (usize, &'r Node)| Value {
            reader: self.reader,
            path: format!("{}[{index}]", self.path),
            at: node.at,
            node,
        };
        items.iter().enumerate().map(value).collect()
    }

    pub fn text(&self) -> Option<&'r str> {
        let Content::Text(text) = &self.node.content else {
            self.wrong("text");
            return None;
        };
        Some(text)
    }

    pub fn boolean(&self) -> Option<bool> {
        let Content::Bool(value) = &self.node.content else {
            self.wrong("`true` or `false`");
            return None;
        };
        Some(*value)
    }

    fn integer_between(&self, low: i128, high: i128) -> Option<i128> {
        let Content::Integer(value) = &self.node.content else {
            self.wrong("a whole number");
            return None;
        };
        if !(low..=high).contains(value) {
            self.problem(format!("is {value}"), format!("write a whole number from {low} to {high}"));
            return None;
        }
        Some(*value)
    }

    pub fn positive<T: TryFrom<i128> + Bounded>(&self) -> Option<T> {
        self.integer_between(1, T::MAX)?.try_into().ok()
    }

    pub fn integer<T: TryFrom<i128> + Bounded>(&self) -> Option<T> {
        self.integer_between(T::MIN, T::MAX)?.try_into().ok()
    }

    /// The text of a quantity; a bare number is the likely slip.
    fn with_unit(&self, expected: &str, hint: &str) -> Option<&'r str> {
        match &self.node.content {
            Content::Text(text) => Some(text),
            Content::Integer(_) | Content::Float(_) => {
                self.problem("has no unit", hint);
                None
            }
            Content::Null | Content::Bool(_) | Content::List(_) | Content::Map(_) => {
                self.wrong(expected);
                None
            }
        }
    }

    /// More than nothing.
    pub fn duration(&self) -> Option<Duration> {
        const HINT: &str = "write a number with a unit, for instance `30s`, `2m`, `1h30m` or `7d`";
        let text = self.with_unit("a duration", HINT)?;
        match quantity::duration(text) {
            Some(Duration::ZERO) => {
                self.problem("must be more than zero", HINT);
                None
            }
            Some(duration) => Some(duration),
            None => {
                self.problem(format!("is `{}`, not a duration", crate::routing::shown(text)), HINT);
                None
            }
        }
    }

    /// More than nothing.
    pub fn size(&self) -> Option<u64> {
        const HINT: &str = "write a number with a unit, for instance `64MiB` or `2GiB`";
        let text = self.with_unit("a size", HINT)?;
        match quantity::size(text) {
            Some(0) => {
                self.problem("must be more than zero", HINT);
                None
            }
            Some(size) => Some(size),
            None => {
                self.problem(format!("is `{}`, not a size", crate::routing::shown(text)), HINT);
                None
            }
        }
    }

    /// A name, or whatever else parses from text and says itself why it does not.
    pub fn parsed<T: std::str::FromStr>(&self) -> Option<T>
    where
        T::Err: std::fmt::Display,
    {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem("is malformed", error.to_string());
                None
            }
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            self.problem(
                format!("is `{}`", crate::routing::shown(text)),
                format!("write one of {}", listed(words.iter().map(|(word, _)| *word))),
            );
        }
        found
    }

    pub fn json(&self) -> Option<serde_json::Value> {
        json(self.reader, &self.path, self.node)
    }

    /// A path, absolute.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() {
            self.problem("is empty", "write the path of a file");
            return None;
        }
        Some(self.reader.resolve(text))
    }

    /// The content of the file at the path that this value is.
    pub fn file(&self) -> Option<Vec<u8>> {
        let path = self.path()?;
        self.read(&path)
    }

    pub fn read(&self, path: &Path) -> Option<Vec<u8>> {
        content(path)
            .map_err(|fault| self.problem(format!("unreadable: `{}`: {fault}", path.display()), UNREADABLE))
            .ok()
    }

    /// A secret: written out, `${VARIABLE}`, or `file:path`.
    pub fn secret(&self) -> Option<SecretString> {
        let text = self.text()?;
        let secret = if let Some(variable) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
            let name = !variable.is_empty() && variable.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !name {
                self.problem("is not a reference to a variable", "write `${NAME}` with letters, digits and `_`");
                return None;
            }
            let Some(value) = self.reader.env.get(variable) else {
                self.problem(
                    format!("refers to the environment variable `{variable}`, which is not set"),
                    format!("set `{variable}` where pacer is started, or use `file:path`"),
                );
                return None;
            };
            value
        } else if let Some(path) = text.strip_prefix("file:") {
            let content = self.read(&self.reader.resolve(path))?;
            match String::from_utf8(content) {
                // Editors and `echo` end a file with a line break that is not part of the secret.
                Ok(content) => content.trim_end_matches(['\r', '\n']).to_owned(),
                Err(_) => {
                    self.problem("names a file that is not text", "put the secret alone into the file, as UTF-8");
                    return None;
                }
            }
        } else {
            text.to_owned()
        };
        if secret.trim().is_empty() {
            self.problem("is empty", "give a secret, `${VARIABLE}` or `file:path`");
            return None;
        }
        Some(secret.into())
    }
}

/// What to do about a file that cannot be read.
pub(super) const UNREADABLE: &str =
    "relative paths are relative to the configuration file; pacer's user must be able to read the file";

/// What is in a file that the configuration names, or why it cannot be read.
pub(super) fn content(path: &Path) -> Result<Vec<u8>, String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err("it is a directory".to_owned()),
        Ok(metadata) if metadata.len() > LARGEST_FILE => {
            Err(format!("it has {} bytes, more than {LARGEST_FILE}", metadata.len()))
        }
        Ok(_) => std::fs::read(path).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The range of a whole number.
pub(super) trait Bounded {
    const MIN: i128;
    const MAX: i128;
}

impl Bounded for u32 {
    const MIN: i128 = 0;
    const MAX: i128 = u32::MAX as i128;
}

impl Bounded for i32 {
    const MIN: i128 = i32::MIN as i128;
    const MAX: i128 = i32::MAX as i128;
}

impl Bounded for i64 {
    const MIN: i128 = i64::MIN as i128;
    const MAX: i128 = i64::MAX as i128;
}

impl Bounded for u64 {
    const MIN: i128 = 0;
    const MAX: i128 = u64::MAX as i128;
}

fn json(reader: &Reader<'_>, path: &str, node: &Node) -> Option<serde_json::Value> {
    let unfit = |what: &str| {
        reader.problem(Problem::new(path, node.at, what).hint("settings are JSON: write another value"));
        None
    };
    Some(match &node.content {
        Content::Null => serde_json::Value::Null,
        Content::Bool(value) => (*value).into(),
        Content::Integer(value) => match (i64::try_from(*value), u64::try_from(*value)) {
            (Ok(value), _) => value.into(),
            (Err(_), Ok(value)) => value.into(),
            (Err(_), Err(_)) => return unfit("is too large a number"),
        },
        Content::Float(value) => match serde_json::Number::from_f64(*value) {
            Some(value) => value.into(),
            None => return unfit("is not a number that JSON has"),
        },
        Content::Text(text) => text.clone().into(),
        Content::List(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| json(reader, &format!("{path}[{index}]"), item))
            .collect::<Option<Vec<_>>>()?
            .into(),
        Content::Map(entries) => {
            let mut object = serde_json::Map::new();
            for (key, value) in entries {
                let path = format!("{path}.{}", crate::routing::shown(&key.name));
                if object.contains_key(&key.name) {
                    reader.problem(Problem::new(path, key.at, "is given twice").hint("remove one of the two"));
                    return None;
                }
                object.insert(key.name.clone(), json(reader, &path, value)?);
            }
            object.into()
        }
    })
}
