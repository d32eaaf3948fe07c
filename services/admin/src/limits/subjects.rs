//! What subjects have: an assigned profile, and own limits beside it.

use tokenmeter_api::page::{self, WrongToken};
use tokenmeter_identity::Caller;
use tokenmeter_identity::Role::{Admin, Meter, ReadTenant};
use tokenmeter_model::bounds::{self, Violation};
use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Limit, Scope, check_own};
use tokenmeter_store::counters::{Owner, Rule, Standing};
use tokenmeter_store::ledger::limits::{
    Assignment, LimitChange, StoredProfile, StoredTenant, SubjectLimits,
};
use tokenmeter_store::rules::DEFAULT_PROFILE;

use super::{LimitAdmin, checked, told};
use crate::error::Error;

/// Whom limits or a profile are for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Subject {
    /// What kind of subject.
    pub scope: Scope,
    /// Its id, 1 to 255 bytes; empty for the tenant.
    pub id: String,
}

/// What applies to a subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    /// The profile that applies; none if the one that should is not there.
    pub profile: Option<StoredProfile>,
    /// Who has it; none if nobody was given one, so that it is "free".
    pub assigned_to: Option<(Scope, String)>,
    /// The limits that the subject has beside it.
    pub own: Vec<Limit>,
    /// Every limit that applies, and how it stands.
    pub states: Vec<(Rule, Standing)>,
    /// When each of them runs out at the velocity of the last 24 hours, in microseconds since the Unix
    /// epoch, in their order; none where it does not before it resets.
    pub exhaustion_us: Vec<Option<i64>>,
}

impl LimitAdmin {
    /// Gives a subject a profile; answers the assignment and the profile that it replaced.
    ///
    /// # Errors
    /// [`Error::NoProfile`], or fields out of bounds.
    pub(crate) async fn assign(
        &self,
        caller: &Caller,
        request_id: &str,
        subject: Subject,
        profile_id: String,
    ) -> Result<(Assignment, String), Error> {
        let required = [("request_id", request_id), ("profile_id", &profile_id)];
        checked(&required, assignable(&subject))?;
        let (id, asked) = (profile_id.clone(), (subject.clone(), profile_id.clone()));
        let change = LimitChange::Assign {
            scope: subject.scope,
            subject: subject.id,
            profile_id,
        };
        let call = ("AssignProfile", request_id);
        let done = self.change(caller, call, &asked, &id, change).await?;
        Ok((
            told(done.assignment)?,
            done.previous_profile_id.unwrap_or_default(),
        ))
    }

    /// Takes the profile from a subject; answers the profile that applies to it now.
    ///
    /// # Errors
    /// Fields out of bounds, or the ledger's.
    pub(crate) async fn unassign(
        &self,
        caller: &Caller,
        request_id: &str,
        subject: Subject,
    ) -> Result<String, Error> {
        checked(&[("request_id", request_id)], assignable(&subject))?;
        let asked = subject.clone();
        let change = LimitChange::Unassign {
            scope: subject.scope,
            subject: subject.id,
        };
        let call = ("UnassignProfile", request_id);
        self.change(caller, call, &asked, "", change).await?;
        let owner = owner_of(&asked);
        let (_, profile_id) = self.assigned(&caller.tenant, &owner).await?;
        Ok(profile_id)
    }

    /// A page of assignments by scope and subject, and the token of the next page; empty after the
    /// last. Without a scope all kinds of subjects, with an empty profile id all profiles.
    ///
    /// # Errors
    /// Fields out of bounds, or a token of another list.
    pub(crate) async fn assignments(
        &self,
        caller: &Caller,
        scope: Option<Scope>,
        profile_id: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Assignment>, String), Error> {
        let mut found = Vec::new();
        bounds::text("profile_id", profile_id, &mut found);
        checked(&[], found)?;
        let size = page::size(page_size)?;
        let filters = format!(
            "assignments\u{0}{}\u{0}{scope:?}\u{0}{profile_id}",
            caller.tenant
        );
        let after = page::read(&filters, page_token)?;
        let after = after.map(|end| read_end(end).ok_or(WrongToken));
        let after = after.transpose()?;
        let limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
        let mut assignments = self
            .ledger
            .assignments(&caller.tenant, scope, profile_id, after, limit)
            .await?;
        let more = assignments.len() > size;
        assignments.truncate(size);
        let last = assignments.last().filter(|_| more);
        let end = last.map(|last| format!("{}/{}", last.scope.as_str(), last.subject));
        let next = end.map(|end| page::token(&filters, &end));
        Ok((assignments, next.unwrap_or_default()))
    }

    /// Replaces the own limits of a subject; answers them.
    ///
    /// # Errors
    /// Fields out of bounds, limits that are not consistent or not of the subject's scope.
    pub(crate) async fn set_limits(
        &self,
        caller: &Caller,
        request_id: &str,
        subject: Subject,
        limits: Vec<Limit>,
    ) -> Result<Vec<Limit>, Error> {
        let mut found = Vec::new();
        check_own("limits", subject.scope, &limits, &mut found);
        checked(&[("request_id", request_id)], found)?;
        let asked = (subject.clone(), limits.clone());
        let change = LimitChange::SetLimits {
            scope: subject.scope,
            subject: subject.id,
            limits: limits.clone(),
        };
        let call = ("SetLimits", request_id);
        self.change(caller, call, &asked, "", change).await?;
        Ok(limits)
    }

    /// What applies to a subject, none being the caller as a user, and how it stands. A session adds
    /// its limits to those of its user.
    ///
    /// # Errors
    /// [`Error::Denied`] for anybody but the caller without the role for it, or fields out of bounds.
    pub(crate) async fn effective(
        &self,
        caller: &Caller,
        subject: Option<Subject>,
        session_id: &str,
    ) -> Result<Effective, Error> {
        let of_caller = || Subject {
            scope: Scope::User,
            id: caller.user.clone(),
        };
        let subject = subject.unwrap_or_else(of_caller);
        let mut found = Vec::new();
        bounds::text("session_id", session_id, &mut found);
        if !session_id.is_empty() && subject.scope != Scope::User {
            let text = "adds the limits of a session to those of a user; leave it empty for other subjects";
            found.push(Violation::new("session_id", text));
        }
        checked(&[], found)?;
        let owner = self.owner(caller, &subject, session_id).await?;
        let others = [Meter, ReadTenant, Admin]
            .iter()
            .any(|role| caller.roles.has(*role));
        if !others && owner.user_id != caller.user {
            return Err(Error::Denied(
                "the role read_own asks about the caller only; leave subject away, and name sessions of \
                 the caller only",
            ));
        }
        let (assigned_to, profile_id) = self.assigned(&caller.tenant, &owner).await?;
        let profile = self.ledger.profile(&caller.tenant, &profile_id).await?;
        let of_subject = [(subject.scope, &*subject.id)];
        let own = self.subject_limits(&caller.tenant, &of_subject).await?;
        let states = match &self.standings {
            Some(standings) => standings.standings(&caller.tenant, &owner).await,
            None => Ok(Vec::new()),
        };
        let states = states.map_err(|failure| Error::Refused(Box::new(failure)))?;
        Ok(Effective {
            profile,
            assigned_to,
            own: own.into_iter().flat_map(|one| one.limits).collect(),
            exhaustion_us: self.exhaustion(caller, &states).await?,
            states,
        })
    }

    /// Whose calls a subject's limits are for: of the caller with its team, of a session with the user
    /// of its first event.
    async fn owner(
        &self,
        caller: &Caller,
        subject: &Subject,
        session_id: &str,
    ) -> Result<Owner, Error> {
        let mut owner = owner_of(subject);
        if !session_id.is_empty() {
            owner.session_id = session_id.to_owned();
        }
        if !owner.session_id.is_empty() {
            let of = self
                .ledger
                .budget(&caller.tenant, &owner.session_id)
                .await?
                .user_id;
            if owner.user_id.is_empty() {
                owner.user_id = of;
            } else if !of.is_empty() && of != owner.user_id && caller.reads_only_itself() {
                // Not to be told of a session of somebody else.
                owner.user_id = of;
            }
        }
        if subject.scope == Scope::User && owner.user_id == caller.user {
            owner.team_id.clone_from(&caller.team_id);
        }
        Ok(owner)
    }

    /// Which profile applies to calls of an owner, and who was given it: the user, else the team, else
    /// the tenant, else the tenant's users by default, else nobody.
    async fn assigned(
        &self,
        tenant: &TenantId,
        owner: &Owner,
    ) -> Result<(Option<(Scope, String)>, String), Error> {
        let subjects: Vec<_> = [Scope::User, Scope::Team, Scope::Tenant]
            .into_iter()
            .filter_map(|scope| Some((scope, owner.subject(scope)?)))
            .collect();
        let having = self.subject_limits(tenant, &subjects).await?;
        for ((scope, id), has) in subjects.into_iter().zip(having) {
            if let Some(profile_id) = has.profile_id {
                return Ok((Some((scope, id.to_owned())), profile_id));
            }
        }
        let StoredTenant { settings, .. } = self.ledger.tenant_settings(tenant).await?;
        Ok(match settings.default_profile_id {
            Some(profile_id) => (Some((Scope::Tenant, String::new())), profile_id),
            None => (None, DEFAULT_PROFILE.to_owned()),
        })
    }

    async fn subject_limits(
        &self,
        tenant: &TenantId,
        subjects: &[(Scope, &str)],
    ) -> Result<Vec<SubjectLimits>, Error> {
        Ok(self.ledger.subject_limits(tenant, subjects).await?)
    }
}

/// Whose calls a subject's limits are for, as far as the subject alone tells.
fn owner_of(subject: &Subject) -> Owner {
    let mut owner = Owner::default();
    match subject.scope {
        Scope::Tenant => {}
        Scope::Team => owner.team_id.clone_from(&subject.id),
        Scope::User => owner.user_id.clone_from(&subject.id),
        Scope::Session => owner.session_id.clone_from(&subject.id),
        Scope::ApiKey => owner.api_key_id.clone_from(&subject.id),
    }
    owner
}

/// What is wrong with a subject that is to have a profile.
fn assignable(subject: &Subject) -> Vec<Violation> {
    let mut out = Vec::new();
    if matches!(subject.scope, Scope::Session | Scope::ApiKey) {
        let text = "has no profile; send TENANT, TEAM or USER, or set limits of its own";
        out.push(Violation::new("subject.scope", text));
    }
    out
}

/// Where a page of assignments ended.
fn read_end(end: &str) -> Option<(Scope, &str)> {
    let (scope, subject) = end.split_once('/')?;
    Some((Scope::parse(scope)?, subject))
}
