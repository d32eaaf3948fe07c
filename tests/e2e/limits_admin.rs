//! Profiles, who has which, own limits and the tenant's settings, through the contract.

use tokenmeter_api::v1::{self, ErrorReason as R, LimitMetric, LimitScope, LimitWindow};
use tokenmeter_tests::Server;
use v1::admin_service_client::AdminServiceClient;

use crate::support::{As, Clients, Metadata, refusal};

fn limit(metric: LimitMetric, window: LimitWindow, amount: i64) -> v1::Limit {
    v1::Limit {
        scope: LimitScope::User.into(),
        metric: metric.into(),
        window: window.into(),
        amount,
        ..Default::default()
    }
}

fn profile(id: &str, limits: Vec<v1::Limit>) -> v1::Profile {
    v1::Profile {
        profile_id: id.into(),
        display_name: format!("profile {id}"),
        limits,
        ..Default::default()
    }
}

fn subject(scope: LimitScope, id: &str) -> Option<v1::Subject> {
    Some(v1::Subject {
        scope: scope.into(),
        id: id.into(),
    })
}

fn user(id: &str) -> Option<v1::Subject> {
    subject(LimitScope::User, id)
}

/// Administration as somebody.
fn admin_as(clients: &Clients, entries: &[(&'static str, &str)]) -> AdminServiceClient<As> {
    AdminServiceClient::with_interceptor(clients.channel.clone(), Metadata::new(entries))
}

fn create(request_id: &str, profile: v1::Profile) -> v1::CreateProfileRequest {
    v1::CreateProfileRequest {
        request_id: request_id.into(),
        profile: Some(profile),
    }
}

fn assign(request_id: &str, subject: Option<v1::Subject>, id: &str) -> v1::AssignProfileRequest {
    v1::AssignProfileRequest {
        request_id: request_id.into(),
        subject,
        profile_id: id.into(),
    }
}

async fn effective(
    clients: &mut Clients,
    subject: Option<v1::Subject>,
) -> v1::GetEffectiveLimitsResponse {
    let request = v1::GetEffectiveLimitsRequest {
        subject,
        session_id: String::new(),
    };
    let answer = clients.admin.get_effective_limits(request).await;
    answer.unwrap().into_inner()
}

#[tokio::test]
async fn the_shipped_tiers_are_there_from_the_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let request = v1::ListProfilesRequest::default();
    let list = clients.admin.list_profiles(request).await.unwrap();
    let list = list.into_inner();
    assert_eq!(list.next_page_token, "");
    let figures: Vec<_> = list
        .profiles
        .iter()
        .map(|one| {
            let limits = one.limits.iter().map(|limit| {
                assert_eq!(limit.scope(), LimitScope::User);
                assert_eq!(limit.enforcement(), v1::Enforcement::Block);
                (limit.metric(), limit.window(), limit.amount)
            });
            assert!(one.shipped && !one.etag.is_empty(), "{one:?}");
            (&*one.profile_id, limits.collect::<Vec<_>>())
        })
        .collect();
    let requests = LimitMetric::Requests;
    let tokens = LimitMetric::TotalTokens;
    let (minute, hour, month) = (LimitWindow::Minute, LimitWindow::Hour, LimitWindow::Month);
    let expected = [
        (
            "enterprise",
            vec![(requests, minute, 60), (tokens, month, 100_000_000)],
        ),
        (
            "free",
            vec![
                (requests, minute, 10),
                (requests, hour, 50),
                (tokens, month, 1_000_000),
            ],
        ),
        (
            "pro",
            vec![
                (requests, minute, 30),
                (requests, hour, 300),
                (tokens, month, 10_000_000),
            ],
        ),
        ("unlimited", vec![]),
    ];
    assert_eq!(figures, expected);
    let of_nobody = effective(&mut clients, user("somebody-new")).await;
    assert_eq!(of_nobody.profile.unwrap().profile_id, "free");
    assert_eq!(of_nobody.profile_subject, None);
}

#[tokio::test]
async fn a_profile_lives_from_its_creation_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let admin = &mut clients.admin;
    let monthly = limit(LimitMetric::Cost, LimitWindow::Month, 25_000_000_000);
    let request = create("r-1", profile("team", vec![monthly.clone()]));
    let created = admin.create_profile(request.clone()).await.unwrap();
    let created = created.into_inner().profile.unwrap();
    assert_eq!(created.limits[0].name, "user-cost-month");
    assert_eq!(created.failure_mode(), v1::FailureMode::Open);
    let again = admin.create_profile(request).await.unwrap().into_inner();
    assert_eq!(again.profile.as_ref(), Some(&created));
    let status = admin
        .create_profile(create("r-2", profile("team", Vec::new())))
        .await
        .unwrap_err();
    let failure = refusal(&status);
    assert_eq!(failure.reason, R::AlreadyExists);
    assert_eq!(failure.resource, Some(("profile".into(), "team".into())));

    // One name for all RPCs of a tenant.
    let status = admin
        .assign_profile(assign("r-1", user("ada"), "team"))
        .await;
    assert_eq!(refusal(&status.unwrap_err()).reason, R::RequestIdConflict);

    let update = |request_id: &str, etag: &str| v1::UpdateProfileRequest {
        request_id: request_id.into(),
        profile: Some(v1::Profile {
            etag: etag.into(),
            ..profile(
                "team",
                vec![limit(LimitMetric::Requests, LimitWindow::Day, 9)],
            )
        }),
    };
    let updated = admin.update_profile(update("r-3", &created.etag)).await;
    let updated = updated.unwrap().into_inner().profile.unwrap();
    assert_eq!(updated.created_time, created.created_time);
    assert_eq!(updated.limits[0].amount, 9);
    let status = admin.update_profile(update("r-4", &created.etag)).await;
    let failure = refusal(&status.unwrap_err());
    assert_eq!(failure.reason, R::EtagMismatch);

    admin
        .assign_profile(assign("r-5", user("ada"), "team"))
        .await
        .unwrap();
    let delete = |request_id: &str| v1::DeleteProfileRequest {
        request_id: request_id.into(),
        profile_id: "team".into(),
        etag: String::new(),
    };
    let status = admin.delete_profile(delete("r-6")).await.unwrap_err();
    assert_eq!(refusal(&status).reason, R::ProfileInUse);

    assert!(server.terminate().success());
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let applies = effective(&mut clients, user("ada")).await;
    assert_eq!(applies.profile, Some(updated));
    assert_eq!(applies.profile_subject, user("ada"));
    let request = v1::UnassignProfileRequest {
        request_id: "r-7".into(),
        subject: user("ada"),
    };
    let admin = &mut clients.admin;
    let unassigned = admin.unassign_profile(request).await.unwrap().into_inner();
    assert_eq!(unassigned.effective_profile_id, "free");
    for _ in 0..2 {
        admin.delete_profile(delete("r-8")).await.unwrap();
    }
    let request = v1::GetProfileRequest {
        profile_id: "team".into(),
    };
    let failure = refusal(&admin.get_profile(request).await.unwrap_err());
    assert_eq!(failure.reason, R::NotFound);
    assert_eq!(failure.resource, Some(("profile".into(), "team".into())));
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let sound = || limit(LimitMetric::Requests, LimitWindow::Day, 1);
    let cases = [
        (
            v1::Limit {
                scope: 0,
                ..sound()
            },
            "profile.limits[0].scope",
        ),
        (
            v1::Limit {
                metric: 77,
                ..sound()
            },
            "profile.limits[0].metric",
        ),
        (
            v1::Limit {
                window: LimitWindow::Session.into(),
                ..sound()
            },
            "profile.limits[0].window",
        ),
        (
            v1::Limit {
                amount: -1,
                ..sound()
            },
            "profile.limits[0].amount",
        ),
        (
            v1::Limit {
                alert_percents: vec![90, 80],
                ..sound()
            },
            "profile.limits[0].alert_percents[1]",
        ),
    ];
    for (limit, field) in cases {
        let request = create("r", profile("p", vec![limit]));
        let failure = refusal(&clients.admin.create_profile(request).await.unwrap_err());
        assert_eq!(failure.reason, R::LimitInvalid, "{field}");
        assert_eq!(failure.violations[0].0, field);
        assert!(failure.violations[0].1.contains("send"), "{failure:?}");
    }
    let request = v1::SetLimitsRequest {
        request_id: "r".into(),
        subject: subject(LimitScope::Team, "red"),
        limits: vec![sound()],
    };
    let failure = refusal(&clients.admin.set_limits(request).await.unwrap_err());
    assert_eq!(failure.reason, R::LimitInvalid);
    assert_eq!(failure.violations[0].0, "limits[0].scope");
    let request = assign("r", subject(LimitScope::Session, "s"), "pro");
    let failure = refusal(&clients.admin.assign_profile(request).await.unwrap_err());
    assert_eq!(failure.reason, R::FieldInvalid);
    assert_eq!(failure.violations[0].0, "subject.scope");
    let request = assign("r", subject(LimitScope::Tenant, "default"), "pro");
    let failure = refusal(&clients.admin.assign_profile(request).await.unwrap_err());
    assert_eq!(failure.violations[0].0, "subject.id");
    // None of them is remembered under its name.
    let request = create("r", profile("p", vec![sound()]));
    clients.admin.create_profile(request).await.unwrap();
}

#[tokio::test]
async fn own_limits_and_assignments_are_the_tenants_own() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let clients = Clients::of(&server).await;
    let mut a = admin_as(&clients, &[("tokenmeter-tenant", "a")]);
    let mut b = admin_as(&clients, &[("tokenmeter-tenant", "b")]);
    let day = limit(LimitMetric::TotalTokens, LimitWindow::Day, 5_000);
    let request = v1::SetLimitsRequest {
        request_id: "r-1".into(),
        subject: user("ada"),
        limits: vec![day.clone()],
    };
    let set = a.set_limits(request).await.unwrap().into_inner();
    assert_eq!(set.limits[0].name, "user-total-tokens-day");
    for (n, id) in ["ada", "bob", "cleo"].into_iter().enumerate() {
        let request = assign(&format!("a-{n}"), user(id), "pro");
        a.assign_profile(request).await.unwrap();
    }
    let team = assign("a-3", subject(LimitScope::Team, "red"), "enterprise");
    a.assign_profile(team).await.unwrap();

    let of_ada = v1::GetEffectiveLimitsRequest {
        subject: user("ada"),
        session_id: String::new(),
    };
    let in_a = a.get_effective_limits(of_ada.clone()).await.unwrap();
    let in_a = in_a.into_inner();
    assert_eq!(in_a.own_limits, set.limits);
    assert_eq!(in_a.profile.unwrap().profile_id, "pro");
    let in_b = b.get_effective_limits(of_ada).await.unwrap().into_inner();
    assert_eq!(in_b.own_limits, Vec::new());
    assert_eq!(in_b.profile.unwrap().profile_id, "free");

    let mut request = v1::ListAssignmentsRequest {
        page_size: 2,
        ..Default::default()
    };
    let mut listed = Vec::new();
    loop {
        let page = a.list_assignments(request.clone()).await.unwrap();
        let page = page.into_inner();
        assert!(page.assignments.len() <= 2);
        listed.extend(page.assignments);
        if page.next_page_token.is_empty() {
            break;
        }
        let status = b
            .list_assignments(v1::ListAssignmentsRequest {
                page_token: page.next_page_token.clone(),
                ..request.clone()
            })
            .await
            .unwrap_err();
        assert_eq!(refusal(&status).reason, R::PageTokenInvalid);
        request.page_token = page.next_page_token;
    }
    let ids: Vec<_> = listed
        .iter()
        .map(|one| (&*one.subject.as_ref().unwrap().id, &*one.profile_id))
        .collect();
    let expected = [
        ("red", "enterprise"),
        ("ada", "pro"),
        ("bob", "pro"),
        ("cleo", "pro"),
    ];
    assert_eq!(ids, expected);
    assert_eq!(listed[0].assigned_by, "anonymous");
    let of_teams = v1::ListAssignmentsRequest {
        scope: LimitScope::Team.into(),
        ..Default::default()
    };
    let teams = a.list_assignments(of_teams).await.unwrap().into_inner();
    assert_eq!(teams.assignments, listed[..1]);
    let none = b
        .list_assignments(v1::ListAssignmentsRequest::default())
        .await;
    assert_eq!(none.unwrap().into_inner().assignments, Vec::new());
}

#[tokio::test]
async fn who_reads_only_itself_learns_its_own_limits_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let request = assign("r", subject(LimitScope::Team, "red"), "pro");
    clients.admin.assign_profile(request).await.unwrap();
    let entries = [
        ("tokenmeter-user", "ada"),
        ("tokenmeter-team", "red"),
        ("tokenmeter-roles", "read_own"),
    ];
    let mut ada = admin_as(&clients, &entries);
    let own = ada.get_effective_limits(v1::GetEffectiveLimitsRequest::default());
    let own = own.await.unwrap().into_inner();
    assert_eq!(own.profile.unwrap().profile_id, "pro");
    assert_eq!(own.profile_subject, subject(LimitScope::Team, "red"));
    for other in [
        user("bob"),
        subject(LimitScope::Team, "red"),
        subject(LimitScope::Tenant, ""),
    ] {
        let request = v1::GetEffectiveLimitsRequest {
            subject: other,
            session_id: String::new(),
        };
        let failure = refusal(&ada.get_effective_limits(request).await.unwrap_err());
        assert_eq!(failure.reason, R::PermissionDenied);
    }
}

#[tokio::test]
async fn settings_of_a_tenant_are_kept_with_their_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let admin = &mut clients.admin;
    let get = async |admin: &mut AdminServiceClient<_>| {
        let answer = admin.get_tenant(v1::GetTenantRequest {}).await.unwrap();
        answer.into_inner().tenant.unwrap()
    };
    let tenant = get(admin).await;
    assert_eq!(
        (&*tenant.tenant_id, &*tenant.next_time_zone),
        ("default", "")
    );
    let mut settings = tenant.settings.unwrap();
    assert_eq!(settings.default_profile_id, "free");
    assert_eq!(settings.default_max_output_tokens, Some(4_096));
    assert_eq!(settings.summarize_below_percent, Some(20));
    assert_eq!(settings.event_retention.unwrap().seconds, 90 * 86_400);

    settings.time_zone = "Asia/Kolkata".into();
    settings.default_profile_id = "pro".into();
    let update =
        |request_id: &str, settings: &v1::TenantSettings, etag: &str| v1::UpdateTenantRequest {
            request_id: request_id.into(),
            settings: Some(settings.clone()),
            etag: etag.into(),
        };
    let set = admin.update_tenant(update("r-1", &settings, "")).await;
    let set = set.unwrap().into_inner().tenant.unwrap();
    assert_eq!(set.settings.as_ref(), Some(&settings));
    assert_eq!(set.next_time_zone, "Asia/Kolkata");
    assert!(set.updated_time.is_some());
    assert_eq!(get(admin).await, set);
    settings.summarize_below_percent = Some(10);
    let status = admin.update_tenant(update("r-2", &settings, "stale")).await;
    assert_eq!(refusal(&status.unwrap_err()).reason, R::EtagMismatch);
    let set = admin
        .update_tenant(update("r-2", &settings, &set.etag))
        .await;
    assert_eq!(
        set.unwrap().into_inner().tenant.unwrap().settings.as_ref(),
        Some(&settings)
    );

    let refused = [
        (
            v1::TenantSettings {
                time_zone: "Mars/Olympus".into(),
                ..settings.clone()
            },
            R::TimeZoneUnknown,
        ),
        (
            v1::TenantSettings {
                default_profile_id: "absent".into(),
                ..settings.clone()
            },
            R::NotFound,
        ),
        (
            v1::TenantSettings {
                period_history: Some(24),
                ..settings.clone()
            },
            R::NotYetImplemented,
        ),
        (
            v1::TenantSettings {
                disabled: true,
                ..settings.clone()
            },
            R::PermissionDenied,
        ),
        (
            v1::TenantSettings {
                summarize_below_percent: Some(101),
                ..settings.clone()
            },
            R::FieldInvalid,
        ),
    ];
    for (bad, reason) in refused {
        let status = admin.update_tenant(update("r-3", &bad, "")).await;
        assert_eq!(refusal(&status.unwrap_err()).reason, reason);
    }
    assert_eq!(get(admin).await.settings, Some(settings));
    let new = effective(&mut clients, user("new")).await;
    assert_eq!(new.profile.unwrap().profile_id, "pro");
    assert_eq!(new.profile_subject, subject(LimitScope::Tenant, ""));
}

#[tokio::test]
async fn a_list_of_hits_that_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let all = v1::ListLimitHitsRequest::default();
    let hits = clients.analytics.list_limit_hits(all.clone()).await;
    assert_eq!(hits.unwrap().into_inner().hits, Vec::new());
    let long = "x".repeat(256);
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    for (request, reason) in [
        (
            v1::ListLimitHitsRequest {
                scope: 99,
                ..all.clone()
            },
            R::FieldInvalid,
        ),
        (
            v1::ListLimitHitsRequest {
                limit_name: long,
                ..all.clone()
            },
            R::FieldInvalid,
        ),
        (
            v1::ListLimitHitsRequest {
                page_size: -1,
                ..all.clone()
            },
            R::FieldInvalid,
        ),
        (
            v1::ListLimitHitsRequest {
                range: Some(v1::TimeRange {
                    start_time: at(2),
                    end_time: at(1),
                }),
                ..all.clone()
            },
            R::RangeInvalid,
        ),
        (
            v1::ListLimitHitsRequest {
                page_token: "of-nothing".into(),
                ..all
            },
            R::PageTokenInvalid,
        ),
    ] {
        let status = clients.analytics.list_limit_hits(request.clone()).await;
        let failure = refusal(&status.unwrap_err());
        assert_eq!(failure.reason, reason, "{request:?}");
    }
}
