//! Opening the ledger that the configuration names, migrating it, and asking how it is.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokenmeter_admin::Probe;
use tokenmeter_store::address::Address;
use tokenmeter_store::ledger::{self, Ledger};
use tokenmeter_store::migrate::{self, Missing};
use tokenmeter_store::postgres::{self, Postgres};
use tokenmeter_store::sqlite::Sqlite;

use crate::config::Config;

/// How long `migrate` waits for another process that has the file.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The ledger, and what makes sure that it may be used.
pub(crate) struct Opened {
    pub(crate) ledger: Arc<dyn Ledger>,
    /// Held as long as the process serves a file: see [`lock`].
    pub(crate) alone: Option<File>,
}

/// Opens the ledger, and brings it to the newest schema if the configuration allows that.
///
/// # Errors
/// Why it could not be opened, and how to mend that.
pub(super) async fn open(config: &Config) -> Result<Opened, String> {
    let address = &config.ledger;
    let told = |error: ledger::Error| format!("ledger: {address}: {error}");
    let alone = match address {
        Address::Sqlite(path) => Some(lock(path)?.ok_or_else(|| served(address))?),
        Address::Postgres(_) => None,
    };
    if !config.migrate_on_start {
        let missing = migrate::missing(address).await.map_err(told)?;
        if !missing.is_empty() {
            return Err(format!(
                "ledger: {address}: the schema lacks {}; run `tokenmeter migrate` with the same \
                 settings first, or set migrate_on_start",
                numbers(&missing)
            ));
        }
    }
    let ledger: Arc<dyn Ledger> = match address {
        Address::Sqlite(path) => Arc::new(Sqlite::open(path).await.map_err(told)?),
        Address::Postgres(url) => {
            let config = postgres_config(config, url);
            Arc::new(Postgres::open(&config).await.map_err(told)?)
        }
    };
    Ok(Opened { ledger, alone })
}

/// How a PostgreSQL ledger is used, by the configuration.
fn postgres_config(config: &Config, url: &str) -> postgres::Config {
    let pool = &config.pool;
    postgres::Config {
        url: url.to_owned(),
        replica: match &pool.replica {
            Some(Address::Postgres(url)) => Some(url.clone()),
            _ => None,
        },
        writers: pool.writers,
        group_events: pool.group_events,
        queue_events: pool.queue_events,
        readers: pool.readers,
        unsafe_durability: pool.unsafe_durability,
        migrate: config.migrate_on_start,
    }
}

/// The migrations by their numbers, such as `migrations 2, 3`.
fn numbers(missing: &[Missing]) -> String {
    let numbers: Vec<_> = missing.iter().map(|one| one.version.to_string()).collect();
    match numbers.len() {
        1 => format!("migration {}", numbers[0]),
        _ => format!("migrations {}", numbers.join(", ")),
    }
}

/// Brings the ledger to the newest schema and answers what it lacked.
///
/// # Errors
/// What it ran into.
pub(crate) async fn migrate(address: &Address) -> Result<Vec<Missing>, String> {
    let told = |error: ledger::Error| format!("ledger: {address}: {error}");
    let began = Instant::now();
    let _alone = match address {
        Address::Postgres(_) => None,
        Address::Sqlite(path) => loop {
            if let Some(alone) = lock(path)? {
                break Some(alone);
            }
            // Whoever has it brought it there, or does so at this moment.
            if let Ok([]) = migrate::missing(address).await.as_deref() {
                return Ok(Vec::new());
            }
            if began.elapsed() > LOCK_PATIENCE {
                return Err(served(address));
            }
            tokio::time::sleep(LOCK_POLL).await;
        },
    };
    migrate::run(address).await.map_err(told)
}

fn served(address: &Address) -> String {
    format!(
        "ledger: {address} is served by another process; sqlite: and memory: are for one node, give \
         this one a file of its own"
    )
}

/// Makes sure that no other process uses this file: none if one does. Counters and feed are in
/// memory, so a second node would not know of the first one's. The system lets go of the lock
/// however the process ends.
fn lock(ledger: &Path) -> Result<Option<File>, String> {
    let told = |error: std::io::Error| format!("ledger: {}: {error}", ledger.display());
    let mut path = ledger.as_os_str().to_owned();
    path.push(".lock");
    if let Some(folder) = ledger.parent() {
        std::fs::create_dir_all(folder).map_err(told)?;
    }
    let file = File::create(&path).map_err(told)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(told(error)),
    }
}

/// Asks the ledger whether it can write.
pub(super) struct LedgerProbe {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) backend: &'static str,
}

#[async_trait]
impl Probe for LedgerProbe {
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn backend(&self) -> &'static str {
        self.backend
    }

    /// What a database says of an error can hold addresses, users and paths: it goes to the log, and
    /// the answer says what kind of error it is.
    async fn check(&self) -> Result<(), String> {
        self.ledger.check().await.map_err(|error| {
            tracing::warn!(%error, "the ledger does not answer as it should");
            match error {
                ledger::Error::Unavailable(_) => "cannot be reached or cannot write; see the log",
                ledger::Error::Overloaded(_) => "overloaded",
                _ => "answers what it should not; see the log",
            }
            .to_owned()
        })
    }
}
