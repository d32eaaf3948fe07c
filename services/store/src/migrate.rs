//! What a ledger's schema lacks, and bringing it there. Migrations are numbered and checksummed,
//! each is one transaction, and one that stands is never run again or changed.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::address::Address;
use crate::ledger::Error;
use crate::{postgres, sqlite};

/// How long another process's lock is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A migration that a ledger lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its number.
    pub version: i64,
    /// What it is about, in a few words.
    pub description: String,
    /// Its statements.
    pub sql: String,
}

/// A migration that stands in a ledger.
#[derive(sqlx::FromRow)]
pub(crate) struct Applied {
    version: i64,
    checksum: Vec<u8>,
    success: bool,
}

/// Both backends keep the table of their migrations so.
pub(crate) const APPLIED: &str =
    "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version";

/// The migrations that the ledger lacks, in order; changes nothing, and makes no ledger where there
/// is none.
///
/// # Errors
/// [`Error::Unavailable`] when the ledger cannot be read, and when what stands in it is not what
/// this version knows: migrated by a newer version, or with another content.
pub async fn missing(address: &Address) -> Result<Vec<Missing>, Error> {
    match address {
        Address::Sqlite(path) => compare(&sqlite::MIGRATIONS, &applied_sqlite(path).await?),
        Address::Postgres(url) => postgres::missing(url).await,
    }
}

/// Brings the ledger to the newest schema, and makes it where there is none. Answers what it lacked.
/// Several at once on one PostgreSQL wait for each other by an advisory lock; a SQLite ledger is for
/// one process, which the caller sees to.
///
/// # Errors
/// As [`missing`], and when a migration fails; those before it stand then.
pub async fn run(address: &Address) -> Result<Vec<Missing>, Error> {
    match address {
        Address::Sqlite(path) => {
            let missing = missing(address).await?;
            let mut connection = sqlite::make(path).await?;
            sqlite::MIGRATIONS
                .run(&mut connection)
                .await
                .map_err(told)?;
            connection.close().await.map_err(unavailable)?;
            Ok(missing)
        }
        Address::Postgres(url) => postgres::migrate(url).await,
    }
}

/// What a migration ran into.
pub(crate) fn told(error: MigrateError) -> Error {
    let text = match error {
        MigrateError::VersionMissing(version) => newer(version),
        MigrateError::VersionMismatch(version) => changed(version),
        MigrateError::Dirty(version) => unfinished(version),
        error => error.to_string(),
    };
    Error::Unavailable(text)
}

fn newer(version: i64) -> String {
    format!(
        "migration {version} stands in the ledger and is not known to this version: the ledger was \
         migrated by a newer one; run that version or a later one"
    )
}

fn changed(version: i64) -> String {
    format!(
        "migration {version} stands in the ledger with another content than this version has \
         (checksum mismatch): one of the two was changed; run the version that migrated it, or \
         restore the ledger"
    )
}

fn unfinished(version: i64) -> String {
    format!("migration {version} stands in the ledger half done; restore the ledger from a copy")
}

fn unavailable(error: sqlx::Error) -> Error {
    Error::Unavailable(error.to_string())
}

/// Checks what stands against what this version knows, and answers the rest.
pub(crate) fn compare(known: &Migrator, applied: &[Applied]) -> Result<Vec<Missing>, Error> {
    for stands in applied {
        let same = known.iter().find(|one| one.version == stands.version);
        let wrong = match same {
            None => Some(newer(stands.version)),
            Some(_) if !stands.success => Some(unfinished(stands.version)),
            Some(same) if *same.checksum != *stands.checksum => Some(changed(stands.version)),
            Some(_) => None,
        };
        if let Some(wrong) = wrong {
            return Err(Error::Unavailable(wrong));
        }
    }
    let stands = |version| applied.iter().any(|one| one.version == version);
    let missing = known.iter().filter(|one| !stands(one.version));
    Ok(missing
        .map(|one| Missing {
            version: one.version,
            description: one.description.to_string(),
            sql: one.sql.as_str().to_owned(),
        })
        .collect())
}

async fn applied_sqlite(path: &Path) -> Result<Vec<Applied>, Error> {
    if !tokio::fs::try_exists(path).await.unwrap_or(true) {
        return Ok(Vec::new());
    }
    let options = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT);
    let mut connection: SqliteConnection = options.connect().await.map_err(unavailable)?;
    let table = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    let tables: i64 = sqlx::query_scalar(table)
        .fetch_one(&mut connection)
        .await
        .map_err(unavailable)?;
    let applied = match tables {
        0 => Vec::new(),
        _ => sqlx::query_as(APPLIED)
            .fetch_all(&mut connection)
            .await
            .map_err(unavailable)?,
    };
    connection.close().await.map_err(unavailable)?;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dry_run_changes_nothing_and_a_run_leaves_nothing_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/t.db");
        let address = Address::Sqlite(path.clone());
        let all = missing(&address).await.unwrap();
        assert_eq!(all.len(), sqlite::MIGRATIONS.iter().count());
        assert_eq!(all[0].version, 1);
        assert!(all[0].sql.contains("CREATE TABLE usage_lines"));
        assert!(!path.exists() && !folder.path().join("deep").exists());
        assert_eq!(run(&address).await.unwrap(), all);
        assert_eq!(missing(&address).await.unwrap(), []);
        assert_eq!(run(&address).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_does_not_fit_this_version_is_told() {
        for (sql, why) in [
            (
                "INSERT INTO _sqlx_migrations VALUES (9999, 'later', 0, TRUE, x'00', 0)",
                "migration 9999 stands in the ledger and is not known",
            ),
            (
                "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 2",
                "migration 2 stands in the ledger with another content",
            ),
            (
                "UPDATE _sqlx_migrations SET success = FALSE WHERE version = 3",
                "migration 3 stands in the ledger half done",
            ),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("t.db");
            let address = Address::Sqlite(path.clone());
            run(&address).await.unwrap();
            let mut connection = sqlite::make(&path).await.unwrap();
            sqlx::query(sql).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            for told in [
                missing(&address).await.map(drop),
                run(&address).await.map(drop),
                sqlite::Sqlite::open(&path).await.map(drop),
            ] {
                let told = told.unwrap_err().to_string();
                assert!(told.contains(why), "{sql}: {told}");
            }
        }
    }
}
