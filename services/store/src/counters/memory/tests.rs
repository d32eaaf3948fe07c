//! Steps of one tenant, on a clock that stands still unless it is set.

mod journal;

use std::sync::atomic::AtomicI64;

use tokenmeter_model::limit::{Amounts, Enforcement, Limit, Metric, Scope, Window, Zoned};
use tokenmeter_model::zone::Zone;

use super::*;
use crate::counters::{Found, HoldState, Owner};

const SECOND_US: i64 = 1_000_000;
/// 2026-03-15T12:00:00Z.
const NOON_US: i64 = 1_773_576_000 * SECOND_US;

/// Counters with a clock to set, and one tenant.
struct Bench {
    counters: Memory,
    clock: Arc<AtomicI64>,
    tenant: TenantId,
    zoned: Zoned,
    position: i64,
}

impl Bench {
    fn new() -> Self {
        Self::on(|clock| Memory::open(None, clock).unwrap())
    }

    fn on(open: impl FnOnce(Clock) -> Memory) -> Self {
        let clock = Arc::new(AtomicI64::new(NOON_US));
        let read = Arc::clone(&clock);
        Self {
            counters: open(Arc::new(move || read.load(Ordering::Relaxed))),
            clock,
            tenant: TenantId::new("acme").unwrap(),
            zoned: Zoned::always(Zone::utc()),
            position: 0,
        }
    }

    fn place(&self) -> Place<'_> {
        Place {
            tenant: &self.tenant,
            zoned: &self.zoned,
            position: self.position,
        }
    }

    fn later(&self, seconds: i64) {
        self.clock.fetch_add(seconds * SECOND_US, Ordering::Relaxed);
    }

    /// Seeds what is cold with nothing.
    async fn warm(&self, rules: &[Rule]) {
        if let Known::Cold(keys) = self.counters.standings(self.place(), rules).await.unwrap() {
            let seed = |key| Seed {
                key,
                buckets: Vec::new(),
            };
            let seeds = keys.into_iter().map(seed).collect();
            let seen = Seen::through(self.position);
            self.counters
                .seed(self.place(), seeds, &seen)
                .await
                .unwrap();
        }
    }

    async fn admit(&self, ask: &Ask) -> Admission {
        match self.counters.admit(self.place(), ask).await.unwrap() {
            Known::Answer(answer) => answer,
            Known::Cold(keys) => panic!("cold: {keys:?}"),
        }
    }

    async fn apply(&self, delta: &Delta, rules: &Arc<[Rule]>) -> Applied {
        let deltas = [(delta.clone(), Arc::clone(rules))];
        let applied = self.counters.apply(self.place(), &deltas).await.unwrap();
        applied.into_iter().next().unwrap()
    }

    /// Where the hold of a request stands.
    async fn state(&self, name: &str) -> Option<HoldState> {
        let reservation = format!("hold-{name}");
        let hold = self.counters.hold(&self.tenant, &reservation);
        hold.await.unwrap().map(|hold| hold.state)
    }

    async fn standing(&self, rules: &[Rule]) -> Standing {
        match self.counters.standings(self.place(), rules).await.unwrap() {
            Known::Answer(standings) => standings[0],
            Known::Cold(keys) => panic!("cold: {keys:?}"),
        }
    }
}

fn rules(scope: Scope, metric: Metric, window: Window, amount: i64) -> Arc<[Rule]> {
    let limit = Limit {
        name: "one".to_owned(),
        scope,
        metric,
        window,
        amount,
        enforcement: Enforcement::Block,
        hard: false,
        alert_percents: Vec::new(),
        provider: String::new(),
        model: String::new(),
    };
    let rule = Rule {
        limit: Arc::new(limit),
        subject: owner().subject(scope).unwrap().into(),
        profile_id: "".into(),
        base: Amounts::ZERO,
    };
    Arc::new([rule])
}

fn none() -> Arc<[Rule]> {
    Arc::new([])
}

fn owner() -> Owner {
    Owner {
        user_id: "ann".to_owned(),
        session_id: "s1".to_owned(),
        ..Owner::default()
    }
}

/// Asks for one request of 100 input tokens.
fn ask(name: &str, rules: &Arc<[Rule]>) -> Ask {
    Ask {
        request_id: format!("request-{name}"),
        fingerprint: [1; 17],
        reservation_id: format!("hold-{name}"),
        owner: owner(),
        provider: "openai".to_owned(),
        model: "m".to_owned(),
        price_version: None,
        amounts: amounts(100),
        life_us: 600 * SECOND_US,
        rules: Arc::clone(rules),
        dry_run: false,
    }
}

/// A request with input tokens.
fn amounts(input: i64) -> Amounts {
    Amounts {
        requests: 1,
        input,
        uncached_input: input,
        ..Amounts::ZERO
    }
}

/// An event of now with 80 input tokens.
fn delta(position: i64, reservation: Option<&str>) -> Delta {
    Delta {
        position,
        charge_time_us: NOON_US,
        owner: owner(),
        provider: "openai".to_owned(),
        lines: vec![("m".to_owned(), amounts(80))],
        settles: reservation.map(|name| (format!("hold-{name}"), format!("event-{position}"))),
        tool: false,
    }
}

#[tokio::test]
async fn a_limit_admits_what_fits_and_gets_back_what_ends() {
    let bench = Bench::new();
    let rules = rules(Scope::User, Metric::InputTokens, Window::Month, 250);
    bench.warm(&rules).await;
    for name in ["a", "b"] {
        let admission = bench.admit(&ask(name, &rules)).await;
        assert!(matches!(
            admission,
            Admission::Admitted {
                replayed: false,
                ..
            }
        ));
    }
    let refused = bench.admit(&ask("c", &rules)).await;
    let Admission::Refused { rule: 0, standings } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((standings[0].used, standings[0].held), (0, 200));
    assert!(standings[0].exceeded);
    // The end of March.
    assert_eq!(standings[0].retry_us, Some(1_775_001_600 * SECOND_US));

    let settled = bench.apply(&delta(7, Some("a")), &rules).await;
    assert!(matches!(settled.found, Found::Settled(hold) if hold.event_id == "event-7"));
    let standing = bench.standing(&rules).await;
    assert_eq!((standing.used, standing.held), (80, 100));
    bench.later(600);
    bench.counters.expire().await.unwrap();
    assert_eq!(bench.standing(&rules).await.held, 0);
    let hold = bench.counters.hold(&bench.tenant, "hold-b").await.unwrap();
    assert_eq!(hold.unwrap().state, HoldState::Expired);
}

#[tokio::test]
async fn a_change_counts_once_whoever_tells_of_it() {
    let bench = Bench::new();
    let rules = rules(Scope::Tenant, Metric::Requests, Window::Day, 10);
    bench.warm(&rules).await;
    assert!(bench.apply(&delta(7, None), &rules).await.counted);
    assert!(!bench.apply(&delta(7, None), &rules).await.counted);
    let log = [delta(5, None), delta(7, None)];
    bench.counters.sweep(bench.place(), &log, 9).await.unwrap();
    assert_eq!(bench.standing(&rules).await.used, 2);
    assert!(!bench.apply(&delta(5, None), &rules).await.counted);
    assert_eq!(bench.standing(&rules).await.used, 2);
}

/// A seed of nothing for every counter of these rules, as a reading through a position.
async fn seed_through(bench: &Bench, rules: &[Rule], through: i64) {
    let keys = rules.iter().filter_map(Rule::counter);
    let seeds = keys.map(|key| Seed {
        key,
        buckets: Vec::new(),
    });
    let seen = Seen::through(through);
    let seeded = bench.counters.seed(bench.place(), seeds.collect(), &seen);
    seeded.await.unwrap();
}

async fn is_cold(bench: &Bench, rules: &[Rule]) -> bool {
    let standings = bench.counters.standings(bench.place(), rules);
    matches!(standings.await.unwrap(), Known::Cold(_))
}

#[tokio::test]
async fn a_reading_from_before_is_not_taken() {
    let bench = Bench::new();
    let (month, day) = (Window::Month, Window::Day);
    let month = rules(Scope::User, Metric::Requests, month, 10);
    let day = rules(Scope::User, Metric::Requests, day, 10);
    bench.warm(&month).await;
    bench.apply(&delta(7, None), &month).await;
    assert!(is_cold(&bench, &day).await);
    // It was told of 7 before the counter of the day was begun: who read before that has to read again.
    seed_through(&bench, &day, 6).await;
    assert!(is_cold(&bench, &day).await);
    bench.apply(&delta(8, None), &month).await;
    seed_through(&bench, &day, 7).await;
    assert_eq!(bench.standing(&day).await.used, 1);
    assert_eq!(bench.standing(&month).await.used, 2);
}

#[tokio::test]
async fn estimates_of_tools_during_a_reading_ask_for_another() {
    let bench = Bench::new();
    let rules = rules(Scope::Session, Metric::TotalTokens, Window::Budget, 1_000);
    assert!(is_cold(&bench, &rules).await);
    let tool = Delta {
        tool: true,
        ..delta(0, None)
    };
    bench.apply(&tool, &rules).await;
    seed_through(&bench, &rules, 0).await;
    assert!(is_cold(&bench, &rules).await);
    seed_through(&bench, &rules, 0).await;
    bench.apply(&tool, &rules).await;
    assert_eq!(bench.standing(&rules).await.used, 80);
}

#[tokio::test]
async fn counters_that_nobody_asks_leave_unless_something_is_held() {
    let bench = Bench::new();
    let user = rules(Scope::User, Metric::Requests, Window::Month, 10);
    let tenant = rules(Scope::Tenant, Metric::Requests, Window::Month, 10);
    let key = Rule {
        subject: "other".into(),
        ..user[0].clone()
    };
    let other: Arc<[Rule]> = Arc::new([key]);
    for rules in [&user, &tenant, &other] {
        bench.warm(rules).await;
    }
    bench.admit(&ask("a", &user)).await;
    bench.counters.drop_idle();
    assert!(is_cold(&bench, &other).await);
    assert!(!is_cold(&bench, &user).await && !is_cold(&bench, &tenant).await);
    assert_eq!(bench.counters.counters.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn bounds_refuse_and_change_nothing() {
    let bench = Bench::new();
    let rules = rules(Scope::User, Metric::Requests, Window::Month, 10);
    bench
        .counters
        .active
        .store(MAX_ACTIVE_HOLDS, Ordering::Relaxed);
    bench.warm(&rules).await;
    let refused = bench.counters.admit(bench.place(), &ask("a", &rules)).await;
    assert!(matches!(refused, Err(Error::Full(_))));
    assert_eq!(bench.standing(&rules).await.held, 0);
    bench.counters.active.store(0, Ordering::Relaxed);
    bench.admit(&ask("a", &rules)).await;
    let counters = &bench.counters.counters;
    counters.store(MAX_COUNTERS, Ordering::Relaxed);
    let day = Rule {
        subject: "other".into(),
        ..rules[0].clone()
    };
    let full = bench.counters.standings(bench.place(), &[day]).await;
    assert!(matches!(full, Err(Error::Full(_))));
}

#[tokio::test]
async fn tenants_that_have_nothing_are_forgotten() {
    let bench = Bench::new();
    bench.apply(&delta(7, None), &none()).await;
    bench.admit(&ask("a", &none())).await;
    let tenants = |bench: &Bench| read(&bench.counters.tenants).len();
    bench.later(24 * 3_600 + 599);
    bench.counters.expire().await.unwrap();
    assert_eq!(bench.state("a").await, Some(HoldState::Expired));
    assert_eq!(tenants(&bench), 1);
    bench.later(1);
    assert_eq!(bench.state("a").await, None);
    bench.counters.expire().await.unwrap();
    assert_eq!(tenants(&bench), 0);
}
