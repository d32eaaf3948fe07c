//! Where a benchmark keeps its ledgers: each server and each floor has an empty one of its own, on the
//! same disk or the same PostgreSQL.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tempfile::TempDir;

/// What `--ledger` names.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A folder in which to make files.
    Sqlite(PathBuf),
    /// A server in which to make databases.
    Postgres(String),
}

impl Place {
    /// Reads `sqlite:`, `sqlite:FOLDER` or `postgres://…`.
    pub(crate) fn read(url: &str) -> Result<Self, String> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        match url.strip_prefix("sqlite:") {
            Some("") => Ok(Self::Sqlite(std::env::temp_dir())),
            Some(folder) => Ok(Self::Sqlite(folder.into())),
            None => Err("must be sqlite:, sqlite:FOLDER or postgres://…".to_owned()),
        }
    }

    /// As results name it.
    pub(crate) fn backend(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// A place of this run's own.
    pub(crate) fn room(&self) -> Room {
        let in_folder = match self {
            Self::Sqlite(folder) => folder.clone(),
            Self::Postgres(_) => std::env::temp_dir(),
        };
        let folder = tempfile::Builder::new()
            .prefix("tokenmeter-bench-")
            .tempdir_in(&in_folder)
            .unwrap_or_else(|error| panic!("{}: {error}", in_folder.display()));
        Room {
            place: self.clone(),
            folder,
            databases: Vec::new(),
        }
    }
}

/// A ledger that was made, empty.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Made {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Made {
    /// As `serve --ledger` takes it.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(url) => url.clone(),
        }
    }
}

impl Made {
    /// Bytes on disk for each event, with indexes, keys and totals, in which `keys` has one row an event;
    /// none of a file. Tells the larger tables.
    pub(crate) async fn bytes_per_event(&self, keys: &str) -> Option<i64> {
        let Self::Postgres(url) = self else {
            return None;
        };
        let mut connection = PgConnection::connect(url).await.expect("it connects");
        let count = AssertSqlSafe(format!("SELECT count(*) FROM {keys}"));
        let events: i64 = sqlx::query_scalar(count)
            .fetch_one(&mut connection)
            .await
            .expect("events are counted");
        let sizes = "SELECT relname::text, pg_table_size(oid), pg_indexes_size(oid) FROM pg_class \
             WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 2 DESC";
        let tables: Vec<(String, i64, i64)> = sqlx::query_as(sizes)
            .fetch_all(&mut connection)
            .await
            .expect("tables have sizes");
        for (name, table, indexes) in tables.iter().take(5) {
            eprintln!(
                "  {name}: {} bytes/event, indexes {}",
                table / events,
                indexes / events
            );
        }
        let all: i64 = tables
            .iter()
            .map(|(_, table, indexes)| table + indexes)
            .sum();
        Some(all / events)
    }
}

/// The ledgers of a run, which go with it.
pub(crate) struct Room {
    place: Place,
    folder: TempDir,
    databases: Vec<String>,
}

impl Room {
    /// A new folder in it.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let own = self.folder.path().join(name);
        std::fs::create_dir(&own).expect("a new folder");
        own
    }

    /// A new ledger.
    pub(crate) fn make(&mut self, name: &str) -> Made {
        static MADE: AtomicU32 = AtomicU32::new(0);
        match &self.place {
            Place::Sqlite(_) => Made::Sqlite(self.folder(name).join("ledger.db")),
            Place::Postgres(server) => {
                let number = MADE.fetch_add(1, Ordering::Relaxed);
                let database = format!("tokenmeter_bench_{}_{number}", std::process::id());
                execute(server, format!("CREATE DATABASE {database}"));
                let url = with_database(server, &database);
                self.databases.push(database);
                Made::Postgres(url)
            }
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Place::Postgres(server) = &self.place {
            for database in self.databases.drain(..) {
                execute(
                    server,
                    format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"),
                );
            }
        }
    }
}

/// The same server's URL with another database.
fn with_database(url: &str, database: &str) -> String {
    let (rest, query) = match url.split_once('?') {
        Some((rest, query)) => (rest, format!("?{query}")),
        None => (url, String::new()),
    };
    let (scheme, after) = rest.split_once("://").expect("a URL with a scheme");
    let server = after.split_once('/').map_or(after, |(server, _)| server);
    format!("{scheme}://{server}/{database}{query}")
}

/// Runs one statement, on a thread of its own: a place goes wherever its owner does.
fn execute(url: &str, statement: String) {
    let url = url.to_owned();
    let done = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        runtime.block_on(async {
            let mut connection = PgConnection::connect(&url)
                .await
                .expect("PostgreSQL answers");
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut connection)
                .await
                .expect("a database is made or dropped");
        });
    });
    done.join().expect("the statement runs");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_takes_the_place_of_another_in_a_url() {
        for (url, other) in [
            ("postgres://a@h:1/x", "postgres://a@h:1/y"),
            ("postgres://a@h:1", "postgres://a@h:1/y"),
            (
                "postgres://h/x?sslmode=disable",
                "postgres://h/y?sslmode=disable",
            ),
        ] {
            assert_eq!(with_database(url, "y"), other);
        }
    }
}
