//! What an administrator decides for the tenant, as far as limits need it.
//!
//! A new time zone takes effect with the next month of the one before, so that no day is cut or counted
//! twice. Until then it can be taken back by setting the old one.

use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, MAX_TOKENS, Violation};
use tokenmeter_model::limit::DEFAULT_MAX_OUTPUT_TOKENS;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::ledger;
use tokenmeter_store::ledger::limits::{LimitChange, StoredTenant, TenantSettings};
use tokenmeter_store::rules::{DEFAULT_PROFILE, SUMMARIZE_BELOW_PERCENT};

use super::profiles::check_etag;
use super::{LimitAdmin, checked};
use crate::error::Error;

/// How often a change is tried again whose tenant was changed by somebody else meanwhile.
const ATTEMPTS: usize = 5;

/// A tenant's settings with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// What people call it.
    pub display_name: String,
    /// The zone that was decided on, by its IANA name.
    pub time_zone: String,
    /// The same while it has not taken effect yet; else none.
    pub next_time_zone: Option<String>,
    /// The profile of users without one of their own.
    pub default_profile_id: String,
    /// Output tokens that are held where an estimate does not say.
    pub default_max_output_tokens: i64,
    /// The remaining share of a session's budget below which to summarize, in per cent.
    pub summarize_below_percent: i32,
    /// How long events are kept, in days; none means for ever. The server's configuration says.
    pub retention_days: Option<u32>,
    /// Names this state; empty if nothing was ever set.
    pub etag: String,
    /// When it was last changed, in microseconds since the Unix epoch.
    pub updated_us: Option<i64>,
}

/// Settings as they are asked for: absent ones go back to their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct AskedSettings {
    pub(crate) display_name: String,
    /// Empty means the configured zone.
    pub(crate) time_zone: String,
    /// Empty means "free".
    pub(crate) default_profile_id: String,
    pub(crate) default_max_output_tokens: Option<i64>,
    pub(crate) summarize_below_percent: Option<i32>,
}

impl LimitAdmin {
    /// The settings of the caller's tenant.
    ///
    /// # Errors
    /// The ledger's.
    pub(crate) async fn tenant(&self, caller: &Caller) -> Result<Tenant, Error> {
        let stored = self.ledger.tenant_settings(&caller.tenant).await?;
        Ok(self.filled(stored))
    }

    /// Replaces the settings of the caller's tenant; a non-empty etag has to match. Answers them as they
    /// stand.
    ///
    /// # Errors
    /// [`Error::UnknownZone`], [`Error::NoProfile`] for the default profile, [`Error::EtagMismatch`], or
    /// fields out of bounds.
    pub(crate) async fn update_tenant(
        &self,
        caller: &Caller,
        request_id: &str,
        asked: AskedSettings,
        etag: &str,
    ) -> Result<Tenant, Error> {
        checked(&[("request_id", request_id)], asked.check())?;
        check_etag("etag", etag)?;
        if !asked.time_zone.is_empty() {
            Zone::named(&asked.time_zone).map_err(|error| Error::UnknownZone(error.to_string()))?;
        }
        let sent = (&asked, etag);
        for _ in 0..ATTEMPTS {
            let stands = self.ledger.tenant_settings(&caller.tenant).await?;
            let settings = self.settings(&stands.settings, &asked)?;
            // Without an etag of the caller's own it is a change of what was read just now, because the
            // zone before is.
            let of = match etag {
                "" => stands.etag,
                etag => etag.to_owned(),
            };
            let change = LimitChange::UpdateTenant { settings, etag: of };
            let profile_id = &asked.default_profile_id;
            let call = ("UpdateTenant", request_id);
            match self.change(caller, call, &sent, profile_id, change).await {
                Ok(_) => return self.tenant(caller).await,
                Err(Error::EtagMismatch(_)) if etag.is_empty() => {}
                Err(Error::EtagMismatch(_)) => {
                    return Err(Error::TenantEtagMismatch(caller.tenant.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::TenantEtagMismatch(caller.tenant.to_string()))
    }

    /// The settings that are to stand, made from those that do.
    fn settings(
        &self,
        stands: &TenantSettings,
        asked: &AskedSettings,
    ) -> Result<TenantSettings, Error> {
        let now_us = (self.clock)();
        let applies = match &stands.zone_before {
            Some((before, from_us)) if now_us < *from_us => before,
            _ => &stands.time_zone,
        };
        let time_zone = some(&asked.time_zone).filter(|name| name != self.configured.zone.name());
        let zone_before = match *applies == time_zone {
            // A change that took effect stays known: where its month began depends on it.
            true => {
                let before = stands.zone_before.clone();
                before.filter(|(_, from_us)| now_us >= *from_us)
            }
            false => {
                let next_month_us = self.zone(applies.as_deref())?.next_month(now_us);
                Some((applies.clone(), next_month_us))
            }
        };
        Ok(TenantSettings {
            display_name: asked.display_name.clone(),
            time_zone,
            zone_before,
            default_profile_id: some(&asked.default_profile_id).filter(|id| id != DEFAULT_PROFILE),
            default_max_output_tokens: asked.default_max_output_tokens,
            summarize_below_percent: asked.summarize_below_percent,
        })
    }

    /// The zone of a stored name; none is the configured one.
    fn zone(&self, name: Option<&str>) -> Result<Zone, Error> {
        match name {
            None => Ok(self.configured.zone.clone()),
            Some(name) => {
                Zone::named(name).map_err(|error| ledger::Error::Corrupt(error.to_string()).into())
            }
        }
    }

    /// Fills in every default.
    fn filled(&self, stored: StoredTenant) -> Tenant {
        let settings = stored.settings;
        let configured = || self.configured.zone.name().to_owned();
        let time_zone = settings.time_zone.unwrap_or_else(configured);
        let now_us = (self.clock)();
        let pending = settings
            .zone_before
            .is_some_and(|(_, from_us)| now_us < from_us);
        Tenant {
            display_name: settings.display_name,
            next_time_zone: pending.then(|| time_zone.clone()),
            time_zone,
            default_profile_id: settings
                .default_profile_id
                .unwrap_or_else(|| DEFAULT_PROFILE.to_owned()),
            default_max_output_tokens: settings
                .default_max_output_tokens
                .unwrap_or(DEFAULT_MAX_OUTPUT_TOKENS),
            summarize_below_percent: settings
                .summarize_below_percent
                .unwrap_or(SUMMARIZE_BELOW_PERCENT),
            retention_days: self.configured.retention_days,
            etag: stored.etag,
            updated_us: stored.updated_us,
        }
    }
}

impl AskedSettings {
    /// What is out of bounds.
    fn check(&self) -> Vec<Violation> {
        let mut out = Vec::new();
        bounds::text("settings.display_name", &self.display_name, &mut out);
        bounds::text("settings.time_zone", &self.time_zone, &mut out);
        bounds::text(
            "settings.default_profile_id",
            &self.default_profile_id,
            &mut out,
        );
        if let Some(tokens) = self.default_max_output_tokens {
            let field = "settings.default_max_output_tokens";
            bounds::range(field, tokens, 1, MAX_TOKENS, &mut out);
        }
        if let Some(percent) = self.summarize_below_percent {
            let field = "settings.summarize_below_percent";
            bounds::range(field, i64::from(percent), 0, 100, &mut out);
        }
        out
    }
}

/// A text, if there is one.
fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
