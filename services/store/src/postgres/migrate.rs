//! The schema: numbered, checksummed migrations, applied by one node at a time.

use sqlx::Connection as _;
use sqlx::migrate::{Migrate as _, Migrator};
use sqlx::postgres::PgConnection;

use super::{connect, unavailable};
use crate::ledger::Error;
use crate::migrate::{APPLIED, Applied, Missing, compare, told};

/// The numbered, checksummed migrations.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/postgres");

/// The number of the last migration that this version knows.
pub(super) fn newest() -> i64 {
    let versions = MIGRATIONS.iter().map(|migration| migration.version);
    versions.max().unwrap_or_default()
}

/// Brings the database to the newest schema and answers what it lacked. Nodes that do so at once wait
/// for each other, by the advisory lock of the migrator, so that each migration is answered by one.
///
/// # Errors
/// [`Error::Unavailable`] when the server cannot be reached, or the database was migrated by a newer
/// version or with other files.
pub(crate) async fn migrate(url: &str) -> Result<Vec<Missing>, Error> {
    let mut connection = connect::connection(url).await?;
    // Nothing to do needs no lock, and no right to make tables.
    if compare(&MIGRATIONS, &applied_to(&mut connection).await?)?.is_empty() {
        connection.close().await.map_err(unavailable)?;
        return Ok(Vec::new());
    }
    // A session may take the lock again: the migrator does. It is let go of with the connection.
    connection.lock().await.map_err(told)?;
    let missing = compare(&MIGRATIONS, &applied_to(&mut connection).await?)?;
    MIGRATIONS.run(&mut connection).await.map_err(told)?;
    connection.close().await.map_err(unavailable)?;
    Ok(missing)
}

/// The migrations that the database lacks, in order; changes nothing.
///
/// # Errors
/// As [`migrate`].
pub(crate) async fn missing(url: &str) -> Result<Vec<Missing>, Error> {
    let mut connection = connect::connection(url).await?;
    let applied = applied_to(&mut connection).await?;
    connection.close().await.map_err(unavailable)?;
    compare(&MIGRATIONS, &applied)
}

async fn applied_to(connection: &mut PgConnection) -> Result<Vec<Applied>, Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(unavailable)?;
    if !exists {
        return Ok(Vec::new());
    }
    let applied = sqlx::query_as(APPLIED).fetch_all(connection).await;
    applied.map_err(unavailable)
}
