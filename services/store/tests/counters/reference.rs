//! The reference: counters in plain lists, to be checked by eye. Nothing is kept that can be worked
//! out: every figure is added up anew from the seeds, the changes that were told and the holds. A crash
//! leaves what the journal has, which is the holds and how far the log was swept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokenmeter_model::fingerprint::Fingerprint;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Amounts, Enforcement, Window, Zoned};
use tokenmeter_store::clock::Clock;
use tokenmeter_store::counters::{
    Admission, Applied, Ask, Change, CounterKey, Counters, Delta, Error, Extend, Found, Hold,
    HoldState, Known, Place, REMEMBERED_US, Rule, Seed, Seen, Standing,
};

use super::Store;
use super::ledger::share;

/// What outlives a crash of the reference.
type Journal = Arc<Mutex<BTreeMap<TenantId, Tenant>>>;

/// The place of a reference.
pub struct OnPaper(Journal);

impl Store for OnPaper {
    type Counters = Reference;

    fn fresh() -> Self {
        Self(Journal::default())
    }

    async fn open(&self, clock: Clock) -> Reference {
        for tenant in self.0.lock().unwrap().values_mut() {
            tenant.told.clear();
            tenant.counters.clear();
        }
        Reference {
            clock,
            latest_us: Mutex::new(0),
            tenants: Arc::clone(&self.0),
        }
    }
}

pub struct Reference {
    clock: Clock,
    /// The clock never goes back.
    latest_us: Mutex<i64>,
    tenants: Journal,
}

#[derive(Default)]
struct Tenant {
    /// Every hold that is remembered. Journaled.
    holds: Vec<Reserved>,
    /// All changes up to this position are counted. Journaled.
    swept: Option<i64>,
    /// Every change that counted, in the order in which it was told.
    told: Vec<Delta>,
    /// What is not here is cold.
    counters: Vec<Counter>,
}

struct Reserved {
    request_id: String,
    fingerprint: Fingerprint,
    hold: Hold,
    ended_us: Option<i64>,
    /// What was granted: the request, and the hold as it left it.
    extensions: Vec<(String, Fingerprint, Hold)>,
}

struct Counter {
    key: CounterKey,
    zoned: Zoned,
    /// How many changes had been told when it was begun, and up to where the log was swept.
    begun: (usize, Option<i64>),
    /// Whether an estimate of a tool was told since: it has no position, so that nobody can say whether
    /// the snapshot on its way has it.
    doubtful: bool,
    /// None while it is being seeded; then its sums, what they contain, and how many changes had been told by then.
    seed: Option<(Vec<(i64, Amounts)>, Seen, usize)>,
}

impl Counter {
    /// Whether a snapshot is not from before the counter was begun: it has all that was told until then.
    fn takes(&self, told: &[Delta], seen: &Seen) -> bool {
        let (told_before, swept) = self.begun;
        let mut told = told[..told_before].iter().filter(|delta| !delta.tool);
        let has_swept = |position| {
            let mut open = seen.except.iter();
            seen.through >= position && open.all(|(from, _)| *from > position)
        };
        swept.is_none_or(has_swept) && told.all(|delta| seen.contains(delta.position))
    }
}

/// What is charged in one bucket of a window, in one metric.
struct Part {
    bucket_us: i64,
    used: i128,
    held: i128,
}

impl Tenant {
    /// Whether there is nothing for which the log has to be followed.
    fn is_idle(&self) -> bool {
        let mut holds = self.holds.iter();
        self.counters.is_empty() && holds.all(|one| one.hold.state != HoldState::Active)
    }

    /// Ends holds whose time is over, and forgets those that ended long ago.
    fn expire(&mut self, now_us: i64) {
        for one in &mut self.holds {
            if one.hold.state == HoldState::Active && one.hold.expire_us <= now_us {
                one.hold.state = HoldState::Expired;
                one.ended_us = Some(one.hold.expire_us);
            }
        }
        let remembered = |ended_us: i64| now_us < ended_us + REMEMBERED_US;
        self.holds.retain(|one| one.ended_us.is_none_or(remembered));
    }

    fn find(&mut self, reservation_id: &str) -> Option<&mut Reserved> {
        let mut holds = self.holds.iter_mut();
        holds.find(|one| one.hold.reservation_id == reservation_id)
    }

    fn counter(&self, key: &CounterKey) -> Option<&Counter> {
        self.counters.iter().find(|one| one.key == *key)
    }

    /// The counters of rules that are not known; they are begun.
    fn cold(&mut self, zoned: &Zoned, rules: &[Rule]) -> Vec<CounterKey> {
        let keys: BTreeSet<_> = rules.iter().filter_map(Rule::counter).collect();
        let known = |key: &CounterKey| self.counter(key).is_some_and(|c| c.seed.is_some());
        let cold: Vec<_> = keys.into_iter().filter(|key| !known(key)).collect();
        for key in &cold {
            if self.counter(key).is_none() {
                self.counters.push(Counter {
                    key: key.clone(),
                    zoned: zoned.clone(),
                    begun: (self.told.len(), self.swept),
                    doubtful: false,
                    seed: None,
                });
            }
        }
        cold
    }

    /// What a rule's counter has, by bucket.
    fn parts(&self, zoned: &Zoned, rule: &Rule) -> Vec<Part> {
        let Some(key) = rule.counter() else {
            return Vec::new();
        };
        let metric = rule.limit.metric;
        let counter = self.counter(&key).expect("asked of known ones only");
        let seed = counter.seed.as_ref();
        let (buckets, seen, known_from) = seed.expect("asked of known ones only");
        let seeded = buckets.iter().map(|(bucket_us, amounts)| Part {
            bucket_us: *bucket_us,
            used: amounts.of(metric).into(),
            held: 0,
        });
        // An estimate of a tool has no position: what was told since the counter is known counts.
        let told = self
            .told
            .iter()
            .enumerate()
            .filter(|(n, delta)| match delta.tool {
                true => *n >= *known_from,
                false => !seen.contains(delta.position),
            });
        let told = told.map(|(_, delta)| Part {
            bucket_us: key.window.bucket(zoned, delta.charge_time_us),
            used: share(&key, delta).of(metric).into(),
            held: 0,
        });
        let holds = self.holds.iter().map(|one| &one.hold);
        let held = holds.filter(|hold| hold.state == HoldState::Active && holds_in(&key, hold));
        let held = held.map(|hold| Part {
            bucket_us: key.window.bucket(zoned, hold.admit_us),
            used: 0,
            held: hold.amounts.of(metric).into(),
        });
        seeded.chain(told).chain(held).collect()
    }

    /// How a rule stands if so much is asked of it.
    fn standing(&self, zoned: &Zoned, rule: &Rule, now_us: i64, asked: Option<i64>) -> Standing {
        let window = rule.limit.window;
        let limit = i128::from(rule.limit.amount);
        let parts = self.parts(zoned, rule);
        let at = |time_us: i64| {
            let open_from = window.open_from(zoned, time_us);
            let open = parts.iter().filter(|part| part.bucket_us >= open_from);
            let base = i128::from(rule.base.of(rule.limit.metric));
            open.fold((-base, 0), |(used, held), part| {
                (used + part.used, held + part.held)
            })
        };
        // The first time, now or when something leaves the window, at which so much is there.
        let room = |wanted: i128| {
            let closes = |part: &Part| window.closes(zoned, part.bucket_us);
            let mut times: Vec<_> = parts.iter().filter_map(closes).collect();
            times.push(now_us);
            times.retain(|time_us| *time_us >= now_us);
            times.sort_unstable();
            times.into_iter().find(|time_us| {
                let (used, held) = at(*time_us);
                used + held + wanted <= limit
            })
        };
        let (used, held) = at(now_us);
        let exceeded = asked.is_some_and(|asked| used + held + i128::from(asked) > limit);
        let retry_us = match asked {
            Some(asked) if exceeded && i128::from(asked) <= limit => room(asked.into()),
            _ => None,
        };
        let reset_us = match window {
            Window::Minute | Window::Hour => room(1),
            _ => window.closes(zoned, window.bucket(zoned, now_us)),
        };
        Standing {
            used: clamped(used),
            held: clamped(held),
            reset_us,
            exceeded,
            retry_us,
        }
    }

    fn standings(
        &self,
        zoned: &Zoned,
        rules: &[Rule],
        now_us: i64,
        asked: Option<&Amounts>,
    ) -> Vec<Standing> {
        let standing = |rule: &Rule| {
            let asked = asked.map(|asked| asked.of(rule.limit.metric));
            self.standing(zoned, rule, now_us, asked)
        };
        rules.iter().map(standing).collect()
    }

    /// Counts a change unless it was, and settles the hold that it names.
    fn tell(&mut self, delta: &Delta, now_us: i64) -> (Found, bool) {
        let counted = delta.tool
            || (self.swept.is_none_or(|swept| delta.position > swept)
                && self.told.iter().all(|one| one.position != delta.position));
        if counted {
            self.told.push(delta.clone());
        }
        if delta.tool {
            let mut counters = self.counters.iter_mut();
            let budget = counters.find(|one| !share(&one.key, delta).is_zero());
            if let Some(counter) = budget {
                counter.doubtful = true;
            }
        }
        let Some((reservation_id, event_id)) = &delta.settles else {
            return (Found::NoReservation, counted);
        };
        let found = match self.find(reservation_id) {
            None => Found::Unknown,
            Some(one) if one.hold.state == HoldState::Active => {
                one.hold.state = HoldState::Settled;
                one.hold.event_id.clone_from(event_id);
                one.ended_us = Some(now_us);
                Found::Settled(one.hold.clone())
            }
            Some(one) if one.hold.event_id == *event_id => Found::Settled(one.hold.clone()),
            Some(one) => Found::Ended(one.hold.clone()),
        };
        (found, counted)
    }
}

/// A sum as far as 64 bits go.
fn clamped(sum: i128) -> i64 {
    i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
}

/// Whether a hold reserves in a counter.
fn holds_in(key: &CounterKey, hold: &Hold) -> bool {
    hold.owner.subject(key.scope) == Some(&*key.subject)
        && (key.provider.is_empty() || *key.provider == *hold.provider)
        && (key.model.is_empty() || *key.model == *hold.model)
}

/// The first blocking rule that does not fit.
fn refusing(rules: &[Rule], standings: &[Standing]) -> Option<usize> {
    rules.iter().zip(standings).position(|(rule, standing)| {
        standing.exceeded && rule.limit.enforcement == Enforcement::Block
    })
}

impl Reference {
    /// One step of a tenant; whatever is over ends first.
    fn step<T>(&self, tenant: &TenantId, step: impl FnOnce(&mut Tenant, i64) -> T) -> T {
        let now_us = {
            let mut latest_us = self.latest_us.lock().unwrap();
            *latest_us = (self.clock)().max(*latest_us);
            *latest_us
        };
        let mut tenants = self.tenants.lock().unwrap();
        let tenant = tenants.entry(tenant.clone()).or_default();
        tenant.expire(now_us);
        step(tenant, now_us)
    }

    fn step_at<T>(&self, place: Place<'_>, step: impl FnOnce(&mut Tenant, i64) -> T) -> T {
        self.step(place.tenant, |tenant, now_us| {
            if tenant.is_idle() {
                // Nothing was followed: what is on disk by now is in the seeds to come.
                tenant.swept = tenant.swept.max(Some(place.position));
            }
            // Counters of another calendar are cold.
            tenant.counters.retain(|one| one.zoned == *place.zoned);
            step(tenant, now_us)
        })
    }

    /// Another process found that the log was swept up to here, or does not follow it.
    pub fn set_swept(&self, tenant: &TenantId, position: Option<i64>) {
        self.step(tenant, |tenant, _| tenant.swept = position);
    }
}

/// Decides about a call.
fn admit(tenant: &mut Tenant, zoned: &Zoned, ask: &Ask, now_us: i64) -> Known<Admission> {
    let mut earlier = tenant.holds.iter();
    let earlier = earlier.find(|one| one.request_id == ask.request_id && !ask.dry_run);
    let earlier = earlier.map(|one| (one.fingerprint, one.hold.clone()));
    if let Some((fingerprint, _)) = &earlier
        && *fingerprint != ask.fingerprint
    {
        return Known::Answer(Admission::RequestConflict);
    }
    let cold = tenant.cold(zoned, &ask.rules);
    if !cold.is_empty() {
        return Known::Cold(cold);
    }
    if let Some((_, hold)) = earlier {
        return Known::Answer(Admission::Admitted {
            hold,
            replayed: true,
            standings: tenant.standings(zoned, &ask.rules, now_us, None),
        });
    }
    let before = tenant.standings(zoned, &ask.rules, now_us, Some(&ask.amounts));
    if let Some(rule) = refusing(&ask.rules, &before) {
        return Known::Answer(Admission::Refused {
            rule,
            standings: before,
        });
    }
    let hold = Hold {
        reservation_id: ask.reservation_id.clone(),
        owner: ask.owner.clone(),
        provider: ask.provider.clone(),
        model: ask.model.clone(),
        price_version: ask.price_version,
        amounts: ask.amounts,
        state: HoldState::Active,
        admit_us: now_us,
        expire_us: now_us + ask.life_us,
        event_id: String::new(),
    };
    if !ask.dry_run {
        tenant.holds.push(Reserved {
            request_id: ask.request_id.clone(),
            fingerprint: ask.fingerprint,
            hold: hold.clone(),
            ended_us: None,
            extensions: Vec::new(),
        });
    }
    Known::Answer(Admission::Admitted {
        hold,
        replayed: false,
        standings: after(tenant, zoned, &ask.rules, now_us, before),
    })
}

/// How rules stand after a grant, with what was found before it: whether it fitted, and when it can.
fn after(
    tenant: &Tenant,
    zoned: &Zoned,
    rules: &[Rule],
    now_us: i64,
    before: Vec<Standing>,
) -> Vec<Standing> {
    let now = tenant.standings(zoned, rules, now_us, None);
    let both = now.into_iter().zip(before);
    both.map(|(now, before)| Standing {
        exceeded: before.exceeded,
        retry_us: before.retry_us,
        ..now
    })
    .collect()
}

/// Sets a hold to another size or life.
fn extend(tenant: &mut Tenant, zoned: &Zoned, ask: &Extend, now_us: i64) -> Known<Change> {
    let Some(one) = tenant.find(&ask.reservation_id) else {
        return Known::Answer(Change::NotFound);
    };
    let hold = one.hold.clone();
    let mut granted = one.extensions.iter();
    let granted = granted.find(|(request_id, ..)| *request_id == ask.request_id);
    let granted = granted.map(|(_, fingerprint, hold)| (*fingerprint, hold.clone()));
    match &granted {
        Some((fingerprint, _)) if *fingerprint != ask.fingerprint => {
            return Known::Answer(Change::RequestConflict);
        }
        None if hold.state != HoldState::Active => return Known::Answer(Change::Ended(hold)),
        _ => {}
    }
    let cold = tenant.cold(zoned, &ask.rules);
    if !cold.is_empty() {
        return Known::Cold(cold);
    }
    if let Some((_, hold)) = granted {
        return Known::Answer(Change::Changed {
            hold,
            standings: tenant.standings(zoned, &ask.rules, now_us, None),
        });
    }
    let wanted = ask.amounts.unwrap_or(hold.amounts);
    let more = |rule: &Rule| {
        let metric = rule.limit.metric;
        let more = wanted.of(metric) - hold.amounts.of(metric);
        // A single request is as large as it is then, and not by how much it grew.
        let asked = match rule.limit.window {
            Window::Request => wanted.of(metric),
            _ => more,
        };
        let asked = (more > 0).then_some(asked);
        tenant.standing(zoned, rule, now_us, asked)
    };
    let before: Vec<_> = ask.rules.iter().map(more).collect();
    if let Some(rule) = refusing(&ask.rules, &before) {
        return Known::Answer(Change::Refused {
            hold,
            rule,
            standings: before,
        });
    }
    let one = tenant.find(&ask.reservation_id).expect("found above");
    one.hold.amounts = wanted;
    one.hold.expire_us = ask.life_us.map_or(hold.expire_us, |life| now_us + life);
    let hold = one.hold.clone();
    let granted = (ask.request_id.clone(), ask.fingerprint, hold.clone());
    one.extensions.push(granted);
    Known::Answer(Change::Changed {
        hold,
        standings: after(tenant, zoned, &ask.rules, now_us, before),
    })
}

/// Ends a hold whose call did not run.
fn release(
    tenant: &mut Tenant,
    zoned: &Zoned,
    reservation_id: &str,
    rules: &[Rule],
    now_us: i64,
) -> Known<Change> {
    match tenant.find(reservation_id).map(|one| one.hold.clone()) {
        None => return Known::Answer(Change::NotFound),
        Some(hold) if hold.state == HoldState::Settled => {
            return Known::Answer(Change::Ended(hold));
        }
        Some(_) => {}
    }
    let cold = tenant.cold(zoned, rules);
    if !cold.is_empty() {
        return Known::Cold(cold);
    }
    let one = tenant.find(reservation_id).expect("found above");
    if one.hold.state == HoldState::Active {
        one.hold.state = HoldState::Released;
        one.ended_us = Some(now_us);
    }
    Known::Answer(Change::Changed {
        hold: one.hold.clone(),
        standings: tenant.standings(zoned, rules, now_us, None),
    })
}

#[async_trait]
impl Counters for Reference {
    async fn admit(&self, place: Place<'_>, ask: &Ask) -> Result<Known<Admission>, Error> {
        Ok(self.step_at(place, |tenant, now_us| {
            admit(tenant, place.zoned, ask, now_us)
        }))
    }

    async fn extend(&self, place: Place<'_>, ask: &Extend) -> Result<Known<Change>, Error> {
        Ok(self.step_at(place, |tenant, now_us| {
            extend(tenant, place.zoned, ask, now_us)
        }))
    }

    async fn release(
        &self,
        place: Place<'_>,
        reservation_id: &str,
        rules: &[Rule],
    ) -> Result<Known<Change>, Error> {
        Ok(self.step_at(place, |tenant, now_us| {
            release(tenant, place.zoned, reservation_id, rules, now_us)
        }))
    }

    async fn hold(&self, tenant: &TenantId, reservation_id: &str) -> Result<Option<Hold>, Error> {
        Ok(self.step(tenant, |tenant, _| {
            tenant.find(reservation_id).map(|one| one.hold.clone())
        }))
    }

    async fn apply(
        &self,
        place: Place<'_>,
        deltas: &[(Delta, Arc<[Rule]>)],
    ) -> Result<Vec<Applied>, Error> {
        Ok(self.step_at(place, |tenant, now_us| {
            let mut applied = Vec::new();
            for (delta, rules) in deltas {
                let (found, counted) = tenant.tell(delta, now_us);
                let known = |key: &CounterKey| {
                    let counter = tenant.counter(key);
                    counter.is_some_and(|one| one.seed.is_some())
                };
                let standings = if rules
                    .iter()
                    .filter_map(Rule::counter)
                    .all(|key| known(&key))
                {
                    tenant.standings(place.zoned, rules, now_us, None)
                } else {
                    Vec::new()
                };
                applied.push(Applied {
                    found,
                    standings,
                    counted,
                });
            }
            applied
        }))
    }

    async fn sweep(&self, place: Place<'_>, deltas: &[Delta], through: i64) -> Result<(), Error> {
        self.step_at(place, |tenant, now_us| {
            for delta in deltas {
                tenant.tell(delta, now_us);
            }
            tenant.swept = tenant.swept.max(Some(through));
        });
        Ok(())
    }

    async fn swept(&self) -> Result<Vec<(TenantId, i64)>, Error> {
        let tenants = self.tenants.lock().unwrap();
        let followed = tenants.iter().filter(|(_, tenant)| !tenant.is_idle());
        Ok(followed
            .filter_map(|(id, tenant)| Some((id.clone(), tenant.swept?)))
            .collect())
    }

    async fn seed(&self, place: Place<'_>, seeds: Vec<Seed>, seen: &Seen) -> Result<(), Error> {
        self.step_at(place, |tenant, _| {
            for Seed { key, buckets } in seeds {
                let Tenant { told, counters, .. } = tenant;
                let mut counters = counters.iter_mut();
                if let Some(counter) = counters.find(|one| one.key == key)
                    && counter.seed.is_none()
                    && !std::mem::take(&mut counter.doubtful)
                    && counter.takes(told, seen)
                {
                    counter.seed = Some((buckets, seen.clone(), told.len()));
                }
            }
        });
        Ok(())
    }

    async fn standings(
        &self,
        place: Place<'_>,
        rules: &[Rule],
    ) -> Result<Known<Vec<Standing>>, Error> {
        Ok(self.step_at(place, |tenant, now_us| {
            let cold = tenant.cold(place.zoned, rules);
            if cold.is_empty() {
                Known::Answer(tenant.standings(place.zoned, rules, now_us, None))
            } else {
                Known::Cold(cold)
            }
        }))
    }

    async fn expire(&self) -> Result<(), Error> {
        let tenants: Vec<_> = self.tenants.lock().unwrap().keys().cloned().collect();
        for tenant in tenants {
            self.step(&tenant, |_, _| ());
        }
        Ok(())
    }

    async fn holds(&self, tenant: &TenantId) -> Result<Vec<Hold>, Error> {
        Ok(self.step(tenant, |tenant, _| {
            let holds = tenant.holds.iter().map(|one| one.hold.clone());
            let mut active: Vec<_> = holds
                .filter(|hold| hold.state == HoldState::Active)
                .collect();
            active.sort_by(|one, other| one.reservation_id.cmp(&other.reservation_id));
            active
        }))
    }

    async fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn close(&self) {}
}
