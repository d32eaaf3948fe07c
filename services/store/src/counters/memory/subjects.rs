//! The subjects of a tenant, each with its counters and with the holds that count in them.
//!
//! A call or an event belongs to at most one subject a scope, and a subject has a counter for each
//! window, provider and model that some limit of it names. So what a hold or a delta changes is found
//! by one lookup a scope.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokenmeter_model::limit::{Amounts, Scope, Zoned};

use super::calendar::Calendar;
use super::counter::Counter;
use super::sums::{Load, Sums};
use super::told::{Mark, Told};
use crate::counters::{CounterKey, Delta, Hold, Owner, Rule, Seed, Seen};
use crate::fault::{Planted, is_planted};

/// Whose use is counted.
#[derive(Debug, Default)]
struct Subject {
    counters: Vec<Counter>,
    /// Its active holds.
    holds: HashSet<u64>,
    /// When a counter of it was last asked.
    asked_us: i64,
}

impl Subject {
    /// Reserves more, or less, in the counters in which a hold counts.
    fn reserve(&mut self, calendar: &Calendar, hold: &Hold, more: &Amounts) {
        if is_planted(Planted::HoldNothing) {
            return;
        }
        let load = Load::held(*more);
        for counter in &mut self.counters {
            if counter.covers(&hold.provider, &hold.model)
                && let Some(sums) = counter.sums(calendar)
            {
                sums.add(calendar, hold.admit_us, &load);
            }
        }
    }
}

/// All subjects of a tenant, and its calendar.
#[derive(Debug)]
pub(super) struct Subjects {
    pub(super) calendar: Calendar,
    by_scope: [HashMap<Arc<str>, Subject>; Scope::ALL.len()],
    counters: usize,
}

impl Subjects {
    pub(super) fn new(zoned: &Zoned, now_us: i64) -> Self {
        Self {
            calendar: Calendar::new(zoned, now_us),
            by_scope: Default::default(),
            counters: 0,
        }
    }

    /// How many counters there are.
    pub(super) fn counters(&self) -> usize {
        self.counters
    }

    /// Moves to a moment under a calendar. If it is another calendar, all counters are cold.
    pub(super) fn tick(&mut self, zoned: &Zoned, now_us: i64) {
        if self.calendar.is(zoned) {
            self.calendar.tick(now_us);
        } else {
            self.clear();
            self.calendar = Calendar::new(zoned, now_us);
        }
    }

    /// All counters are cold.
    pub(super) fn clear(&mut self) {
        for subjects in &mut self.by_scope {
            subjects.retain(|_, subject| !subject.holds.is_empty());
            for subject in subjects.values_mut() {
                subject.counters = Vec::new();
            }
        }
        self.counters = 0;
    }

    /// The sums that a rule is checked against, as of now; none if the counter is cold, or if the rule
    /// has none.
    pub(super) fn sums(&mut self, rule: &Rule) -> Option<(&Sums, &Calendar)> {
        let limit = &rule.limit;
        let subject = self.by_scope[limit.scope as usize].get_mut(&*rule.subject)?;
        subject.asked_us = self.calendar.now_us();
        let mut counters = subject.counters.iter_mut();
        let counter = counters.find(|one| one.is(limit.window, &limit.provider, &limit.model))?;
        Some((counter.sums(&self.calendar)?, &self.calendar))
    }

    /// Begins a counter, unless it was.
    pub(super) fn begin(&mut self, key: &CounterKey, mark: Mark) {
        let subjects = &mut self.by_scope[key.scope as usize];
        let subject = subjects.entry(Arc::clone(&key.subject)).or_default();
        subject.asked_us = self.calendar.now_us();
        let mut counters = subject.counters.iter();
        if !counters.any(|one| one.is(key.window, &key.provider, &key.model)) {
            subject.counters.push(Counter::begin(key, mark));
            self.counters += 1;
        }
    }

    /// Seeds a counter that was begun, with the active holds of its subject.
    pub(super) fn seed<'h>(
        &mut self,
        told: &Told,
        seed: &Seed,
        seen: &Arc<Seen>,
        hold: impl Fn(u64) -> Option<&'h Hold>,
    ) {
        let key = &seed.key;
        let subjects = &mut self.by_scope[key.scope as usize];
        let Some(subject) = subjects.get_mut(&key.subject) else {
            return;
        };
        let mut counters = subject.counters.iter_mut();
        let counter = counters.find(|one| one.is(key.window, &key.provider, &key.model));
        let Some(counter) = counter else {
            return;
        };
        if !counter.seed(&self.calendar, told, seed, seen) {
            return;
        }
        for hold in subject.holds.iter().filter_map(|id| hold(*id)) {
            if counter.covers(&hold.provider, &hold.model)
                && let Some(sums) = counter.sums(&self.calendar)
            {
                sums.add(&self.calendar, hold.admit_us, &Load::held(hold.amounts));
            }
        }
    }

    /// Counts a delta; `fresh` if the tenant was not told of it before.
    pub(super) fn count(&mut self, delta: &Delta, fresh: bool) {
        let calendar = &self.calendar;
        for (scope, id) in subjects_of(&delta.owner) {
            let Some(subject) = self.by_scope[scope as usize].get_mut(id) else {
                continue;
            };
            let before = subject.counters.len();
            subject
                .counters
                .retain_mut(|counter| counter.count(calendar, delta, fresh));
            self.counters -= before - subject.counters.len();
        }
    }

    /// Reserves what a new hold holds.
    pub(super) fn hold(&mut self, id: u64, hold: &Hold) {
        for (scope, name) in subjects_of(&hold.owner) {
            let subjects = &mut self.by_scope[scope as usize];
            // Most are there already, so that nothing has to be copied.
            if let Some(subject) = subjects.get_mut(name) {
                subject.holds.insert(id);
                subject.reserve(&self.calendar, hold, &hold.amounts);
            } else {
                subjects.entry(name.into()).or_default().holds.insert(id);
            }
        }
    }

    /// Reserves more, or less, for a hold.
    pub(super) fn resize(&mut self, hold: &Hold, more: &Amounts) {
        for (scope, name) in subjects_of(&hold.owner) {
            if let Some(subject) = self.by_scope[scope as usize].get_mut(name) {
                subject.reserve(&self.calendar, hold, more);
            }
        }
    }

    /// Gives back what a hold reserved.
    pub(super) fn give_back(&mut self, id: u64, hold: &Hold) {
        let back = Amounts::ZERO.minus(&hold.amounts);
        for (scope, name) in subjects_of(&hold.owner) {
            let subjects = &mut self.by_scope[scope as usize];
            let Some(subject) = subjects.get_mut(name) else {
                continue;
            };
            subject.reserve(&self.calendar, hold, &back);
            subject.holds.remove(&id);
            if subject.holds.is_empty() && subject.counters.is_empty() {
                subjects.remove(name);
            }
        }
    }

    /// When the subjects that could leave were last asked, one figure a counter.
    pub(super) fn idle_since(&self) -> impl Iterator<Item = i64> {
        let subjects = self.by_scope.iter().flat_map(HashMap::values);
        let idle = subjects.filter(|subject| subject.holds.is_empty());
        idle.flat_map(|subject| std::iter::repeat_n(subject.asked_us, subject.counters.len()))
    }

    /// Drops the counters of subjects without holds that were not asked after a time.
    pub(super) fn drop_idle(&mut self, asked_us: i64) {
        for subjects in &mut self.by_scope {
            subjects.retain(|_, subject| {
                let stays = !subject.holds.is_empty() || subject.asked_us > asked_us;
                if !stays {
                    self.counters -= subject.counters.len();
                }
                stays
            });
        }
    }
}

/// Whose a call or an event is: at most one subject a scope.
fn subjects_of(owner: &Owner) -> impl Iterator<Item = (Scope, &str)> {
    let scopes = Scope::ALL.iter();
    scopes.filter_map(|scope| Some((*scope, owner.subject(*scope)?)))
}
