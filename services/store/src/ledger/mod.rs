//! The port `Ledger`: the system of record of every event, total and price.

pub mod correction;
pub mod items;
pub mod jobs;
pub mod limits;
pub mod log;
pub mod periods;
pub mod reconcile;
pub mod reports;
pub mod retention;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokenmeter_model::counts::Line;
use tokenmeter_model::event::{Event, Fingerprint, Status};
pub use tokenmeter_model::event::{Recorded, Voided};
use tokenmeter_model::fault::Fault;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::price::{Price, Quote};
use tokenmeter_model::totals::Totals;
use tokio::sync::watch;

use self::correction::{
    PriceSet, PricesOutcome, Remembered, RepriceCandidate, RepriceQuery, RepriceStep, Request,
    Void, VoidOutcome,
};
use self::items::{ItemOutcome, ItemSubmission};

/// An event that passed every check, priced, ready to be recorded.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Whose event it is.
    pub tenant: TenantId,
    /// What the caller supplied.
    pub event: Event,
    /// [`Event::fingerprint`] of it.
    pub fingerprint: Fingerprint,
    /// One quote a line; none means unpriced (R16).
    pub quotes: Vec<Option<Quote>>,
    /// The time it is charged at, in microseconds since the Unix epoch.
    pub charge_time_us: i64,
    /// The server's clock when it arrived, in microseconds since the Unix epoch.
    pub recorded_at_us: i64,
    /// The API key with which it is recorded; empty means other credentials.
    pub api_key_id: String,
}

/// A line with what it was priced at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedLine {
    /// Model, counts and tool requests.
    pub line: Line,
    /// Absent means unpriced.
    pub quote: Option<Quote>,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It stands in the ledger now, from this position on.
    Recorded {
        /// Place of its first line in the ledger's commit order.
        position: i64,
    },
    /// It stood there before with the same payload; this is how it was first recorded (R2).
    Duplicate(Box<Recorded>),
    /// Its id stands there with another payload, this one; nothing changed. `voided` says whether
    /// that event is in force.
    Conflict(Box<Recorded>),
    /// Another event has settled the reservation that it names; nothing changed.
    ReservationSettled {
        /// The event that has.
        event_id: String,
    },
    /// Its charge time is sealed, or its id stands for an event that was dropped; nothing changed.
    TooOld {
        /// The earliest charge time that is accepted, in microseconds since the Unix epoch.
        oldest_us: i64,
    },
}

/// Whose totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    /// One user.
    User(&'a str),
    /// One team.
    Team(&'a str),
    /// One session.
    Session(&'a str),
}

/// A time range `[from_us, to_us)` in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First time in it.
    pub from_us: i64,
    /// First time after it.
    pub to_us: i64,
}

/// Totals of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelTotals {
    /// The provider.
    pub provider: String,
    /// The model as the provider names it.
    pub model: String,
    /// Its totals.
    pub totals: Totals,
}

/// Which events to list; empty and absent fields do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventQuery {
    /// Only this event.
    pub event_id: String,
    /// Only events of this user.
    pub user_id: String,
    /// Only events of this team.
    pub team_id: String,
    /// Only events of this session.
    pub session_id: String,
    /// Only events of this provider.
    pub provider: String,
    /// Only events with a line of this model.
    pub model: String,
    /// Only events that ended so.
    pub statuses: Vec<Status>,
    /// Only events with all of these labels.
    pub labels: Vec<(String, String)>,
    /// Only events of this turn.
    pub turn: Option<i64>,
    /// Only events with a line that waits for a price.
    pub unpriced_only: bool,
    /// Only events charged in this range.
    pub range: Option<Range>,
    /// Only events older than this one (its charge time and position): where the last page ended.
    pub before: Option<(i64, i64)>,
    /// At most so many events.
    pub limit: i64,
}

/// Facts about a session beside its totals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// The user of its first event.
    pub user_id: String,
    /// Distinct users.
    pub users: i64,
    /// Distinct turns.
    pub turns: i64,
    /// Earliest charge time, in microseconds since the Unix epoch.
    pub first_us: i64,
    /// Latest charge time, in microseconds since the Unix epoch.
    pub last_us: i64,
    /// Its totals.
    pub totals: Totals,
    /// Its totals by model, by provider and model.
    pub models: Vec<ModelTotals>,
}

/// What part of a tenant's usage; empty and absent fields do not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceQuery {
    /// Only events charged in this range.
    pub range: Option<Range>,
    /// Only lines of this provider.
    pub provider: String,
    /// Only lines of this model.
    pub model: String,
}

/// A tenant's usage as a whole (R46).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceUsage {
    /// Totals by model, by provider and model.
    pub models: Vec<ModelTotals>,
    /// Response times of all events, and of each model's (the model of an event's first line).
    pub response_times: Latencies,
    /// Times to the first token, likewise.
    pub first_tokens: Latencies,
    /// Users with an event.
    pub users: i64,
    /// Sessions with an event.
    pub sessions: i64,
}

/// Latencies of all events and by (provider, model).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latencies {
    /// Of all events.
    pub all: Latency,
    /// By provider and model of an event's first line.
    pub models: BTreeMap<(String, String), Latency>,
}

/// Times of a set of events, in milliseconds; only events that state one. Percentiles are
/// nearest-rank: times that occurred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// Events that state a time; the rest is 0 when none does.
    pub measured: i64,
    /// Mean, rounded half to even.
    pub mean_ms: i64,
    /// Median.
    pub p50_ms: i64,
    /// 90th percentile.
    pub p90_ms: i64,
    /// 95th percentile.
    pub p95_ms: i64,
    /// 99th percentile.
    pub p99_ms: i64,
    /// Longest.
    pub max_ms: i64,
}

/// A model that has lines without a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpriced {
    /// The provider.
    pub provider: String,
    /// The model.
    pub model: String,
    /// How many of its lines wait for a price.
    pub lines: i64,
    /// Tokens of these lines.
    pub tokens: i64,
    /// Earliest of their charge times, in microseconds since the Unix epoch.
    pub first_us: i64,
    /// Latest of their charge times, in microseconds since the Unix epoch.
    pub last_us: i64,
}

/// A page of models that have lines without a price.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnpricedPage {
    /// The models, in order of provider and model.
    pub models: Vec<Unpriced>,
    /// Lines of all models of the tenant that wait for a price.
    pub total_lines: i64,
}

/// A price as the book keeps it.
#[derive(Debug, Clone)]
pub struct StoredPrice {
    /// The price; its version is set.
    pub price: Price,
    /// Whether it ships with the binary rather than being the tenant's own.
    pub shipped: bool,
}

/// Why the ledger could not answer. The text is for logs, not for callers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be reached or refused the work. Nothing was changed, unless the answer to a
    /// commit was lost. Try again later.
    #[error("ledger unavailable: {0}")]
    Unavailable(String),
    /// The queue before the writer is full; nothing was changed. Try again later.
    #[error("ledger overloaded: {0} events wait")]
    Overloaded(usize),
    /// The values do not fit the ledger, such as a total past 64 bits; nothing was changed.
    #[error("ledger refused the values: {0}")]
    OutOfRange(String),
    /// The events that the answer would be made of are sealed; what begins here or later is kept.
    #[error("ledger keeps events from {oldest_us} on")]
    NotRetained {
        /// The earliest charge time that is kept, in microseconds since the Unix epoch.
        oldest_us: i64,
    },
    /// A row is not what this version writes.
    #[error("ledger holds a row that cannot be read: {0}")]
    Corrupt(String),
}

impl Error {
    /// What kind of fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unavailable(_) => Fault::Unavailable,
            Self::Overloaded(_) => Fault::Overloaded,
            Self::OutOfRange(_) => Fault::OutOfRange,
            Self::NotRetained { oldest_us } => Fault::NotRetained {
                oldest_us: *oldest_us,
            },
            Self::Corrupt(_) => Fault::Corrupt,
        }
    }
}

/// The system of record.
///
/// Every method is atomic. `record` acknowledges only what is on disk.
#[async_trait]
pub trait Ledger:
    reports::Reports
    + retention::Retention
    + reconcile::Reconciling
    + periods::Periods
    + jobs::Jobs
    + limits::Limits
    + Send
    + Sync
    + 'static
{
    /// Records a batch; one outcome a submission, in order. A bad one never fails the others.
    async fn record(&self, batch: Arc<[Submission]>) -> Result<Vec<Result<Outcome, Error>>, Error>;

    /// Totals of a subject at one moment, over its lifetime (none) and ranges, in this order.
    async fn totals_of(
        &self,
        tenant: &TenantId,
        subject: Subject<'_>,
        ranges: &[Option<Range>],
    ) -> Result<Vec<Totals>, Error>;

    /// Totals of a subject, over its lifetime or a range.
    async fn totals(
        &self,
        tenant: &TenantId,
        subject: Subject<'_>,
        range: Option<Range>,
    ) -> Result<Totals, Error> {
        let mut totals = self.totals_of(tenant, subject, &[range]).await?;
        totals
            .pop()
            .ok_or_else(|| Error::Corrupt("no totals of a range".into()))
    }

    /// One session with its totals; none when it has no event.
    async fn session(&self, tenant: &TenantId, session_id: &str) -> Result<Option<Session>, Error>;

    /// A tenant's usage as a whole, over its lifetime or a range.
    async fn service_usage(
        &self,
        tenant: &TenantId,
        query: &ServiceQuery,
    ) -> Result<ServiceUsage, Error>;

    /// Events, newest charge time first, with the quotes that stand today.
    async fn events(&self, tenant: &TenantId, query: &EventQuery) -> Result<Vec<Recorded>, Error>;

    /// Models with lines that wait for a price, after `after` (provider, model), in that order.
    async fn unpriced(
        &self,
        tenant: &TenantId,
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<UnpricedPage, Error>;

    /// Records a batch of items beside usage; one outcome an item, in order.
    async fn record_items(&self, batch: Arc<[ItemSubmission]>) -> Result<Vec<ItemOutcome>, Error>;

    /// Takes an event out of every total, with compensating entries.
    async fn void(&self, void: Void) -> Result<VoidOutcome, Error>;

    /// Lines to price anew of events that begin in the positions `(after, through]`, in order of
    /// position, never a part of an event that has more of them.
    async fn reprice_candidates(
        &self,
        tenant: &TenantId,
        query: &RepriceQuery,
        after: i64,
        through: i64,
    ) -> Result<Vec<RepriceCandidate>, Error>;

    /// Where a stretch of the log ends that begins after a position, goes no further than `until`, and
    /// has at most `lines` lines of the tenant: what a run goes through in one step.
    async fn stretch(
        &self,
        tenant: &TenantId,
        after: i64,
        until: i64,
        lines: i64,
    ) -> Result<i64, Error>;

    /// Posts the compensating entries of a step and remembers how far its run has come. All or
    /// nothing: answers false, and nothing changed, when the run has come further than the caller
    /// saw (a step that nobody waits for any more may still be posted), when a line's quote is no
    /// longer the one that the caller saw, or when its event was voided.
    async fn reprice(&self, step: RepriceStep) -> Result<bool, Error>;

    /// A request by its name.
    async fn remembered(
        &self,
        tenant: &TenantId,
        request_id: &str,
    ) -> Result<Option<Remembered>, Error>;

    /// Remembers a request with its answer, unless its name stands already. Answers what stands: the
    /// same, what an earlier call was answered, or another request. For work that is safe to repeat
    /// and in no one transaction.
    async fn remember(&self, request: Request, answer: String) -> Result<Remembered, Error>;

    /// Adds prices to a tenant's book, or with no tenant to the shipped ones. A price that stands
    /// already, figure for figure, keeps its version. Answers each one's version, and whether it
    /// is new.
    async fn add_prices(
        &self,
        tenant: Option<&TenantId>,
        prices: Vec<Price>,
        now_us: i64,
    ) -> Result<Vec<(i64, bool)>, Error>;

    /// Adds prices to a tenant's book, as [`Ledger::add_prices`] does, and remembers the request
    /// with what it is answered. The same request again changes nothing and gets its first answer,
    /// whatever became of the prices since.
    async fn set_prices(&self, set: PriceSet) -> Result<PricesOutcome, Error>;

    /// A tenant's own prices and the shipped ones, of versions after `after`.
    async fn prices(
        &self,
        tenant: &TenantId,
        after_version: i64,
    ) -> Result<Vec<StoredPrice>, Error>;

    /// The last price version in the ledger, over all tenants: what tells a cached book from a
    /// stale one.
    async fn last_price_version(&self) -> Result<i64, Error>;

    /// A position up to which everything is on disk and nothing is added any more. A change wakes
    /// those who follow the log. With several writers it may lag behind what was acknowledged, by
    /// milliseconds.
    fn committed(&self) -> watch::Receiver<i64>;

    /// The last position that this node itself has written and acknowledged, or an earlier one that it
    /// found when it began: it moves as long as its own writers get on, whatever other nodes do.
    fn written(&self) -> i64 {
        *self.committed().borrow()
    }

    /// The position of now: up to it everything is on disk and nothing is added any more, and it
    /// covers all that this node has acknowledged. Waits until that is so.
    async fn last_position(&self) -> Result<i64, Error>;

    /// Whether anything of a tenant may have been committed after a position; true when it is not
    /// known. Costs no read. False holds up to the position that [`Ledger::committed`] had before
    /// the question, so read that first.
    fn touched(&self, tenant: &TenantId, since: i64) -> bool;

    /// What followed `after` in a tenant's commit order. Reads at most `positions` positions of the
    /// log, of whichever tenant, so that one call costs a bounded time; where positions have gaps, at
    /// most so many rows of the tenant, but always a whole entry.
    async fn log(&self, tenant: &TenantId, after: i64, positions: i64) -> Result<log::Page, Error>;

    /// Events in order of charge time, then position, as they stood right after a position.
    async fn export(
        &self,
        tenant: &TenantId,
        query: &log::ExportQuery,
    ) -> Result<Vec<Recorded>, Error>;

    /// The key with which tokens are sealed; another one in every ledger.
    fn secret(&self) -> &[u8];

    /// Names this opening of the ledger: another one each time that it, or the server that keeps it,
    /// is started.
    fn opening(&self) -> Arc<str>;

    /// Whether the position, as it was known in that opening, is one of this ledger: not if the
    /// ledger was restored from a copy since, and the position was given out after the copy was
    /// made.
    async fn holds(&self, opening: &str, position: i64) -> Result<bool, Error>;

    /// Names the ledger: what positions that callers see begin with, so that those of one ledger are
    /// never taken for those of another.
    fn epoch(&self) -> &str;

    /// The number of the last migration it has.
    fn schema_version(&self) -> i64;

    /// Answers when the ledger can write; the error says why it can not.
    async fn check(&self) -> Result<(), Error>;

    /// Answers when the ledger can be read; the error says why it can not.
    async fn check_reads(&self) -> Result<(), Error> {
        self.last_price_version().await.map(drop)
    }

    /// Waits until everything accepted is on disk and closes the store.
    async fn close(&self);
}
