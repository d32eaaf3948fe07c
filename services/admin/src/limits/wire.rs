//! The contracts of limits, converted.

use prost_types::Duration;
use tokenmeter_api::convert::{limit, time};
use tokenmeter_api::v1;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::limit::Scope;
use tokenmeter_store::counters::{Rule, Standing};
use tokenmeter_store::ledger::limits::{Assignment, StoredProfile};

use super::tenant::AskedSettings;
use super::{Effective, Subject, Tenant};
use crate::error::Error;

/// How long after its last event a session counts as active, in seconds.
const ACTIVITY_SECONDS: i64 = 30 * 60;
/// Seconds in a day.
const DAY_SECONDS: i64 = 24 * 3_600;

pub(crate) fn profile(stored: StoredProfile) -> v1::Profile {
    limit::from_profile(
        &stored.profile,
        stored.etag,
        stored.shipped,
        stored.created_us,
        stored.updated_us,
    )
}

/// The subject that a request has to name.
pub(crate) fn subject(subject: Option<v1::Subject>) -> Result<Subject, Error> {
    let (scope, id) = limit::subject("subject", subject).map_err(Error::Invalid)?;
    Ok(Subject { scope, id })
}

/// The scope that a list is restricted to; none means all.
pub(crate) fn scope_filter(scope: i32) -> Result<Option<Scope>, Error> {
    Ok(limit::scope_filter("scope", scope)?)
}

pub(crate) fn assignment(assignment: Assignment) -> v1::Assignment {
    v1::Assignment {
        subject: Some(limit::from_subject(assignment.scope, assignment.subject)),
        profile_id: assignment.profile_id,
        assigned_time: Some(time::from_micros(assignment.assigned_us)),
        assigned_by: assignment.assigned_by,
    }
}

pub(crate) fn effective(effective: Effective) -> v1::GetEffectiveLimitsResponse {
    v1::GetEffectiveLimitsResponse {
        profile: effective.profile.map(profile),
        profile_subject: effective
            .assigned_to
            .map(|(scope, id)| limit::from_subject(scope, id)),
        own_limits: effective.own.iter().map(Into::into).collect(),
        states: effective
            .states
            .iter()
            .zip(effective.exhaustion_us)
            .map(|((rule, standing), exhaustion_us)| v1::LimitState {
                exhaustion_time: exhaustion_us.map(time::from_micros),
                ..state(rule, standing)
            })
            .collect(),
    }
}

fn state(rule: &Rule, standing: &Standing) -> v1::LimitState {
    v1::LimitState::from(limit::State {
        limit: &rule.limit,
        subject: &rule.subject,
        profile_id: &rule.profile_id,
        used: standing.used,
        held: standing.held,
        reset_us: standing.reset_us,
        exceeded: standing.exceeded,
        degraded: false,
    })
}

/// The settings that are asked for. What this version does not keep for a tenant is refused, unless it
/// is what applies anyway, so that settings can be sent back as they were read.
pub(crate) fn settings(
    settings: Option<v1::TenantSettings>,
    retention_days: Option<u32>,
) -> Result<AskedSettings, Error> {
    let Some(settings) = settings else {
        return Err(Violation::new("settings", "is required; send the whole new settings").into());
    };
    if settings.disabled {
        return Err(Error::Denied(
            "only operators may shut a tenant off; leave settings.disabled away",
        ));
    }
    let kept = [
        (
            "settings.event_retention",
            settings.event_retention.is_none()
                || settings.event_retention == retention_days.map(days),
            "is the same for all tenants in this version; set retention_days of the server",
        ),
        (
            "settings.activity_time",
            settings.activity_time.is_none_or(|time| time == activity()),
            "is 30 minutes for all tenants in this version; leave it away",
        ),
        (
            "settings.period_history",
            settings.period_history.is_none(),
            "is not bounded in this version, which keeps all closed months; leave it away",
        ),
    ];
    let refused = kept.into_iter().filter(|(_, as_it_is, _)| !as_it_is);
    let refused: Vec<_> = refused
        .map(|(field, _, text)| Violation::new(field, text))
        .collect();
    if !refused.is_empty() {
        return Err(Error::NotKept(refused));
    }
    Ok(AskedSettings {
        display_name: settings.display_name,
        time_zone: settings.time_zone,
        default_profile_id: settings.default_profile_id,
        default_max_output_tokens: settings.default_max_output_tokens,
        summarize_below_percent: settings.summarize_below_percent,
    })
}

pub(crate) fn tenant(tenant_id: String, tenant: Tenant) -> v1::Tenant {
    v1::Tenant {
        tenant_id,
        settings: Some(v1::TenantSettings {
            display_name: tenant.display_name,
            time_zone: tenant.time_zone,
            default_profile_id: tenant.default_profile_id,
            event_retention: tenant.retention_days.map(days),
            activity_time: Some(activity()),
            summarize_below_percent: Some(tenant.summarize_below_percent),
            default_max_output_tokens: Some(tenant.default_max_output_tokens),
            period_history: None,
            disabled: false,
        }),
        next_time_zone: tenant.next_time_zone.unwrap_or_default(),
        etag: tenant.etag,
        created_time: None,
        updated_time: tenant.updated_us.map(time::from_micros),
    }
}

fn days(days: u32) -> Duration {
    seconds(i64::from(days) * DAY_SECONDS)
}

fn activity() -> Duration {
    seconds(ACTIVITY_SECONDS)
}

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}
