//! Recording what stands beside usage: tool invocations, messages, champion cases.

use std::sync::Arc;

use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{MAX_BATCH_ITEMS, Violation};
use tokenmeter_model::item::Item;
use tokenmeter_store::ledger;
use tokenmeter_store::ledger::items::{ItemOutcome, ItemSubmission};

use crate::error::Error;
use crate::service::Metering;

/// How an item stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedItem {
    /// Whether it stood there before.
    pub duplicate: bool,
    /// The id under which it stands.
    pub id: String,
    /// When it was first recorded, in microseconds since the Unix epoch.
    pub recorded_at_us: i64,
}

impl Metering {
    /// Records items; one result an item, in order. A bad item never fails the others. `field` is
    /// what the request calls them.
    ///
    /// # Errors
    /// Why the request as a whole was not tried: its size, or the ledger.
    pub async fn record_items(
        &self,
        caller: &Caller,
        field: &'static str,
        items: Vec<Result<Item, Vec<Violation>>>,
    ) -> Result<Vec<Result<RecordedItem, Error>>, Error> {
        if items.is_empty() || items.len() > MAX_BATCH_ITEMS {
            let text = format!(
                "{} {field} is out of bounds; send 1 to {MAX_BATCH_ITEMS}",
                items.len()
            );
            return Err(Error::Invalid(vec![Violation::new(field, text)]));
        }
        let now_us = (self.clock)();
        let mut submissions = Vec::with_capacity(items.len());
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let prepared = item.and_then(|item| prepare(caller, item, now_us));
            results.push(prepared.map(|submission| submissions.push(submission)));
        }
        let submissions: Arc<[ItemSubmission]> = submissions.into();
        let outcomes = self.ledger.record_items(Arc::clone(&submissions)).await?;
        let new: Vec<_> = submissions
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| matches!(outcome, ItemOutcome::Recorded { .. }))
            .map(|(submission, _)| submission)
            .collect();
        self.admission.tools(&caller.tenant, &new).await;
        let mut recorded = submissions.iter().zip(outcomes);
        Ok(results
            .into_iter()
            .map(|prepared| {
                prepared.map_err(Error::Invalid)?;
                let (submission, outcome) = recorded
                    .next()
                    .ok_or_else(|| ledger::Error::Corrupt("an outcome is missing".into()))?;
                stand(&submission.item, outcome)
            })
            .collect())
    }
}

/// Fills in the caller and checks every bound.
fn prepare(caller: &Caller, mut item: Item, now_us: i64) -> Result<ItemSubmission, Vec<Violation>> {
    let user = item.user_mut();
    if user.is_empty() {
        user.clone_from(&caller.user);
    }
    let violations = item.check(now_us);
    if !violations.is_empty() {
        return Err(violations);
    }
    Ok(ItemSubmission {
        tenant: caller.tenant.clone(),
        fingerprint: item.fingerprint(),
        item,
        recorded_at_us: now_us,
    })
}

/// What stands after an outcome.
fn stand(item: &Item, outcome: ItemOutcome) -> Result<RecordedItem, Error> {
    let recorded = |duplicate, recorded_at_us| RecordedItem {
        duplicate,
        id: item.id().to_owned(),
        recorded_at_us,
    };
    match outcome {
        ItemOutcome::Recorded { recorded_at_us } => Ok(recorded(false, recorded_at_us)),
        ItemOutcome::Duplicate { recorded_at_us } => Ok(recorded(true, recorded_at_us)),
        ItemOutcome::TooOld { oldest_us } => Err(Error::TooOld { oldest_us }),
        ItemOutcome::Conflict => Err(Error::ItemConflict {
            field: item.id_field(),
            id: item.id().to_owned(),
        }),
    }
}
