//! What pacer stores with a machine, as an element of its own namespace in the domain's metadata.
//!
//! `virsh metadata NAME urn:pacer:runner:1` shows it. A hold is an element of another namespace, so that an operator can
//! set it without touching this one.

use roxmltree::{Document, Node};

use crate::template::escape;

/// The namespace of the record.
pub const SPACE: &str = "urn:pacer:runner:1";
/// The prefix and key it is set under.
pub const KEY: &str = "pacer";
/// The namespace of an operator's mark: not to be swept.
pub const HOLD: &str = "urn:pacer:hold:1";

/// What is stored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The runner it was made for.
    pub runner: String,
    /// Whose it is.
    pub owner: String,
    /// Where its volumes are.
    pub storage_pool: String,
    /// The end of its lease, in milliseconds since the epoch.
    pub lease_until_ms: u64,
    /// When it was made.
    pub created_at_ms: u64,
    pub tags: Vec<(String, String)>,
}

impl Record {
    /// The element, for a document.
    pub fn element(&self) -> String {
        format!("<{KEY}:runner xmlns:{KEY}=\"{SPACE}\"{0}</{KEY}:runner>", self.content())
    }

    /// The element as libvirt wants it for a running machine: it adds the namespace to the outermost itself.
    pub fn bare_element(&self) -> String {
        format!("<runner{}</runner>", self.content())
    }

    /// What follows the element's name. The tags have no namespace, because libvirt gives them none.
    fn content(&self) -> String {
        let tags: String = (self.tags.iter())
            .map(|(key, value)| format!("<tag name=\"{}\" value=\"{}\"/>", escape(key), escape(value)))
            .collect();
        format!(
            " name=\"{}\" owner=\"{}\" storage-pool=\"{}\" lease-until-ms=\"{}\" created-at-ms=\"{}\">{tags}",
            escape(&self.runner),
            escape(&self.owner),
            escape(&self.storage_pool),
            self.lease_until_ms,
            self.created_at_ms
        )
    }

    /// The element of a domain's document, if it has one.
    pub fn find<'a>(document: &'a Document<'_>) -> Option<Node<'a, 'a>> {
        metadata(document)?.children().find(|node| node.has_tag_name((SPACE, "runner")))
    }

    /// What a domain's document says, and whether an operator holds the machine. None for a stranger's.
    pub fn read(xml: &str) -> Option<(Self, bool)> {
        let document = Document::parse(xml).ok()?;
        let node = Self::find(&document)?;
        let text = |name: &str| node.attribute(name).map(str::to_owned);
        let number = |name: &str| node.attribute(name).and_then(|value| value.parse().ok());
        let tags = node.children().filter(|child| child.has_tag_name("tag")).filter_map(|tag| {
            Some((tag.attribute("name")?.to_owned(), tag.attribute("value").unwrap_or_default().to_owned()))
        });
        let record = Self {
            runner: text("name")?,
            owner: text("owner")?,
            storage_pool: text("storage-pool")?,
            lease_until_ms: number("lease-until-ms").unwrap_or_default(),
            created_at_ms: number("created-at-ms").unwrap_or_default(),
            tags: tags.collect(),
        };
        let hold = metadata(&document)?.children().any(|node| node.tag_name().namespace() == Some(HOLD));
        Some((record, hold))
    }
}

fn metadata<'a>(document: &'a Document<'_>) -> Option<Node<'a, 'a>> {
    document.root_element().children().find(|node| node.has_tag_name("metadata"))
}
