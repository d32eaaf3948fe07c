//! Changes of what limits there are, each within the transaction that remembers its request. A change
//! that is not made leaves nothing: its transaction is given up.

use tokenmeter_model::limit::{Limit, Profile, Scope};

use super::{budget, json, profile, tenant};
use crate::driver::{Bind, Driver};
use crate::ledger::Error;
use crate::ledger::correction::Request;
use crate::ledger::limits::{
    Assignment, LimitChange, LimitOutcome, MAX_PROFILES, StoredProfile, TenantSettings,
};
use crate::rows::Row as _;

/// Makes a change, if it can be made.
pub(crate) async fn change(
    on: &mut impl Driver,
    request: &Request,
    change: &LimitChange,
) -> Result<LimitOutcome, Error> {
    let mut step = Step {
        // First, so that versions become visible in the order of the changes they stand for.
        version: raise(on).await?,
        on,
        request,
        tenant: request.tenant.as_str(),
    };
    match change {
        LimitChange::CreateProfile(profile) => step.create(profile).await,
        LimitChange::UpdateProfile { profile, etag } => step.update(profile, etag).await,
        LimitChange::DeleteProfile { profile_id, etag } => step.delete(profile_id, etag).await,
        LimitChange::Assign {
            scope,
            subject,
            profile_id,
        } => step.assign(*scope, subject, profile_id).await,
        LimitChange::Unassign { scope, subject } => step.unassign(*scope, subject).await,
        LimitChange::SetLimits {
            scope,
            subject,
            limits,
        } => step.set_limits(*scope, subject, limits).await,
        LimitChange::UpdateTenant { settings, etag } => step.update_tenant(settings, etag).await,
        LimitChange::SetBudget {
            session_id,
            budget_max,
            enforced,
            summarize_below_percent,
        } => {
            let percent = summarize_below_percent.map(i64::from);
            step.set_budget(session_id, *budget_max, *enforced, percent)
                .await
        }
        LimitChange::ResetBudget {
            session_id,
            restore_default,
        } => step.reset_budget(session_id, *restore_default).await,
    }
}

/// Raises the version of all limits.
async fn raise(on: &mut impl Driver) -> Result<i64, Error> {
    let sql = "UPDATE limits_version SET version = version + 1 WHERE id = 1 RETURNING version";
    let row = on.row(sql, &[]).await?;
    row.ok_or_else(|| Error::Corrupt("no version of limits".into()))?
        .value("version")
}

/// Nothing to answer but that it was done.
const DONE: LimitOutcome = LimitOutcome::Done {
    profile: None,
    previous_profile_id: None,
    assignment: None,
};

/// A change on its way.
struct Step<'a, D> {
    on: &'a mut D,
    request: &'a Request,
    tenant: &'a str,
    /// The version of limits that it makes.
    version: i64,
}

impl<D: Driver> Step<'_, D> {
    async fn create(&mut self, new: &Profile) -> Result<LimitOutcome, Error> {
        if profile(self.on, self.tenant, &new.profile_id)
            .await?
            .is_some()
        {
            return Ok(LimitOutcome::Exists);
        }
        let own = "SELECT count(*) AS profiles FROM profiles AS p WHERE tenant_id = $1 \
                   AND NOT EXISTS (SELECT 1 FROM profiles AS first \
                   WHERE first.tenant_id = '' AND first.profile_id = p.profile_id)";
        let row = self.on.row(own, &[self.tenant.into()]).await?;
        let count: i64 = row.map_or(Ok(0), |row| row.value("profiles"))?;
        if count >= MAX_PROFILES {
            return Ok(LimitOutcome::Full);
        }
        self.put_profile(new, false, self.request.at_us).await
    }

    async fn update(&mut self, new: &Profile, etag: &str) -> Result<LimitOutcome, Error> {
        let Some(before) = profile(self.on, self.tenant, &new.profile_id).await? else {
            return Ok(LimitOutcome::NotFound);
        };
        if !etag.is_empty() && etag != before.etag {
            return Ok(LimitOutcome::EtagMismatch);
        }
        self.put_profile(new, before.shipped, before.created_us)
            .await
    }

    async fn put_profile(
        &mut self,
        new: &Profile,
        shipped: bool,
        created_us: i64,
    ) -> Result<LimitOutcome, Error> {
        let sql = "INSERT INTO profiles \
             (tenant_id, profile_id, profile, version, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id, profile_id) DO UPDATE SET \
             profile = excluded.profile, version = excluded.version, \
             updated_at = excluded.updated_at";
        let text = json(new)?;
        let binds = [
            self.tenant.into(),
            Bind::from(&*new.profile_id),
            Bind::from(&*text),
            self.version.into(),
            created_us.into(),
            self.request.at_us.into(),
        ];
        self.on.rows(sql, &binds).await?;
        Ok(LimitOutcome::Done {
            profile: Some(StoredProfile {
                profile: new.clone(),
                etag: self.version.to_string(),
                shipped,
                created_us,
                updated_us: self.request.at_us,
            }),
            previous_profile_id: None,
            assignment: None,
        })
    }

    async fn delete(&mut self, profile_id: &str, etag: &str) -> Result<LimitOutcome, Error> {
        let Some(before) = profile(self.on, self.tenant, profile_id).await? else {
            return Ok(LimitOutcome::NotFound);
        };
        if !etag.is_empty() && etag != before.etag {
            return Ok(LimitOutcome::EtagMismatch);
        }
        let binds = [self.tenant.into(), profile_id.into()];
        let assigned = "SELECT 1 AS assigned FROM profile_assignments \
                        WHERE tenant_id = $1 AND profile_id = $2 LIMIT 1";
        let settings = tenant(self.on, self.tenant).await?.settings;
        if before.shipped
            || settings.default_profile_id.as_deref() == Some(profile_id)
            || self.on.row(assigned, &binds).await?.is_some()
        {
            return Ok(LimitOutcome::InUse);
        }
        let sql = "DELETE FROM profiles WHERE tenant_id = $1 AND profile_id = $2";
        self.on.rows(sql, &binds).await?;
        Ok(DONE)
    }

    async fn assign(
        &mut self,
        scope: Scope,
        subject: &str,
        profile_id: &str,
    ) -> Result<LimitOutcome, Error> {
        if profile(self.on, self.tenant, profile_id).await?.is_none() {
            return Ok(LimitOutcome::NotFound);
        }
        let previous = "SELECT profile_id FROM profile_assignments \
                        WHERE tenant_id = $1 AND scope = $2 AND subject = $3";
        let binds = [self.tenant.into(), scope.as_str().into(), subject.into()];
        let previous = self.on.row(previous, &binds).await?;
        let sql = "INSERT INTO profile_assignments \
             (tenant_id, scope, subject, profile_id, assigned_at, assigned_by) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id, scope, subject) DO UPDATE SET \
             profile_id = excluded.profile_id, assigned_at = excluded.assigned_at, \
             assigned_by = excluded.assigned_by";
        let binds = [
            self.tenant.into(),
            scope.as_str().into(),
            subject.into(),
            profile_id.into(),
            self.request.at_us.into(),
            Bind::from(&*self.request.user_id),
        ];
        self.on.rows(sql, &binds).await?;
        Ok(LimitOutcome::Done {
            profile: None,
            previous_profile_id: previous.map(|row| row.value("profile_id")).transpose()?,
            assignment: Some(Assignment {
                scope,
                subject: subject.to_owned(),
                profile_id: profile_id.to_owned(),
                assigned_us: self.request.at_us,
                assigned_by: self.request.user_id.clone(),
            }),
        })
    }

    async fn unassign(&mut self, scope: Scope, subject: &str) -> Result<LimitOutcome, Error> {
        let sql = "DELETE FROM profile_assignments \
                   WHERE tenant_id = $1 AND scope = $2 AND subject = $3 RETURNING profile_id";
        let binds = [self.tenant.into(), scope.as_str().into(), subject.into()];
        let previous = self.on.row(sql, &binds).await?;
        Ok(LimitOutcome::Done {
            profile: None,
            previous_profile_id: previous.map(|row| row.value("profile_id")).transpose()?,
            assignment: None,
        })
    }

    async fn set_limits(
        &mut self,
        scope: Scope,
        subject: &str,
        limits: &[Limit],
    ) -> Result<LimitOutcome, Error> {
        let whose = [self.tenant.into(), scope.as_str().into(), subject.into()];
        if limits.is_empty() {
            let sql = "DELETE FROM own_limits \
                       WHERE tenant_id = $1 AND scope = $2 AND subject = $3";
            self.on.rows(sql, &whose).await?;
            return Ok(DONE);
        }
        let sql = "INSERT INTO own_limits (tenant_id, scope, subject, limits, updated_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant_id, scope, subject) DO UPDATE SET \
             limits = excluded.limits, updated_at = excluded.updated_at";
        let text = json(limits)?;
        let [tenant, scope, subject] = whose;
        let at = self.request.at_us.into();
        let binds = [tenant, scope, subject, Bind::from(&*text), at];
        self.on.rows(sql, &binds).await?;
        Ok(DONE)
    }

    async fn update_tenant(
        &mut self,
        settings: &TenantSettings,
        etag: &str,
    ) -> Result<LimitOutcome, Error> {
        if !etag.is_empty() && etag != tenant(self.on, self.tenant).await?.etag {
            return Ok(LimitOutcome::EtagMismatch);
        }
        if let Some(default) = &settings.default_profile_id
            && profile(self.on, self.tenant, default).await?.is_none()
        {
            return Ok(LimitOutcome::NotFound);
        }
        let sql = "INSERT INTO tenants (tenant_id, settings, version, updated_at) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (tenant_id) DO UPDATE SET \
             settings = excluded.settings, version = excluded.version, \
             updated_at = excluded.updated_at";
        let text = json(settings)?;
        let binds = [
            self.tenant.into(),
            Bind::from(&*text),
            self.version.into(),
            self.request.at_us.into(),
        ];
        self.on.rows(sql, &binds).await?;
        Ok(DONE)
    }

    async fn set_budget(
        &mut self,
        session_id: &str,
        budget_max: Option<i64>,
        enforced: Option<bool>,
        summarize_below_percent: Option<i64>,
    ) -> Result<LimitOutcome, Error> {
        let sql = "INSERT INTO token_budgets AS b \
             (tenant_id, session_id, budget_max, enforced, summarize_below_percent, \
              base_prompt, base_completion, base_tools, updated_at) \
             VALUES ($1, $2, $3, $4, $5, 0, 0, 0, $6) \
             ON CONFLICT (tenant_id, session_id) DO UPDATE SET \
             budget_max = coalesce(excluded.budget_max, b.budget_max), \
             enforced = coalesce(excluded.enforced, b.enforced), \
             summarize_below_percent = \
                 coalesce(excluded.summarize_below_percent, b.summarize_below_percent), \
             updated_at = excluded.updated_at";
        let binds = [
            self.tenant.into(),
            session_id.into(),
            Bind::Number(budget_max),
            Bind::Flag(enforced),
            Bind::Number(summarize_below_percent),
            self.request.at_us.into(),
        ];
        self.on.rows(sql, &binds).await?;
        Ok(DONE)
    }

    async fn reset_budget(
        &mut self,
        session_id: &str,
        restore_default: bool,
    ) -> Result<LimitOutcome, Error> {
        let used = budget(self.on, self.tenant, session_id).await?;
        let sql = "INSERT INTO token_budgets AS b \
             (tenant_id, session_id, base_prompt, base_completion, base_tools, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id, session_id) DO UPDATE SET \
             base_prompt = excluded.base_prompt, base_completion = excluded.base_completion, \
             base_tools = excluded.base_tools, updated_at = excluded.updated_at, \
             budget_max = CASE WHEN $7 THEN NULL ELSE b.budget_max END";
        let binds = [
            self.tenant.into(),
            session_id.into(),
            used.prompt.into(),
            used.completion.into(),
            used.tools.into(),
            self.request.at_us.into(),
            Bind::Flag(Some(restore_default)),
        ];
        self.on.rows(sql, &binds).await?;
        Ok(DONE)
    }
}
