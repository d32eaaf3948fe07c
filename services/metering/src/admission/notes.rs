//! What is to be remembered of decisions: hits of limits, and overshoots (R24).
//!
//! They are kept in memory, added up per limit, subject and second, and written by the second, so that
//! a decision waits for no disk. The rule of this module: at a bound new entries are counted and
//! dropped, never old ones, and the log says so.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};

use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Amounts, Enforcement, Scope, Window};
use tokenmeter_store::counters::{Owner, Rule, Standing};
use tokenmeter_store::ledger::limits::{LimitHit, Overshoot};
use tokenmeter_store::ledger::{Error, Ledger};

use super::States;

/// Entries of each kind that wait to be written.
const MAX_WAITING: usize = 16_384;
/// Entries that one write takes.
const WRITE: usize = 500;
const SECOND_US: i64 = 1_000_000;

/// What makes hits one entry: second, limit, and subject.
type HitKey = (TenantId, i64, String, (Scope, String));

pub(super) struct Notes {
    ledger: Arc<dyn Ledger>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    hits: HashMap<HitKey, LimitHit>,
    /// By event.
    overshoots: HashMap<(TenantId, String), Vec<Overshoot>>,
    dropped: u64,
}

impl Notes {
    pub(super) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            waiting: Mutex::default(),
        }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        // Every change leaves it whole.
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes note of every limit that a call did not fit.
    pub(super) fn hits(&self, tenant: &TenantId, states: &States, call: &Refused<'_>) {
        for (rule, standing) in states.all().filter(|(_, standing)| standing.exceeded) {
            // A budget that only informs has no hits.
            let informs = rule.limit.enforcement == Enforcement::Shadow;
            if rule.limit.window != Window::Budget || !informs {
                let hit = call.hit(rule, standing);
                self.with(|waiting| waiting.hit(tenant, hit));
            }
        }
    }

    /// Takes note of what an event used beyond limits.
    pub(super) fn overshoots(&self, tenant: &TenantId, event_id: &str, overshoots: &[Overshoot]) {
        if overshoots.is_empty() {
            return;
        }
        self.with(|waiting| {
            if waiting.overshoots.len() < MAX_WAITING {
                let key = (tenant.clone(), event_id.to_owned());
                waiting.overshoots.insert(key, overshoots.to_vec());
            } else {
                waiting.dropped += 1;
            }
        });
    }

    /// What an event used beyond limits, as it was noted when it was recorded.
    pub(super) async fn of_event(
        &self,
        tenant: &TenantId,
        event_id: &str,
    ) -> Result<Vec<Overshoot>, Error> {
        let key = (tenant.clone(), event_id.to_owned());
        match self.with(|waiting| waiting.overshoots.get(&key).cloned()) {
            Some(waiting) => Ok(waiting),
            None => self.ledger.overshoots(tenant, &[event_id]).await,
        }
    }

    /// Writes all that waits. What could not be written waits on.
    pub(super) async fn write(&self) {
        let Waiting {
            hits,
            overshoots,
            dropped,
        } = self.with(std::mem::take);
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "hits and overshoots of limits were not noted: too many waited"
            );
        }
        let mut tenants: HashMap<TenantId, (Vec<LimitHit>, Vec<Overshoot>)> = HashMap::new();
        for ((tenant, ..), hit) in hits {
            tenants.entry(tenant).or_default().0.push(hit);
        }
        for ((tenant, _), of_event) in overshoots {
            tenants.entry(tenant).or_default().1.extend(of_event);
        }
        for (tenant, (hits, overshoots)) in tenants {
            for hits in hits.chunks(WRITE) {
                let written = self.ledger.add_hits(&tenant, hits).await;
                self.unless(written, |waiting| {
                    for hit in hits {
                        waiting.hit(&tenant, hit.clone());
                    }
                });
            }
            for overshoots in overshoots.chunks(WRITE) {
                let written = self.ledger.add_overshoots(&tenant, overshoots).await;
                self.unless(written, |waiting| {
                    waiting.overshoots_again(&tenant, overshoots);
                });
            }
        }
    }

    fn unless(&self, written: Result<(), Error>, again: impl FnOnce(&mut Waiting)) {
        if let Err(error) = written {
            tracing::warn!(%error, "hits and overshoots of limits wait for the ledger");
            self.with(again);
        }
    }
}

impl Waiting {
    fn hit(&mut self, tenant: &TenantId, hit: LimitHit) {
        let (name, subject) = (hit.limit_name.clone(), hit.subject.clone());
        let key = (tenant.clone(), hit.second_us, name, (hit.scope, subject));
        let room = self.hits.len() < MAX_WAITING;
        match self.hits.entry(key) {
            Entry::Occupied(mut first) => {
                let first = first.get_mut();
                first.count = first.count.saturating_add(hit.count);
            }
            Entry::Vacant(place) if room => {
                place.insert(hit);
            }
            Entry::Vacant(_) => self.dropped += 1,
        }
    }

    fn overshoots_again(&mut self, tenant: &TenantId, overshoots: &[Overshoot]) {
        for one in overshoots {
            let key = (tenant.clone(), one.event_id.clone());
            if self.overshoots.len() >= MAX_WAITING && !self.overshoots.contains_key(&key) {
                self.dropped += 1;
            } else {
                self.overshoots.entry(key).or_default().push(one.clone());
            }
        }
    }
}

/// A call that did not fit.
pub(super) struct Refused<'a> {
    pub(super) owner: &'a Owner,
    pub(super) model: &'a str,
    pub(super) asked: Amounts,
    pub(super) now_us: i64,
}

impl Refused<'_> {
    /// One hit of a limit.
    fn hit(&self, rule: &Rule, standing: &Standing) -> LimitHit {
        let limit = &rule.limit;
        LimitHit {
            second_us: self.now_us - self.now_us.rem_euclid(SECOND_US),
            limit_name: limit.name.clone(),
            scope: limit.scope,
            subject: rule.subject.to_string(),
            metric: limit.metric,
            window: limit.window,
            enforcement: limit.enforcement,
            hard: limit.hard,
            profile_id: rule.profile_id.to_string(),
            user_id: self.owner.user_id.clone(),
            session_id: self.owner.session_id.clone(),
            model: self.model.to_owned(),
            limit: limit.amount,
            used: standing.used,
            held: standing.held,
            asked: self.asked.of(limit.metric),
            count: 1,
        }
    }
}
