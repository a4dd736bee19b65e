//! Names of runners.

use super::{plan::Names, runner::RunnerName};
use crate::config::Pool;

/// What every name starts with.
pub const PREFIX: &str = "pacer-";

/// Whether a name that GitHub tells may be one of ours; only the store knows.
pub fn could_be_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Random letters and digits at the end of a name: 60 bits, so that no name is drawn twice in a lifetime.
const RANDOM: usize = 12;
/// Of a pool's name; with the rest it stays under GitHub's 64.
const POOL: usize = 40;
/// Thirty-two that cannot be taken for each other.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Draws from the system's randomness.
#[derive(Debug, Default)]
pub struct RandomNames;

impl Names for RandomNames {
    fn draw(&mut self, pool: &Pool) -> RunnerName {
        name(pool.name.as_str(), rand::random())
    }
}

/// The name of a runner of `pool` for these random bits.
pub fn name(pool: &str, bits: u64) -> RunnerName {
    let pool: String = pool.chars().take(POOL).map(|c| if c == '_' { '-' } else { c }).collect();
    let random: String = (0..RANDOM).map(|place| char::from(ALPHABET[(bits >> (place * 5)) as usize & 31])).collect();
    RunnerName::new(format!("{PREFIX}{}-{random}", pool.trim_matches('-')))
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_name_is_one_that_github_and_engines_take(pool in "[a-z0-9_-]{1,64}", bits: u64) {
            let name = name(&pool, bits);
            proptest::prop_assert!(name.as_str().len() <= 64);
            proptest::prop_assert!(name.as_str().starts_with(PREFIX));
            proptest::prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        }
    }
}
