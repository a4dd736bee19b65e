//! The runners that a job lost.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::fleet::retry::Trouble;

/// Runners that were lost before one took the job: how many to which trouble, by its word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Losses(BTreeMap<String, u32>);

impl Losses {
    pub fn add(&mut self, trouble: Trouble) {
        let count = self.0.entry(trouble.word().to_owned()).or_default();
        *count = count.saturating_add(1);
    }

    pub fn of(&self, trouble: Trouble) -> u32 {
        self.0.get(trouble.word()).copied().unwrap_or(0)
    }

    pub fn total(&self) -> u32 {
        self.0.values().fold(0, |total, count| total.saturating_add(*count))
    }
}

/// `300 × capacity, 2 × lost`: the most frequent first.
impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<_> = self.0.iter().collect();
        counts.sort_by_key(|(word, count)| (std::cmp::Reverse(**count), *word));
        for (index, (word, count)) in counts.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{count} × {word}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::ErrorKind;

    #[test]
    fn what_was_lost_to_what_is_told_the_most_frequent_first() {
        let mut losses = Losses::default();
        assert_eq!((losses.total(), losses.to_string()), (0, String::new()));
        let capacity = Trouble::Backend(ErrorKind::Capacity);
        for trouble in [Trouble::Lost, capacity, capacity, Trouble::Restart] {
            losses.add(trouble);
        }
        assert_eq!((losses.of(capacity), losses.of(Trouble::Lost), losses.total()), (2, 1, 4));
        assert_eq!(losses.to_string(), "2 × capacity, 1 × lost, 1 × restart");
        let stored = serde_json::to_string(&losses).unwrap();
        assert_eq!(serde_json::from_str::<Losses>(&stored).unwrap(), losses);
    }
}
