//! no_overspend, judged from what the callers themselves know: which holds they were granted and have
//! not ended, and what counters were told is used. Nothing here comes from a counter.

use std::collections::BTreeSet;

use tokenmeter_model::limit::{Enforcement, Window, Zoned};
use tokenmeter_store::counters::{CounterKey, Delta, Hold, HoldState, Rule};

use super::super::ledger::share;

#[derive(Default)]
pub(super) struct Judge {
    /// Every hold that was granted, as its caller left it.
    holds: Vec<Hold>,
    /// Reservations that an event on disk names.
    settled: BTreeSet<String>,
    /// Changes that counters were told of, and voids from when they were on disk: a void that nobody
    /// was told of may be in a seed, and then makes room.
    told: Vec<Delta>,
}

impl Judge {
    /// How many holds were granted.
    pub(super) fn holds(&self) -> usize {
        self.holds.len()
    }

    /// One of the holds.
    pub(super) fn pick(&self, n: u8) -> Option<Hold> {
        super::pick(&self.holds, n).cloned()
    }

    /// The holds that live at a time, by reservation.
    pub(super) fn active(&self, now_us: i64) -> Vec<Hold> {
        let holds = self.holds.iter();
        let active =
            holds.filter(|hold| hold.state == HoldState::Active && hold.expire_us > now_us);
        let mut active: Vec<_> = active.cloned().collect();
        active.sort_by(|one, other| one.reservation_id.cmp(&other.reservation_id));
        active
    }

    /// A new hold was granted.
    pub(super) fn grant(&mut self, hold: Hold, rules: &[Rule], zoned: &Zoned, now_us: i64) {
        self.holds.push(hold);
        self.check(rules, zoned, now_us);
    }

    /// A hold was changed; if it is larger than before, limits have to allow it.
    pub(super) fn change(&mut self, hold: Hold, rules: &[Rule], zoned: &Zoned, now_us: i64) {
        let mut holds = self.holds.iter_mut();
        let known = holds.find(|one| one.reservation_id == hold.reservation_id);
        let known = known.expect("granted before");
        let before = std::mem::replace(known, hold.clone());
        let grew = |rule: &&Rule| {
            hold.amounts.of(rule.limit.metric) > before.amounts.of(rule.limit.metric)
        };
        let rules: Vec<_> = rules.iter().filter(grew).cloned().collect();
        self.check(&rules, zoned, now_us);
    }

    /// Its caller gave a hold back, unless its time was over before.
    pub(super) fn end(&mut self, reservation_id: &str) {
        for hold in &mut self.holds {
            if hold.reservation_id == reservation_id && hold.state == HoldState::Active {
                hold.state = HoldState::Released;
            }
        }
    }

    /// An event names a reservation: whether it is the first.
    pub(super) fn settle(&mut self, reservation_id: &str) -> bool {
        self.settled.insert(reservation_id.to_owned())
    }

    /// Counters were told of a change.
    pub(super) fn told(&mut self, delta: &Delta) {
        let before = |one: &Delta| one.position == delta.position;
        if !delta.tool && self.told.iter().any(before) {
            return;
        }
        self.told.push(delta.clone());
        let Some((reservation_id, _)) = &delta.settles else {
            return;
        };
        for hold in &mut self.holds {
            if hold.reservation_id == *reservation_id && hold.state == HoldState::Active {
                hold.state = HoldState::Settled;
            }
        }
    }

    /// An event at a position was voided on disk.
    pub(super) fn void(&mut self, position: i64, undo: &Delta) {
        if self.told.iter().any(|one| one.position == position) {
            self.told.push(undo.clone());
        }
    }

    /// At the moment of a grant, for every blocking rule: what is used and what is held come to no more
    /// than the limit.
    fn check(&self, rules: &[Rule], zoned: &Zoned, now_us: i64) {
        for rule in rules {
            let limit = &rule.limit;
            if limit.enforcement != Enforcement::Block || limit.window == Window::Request {
                continue;
            }
            let key = rule.counter().expect("only single requests have none");
            let counts = |charge_time_us| {
                let bucket = limit.window.bucket(zoned, charge_time_us);
                bucket >= limit.window.open_from(zoned, now_us)
            };
            let told = self.told.iter().filter(|one| counts(one.charge_time_us));
            let used: i64 = told.map(|one| share(&key, one).of(limit.metric)).sum();
            let holds = self.active(now_us);
            let held = holds.iter().filter(|hold| counts(hold.admit_us));
            let held: i64 = held.map(|hold| reserved(&key, hold).of(limit.metric)).sum();
            let used = used - rule.base.of(limit.metric);
            assert!(
                used + held <= limit.amount,
                "no_overspend: {used} + {held} of {rule:?}"
            );
        }
    }
}

/// What a hold reserves in a counter: what its usage would use.
fn reserved(key: &CounterKey, hold: &Hold) -> tokenmeter_model::limit::Amounts {
    let usage = Delta {
        position: 0,
        charge_time_us: hold.admit_us,
        owner: hold.owner.clone(),
        provider: hold.provider.clone(),
        lines: vec![(hold.model.clone(), hold.amounts)],
        settles: None,
        tool: false,
    };
    share(key, &usage)
}
