//! `tokenmeter limits profiles`, `show`, `set` and `delete`.

use clap::ValueEnum;
use serde::Serialize;
use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1::{self, ErrorReason};
use tonic::Status;

use super::super::connect::ClientArgs;
use super::super::corrections::fresh_id;
use super::super::error::Error;
use super::super::events::page_size;
use super::super::render::{self, count, name};
use super::super::{Output, time};
use super::show::{self, LimitJson};
use super::spec::{self, Spec};

/// Which profile to set, and to what.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// The profile's id: 1 to 64 characters of a-z, 0-9, '_' and '-'.
    profile: String,
    /// A limit, of each user unless it says otherwise; repeat for several. They take the place of all
    /// limits that the profile has. SCOPE is tenant, team, user, session or api-key; METRIC requests,
    /// tokens, input, uncached-input, output or cost (in USD); WINDOW request, minute, hour, day, month or
    /// session; OPTION block, overage, shadow, hard, name=, provider= or model=.
    #[arg(long, value_name = spec::FORM, value_parser = spec::parse)]
    limit: Vec<Spec>,
    /// No limits at all.
    #[arg(long, conflicts_with = "limit")]
    unlimited: bool,
    /// What people call it.
    #[arg(long)]
    name: Option<String>,
    /// What to do while counters cannot be reached.
    #[arg(long, value_enum)]
    failure_mode: Option<Mode>,
    /// The token budget that a session starts with.
    #[arg(long, value_name = "TOKENS")]
    session_budget: Option<i64>,
    /// Whether calls beyond a session's budget are refused.
    #[arg(long, value_name = "true|false")]
    enforce_session_budget: Option<bool>,
    /// The longest that a hold lives, in seconds.
    #[arg(long, value_name = "SECONDS")]
    max_hold: Option<i64>,
}

/// What admission does while counters cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Calls go on.
    Open,
    /// Calls are refused.
    Closed,
}

#[derive(Serialize)]
struct ProfilesJson<'a> {
    profiles: Vec<ProfileJson<'a>>,
}

/// A profile, for programs.
#[derive(Serialize)]
pub(super) struct ProfileJson<'a> {
    profile_id: &'a str,
    display_name: &'a str,
    limits: Vec<LimitJson<'a>>,
    failure_mode: String,
    session_budget_max_tokens: Option<i64>,
    enforce_session_budget: bool,
    max_hold_seconds: Option<i64>,
    shipped: bool,
    etag: &'a str,
    created_time: Option<String>,
    updated_time: Option<String>,
}

impl<'a> From<&'a v1::Profile> for ProfileJson<'a> {
    fn from(profile: &'a v1::Profile) -> Self {
        Self {
            profile_id: &profile.profile_id,
            display_name: &profile.display_name,
            limits: profile.limits.iter().map(Into::into).collect(),
            failure_mode: mode(profile),
            session_budget_max_tokens: profile.session_budget_max_tokens,
            enforce_session_budget: profile.enforce_session_budget,
            max_hold_seconds: profile.max_hold.map(|hold| hold.seconds),
            shipped: profile.shipped,
            etag: &profile.etag,
            created_time: time::format(profile.created_time.as_ref()),
            updated_time: time::format(profile.updated_time.as_ref()),
        }
    }
}

fn mode(profile: &v1::Profile) -> String {
    name("FAILURE_MODE_", profile.failure_mode().as_str_name())
}

/// Runs `tokenmeter limits profiles`.
pub(super) async fn list(
    limit: Option<usize>,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut request = v1::ListProfilesRequest {
        page_size: page_size(limit),
        page_token: String::new(),
    };
    let mut service = client.connect().await?.admin();
    let mut profiles = Vec::new();
    while profiles.len() < limit {
        let page = service.list_profiles(request.clone()).await?.into_inner();
        profiles.extend(page.profiles);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    profiles.truncate(limit);
    if output == Output::Json {
        let profiles = profiles.iter().map(Into::into).collect();
        return render::json(&ProfilesJson { profiles });
    }
    let mut table = render::table(&["profile", "name", "limits", "shipped"]);
    for profile in &profiles {
        let limits: Vec<_> = profile.limits.iter().map(spec::write).collect();
        table.add_row(vec![
            profile.profile_id.clone(),
            profile.display_name.clone(),
            match limits.is_empty() {
                true => "unlimited".to_owned(),
                false => limits.join("\n"),
            },
            if profile.shipped { "yes" } else { "" }.to_owned(),
        ]);
    }
    render::line(&table.to_string())
}

/// Runs `tokenmeter limits show`.
pub(super) async fn show(
    profile_id: String,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let mut service = client.connect().await?.admin();
    let request = v1::GetProfileRequest { profile_id };
    let answer = service.get_profile(request).await?.into_inner();
    print(&answer.profile.unwrap_or_default(), output)
}

/// Runs `tokenmeter limits set`: creates the profile, or changes what is given of the one there is,
/// unless somebody else changed it meanwhile.
pub(super) async fn set(args: SetArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let mut service = client.connect().await?.admin();
    let request = v1::GetProfileRequest {
        profile_id: args.profile.clone(),
    };
    let stands = match service.get_profile(request).await {
        Ok(answer) => answer.into_inner().profile,
        Err(status) if is_missing(&status) => None,
        Err(status) => return Err(status.into()),
    };
    let request_id = fresh_id("profile-set");
    let profile = if let Some(stands) = stands {
        let request = v1::UpdateProfileRequest {
            request_id,
            profile: Some(changed(stands, args)),
        };
        service.update_profile(request).await?.into_inner().profile
    } else {
        let new = v1::Profile {
            profile_id: args.profile.clone(),
            ..v1::Profile::default()
        };
        let request = v1::CreateProfileRequest {
            request_id,
            profile: Some(changed(new, args)),
        };
        service.create_profile(request).await?.into_inner().profile
    };
    print(&profile.unwrap_or_default(), output)
}

fn is_missing(status: &Status) -> bool {
    failure_of(status).is_some_and(|failure| failure.reason == ErrorReason::NotFound)
}

/// The profile with what was given in place of what it had.
fn changed(mut profile: v1::Profile, args: SetArgs) -> v1::Profile {
    if args.unlimited || !args.limit.is_empty() {
        let limits = args.limit.into_iter();
        profile.limits = limits
            .map(|limit| limit.or_scope(v1::LimitScope::User))
            .collect();
    }
    if let Some(name) = args.name {
        profile.display_name = name;
    }
    if let Some(mode) = args.failure_mode {
        profile.failure_mode = match mode {
            Mode::Open => v1::FailureMode::Open,
            Mode::Closed => v1::FailureMode::Closed,
        }
        .into();
    }
    if let Some(enforce) = args.enforce_session_budget {
        profile.enforce_session_budget = enforce;
    }
    profile.session_budget_max_tokens = args.session_budget.or(profile.session_budget_max_tokens);
    let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
    profile.max_hold = args.max_hold.map(seconds).or(profile.max_hold);
    profile
}

/// Runs `tokenmeter limits delete`.
pub(super) async fn delete(
    profile_id: String,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let mut service = client.connect().await?.admin();
    let request = v1::DeleteProfileRequest {
        request_id: fresh_id("profile-delete"),
        profile_id: profile_id.clone(),
        etag: String::new(),
    };
    service.delete_profile(request).await?;
    match output {
        Output::Json => render::json(&serde_json::json!({ "deleted": profile_id })),
        Output::Table => render::line(&format!("profile {profile_id} is deleted")),
    }
}

/// Prints a profile and its limits.
fn print(profile: &v1::Profile, output: Output) -> Result<(), Error> {
    if output == Output::Json {
        return render::json(&ProfileJson::from(profile));
    }
    render::line(&headline(profile))?;
    if profile.limits.is_empty() {
        return render::line("unlimited");
    }
    render::line(&show::limits(&profile.limits).to_string())
}

/// What a profile is beside its limits, in one line.
fn headline(profile: &v1::Profile) -> String {
    let mut text = format!("profile {}", profile.profile_id);
    if !profile.display_name.is_empty() {
        text.push_str(&format!(" ({})", profile.display_name));
    }
    text.push_str(&format!(", failure mode {}", mode(profile)));
    if let Some(tokens) = profile.session_budget_max_tokens {
        text.push_str(&format!(", {} tokens a session", count(tokens)));
    }
    if profile.enforce_session_budget {
        text.push_str(", session budgets are enforced");
    }
    if let Some(hold) = &profile.max_hold {
        text.push_str(&format!(", holds live at most {} s", hold.seconds));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let stands = v1::Profile {
            profile_id: "p".into(),
            display_name: "before".into(),
            limits: vec![v1::Limit::default()],
            session_budget_max_tokens: Some(7),
            enforce_session_budget: true,
            etag: "e".into(),
            ..v1::Profile::default()
        };
        let none = || SetArgs {
            profile: "p".into(),
            limit: Vec::new(),
            unlimited: false,
            name: None,
            failure_mode: None,
            session_budget: None,
            enforce_session_budget: None,
            max_hold: None,
        };
        assert_eq!(changed(stands.clone(), none()), stands);
        let all = SetArgs {
            limit: vec![spec::parse("requests/minute=1").unwrap()],
            name: Some("after".into()),
            failure_mode: Some(Mode::Closed),
            session_budget: Some(8),
            enforce_session_budget: Some(false),
            max_hold: Some(60),
            ..none()
        };
        let profile = changed(stands.clone(), all);
        assert_eq!(spec::write(&profile.limits[0]), "user:requests/minute=1");
        assert_eq!(profile.etag, "e", "so that nobody else's change is lost");
        assert_eq!(
            headline(&profile),
            "profile p (after), failure mode closed, 8 tokens a session, holds live at most 60 s"
        );
        let unlimited = SetArgs {
            unlimited: true,
            ..none()
        };
        assert!(changed(stands, unlimited).limits.is_empty());
    }
}
