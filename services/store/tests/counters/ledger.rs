//! A ledger of one tenant, as small as counters need it: changes in commit order, transactions that
//! are still open, the log, and sums of one snapshot. Every sum is added up from the entries.

use std::collections::BTreeMap;

use tokenmeter_model::limit::{Amounts, Window, Zoned};
use tokenmeter_store::counters::{CounterKey, Delta, Seed, Seen};

/// Entries by position; none while the transaction is open.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    entries: BTreeMap<i64, Option<Delta>>,
    /// Estimates of tools, which are in no log.
    tools: Vec<Delta>,
}

impl Ledger {
    /// Begins a transaction and answers the position that it will write. Positions have gaps, as an
    /// event of several lines leaves them.
    pub fn begin(&mut self) -> i64 {
        let position = self.last() + 3;
        self.entries.insert(position, None);
        position
    }

    /// Commits the transaction at a position: from now on everybody sees it.
    pub fn commit(&mut self, delta: Delta) -> Delta {
        let open = self.entries.insert(delta.position, Some(delta.clone()));
        assert_eq!(open, Some(None), "a transaction commits once");
        delta
    }

    /// Writes a change in a transaction of its own.
    pub fn write(&mut self, delta: Delta) -> Delta {
        if delta.tool {
            self.tools.push(delta.clone());
            return delta;
        }
        let position = self.begin();
        self.commit(Delta { position, ..delta })
    }

    /// The transactions that are open.
    pub fn open(&self) -> Vec<i64> {
        let open = self.entries.iter().filter(|(_, delta)| delta.is_none());
        open.map(|(position, _)| *position).collect()
    }

    /// The last position that was given out.
    fn last(&self) -> i64 {
        self.entries.keys().next_back().copied().unwrap_or(100)
    }

    /// The position up to which nothing is open.
    pub fn committed(&self) -> i64 {
        self.open()
            .first()
            .map_or(self.last(), |position| position - 1)
    }

    /// Every change after a position, up to where nothing is open.
    pub fn log(&self, after: i64) -> Vec<Delta> {
        let through = self.committed();
        self.committed_entries()
            .filter(|delta| delta.position > after && delta.position <= through)
            .cloned()
            .collect()
    }

    /// Everything that is on disk and in the log.
    pub fn committed_entries(&self) -> impl Iterator<Item = &Delta> {
        self.entries.values().flatten()
    }

    /// What a counter begins with, in the buckets that count at a time, and what that contains.
    pub fn seeds(&self, zoned: &Zoned, keys: &[CounterKey], now_us: i64) -> (Vec<Seed>, Seen) {
        let seed = |key: &CounterKey| Seed {
            key: key.clone(),
            buckets: self.buckets(zoned, key, now_us).into_iter().collect(),
        };
        let seen = Seen {
            through: self.last(),
            except: self.open().into_iter().map(|one| (one, one)).collect(),
        };
        (keys.iter().map(seed).collect(), seen)
    }

    /// The sum of a counter: what it has to come to once it knows everything.
    pub fn sum(&self, zoned: &Zoned, key: &CounterKey, now_us: i64) -> Amounts {
        let buckets = self.buckets(zoned, key, now_us);
        buckets.values().fold(Amounts::ZERO, |sum, n| sum.plus(n))
    }

    fn buckets(&self, zoned: &Zoned, key: &CounterKey, now_us: i64) -> BTreeMap<i64, Amounts> {
        let mut buckets = BTreeMap::<i64, Amounts>::new();
        let open_from = key.window.open_from(zoned, now_us);
        for delta in self.committed_entries().chain(&self.tools) {
            let bucket = key.window.bucket(zoned, delta.charge_time_us);
            let share = share(key, delta);
            if bucket >= open_from && !share.is_zero() {
                let sum = buckets.entry(bucket).or_default();
                *sum = sum.plus(&share);
            }
        }
        buckets
    }
}

/// What of a change counts in a counter.
pub fn share(key: &CounterKey, delta: &Delta) -> Amounts {
    let subject = delta.owner.subject(key.scope) == Some(&*key.subject);
    let provider = key.provider.is_empty() || *key.provider == *delta.provider;
    let window = !delta.tool || key.window == Window::Budget;
    if !(subject && provider && window) {
        return Amounts::ZERO;
    }
    let counts = |model: &str| key.model.is_empty() || *key.model == *model;
    let lines = delta.lines.iter().filter(|(model, _)| counts(model));
    lines.fold(Amounts::ZERO, |sum, (_, line)| sum.plus(line))
}
