//! The same statement on either database, for work in which the two dialects do not differ.
//!
//! Parameters are `$1`, `$2` and so on in both. What is tuned to one database stays with its backend.

use futures_util::future::BoxFuture;
use sqlx::SqlSafeStr;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::ledger::Error;
use crate::rows::Row;
use crate::{postgres, sqlite};

/// The value of a parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bind<'a> {
    /// A text.
    Text(&'a str),
    /// A number; none is null.
    Number(Option<i64>),
    /// A flag; none is null.
    Flag(Option<bool>),
}

impl<'a> From<&'a str> for Bind<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Bind<'_> {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

/// A connection, or a transaction on it.
pub(crate) trait Driver: Send {
    /// Its rows.
    type Row: Row + Send + Sync;

    /// The rows that a statement answers.
    fn rows<'a>(
        &'a mut self,
        sql: impl SqlSafeStr,
        binds: &'a [Bind<'a>],
    ) -> BoxFuture<'a, Result<Vec<Self::Row>, Error>>;

    /// The first of them.
    fn row<'a>(
        &'a mut self,
        sql: impl SqlSafeStr,
        binds: &'a [Bind<'a>],
    ) -> BoxFuture<'a, Result<Option<Self::Row>, Error>> {
        let rows = self.rows(sql, binds);
        Box::pin(async { Ok(rows.await?.into_iter().next()) })
    }
}

macro_rules! driver {
    ($connection:ty, $row:ty, $unavailable:path) => {
        impl Driver for $connection {
            type Row = $row;

            fn rows<'a>(
                &'a mut self,
                sql: impl SqlSafeStr,
                binds: &'a [Bind<'a>],
            ) -> BoxFuture<'a, Result<Vec<$row>, Error>> {
                let mut query = sqlx::query(sql);
                for bind in binds {
                    query = match *bind {
                        Bind::Text(text) => query.bind(text),
                        Bind::Number(number) => query.bind(number),
                        Bind::Flag(flag) => query.bind(flag),
                    };
                }
                Box::pin(async move { query.fetch_all(self).await.map_err($unavailable) })
            }
        }
    };
}

driver!(SqliteConnection, SqliteRow, sqlite::unavailable);
driver!(PgConnection, PgRow, postgres::unavailable);
