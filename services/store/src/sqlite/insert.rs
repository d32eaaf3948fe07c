//! Many rows in one statement.
//!
//! A statement for each number of rows would fill the statement cache, and one statement a row
//! costs a round trip to SQLite's thread each. So rows go out in chunks of a few fixed sizes, each
//! a statement that is prepared once. Bound values beat `json_each` six to one at this width.

use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments as _, AssertSqlSafe, Encode, Sqlite, Type};

use crate::columns::Values;

/// Rows a statement, largest first. SQLite binds at most 32,766 values, so the widest table
/// (54 columns) takes at most 606 rows.
const CHUNKS: [usize; 5] = [500, 100, 20, 4, 1];

/// An insert into one table, prepared for every chunk size.
pub(super) struct Insert {
    columns: usize,
    statements: [Arc<str>; CHUNKS.len()],
}

impl Insert {
    /// An insert of `columns` into `table`; `tail` follows the values (`ON CONFLICT …`).
    pub(super) fn new(table: &str, columns: &[&str], tail: &str) -> Self {
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let statements = CHUNKS.map(|rows| {
            let values = vec![row.as_str(); rows].join(", ");
            format!(
                "INSERT INTO {table} ({}) VALUES {values} {tail}",
                columns.join(", ")
            )
            .into()
        });
        Self {
            columns: columns.len(),
            statements,
        }
    }

    /// Binds `rows`; `bind` writes the values of one row.
    pub(super) fn bind<T>(
        &self,
        rows: &[T],
        mut bind: impl FnMut(&T, &mut Row),
    ) -> Result<Bound, sqlx::Error> {
        let mut bound = Vec::new();
        let mut rest = rows;
        for (size, statement) in CHUNKS.iter().zip(&self.statements) {
            while let Some((chunk, after)) = rest.split_at_checked(*size) {
                rest = after;
                let mut row = Row(SqliteArguments::default(), Ok(()));
                row.0.reserve(size * self.columns, 0);
                for item in chunk {
                    bind(item, &mut row);
                }
                let Row(arguments, added) = row;
                added.map_err(sqlx::Error::Encode)?;
                bound.push((Arc::clone(statement), arguments));
            }
        }
        Ok(Bound(bound))
    }
}

/// Statements with their values. Binding is apart from executing so that one can be done while
/// SQLite's thread is at the other.
pub(super) struct Bound(Vec<(Arc<str>, SqliteArguments)>);

impl Bound {
    /// Executes them. Answers how many rows changed.
    pub(super) async fn execute(
        self,
        connection: &mut SqliteConnection,
    ) -> Result<u64, sqlx::Error> {
        let mut changed = 0;
        for (statement, arguments) in self.0 {
            changed += sqlx::query_with(AssertSqlSafe(statement), arguments)
                .execute(&mut *connection)
                .await?
                .rows_affected();
        }
        Ok(changed)
    }
}

/// The values of one row, bound in the order of the columns.
pub(super) struct Row(SqliteArguments, Result<(), sqlx::error::BoxDynError>);

impl Row {
    /// Binds the next column.
    pub(super) fn push<'t, T: Encode<'t, Sqlite> + Type<Sqlite>>(&mut self, value: T) -> &mut Self {
        if self.1.is_ok() {
            self.1 = self.0.add(value);
        }
        self
    }
}

impl Values for Row {
    fn number(&mut self, value: Option<i64>) -> &mut Self {
        self.push(value)
    }

    fn flag(&mut self, value: Option<bool>) -> &mut Self {
        self.push(value)
    }

    fn text(&mut self, value: &str) -> &mut Self {
        // One allocation; a `String` or a `&str` takes two.
        self.push(Arc::<str>::from(value))
    }

    fn json(&mut self, value: Option<String>) -> &mut Self {
        self.push(value)
    }
}
