//! One tenant: every step of [`super::Counters`] as a function of its state and the time.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Amounts, Enforcement, Window, Zoned};

use super::holds::{Extension, Held, Holds};
use super::journal::{Journal, Record};
use super::subjects::Subjects;
use super::told::Told;
use crate::counters::{
    Admission, Applied, Ask, Change, CounterKey, Delta, Error, Extend, Found, Hold, HoldState,
    Known, Place, Rule, Seed, Seen, Standing,
};
use crate::fault::{Planted, is_planted};

/// Whether there is room for more, over all tenants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) holds: bool,
    pub(super) counters: bool,
}

/// Whether what is asked of a rule does not fit, and when it can.
#[derive(Debug, Clone, Copy, Default)]
struct Verdict {
    exceeded: bool,
    retry_us: Option<i64>,
}

/// A tenant's counters and holds.
#[derive(Debug)]
pub(super) struct Tenant {
    name: TenantId,
    journal: Option<Arc<Journal>>,
    pub(super) subjects: Subjects,
    pub(super) holds: Holds,
    pub(super) told: Told,
    /// Whether no step was taken yet.
    is_new: bool,
    /// Up to where the ledger is on disk, as far as the last step knew.
    position: i64,
    /// Holds that ended in this step, and when, for who remembers them.
    pub(super) ended: Vec<(u64, i64)>,
}

impl Tenant {
    /// A tenant with holds from its journal, if there were any, and its log counted up to a position.
    pub(super) fn new(
        name: &TenantId,
        journal: Option<Arc<Journal>>,
        zoned: &Zoned,
        now_us: i64,
        swept: i64,
        holds: Holds,
    ) -> Self {
        let mut subjects = Subjects::new(zoned, now_us);
        for (id, held) in holds.iter() {
            if held.hold.state == HoldState::Active {
                subjects.hold(id, &held.hold);
            }
        }
        Self {
            name: name.clone(),
            journal,
            subjects,
            holds,
            told: Told::new(swept),
            is_new: true,
            position: swept,
            ended: Vec::new(),
        }
    }

    /// Keeps what happened in the journal.
    fn record<'a>(&'a self, record: impl FnOnce(Cow<'a, str>) -> Record<'a>) {
        if let Some(journal) = &self.journal {
            journal.append(&record(Cow::Borrowed(self.name.as_str())));
        }
    }

    /// Records once more how far the log was swept, and holds as they stand.
    pub(super) fn record_again(&self, ids: &[u64]) {
        self.record_swept();
        for held in ids.iter().filter_map(|id| self.holds.get(*id)) {
            self.record_held(held);
        }
    }

    fn record_held(&self, held: &Held) {
        self.record(|tenant| Record::Held {
            tenant,
            held: Cow::Borrowed(held),
        });
    }

    fn record_swept(&self) {
        let position = self.told.swept();
        self.record(|tenant| Record::Swept { tenant, position });
    }

    /// Whether there is nothing for which its log has to be followed.
    pub(super) fn is_idle(&self) -> bool {
        self.subjects.counters() == 0 && self.holds.active() == 0
    }

    /// Begins a step: ends what is over by now.
    pub(super) fn begin(&mut self, place: Place<'_>, now_us: i64) {
        self.subjects.tick(place.zoned, now_us);
        self.expire(now_us);
        self.position = place.position;
        if std::mem::take(&mut self.is_new) && place.position < self.told.swept() {
            // A journal that outlived its ledger: positions begin anew, and no counter knows of any yet.
            tracing::warn!(
                tenant = self.name.as_str(),
                swept = self.told.swept(),
                committed = place.position,
                "the journal of holds knows of more than the ledger has"
            );
            self.told = Told::new(place.position);
        }
        if self.told.is_full() {
            self.subjects.clear();
            self.told.forget();
        }
    }

    /// Where nothing was followed, the sweep begins with what is on disk by now: no counter has counted
    /// any of it, and no hold waits for it.
    fn follow(&mut self) {
        if self.is_idle() {
            self.told.sweep(self.position);
            self.record_swept();
        }
    }

    /// Ends the holds whose time is over.
    pub(super) fn expire(&mut self, now_us: i64) {
        self.subjects.calendar.tick(now_us);
        while let Some((expire_us, id)) = self.holds.due(now_us) {
            self.end(id, HoldState::Expired, "", expire_us);
        }
    }

    fn end(&mut self, id: u64, state: HoldState, event_id: &str, ended_us: i64) {
        let Some(held) = self.holds.get(id) else {
            return;
        };
        self.subjects.give_back(id, &held.hold);
        if state != HoldState::Expired {
            self.record(|tenant| Record::Ended {
                tenant,
                reservation_id: Cow::Borrowed(&held.hold.reservation_id),
                state,
                event_id: Cow::Borrowed(event_id),
                ended_us,
            });
        }
        self.holds.end(id, state, event_id, ended_us);
        self.ended.push((id, ended_us));
    }

    fn now_us(&self) -> i64 {
        self.subjects.calendar.now_us()
    }

    pub(super) fn admit(&mut self, ask: &Ask, room: Room) -> Result<Known<Admission>, Error> {
        let earlier = match ask.dry_run {
            true => None,
            false => self.holds.of_request(&ask.request_id, self.now_us()),
        };
        if let Some((_, held)) = earlier {
            if held.fingerprint != ask.fingerprint {
                return Ok(Known::Answer(Admission::RequestConflict));
            }
            let hold = held.hold.clone();
            return self.known(&ask.rules, room, |tenant| Admission::Admitted {
                hold,
                replayed: true,
                standings: tenant.standings(&ask.rules),
            });
        }
        let asked = |rule: &Rule| Some(ask.amounts.of(rule.limit.metric));
        let Some((verdicts, refusing)) = self.verdicts(&ask.rules, asked) else {
            return self.begin_cold(&ask.rules, room).map(Known::Cold);
        };
        if let Some(rule) = refusing {
            return Ok(Known::Answer(Admission::Refused {
                rule,
                standings: self.standings_with(&ask.rules, &verdicts),
            }));
        }
        let hold = hold_of(ask, self.now_us());
        if !ask.dry_run {
            if !room.holds {
                return Err(Error::Full("too many calls are in flight".to_owned()));
            }
            self.hold(ask, hold.clone())?;
        }
        Ok(Known::Answer(Admission::Admitted {
            hold,
            replayed: false,
            standings: self.standings_with(&ask.rules, &verdicts),
        }))
    }

    fn hold(&mut self, ask: &Ask, hold: Hold) -> Result<(), Error> {
        let taken = self
            .holds
            .of_reservation(&hold.reservation_id, self.now_us());
        if taken.is_some() {
            let text = format!("reservation {} is there already", hold.reservation_id);
            return Err(Error::Unavailable(text));
        }
        self.follow();
        let id = self.holds.add(Held {
            request_id: ask.request_id.clone(),
            fingerprint: ask.fingerprint,
            hold,
            ended_us: None,
            extensions: Default::default(),
        });
        if let Some(held) = self.holds.get(id) {
            self.subjects.hold(id, &held.hold);
            self.record_held(held);
        }
        Ok(())
    }

    pub(super) fn extend(&mut self, ask: &Extend, room: Room) -> Result<Known<Change>, Error> {
        let found = self
            .holds
            .of_reservation(&ask.reservation_id, self.now_us());
        let Some((id, held)) = found else {
            return Ok(Known::Answer(Change::NotFound));
        };
        if let Some(granted) = held.granted(&ask.request_id) {
            if granted.fingerprint != ask.fingerprint {
                return Ok(Known::Answer(Change::RequestConflict));
            }
            let hold = held.as_left_by(granted);
            return self.known(&ask.rules, room, |tenant| Change::Changed {
                hold,
                standings: tenant.standings(&ask.rules),
            });
        }
        let mut hold = held.hold.clone();
        if hold.state != HoldState::Active {
            return Ok(Known::Answer(Change::Ended(hold)));
        }
        let wanted = ask.amounts.unwrap_or(hold.amounts);
        let asked = |rule: &Rule| more(rule, &hold.amounts, &wanted);
        let Some((verdicts, refusing)) = self.verdicts(&ask.rules, asked) else {
            return self.begin_cold(&ask.rules, room).map(Known::Cold);
        };
        if let Some(rule) = refusing {
            return Ok(Known::Answer(Change::Refused {
                hold,
                rule,
                standings: self.standings_with(&ask.rules, &verdicts),
            }));
        }
        self.subjects.resize(&hold, &wanted.minus(&hold.amounts));
        hold.amounts = wanted;
        if let Some(life_us) = ask.life_us {
            hold.expire_us = self.now_us().saturating_add(life_us);
        }
        let extension = Extension {
            request_id: ask.request_id.clone(),
            fingerprint: ask.fingerprint,
            amounts: hold.amounts,
            expire_us: hold.expire_us,
        };
        self.record(|tenant| Record::Extended {
            tenant,
            reservation_id: Cow::Borrowed(&hold.reservation_id),
            extension: Cow::Borrowed(&extension),
        });
        self.holds.extend(id, extension);
        Ok(Known::Answer(Change::Changed {
            hold,
            standings: self.standings_with(&ask.rules, &verdicts),
        }))
    }

    pub(super) fn release(
        &mut self,
        reservation_id: &str,
        rules: &[Rule],
        room: Room,
    ) -> Result<Known<Change>, Error> {
        let now_us = self.now_us();
        let Some((id, held)) = self.holds.of_reservation(reservation_id, now_us) else {
            return Ok(Known::Answer(Change::NotFound));
        };
        let mut hold = held.hold.clone();
        if hold.state == HoldState::Settled {
            return Ok(Known::Answer(Change::Ended(hold)));
        }
        self.known(rules, room, |tenant| {
            if hold.state == HoldState::Active {
                hold.state = HoldState::Released;
                tenant.end(id, HoldState::Released, "", now_us);
            }
            Change::Changed {
                hold,
                standings: tenant.standings(rules),
            }
        })
    }

    pub(super) fn find(&self, reservation_id: &str) -> Option<Hold> {
        let found = self.holds.of_reservation(reservation_id, self.now_us());
        found.map(|(_, held)| held.hold.clone())
    }

    pub(super) fn apply(&mut self, delta: &Delta, rules: &[Rule]) -> Applied {
        let counted = delta.tool || self.told.apply(delta.position);
        let found = self.settle(delta);
        self.subjects.count(delta, counted);
        let standings = match self.is_known(rules) {
            true => self.standings(rules),
            false => Vec::new(),
        };
        Applied {
            found,
            standings,
            counted,
        }
    }

    pub(super) fn sweep(&mut self, deltas: &[Delta], through: i64) {
        for delta in deltas {
            let fresh = !self.told.has(delta.position) || is_planted(Planted::CountTwice);
            self.settle(delta);
            self.subjects.count(delta, fresh);
        }
        self.told.sweep(through);
        self.record_swept();
    }

    /// Ends the hold that an event names; one that ended before stays as it is.
    fn settle(&mut self, delta: &Delta) -> Found {
        let Some((reservation_id, event_id)) = &delta.settles else {
            return Found::NoReservation;
        };
        let now_us = self.now_us();
        let Some((id, held)) = self.holds.of_reservation(reservation_id, now_us) else {
            return Found::Unknown;
        };
        let mut hold = held.hold.clone();
        match hold.state {
            HoldState::Active => {
                self.end(id, HoldState::Settled, event_id, now_us);
                hold.state = HoldState::Settled;
                hold.event_id.clone_from(event_id);
                Found::Settled(hold)
            }
            HoldState::Settled if hold.event_id == *event_id => Found::Settled(hold),
            _ => Found::Ended(hold),
        }
    }

    pub(super) fn seed(&mut self, seeds: &[Seed], seen: &Arc<Seen>) {
        let holds = &self.holds;
        for seed in seeds {
            self.subjects.seed(&self.told, seed, seen, |id| {
                holds.get(id).map(|held| &held.hold)
            });
        }
    }

    pub(super) fn standings_of(
        &mut self,
        rules: &[Rule],
        room: Room,
    ) -> Result<Known<Vec<Standing>>, Error> {
        self.known(rules, room, |tenant| tenant.standings(rules))
    }

    /// The active holds by reservation.
    pub(super) fn active(&self) -> Vec<Hold> {
        let holds = self.holds.iter().map(|(_, held)| &held.hold);
        let active = holds.filter(|hold| hold.state == HoldState::Active);
        let mut active: Vec<_> = active.cloned().collect();
        active.sort_by(|one, other| one.reservation_id.cmp(&other.reservation_id));
        active
    }

    /// An answer, if the counters of all rules are known.
    fn known<T>(
        &mut self,
        rules: &[Rule],
        room: Room,
        answer: impl FnOnce(&mut Self) -> T,
    ) -> Result<Known<T>, Error> {
        if !self.is_known(rules) {
            return self.begin_cold(rules, room).map(Known::Cold);
        }
        Ok(Known::Answer(answer(self)))
    }

    fn is_known(&mut self, rules: &[Rule]) -> bool {
        rules.iter().all(|rule| self.is_warm(rule))
    }

    fn is_warm(&mut self, rule: &Rule) -> bool {
        rule.limit.window == Window::Request || self.subjects.sums(rule).is_some()
    }

    /// Begins the counters that are cold, and answers them, each once.
    fn begin_cold(&mut self, rules: &[Rule], room: Room) -> Result<Vec<CounterKey>, Error> {
        if !room.counters {
            return Err(Error::Full("too many counters have holds".to_owned()));
        }
        let cold: HashSet<_> = rules
            .iter()
            .filter(|rule| !self.is_warm(rule))
            .filter_map(Rule::counter)
            .collect();
        self.follow();
        let mark = self.told.mark();
        for key in &cold {
            self.subjects.begin(key, mark);
        }
        Ok(cold.into_iter().collect())
    }

    /// What each rule says to what is asked of it, and the first that refuses; none if a counter is
    /// cold.
    fn verdicts(
        &mut self,
        rules: &[Rule],
        asked: impl Fn(&Rule) -> Option<i64>,
    ) -> Option<(Vec<Verdict>, Option<usize>)> {
        let verdicts = rules.iter().map(|rule| self.verdict(rule, asked(rule)));
        let verdicts: Vec<_> = verdicts.collect::<Option<_>>()?;
        let refusing = rules.iter().zip(&verdicts).position(|(rule, verdict)| {
            verdict.exceeded && rule.limit.enforcement == Enforcement::Block
        });
        Some((verdicts, refusing))
    }

    fn verdict(&mut self, rule: &Rule, asked: Option<i64>) -> Option<Verdict> {
        let limit = &rule.limit;
        if limit.window == Window::Request {
            return Some(Verdict {
                exceeded: asked.is_some_and(|asked| asked > limit.amount),
                retry_us: None,
            });
        }
        let (sums, calendar) = self.subjects.sums(rule)?;
        let Some(asked) = asked else {
            return Some(Verdict::default());
        };
        let most = most(rule) - i128::from(asked);
        let exceeded = sums.total().of(limit.metric) > most;
        let can_fit = exceeded && asked <= limit.amount;
        let room = || sums.falls_to(calendar, limit.metric, most);
        Some(Verdict {
            exceeded,
            retry_us: can_fit.then(room).flatten(),
        })
    }

    /// How rules stand, as if nothing was asked.
    fn standings(&mut self, rules: &[Rule]) -> Vec<Standing> {
        let standing = |rule| self.standing(rule, Verdict::default());
        rules.iter().map(standing).collect()
    }

    fn standings_with(&mut self, rules: &[Rule], verdicts: &[Verdict]) -> Vec<Standing> {
        let both = rules.iter().zip(verdicts);
        both.map(|(rule, verdict)| self.standing(rule, *verdict))
            .collect()
    }

    fn standing(&mut self, rule: &Rule, verdict: Verdict) -> Standing {
        let Verdict { exceeded, retry_us } = verdict;
        let nothing = Standing {
            exceeded,
            retry_us,
            ..Standing::default()
        };
        let Some((sums, calendar)) = self.subjects.sums(rule) else {
            return nothing;
        };
        let (window, metric) = (rule.limit.window, rule.limit.metric);
        let reset_us = match window.slides() {
            true => sums.falls_to(calendar, metric, most(rule) - 1),
            false => calendar.closes(window, calendar.open_from(window)),
        };
        let base = i128::from(rule.base.of(metric));
        Standing {
            used: within(sums.total().used.of(metric) - base),
            held: within(sums.total().held.of(metric)),
            reset_us,
            ..nothing
        }
    }
}

/// A figure as far as 64 bits show it.
fn within(figure: i128) -> i64 {
    let nearest = if figure < 0 { i64::MIN } else { i64::MAX };
    i64::try_from(figure).unwrap_or(nearest)
}

/// The most that a rule's counter may come to, used and held.
fn most(rule: &Rule) -> i128 {
    i128::from(rule.limit.amount) + i128::from(rule.base.of(rule.limit.metric))
}

/// How much more an extension asks of a rule; none if it asks no more. A single request is as large
/// as it is then.
fn more(rule: &Rule, now: &Amounts, wanted: &Amounts) -> Option<i64> {
    let metric = rule.limit.metric;
    let more = wanted.of(metric).saturating_sub(now.of(metric));
    let asked = match rule.limit.window {
        Window::Request => wanted.of(metric),
        _ => more,
    };
    (more > 0).then_some(asked)
}

/// What a call holds if it is admitted.
fn hold_of(ask: &Ask, now_us: i64) -> Hold {
    Hold {
        reservation_id: ask.reservation_id.clone(),
        owner: ask.owner.clone(),
        provider: ask.provider.clone(),
        model: ask.model.clone(),
        price_version: ask.price_version,
        amounts: ask.amounts,
        state: HoldState::Active,
        admit_us: now_us,
        expire_us: now_us.saturating_add(ask.life_us),
        event_id: String::new(),
    }
}
