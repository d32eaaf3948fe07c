//! Connections, and what they find: whether the server keeps what it commits, which database it is,
//! since when it runs.

use std::str::FromStr as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};

use super::{Config, unavailable};
use crate::ledger::Error;

/// The advisory lock that every session which writes holds, shared, as long as it lives: by it the
/// horizon tells writers from everybody else.
pub(super) const WRITERS: i64 = 0x746f_6b65_6e6d_7472;
/// How long a call waits for a connection of a pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the database says of itself.
pub(super) struct State {
    /// Names the ledger.
    pub(super) epoch: String,
    /// Seals tokens.
    pub(super) secret: Vec<u8>,
    /// What positions of this server begin at: see migrations/postgres/0001_ledger.sql.
    pub(super) base: i64,
    /// When the server was started, oldest first, each with the last position before it.
    openings: RwLock<Vec<(Arc<str>, i64)>>,
}

impl State {
    /// Reads it, and begins a new opening, or a new epoch, where the server is another one than the
    /// ledger remembers.
    pub(super) async fn read(_config: &Config, primary: &PgPool) -> Result<Self, Error> {
        let (epoch, secret, base) =
            sqlx::query_as("SELECT epoch, secret, base FROM ledger_state WHERE id = 1")
                .fetch_one(primary)
                .await
                .map_err(unavailable)?;
        Ok(Self {
            epoch,
            secret,
            base,
            openings: RwLock::default(),
        })
    }

    /// The last opening.
    pub(super) fn opening(&self) -> Arc<str> {
        let openings = self.openings.read().unwrap_or_else(PoisonError::into_inner);
        let last = openings.last().map(|(name, _)| Arc::clone(name));
        last.unwrap_or_default()
    }

    /// Whether a position of that opening still stands: the next opening began no earlier, and the
    /// last one has come so far.
    pub(super) fn holds(&self, opening: &str, position: i64, last: i64) -> bool {
        let openings = self.openings.read().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = openings.iter().position(|(name, _)| &**name == opening) else {
            return false;
        };
        position <= openings.get(at + 1).map_or(last, |(_, after)| *after)
    }
}

/// Reads a URL; the error does not repeat it, because it may hold a password.
fn options(url: &str) -> Result<PgConnectOptions, Error> {
    PgConnectOptions::from_str(url)
        .map(|options| options.application_name("tokenmeter"))
        .map_err(|_| Error::Unavailable("the URL of the ledger cannot be read".into()))
}

/// A connection of its own.
pub(super) async fn connection(url: &str) -> Result<PgConnection, Error> {
    options(url)?.connect().await.map_err(unavailable)
}

/// Connections that read.
pub(super) async fn pool(url: &str, connections: u32) -> Result<PgPool, Error> {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options(url)?)
        .await
        .map_err(unavailable)
}
