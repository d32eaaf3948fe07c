//! Tenants as their journal has them.

use std::collections::HashMap;
use std::path::Path;

use tokenmeter_model::id::TenantId;

use super::holds::Holds;
use super::journal::{Journal, Record};
use crate::counters::Error;

/// What a journal has of a tenant.
#[derive(Debug, Default)]
pub(super) struct Restored {
    pub(super) swept: i64,
    pub(super) holds: Holds,
}

/// Opens a journal and reads what it has.
///
/// # Errors
/// As [`Journal::open`].
pub(super) fn read(path: &Path) -> Result<(Journal, HashMap<TenantId, Restored>), Error> {
    let mut tenants = HashMap::new();
    let journal = Journal::open(path, |record| take(&mut tenants, record))?;
    Ok((journal, tenants))
}

fn take(tenants: &mut HashMap<TenantId, Restored>, record: Record<'_>) {
    let (Record::Swept { tenant, .. }
    | Record::Held { tenant, .. }
    | Record::Extended { tenant, .. }
    | Record::Ended { tenant, .. }) = &record;
    let Ok(tenant) = TenantId::new(&**tenant) else {
        return;
    };
    let Restored { swept, holds } = tenants.entry(tenant).or_default();
    match record {
        Record::Swept { position, .. } => *swept = position,
        Record::Held { held, .. } => {
            holds.add(held.into_owned());
        }
        Record::Extended {
            reservation_id,
            extension,
            ..
        } => {
            if let Some(id) = holds.id(&reservation_id) {
                holds.extend(id, extension.into_owned());
            }
        }
        Record::Ended {
            reservation_id,
            state,
            event_id,
            ended_us,
            ..
        } => {
            if let Some(id) = holds.id(&reservation_id) {
                holds.end(id, state, &event_id, ended_us);
            }
        }
    }
}
