//! The embedded ledger: SQLite in WAL mode with `synchronous = FULL`, so a commit is on disk
//! before it is acknowledged. One connection writes, a pool of read-only connections reads.

mod correct;
mod export;
mod group;
mod insert;
mod items;
mod jobs;
mod limits;
mod log;
mod messages;
mod openings;
mod periods;
mod prices;
mod read;
mod reconcile;
mod reports;
mod requests;
mod retention;
mod seeds;
mod service;
mod sessions;
mod tools;
mod totals;
mod upkeep;
mod writer;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, migrate::Migrator};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::price::Price;
use tokenmeter_model::totals::Totals;
use tokio::sync::{mpsc, oneshot, watch};

use self::writer::{Job, Writer};
use crate::fault::{Planted, is_planted};
use crate::ledger::correction::{
    PriceSet, PricesOutcome, Remembered, RepriceCandidate, RepriceQuery, RepriceStep, Request,
    Void, VoidOutcome,
};
use crate::ledger::items::{ItemOutcome, ItemSubmission};
use crate::ledger::{
    Error, EventQuery, Ledger, Outcome, Range, Recorded, ServiceQuery, ServiceUsage, Session,
    StoredPrice, Subject, Submission, UnpricedPage, log as ledger_log,
};
use crate::migrate::told;
use crate::openings::{Openings, Stands};
use crate::queue::{Batched, Places};
use crate::touched::Touched;

/// Events and items that may wait for the writer; more are refused with [`Error::Overloaded`].
pub const MAX_QUEUED_EVENTS: usize = 16_384;
/// Connections that read.
const READERS: u32 = 8;
/// Pages that a reader keeps, as SQLite's `cache_size`: 8 MiB each, so that readers who go through
/// the whole file do not fill the memory.
const READER_CACHE: &str = "-8192";
/// How long a connection waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The numbered, checksummed migrations.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/sqlite");

/// The embedded ledger in one file.
pub struct Sqlite {
    readers: SqlitePool,
    jobs: mpsc::Sender<Job>,
    places: Places,
    epoch: String,
    openings: Openings,
    secret: Vec<u8>,
    committed: watch::Receiver<i64>,
    touched: Arc<Touched>,
}

impl Sqlite {
    /// Opens the ledger at `path`, makes it when it is absent, and brings it to the newest schema.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the file or its folder cannot be used, or was migrated by a
    /// newer version.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let mut connection = make(path).await?;
        MIGRATIONS.run(&mut connection).await.map_err(told)?;
        let (epoch, secret, last_position) =
            sqlx::query_as("SELECT epoch, secret, last_position FROM ledger_state WHERE id = 1")
                .fetch_one(&mut connection)
                .await
                .map_err(unavailable)?;
        let openings = openings::begin(&mut connection, last_position).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(
                options(path)
                    .read_only(true)
                    .pragma("cache_size", READER_CACHE),
            )
            .await
            .map_err(unavailable)?;
        let (jobs, waiting) = mpsc::channel(MAX_QUEUED_EVENTS);
        let (publish, committed) = watch::channel(last_position);
        let touched = Arc::new(Touched::new(last_position));
        let writer = Writer::new(connection, publish, Arc::clone(&touched));
        tokio::spawn(writer.run(waiting));
        Ok(Self {
            readers,
            jobs,
            places: Places::new(MAX_QUEUED_EVENTS),
            epoch,
            openings,
            secret,
            committed,
            touched,
        })
    }

    /// Hands a job to the writer and waits for its answer.
    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Job,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Does rare work with the writer's connection, between two groups.
    async fn write<T, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> Writing<'c, T> + Send + 'static,
    {
        self.ask(|reply| {
            Job::Other(Box::new(|connection| {
                Box::pin(async {
                    // The caller may have gone; what is committed stands all the same.
                    let _ = reply.send(work(connection).await);
                })
            }))
        })
        .await
    }
}

/// Work with the writer's connection.
type Writing<'c, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'c>>;

/// How the file is opened.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(match is_planted(Planted::NoSync) {
            true => SqliteSynchronous::Off,
            false => SqliteSynchronous::Full,
        })
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // Small groups touch a page or two for each row of each index and total, and a commit
        // writes every page that it touched: smaller pages write less. 64 MiB stay cached.
        .page_size(4_096)
        .pragma("cache_size", "-65536")
        // A group touches more pages than the default of 1,000, so that nearly every commit would
        // checkpoint. At 64 MiB, pages that many groups touch are copied back once.
        .pragma("wal_autocheckpoint", "16384")
        .pragma("journal_size_limit", "67108864")
}

/// A connection that writes to the file, which is made with its folder when it is absent.
pub(crate) async fn make(path: &Path) -> Result<SqliteConnection, Error> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        tokio::fs::create_dir_all(folder)
            .await
            .map_err(|error| Error::Unavailable(format!("{}: {error}", folder.display())))?;
    }
    let options = options(path).create_if_missing(true);
    options.connect().await.map_err(unavailable)
}

fn closed() -> Error {
    Error::Unavailable("the ledger is closed".into())
}

/// Reads the path of a ledger URL: `sqlite:PATH` or `sqlite://PATH`.
pub fn path_of_url(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("sqlite:")?;
    let path = rest.strip_prefix("//").unwrap_or(rest);
    (!path.is_empty() && path != ":memory:").then(|| PathBuf::from(path))
}

/// What SQLite could not do. A value that fits no 64-bit column is the caller's; the rest is ours.
pub(crate) fn unavailable(error: sqlx::Error) -> Error {
    // SQLITE_CONSTRAINT_DATATYPE: a sum past 64 bits turns into a REAL, which a STRICT table
    // refuses.
    const DATATYPE: &str = "3091";
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code == DATATYPE => Error::OutOfRange(error.to_string()),
        _ => Error::Unavailable(error.to_string()),
    }
}

#[async_trait]
impl Ledger for Sqlite {
    async fn record(&self, batch: Arc<[Submission]>) -> Result<Vec<Result<Outcome, Error>>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let queued = self.places.take(batch.len())?;
        self.ask(|reply| {
            Job::Record(Batched {
                batch,
                reply,
                queued,
            })
        })
        .await
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
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let queued = self.places.take(batch.len())?;
        self.ask(|reply| {
            Job::Items(Batched {
                batch,
                reply,
                queued,
            })
        })
        .await
    }

    async fn void(&self, void: Void) -> Result<VoidOutcome, Error> {
        self.ask(|reply| Job::Void { void, reply }).await
    }

    async fn reprice_candidates(
        &self,
        tenant: &TenantId,
        query: &RepriceQuery,
        after: i64,
        through: i64,
    ) -> Result<Vec<RepriceCandidate>, Error> {
        read::reprice_candidates(&self.readers, tenant.as_str(), query, after, through).await
    }

    async fn stretch(
        &self,
        _tenant: &TenantId,
        after: i64,
        until: i64,
        lines: i64,
    ) -> Result<i64, Error> {
        // Positions have no gaps: so many positions are at most so many lines.
        Ok(until.min(after.saturating_add(lines)))
    }

    async fn reprice(&self, step: RepriceStep) -> Result<bool, Error> {
        self.ask(|reply| Job::Reprice { step, reply }).await
    }

    async fn remembered(
        &self,
        tenant: &TenantId,
        request_id: &str,
    ) -> Result<Option<Remembered>, Error> {
        requests::find(&self.readers, tenant.as_str(), request_id).await
    }

    async fn remember(&self, request: Request, answer: String) -> Result<Remembered, Error> {
        self.ask(|reply| Job::Remember {
            request,
            answer,
            reply,
        })
        .await
    }

    async fn add_prices(
        &self,
        tenant: Option<&TenantId>,
        prices: Vec<Price>,
        now_us: i64,
    ) -> Result<Vec<(i64, bool)>, Error> {
        let tenant = tenant
            .map(|tenant| tenant.as_str().to_owned())
            .unwrap_or_default();
        self.ask(|reply| Job::AddPrices {
            tenant,
            prices,
            now_us,
            reply,
        })
        .await
    }

    async fn set_prices(&self, set: PriceSet) -> Result<PricesOutcome, Error> {
        self.ask(|reply| Job::SetPrices { set, reply }).await
    }

    async fn prices(
        &self,
        tenant: &TenantId,
        after_version: i64,
    ) -> Result<Vec<StoredPrice>, Error> {
        prices::read(&self.readers, tenant.as_str(), after_version).await
    }

    async fn last_price_version(&self) -> Result<i64, Error> {
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM prices")
            .fetch_one(&self.readers)
            .await
            .map_err(unavailable)
    }

    fn committed(&self) -> watch::Receiver<i64> {
        self.committed.clone()
    }

    async fn last_position(&self) -> Result<i64, Error> {
        // The one writer publishes a commit before it answers.
        Ok(*self.committed.borrow())
    }

    fn touched(&self, tenant: &TenantId, since: i64) -> bool {
        self.touched.since(tenant, since)
    }

    async fn log(
        &self,
        tenant: &TenantId,
        after: i64,
        positions: i64,
    ) -> Result<ledger_log::Page, Error> {
        log::page(&self.readers, tenant.as_str(), after, positions).await
    }

    async fn export(
        &self,
        tenant: &TenantId,
        query: &ledger_log::ExportQuery,
    ) -> Result<Vec<Recorded>, Error> {
        export::page(&self.readers, tenant.as_str(), query).await
    }

    fn secret(&self) -> &[u8] {
        &self.secret
    }

    fn opening(&self) -> Arc<str> {
        self.openings.current()
    }

    async fn holds(&self, opening: &str, position: i64) -> Result<bool, Error> {
        Ok(match self.openings.stands(opening) {
            Stands::Unknown => false,
            Stands::UpTo(end) => position <= end,
            Stands::Now => position <= *self.committed.borrow(),
        })
    }

    fn epoch(&self) -> &str {
        &self.epoch
    }

    fn schema_version(&self) -> i64 {
        MIGRATIONS
            .iter()
            .map(|migration| migration.version)
            .max()
            .unwrap_or_default()
    }

    async fn check(&self) -> Result<(), Error> {
        self.ask(|reply| Job::Check { reply }).await
    }

    async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.jobs.send(Job::Close { reply }).await.is_ok() {
            let _ = closed.await;
        }
        self.readers.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By an index on the tenant, a retry would read every line of the tenant.
    #[tokio::test]
    async fn first_records_are_found_by_position() {
        use sqlx::Row as _;
        let folder = tempfile::tempdir().unwrap();
        let ledger = Sqlite::open(&folder.path().join("t.db")).await.unwrap();
        let sql = concat!(
            "EXPLAIN QUERY PLAN ",
            include_str!("queries/event_rows.sql")
        );
        let rows = sqlx::query(sql).bind("t").bind("e").bind(1_i64);
        let rows = rows.fetch_all(&ledger.readers).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        assert!(plan[0].contains("INTEGER PRIMARY KEY"), "{plan:?}");
    }

    #[test]
    fn ledger_urls_name_a_file() {
        assert_eq!(path_of_url("sqlite:a/b.db"), Some("a/b.db".into()));
        assert_eq!(path_of_url("sqlite:///var/t.db"), Some("/var/t.db".into()));
        for bad in ["sqlite:", "sqlite::memory:", "postgres://x", "a.db"] {
            assert_eq!(path_of_url(bad), None, "{bad}");
        }
    }
}
