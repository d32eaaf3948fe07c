//! The table of openings: one more each time that the file is opened.

use sqlx::sqlite::SqliteConnection;

use super::unavailable;
use crate::ledger::Error;
use crate::openings::{KEPT, Openings};

/// Begins another one after the last position of the ledger; answers all.
pub(super) async fn begin(
    connection: &mut SqliteConnection,
    last_position: i64,
) -> Result<Openings, Error> {
    sqlx::query(
        "INSERT INTO openings (opening, after_position) VALUES (lower(hex(randomblob(8))), ?1)",
    )
    .bind(last_position)
    .execute(&mut *connection)
    .await
    .map_err(unavailable)?;
    sqlx::query("DELETE FROM openings WHERE number <= (SELECT max(number) FROM openings) - ?1")
        .bind(KEPT)
        .execute(&mut *connection)
        .await
        .map_err(unavailable)?;
    let all = "SELECT opening, after_position FROM openings ORDER BY number";
    let openings = sqlx::query_as(all).fetch_all(connection).await;
    Ok(Openings::new(openings.map_err(unavailable)?))
}
