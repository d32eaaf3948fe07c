//! The service on a real ledger and real counters, with a clock that tests set.

#![allow(dead_code)] // each test binary uses a part

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;
use tokenmeter_identity::{Caller, Roles};
use tokenmeter_metering::Metering;
use tokenmeter_metering::admission::Admission;
use tokenmeter_model::fingerprint::Canonical;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Enforcement, Limit, Metric, Scope, Window};
use tokenmeter_model::price::shipped;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::books::Books;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::counters::memory::Memory;
use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::ledger::correction::Request;
use tokenmeter_store::ledger::limits::{LimitChange, LimitOutcome};
use tokenmeter_store::rules::Rules;
use tokenmeter_store::sqlite::Sqlite;

/// 2026-11-10T12:00:00Z.
pub(crate) const NOON_US: i64 = 1_794_312_000_000_000;
pub(crate) const SECOND_US: i64 = 1_000_000;

pub(crate) struct Service {
    pub(crate) metering: Metering,
    pub(crate) admission: Arc<Admission>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) books: Arc<Books>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) caller: Caller,
    now_us: Arc<AtomicI64>,
    clock: Clock,
    folder: TempDir,
}

pub(crate) async fn service() -> Service {
    let folder = tempfile::tempdir().unwrap();
    let ledger: Arc<dyn Ledger> =
        Arc::new(Sqlite::open(&folder.path().join("t.db")).await.unwrap());
    let prices = shipped().unwrap();
    ledger.add_prices(None, prices, NOON_US).await.unwrap();
    let books = Arc::new(Books::new(Arc::clone(&ledger)));
    let rules = Arc::new(Rules::new(Arc::clone(&ledger), Zone::utc()));
    let now_us = Arc::new(AtomicI64::new(NOON_US));
    let clock: Clock = {
        let now_us = Arc::clone(&now_us);
        Arc::new(move || now_us.load(Ordering::Relaxed))
    };
    let admission = admission(&folder, &ledger, &books, &rules, &clock);
    Service {
        metering: Metering::new(
            Arc::clone(&ledger),
            Arc::clone(&books),
            Arc::clone(&clock),
            Arc::clone(&admission),
        ),
        admission,
        ledger,
        books,
        rules,
        caller: Caller {
            tenant: TenantId::new("acme").unwrap(),
            user: "ann".into(),
            team_id: String::new(),
            api_key_id: String::new(),
            roles: Roles::all(),
        },
        now_us,
        clock,
        folder,
    }
}

fn admission(
    folder: &TempDir,
    ledger: &Arc<dyn Ledger>,
    books: &Arc<Books>,
    rules: &Arc<Rules>,
    clock: &Clock,
) -> Arc<Admission> {
    let journal = folder.path().join("holds");
    Arc::new(Admission::new(
        Arc::clone(ledger),
        Arc::clone(books),
        Arc::new(Memory::open(Some(&journal), Arc::clone(clock)).unwrap()),
        Arc::clone(rules),
        Arc::clone(clock),
    ))
}

impl Service {
    pub(crate) fn pass(&self, us: i64) {
        self.now_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Loses everything that is in memory, as the end of a process does.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            metering,
            admission: old,
            ledger,
            books,
            rules,
            caller,
            now_us,
            clock,
            folder,
        } = self;
        old.close().await;
        drop((metering, old));
        let admission = admission(&folder, &ledger, &books, &rules, &clock);
        Self {
            metering: Metering::new(
                Arc::clone(&ledger),
                Arc::clone(&books),
                Arc::clone(&clock),
                Arc::clone(&admission),
            ),
            admission,
            ledger,
            books,
            rules,
            caller,
            now_us,
            clock,
            folder,
        }
    }

    /// Makes a change of limits, effective at once.
    pub(crate) async fn change(&self, request_id: &str, change: LimitChange) {
        let request = Request {
            tenant: self.caller.tenant.clone(),
            request_id: request_id.into(),
            rpc: "Test",
            fingerprint: Canonical::new().text(request_id).finish(),
            user_id: "root".into(),
            at_us: (self.clock)(),
        };
        let outcome = self.ledger.change_limits(request, change).await.unwrap();
        assert!(matches!(outcome, LimitOutcome::Done { .. }), "{outcome:?}");
        self.rules.refresh().await.unwrap();
    }

    /// Gives a user these limits and no others.
    pub(crate) async fn limits_of(&self, user: &str, limits: Vec<Limit>) {
        let assign = LimitChange::Assign {
            scope: Scope::User,
            subject: user.into(),
            profile_id: "unlimited".into(),
        };
        self.change(&format!("assign {user}"), assign).await;
        let own = LimitChange::SetLimits {
            scope: Scope::User,
            subject: user.into(),
            limits,
        };
        self.change(&format!("limits {user}"), own).await;
    }
}

pub(crate) fn limit(metric: Metric, window: Window, amount: i64) -> Limit {
    Limit {
        name: String::new(),
        scope: Scope::User,
        metric,
        window,
        amount,
        enforcement: Enforcement::Block,
        hard: false,
        alert_percents: Vec::new(),
        provider: String::new(),
        model: String::new(),
    }
}
