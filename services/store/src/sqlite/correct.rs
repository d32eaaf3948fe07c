//! Corrections: compensating entries that take an event out of every total, or change its price.
//! Each function is one transaction and answers the positions that it gave out.

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use tokenmeter_model::price::Quote;
use tokenmeter_model::totals::Totals;

use super::insert::Insert;
use super::{read, requests, retention, totals, unavailable, writer};
use crate::fault::{Planted, is_planted};
use crate::ledger::correction::{Adjustment, RepriceStep, Request, Void, VoidOutcome};
use crate::ledger::{Error, Recorded, Voided};
use crate::rows::{Row as _, events};
use crate::sums::{Batch, Owner, difference};
use crate::touched::Given;

/// What is remembered of a request that voided its event.
const VOIDED: &str = "voided";
/// What is remembered of a request that found its event voided.
const ALREADY: &str = "already voided";

/// Voids an event; answers the positions given out, too, if any were.
pub(super) async fn void(
    connection: &mut SqliteConnection,
    upsert: &Insert,
    void: &Void,
) -> Result<(VoidOutcome, Option<Given>), Error> {
    let request = &void.request;
    let tenant = request.tenant.as_str();
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let before = requests::find(&mut *transaction, tenant, &request.request_id).await?;
    if before.as_ref().is_some_and(|before| !before.is(request)) {
        return Ok((VoidOutcome::RequestConflict, None));
    }
    let mut event = match standing_event(&mut transaction, request, &void.event_id).await? {
        Standing::Event(event) => *event,
        Standing::TooOld { oldest_us } => return Ok((VoidOutcome::TooOld { oldest_us }, None)),
        Standing::Nothing => return Ok((VoidOutcome::NotFound, None)),
    };
    if let Some(before) = before {
        let already = before.answer == ALREADY;
        return Ok((voided(event, already), None));
    }
    if event.voided.is_some() {
        requests::put(&mut transaction, request, ALREADY).await?;
        transaction.commit().await.map_err(unavailable)?;
        return Ok((voided(event, true), None));
    }
    let after = writer::last_position(&mut transaction).await?;
    let written = sqlx::query(include_str!("queries/void.sql"))
        .bind(after + 1)
        .bind(event.position)
        .bind(request.at_us)
        .bind(&void.reason)
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
    if usize::try_from(written.rows_affected()) != Ok(event.event.lines.len()) {
        return Err(Error::Corrupt("an event lost lines".into()));
    }
    if !is_planted(Planted::SkipVoidTotals) {
        let mut batch = Batch::default();
        batch.take_out(tenant, &event, request.at_us)?;
        let sums = totals::bind(batch, upsert)?;
        sums.execute(&mut transaction).await.map_err(unavailable)?;
    }
    let last = after + i64::try_from(event.event.lines.len()).unwrap_or(1);
    writer::set_last_position(&mut transaction, last).await?;
    requests::put(&mut transaction, request, VOIDED).await?;
    transaction.commit().await.map_err(unavailable)?;
    event.voided = Some(Voided {
        at_us: request.at_us,
        reason: void.reason.clone(),
    });
    Ok((voided(event, false), Some(Given { after, last })))
}

fn voided(event: Recorded, already: bool) -> VoidOutcome {
    VoidOutcome::Voided {
        event: Box::new(event),
        already,
    }
}

/// What stands under an event id.
enum Standing {
    Nothing,
    /// An event that is sealed.
    TooOld {
        oldest_us: i64,
    },
    Event(Box<Recorded>),
}

/// An event with the quotes that stand.
async fn standing_event(
    connection: &mut SqliteConnection,
    request: &Request,
    event_id: &str,
) -> Result<Standing, Error> {
    let tenant = request.tenant.as_str();
    let position: Option<i64> = sqlx::query_scalar(
        "SELECT position FROM event_keys WHERE tenant_id = ?1 AND event_id = ?2",
    )
    .bind(tenant)
    .bind(event_id)
    .fetch_optional(&mut *connection)
    .await
    .map_err(unavailable)?;
    let Some(position) = position else {
        return Ok(Standing::Nothing);
    };
    let oldest_us = retention::sealed_before(&mut *connection).await?;
    let first = read::first_record(connection, tenant, event_id, position).await?;
    let first = match first.filter(|first| first.charge_time_us >= oldest_us) {
        None if oldest_us == 0 => return Err(read::lost()),
        None => return Ok(Standing::TooOld { oldest_us }),
        Some(first) => first,
    };
    let mut event = [first];
    read::apply_corrections(connection, &mut event, i64::MAX).await?;
    let [event] = event;
    Ok(Standing::Event(Box::new(event)))
}

/// Posts the entries of a step if the run is where the caller saw it, and every quote that it saw
/// still stands; answers the positions given out, or none if it did not.
pub(super) async fn reprice(
    connection: &mut SqliteConnection,
    upsert: &Insert,
    step: &RepriceStep,
) -> Result<Option<Given>, Error> {
    let RepriceStep {
        request,
        previous,
        reprice_id,
        adjustments,
        progress,
    } = step;
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(unavailable)?;
    let tenant = request.tenant.as_str();
    let before = requests::find(&mut *transaction, tenant, &request.request_id).await?;
    let stands = match (&before, previous) {
        (None, None) => true,
        (Some(before), Some(previous)) => before.is(request) && before.answer == *previous,
        _ => false,
    };
    if !stands {
        return Ok(None);
    }
    let after = writer::last_position(&mut transaction).await?;
    let mut last = after;
    let mut posted = Vec::with_capacity(adjustments.len());
    for adjustment in adjustments {
        let row = sqlx::query(include_str!("queries/standing_quote.sql"))
            .bind(tenant)
            .bind(adjustment.position)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(unavailable)?;
        // Dropping the transaction takes back the entries before this one.
        let Some(row) = row else { return Ok(None) };
        if events::quote(&row)? != adjustment.from {
            return Ok(None);
        }
        last += 1;
        let sums = difference(adjustment, request.at_us);
        insert_entry(&mut transaction, last, adjustment, &sums, reprice_id).await?;
        posted.push((row, sums));
    }
    let mut batch = Batch::default();
    for (row, sums) in &posted {
        batch.add(&owner(row)?, sums);
    }
    let sums = totals::bind(batch, upsert)?;
    sums.execute(&mut transaction).await.map_err(unavailable)?;
    writer::set_last_position(&mut transaction, last).await?;
    requests::put(&mut transaction, request, progress).await?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(Some(Given { after, last }))
}

async fn insert_entry(
    connection: &mut SqliteConnection,
    position: i64,
    adjustment: &Adjustment,
    sums: &Totals,
    reprice_id: &str,
) -> Result<(), Error> {
    let Quote { price_version, .. } = adjustment.to;
    sqlx::query(include_str!("queries/insert_reprice.sql"))
        .bind(position)
        .bind(adjustment.position)
        .bind(sums.updated_at_us)
        .bind(sums.unpriced_lines)
        .bind(sums.cost_nano_usd)
        .bind(sums.cache_saving_nano_usd)
        .bind(sums.cache_write_extra_nano_usd)
        .bind(price_version)
        .bind(reprice_id)
        .execute(connection)
        .await
        .map_err(unavailable)?;
    Ok(())
}

/// Whom a line counts for.
fn owner(row: &SqliteRow) -> Result<Owner<'_>, Error> {
    let text = |column: &str| row.value::<&str>(column);
    Ok(Owner {
        tenant: text("tenant_id")?,
        user: text("user_id")?,
        team: text("team_id")?,
        session: text("session_id")?,
        provider: text("provider")?,
        model: text("model")?,
        charge_time_us: row.value("charge_time")?,
    })
}
