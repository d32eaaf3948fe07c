//! A node with its counters, its ledger and its clock: what the service does around the port.

use std::sync::Arc;

use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Amounts, Zoned};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::counters::{
    Admission, Applied, Ask, Change, CounterKey, Counters, Delta, Extend, Hold, Known, Place, Rule,
    Standing,
};

use super::ledger::Ledger;
use super::{Store, T0, TestClock, fingerprint, owner};

pub struct World<S: Store> {
    store: S,
    pub counters: S::Counters,
    pub clock: TestClock,
    pub ledger: Ledger,
    pub tenant: TenantId,
    pub zoned: Zoned,
}

impl<S: Store> World<S> {
    /// An empty world at [`T0`], in UTC.
    pub async fn new() -> Self {
        Self::at(T0, Zone::utc()).await
    }

    /// An empty world at a time, in a zone.
    pub async fn at(now_us: i64, zone: Zone) -> Self {
        let store = S::fresh();
        let clock = TestClock::at(now_us);
        Self {
            counters: store.open(clock.clock()).await,
            store,
            clock,
            ledger: Ledger::default(),
            tenant: TenantId::new("a").unwrap(),
            zoned: Zoned::always(zone),
        }
    }

    /// Kills the process and starts another one: counters are lost, and what was kept is read again.
    pub async fn crash(self) -> Self {
        let Self {
            store, counters, ..
        } = self;
        drop(counters);
        Self {
            counters: store.open(self.clock.clock()).await,
            store,
            ..self
        }
    }

    /// Lets time pass.
    pub fn pass(&self, us: i64) {
        self.clock.set(self.clock.now() + us);
    }

    pub fn place(&self) -> Place<'_> {
        Place {
            tenant: &self.tenant,
            zoned: &self.zoned,
            position: self.ledger.committed(),
        }
    }

    /// Reads the sums of counters from the ledger and makes them known.
    pub async fn seed(&self, keys: &[CounterKey]) {
        let (seeds, seen) = self.ledger.seeds(&self.zoned, keys, self.clock.now());
        self.counters
            .seed(self.place(), seeds, &seen)
            .await
            .unwrap();
    }

    /// The answer of a step, with what is cold seeded on the way.
    async fn warm<T>(&self, step: impl AsyncFn() -> Known<T>) -> T {
        for _ in 0..3 {
            match step().await {
                Known::Answer(answer) => return answer,
                Known::Cold(keys) => self.seed(&keys).await,
            }
        }
        panic!("counters stay cold, however often they are seeded");
    }

    pub async fn admit(&self, ask: &Ask) -> Admission {
        self.warm(async || self.counters.admit(self.place(), ask).await.unwrap())
            .await
    }

    /// A call that has to be admitted.
    pub async fn admitted(&self, ask: &Ask) -> Hold {
        match self.admit(ask).await {
            Admission::Admitted { hold, .. } => hold,
            other => panic!("{other:?}"),
        }
    }

    /// A call that has to be refused: by which rule, and how each stands.
    pub async fn refused(&self, ask: &Ask) -> (usize, Vec<Standing>) {
        match self.admit(ask).await {
            Admission::Refused { rule, standings } => (rule, standings),
            other => panic!("{other:?}"),
        }
    }

    pub async fn extend(
        &self,
        request_id: &str,
        hold: &Hold,
        amounts: Option<Amounts>,
        life_us: Option<i64>,
        rules: &[Rule],
    ) -> Change {
        let ask = Extend {
            request_id: request_id.into(),
            fingerprint: fingerprint(&format!("{amounts:?} {life_us:?}")),
            reservation_id: hold.reservation_id.clone(),
            amounts,
            life_us,
            rules: rules.into(),
        };
        self.warm(async || self.counters.extend(self.place(), &ask).await.unwrap())
            .await
    }

    pub async fn release(&self, reservation_id: &str, rules: &[Rule]) -> Change {
        self.warm(async || {
            let step = self.counters.release(self.place(), reservation_id, rules);
            step.await.unwrap()
        })
        .await
    }

    pub async fn standings(&self, rules: &[Rule]) -> Vec<Standing> {
        self.warm(async || self.counters.standings(self.place(), rules).await.unwrap())
            .await
    }

    /// What is used and held of a rule.
    pub async fn figures(&self, rule: &Rule) -> (i64, i64) {
        let standing = self.standings(std::slice::from_ref(rule)).await[0];
        (standing.used, standing.held)
    }

    pub async fn hold(&self, reservation_id: &str) -> Option<Hold> {
        let hold = self.counters.hold(&self.tenant, reservation_id);
        hold.await.unwrap()
    }

    pub async fn apply(&self, delta: &Delta, rules: &[Rule]) -> Applied {
        let deltas = [(delta.clone(), Arc::from(rules))];
        let applied = self.counters.apply(self.place(), &deltas).await.unwrap();
        assert_eq!(applied.len(), 1);
        applied.into_iter().next().unwrap()
    }

    /// Records an event and tells the counters, as a recording call does.
    pub async fn record(&mut self, delta: Delta, rules: &[Rule]) -> Applied {
        let delta = self.ledger.write(delta);
        self.apply(&delta, rules).await
    }

    /// Follows the log, as the sweeper does every second.
    pub async fn sweep(&self) {
        for (tenant, after) in self.counters.swept().await.unwrap() {
            assert_eq!(tenant, self.tenant);
            let deltas = self.ledger.log(after);
            self.counters
                .sweep(self.place(), &deltas, self.ledger.committed())
                .await
                .unwrap();
        }
    }
}

/// An event of [`owner`] without a hold, charged at a time.
pub fn usage(charge_time_us: i64, amounts: Amounts) -> Delta {
    Delta {
        position: 0,
        charge_time_us,
        owner: owner(),
        provider: "p".into(),
        lines: vec![("m".into(), amounts)],
        settles: None,
        tool: false,
    }
}

/// The event `event_id`, which settles a hold.
pub fn settling(hold: &Hold, event_id: &str, amounts: Amounts) -> Delta {
    Delta {
        owner: hold.owner.clone(),
        provider: hold.provider.clone(),
        lines: vec![(hold.model.clone(), amounts)],
        settles: Some((hold.reservation_id.clone(), event_id.to_owned())),
        ..usage(hold.admit_us, amounts)
    }
}

/// The void of an event that was recorded.
pub fn void(delta: &Delta) -> Delta {
    let negative =
        |(model, amounts): &(String, Amounts)| (model.clone(), Amounts::ZERO.minus(amounts));
    Delta {
        lines: delta.lines.iter().map(negative).collect(),
        settles: None,
        ..delta.clone()
    }
}
