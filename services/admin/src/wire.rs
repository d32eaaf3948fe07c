//! The contracts of upkeep, converted.

use tokenmeter_api::convert::time;
use tokenmeter_api::v1;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::totals::BUCKET_US;
use tokenmeter_store::ledger::reconcile::{Drift, DriftState, Scope};

use crate::error::Error;
use crate::jobs::Job;
use crate::reconcile::{ReconcileReport, drift_id};
use crate::retention::{Purge, PurgeReport};
use crate::rollover::RolledOver;

pub(crate) fn purge(asked: v1::PurgeRequest) -> Result<Purge, Error> {
    let before_us = asked
        .before
        .as_ref()
        .map(|at| time::to_micros("before", at))
        .transpose()?;
    Ok(Purge {
        request_id: asked.request_id,
        before_us,
        dry_run: asked.dry_run,
    })
}

pub(crate) fn purged(report: &PurgeReport) -> v1::PurgeResponse {
    v1::PurgeResponse {
        events: report.dropped.events,
        other_rows: report.dropped.other_rows,
        sealed: Some((&report.dropped.sealed).into()),
        oldest_kept_time: report.oldest_kept_us.map(time::from_micros),
        complete: report.complete,
    }
}

pub(crate) fn reconciled(report: ReconcileReport) -> v1::ReconcileResponse {
    v1::ReconcileResponse {
        reconcile_id: report.reconcile_id,
        totals_checked: report.reconciled.totals_checked,
        // There are no counters yet.
        counters_checked: 0,
        drifts: report.drifts.iter().map(drift).collect(),
        drift_count: report.reconciled.drift_count,
        corrected: report.reconciled.corrected,
        flagged: report.reconciled.flagged,
    }
}

pub(crate) fn drift(drift: &Drift) -> v1::Drift {
    let scope = match drift.key.scope {
        Scope::User => v1::LimitScope::User,
        Scope::Team => v1::LimitScope::Team,
        Scope::Session => v1::LimitScope::Session,
        // There are no limits on a model; the kind says what it is.
        Scope::Model => v1::LimitScope::Unspecified,
    };
    v1::Drift {
        drift_id: drift_id(drift),
        reconcile_id: drift.reconcile_id.clone(),
        kind: kind(drift),
        subject: Some(v1::Subject {
            scope: scope.into(),
            id: drift.key.subject.clone(),
        }),
        field: drift.field.clone(),
        recorded: drift.recorded,
        computed: drift.computed,
        drift_ppm: drift.ppm(),
        state: match drift.state {
            DriftState::Reported => v1::DriftState::Reported,
            DriftState::Corrected => v1::DriftState::Corrected,
            DriftState::Flagged => v1::DriftState::Flagged,
            DriftState::Accepted => v1::DriftState::Accepted,
        }
        .into(),
        found_time: Some(time::from_micros(drift.found_us)),
        resolved_time: drift.resolved_us.map(time::from_micros),
        window: v1::LimitWindow::Unspecified.into(),
    }
}

/// What was compared: `user_total`, or `user_quarter_hour@` and its beginning.
fn kind(drift: &Drift) -> String {
    let scope = drift.key.scope.as_str();
    match drift.key.bucket {
        0 => format!("{scope}_total"),
        bucket => {
            let begins = time::from_micros(bucket.saturating_mul(BUCKET_US));
            format!("{scope}_quarter_hour@{begins}")
        }
    }
}

/// The state that a list is restricted to; none means all.
pub(crate) fn drift_state(state: i32) -> Result<Option<DriftState>, Error> {
    Ok(match v1::DriftState::try_from(state) {
        Ok(v1::DriftState::Unspecified) => None,
        Ok(v1::DriftState::Reported) => Some(DriftState::Reported),
        Ok(v1::DriftState::Corrected) => Some(DriftState::Corrected),
        Ok(v1::DriftState::Flagged) => Some(DriftState::Flagged),
        Ok(v1::DriftState::Accepted) => Some(DriftState::Accepted),
        Err(_) => {
            let text = "is no state; send one of DriftState";
            return Err(Violation::new("state", text).into());
        }
    })
}

pub(crate) fn rolled_over(done: RolledOver) -> v1::RolloverResponse {
    v1::RolloverResponse {
        period_id: done.period_id,
        users: done.users,
        already_closed: done.already_closed,
    }
}

pub(crate) fn job(job: Job) -> v1::Job {
    let next_start_time = Some(time::from_micros(job.next_us));
    let Some(state) = job.state else {
        return v1::Job {
            name: job.name,
            next_start_time,
            ..Default::default()
        };
    };
    v1::Job {
        name: job.name,
        running: state.running,
        node_id: state.node,
        last_start_time: Some(time::from_micros(state.last_start_us)),
        last_end_time: state.last_end_us.map(time::from_micros),
        last_succeeded: state.succeeded,
        next_start_time,
        last_detail: state.detail,
    }
}
