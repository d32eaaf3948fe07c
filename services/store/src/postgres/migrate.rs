//! The schema: numbered, checksummed migrations, applied by one node at a time.

use sqlx::migrate::Migrator;

use super::{connect, unavailable};
use crate::ledger::Error;

/// The numbered, checksummed migrations.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// A migration that a database lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub description: String,
    /// What it runs.
    pub sql: String,
}

/// The number of the last migration that this version knows.
pub(super) fn newest() -> i64 {
    let versions = MIGRATIONS.iter().map(|migration| migration.version);
    versions.max().unwrap_or_default()
}

/// Brings the database to the newest schema. Nodes that do so at once wait for each other, by an
/// advisory lock.
///
/// # Errors
/// [`Error::Unavailable`] when the server cannot be reached, or the database was migrated by a newer
/// version or with other files.
pub async fn migrate(url: &str) -> Result<(), Error> {
    let mut connection = connect::connection(url).await?;
    MIGRATIONS
        .run(&mut connection)
        .await
        .map_err(|error| Error::Unavailable(error.to_string()))
}

/// The migrations that the database lacks, in order; changes nothing.
///
/// # Errors
/// As [`migrate`].
pub async fn pending(url: &str) -> Result<Vec<Pending>, Error> {
    let mut connection = connect::connection(url).await?;
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut connection)
        .await
        .map_err(unavailable)?;
    let applied: Vec<i64> = match exists {
        true => sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(&mut connection)
            .await
            .map_err(unavailable)?,
        false => Vec::new(),
    };
    let lacking = MIGRATIONS
        .iter()
        .filter(|migration| !applied.contains(&migration.version));
    Ok(lacking
        .map(|migration| Pending {
            version: migration.version,
            description: migration.description.to_string(),
            sql: migration.sql.as_str().to_owned(),
        })
        .collect())
}
