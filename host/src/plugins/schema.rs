//! The schemas that components give for their settings: compiled once, and judged before they are: a few lines of
//! `$ref` can stand for more than any machine can look at.

use std::{collections::HashMap, fmt, sync::Arc};

use jsonschema::{PatternOptions, Validator};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::convert::Redact;

/// Of a schema as it is given, in bytes.
const SIZE: usize = 256 << 10;
/// Of what has to be looked at for each value of the settings, with everything referred to in its place.
const EXPANDED: u64 = 20_000;
/// What has a schema looked at again and again for the same value.
const REPEATING: [&str; 8] =
    ["anyOf", "oneOf", "not", "if", "contains", "unevaluatedItems", "unevaluatedProperties", "dependentSchemas"];
/// What refers by other ways than the place of the target in the document.
const ELSEWHERE: [&str; 5] = ["$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef"];

#[derive(Clone)]
pub struct Schema {
    json: Value,
    validator: Arc<Validator>,
}

impl Schema {
    /// The one that every document fits.
    #[cfg(test)]
    pub fn any() -> Self {
        Self::new("{}", &|text, _| text.to_owned()).expect("an empty schema is one")
    }

    /// Or what it is not, as it goes on after its name.
    pub(super) fn new(text: &str, redact: Redact<'_>) -> Result<Self, String> {
        if text.len() > SIZE {
            return Err(format!("has more than {SIZE} bytes"));
        }
        let json = serde_json::from_str(&redact(text, SIZE)).map_err(|error| format!("is not JSON: {error}"))?;
        let mut weights = Weights { root: &json, known: HashMap::new() };
        if weights.of(&json)? > EXPANDED {
            return Err(format!("is too large with what it refers to in its place: more than {EXPANDED} parts"));
        }
        // Patterns that look back take time without end.
        let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
        let validator = options.build(&json).map_err(|error| format!("is not a JSON Schema: {error}"))?;
        Ok(Self { json, validator: Arc::new(validator) })
    }

    pub fn json(&self) -> &Value {
        &self.json
    }

    pub(super) fn validator(&self) -> &Validator {
        &self.validator
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.json.fmt(f)
    }
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

/// What parts of a schema come to, each counted once. Parts are told apart by where they lie.
struct Weights<'s> {
    root: &'s Value,
    /// None while it is being counted.
    known: HashMap<*const Value, Option<u64>>,
}

impl<'s> Weights<'s> {
    fn of(&mut self, part: &'s Value) -> Result<u64, String> {
        match self.known.get(&std::ptr::from_ref(part)) {
            Some(Some(weight)) => return Ok(*weight),
            Some(None) => return Err("refers to itself, which this host does not follow".to_owned()),
            None => {}
        }
        self.known.insert(part, None);
        let weight = match part {
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
            Value::Array(parts) => {
                let mut sum: u64 = 1;
                for part in parts {
                    sum = sum.saturating_add(self.of(part)?);
                }
                sum
            }
            Value::Object(parts) => {
                let mut sum: u64 = 1;
                for (key, part) in parts {
                    let weight = match (key.as_str(), part) {
                        ("$ref", Value::String(target)) => self.of(self.target(target)?)?,
                        // The schema itself may say where it comes from.
                        ("$id", Value::String(_)) if std::ptr::eq(parts, self.root.as_object().unwrap_or(parts)) => 1,
                        (key, Value::String(_)) if ELSEWHERE.contains(&key) => {
                            return Err(format!("uses `{key}`, which this host does not follow"));
                        }
                        (_, part) => self.of(part)?,
                    };
                    sum = sum.saturating_add(weight);
                }
                if REPEATING.iter().any(|key| parts.contains_key(*key)) { sum.saturating_mul(2) } else { sum }
            }
        };
        self.known.insert(part, Some(weight));
        Ok(weight)
    }

    fn target(&self, reference: &str) -> Result<&'s Value, String> {
        let pointer = reference.strip_prefix('#').map(|pointer| percent_encoding::percent_decode_str(pointer));
        let pointer = pointer.and_then(|pointer| pointer.decode_utf8().ok());
        let target = pointer.and_then(|pointer| self.root.pointer(&pointer));
        target.ok_or_else(|| format!("refers to `{}`, which is not in it", crate::routing::shown(reference)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema(json: &Value) -> Result<Schema, String> {
        Schema::new(&json.to_string(), &|text, _| text.to_owned())
    }

    #[test]
    fn what_refers_to_its_definitions_is_followed() {
        let good = schema(&json!({
            "$id": "https://example.com/settings", "$defs": { "a~b": { "type": "integer" } },
            "properties": { "one": { "$ref": "#/$defs/a~0b" }, "two": { "$ref": "#/$defs/a~0b" }, "$ref": true },
        }));
        let good = good.unwrap();
        assert!(good.validator().is_valid(&json!({ "one": 1 })));
        assert!(!good.validator().is_valid(&json!({ "two": "2" })));
    }

    #[test]
    fn what_stands_for_more_than_can_be_looked_at_is_refused() {
        // Each of them twice the one before: 2^40 at the end.
        let mut definitions = serde_json::Map::new();
        definitions.insert("d0".to_owned(), json!({ "type": "string" }));
        for n in 1..=40 {
            let before = json!({ "$ref": format!("#/$defs/d{}", n - 1) });
            definitions.insert(format!("d{n}"), json!({ "allOf": [before, before] }));
        }
        let reason = schema(&json!({ "$defs": definitions, "$ref": "#/$defs/d40" })).unwrap_err();
        assert!(reason.contains("too large with what it refers to"), "{reason}");
        let deep = (0..40).fold(json!(true), |inner, _| json!({ "allOf": [inner], "unevaluatedProperties": false }));
        assert!(schema(&deep).unwrap_err().contains("too large"));
        let long = json!({ "description": "x".repeat(SIZE) });
        assert!(schema(&long).unwrap_err().contains("bytes"));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for (wrong, says) in [
            (json!({ "$ref": "#" }), "refers to itself"),
            (json!({ "$defs": { "a": { "items": { "$ref": "#/$defs/a" } } } }), "refers to itself"),
            (json!({ "$ref": "https://example.com/schema" }), "which is not in it"),
            (json!({ "$ref": "#/$defs/none" }), "which is not in it"),
            (json!({ "properties": { "a": { "$dynamicRef": "#a" } } }), "`$dynamicRef`"),
            (json!({ "properties": { "a": { "$id": "b" } } }), "`$id`"),
            (json!({ "type": 7 }), "is not a JSON Schema"),
            (json!({ "pattern": "(a)\\1" }), "is not a JSON Schema"),
        ] {
            let reason = schema(&wrong).unwrap_err();
            assert!(reason.contains(says), "{wrong}: {reason}");
        }
    }
}
