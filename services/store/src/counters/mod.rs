//! The port `Counters`: what is used and held in every window that a limit counts.
//!
//! Counters are a fold of the ledger, plus holds (docs/adr/0015). Three rules keep them exact:
//! - A change of the ledger is a [`Delta`] at its position. It counts once, whoever tells of it first,
//!   the call that recorded it or the sweeper that follows the log ([`Counters::apply`],
//!   [`Counters::sweep`]).
//! - A counter that is not known is *cold*: [`Counters::admit`] and the others name it and change
//!   nothing. The caller reads its sums from the ledger and seeds it ([`Counters::seed`]); a seed says
//!   which positions it contains, and deltas at those do not count again.
//! - A hold reserves its amounts in the buckets of its admission time until exactly one of settlement,
//!   release or expiry ends it. Usage of the call counts in the same buckets.

pub mod memory;

use std::sync::Arc;

use async_trait::async_trait;
use tokenmeter_model::fingerprint::Fingerprint;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Amounts, Limit, Scope, Window, Zoned};

/// Ended holds that are remembered at most, over all tenants, so that a replay finds its answer; past
/// the bound the oldest are forgotten before their 24 hours are over.
pub const MAX_ENDED_HOLDS: usize = 1_000_000;
/// How long an ended hold is remembered, in microseconds.
pub const REMEMBERED_US: i64 = 24 * 3_600_000_000;
/// Extensions of a hold whose requests are remembered; past the bound the oldest are forgotten.
pub const MAX_EXTENSIONS: usize = 256;

/// Whose call or event it is; empty means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// The user.
    pub user_id: String,
    /// The team.
    pub team_id: String,
    /// The session.
    pub session_id: String,
    /// The API key.
    pub api_key_id: String,
}

impl Owner {
    /// The subject of a scope; none where the call has none. That of a tenant is empty.
    pub fn subject(&self, scope: Scope) -> Option<&str> {
        let id = match scope {
            Scope::Tenant => return Some(""),
            Scope::Team => &self.team_id,
            Scope::User => &self.user_id,
            Scope::Session => &self.session_id,
            Scope::ApiKey => &self.api_key_id,
        };
        (!id.is_empty()).then_some(id)
    }
}

/// One counter of a tenant: what a subject uses over a window, in every metric.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey {
    /// Whose use counts.
    pub scope: Scope,
    /// The subject; empty for scope tenant.
    pub subject: Arc<str>,
    /// Over which time; never [`Window::Request`], which counts nothing.
    pub window: Window,
    /// Only calls to this provider; empty means all.
    pub provider: Arc<str>,
    /// Only calls of this model; empty means all.
    pub model: Arc<str>,
}

/// A limit as it applies to one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The limit; its name is filled in.
    pub limit: Arc<Limit>,
    /// Whose use counts; empty for scope tenant.
    pub subject: Arc<str>,
    /// The profile that the limit is from; empty for an own limit of the subject.
    pub profile_id: Arc<str>,
    /// What the subject had used when the count was last set back to 0: the base of a session's token
    /// budget. It is taken off what is used.
    pub base: Amounts,
}

impl Rule {
    /// The counter that it is checked against; none for limits of a single request.
    pub fn counter(&self) -> Option<CounterKey> {
        (self.limit.window != Window::Request).then(|| CounterKey {
            scope: self.limit.scope,
            subject: Arc::clone(&self.subject),
            window: self.limit.window,
            provider: self.limit.provider.as_str().into(),
            model: self.limit.model.as_str().into(),
        })
    }
}

/// How a rule stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Settled in the windows that count now, in the metric's unit.
    pub used: i64,
    /// Reserved by calls in flight.
    pub held: i64,
    /// When the window ends, or for sliding ones when enough slides out that something remains again,
    /// in microseconds since the Unix epoch; none for windows that do not end.
    pub reset_us: Option<i64>,
    /// Whether what was asked did not fit (whatever the enforcement).
    pub exceeded: bool,
    /// When what was asked can fit, if nothing else is admitted and holds are settled in full; none if it fits, or never can.
    pub retry_us: Option<i64>,
}

/// Where a hold stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum HoldState {
    /// It reserves its amounts.
    Active,
    /// Usage has settled it.
    Settled,
    /// Its caller gave it back.
    Released,
    /// It ended by itself.
    Expired,
}

/// What a reservation holds, and for which call.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hold {
    /// The reservation.
    pub reservation_id: String,
    /// Whose call it is.
    pub owner: Owner,
    /// The provider, by its OpenTelemetry name.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The price version that settlement has to use; none if unpriced.
    pub price_version: Option<i64>,
    /// What it reserves: one request, tokens, cost.
    pub amounts: Amounts,
    /// Where it stands.
    pub state: HoldState,
    /// When it was admitted by the counters' clock: the charge time of its usage, in microseconds since
    /// the Unix epoch.
    pub admit_us: i64,
    /// When it ends by itself.
    pub expire_us: i64,
    /// The event that settled it; empty unless settled.
    pub event_id: String,
}

/// Asks to admit a call.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The request: an ALLOWED is replayed while its hold lives and [`REMEMBERED_US`] after.
    pub request_id: String,
    /// Of what the request asks for.
    pub fingerprint: Fingerprint,
    /// The reservation to make, unless the request was admitted before.
    pub reservation_id: String,
    /// Whose call it is.
    pub owner: Owner,
    /// The provider, by its OpenTelemetry name.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The price version that the hold pins.
    pub price_version: Option<i64>,
    /// What to hold.
    pub amounts: Amounts,
    /// How long the hold lives, in microseconds.
    pub life_us: i64,
    /// Every limit that applies, in the order in which they are checked.
    pub rules: Arc<[Rule]>,
    /// Whether to decide only.
    pub dry_run: bool,
}

/// An answer, unless counters are cold: then nothing was changed, and they are to be seeded first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known<T> {
    /// These counters have to be seeded; deltas are kept for them from now on.
    Cold(Vec<CounterKey>),
    /// The answer.
    Answer(T),
}

/// What was decided about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // it lives as long as the answer, and is admitted as a rule
pub enum Admission {
    /// It may run.
    Admitted {
        /// What it holds; in a dry run what it would.
        hold: Hold,
        /// Whether the request was admitted before, and this is what it holds now.
        replayed: bool,
        /// How each rule stands after it, in the order of the rules.
        standings: Vec<Standing>,
    },
    /// It may not; nothing is held.
    Refused {
        /// The first rule that refused, by its place among the rules.
        rule: usize,
        /// How each rule stands.
        standings: Vec<Standing>,
    },
    /// The request's name stands for another request; nothing changed.
    RequestConflict,
}

/// Asks for another size or life of a hold.
#[derive(Debug, Clone)]
pub struct Extend {
    /// The request: what was granted is answered again, without a second effect, however late it comes.
    pub request_id: String,
    /// Of what the request asks for.
    pub fingerprint: Fingerprint,
    /// The hold.
    pub reservation_id: String,
    /// The new absolute amounts; none leaves them.
    pub amounts: Option<Amounts>,
    /// How long the hold shall live from now, in microseconds; none leaves its end.
    pub life_us: Option<i64>,
    /// Every limit that applies.
    pub rules: Arc<[Rule]>,
}

/// What was decided about a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was changed as asked, now or by the same request before.
    Changed {
        /// The hold as that left it.
        hold: Hold,
        /// How each rule stands now.
        standings: Vec<Standing>,
    },
    /// It does not fit; the hold stays as it was.
    Refused {
        /// The hold.
        hold: Hold,
        /// The first rule that refused.
        rule: usize,
        /// How each rule stands.
        standings: Vec<Standing>,
    },
    /// The hold has ended (see its state); nothing changed.
    Ended(Hold),
    /// No such hold is known.
    NotFound,
    /// The request's name stands for another request; nothing changed.
    RequestConflict,
}

/// One change that the ledger holds: what an event, its void or a new price of it adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// Its place in commit order: the last position that it wrote. Names the delta.
    pub position: i64,
    /// When it is charged, in microseconds since the Unix epoch.
    pub charge_time_us: i64,
    /// Whose usage it is.
    pub owner: Owner,
    /// The provider.
    pub provider: String,
    /// What each line adds, by model; negative in voids.
    pub lines: Vec<(String, Amounts)>,
    /// The reservation that the event names, and the event: it settles the hold if that is active, or
    /// has expired. None in voids and reprices.
    pub settles: Option<(String, String)>,
    /// Whether it is estimated tokens of a tool: it counts in [`Window::Budget`] only, is in no log, and
    /// has no position of its own (0).
    pub tool: bool,
}

/// What an event found at its reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The event names none.
    NoReservation,
    /// The hold was active, and is settled now, or was by this very event.
    Settled(Hold),
    /// The hold had ended before.
    Ended(Hold),
    /// No such hold is known.
    Unknown,
}

/// What became of a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What was found at the reservation.
    pub found: Found,
    /// How each rule stands after it; empty if a counter of them is cold.
    pub standings: Vec<Standing>,
    /// Whether it counted now; false if it had before.
    pub counted: bool,
}

/// Which positions of the log a reading contains: all up to one, but for those that were being written.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Seen {
    /// Nothing after this is contained.
    pub through: i64,
    /// Ranges `[from, to]` up to it that are not, rising.
    pub except: Vec<(i64, i64)>,
}

impl Seen {
    /// Everything up to a position.
    pub fn through(position: i64) -> Self {
        Self {
            through: position,
            except: Vec::new(),
        }
    }

    /// Whether a position is contained.
    pub fn contains(&self, position: i64) -> bool {
        position <= self.through
            && !self
                .except
                .iter()
                .any(|(from, to)| (*from..=*to).contains(&position))
    }
}

/// The sums of a counter, as the ledger has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// The counter.
    pub key: CounterKey,
    /// What is settled in each bucket that may still count, by its start.
    pub buckets: Vec<(i64, Amounts)>,
}

/// Why counters could not answer. The text is for logs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached or refused the work; nothing was changed unless an answer was lost.
    #[error("counters unavailable: {0}")]
    Unavailable(String),
    /// A bound of the store is reached.
    #[error("counters full: {0}")]
    Full(String),
}

/// Where a step happens.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Whose counters.
    pub tenant: &'a TenantId,
    /// The tenant's calendar.
    pub zoned: &'a Zoned,
    /// A position of the ledger up to which everything is on disk (`Ledger::committed`): where the
    /// sweep of a tenant that has no counters yet begins.
    pub position: i64,
}

/// What is used and held. Every method is one atomic step within a tenant. The counters' own clock
/// decides about time, and never goes back.
#[async_trait]
pub trait Counters: Send + Sync + 'static {
    /// Decides about a call, and holds its amounts in every counter of its rules, or in none. Refuses
    /// if for any blocking rule used + held + asked would pass the limit; a rule of a single request
    /// refuses what asks for more than it. A dry run changes nothing but that cold counters are begun.
    async fn admit(&self, place: Place<'_>, ask: &Ask) -> Result<Known<Admission>, Error>;

    /// Sets a hold to another size or life. More is granted as [`Counters::admit`] grants it; less
    /// always is.
    async fn extend(&self, place: Place<'_>, extend: &Extend) -> Result<Known<Change>, Error>;

    /// Ends a hold whose call did not run. One that was released or has expired stays so, and answers
    /// [`Change::Changed`]; one that was settled answers [`Change::Ended`].
    async fn release(
        &self,
        place: Place<'_>,
        reservation_id: &str,
        rules: &[Rule],
    ) -> Result<Known<Change>, Error>;

    /// A hold, also for [`REMEMBERED_US`] after its end.
    async fn hold(&self, tenant: &TenantId, reservation_id: &str) -> Result<Option<Hold>, Error>;

    /// Counts changes of the ledger that are on disk, each with the rules whose standings to answer.
    async fn apply(
        &self,
        place: Place<'_>,
        deltas: &[(Delta, Arc<[Rule]>)],
    ) -> Result<Vec<Applied>, Error>;

    /// Counts all changes of a tenant's log after the position that [`Counters::swept`] answers, up to
    /// and with `through`: `deltas` has every one of them.
    async fn sweep(&self, place: Place<'_>, deltas: &[Delta], through: i64) -> Result<(), Error>;

    /// Tenants that have counters or holds, each with the position up to which its log was counted.
    async fn swept(&self) -> Result<Vec<(TenantId, i64)>, Error>;

    /// Makes cold counters known. `seen` says what the sums contain. Of a counter that is known
    /// already nothing changes.
    async fn seed(&self, place: Place<'_>, seeds: Vec<Seed>, seen: &Seen) -> Result<(), Error>;

    /// How rules stand, as if nothing was asked.
    async fn standings(
        &self,
        place: Place<'_>,
        rules: &[Rule],
    ) -> Result<Known<Vec<Standing>>, Error>;

    /// Ends every hold whose time is over. They also end without it, when their tenant is next asked.
    async fn expire(&self) -> Result<(), Error>;

    /// The active holds of a tenant, by reservation; for upkeep and tests.
    async fn holds(&self, tenant: &TenantId) -> Result<Vec<Hold>, Error>;

    /// Answers when counters can be used; the error says why they can not.
    async fn check(&self) -> Result<(), Error>;

    /// Waits until everything decided is kept, and closes the store.
    async fn close(&self);
}
