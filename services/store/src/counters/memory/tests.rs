//! Steps of one tenant, on a clock that stands still unless it is set.

use std::sync::atomic::AtomicI64;

use tokenmeter_model::limit::{Amounts, Enforcement, Limit, Metric, Scope, Window, Zoned};
use tokenmeter_model::zone::Zone;

use super::*;
use crate::counters::{Found, HoldState, Owner};

const SECOND_US: i64 = 1_000_000;
/// 2026-03-15T12:00:00Z.
const NOON_US: i64 = 1_773_576_000 * SECOND_US;

/// Counters with a clock to set, and one tenant.
pub(super) struct Bench {
    pub(super) counters: Memory,
    pub(super) clock: Arc<AtomicI64>,
    tenant: TenantId,
    zoned: Zoned,
    pub(super) position: i64,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::on(|clock| Memory::open(None, clock).unwrap())
    }

    pub(super) fn on(open: impl FnOnce(Clock) -> Memory) -> Self {
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

    pub(super) fn place(&self) -> Place<'_> {
        Place {
            tenant: &self.tenant,
            zoned: &self.zoned,
            position: self.position,
        }
    }

    pub(super) fn later(&self, seconds: i64) {
        self.clock.fetch_add(seconds * SECOND_US, Ordering::Relaxed);
    }

    /// Seeds what is cold with nothing.
    pub(super) async fn warm(&self, rules: &[Rule]) {
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

    pub(super) async fn admit(&self, ask: &Ask) -> Admission {
        match self.counters.admit(self.place(), ask).await.unwrap() {
            Known::Answer(answer) => answer,
            Known::Cold(keys) => panic!("cold: {keys:?}"),
        }
    }

    pub(super) async fn apply(&self, delta: &Delta, rules: &Arc<[Rule]>) -> Applied {
        let deltas = [(delta.clone(), Arc::clone(rules))];
        let applied = self.counters.apply(self.place(), &deltas).await.unwrap();
        applied.into_iter().next().unwrap()
    }

    /// Where the hold of a request stands.
    pub(super) async fn state(&self, name: &str) -> Option<HoldState> {
        let reservation = format!("hold-{name}");
        let hold = self.counters.hold(&self.tenant, &reservation);
        hold.await.unwrap().map(|hold| hold.state)
    }

    pub(super) async fn standing(&self, rules: &[Rule]) -> Standing {
        match self.counters.standings(self.place(), rules).await.unwrap() {
            Known::Answer(standings) => standings[0],
            Known::Cold(keys) => panic!("cold: {keys:?}"),
        }
    }
}

pub(super) fn rules(scope: Scope, metric: Metric, window: Window, amount: i64) -> Arc<[Rule]> {
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

pub(super) fn none() -> Arc<[Rule]> {
    Arc::new([])
}

pub(super) fn owner() -> Owner {
    Owner {
        user_id: "ann".to_owned(),
        session_id: "s1".to_owned(),
        ..Owner::default()
    }
}

/// Asks for one request of 100 input tokens.
pub(super) fn ask(name: &str, rules: &Arc<[Rule]>) -> Ask {
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
pub(super) fn amounts(input: i64) -> Amounts {
    Amounts {
        requests: 1,
        input,
        uncached_input: input,
        ..Amounts::ZERO
    }
}

/// An event of now with 80 input tokens.
pub(super) fn delta(position: i64, reservation: Option<&str>) -> Delta {
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

/// Opens the journal of a folder anew, at the time of another bench.
fn reopened(folder: &tempfile::TempDir, before: Bench) -> Bench {
    let now_us = before.clock.load(Ordering::Relaxed);
    drop(before);
    let bench = journaled(folder);
    bench.clock.store(now_us, Ordering::Relaxed);
    bench
}

fn journaled(folder: &tempfile::TempDir) -> Bench {
    let path = folder.path().join("holds");
    Bench::on(|clock| Memory::open(Some(&path), clock).unwrap())
}

#[tokio::test]
async fn holds_outlive_the_process_with_all_that_happened_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let bench = journaled(&folder);
    let rules = rules(Scope::User, Metric::InputTokens, Window::Month, 1_000);
    bench.warm(&rules).await;
    for name in ["active", "extended", "settled", "released", "expired"] {
        let ask = Ask {
            life_us: if name == "expired" { 5 } else { 600 } * SECOND_US,
            ..ask(name, &rules)
        };
        bench.admit(&ask).await;
    }
    let extend = Extend {
        request_id: "longer".to_owned(),
        fingerprint: [2; 17],
        reservation_id: "hold-extended".to_owned(),
        amounts: Some(amounts(300)),
        life_us: Some(900 * SECOND_US),
        rules: Arc::clone(&rules),
    };
    let extended = bench.counters.extend(bench.place(), &extend).await.unwrap();
    bench.apply(&delta(7, Some("settled")), &rules).await;
    let release = bench
        .counters
        .release(bench.place(), "hold-released", &rules);
    release.await.unwrap();
    bench.later(10);

    let bench = reopened(&folder, bench);
    let mut states = Vec::new();
    for name in ["active", "extended", "settled", "released", "expired"] {
        states.push(bench.state(name).await.unwrap());
    }
    use HoldState::{Active, Expired, Released, Settled};
    assert_eq!(states, [Active, Active, Settled, Released, Expired]);
    bench.warm(&rules).await;
    assert_eq!(bench.standing(&rules).await.held, 400);
    let again = bench.counters.extend(bench.place(), &extend).await.unwrap();
    let (
        Known::Answer(Change::Changed { hold: one, .. }),
        Known::Answer(Change::Changed { hold, .. }),
    ) = (extended, again)
    else {
        panic!("refused");
    };
    assert_eq!(one, hold);
    let replay = bench.admit(&ask("active", &rules)).await;
    assert!(matches!(replay, Admission::Admitted { replayed: true, .. }));
    assert_eq!(
        bench.counters.swept().await.unwrap(),
        [(bench.tenant.clone(), 0)]
    );
}

#[tokio::test]
async fn a_torn_end_of_a_journal_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("holds");
    let bench = journaled(&folder);
    for name in ["a", "b"] {
        bench.admit(&ask(name, &none())).await;
    }
    let bytes = std::fs::read(&path).unwrap();
    drop(bench);
    // Half of the last record, and a last record that is not what was written.
    let mut spoiled = bytes.clone();
    *spoiled.last_mut().unwrap() ^= 1;
    for torn in [&bytes[..bytes.len() - 9], &spoiled[..]] {
        std::fs::write(&path, torn).unwrap();
        let bench = journaled(&folder);
        let names = |holds: Vec<Hold>| holds.into_iter().map(|hold| hold.reservation_id);
        let held = bench.counters.holds(&bench.tenant).await.unwrap();
        assert_eq!(names(held).collect::<Vec<_>>(), ["hold-a"]);
        bench.admit(&ask("c", &none())).await;
        let bench = reopened(&folder, bench);
        let held = bench.counters.holds(&bench.tenant).await.unwrap();
        assert_eq!(names(held).collect::<Vec<_>>(), ["hold-a", "hold-c"]);
    }
    std::fs::write(&path, "something else that is much longer").unwrap();
    let other = Memory::open(Some(&path), crate::clock::system());
    assert!(matches!(other, Err(Error::Unavailable(text)) if text.contains("is no journal")));
}

#[tokio::test]
async fn a_journal_is_open_in_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let bench = journaled(&folder);
    let path = folder.path().join("holds");
    let second = Memory::open(Some(&path), crate::clock::system());
    assert!(matches!(second, Err(Error::Unavailable(text)) if text.contains("another process")));
    bench.counters.close().await;
}

#[tokio::test]
async fn a_journal_that_is_written_anew_has_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("holds");
    let bench = journaled(&folder);
    for n in 0..2_500 {
        bench.admit(&ask(&n.to_string(), &none())).await;
    }
    bench.later(600);
    bench.admit(&ask("late", &none())).await;
    let day = 24 * 3_600;
    bench.later(day - 1);
    bench.counters.expire().await.unwrap();
    bench.admit(&ask("later", &none())).await;
    bench.later(1);
    bench.counters.expire().await.unwrap();
    let before = std::fs::metadata(&path).unwrap().len();
    let journal = bench.counters.journal.clone().unwrap();
    bench.counters.write_anew(&journal).await.unwrap();
    drop(journal);
    bench.admit(&ask("last", &none())).await;
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(after * 100 < before, "{after} of {before} bytes");

    let bench = reopened(&folder, bench);
    for (name, state) in [
        ("late", Some(HoldState::Expired)),
        ("later", Some(HoldState::Active)),
        ("last", Some(HoldState::Active)),
        ("0", None),
    ] {
        assert_eq!(bench.state(name).await, state, "{name}");
    }
}
