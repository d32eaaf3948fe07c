//! Connections, and what they find: whether the server keeps what it commits, which database it is,
//! since when it runs.
//!
//! A connection that writes finds out before it writes. Where it meets another run of the server than
//! the ledger remembers, it begins a new opening first; who comes at the same time waits for it.

use std::str::FromStr as _;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use tokio::time::Instant;

use super::{Config, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::Error;
use crate::openings::{KEPT, Openings, Stands};

/// The advisory lock that every session which writes holds, shared, as long as it lives: by it the
/// horizon tells writers from everybody else.
pub(super) const WRITERS: i64 = 0x746f_6b65_6e6d_7472;
/// The advisory lock under which an opening is begun.
const OPENINGS: i64 = 0x746f_6b65_6e6d_6f70;
/// The oldest server that is taken: 14.
const MIN_VERSION: i64 = 140_000;
/// How far positions jump when the server was started: by the transactions that a standby can lack at
/// most, 16 million.
const JUMP: i64 = 1 << (24 + super::horizon::ROW_BITS);
/// How long a call waits for a connection of a pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take to be made, and to say what it found.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How far a replica may lag behind when it is first asked, and how often it is asked until then.
const REPLICA_PATIENCE: Duration = Duration::from_secs(5);
const REPLICA_POLL: Duration = Duration::from_millis(100);
/// What ends a transaction of a writer whose node is gone or hangs, so that it holds up nobody.
const WRITER_TIMEOUTS: [(&str, &str); 3] = [
    ("statement_timeout", "10s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "10s"),
];
/// How a connection of a pool is set. A statement ends before the call that waits for it does by
/// default, so that nobody's question keeps a connection busy for nothing; a transaction of a node that
/// is gone or hangs ends, too, with the snapshot and the locks that it holds (of a tenant, of the price
/// book); and plans are cheap beside what compiling them costs.
const READER_SETTINGS: [(&str, &str); 3] = [
    ("statement_timeout", "25s"),
    ("idle_in_transaction_session_timeout", "25s"),
    ("jit", "off"),
];
/// A connection that looks for the end of the log asks the same few things again and again, by index.
const WATCHER_PLANS: [(&str, &str); 3] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
];

/// What the database says of itself.
pub(super) struct State {
    /// Names the ledger.
    pub(super) epoch: String,
    /// Seals tokens.
    pub(super) secret: Vec<u8>,
    database: Database,
    openings: RwLock<Openings>,
}

/// Which database it is: a dump that was restored is another one.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Database {
    system_identifier: String,
    database_oid: i64,
    /// Of `ledger_state`: a dump that is restored over the same database makes it anew.
    table_oid: i64,
}

/// What a connection finds.
#[derive(Debug, sqlx::FromRow)]
struct Server {
    standby: bool,
    version: i64,
    fsync: bool,
    synchronous_commit: bool,
    full_page_writes: bool,
    #[sqlx(flatten)]
    database: Database,
    /// When it was started, in microseconds since the Unix epoch.
    start: i64,
}

/// Which server the ledger was on when it was last opened.
#[derive(Debug, sqlx::FromRow)]
struct Known {
    #[sqlx(flatten)]
    database: Database,
    start: Option<i64>,
}

impl State {
    /// Reads it, and begins a new opening, or a new epoch, where the server is another one than the
    /// ledger remembers.
    pub(super) async fn read(config: &Config) -> Result<Self, Error> {
        let mut connection = connection(&config.url).await?;
        let server = Server::admit(&mut connection, config.unsafe_durability).await?;
        let openings = settle(&mut connection, &server).await?;
        let (epoch, secret) = sqlx::query_as("SELECT epoch, secret FROM ledger_state WHERE id = 1")
            .fetch_one(&mut connection)
            .await
            .map_err(unavailable)?;
        Ok(Self {
            epoch,
            secret,
            database: server.database,
            openings: RwLock::new(openings),
        })
    }

    /// The last opening.
    pub(super) fn opening(&self) -> Arc<str> {
        let openings = self.openings.read().unwrap_or_else(PoisonError::into_inner);
        openings.current()
    }

    /// What of an opening still stands. One that is not known here may have been begun by another
    /// node a moment ago.
    pub(super) async fn stands(&self, primary: &PgPool, opening: &str) -> Result<Stands, Error> {
        let known = || {
            let openings = self.openings.read().unwrap_or_else(PoisonError::into_inner);
            openings.stands(opening)
        };
        if known() == Stands::Unknown {
            let mut connection = primary.acquire().await.map_err(unavailable)?;
            self.remember(openings(&mut connection).await?);
        }
        Ok(known())
    }

    /// Checks a new connection to the primary before it is used: that it leads to the same database
    /// as before, and that its opening is begun.
    async fn check(&self, connection: &mut PgConnection, config: &Config) -> Result<(), Error> {
        let server = Server::admit(connection, config.unsafe_durability).await?;
        if server.database != self.database && !is_planted(Planted::ForgetRestore) {
            return Err(Error::Unavailable(
                "the URL of the ledger leads to another database than when this node was started: \
                 restart the node"
                    .into(),
            ));
        }
        self.remember(settle(connection, &server).await?);
        Ok(())
    }

    fn remember(&self, openings: Openings) {
        *self
            .openings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = openings;
    }
}

impl Server {
    /// Finds out what is at the other end, and whether it can be written to.
    async fn admit(connection: &mut PgConnection, unsafe_durability: bool) -> Result<Self, Error> {
        let server: Self = sqlx::query_as(include_str!("queries/server.sql"))
            .fetch_one(connection)
            .await
            .map_err(unavailable)?;
        server.usable(unsafe_durability)?;
        Ok(server)
    }

    fn usable(&self, unsafe_durability: bool) -> Result<(), Error> {
        if self.version < MIN_VERSION {
            let found = self.version / 10_000;
            return Err(Error::Unavailable(format!(
                "the server is PostgreSQL {found}, and 14 or later is needed"
            )));
        }
        if self.standby {
            return Err(Error::Unavailable(
                "the server is a standby: the URL of the ledger has to lead to the primary".into(),
            ));
        }
        let settings = [
            ("fsync", self.fsync),
            ("synchronous_commit", self.synchronous_commit),
            ("full_page_writes", self.full_page_writes),
        ];
        let off = settings.iter().find(|(_, on)| !on);
        match off {
            Some((setting, _)) if !unsafe_durability => Err(Error::Unavailable(format!(
                "the server has {setting} off and can lose what it acknowledged: turn it on, or set \
                 ledger_unsafe_durability to take it nevertheless"
            ))),
            _ => Ok(()),
        }
    }
}

/// Begins a new opening unless this run of the server has one; answers all.
async fn settle(connection: &mut PgConnection, server: &Server) -> Result<Openings, Error> {
    if !known(connection).await?.is(server) {
        begin(connection, server).await?;
    }
    openings(connection).await
}

impl Known {
    fn is(&self, server: &Server) -> bool {
        let same_run = match is_planted(Planted::ForgetOpenings) {
            true => self.start.is_some(),
            false => self.start == Some(server.start),
        };
        self.is_database(server) && same_run
    }

    fn is_database(&self, server: &Server) -> bool {
        self.database == server.database || is_planted(Planted::ForgetRestore)
    }
}

async fn known(connection: &mut PgConnection) -> Result<Known, Error> {
    sqlx::query_as(include_str!("queries/remembered.sql"))
        .fetch_one(connection)
        .await
        .map_err(unavailable)
}

/// Begins the opening of this run, and a new epoch where a dump was restored. One node does; the
/// others find it done.
async fn begin(connection: &mut PgConnection, server: &Server) -> Result<(), Error> {
    let mut change = connection.begin().await.map_err(unavailable)?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(OPENINGS)
        .execute(&mut *change)
        .await
        .map_err(unavailable)?;
    let known = known(&mut change).await?;
    if known.is(server) {
        return Ok(());
    }
    if !known.is_database(server) {
        tracing::warn!("the ledger was restored from a dump: it begins a new epoch");
        let restored = sqlx::query(include_str!("queries/restored.sql"))
            .bind(&server.database.system_identifier)
            .bind(server.database.database_oid)
            .bind(server.database.table_oid);
        restored.execute(&mut *change).await.map_err(unavailable)?;
        let forget = sqlx::query("DELETE FROM openings");
        forget.execute(&mut *change).await.map_err(unavailable)?;
    }
    sqlx::query(include_str!("queries/begin_opening.sql"))
        .bind(server.start)
        .bind(JUMP)
        .execute(&mut *change)
        .await
        .map_err(unavailable)?;
    sqlx::query("DELETE FROM openings WHERE number <= (SELECT max(number) FROM openings) - $1")
        .bind(KEPT)
        .execute(&mut *change)
        .await
        .map_err(unavailable)?;
    change.commit().await.map_err(unavailable)
}

async fn openings(connection: &mut PgConnection) -> Result<Openings, Error> {
    let all = "SELECT opening, after_position FROM openings ORDER BY number";
    let rows = sqlx::query_as(all).fetch_all(connection).await;
    Ok(Openings::new(rows.map_err(unavailable)?))
}

/// Reads a URL; the error does not repeat it, because it may hold a password.
///
/// Neither statements nor notices are logged. To log one, sqlx asks whether anybody wants it, and where
/// nobody does, tracing's filters lose the next span or event of the same thread, such as a call's end.
fn options(url: &str) -> Result<PgConnectOptions, Error> {
    PgConnectOptions::from_str(url)
        .map(|options| options.application_name("tokenmeter"))
        .map(|options| options.options([("client_min_messages", "warning")]))
        .map(PgConnectOptions::disable_statement_logging)
        .map_err(|_| Error::Unavailable("the URL of the ledger cannot be read".into()))
}

/// A connection of its own.
pub(super) async fn connection(url: &str) -> Result<PgConnection, Error> {
    in_time(connect(options(url)?)).await
}

/// A connection that writes: the server keeps what it commits, its opening is begun, and the horizon
/// knows the session. To be called again when the connection is lost.
pub(super) async fn writer(config: &Config, state: &State) -> Result<PgConnection, Error> {
    in_time(async {
        let mut connection = connect(options(&config.url)?.options(WRITER_TIMEOUTS)).await?;
        sqlx::query("SELECT pg_advisory_lock_shared($1)")
            .bind(WRITERS)
            .execute(&mut connection)
            .await
            .map_err(unavailable)?;
        state.check(&mut connection, config).await?;
        Ok(connection)
    })
    .await
}

/// A connection to the primary that does not write, checked like one that does.
pub(super) async fn watcher(config: &Config, state: &State) -> Result<PgConnection, Error> {
    in_time(async {
        let mut connection = connect(options(&config.url)?.options(WATCHER_PLANS)).await?;
        state.check(&mut connection, config).await?;
        Ok(connection)
    })
    .await
}

/// Checks a server before anything is done to it.
pub(super) async fn admit(config: &Config) -> Result<(), Error> {
    in_time(async {
        let mut connection = connect(options(&config.url)?).await?;
        let admitted = Server::admit(&mut connection, config.unsafe_durability).await;
        admitted.map(|_| ())
    })
    .await
}

async fn connect(options: PgConnectOptions) -> Result<PgConnection, Error> {
    options.connect().await.map_err(unavailable)
}

async fn in_time<T>(made: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(CONNECT_TIMEOUT, made)
        .await
        .map_err(|_| Error::Unavailable("the server does not answer".into()))?
}

/// Connections that read.
pub(super) async fn pool(url: &str, connections: u32) -> Result<PgPool, Error> {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options(url)?.options(READER_SETTINGS))
        .await
        .map_err(unavailable)
}

/// Checks that a replica has this ledger: another one's figures would be taken for this one's. A replica
/// that lags behind may not have its epoch yet.
pub(super) async fn has_ledger(replica: &PgPool, state: &State) -> Result<(), Error> {
    let deadline = Instant::now() + REPLICA_PATIENCE;
    loop {
        let epoch = sqlx::query_scalar("SELECT epoch FROM ledger_state WHERE id = 1")
            .fetch_optional(replica)
            .await;
        let error = match epoch {
            Ok(Some::<String>(epoch)) if epoch == state.epoch => return Ok(()),
            Ok(_) => Error::Unavailable(
                "ledger_replica leads to another ledger, or to a replica that lags far behind: let \
                 it lead to a replica of the ledger's server, or leave it empty"
                    .into(),
            ),
            Err(error) => unavailable(error),
        };
        if Instant::now() >= deadline {
            return Err(error);
        }
        tokio::time::sleep(REPLICA_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prices and remembered requests are written on such a connection, under locks that others wait for.
    #[tokio::test]
    async fn a_transaction_that_nobody_ends_is_ended_on_every_connection() {
        let database = || tokenmeter_test_postgres::shared().database("timeouts");
        let url = tokio::task::spawn_blocking(database).await.unwrap();
        let pool = pool(&url, 1).await.unwrap();
        for setting in ["statement_timeout", "idle_in_transaction_session_timeout"] {
            let shown: String = sqlx::query_scalar("SELECT current_setting($1)")
                .bind(setting)
                .fetch_one(&pool)
                .await
                .unwrap();
            assert_eq!(shown, "25s", "{setting}");
        }
    }

    #[test]
    fn a_server_that_loses_what_it_acknowledged_is_refused_by_the_setting_and_taken_by_the_flag() {
        let server = |fsync, synchronous_commit, full_page_writes| Server {
            standby: false,
            version: 150_018,
            fsync,
            synchronous_commit,
            full_page_writes,
            database: Database {
                system_identifier: "1".into(),
                database_oid: 1,
                table_oid: 1,
            },
            start: 0,
        };
        assert!(server(true, true, true).usable(false).is_ok());
        for (setting, server) in [
            ("fsync", server(false, true, true)),
            ("synchronous_commit", server(true, false, true)),
            ("full_page_writes", server(true, true, false)),
        ] {
            let refused = server.usable(false).unwrap_err().to_string();
            assert!(refused.contains(&format!("has {setting} off")), "{refused}");
            assert!(refused.contains("ledger_unsafe_durability"), "{refused}");
            assert!(server.usable(true).is_ok());
        }
        let old = Server {
            version: 130_001,
            ..server(true, true, true)
        };
        let refused = old.usable(true).unwrap_err().to_string();
        assert!(refused.contains("PostgreSQL 13"), "{refused}");
        let standby = Server {
            standby: true,
            ..server(true, true, true)
        };
        let refused = standby.usable(true).unwrap_err().to_string();
        assert!(refused.contains("standby"), "{refused}");
    }
}
