//! The YAML file as a tree that remembers where everything stands.
//!
//! Reading into a tree first, and not straight into structures, is what lets [`super::load()`] report every problem of
//! a file at once, each with its line and column. Nothing outside this file knows the YAML library.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

/// Where something stands in the file; both count from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub line: u64,
    pub column: u64,
}

impl Location {
    pub const START: Self = Self { line: 1, column: 1 };

    fn of(location: serde_saphyr::Location) -> Self {
        Self { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Node {
    pub at: Location,
    pub content: Content,
}

#[derive(Clone)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file, repeated keys included.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone)]
pub(super) struct Key {
    pub at: Location,
    pub name: String,
}

impl Content {
    /// What kind of value it is, for messages. Never the value itself: it may be a secret.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// What the YAML parser found wrong, and where.
pub(super) struct SyntaxError {
    pub at: Location,
    pub message: String,
}

/// Parses one document. The library's default budget bounds nesting, aliases and size.
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        // The reader reports repeated keys itself, together with everything else.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
        // `yes` and `on` are text, as YAML 1.2 has it.
        strict_booleans: true,
    };
    match serde_saphyr::from_str_with_options::<Option<Spanned<Raw>>>(text, options) {
        Ok(Some(raw)) => Ok(raw.into()),
        Ok(None) => Ok(Node { at: Location::START, content: Content::Null }),
        Err(error) => {
            let at = error.location().map_or(Location::START, Location::of);
            let message = error.without_snippet().to_string();
            // The library ends its messages with the place, which is given beside it.
            let message = message.split(" at line ").next().unwrap_or_default().trim().to_owned();
            Err(SyntaxError { at, message })
        }
    }
}

/// [`Content`] before the places are folded in.
enum Raw {
    Scalar(Content),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl From<Spanned<Raw>> for Node {
    fn from(raw: Spanned<Raw>) -> Self {
        let content = match raw.value {
            Raw::Scalar(content) => content,
            Raw::List(items) => Content::List(items.into_iter().map(Node::from).collect()),
            Raw::Map(entries) => Content::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (Key { at: Location::of(key.referenced), name: key.value }, Node::from(value)))
                    .collect(),
            ),
        };
        Node { at: Location::of(raw.referenced), content }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Integer(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Integer(value)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(Content::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_where_they_stand() {
        let Ok(node) = parse("a: 1\nb:\n  - x\n  - {c: true}\na: 2\n") else { panic!("it is YAML") };
        let Content::Map(entries) = node.content else { panic!("it is a mapping") };
        let names: Vec<_> = entries.iter().map(|(key, _)| (key.name.as_str(), key.at.line, key.at.column)).collect();
        assert_eq!(names, [("a", 1, 1), ("b", 2, 1), ("a", 5, 1)]);
        let Content::List(items) = &entries[1].1.content else { panic!("it is a list") };
        assert_eq!(items[1].at, Location { line: 4, column: 5 });
    }

    #[test]
    fn what_is_not_yaml_says_where() {
        let Err(error) = parse("server:\n  addr: [1, 2\nx: 1\n") else { panic!("the bracket is open") };
        assert!(error.at.line >= 2, "{:?}", error.at);
        assert!(!error.message.is_empty());
    }

    #[test]
    fn absurd_nesting_is_refused() {
        let text = format!("a: {}{}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(parse(&text).is_err());
    }
}
