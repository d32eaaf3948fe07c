//! The RPCs of limits: convert, call, convert back.

use tokenmeter_api::convert::limit;
use tokenmeter_api::v1;
use tokenmeter_identity::Caller;
use tokenmeter_model::limit::Profile;
use tonic::{Request, Response, Status};

use super::{LimitAdmin, wire};
use crate::error::Error;

/// What every RPC answers.
type Answer<T> = Result<Response<T>, Status>;

pub(crate) async fn create_profile(
    limits: &LimitAdmin,
    request: Request<v1::CreateProfileRequest>,
) -> Answer<v1::CreateProfileResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let (profile, _) = profile(asked.profile)?;
    let stored = limits
        .create_profile(&caller, &asked.request_id, profile)
        .await?;
    Ok(Response::new(v1::CreateProfileResponse {
        profile: Some(wire::profile(stored)),
    }))
}

pub(crate) async fn get_profile(
    limits: &LimitAdmin,
    request: Request<v1::GetProfileRequest>,
) -> Answer<v1::GetProfileResponse> {
    let caller = Caller::of(request.extensions())?;
    let profile_id = request.into_inner().profile_id;
    let stored = limits.profile(&caller, &profile_id).await?;
    Ok(Response::new(v1::GetProfileResponse {
        profile: Some(wire::profile(stored)),
    }))
}

pub(crate) async fn list_profiles(
    limits: &LimitAdmin,
    request: Request<v1::ListProfilesRequest>,
) -> Answer<v1::ListProfilesResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let (profiles, next_page_token) = limits
        .profiles(&caller, asked.page_size, &asked.page_token)
        .await?;
    Ok(Response::new(v1::ListProfilesResponse {
        profiles: profiles.into_iter().map(wire::profile).collect(),
        next_page_token,
    }))
}

pub(crate) async fn update_profile(
    limits: &LimitAdmin,
    request: Request<v1::UpdateProfileRequest>,
) -> Answer<v1::UpdateProfileResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let (profile, etag) = profile(asked.profile)?;
    let stored = limits
        .update_profile(&caller, &asked.request_id, profile, etag)
        .await?;
    Ok(Response::new(v1::UpdateProfileResponse {
        profile: Some(wire::profile(stored)),
    }))
}

pub(crate) async fn delete_profile(
    limits: &LimitAdmin,
    request: Request<v1::DeleteProfileRequest>,
) -> Answer<v1::DeleteProfileResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    limits
        .delete_profile(&caller, &asked.request_id, asked.profile_id, asked.etag)
        .await?;
    Ok(Response::new(v1::DeleteProfileResponse {}))
}

pub(crate) async fn assign_profile(
    limits: &LimitAdmin,
    request: Request<v1::AssignProfileRequest>,
) -> Answer<v1::AssignProfileResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let subject = wire::subject(asked.subject)?;
    let (assignment, previous_profile_id) = limits
        .assign(&caller, &asked.request_id, subject, asked.profile_id)
        .await?;
    Ok(Response::new(v1::AssignProfileResponse {
        assignment: Some(wire::assignment(assignment)),
        previous_profile_id,
    }))
}

pub(crate) async fn unassign_profile(
    limits: &LimitAdmin,
    request: Request<v1::UnassignProfileRequest>,
) -> Answer<v1::UnassignProfileResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let subject = wire::subject(asked.subject)?;
    let effective_profile_id = limits.unassign(&caller, &asked.request_id, subject).await?;
    Ok(Response::new(v1::UnassignProfileResponse {
        effective_profile_id,
    }))
}

pub(crate) async fn list_assignments(
    limits: &LimitAdmin,
    request: Request<v1::ListAssignmentsRequest>,
) -> Answer<v1::ListAssignmentsResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let scope = wire::scope_filter(asked.scope)?;
    let (size, token) = (asked.page_size, &asked.page_token);
    let (assignments, next_page_token) = limits
        .assignments(&caller, scope, &asked.profile_id, size, token)
        .await?;
    Ok(Response::new(v1::ListAssignmentsResponse {
        assignments: assignments.into_iter().map(wire::assignment).collect(),
        next_page_token,
    }))
}

pub(crate) async fn set_limits(
    limits: &LimitAdmin,
    request: Request<v1::SetLimitsRequest>,
) -> Answer<v1::SetLimitsResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let subject = wire::subject(asked.subject.clone())?;
    let mut unread = Vec::new();
    let own = limit::limits("limits", asked.limits, &mut unread);
    if !unread.is_empty() {
        return Err(Error::Invalid(unread).into());
    }
    let own = limits
        .set_limits(&caller, &asked.request_id, subject, own)
        .await?;
    Ok(Response::new(v1::SetLimitsResponse {
        subject: asked.subject,
        limits: own.iter().map(Into::into).collect(),
    }))
}

pub(crate) async fn get_effective_limits(
    limits: &LimitAdmin,
    request: Request<v1::GetEffectiveLimitsRequest>,
) -> Answer<v1::GetEffectiveLimitsResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let subject = match asked.subject {
        Some(subject) => Some(wire::subject(Some(subject))?),
        None => None,
    };
    let effective = limits
        .effective(&caller, subject, &asked.session_id)
        .await?;
    Ok(Response::new(wire::effective(effective)))
}

pub(crate) async fn get_tenant(
    limits: &LimitAdmin,
    request: Request<v1::GetTenantRequest>,
) -> Answer<v1::GetTenantResponse> {
    let caller = Caller::of(request.extensions())?;
    let tenant = limits.tenant(&caller).await?;
    Ok(Response::new(v1::GetTenantResponse {
        tenant: Some(wire::tenant(caller.tenant.to_string(), tenant)),
    }))
}

pub(crate) async fn update_tenant(
    limits: &LimitAdmin,
    request: Request<v1::UpdateTenantRequest>,
) -> Answer<v1::UpdateTenantResponse> {
    let caller = Caller::of(request.extensions())?;
    let asked = request.into_inner();
    let settings = wire::settings(asked.settings, limits.configured.retention_days)?;
    let tenant = limits
        .update_tenant(&caller, &asked.request_id, settings, &asked.etag)
        .await?;
    Ok(Response::new(v1::UpdateTenantResponse {
        tenant: Some(wire::tenant(caller.tenant.to_string(), tenant)),
    }))
}

/// The profile that a request has to have, and the etag that came with it.
fn profile(profile: Option<v1::Profile>) -> Result<(Profile, String), Error> {
    let etag = profile.as_ref().map(|profile| profile.etag.clone());
    let profile = limit::profile("profile", profile).map_err(Error::Invalid)?;
    Ok((profile, etag.unwrap_or_default()))
}
