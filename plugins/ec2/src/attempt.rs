//! What to ask for, in which order, and what is left out because it was refused a moment ago.

use pacer_backend::{Cache, time};

use crate::settings::{LaunchTemplate, Market, Pool};

/// Attempts of one call in one market: with what EC2 takes to refuse, half a minute. What is left waits for the next
/// call, which leaves out what this one found refused.
pub const PER_MARKET: usize = 20;
/// How long a refusal is believed. Long enough for the other launches of a burst, short against what a shortage lasts.
const BELIEVED_MS: u64 = 90_000;

/// One thing to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<'p> {
    pub instance_type: Option<&'p str>,
    pub subnet: Option<&'p str>,
    pub spot: bool,
    /// Among all of the pool, whatever is left out: the same at every call.
    pub index: usize,
}

impl std::fmt::Display for Attempt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.instance_type.unwrap_or("the template's type"))?;
        if let Some(subnet) = self.subnet {
            write!(f, " in {subnet}")?;
        }
        f.write_str(if self.spot { " on spot" } else { "" })
    }
}

/// In the order in which they are tried: a market with all types and subnets, then the next market.
pub fn attempts<'p>(pool: &'p Pool, tags: &[(String, String)]) -> Vec<Attempt<'p>> {
    // The host asks for this where a spot instance was taken away.
    let must_stay = tags.iter().any(|(key, value)| key == "market" && value == "on-demand");
    let markets: &[bool] = match pool.market {
        _ if must_stay => &[false],
        Market::OnDemand => &[false],
        Market::Spot => &[true],
        Market::SpotThenOnDemand => &[true, false],
    };
    let options = |list: &'p [String]| -> Vec<Option<&'p str>> {
        if list.is_empty() { vec![None] } else { list.iter().map(|item| Some(item.as_str())).collect() }
    };
    let (types, subnets) = (options(&pool.instance_types), options(&pool.subnets));
    let mut all = Vec::new();
    for &spot in markets {
        for &instance_type in &types {
            for &subnet in &subnets {
                all.push(Attempt { instance_type, subnet, spot, index: all.len() });
            }
        }
    }
    all
}

/// What one call tries, market by market, and how many attempts are left for another call. First the one that an
/// earlier call was in the middle of. What is known to be refused is left out, unless there is nothing else.
pub fn plan<'p>(
    all: Vec<Attempt<'p>>,
    first: Option<usize>,
    is_refused: impl Fn(&Attempt<'p>) -> bool,
) -> (Vec<Vec<Attempt<'p>>>, usize) {
    let (under_way, mut rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|attempt| Some(attempt.index) == first);
    if !under_way.is_empty() || !rest.iter().all(&is_refused) {
        rest.retain(|attempt| !is_refused(attempt));
    }
    let (mut markets, mut left) = (vec![under_way], 0);
    for spot in [true, false] {
        let mut market: Vec<_> = rest.iter().filter(|attempt| attempt.spot == spot).cloned().collect();
        left += market.split_off(market.len().min(PER_MARKET)).len();
        markets.push(market);
    }
    markets.retain(|market| !market.is_empty());
    (markets, left)
}

/// What was refused lately, for every launch of this backend.
pub struct Refused<'a> {
    cache: &'a dyn Cache,
    /// What beside place and market decides whether EC2 has it.
    about: String,
}

impl<'a> Refused<'a> {
    pub fn new(cache: &'a dyn Cache, pool: &Pool) -> Self {
        let template = pool.launch_template.as_ref();
        let template = template.map(|LaunchTemplate { id, name, version }| format!("{id:?}{name:?}{version}"));
        Self {
            cache,
            about: format!("{}/{}", pool.max_price.as_deref().unwrap_or_default(), template.unwrap_or_default()),
        }
    }

    fn key(&self, attempt: &Attempt<'_>) -> String {
        format!("refused/{attempt}/{}", self.about)
    }

    pub fn remember(&self, attempt: &Attempt<'_>) {
        self.cache.set(&self.key(attempt), (time::now() + BELIEVED_MS).to_string().as_bytes());
    }

    pub fn has(&self, attempt: &Attempt<'_>) -> bool {
        let until = self.cache.get(&self.key(attempt)).and_then(|bytes| String::from_utf8(bytes).ok()?.parse().ok());
        until.is_some_and(|until: u64| time::now() < until)
    }
}

#[cfg(test)]
mod tests {
    use pacer_backend::testing::Memory;

    use super::*;

    fn pool(types: usize, subnets: usize) -> Pool {
        let named = |kind: &str, count| (0..count).map(|n| format!("{kind}{n}")).collect();
        let market = Market::SpotThenOnDemand;
        Pool { instance_types: named("t", types), subnets: named("s", subnets), market, ..Pool::default() }
    }

    fn told(attempts: &[Attempt<'_>]) -> Vec<String> {
        attempts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_best_comes_first_and_the_market_changes_last() {
        let pool = pool(2, 2);
        let spot = ["t0 in s0 on spot", "t0 in s1 on spot", "t1 in s0 on spot", "t1 in s1 on spot"];
        let stays = ["t0 in s0", "t0 in s1", "t1 in s0", "t1 in s1"];
        assert_eq!(told(&attempts(&pool, &[])), [spot, stays].concat());
        assert_eq!(told(&attempts(&pool, &[("market".into(), "on-demand".into())])), stays);
        let none = Attempt { instance_type: None, subnet: None, spot: false, index: 0 };
        assert_eq!(attempts(&Pool::default(), &[]), [none]);
    }

    #[test]
    fn every_market_gets_its_turn_however_long_the_lists_are() {
        let pool = pool(20, 20);
        let (markets, left) = plan(attempts(&pool, &[]), None, |_| false);
        assert_eq!(markets.iter().map(Vec::len).collect::<Vec<_>>(), [PER_MARKET, PER_MARKET]);
        assert!(markets[0].iter().all(|one| one.spot) && markets[1].iter().all(|one| !one.spot));
        assert_eq!(left, 2 * (400 - PER_MARKET));
    }

    #[test]
    fn what_was_refused_is_left_out_while_there_is_anything_else() {
        let (pool, memory) = (pool(2, 1), Memory::default());
        let refused = Refused::new(&memory, &pool);
        let all = attempts(&pool, &[]);
        let next = |first| plan(all.clone(), first, |one| refused.has(one)).0.concat();
        refused.remember(&all[0]);
        assert_eq!(
            told(&next(None)),
            ["t1 on spot", "t0", "t1"].map(|one| one.replace("t0", "t0 in s0").replace("t1", "t1 in s0"))
        );
        // What an earlier call was in the middle of comes first, refused or not.
        assert_eq!(next(Some(0))[0], all[0]);
        assert_eq!(next(Some(2)).iter().map(|one| one.index).collect::<Vec<_>>(), [2, 1, 3]);
        for one in &all {
            refused.remember(one);
        }
        assert_eq!(next(None), all, "there is nothing else");
        assert_eq!(next(Some(3)), all[3..]);
        let dearer = Pool { max_price: Some("2".into()), ..pool.clone() };
        assert!(!Refused::new(&memory, &dearer).has(&all[0]), "another price is another question");
    }
}
