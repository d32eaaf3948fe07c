//! The production ledger: PostgreSQL, written by any number of nodes at once.
//!
//! Writers have connections of their own and gather what waits into groups, one statement each.
//! Everything that has to be seen at once (keys, prices, the log) is read from the primary; questions
//! may go to a replica.

mod alarm;
mod connect;
mod correct;
mod export;
mod failure;
mod group;
mod horizon;
mod items;
mod jobs;
mod limits;
mod link;
mod log;
mod messages;
mod migrate;
mod partitions;
mod periods;
mod prices;
mod reach;
mod read;
mod reconcile;
mod records;
mod reports;
mod requests;
mod retention;
mod seeds;
mod service;
mod sessions;
mod sums;
mod tools;
mod upkeep;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgPool;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::price::Price;
use tokenmeter_model::totals::Totals;
use tokio::sync::watch;

pub use self::migrate::MIGRATIONS;
pub(crate) use self::migrate::{migrate, missing};
pub use self::reach::is_reached;

use self::connect::State;
use self::horizon::Horizon;
use self::writer::Writers;
use crate::ledger::correction::{
    PriceSet, PricesOutcome, Remembered, RepriceCandidate, RepriceQuery, RepriceStep, Request,
    Void, VoidOutcome,
};
use crate::ledger::items::{ItemOutcome, ItemSubmission};
use crate::ledger::{
    Error, EventQuery, Ledger, Outcome, Range, Recorded, ServiceQuery, ServiceUsage, Session,
    StoredPrice, Subject, Submission, UnpricedPage, log as ledger_log,
};
use crate::openings::Stands;

/// How the ledger is used.
#[derive(Clone)]
pub struct Config {
    /// `postgres://…` of the primary. Sessions are needed: no pooling by transaction.
    pub url: String,
    /// `postgres://…` of a replica that answers questions; none asks the primary.
    pub replica: Option<String>,
    /// Connections that write, 1 to 16.
    pub writers: u32,
    /// Events that one transaction takes at most, whole calls aside, 1 to 1,000.
    pub group_events: usize,
    /// Events and items that may wait for a writer; more are refused with [`Error::Overloaded`].
    pub queue_events: usize,
    /// Connections that read, for each of primary and replica.
    pub readers: u32,
    /// Takes a server that has `fsync` or `synchronous_commit` off, which loses what it acknowledged.
    pub unsafe_durability: bool,
    /// Brings the schema to the newest version first; otherwise an older one is refused.
    pub migrate: bool,
}

impl Config {
    /// The defaults of everything but where it is.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            replica: None,
            writers: 2,
            group_events: 1_000,
            queue_events: 16_384,
            readers: 20,
            unsafe_durability: false,
            migrate: true,
        }
    }
}

/// The ledger in a PostgreSQL database.
pub struct Postgres {
    /// The primary: whatever has to be seen at once.
    primary: PgPool,
    /// Questions: the replica's, or the primary again.
    readers: PgPool,
    /// Whether a replica answers questions.
    has_replica: bool,
    /// What it was opened with, for connections that are made later.
    config: Config,
    state: Arc<State>,
    writers: Writers,
    horizon: Horizon,
}

impl Postgres {
    /// Opens the ledger: migrates if asked to, checks that the server keeps what it commits, opens the
    /// writers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the server cannot be reached, is not durable, or has a schema of
    /// another version, or when the replica has another ledger; the text names no password.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        connect::admit(config).await?;
        if config.migrate {
            migrate(&config.url).await?;
        }
        let primary = connect::pool(&config.url, config.readers).await?;
        let readers = match &config.replica {
            Some(replica) => connect::pool(replica, config.readers).await?,
            None => primary.clone(),
        };
        let state = Arc::new(State::read(config).await?);
        if config.replica.is_some() {
            connect::has_ledger(&readers, &state).await?;
        }
        let horizon = Horizon::start(config, Arc::clone(&state)).await?;
        let writers = Writers::start(config, Arc::clone(&state), horizon.nudge()).await?;
        Ok(Self {
            primary,
            readers,
            has_replica: config.replica.is_some(),
            config: config.clone(),
            state,
            writers,
            horizon,
        })
    }

    /// What the server says of how it reads totals of a subject: `EXPLAIN (ANALYZE, BUFFERS)` of
    /// the statement of [`Ledger::totals_of`].
    ///
    /// # Errors
    /// As [`Ledger::totals_of`].
    pub async fn explain_totals_of(
        &self,
        tenant: &TenantId,
        subject: Subject<'_>,
        ranges: &[Option<Range>],
    ) -> Result<String, Error> {
        read::explain_totals_of(&self.readers, tenant.as_str(), subject, ranges).await
    }

    /// Makes the partitions of the month that a time falls into and of the next one, ahead of their
    /// need. Safe to call at any time, from several nodes at once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the server cannot be reached.
    pub async fn make_partitions(&self, now_us: i64) -> Result<(), Error> {
        let mut connection = self.primary.acquire().await.map_err(unavailable)?;
        Ok(partitions::ahead(&mut connection, now_us).await?)
    }
}

/// What PostgreSQL could not do. A figure past 64 bits is the caller's; the rest is ours.
pub(crate) fn unavailable(error: sqlx::Error) -> Error {
    // numeric_value_out_of_range
    const OUT_OF_RANGE: &str = "22003";
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code == OUT_OF_RANGE => Error::OutOfRange(error.to_string()),
        _ => Error::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl Ledger for Postgres {
    async fn record(&self, batch: Arc<[Submission]>) -> Result<Vec<Result<Outcome, Error>>, Error> {
        self.writers.record(batch).await
    }

    async fn totals_of(
        &self,
        tenant: &TenantId,
        subject: Subject<'_>,
        ranges: &[Option<Range>],
    ) -> Result<Vec<Totals>, Error> {
        read::totals_of(&self.readers, tenant.as_str(), subject, ranges).await
    }

    async fn session(&self, tenant: &TenantId, session_id: &str) -> Result<Option<Session>, Error> {
        service::session(&self.readers, tenant.as_str(), session_id).await
    }

    async fn service_usage(
        &self,
        tenant: &TenantId,
        query: &ServiceQuery,
    ) -> Result<ServiceUsage, Error> {
        service::usage(&self.readers, tenant.as_str(), query).await
    }

    async fn events(&self, tenant: &TenantId, query: &EventQuery) -> Result<Vec<Recorded>, Error> {
        read::events(&self.readers, tenant.as_str(), query).await
    }

    async fn unpriced(
        &self,
        tenant: &TenantId,
        after: Option<(&str, &str)>,
        limit: i64,
    ) -> Result<UnpricedPage, Error> {
        read::unpriced(&self.readers, tenant.as_str(), after, limit).await
    }

    async fn record_items(&self, batch: Arc<[ItemSubmission]>) -> Result<Vec<ItemOutcome>, Error> {
        self.writers.record_items(batch).await
    }

    async fn void(&self, void: Void) -> Result<VoidOutcome, Error> {
        self.writers.void(void).await
    }

    async fn reprice_candidates(
        &self,
        tenant: &TenantId,
        query: &RepriceQuery,
        after: i64,
        through: i64,
    ) -> Result<Vec<RepriceCandidate>, Error> {
        read::reprice_candidates(&self.primary, tenant.as_str(), query, after, through).await
    }

    async fn stretch(
        &self,
        tenant: &TenantId,
        after: i64,
        until: i64,
        lines: i64,
    ) -> Result<i64, Error> {
        read::stretch(&self.primary, tenant.as_str(), after, until, lines).await
    }

    async fn reprice(&self, step: RepriceStep) -> Result<bool, Error> {
        self.writers.reprice(step).await
    }

    async fn remembered(
        &self,
        tenant: &TenantId,
        request_id: &str,
    ) -> Result<Option<Remembered>, Error> {
        requests::find(&self.primary, tenant.as_str(), request_id).await
    }

    async fn remember(&self, request: Request, answer: String) -> Result<Remembered, Error> {
        requests::remember(&self.primary, &request, answer).await
    }

    async fn add_prices(
        &self,
        tenant: Option<&TenantId>,
        prices: Vec<Price>,
        now_us: i64,
    ) -> Result<Vec<(i64, bool)>, Error> {
        let tenant = tenant.map(TenantId::as_str).unwrap_or_default();
        prices::add(&self.primary, tenant, prices, now_us).await
    }

    async fn set_prices(&self, set: PriceSet) -> Result<PricesOutcome, Error> {
        prices::set(&self.primary, set).await
    }

    async fn prices(
        &self,
        tenant: &TenantId,
        after_version: i64,
    ) -> Result<Vec<StoredPrice>, Error> {
        prices::read(&self.primary, tenant.as_str(), after_version).await
    }

    async fn last_price_version(&self) -> Result<i64, Error> {
        prices::last_version(&self.primary).await
    }

    fn committed(&self) -> watch::Receiver<i64> {
        self.horizon.committed()
    }

    fn written(&self) -> i64 {
        self.horizon.written()
    }

    async fn last_position(&self) -> Result<i64, Error> {
        self.horizon.last_position().await
    }

    fn touched(&self, tenant: &TenantId, since: i64) -> bool {
        self.horizon.touched(tenant, since)
    }

    async fn log(
        &self,
        tenant: &TenantId,
        after: i64,
        positions: i64,
    ) -> Result<ledger_log::Page, Error> {
        log::page(
            &self.primary,
            &self.horizon,
            tenant.as_str(),
            after,
            positions,
        )
        .await
    }

    async fn export(
        &self,
        tenant: &TenantId,
        query: &ledger_log::ExportQuery,
    ) -> Result<Vec<Recorded>, Error> {
        export::page(&self.readers, &self.primary, tenant.as_str(), query).await
    }

    fn secret(&self) -> &[u8] {
        &self.state.secret
    }

    fn opening(&self) -> Arc<str> {
        self.horizon.opening()
    }

    async fn holds(&self, opening: &str, position: i64) -> Result<bool, Error> {
        Ok(match self.state.stands(&self.primary, opening).await? {
            Stands::Unknown => false,
            Stands::UpTo(end) => position <= end,
            // Another node may have been further when it gave the position out.
            Stands::Now => self.horizon.reach(position).await?.is_some(),
        })
    }

    fn epoch(&self) -> &str {
        &self.state.epoch
    }

    fn schema_version(&self) -> i64 {
        migrate::newest()
    }

    async fn check(&self) -> Result<(), Error> {
        self.writers.check().await
    }

    async fn check_reads(&self) -> Result<(), Error> {
        let answer = sqlx::query("SELECT 1").execute(&self.readers).await;
        answer.map(drop).map_err(unavailable)
    }

    async fn close(&self) {
        self.writers.close().await;
        self.horizon.close().await;
        self.readers.close().await;
        self.primary.close().await;
    }
}
