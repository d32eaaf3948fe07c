//! Every backend of the port `Counters` against the protocol of docs/adr/0015: one test a rule, and
//! random steps against a plain reference.

pub mod admission;
pub mod folding;
pub mod hammer;
pub mod holds;
pub mod ledger;
pub mod memory;
pub mod random;
pub mod reference;
pub mod windows;
pub mod world;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokenmeter_model::fingerprint::{Canonical, Fingerprint};
use tokenmeter_model::limit::{Amounts, Enforcement, Limit, Metric, Scope, Window};
use tokenmeter_store::clock::Clock;
use tokenmeter_store::counters::{Ask, Counters, Owner, Rule};

/// 2026-07-15 12:00:00 UTC.
pub const T0: i64 = 1_784_116_800_000_000;
pub const SECOND: i64 = 1_000_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// Where a backend keeps what outlives its process.
pub trait Store: Send + Sync + 'static {
    /// The backend.
    type Counters: Counters;

    /// A new, empty place.
    fn fresh() -> Self;

    /// Opens the counters that are kept here: a new process.
    fn open(&self, clock: Clock) -> impl Future<Output = Self::Counters> + Send;
}

/// A clock that stands until it is set.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub fn at(now_us: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_us)))
    }

    pub fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn set(&self, now_us: i64) {
        self.0.store(now_us, Ordering::SeqCst);
    }

    pub fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Arc::new(move || now.load(Ordering::SeqCst))
    }
}

/// A user with a team, a session and a key.
pub fn owner() -> Owner {
    Owner {
        user_id: "u".into(),
        team_id: "t".into(),
        session_id: "s".into(),
        api_key_id: "k".into(),
    }
}

/// One request with so many tokens; each costs 10 nano-USD.
pub fn call(input: i64, output: i64) -> Amounts {
    Amounts {
        requests: 1,
        input,
        uncached_input: input,
        output,
        cost_nano_usd: 10 * (input + output),
    }
}

/// A blocking rule on the subject that [`owner`] is in that scope, for every provider and model.
pub fn rule(scope: Scope, metric: Metric, window: Window, amount: i64) -> Rule {
    let limit = Limit {
        name: String::new(),
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
    Rule {
        subject: owner().subject(scope).unwrap().into(),
        limit: Arc::new(Limit {
            name: limit.default_name(),
            ..limit
        }),
        profile_id: "free".into(),
        base: Amounts::ZERO,
    }
}

/// The most that a user may do in a minute.
pub fn per_minute(requests: i64) -> Rule {
    rule(Scope::User, Metric::Requests, Window::Minute, requests)
}

/// The most tokens that a user may use in a month.
pub fn per_month(tokens: i64) -> Rule {
    rule(Scope::User, Metric::TotalTokens, Window::Month, tokens)
}

/// The rule with another limit.
pub fn with(rule: &Rule, change: impl FnOnce(&mut Limit)) -> Rule {
    let mut limit = Limit::clone(&rule.limit);
    change(&mut limit);
    Rule {
        limit: Arc::new(limit),
        ..rule.clone()
    }
}

/// The fingerprint of a text.
pub fn fingerprint(text: &str) -> Fingerprint {
    Canonical::new().text(text).finish()
}

/// Asks for a call of [`owner`] with model `m` of provider `p`; the request `name` is for the
/// reservation `r-name`.
pub fn ask(name: &str, amounts: Amounts, rules: &[Rule]) -> Ask {
    Ask {
        request_id: name.to_owned(),
        fingerprint: fingerprint(name),
        reservation_id: format!("r-{name}"),
        owner: owner(),
        provider: "p".into(),
        model: "m".into(),
        price_version: Some(7),
        amounts,
        life_us: 10 * MINUTE,
        rules: rules.into(),
        dry_run: false,
    }
}
