//! Many rows as one value: an array of a composite type of migrations/postgres, in the binary format
//! of the protocol. One `UNNEST` takes it apart again, which costs a fraction of an array a column.

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgTypeInfo, Postgres};
use sqlx::{Row as _, Type};

use super::unavailable;
use crate::columns::Values;
use crate::ledger::Error;

const INT8: u32 = 20;
const TEXT: u32 = 25;
const BOOL: u32 = 16;
const BYTEA: u32 = 17;

/// A composite type as this database numbers it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordType {
    element: Oid,
    array: Oid,
}

/// The types that a write takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Types {
    pub(super) key: RecordType,
    pub(super) line: RecordType,
    pub(super) sums: RecordType,
    pub(super) commit: RecordType,
    pub(super) settlement: RecordType,
}

impl Types {
    /// Asks the database.
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, Error> {
        let row = sqlx::query(include_str!("queries/types.sql"))
            .fetch_one(connection)
            .await
            .map_err(unavailable)?;
        let of = |name: &str| -> Result<RecordType, Error> {
            let oids: Vec<Oid> = row.try_get(name).map_err(unavailable)?;
            match oids[..] {
                [element, array] => Ok(RecordType { element, array }),
                _ => Err(Error::Corrupt(format!("{name} is not one type"))),
            }
        };
        Ok(Self {
            key: of("new_key")?,
            line: of("new_line_2")?,
            sums: of("new_sums")?,
            commit: of("new_commit")?,
            settlement: of("new_settlement")?,
        })
    }
}

/// Rows of one type.
pub(super) struct Records {
    of: RecordType,
    rows: i32,
    bytes: Vec<u8>,
}

impl Records {
    /// None yet.
    pub(super) fn new(of: RecordType) -> Self {
        Self::of_size(of, 0)
    }

    /// None yet, with room for about so many bytes.
    pub(super) fn of_size(of: RecordType, bytes: usize) -> Self {
        Self {
            of,
            rows: 0,
            bytes: Vec::with_capacity(bytes),
        }
    }

    /// Adds a row; `write` writes its columns, all of them, in the order of the type.
    pub(super) fn row(&mut self, write: impl FnOnce(&mut Record<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 8]);
        let mut record = Record {
            bytes: &mut self.bytes,
            columns: 0,
        };
        write(&mut record);
        let columns = record.columns;
        patch(&mut self.bytes, start, start + 4);
        self.bytes[start + 4..start + 8].copy_from_slice(&columns.to_be_bytes());
        self.rows += 1;
    }
}

/// One row.
pub(super) struct Record<'a> {
    bytes: &'a mut Vec<u8>,
    columns: i32,
}

impl Record<'_> {
    /// The next column, bytes.
    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.column(BYTEA, Some(value))
    }

    fn column(&mut self, of: u32, value: Option<&[u8]>) -> &mut Self {
        self.columns += 1;
        self.bytes.extend(of.to_be_bytes());
        let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self
    }
}

impl Values for Record<'_> {
    fn number(&mut self, value: Option<i64>) -> &mut Self {
        self.column(
            INT8,
            value.map(i64::to_be_bytes).as_ref().map(|bytes| &bytes[..]),
        )
    }

    fn flag(&mut self, value: Option<bool>) -> &mut Self {
        self.column(
            BOOL,
            value
                .map(|flag| [u8::from(flag)])
                .as_ref()
                .map(|byte| &byte[..]),
        )
    }

    fn text(&mut self, value: &str) -> &mut Self {
        self.column(TEXT, Some(value.as_bytes()))
    }

    fn json(&mut self, value: Option<String>) -> &mut Self {
        self.column(TEXT, value.as_deref().map(str::as_bytes))
    }
}

/// Writes the length of what follows `from` at `at`.
fn patch(bytes: &mut [u8], at: usize, from: usize) {
    let length = i32::try_from(bytes.len() - from).unwrap_or(i32::MAX);
    bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

impl Type<Postgres> for Records {
    /// Not known before the database was asked: see [`Encode::produces`].
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("record[]")
    }
}

impl Encode<'_, Postgres> for Records {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let dimensions = i32::from(self.rows > 0);
        buffer.extend(dimensions.to_be_bytes());
        buffer.extend(0_i32.to_be_bytes());
        buffer.extend(self.of.element.0.to_be_bytes());
        if self.rows > 0 {
            buffer.extend(self.rows.to_be_bytes());
            buffer.extend(1_i32.to_be_bytes());
            buffer.extend_from_slice(&self.bytes);
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(self.of.array))
    }

    fn size_hint(&self) -> usize {
        self.bytes.len() + 20
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;
    use tokenmeter_model::totals::Totals;

    use super::*;
    use crate::columns::COLUMNS;

    /// Columns are written without their names, so that both sides have to have the same order.
    #[tokio::test]
    async fn types_have_the_columns_that_are_written() {
        let database = || tokenmeter_test_postgres::shared().database("types");
        let url = tokio::task::spawn_blocking(database).await.unwrap();
        super::super::migrate(&url).await.unwrap();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let mut sums = vec!["tenant_id", "scope", "subject", "bucket"];
        sums.extend(Totals::SUMS);
        sums.push("updated_at");
        for (name, columns) in [("new_line_2", COLUMNS), ("new_sums", &sums[..])] {
            let attributes = "SELECT attname::text FROM pg_attribute \
                              WHERE attrelid = $1::regclass ORDER BY attnum";
            let found: Vec<String> = sqlx::query_scalar(attributes)
                .bind(name)
                .fetch_all(&mut connection)
                .await
                .unwrap();
            assert_eq!(found, columns, "{name}");
        }
        let record = include_str!("queries/record.sql");
        for sum in Totals::SUMS {
            let added = format!("{sum} = t.{sum} + excluded.{sum},");
            assert_eq!(record.matches(&added).count(), 1, "{added}");
        }
    }
}
