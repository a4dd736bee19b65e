//! What a file says, key by key, without saying it: enough to tell which keys another version of it changes.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::document::{Content, Node};

/// A digest for each section, or for each of its keys where it is a mapping. What the file refers to, such as the
/// content of a key file, is not part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline(BTreeMap<String, [u8; 32]>);

impl Outline {
    pub(super) fn of(root: &Node) -> Self {
        let mut keys = BTreeMap::new();
        if let Content::Map(sections) = &root.content {
            for (section, node) in sections {
                match &node.content {
                    Content::Map(entries) => keys.extend(
                        entries.iter().map(|(key, node)| (format!("{}.{}", section.name, key.name), digest(node))),
                    ),
                    Content::Null
                    | Content::Bool(_)
                    | Content::Integer(_)
                    | Content::Float(_)
                    | Content::Text(_)
                    | Content::List(_) => drop(keys.insert(section.name.clone(), digest(node))),
                }
            }
        }
        Self(keys)
    }

    /// The keys that are there in one of the two only, or say something else.
    pub fn changed(&self, other: &Self) -> Vec<String> {
        let differs = |key: &&String| self.0.get(*key) != other.0.get(*key);
        let gone = self.0.keys().filter(|key| !other.0.contains_key(*key));
        other.0.keys().filter(differs).chain(gone).cloned().collect()
    }
}

fn digest(node: &Node) -> [u8; 32] {
    let mut hash = Sha256::new();
    feed(&mut hash, node);
    hash.finalize().into()
}

/// Each value with its kind and its length before it, so that no two different ones look alike.
fn feed(hash: &mut Sha256, node: &Node) {
    match &node.content {
        Content::Null => hash.update("n"),
        Content::Bool(value) => hash.update([b'b', u8::from(*value)]),
        Content::Integer(value) => text(hash, "i", &value.to_string()),
        Content::Float(value) => text(hash, "f", &value.to_string()),
        Content::Text(value) => text(hash, "t", value),
        Content::List(items) => {
            text(hash, "l", &items.len().to_string());
            items.iter().for_each(|item| feed(hash, item));
        }
        Content::Map(entries) => {
            text(hash, "m", &entries.len().to_string());
            for (key, value) in entries {
                text(hash, "k", &key.name);
                feed(hash, value);
            }
        }
    }
}

fn text(hash: &mut Sha256, kind: &str, text: &str) {
    hash.update(kind);
    hash.update(text.len().to_be_bytes());
    hash.update(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document;

    fn outline(text: &str) -> Outline {
        Outline::of(&document::parse(text).unwrap_or_else(|error| panic!("{}", error.message)))
    }

    #[test]
    fn changed_keys_are_named_and_the_way_of_writing_does_not_count() {
        let before = outline("server: { addr: a, owner: b }\nprojects: [{ name: x }]\nauth: { token: t }\n");
        let same =
            outline("auth:\n  token: \"t\"\nprojects:\n  - name: x # the only one\nserver: { owner: b, addr: a }");
        assert_eq!(before.changed(&same), Vec::<String>::new());
        let after = outline("server: { addr: a, public_url: c }\nprojects: [{ name: y }]\nauth: { token: u }\n");
        assert_eq!(before.changed(&after), ["auth.token", "projects", "server.public_url", "server.owner"]);
    }
}
