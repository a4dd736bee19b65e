//! The runners whose token was refused for good: it was used, or the runner is over. Neither changes any more.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use crate::fleet::runner::RunnerName;

/// Names remembered, about 100 bytes each. The oldest goes first, and is told of once more if it comes again.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub struct Spent {
    table: Mutex<(HashSet<RunnerName>, VecDeque<RunnerName>)>,
}

impl Spent {
    pub fn contains(&self, runner: &RunnerName) -> bool {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).0.contains(runner)
    }

    /// Whether that is news.
    pub fn insert(&self, runner: &RunnerName) -> bool {
        let (names, order) = &mut *self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let news = names.insert(runner.clone());
        if news {
            order.push_back(runner.clone());
            if order.len() > MOST
                && let Some(oldest) = order.pop_front()
            {
                names.remove(&oldest);
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let spent = Spent::default();
        let name = |n: usize| RunnerName::new(format!("pacer-vm-{n}"));
        for n in 0..=MOST {
            assert!(spent.insert(&name(n)));
        }
        assert!(!spent.insert(&name(MOST)));
        assert!(!spent.contains(&name(0)) && spent.contains(&name(1)));
    }
}
