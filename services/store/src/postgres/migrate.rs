//! The schema: numbered, checksummed migrations, applied by one node at a time.

use sqlx::Connection as _;
use sqlx::migrate::Migrator;

use super::{connect, unavailable};
use crate::ledger::Error;
use crate::migrate::{APPLIED, Applied, told};

/// The numbered, checksummed migrations.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

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
pub(crate) async fn migrate(url: &str) -> Result<(), Error> {
    let mut connection = connect::connection(url).await?;
    MIGRATIONS.run(&mut connection).await.map_err(told)?;
    connection.close().await.map_err(unavailable)
}

/// The migrations that stand in the database; changes nothing.
pub(crate) async fn applied(url: &str) -> Result<Vec<Applied>, Error> {
    let mut connection = connect::connection(url).await?;
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut connection)
        .await
        .map_err(unavailable)?;
    let applied = match exists {
        true => sqlx::query_as(APPLIED)
            .fetch_all(&mut connection)
            .await
            .map_err(unavailable)?,
        false => Vec::new(),
    };
    connection.close().await.map_err(unavailable)?;
    Ok(applied)
}
