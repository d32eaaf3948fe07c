//! One counter: known, or between cold and seeded.
//!
//! While a counter is being seeded it keeps every delta that it is told, the ones that the tenant has
//! counted before too; the seed says which of them it contains. A seed that was read before something
//! was told that the counter can not know of is too old, and not taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokenmeter_model::limit::{Amounts, Window};

use super::calendar::Calendar;
use super::sums::{Load, Sums};
use super::told::{Mark, Told};
use crate::counters::{CounterKey, Delta, Seed, Seen};

/// Deltas that wait in a counter that is being seeded; past the bound it is cold again.
pub(super) const MAX_WAITING: usize = 10_000;

/// What a subject uses over a window.
#[derive(Debug)]
pub(super) struct Counter {
    window: Window,
    provider: Arc<str>,
    model: Arc<str>,
    state: State,
}

#[derive(Debug)]
enum State {
    Seeding {
        /// What the tenant had been told when it was begun.
        begun: Mark,
        /// Deltas told since, by position: when they are charged, and what they add.
        waiting: BTreeMap<i64, (i64, Amounts)>,
        /// Whether something without a position was told, so that nobody can say whether the seed
        /// that is being read contains it.
        doubtful: bool,
    },
    Known {
        sums: Sums,
        seen: Arc<Seen>,
    },
}

impl Counter {
    /// A counter that waits for its seed.
    pub(super) fn begin(key: &CounterKey, begun: Mark) -> Self {
        Self {
            window: key.window,
            provider: Arc::clone(&key.provider),
            model: Arc::clone(&key.model),
            state: State::Seeding {
                begun,
                waiting: BTreeMap::new(),
                doubtful: false,
            },
        }
    }

    /// Whether it is the one of this window, provider and model.
    pub(super) fn is(&self, window: Window, provider: &str, model: &str) -> bool {
        self.window == window && *self.provider == *provider && *self.model == *model
    }

    /// Whether calls to a provider's model count.
    pub(super) fn covers(&self, provider: &str, model: &str) -> bool {
        (self.provider.is_empty() || *self.provider == *provider)
            && (self.model.is_empty() || *self.model == *model)
    }

    /// Its sums as of now; none while it is cold.
    pub(super) fn sums(&mut self, calendar: &Calendar) -> Option<&mut Sums> {
        match &mut self.state {
            State::Known { sums, .. } => {
                sums.tick(calendar);
                Some(sums)
            }
            State::Seeding { .. } => None,
        }
    }

    /// Counts a delta of its subject; `fresh` if the tenant was not told of it before. Answers false
    /// if too many wait, and it has to be begun anew.
    pub(super) fn count(&mut self, calendar: &Calendar, delta: &Delta, fresh: bool) -> bool {
        if delta.tool && self.window != Window::Budget {
            return true;
        }
        let lines = delta.lines.iter();
        let lines = lines.filter(|(model, _)| self.covers(&delta.provider, model));
        let sum = lines.fold(Amounts::ZERO, |sum, (_, line)| sum.plus(line));
        if sum.is_zero() {
            return true;
        }
        match &mut self.state {
            State::Known { sums, seen } => {
                if fresh && (delta.tool || !seen.contains(delta.position)) {
                    sums.tick(calendar);
                    sums.add(calendar, delta.charge_time_us, &Load::used(&sum));
                }
                true
            }
            State::Seeding { doubtful, .. } if delta.tool => {
                *doubtful = true;
                true
            }
            State::Seeding { waiting, .. } => {
                waiting.insert(delta.position, (delta.charge_time_us, sum));
                waiting.len() <= MAX_WAITING
            }
        }
    }

    /// Takes its sums, unless it is known already or they are too old. Answers whether it took them.
    pub(super) fn seed(
        &mut self,
        calendar: &Calendar,
        told: &Told,
        seed: &Seed,
        seen: &Arc<Seen>,
    ) -> bool {
        let State::Seeding {
            begun,
            waiting,
            doubtful,
        } = &mut self.state
        else {
            return false;
        };
        // The next one is read after what was told.
        if std::mem::take(doubtful) || !told.before(begun, seen) {
            return false;
        }
        let mut sums = Sums::new(self.window, calendar);
        for (start, used) in &seed.buckets {
            sums.add_to(*start, &Load::used(used));
        }
        for (position, (charge_time_us, used)) in std::mem::take(waiting) {
            if !seen.contains(position) {
                sums.add(calendar, charge_time_us, &Load::used(&used));
            }
        }
        self.state = State::Known {
            sums,
            seen: Arc::clone(seen),
        };
        true
    }
}
