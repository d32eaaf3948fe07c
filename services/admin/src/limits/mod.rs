//! Limits by request of an administrator: profiles, who has which, own limits, and the settings of
//! the tenant that limits need (R19, R20).
//!
//! The rule of this module: what the request alone tells is checked here; what only the ledger can
//! know (etags, what is in use, what a request was answered before) it checks in its transaction.
//! How limits stand is admission's to say ([`Standings`]).

pub(crate) mod grpc;
mod profiles;
mod subjects;
mod tenant;
#[cfg(test)]
mod tests;
mod velocity;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use tokenmeter_api::status::Failure;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, Violation};
use tokenmeter_model::fingerprint::Canonical;
use tokenmeter_model::id::TenantId;
use tokenmeter_model::zone::Zone;
use tokenmeter_store::clock::Clock;
use tokenmeter_store::counters::{Owner, Rule, Standing};
use tokenmeter_store::ledger::correction::Request;
use tokenmeter_store::ledger::limits::{
    Assignment, LimitChange, LimitOutcome, MAX_PROFILES, StoredProfile,
};
use tokenmeter_store::ledger::{self, Ledger};

pub use subjects::{Effective, Subject};
pub use tenant::Tenant;

use crate::error::Error;

/// How limits stand. The part of the service that admits calls knows; the server hands it over.
#[async_trait]
pub trait Standings: Send + Sync {
    /// Every limit that applies to calls of these subjects, in the order in which they are checked, and
    /// how each stands, as if nothing was asked. The token budget of a session is none.
    ///
    /// # Errors
    /// What the caller is told.
    async fn standings(
        &self,
        tenant: &TenantId,
        owner: &Owner,
    ) -> Result<Vec<(Rule, Standing)>, Failure>;
}

/// What the server is configured with, where a tenant does not say otherwise.
#[derive(Debug, Clone)]
pub struct Configured {
    /// The zone of calendar days and months.
    pub zone: Zone,
    /// How long events are kept, in days; none means for ever.
    pub retention_days: Option<u32>,
}

/// Administers limits.
pub struct LimitAdmin {
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    configured: Configured,
    standings: Option<Arc<dyn Standings>>,
}

/// What a change left behind.
#[derive(Debug, Default)]
struct Done {
    profile: Option<StoredProfile>,
    previous_profile_id: Option<String>,
    assignment: Option<Assignment>,
}

impl LimitAdmin {
    /// A service over a ledger. Without `standings` it says which limits apply, and not how they stand.
    pub fn new(
        ledger: Arc<dyn Ledger>,
        clock: Clock,
        configured: Configured,
        standings: Option<Arc<dyn Standings>>,
    ) -> Self {
        Self {
            ledger,
            clock,
            configured,
            standings,
        }
    }

    /// Makes a change under the name of its request: the same request again changes nothing more.
    /// `asked` is what the caller sent, by which a repeat is told from another request; `profile_id` is
    /// the profile that refusals name.
    async fn change(
        &self,
        caller: &Caller,
        (rpc, request_id): (&'static str, &str),
        asked: &impl Serialize,
        profile_id: &str,
        change: LimitChange,
    ) -> Result<Done, Error> {
        let asked = serde_json::to_string(asked)
            .map_err(|error| ledger::Error::Corrupt(format!("a request: {error}")))?;
        let request = Request {
            tenant: caller.tenant.clone(),
            request_id: request_id.to_owned(),
            rpc,
            fingerprint: Canonical::new().text(&asked).finish(),
            user_id: caller.user.clone(),
            at_us: (self.clock)(),
        };
        let profile = || profile_id.to_owned();
        match self.ledger.change_limits(request, change).await? {
            LimitOutcome::Done {
                profile,
                previous_profile_id,
                assignment,
            } => Ok(Done {
                profile,
                previous_profile_id,
                assignment,
            }),
            LimitOutcome::RequestConflict => Err(Error::RequestConflict(request_id.to_owned())),
            LimitOutcome::NotFound => Err(Error::NoProfile(profile())),
            LimitOutcome::Exists => Err(Error::ProfileExists(profile())),
            LimitOutcome::EtagMismatch => Err(Error::EtagMismatch(profile())),
            LimitOutcome::InUse => Err(Error::ProfileInUse(profile())),
            LimitOutcome::Full => Err(Error::TooManyProfiles(MAX_PROFILES)),
        }
    }
}

/// Checks texts that a request must have, and what else was found.
fn checked(required: &[(&str, &str)], mut found: Vec<Violation>) -> Result<(), Error> {
    let mut out = Vec::new();
    for (field, value) in required {
        bounds::required_text(field, value, &mut out);
    }
    out.append(&mut found);
    match out.is_empty() {
        true => Ok(()),
        false => Err(Error::Invalid(out)),
    }
}

/// A profile that the ledger has to have told of.
fn told<T>(what: Option<T>) -> Result<T, Error> {
    what.ok_or_else(|| {
        ledger::Error::Corrupt("a change of limits tells nothing of it".into()).into()
    })
}
