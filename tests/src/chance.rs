//! Random choices that can be repeated.

use std::env;
use std::hash::{BuildHasher as _, RandomState};

/// A source of random numbers with a printed seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// A new seed, or the one that `TOKENMETER_SEED` names; printed either way.
    pub fn new(test: &str) -> Self {
        let seed = env::var("TOKENMETER_SEED").map_or_else(
            |_| RandomState::new().hash_one(test),
            |seed| {
                seed.parse()
                    .unwrap_or_else(|_| panic!("TOKENMETER_SEED is {seed:?}; set it to a number"))
            },
        );
        println!("{test}: TOKENMETER_SEED={seed}");
        Self(seed)
    }

    /// The source of a seed that others choose, and print.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Another source, for another thread.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// A number from `0` to `below - 1`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next() % below.max(1)
    }

    /// The index of one of so many, of which there is at least one.
    pub fn pick(&mut self, count: usize) -> usize {
        let below = u64::try_from(count).expect("a count");
        usize::try_from(self.below(below)).expect("less than the count")
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_forks_differ() {
        let (mut a, mut b) = (Chance(7), Chance(7));
        let draw =
            |chance: &mut Chance| -> Vec<u64> { (0..8).map(|_| chance.below(100)).collect() };
        let first = draw(&mut a);
        assert_eq!(first, draw(&mut b));
        assert!(first.iter().all(|n| *n < 100));
        assert_ne!(draw(&mut a.fork()), draw(&mut b.fork().fork()));
    }
}
