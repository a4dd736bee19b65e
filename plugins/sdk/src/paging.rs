//! Pages out of an engine that has none: cut by a key that sorts the same at every call.

use crate::{Instance, Page};

/// The first `limit` instances whose name follows `cursor`, by name. A machine that comes or goes between two pages
/// moves no other one.
pub fn by_name(mut instances: Vec<Instance>, cursor: Option<&str>, limit: usize) -> Page {
    instances.retain(|i| cursor.is_none_or(|c| i.name.as_str() > c));
    instances.sort_by(|a, b| a.name.cmp(&b.name));
    let more = instances.len() > limit;
    instances.truncate(limit);
    let next = if more { instances.last().map(|i| i.name.clone()) } else { None };
    Page { instances, next }
}
