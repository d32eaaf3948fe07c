//! Profiles: named sets of limits.

use tokenmeter_api::page;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds;
use tokenmeter_model::limit::Profile;
use tokenmeter_store::ledger::limits::{LimitChange, StoredProfile};

use super::{LimitAdmin, checked, told};
use crate::error::Error;

impl LimitAdmin {
    /// Creates a profile.
    ///
    /// # Errors
    /// [`Error::ProfileExists`], [`Error::TooManyProfiles`], or fields out of bounds.
    pub(crate) async fn create_profile(
        &self,
        caller: &Caller,
        request_id: &str,
        profile: Profile,
    ) -> Result<StoredProfile, Error> {
        check(request_id, &profile)?;
        let id = profile.profile_id.clone();
        let (asked, change) = (profile.clone(), LimitChange::CreateProfile(profile));
        let call = ("CreateProfile", request_id);
        told(
            self.change(caller, call, &asked, &id, change)
                .await?
                .profile,
        )
    }

    /// Replaces a profile; a non-empty etag has to match.
    ///
    /// # Errors
    /// [`Error::NoProfile`], [`Error::EtagMismatch`], or fields out of bounds.
    pub(crate) async fn update_profile(
        &self,
        caller: &Caller,
        request_id: &str,
        profile: Profile,
        etag: String,
    ) -> Result<StoredProfile, Error> {
        check(request_id, &profile)?;
        check_etag("profile.etag", &etag)?;
        let id = profile.profile_id.clone();
        let asked = (profile.clone(), etag.clone());
        let change = LimitChange::UpdateProfile { profile, etag };
        let call = ("UpdateProfile", request_id);
        told(
            self.change(caller, call, &asked, &id, change)
                .await?
                .profile,
        )
    }

    /// Deletes a profile that nothing is assigned to; a non-empty etag has to match.
    ///
    /// # Errors
    /// [`Error::NoProfile`], [`Error::EtagMismatch`], [`Error::ProfileInUse`], or fields out of bounds.
    pub(crate) async fn delete_profile(
        &self,
        caller: &Caller,
        request_id: &str,
        profile_id: String,
        etag: String,
    ) -> Result<(), Error> {
        let required = [("request_id", request_id), ("profile_id", &profile_id)];
        checked(&required, Vec::new())?;
        check_etag("etag", &etag)?;
        let (id, asked) = (profile_id.clone(), (profile_id.clone(), etag.clone()));
        let change = LimitChange::DeleteProfile { profile_id, etag };
        let call = ("DeleteProfile", request_id);
        self.change(caller, call, &asked, &id, change).await?;
        Ok(())
    }

    /// One profile.
    ///
    /// # Errors
    /// [`Error::NoProfile`], or fields out of bounds.
    pub(crate) async fn profile(
        &self,
        caller: &Caller,
        profile_id: &str,
    ) -> Result<StoredProfile, Error> {
        checked(&[("profile_id", profile_id)], Vec::new())?;
        let found = self.ledger.profile(&caller.tenant, profile_id).await?;
        found.ok_or_else(|| Error::NoProfile(profile_id.to_owned()))
    }

    /// A page of profiles by id, and the token of the next page; empty after the last.
    ///
    /// # Errors
    /// A page size out of bounds, or a token of another list.
    pub(crate) async fn profiles(
        &self,
        caller: &Caller,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<StoredProfile>, String), Error> {
        let size = page::size(page_size)?;
        let filters = format!("profiles\u{0}{}", caller.tenant);
        let after = page::read(&filters, page_token)?.unwrap_or_default();
        // One more than the page tells whether there is a next one.
        let limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
        let mut profiles = self.ledger.profiles(&caller.tenant, after, limit).await?;
        let more = profiles.len() > size;
        profiles.truncate(size);
        let last = profiles.last().filter(|_| more);
        let next = last.map(|last| page::token(&filters, &last.profile.profile_id));
        Ok((profiles, next.unwrap_or_default()))
    }
}

/// Checks every bound of a profile and the name of the request that has it.
fn check(request_id: &str, profile: &Profile) -> Result<(), Error> {
    let mut found = Vec::new();
    profile.check("profile", &mut found);
    checked(&[("request_id", request_id)], found)
}

/// Checks an etag, which may be empty.
pub(super) fn check_etag(field: &str, etag: &str) -> Result<(), Error> {
    let mut found = Vec::new();
    bounds::text(field, etag, &mut found);
    checked(&[], found)
}
