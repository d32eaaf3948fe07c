//! Backends for the suite.

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tempfile::TempDir;
use tokenmeter_store::postgres::{self, Postgres};
use tokenmeter_store::sqlite::Sqlite;

/// A fresh, empty ledger in a folder of its own.
pub async fn open_sqlite() -> (Sqlite, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = reopen_sqlite(&folder).await;
    (ledger, folder)
}

/// The ledger in a folder, whoever else has it open.
pub async fn reopen_sqlite(folder: &TempDir) -> Sqlite {
    Sqlite::open(&folder.path().join("t.db")).await.unwrap()
}

/// Holds the write lock of the ledger in a folder until told to let go.
pub async fn stall_sqlite(folder: &TempDir) -> impl AsyncFnOnce() {
    let options = SqliteConnectOptions::new().filename(folder.path().join("t.db"));
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut connection)
        .await
        .unwrap();
    async move || {
        sqlx::query("ROLLBACK")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
}

/// Runs a statement on the ledger in a folder, behind its back.
#[allow(dead_code)] // the planted faults run a part of the suite
pub async fn execute_sqlite(folder: &TempDir, sql: String) {
    let options = SqliteConnectOptions::new().filename(folder.path().join("t.db"));
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection);
    done.await.unwrap();
}

/// The rows of a statement on the ledger in a folder, every value as text.
#[allow(dead_code)] // the planted faults run a part of the suite
pub async fn select_sqlite(folder: &TempDir, sql: &'static str) -> Vec<Vec<String>> {
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("t.db"))
        .read_only(true);
    let mut connection: SqliteConnection = options.connect().await.unwrap();
    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
    let value = |row: &sqlx::sqlite::SqliteRow, n: usize| match row.try_get::<i64, _>(n) {
        Ok(number) => number.to_string(),
        Err(_) => row.try_get(n).unwrap(),
    };
    rows.iter()
        .map(|row| (0..row.len()).map(|n| value(row, n)).collect())
        .collect()
}

/// A fresh, empty ledger in a database of its own.
pub async fn open_postgres() -> (Postgres, String) {
    let url = tokio::task::spawn_blocking(|| tokenmeter_test_postgres::shared().database("ledger"))
        .await
        .unwrap();
    let ledger = reopen_postgres(&url).await;
    (ledger, url)
}

/// The ledger in a database, whoever else has it open.
pub async fn reopen_postgres(url: &str) -> Postgres {
    Postgres::open(&postgres::Config::new(url)).await.unwrap()
}

/// Holds a lock that every group needs until told to let go.
pub async fn stall_postgres(url: &str) -> impl AsyncFnOnce() {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for sql in ["BEGIN", "LOCK TABLE usage_totals IN EXCLUSIVE MODE"] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    async move || {
        sqlx::query("ROLLBACK")
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }
}

/// Runs a statement on the ledger in a database, behind its back.
#[allow(dead_code)] // the planted faults run a part of the suite
pub async fn execute_postgres(url: &str, sql: String) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut connection);
    done.await.unwrap();
}

/// The rows of a statement on the ledger in a database, every value as text.
#[allow(dead_code)] // the planted faults run a part of the suite
pub async fn select_postgres(url: &str, sql: &'static str) -> Vec<Vec<String>> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
    let value = |row: &sqlx::postgres::PgRow, n: usize| match row.try_get::<i64, _>(n) {
        Ok(number) => number.to_string(),
        Err(_) => row.try_get(n).unwrap(),
    };
    rows.iter()
        .map(|row| (0..row.len()).map(|n| value(row, n)).collect())
        .collect()
}
