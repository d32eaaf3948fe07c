//! The messages of a session: those recorded on their own and those of usage events, as one list.

use std::collections::HashMap;

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::reports::json;
use super::sessions::last_position;
use super::{read, unavailable};
use crate::ledger::reports::{Listed, Message, MessageItem, Moment, Page};
use crate::ledger::{Error, Recorded};
use crate::rows::{self, events};

/// A page of messages, from one snapshot.
pub(super) async fn list(
    pool: &SqlitePool,
    tenant: &str,
    session_id: &str,
    user_id: &str,
    page: Page,
) -> Result<Listed<Message>, Error> {
    let mut snapshot = pool.begin().await.map_err(unavailable)?;
    let as_of = match page.as_of {
        Some(as_of) => as_of,
        None => Moment {
            position: last_position(&mut snapshot).await?,
            item: sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM messages")
                .fetch_one(&mut *snapshot)
                .await
                .map_err(unavailable)?,
        },
    };
    let places: Vec<(bool, i64)> = sqlx::query_as(include_str!("queries/messages.sql"))
        .bind(tenant)
        .bind(session_id)
        .bind(user_id)
        .bind(as_of.item)
        .bind(as_of.position)
        .bind(page.limit)
        .bind(page.skip)
        .fetch_all(&mut *snapshot)
        .await
        .map_err(unavailable)?;
    let of_kind = |event: bool| -> Vec<i64> {
        let kept = places.iter().filter(|(is_event, _)| *is_event == event);
        kept.map(|(_, place)| *place).collect()
    };
    let mut events = events_at(&mut snapshot, &of_kind(true), as_of.position).await?;
    let mut items = items(&mut snapshot, &of_kind(false)).await?;
    let entries = places
        .iter()
        .filter_map(|(is_event, place)| match is_event {
            true => events
                .remove(place)
                .map(|one| Message::Event(Box::new(one))),
            false => items.remove(place).map(|one| Message::Item(Box::new(one))),
        })
        .collect();
    Ok(Listed { entries, as_of })
}

/// The events whose first lines stand at these positions, as they stand.
async fn events_at(
    connection: &mut SqliteConnection,
    positions: &[i64],
    through: i64,
) -> Result<HashMap<i64, Recorded>, Error> {
    let rows = sqlx::query(include_str!("queries/events_at.sql"))
        .bind(json(&positions)?)
        .fetch_all(&mut *connection)
        .await
        .map_err(unavailable)?;
    let mut events = events::events(rows)?;
    read::apply_corrections(connection, &mut events, through).await?;
    Ok(events.into_iter().map(|one| (one.position, one)).collect())
}

async fn items(
    connection: &mut SqliteConnection,
    numbers: &[i64],
) -> Result<HashMap<i64, MessageItem>, Error> {
    let rows =
        sqlx::query("SELECT * FROM messages WHERE number IN (SELECT value FROM json_each(?1))")
            .bind(json(&numbers)?)
            .fetch_all(connection)
            .await
            .map_err(unavailable)?;
    rows::reports::messages(&rows)
}
