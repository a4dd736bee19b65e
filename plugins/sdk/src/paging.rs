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

#[cfg(test)]
mod tests {
    use super::by_name;
    use crate::{Instance, InstanceState};

    fn instances(names: &[String]) -> Vec<Instance> {
        let instance = |name: &String| Instance {
            handle: format!("handle of {name}"),
            name: name.clone(),
            owner: "me".into(),
            state: InstanceState::Running,
            addresses: vec![],
            created_at_ms: None,
            lease_until_ms: None,
            hold: false,
            price: None,
            attributes: vec![],
        };
        names.iter().map(instance).collect()
    }

    #[test]
    fn every_machine_is_on_one_page_whatever_order_the_engine_has() {
        for count in [0_usize, 1, 2, 3, 4, 6, 7] {
            let names: Vec<String> = (0..count).map(|number| format!("runner-{}", number * 7 % 10)).collect();
            let (mut listed, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
            loop {
                let page = by_name(instances(&names), cursor.as_deref(), 3);
                assert!(page.instances.len() <= 3);
                listed.extend(page.instances.into_iter().map(|one| one.name));
                pages += 1;
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            let mut sorted = names.clone();
            sorted.sort();
            assert_eq!(listed, sorted);
            assert_eq!(pages, count.div_ceil(3).max(1), "no page is empty but the only one");
        }
    }

    #[test]
    fn what_comes_and_goes_between_two_pages_moves_nothing_else() {
        let names = |text: &str| instances(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let first = by_name(names("b d f h"), None, 2);
        assert_eq!(first.next.as_deref(), Some("d"));
        // The one at the cut is gone, and two have come.
        let second = by_name(names("a b e f h"), Some("d"), 2);
        let listed: Vec<_> = second.instances.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((listed, second.next.as_deref()), (vec!["e", "f"], Some("f")));
    }
}
