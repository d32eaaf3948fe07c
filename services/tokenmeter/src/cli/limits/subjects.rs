//! `tokenmeter limits assign`, `unassign`, `assignments`, `own` and `effective`.

use serde::Serialize;
use tokenmeter_api::v1::{self, LimitScope};

use super::super::connect::ClientArgs;
use super::super::corrections::fresh_id;
use super::super::error::Error;
use super::super::events::page_size;
use super::super::render;
use super::super::{Output, time};
use super::profiles::ProfileJson;
use super::show::{self, LimitJson, StateJson};
use super::spec::{self, Spec};

/// Who has a profile.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Holder {
    /// A user.
    #[arg(long)]
    user: Option<String>,
    /// A team.
    #[arg(long)]
    team: Option<String>,
    /// The whole tenant.
    #[arg(long)]
    everyone: bool,
}

impl Holder {
    fn subject(self) -> v1::Subject {
        one_of([(LimitScope::User, self.user), (LimitScope::Team, self.team)])
            .unwrap_or_else(everyone)
    }
}

/// Whose limits.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// A user.
    #[arg(long)]
    user: Option<String>,
    /// A team.
    #[arg(long)]
    team: Option<String>,
    /// A session.
    #[arg(long)]
    session: Option<String>,
    /// An API key, by its id.
    #[arg(long)]
    api_key: Option<String>,
    /// The whole tenant.
    #[arg(long)]
    everyone: bool,
}

impl Whose {
    fn subject(self) -> v1::Subject {
        one_of([
            (LimitScope::User, self.user),
            (LimitScope::Team, self.team),
            (LimitScope::Session, self.session),
            (LimitScope::ApiKey, self.api_key),
        ])
        .unwrap_or_else(everyone)
    }
}

/// The subject that is given, if one is.
fn one_of<const N: usize>(given: [(LimitScope, Option<String>); N]) -> Option<v1::Subject> {
    given.into_iter().find_map(|(scope, id)| {
        Some(v1::Subject {
            scope: scope.into(),
            id: id?,
        })
    })
}

fn everyone() -> v1::Subject {
    v1::Subject {
        scope: LimitScope::Tenant.into(),
        id: String::new(),
    }
}

/// Which profile to give to whom.
#[derive(Debug, clap::Args)]
pub(crate) struct AssignArgs {
    /// The profile.
    profile: String,
    #[command(flatten)]
    holder: Holder,
}

/// From whom to take the profile.
#[derive(Debug, clap::Args)]
pub(crate) struct UnassignArgs {
    #[command(flatten)]
    holder: Holder,
}

/// Which assignments to list.
#[derive(Debug, clap::Args)]
pub(crate) struct AssignmentsArgs {
    /// Of one profile only.
    #[arg(long, default_value = "", hide_default_value = true)]
    profile: String,
    /// Of users, teams or the tenant only.
    #[arg(long, value_parser = spec::scope)]
    scope: Option<LimitScope>,
    /// List at most this many.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Whose own limits to set, and to what.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["limit", "none"]))]
pub(crate) struct OwnArgs {
    #[command(flatten)]
    whose: Whose,
    /// A limit, as `limits set` takes it; repeat for several. All own limits are set at once.
    #[arg(long, value_name = spec::FORM, value_parser = spec::parse)]
    limit: Vec<Spec>,
    /// Take all own limits away.
    #[arg(long)]
    none: bool,
}

/// Whom to show limits of.
#[derive(Debug, clap::Args)]
pub(crate) struct EffectiveArgs {
    /// A user; the caller if nobody is named.
    #[arg(long, conflicts_with_all = ["team", "api_key", "everyone"])]
    user: Option<String>,
    /// A team.
    #[arg(long, conflicts_with_all = ["session", "api_key", "everyone"])]
    team: Option<String>,
    /// A session, of the user if one is named.
    #[arg(long, conflicts_with_all = ["api_key", "everyone"])]
    session: Option<String>,
    /// An API key, by its id.
    #[arg(long, conflicts_with = "everyone")]
    api_key: Option<String>,
    /// The whole tenant.
    #[arg(long)]
    everyone: bool,
}

impl EffectiveArgs {
    /// The question: a session alone is a subject of its own.
    fn request(self) -> v1::GetEffectiveLimitsRequest {
        let session_id = match self.user {
            Some(_) => self.session.clone().unwrap_or_default(),
            None => String::new(),
        };
        let subject = one_of([
            (LimitScope::User, self.user),
            (LimitScope::Team, self.team),
            (LimitScope::Session, self.session),
            (LimitScope::ApiKey, self.api_key),
        ]);
        v1::GetEffectiveLimitsRequest {
            subject: subject.or_else(|| self.everyone.then(everyone)),
            session_id,
        }
    }
}

#[derive(Serialize)]
struct AssignmentJson<'a> {
    scope: String,
    subject: &'a str,
    profile_id: &'a str,
    assigned_time: Option<String>,
    assigned_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_profile_id: Option<&'a str>,
}

impl<'a> From<&'a v1::Assignment> for AssignmentJson<'a> {
    fn from(assignment: &'a v1::Assignment) -> Self {
        let (scope, subject) = whom(assignment.subject.as_ref());
        Self {
            scope: show::scope(scope),
            subject,
            profile_id: &assignment.profile_id,
            assigned_time: time::format(assignment.assigned_time.as_ref()),
            assigned_by: &assignment.assigned_by,
            previous_profile_id: None,
        }
    }
}

fn whom(subject: Option<&v1::Subject>) -> (LimitScope, &str) {
    subject.map_or((LimitScope::Unspecified, ""), |one| (one.scope(), &one.id))
}

/// Runs `tokenmeter limits assign`.
pub(super) async fn assign(
    args: AssignArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let request = v1::AssignProfileRequest {
        request_id: fresh_id("assign"),
        subject: Some(args.holder.subject()),
        profile_id: args.profile,
    };
    let mut service = client.connect().await?.admin();
    let answer = service.assign_profile(request).await?.into_inner();
    let assignment = answer.assignment.unwrap_or_default();
    if output == Output::Json {
        return render::json(&AssignmentJson {
            previous_profile_id: Some(&answer.previous_profile_id),
            ..AssignmentJson::from(&assignment)
        });
    }
    let (scope, id) = whom(assignment.subject.as_ref());
    let before = match &*answer.previous_profile_id {
        "" => String::new(),
        before => format!(", {before} before"),
    };
    render::line(&format!(
        "{} has profile {}{before}",
        show::subject(scope, id),
        assignment.profile_id
    ))
}

/// Runs `tokenmeter limits unassign`.
pub(super) async fn unassign(
    args: UnassignArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let subject = args.holder.subject();
    let who = show::subject(subject.scope(), &subject.id);
    let request = v1::UnassignProfileRequest {
        request_id: fresh_id("unassign"),
        subject: Some(subject),
    };
    let mut service = client.connect().await?.admin();
    let answer = service.unassign_profile(request).await?.into_inner();
    let applies = answer.effective_profile_id;
    match output {
        Output::Json => render::json(&serde_json::json!({ "effective_profile_id": applies })),
        Output::Table => render::line(&format!(
            "{who} has no profile of its own; {applies} applies"
        )),
    }
}

/// Runs `tokenmeter limits assignments`.
pub(super) async fn assignments(
    args: AssignmentsArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let mut request = v1::ListAssignmentsRequest {
        scope: args.scope.unwrap_or_default().into(),
        profile_id: args.profile,
        page_size: page_size(limit),
        page_token: String::new(),
    };
    let mut service = client.connect().await?.admin();
    let mut assignments = Vec::new();
    while assignments.len() < limit {
        let page = service.list_assignments(request.clone()).await?;
        let page = page.into_inner();
        assignments.extend(page.assignments);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assignments.truncate(limit);
    if output == Output::Json {
        let assignments: Vec<_> = assignments.iter().map(AssignmentJson::from).collect();
        return render::json(&serde_json::json!({ "assignments": assignments }));
    }
    let mut table = render::table(&["who", "profile", "since", "given by"]);
    for one in &assignments {
        let (scope, id) = whom(one.subject.as_ref());
        table.add_row(vec![
            show::subject(scope, id),
            one.profile_id.clone(),
            time::text(one.assigned_time.as_ref()),
            one.assigned_by.clone(),
        ]);
    }
    render::line(&table.to_string())
}

#[derive(Serialize)]
struct OwnJson<'a> {
    scope: String,
    subject: &'a str,
    limits: Vec<LimitJson<'a>>,
}

/// Runs `tokenmeter limits own`.
pub(super) async fn own(args: OwnArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let subject = args.whose.subject();
    let scope = subject.scope();
    let limits = args.limit.into_iter();
    let request = v1::SetLimitsRequest {
        request_id: fresh_id("own-limits"),
        subject: Some(subject),
        limits: limits.map(|limit| limit.or_scope(scope)).collect(),
    };
    let mut service = client.connect().await?.admin();
    let answer = service.set_limits(request).await?.into_inner();
    let (scope, id) = whom(answer.subject.as_ref());
    if output == Output::Json {
        return render::json(&OwnJson {
            scope: show::scope(scope),
            subject: id,
            limits: answer.limits.iter().map(Into::into).collect(),
        });
    }
    let who = show::subject(scope, id);
    if answer.limits.is_empty() {
        return render::line(&format!("{who} has no limits of its own"));
    }
    render::line(&format!("{who} has these limits of its own:"))?;
    render::line(&show::limits(&answer.limits).to_string())
}

#[derive(Serialize)]
struct EffectiveJson<'a> {
    profile: Option<ProfileJson<'a>>,
    profile_scope: Option<String>,
    profile_subject: Option<&'a str>,
    own_limits: Vec<LimitJson<'a>>,
    states: Vec<StateJson<'a>>,
}

/// Runs `tokenmeter limits effective`.
pub(super) async fn effective(
    args: EffectiveArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let mut service = client.connect().await?.admin();
    let answer = service.get_effective_limits(args.request()).await?;
    let answer = answer.into_inner();
    let given_to = answer.profile_subject.as_ref();
    if output == Output::Json {
        return render::json(&EffectiveJson {
            profile: answer.profile.as_ref().map(Into::into),
            profile_scope: given_to.map(|one| show::scope(one.scope())),
            profile_subject: given_to.map(|one| &*one.id),
            own_limits: answer.own_limits.iter().map(Into::into).collect(),
            states: answer.states.iter().map(Into::into).collect(),
        });
    }
    render::line(&match (&answer.profile, given_to) {
        (Some(profile), Some(one)) => format!(
            "profile {}, given to {}",
            profile.profile_id,
            show::subject(one.scope(), &one.id)
        ),
        (Some(profile), None) => format!("profile {}, by default", profile.profile_id),
        (None, _) => "no profile".to_owned(),
    })?;
    if !answer.states.is_empty() {
        return render::line(&show::states(&answer.states).to_string());
    }
    let of_profile = answer.profile.map(|profile| profile.limits);
    let mut limits = answer.own_limits;
    limits.extend(of_profile.unwrap_or_default());
    match limits.is_empty() {
        true => render::line("unlimited"),
        false => render::line(&show::limits(&limits).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(user: Option<&str>, session: Option<&str>, everyone: bool) -> EffectiveArgs {
        EffectiveArgs {
            user: user.map(Into::into),
            team: None,
            session: session.map(Into::into),
            api_key: None,
            everyone,
        }
    }

    #[test]
    fn a_session_is_of_the_user_that_is_named_or_a_subject_alone() {
        let asked = args(Some("ada"), Some("s"), false).request();
        let subject = asked.subject.unwrap();
        assert_eq!((subject.scope(), &*subject.id), (LimitScope::User, "ada"));
        assert_eq!(asked.session_id, "s");
        let asked = args(None, Some("s"), false).request();
        let subject = asked.subject.unwrap();
        assert_eq!((subject.scope(), &*subject.id), (LimitScope::Session, "s"));
        assert_eq!(asked.session_id, "");
        let asked = args(None, None, true).request();
        assert_eq!(asked.subject.unwrap().scope(), LimitScope::Tenant);
        assert_eq!(args(None, None, false).request().subject, None);
    }
}
