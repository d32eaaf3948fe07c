//! Corrections: compensating entries that take an event out of every total, or change its price. Each
//! function is one transaction and answers the last position that it gave out.
//!
//! Corrections of one tenant wait for each other, whatever node they come from, so that an event is
//! voided once and a price is changed from what stands.

use std::collections::HashMap;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Acquire as _, Row as _};
use tokenmeter_model::totals::Totals;

use super::failure::Failure;
use super::group::Writing;
use super::link::Open;
use super::records::Types;
use super::{read, requests};
use crate::fault::{Planted, is_planted};
use crate::ledger::correction::{Adjustment, RepriceStep, Request, Void, VoidOutcome};
use crate::ledger::{Recorded, Voided};
use crate::rows::{Row as _, events};
use crate::sums::{Owner, difference};

/// What is remembered of a request that voided its event.
const VOIDED: &str = "voided";
/// What is remembered of a request that found its event voided.
const ALREADY: &str = "already voided";

/// Voids an event.
pub(super) async fn void(open: &mut Open, void: &Void) -> Result<(VoidOutcome, i64), Failure> {
    let mut transaction = open.connection.begin().await?;
    let done = void_within(&mut transaction, open.types, void).await?;
    // Where nothing was written, too: it ends now, and with it the lock of its tenant.
    transaction.commit().await?;
    Ok(done)
}

async fn void_within(
    transaction: &mut PgConnection,
    types: Types,
    void: &Void,
) -> Result<(VoidOutcome, i64), Failure> {
    let request = &void.request;
    let tenant = request.tenant.as_str();
    requests::lock(transaction, tenant).await?;
    let before = requests::find(&mut *transaction, tenant, &request.request_id).await?;
    if before.as_ref().is_some_and(|before| !before.is(request)) {
        return Ok((VoidOutcome::RequestConflict, 0));
    }
    let mut event = match standing_event(transaction, request, &void.event_id).await? {
        Ok(event) => event,
        Err(outcome) => return Ok((outcome, 0)),
    };
    if let Some(before) = before {
        return Ok((voided(event, before.answer == ALREADY), 0));
    }
    if event.voided.is_some() {
        requests::put(transaction, request, ALREADY).await?;
        return Ok((voided(event, true), 0));
    }
    let written = sqlx::query(include_str!("queries/void.sql"))
        .bind(tenant)
        .bind(event.position)
        .bind(event.charge_time_us)
        .bind(request.at_us)
        .bind(&void.reason)
        .execute(&mut *transaction)
        .await?;
    if usize::try_from(written.rows_affected()) != Ok(event.event.lines.len()) {
        return Err(Failure::Corrupt("an event lost lines".into()));
    }
    requests::put(transaction, request, VOIDED).await?;
    let mut writing = Writing::new(types);
    for (_, position) in event.event.lines.iter().zip(1..) {
        writing.line_at(tenant, position, event.charge_time_us);
    }
    if !is_planted(Planted::SkipVoidTotals) {
        writing.sums().take_out(tenant, &event, request.at_us)?;
    }
    let (_, last) = writing.execute(transaction).await?;
    event.voided = Some(Voided {
        at_us: request.at_us,
        reason: void.reason.clone(),
    });
    Ok((voided(event, false), last))
}

fn voided(event: Recorded, already: bool) -> VoidOutcome {
    VoidOutcome::Voided {
        event: Box::new(event),
        already,
    }
}

/// An event with the quotes that stand, or why there is none to void.
async fn standing_event(
    connection: &mut PgConnection,
    request: &Request,
    event_id: &str,
) -> Result<Result<Recorded, VoidOutcome>, Failure> {
    let tenant = request.tenant.as_str();
    let oldest_us = seal_later(connection).await?;
    let key: Option<(i64, i64)> = sqlx::query_as(
        "SELECT position, charge_time FROM event_keys WHERE tenant_id = $1 AND event_id = $2",
    )
    .bind(tenant)
    .bind(event_id)
    .fetch_optional(&mut *connection)
    .await?;
    let Some((position, charge_time_us)) = key else {
        return Ok(Err(VoidOutcome::NotFound));
    };
    if charge_time_us < oldest_us {
        return Ok(Err(VoidOutcome::TooOld { oldest_us }));
    }
    let place = [(position, charge_time_us)];
    let mut events = read::events_at(connection, tenant, &place, i64::MAX).await?;
    let event = events.remove(&position);
    let event = event.ok_or_else(|| Failure::Corrupt("a key has no lines".into()))?;
    Ok(Ok(event))
}

/// The earliest charge time that is accepted; it stays so until the transaction ends.
async fn seal_later(connection: &mut PgConnection) -> Result<i64, Failure> {
    let sealed = "SELECT sealed_before FROM ledger_state WHERE id = 1 FOR SHARE";
    Ok(sqlx::query_scalar(sealed).fetch_one(connection).await?)
}

/// Posts the entries of a step if the run is where the caller saw it, and every quote that it saw
/// still stands; answers the last position given out, or none if it did not.
pub(super) async fn reprice(open: &mut Open, step: &RepriceStep) -> Result<Option<i64>, Failure> {
    let mut transaction = open.connection.begin().await?;
    let done = reprice_within(&mut transaction, open.types, step).await?;
    transaction.commit().await?;
    Ok(done)
}

async fn reprice_within(
    transaction: &mut PgConnection,
    types: Types,
    step: &RepriceStep,
) -> Result<Option<i64>, Failure> {
    let RepriceStep {
        request,
        previous,
        reprice_id,
        adjustments,
        progress,
    } = step;
    let tenant = request.tenant.as_str();
    requests::lock(transaction, tenant).await?;
    let before = requests::find(&mut *transaction, tenant, &request.request_id).await?;
    let stands = match (&before, previous) {
        (None, None) => true,
        (Some(before), Some(previous)) => before.is(request) && before.answer == *previous,
        _ => false,
    };
    if !stands {
        return Ok(None);
    }
    seal_later(transaction).await?;
    let Some(rows) = standing(transaction, tenant, adjustments).await? else {
        return Ok(None);
    };
    let sums: Vec<_> = adjustments
        .iter()
        .map(|one| difference(one, request.at_us))
        .collect();
    insert_entries(transaction, step, reprice_id, &rows, &sums).await?;
    requests::put(transaction, request, progress).await?;
    let mut writing = Writing::new(types);
    for ((row, sums), position) in rows.iter().zip(&sums).zip(1..) {
        let owner = owner(row)?;
        writing.line_at(tenant, position, owner.charge_time_us);
        writing.sums().add(&owner, sums);
    }
    let (_, last) = writing.execute(transaction).await?;
    Ok(Some(match adjustments.is_empty() {
        true => 0,
        false => last,
    }))
}

/// The lines of adjustments, in their order; none when the quote that the caller saw of one does not
/// stand any more.
async fn standing(
    connection: &mut PgConnection,
    tenant: &str,
    adjustments: &[Adjustment],
) -> Result<Option<Vec<PgRow>>, Failure> {
    let positions: Vec<_> = adjustments.iter().map(|one| one.position).collect();
    let rows = sqlx::query(include_str!("queries/standing_quotes.sql"))
        .bind(tenant)
        .bind(positions)
        .fetch_all(connection)
        .await?;
    let mut by_position = HashMap::with_capacity(rows.len());
    for row in rows {
        by_position.insert(row.try_get::<i64, _>("position")?, row);
    }
    let mut standing = Vec::with_capacity(adjustments.len());
    for adjustment in adjustments {
        let Some(row) = by_position.remove(&adjustment.position) else {
            return Ok(None);
        };
        if events::quote(&row)? != adjustment.from {
            return Ok(None);
        }
        standing.push(row);
    }
    Ok(Some(standing))
}

async fn insert_entries(
    connection: &mut PgConnection,
    step: &RepriceStep,
    reprice_id: &str,
    rows: &[PgRow],
    sums: &[Totals],
) -> Result<(), Failure> {
    let adjustments = &step.adjustments;
    let of_line = |of: fn(&Adjustment) -> i64| adjustments.iter().map(of).collect::<Vec<_>>();
    let of_sums = |of: fn(&Totals) -> i64| sums.iter().map(of).collect::<Vec<_>>();
    let times: Result<Vec<i64>, _> = rows.iter().map(|row| row.try_get("charge_time")).collect();
    let written = sqlx::query(include_str!("queries/insert_reprices.sql"))
        .bind(step.request.tenant.as_str())
        .bind(of_line(|one| one.position))
        .bind(times?)
        .bind(of_sums(|sums| sums.unpriced_lines))
        .bind(of_sums(|sums| sums.cost_nano_usd))
        .bind(of_sums(|sums| sums.cache_saving_nano_usd))
        .bind(of_sums(|sums| sums.cache_write_extra_nano_usd))
        .bind(of_line(|one| one.to.price_version))
        .bind(step.request.at_us)
        .bind(reprice_id)
        .execute(connection)
        .await?;
    match usize::try_from(written.rows_affected()) == Ok(adjustments.len()) {
        true => Ok(()),
        false => Err(Failure::Corrupt("a line is lost".into())),
    }
}

/// Whom a line counts for.
fn owner(row: &PgRow) -> Result<Owner<'_>, Failure> {
    Ok(Owner {
        tenant: row.value("tenant_id")?,
        user: row.value("user_id")?,
        team: row.value("team_id")?,
        session: row.value("session_id")?,
        provider: row.value("provider")?,
        model: row.value("model")?,
        charge_time_us: row.value("charge_time")?,
    })
}
