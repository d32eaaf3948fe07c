//! The messages of a session: those recorded on their own and those of usage events, as one list.

use sqlx::postgres::PgPool;

use super::read::{events_at, snapshot};
use super::unavailable;
use crate::ledger::Error;
use crate::ledger::reports::{Listed, Message, Moment, Page};
use crate::rows::reports;

/// A page of messages, from one snapshot.
pub(super) async fn list(
    pool: &PgPool,
    tenant: &str,
    session_id: &str,
    user_id: &str,
    page: Page,
    as_of: Moment,
) -> Result<Listed<Message>, Error> {
    let mut snapshot = snapshot(pool).await?;
    let places: Vec<(bool, i64, i64)> = sqlx::query_as(include_str!("queries/messages.sql"))
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
    let of_kind = |event: bool| -> Vec<(i64, i64)> {
        let kept = places.iter().filter(|(is_event, ..)| *is_event == event);
        kept.map(|(_, place, time)| (*place, *time)).collect()
    };
    let mut events = events_at(&mut snapshot, tenant, &of_kind(true), as_of.position).await?;
    let numbers: Vec<i64> = of_kind(false).iter().map(|(number, _)| *number).collect();
    let rows = sqlx::query(
        "SELECT * FROM messages \
         WHERE tenant_id = $1 AND session_id = $2 AND number = ANY($3)",
    )
    .bind(tenant)
    .bind(session_id)
    .bind(numbers)
    .fetch_all(&mut *snapshot)
    .await
    .map_err(unavailable)?;
    let mut items = reports::messages(&rows)?;
    let entries = places
        .iter()
        .filter_map(|(is_event, place, _)| match is_event {
            true => events
                .remove(place)
                .map(|one| Message::Event(Box::new(one))),
            false => items.remove(place).map(|one| Message::Item(Box::new(one))),
        })
        .collect();
    Ok(Listed { entries, as_of })
}
