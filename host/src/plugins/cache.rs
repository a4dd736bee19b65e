//! A backend's little memory across its calls. When it is full, what was written longest ago goes.

use std::collections::VecDeque;

/// Of all keys and values of one backend.
const TOTAL: usize = 1 << 20;
/// Of one key and value. More than any version string or image id.
const ENTRY: usize = 64 << 10;
/// So that empty values cost something too.
const ENTRIES: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Oldest first.
    entries: VecDeque<(String, Vec<u8>)>,
    size: usize,
}

impl Cache {
    pub(super) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    pub(super) fn set(&mut self, key: String, value: Vec<u8>) {
        self.delete(&key);
        let size = key.len() + value.len();
        if size > ENTRY {
            return;
        }
        self.size += size;
        self.entries.push_back((key, value));
        while self.size > TOTAL || self.entries.len() > ENTRIES {
            let Some((key, value)) = self.entries.pop_front() else { break };
            self.size -= key.len() + value.len();
        }
    }

    pub(super) fn delete(&mut self, key: &str) {
        if let Some(at) = self.entries.iter().position(|(name, _)| name == key)
            && let Some((key, value)) = self.entries.remove(at)
        {
            self.size -= key.len() + value.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut cache = Cache::default();
        for n in 0..40 {
            cache.set(format!("{n}"), vec![n; 60 << 10]);
        }
        assert!(cache.get("0").is_none());
        assert_eq!(cache.get("39"), Some(vec![39; 60 << 10]));
        cache.set("39".into(), vec![0; ENTRY]);
        assert!(cache.get("39").is_none(), "a value that does not fit replaces the old one by nothing");
    }

    proptest! {
        #[test]
        fn it_stays_within_its_size(writes in prop::collection::vec((0_u8..40, 0_usize..70_000), 0..120)) {
            let mut cache = Cache::default();
            for (key, len) in writes {
                cache.set(key.to_string(), vec![0; len]);
                let real: usize = cache.entries.iter().map(|(k, v)| k.len() + v.len()).sum();
                prop_assert_eq!(real, cache.size);
                prop_assert!(real <= TOTAL);
            }
        }
    }
}
