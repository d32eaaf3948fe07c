//! Rows of `jobs`.

use super::Row;
use crate::ledger::Error;
use crate::ledger::jobs::JobState;

/// A job; `held` says whether its lease has not run out.
pub(crate) fn read(row: &impl Row) -> Result<JobState, Error> {
    let held: bool = row.value("held")?;
    Ok(JobState {
        job: row.value("name")?,
        node: row.value("node")?,
        running: held && row.value("running")?,
        free: !held,
        lease_until_us: row.value("lease_until")?,
        last_start_us: row.value("last_start")?,
        last_end_us: row.value("last_end")?,
        succeeded: row.value("succeeded")?,
        detail: row.value("detail")?,
        last_key: row.value("last_key")?,
        failures: row.value("failures")?,
    })
}
