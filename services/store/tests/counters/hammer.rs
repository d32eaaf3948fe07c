//! no_overspend with many callers at once: 64 of them hammer limits of every scope, while the clock goes on and the log is swept.
//!
//! The judge knows what callers know. A hold is on its list from when it was answered until just before
//! its release is sent or its time is over, and then what it used, as far as it was held. So at any moment
//! counters have at least what is on the list, and the list may never come to more than a limit.

use std::sync::{Arc, Mutex};

use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Amounts, Metric, Scope, Window, Zoned};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::counters::{
    Admission, Ask, Change, CounterKey, Counters, Delta, Extend, Found, Hold, Known, Owner, Place,
    Rule,
};

use super::ledger::{Ledger, share};
use super::random::seed;
use super::world::{settling, usage, void};
use super::{MINUTE, SECOND, Store, T0, TestClock, ask, call, fingerprint, rule};

const CALLERS: u64 = 64;
const STEPS: u64 = 24;

/// Random numbers of which each caller has its own sequence.
struct Dice(u64);

impl Dice {
    /// A number below `n`.
    fn roll(&mut self, n: u64) -> u64 {
        // An xorshift generator, which never leaves 0 once it is there.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn amount(&mut self, n: u64) -> i64 {
        i64::try_from(self.roll(n)).unwrap()
    }
}

/// A call on the judge's list.
#[derive(Debug, Clone)]
struct Entry {
    hold: Hold,
    /// What counts at least: what is held, or of what was used as much as was held.
    amounts: Amounts,
    /// Whether its usage was told, so that its hold does not expire any more.
    settled: bool,
}

#[derive(Default)]
struct Book {
    ledger: Ledger,
    list: Vec<Entry>,
    granted: u64,
    refused: u64,
}

impl Book {
    fn entry(&mut self, hold: &Hold) -> Option<&mut Entry> {
        let mut list = self.list.iter_mut();
        list.find(|one| one.hold.reservation_id == hold.reservation_id)
    }

    fn take_off(&mut self, hold: &Hold) {
        self.list
            .retain(|one| one.hold.reservation_id != hold.reservation_id);
    }

    fn check(&self, zoned: &Zoned, now_us: i64) {
        for owner in (0..4).map(who) {
            for rule in rules(&owner) {
                let key = rule.counter().expect("no rule is of single requests");
                let open_from = key.window.open_from(zoned, now_us);
                let open = |one: &&Entry| key.window.bucket(zoned, one.hold.admit_us) >= open_from;
                let open = self.list.iter().filter(open);
                let sum: i64 = open
                    .map(|one| counted(&key, one).of(rule.limit.metric))
                    .sum();
                assert!(sum <= rule.limit.amount, "no_overspend: {sum} of {rule:?}");
            }
        }
    }
}

/// What an entry counts in a counter.
fn counted(key: &CounterKey, entry: &Entry) -> Amounts {
    let usage = Delta {
        owner: entry.hold.owner.clone(),
        ..usage(entry.hold.admit_us, entry.amounts)
    };
    share(key, &usage)
}

/// The smaller in every metric.
fn smaller(one: &Amounts, other: &Amounts) -> Amounts {
    Amounts {
        requests: one.requests.min(other.requests),
        input: one.input.min(other.input),
        uncached_input: one.uncached_input.min(other.uncached_input),
        output: one.output.min(other.output),
        cost_nano_usd: one.cost_nano_usd.min(other.cost_nano_usd),
    }
}

fn who(n: u64) -> Owner {
    Owner {
        user_id: format!("u{n}"),
        team_id: format!("t{}", n % 2),
        session_id: format!("s{n}"),
        api_key_id: format!("k{}", n / 2),
    }
}

/// One rule of every scope, each of which some calls do not fit.
fn rules(owner: &Owner) -> Vec<Rule> {
    [
        rule(Scope::Tenant, Metric::TotalTokens, Window::Hour, 15_000),
        rule(Scope::Team, Metric::Cost, Window::Day, 150_000),
        rule(Scope::User, Metric::Requests, Window::Minute, 90),
        rule(Scope::Session, Metric::InputTokens, Window::Session, 5_000),
        rule(Scope::ApiKey, Metric::OutputTokens, Window::Month, 9_000),
    ]
    .into_iter()
    .map(|rule| Rule {
        subject: owner.subject(rule.limit.scope).unwrap().into(),
        ..rule
    })
    .collect()
}

/// What all callers share.
struct Field<C> {
    counters: C,
    clock: TestClock,
    tenant: TenantId,
    zoned: Zoned,
    book: Mutex<Book>,
}

impl<C: Counters> Field<C> {
    fn place(&self) -> Place<'_> {
        Place {
            tenant: &self.tenant,
            zoned: &self.zoned,
            position: self.book.lock().unwrap().ledger.committed(),
        }
    }

    async fn seed(&self, keys: &[CounterKey]) {
        let (seeds, seen) = {
            let book = self.book.lock().unwrap();
            book.ledger.seeds(&self.zoned, keys, self.clock.now())
        };
        let place = self.place();
        self.counters.seed(place, seeds, &seen).await.unwrap();
    }

    async fn admit(&self, ask: &Ask) -> Option<Hold> {
        loop {
            match self.counters.admit(self.place(), ask).await.unwrap() {
                Known::Cold(keys) => self.seed(&keys).await,
                Known::Answer(Admission::Admitted { hold, .. }) => {
                    let mut book = self.book.lock().unwrap();
                    book.granted += 1;
                    if hold.expire_us > self.clock.now() {
                        book.list.push(Entry {
                            amounts: hold.amounts,
                            hold: hold.clone(),
                            settled: false,
                        });
                    }
                    book.check(&self.zoned, self.clock.now());
                    return Some(hold);
                }
                Known::Answer(Admission::Refused { .. }) => {
                    self.book.lock().unwrap().refused += 1;
                    return None;
                }
                Known::Answer(other) => panic!("{other:?}"),
            }
        }
    }

    async fn extend(&self, hold: Hold, amounts: Amounts, rules: &[Rule]) -> Hold {
        if let Some(entry) = self.book.lock().unwrap().entry(&hold) {
            entry.amounts = smaller(&entry.amounts, &amounts);
        }
        let ask = Extend {
            request_id: "x".into(),
            fingerprint: fingerprint("x"),
            reservation_id: hold.reservation_id.clone(),
            amounts: Some(amounts),
            life_us: None,
            rules: rules.into(),
        };
        let answer = self.counters.extend(self.place(), &ask).await.unwrap();
        let mut book = self.book.lock().unwrap();
        let Known::Answer(Change::Changed { hold, .. }) = answer else {
            return hold;
        };
        if let Some(entry) = book.entry(&hold) {
            entry.amounts = hold.amounts;
            entry.hold = hold.clone();
        }
        book.check(&self.zoned, self.clock.now());
        hold
    }

    async fn release(&self, hold: &Hold, rules: &[Rule]) {
        self.book.lock().unwrap().take_off(hold);
        let step = self
            .counters
            .release(self.place(), &hold.reservation_id, rules);
        assert!(matches!(
            step.await.unwrap(),
            Known::Answer(Change::Changed { .. })
        ));
    }

    /// Records usage of a hold, or leaves it to the sweeper to tell, and voids it perhaps.
    async fn record(&self, hold: &Hold, used: Amounts, told: bool, voided: bool) {
        let delta = {
            let mut book = self.book.lock().unwrap();
            if let Some(entry) = book.entry(hold) {
                entry.amounts = smaller(&entry.amounts, &used);
            }
            let event_id = format!("e-{}", hold.reservation_id);
            book.ledger.write(settling(hold, &event_id, used))
        };
        if told {
            let deltas = [(delta.clone(), Vec::new().into())];
            let applied = self.counters.apply(self.place(), &deltas).await.unwrap();
            let mut book = self.book.lock().unwrap();
            match (&applied[0].found, book.entry(hold)) {
                (Found::Settled(_), Some(entry)) => entry.settled = true,
                (Found::Settled(_) | Found::Ended(_), _) => book.take_off(hold),
                (other, _) => panic!("{other:?}"),
            }
            book.check(&self.zoned, self.clock.now());
        }
        if voided {
            let undo = {
                let mut book = self.book.lock().unwrap();
                book.take_off(hold);
                book.ledger.write(void(&delta))
            };
            let deltas = [(undo, Vec::new().into())];
            self.counters.apply(self.place(), &deltas).await.unwrap();
        }
    }

    async fn caller(self: Arc<Self>, n: u64, mut dice: Dice) {
        for step in 0..STEPS {
            let owner = who(dice.roll(4));
            let rules = rules(&owner);
            let asked = call(dice.amount(40), dice.amount(60));
            let life_us = [5 * SECOND, MINUTE, 10 * MINUTE][usize::try_from(dice.roll(3)).unwrap()];
            let ask = Ask {
                owner,
                life_us,
                ..ask(&format!("{n}-{step}"), asked, &rules)
            };
            let hold = self.admit(&ask).await;
            self.pass(dice.amount(100_000));
            if dice.roll(16) == 0 {
                self.sweep().await;
            }
            // Others ask while this call runs.
            for _ in 0..dice.roll(8) {
                tokio::task::yield_now().await;
            }
            let Some(mut hold) = hold else {
                continue;
            };
            if dice.roll(3) == 0 {
                let amounts = call(dice.amount(60), dice.amount(60));
                hold = self.extend(hold, amounts, &rules).await;
            }
            let used = smaller(&call(dice.amount(40), dice.amount(60)), &hold.amounts);
            match dice.roll(8) {
                0 => {}
                1 | 2 => self.release(&hold, &rules).await,
                _ => {
                    self.record(&hold, used, dice.roll(4) > 0, dice.roll(6) == 0)
                        .await
                }
            }
        }
    }

    /// Follows the log.
    async fn sweep(&self) {
        for (_, after) in self.counters.swept().await.unwrap() {
            let (deltas, through) = {
                let book = self.book.lock().unwrap();
                (book.ledger.log(after), book.ledger.committed())
            };
            let place = self.place();
            self.counters.sweep(place, &deltas, through).await.unwrap();
        }
    }

    /// Lets time pass, when the judge has taken off what it ends.
    fn pass(&self, us: i64) {
        let mut book = self.book.lock().unwrap();
        let now_us = self.clock.now() + us;
        let lives = |one: &Entry| one.settled || one.hold.expire_us > now_us;
        book.list.retain(lives);
        self.clock.set(now_us);
    }
}

/// However many callers race, admitted holds and what they used never pass a limit; and at the end
/// nothing is held that should not be.
pub fn no_overspend<S: Store>() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .build()
        .unwrap();
    runtime.block_on(async {
        let seed = seed();
        println!("TOKENMETER_TEST_SEED={seed}");
        let store = S::fresh();
        let clock = TestClock::at(T0);
        let field = Arc::new(Field {
            counters: store.open(clock.clock()).await,
            clock,
            tenant: TenantId::new("a").unwrap(),
            zoned: Zoned::always(Zone::utc()),
            book: Mutex::default(),
        });
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..CALLERS {
            let dice = Dice((seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
            callers.spawn(Arc::clone(&field).caller(n, dice));
        }
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
        field.sweep().await;
        field.pass(11 * MINUTE);
        field.counters.expire().await.unwrap();
        let holds = field.counters.holds(&field.tenant).await.unwrap();
        assert_eq!(holds, [], "nothing is held that should not be");
        for rule in (0..4).flat_map(|n| rules(&who(n))) {
            let standings = field
                .counters
                .standings(field.place(), std::slice::from_ref(&rule));
            let Known::Answer(standings) = standings.await.unwrap() else {
                panic!("it was asked of before");
            };
            let book = field.book.lock().unwrap();
            let key = rule.counter().unwrap();
            let sum = book.ledger.sum(&field.zoned, &key, field.clock.now());
            let figures = (standings[0].used, standings[0].held);
            assert_eq!(figures, (sum.of(rule.limit.metric), 0), "{rule:?}");
        }
        let book = field.book.lock().unwrap();
        println!("{} admitted, {} refused", book.granted, book.refused);
        assert!(book.granted > 100 && book.refused > 100);
    });
}
