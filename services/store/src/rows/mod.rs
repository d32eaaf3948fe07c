//! Rows of either backend, read by one code: the tables mean the same in both, so that what is made
//! of a row is told here once. Which rows are read, and how, is each backend's own.

pub(crate) mod drifts;
pub(crate) mod events;
pub(crate) mod jobs;
pub(crate) mod limits;
pub(crate) mod periods;
pub(crate) mod reports;
pub(crate) mod sealed;
pub(crate) mod totals;

use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{ColumnIndex, Decode, Postgres, Row as _, Sqlite, Type};

use crate::ledger::Error;

/// Names a column, or numbers it from 0.
pub(crate) trait Column: ColumnIndex<SqliteRow> + ColumnIndex<PgRow> {}
impl<T: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>> Column for T {}

/// What both databases keep in a column: texts, numbers, flags, bytes; optional where it may be null.
pub(crate) trait Value<'r>:
    Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}
impl<'r, T> Value<'r> for T where
    T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}

/// A row of either database.
pub(crate) trait Row {
    /// The value of a column.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there is no such column, or it holds something else.
    fn value<'r, T: Value<'r>>(&'r self, column: impl Column) -> Result<T, Error>;

    /// A figure; none, as of an aggregate over no rows, is zero.
    fn figure(&self, column: impl Column) -> Result<i64, Error> {
        Ok(self.value::<Option<_>>(column)?.unwrap_or_default())
    }

    /// A column of JSON; none when it is empty.
    fn json<T: DeserializeOwned>(&self, column: &str) -> Result<Option<T>, Error> {
        let text: Option<&str> = self.value(column)?;
        text.map(serde_json::from_str)
            .transpose()
            .map_err(|error| Error::Corrupt(format!("{column}: {error}")))
    }
}

impl Row for SqliteRow {
    fn value<'r, T: Value<'r>>(&'r self, column: impl Column) -> Result<T, Error> {
        self.try_get(column).map_err(corrupt)
    }
}

impl Row for PgRow {
    fn value<'r, T: Value<'r>>(&'r self, column: impl Column) -> Result<T, Error> {
        self.try_get(column).map_err(corrupt)
    }
}

/// A column that is missing or of another type.
fn corrupt(error: sqlx::Error) -> Error {
    Error::Corrupt(error.to_string())
}
