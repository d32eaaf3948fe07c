use std::sync::atomic::{AtomicI64, Ordering};

use tempfile::TempDir;
use tokenmeter_identity::{Role, Roles};
use tokenmeter_model::limit::{
    Enforcement, FailureMode, Limit, Metric, Profile, Scope, Window, shipped,
};
use tokenmeter_store::sqlite::Sqlite;

use super::tenant::AskedSettings;
use super::*;

/// 2026-11-21T12:00:00Z.
const NOW: i64 = 1_795_262_400_000_000;
/// 2026-12-01T00:00:00 in New York.
const DECEMBER_IN_NEW_YORK: i64 = 1_796_101_200_000_000;

struct Service {
    admin: LimitAdmin,
    caller: Caller,
    now: Arc<AtomicI64>,
    _folder: TempDir,
}

async fn service() -> Service {
    let folder = tempfile::tempdir().unwrap();
    let ledger: Arc<dyn Ledger> =
        Arc::new(Sqlite::open(&folder.path().join("t.db")).await.unwrap());
    let now = Arc::new(AtomicI64::new(NOW));
    let clock = Arc::clone(&now);
    let configured = Configured {
        zone: Zone::named("America/New_York").unwrap(),
        retention_days: Some(90),
    };
    let clock: Clock = Arc::new(move || clock.load(Ordering::Relaxed));
    Service {
        admin: LimitAdmin::new(ledger, clock, configured, None),
        caller: caller(Roles::all()),
        now,
        _folder: folder,
    }
}

fn caller(roles: Roles) -> Caller {
    Caller {
        tenant: TenantId::new("acme").unwrap(),
        user: "ann".into(),
        team_id: "red".into(),
        api_key_id: String::new(),
        roles,
    }
}

fn limit(scope: Scope, amount: i64) -> Limit {
    Limit {
        name: String::new(),
        scope,
        metric: Metric::Requests,
        window: Window::Day,
        amount,
        enforcement: Enforcement::Block,
        hard: false,
        alert_percents: Vec::new(),
        provider: String::new(),
        model: String::new(),
    }
}

fn profile(id: &str, limits: Vec<Limit>) -> Profile {
    Profile {
        profile_id: id.into(),
        display_name: String::new(),
        limits,
        failure_mode: FailureMode::Open,
        session_budget_max_tokens: None,
        enforce_session_budget: false,
        max_hold_us: None,
    }
}

fn user(id: &str) -> Subject {
    Subject {
        scope: Scope::User,
        id: id.into(),
    }
}

fn reason(error: Error) -> &'static str {
    tokenmeter_api::status::name_of(Failure::from(error).reason)
}

impl Service {
    async fn create(&self, request: &str, profile: Profile) -> Result<StoredProfile, Error> {
        self.admin
            .create_profile(&self.caller, request, profile)
            .await
    }

    async fn assign(&self, request: &str, subject: Subject, profile: &str) -> (Assignment, String) {
        self.admin
            .assign(&self.caller, request, subject, profile.into())
            .await
            .unwrap()
    }

    async fn effective(&self, subject: Subject) -> Effective {
        let subject = Some(subject);
        let answer = self.admin.effective(&self.caller, subject, "").await;
        answer.unwrap()
    }
}

#[tokio::test]
async fn profiles_are_created_changed_and_deleted_once_for_each_request() {
    let service = service().await;
    let (admin, caller) = (&service.admin, &service.caller);
    let team = profile("team", vec![limit(Scope::User, 5)]);
    let created = service.create("c", team.clone()).await.unwrap();
    assert_eq!((&created.profile, created.shipped), (&team, false));
    assert_eq!(service.create("c", team.clone()).await.unwrap(), created);
    let other = service.create("c", profile("other", Vec::new())).await;
    assert_eq!(reason(other.unwrap_err()), "REQUEST_ID_CONFLICT");
    let twice = service.create("d", team.clone()).await;
    assert_eq!(reason(twice.unwrap_err()), "ALREADY_EXISTS");

    let changed = profile("team", vec![limit(Scope::Team, 6)]);
    let update = |request: &'static str, etag: &str| {
        let (changed, etag) = (changed.clone(), etag.to_owned());
        admin.update_profile(caller, request, changed, etag)
    };
    let updated = update("u", &created.etag).await.unwrap();
    assert_ne!(updated.etag, created.etag);
    assert_eq!(update("u", &created.etag).await.unwrap(), updated);
    let stale = update("v", &created.etag).await;
    assert_eq!(reason(stale.unwrap_err()), "ETAG_MISMATCH");
    assert_eq!(admin.profile(caller, "team").await.unwrap(), updated);

    let delete = |request: &'static str, id: &'static str, etag: &str| {
        admin.delete_profile(caller, request, id.into(), etag.to_owned())
    };
    let stale = delete("x", "team", &created.etag).await;
    assert_eq!(reason(stale.unwrap_err()), "ETAG_MISMATCH");
    assert_eq!(
        reason(delete("x", "free", "").await.unwrap_err()),
        "PROFILE_IN_USE"
    );
    delete("x", "team", &updated.etag).await.unwrap();
    delete("x", "team", &updated.etag).await.unwrap();
    assert_eq!(
        reason(admin.profile(caller, "team").await.unwrap_err()),
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn what_ships_is_listed_and_can_be_changed() {
    let service = service().await;
    let (admin, caller) = (&service.admin, &service.caller);
    let mut ids = Vec::new();
    let mut token = String::new();
    loop {
        let (page, next) = admin.profiles(caller, 3, &token).await.unwrap();
        assert!(page.len() <= 3 && page.iter().all(|one| one.shipped));
        ids.extend(page.into_iter().map(|one| one.profile.profile_id));
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(ids, ["enterprise", "free", "pro", "unlimited"]);
    assert_eq!(ids.len(), shipped().len());
    let free = profile("free", vec![limit(Scope::User, 1)]);
    let updated = admin.update_profile(caller, "u", free, String::new()).await;
    assert!(updated.unwrap().shipped);
    assert_eq!(
        service
            .effective(user("x"))
            .await
            .profile
            .unwrap()
            .profile
            .limits
            .len(),
        1
    );
    let wrong = admin.profiles(caller, -1, "").await;
    assert_eq!(reason(wrong.unwrap_err()), "FIELD_INVALID");
    let wrong = admin.profiles(caller, 0, "free.0000").await;
    assert_eq!(reason(wrong.unwrap_err()), "PAGE_TOKEN_INVALID");
}

#[tokio::test]
async fn what_is_inconsistent_changes_nothing() {
    let service = service().await;
    let window = Limit {
        window: Window::Session,
        ..limit(Scope::Team, 1)
    };
    for (profile, why) in [
        (profile("Team", Vec::new()), "FIELD_INVALID"),
        (profile("", Vec::new()), "FIELD_INVALID"),
        (profile("p", vec![limit(Scope::User, -1)]), "LIMIT_INVALID"),
        (profile("p", vec![window]), "LIMIT_INVALID"),
        (
            profile("p", vec![limit(Scope::User, 1); 2]),
            "LIMIT_INVALID",
        ),
    ] {
        let text = format!("{profile:?}");
        let error = service.create("c", profile).await.unwrap_err();
        assert_eq!(reason(error), why, "{text}");
    }
    let error = service.create("", profile("p", Vec::new())).await;
    assert_eq!(reason(error.unwrap_err()), "FIELD_INVALID");
    let all = service.admin.profiles(&service.caller, 0, "").await;
    assert_eq!(all.unwrap().0.len(), shipped().len());
}

#[tokio::test]
async fn the_profile_is_the_users_else_the_teams_else_the_tenants() {
    let service = service().await;
    let (admin, caller) = (&service.admin, &service.caller);
    let team = Subject {
        scope: Scope::Team,
        id: "red".into(),
    };
    let tenant = Subject {
        scope: Scope::Tenant,
        id: String::new(),
    };
    let holders = [user("ann"), team.clone(), tenant.clone()];
    for (n, holder) in holders.iter().enumerate() {
        let profile = ["pro", "enterprise", "unlimited"][n];
        let (assignment, previous) = service
            .assign(&format!("a{n}"), holder.clone(), profile)
            .await;
        assert_eq!((&*assignment.assigned_by, &*previous), ("ann", ""));
    }
    let (list, _) = admin.assignments(caller, None, "", 0, "").await.unwrap();
    assert_eq!(list.len(), 3);
    let (pros, _) = admin
        .assignments(caller, Some(Scope::User), "pro", 0, "")
        .await
        .unwrap();
    assert_eq!(pros[0].subject, "ann");
    let mut paged = Vec::new();
    let mut token = String::new();
    loop {
        let (page, next) = admin
            .assignments(caller, None, "", 1, &token)
            .await
            .unwrap();
        paged.extend(page);
        if next.is_empty() {
            break;
        }
        token = next;
    }
    assert_eq!(paged, list);

    // Ann is the caller, whose team is known; of another user it is not.
    for (holder, profile) in holders.iter().zip(["pro", "enterprise", "unlimited"]) {
        let applies = service.effective(user("ann")).await;
        assert_eq!(applies.profile.unwrap().profile.profile_id, profile);
        assert_eq!(applies.assigned_to, Some((holder.scope, holder.id.clone())));
        let request = format!("u-{profile}");
        admin
            .unassign(caller, &request, holder.clone())
            .await
            .unwrap();
    }
    let applies = service.effective(user("ann")).await;
    assert_eq!(applies.profile.unwrap().profile.profile_id, "free");
    assert_eq!(applies.assigned_to, None);

    let (_, previous) = service.assign("b", tenant.clone(), "pro").await;
    assert_eq!(previous, "");
    let (_, previous) = service.assign("c", tenant.clone(), "free").await;
    assert_eq!(previous, "pro");
    let absent = admin
        .assign(caller, "d", user("ann"), "absent".into())
        .await;
    assert_eq!(reason(absent.unwrap_err()), "NOT_FOUND");
    let session = Subject {
        scope: Scope::Session,
        id: "s".into(),
    };
    let error = admin.assign(caller, "d", session, "pro".into()).await;
    assert_eq!(reason(error.unwrap_err()), "FIELD_INVALID");
    let falls_back = admin.unassign(caller, "e", tenant).await.unwrap();
    assert_eq!(falls_back, "free");
}

#[tokio::test]
async fn own_limits_are_of_the_subjects_scope() {
    let service = service().await;
    let (admin, caller) = (&service.admin, &service.caller);
    let own = vec![limit(Scope::User, 7)];
    for _ in 0..2 {
        let set = admin.set_limits(caller, "s", user("bob"), own.clone());
        assert_eq!(set.await.unwrap(), own);
    }
    assert_eq!(service.effective(user("bob")).await.own, own);
    let other = vec![limit(Scope::Team, 7)];
    let error = admin.set_limits(caller, "t", user("bob"), other).await;
    assert_eq!(reason(error.unwrap_err()), "LIMIT_INVALID");
    let many = vec![limit(Scope::User, 7); 65];
    let error = admin.set_limits(caller, "t", user("bob"), many).await;
    assert_eq!(reason(error.unwrap_err()), "LIMIT_INVALID");
    let none = admin.set_limits(caller, "t", user("bob"), Vec::new()).await;
    assert_eq!(none.unwrap(), Vec::new());
    assert_eq!(service.effective(user("bob")).await.own, Vec::new());
}

/// Tells of one rule, whoever asks.
struct OneRule;

#[async_trait]
impl Standings for OneRule {
    async fn standings(
        &self,
        _: &TenantId,
        owner: &Owner,
    ) -> Result<Vec<(Rule, Standing)>, Failure> {
        let rule = Rule {
            limit: Arc::new(limit(Scope::User, 9)),
            subject: owner.user_id.as_str().into(),
            profile_id: "free".into(),
            base: Default::default(),
        };
        let standing = Standing {
            used: 2,
            held: 3,
            ..Standing::default()
        };
        Ok(vec![(rule, standing)])
    }
}

#[tokio::test]
async fn who_reads_only_itself_asks_about_itself_only() {
    let mut service = service().await;
    service.admin.standings = Some(Arc::new(OneRule));
    let own = caller(Roles::from_iter([Role::ReadOwn]));
    let ask = |subject, session| service.admin.effective(&own, subject, session);
    let answer = wire::effective(ask(None, "").await.unwrap());
    let state = &answer.states[0];
    assert_eq!(
        (&*state.subject, state.used, state.held, state.remaining),
        ("ann", 2, 3, 4)
    );
    assert!(ask(Some(user("ann")), "a-new-session").await.is_ok());
    let others = [
        user("bob"),
        Subject {
            scope: Scope::Team,
            id: "red".into(),
        },
        Subject {
            scope: Scope::Session,
            id: "of-nobody".into(),
        },
    ];
    for other in others {
        let error = ask(Some(other), "").await.unwrap_err();
        assert_eq!(reason(error), "PERMISSION_DENIED");
    }
    let team = Subject {
        scope: Scope::Team,
        id: "red".into(),
    };
    let error = service
        .admin
        .effective(&service.caller, Some(team), "s")
        .await;
    assert_eq!(reason(error.unwrap_err()), "FIELD_INVALID");
}

#[tokio::test]
async fn a_zone_takes_effect_with_the_next_month_and_can_be_taken_back() {
    let service = service().await;
    let (admin, caller) = (&service.admin, &service.caller);
    let first = admin.tenant(caller).await.unwrap();
    assert_eq!(first.time_zone, "America/New_York");
    assert_eq!((first.next_time_zone, &*first.etag), (None, ""));
    let zone = |name: &str| AskedSettings {
        time_zone: name.into(),
        ..AskedSettings::default()
    };
    let update = |request: &'static str, asked, etag: &'static str| {
        admin.update_tenant(caller, request, asked, etag)
    };
    let set = update("a", zone("Asia/Kolkata"), "").await.unwrap();
    assert_eq!(set.next_time_zone.as_deref(), Some("Asia/Kolkata"));
    let stored = admin.ledger.tenant_settings(&caller.tenant).await.unwrap();
    assert_eq!(
        stored.settings.zone_before,
        Some((None, DECEMBER_IN_NEW_YORK))
    );
    let again = update("a", zone("Asia/Kolkata"), "").await.unwrap();
    assert_eq!(again, set);
    // Another change of the same month starts from the zone that still applies.
    let set = update("b", zone("Pacific/Chatham"), "").await.unwrap();
    assert_eq!(set.next_time_zone.as_deref(), Some("Pacific/Chatham"));
    let back = update("c", zone(""), "").await.unwrap();
    assert_eq!(
        (&*back.time_zone, back.next_time_zone),
        ("America/New_York", None)
    );
    update("d", zone("Asia/Kolkata"), "").await.unwrap();
    service.now.store(DECEMBER_IN_NEW_YORK, Ordering::Relaxed);
    let after = admin.tenant(caller).await.unwrap();
    assert_eq!(
        (&*after.time_zone, after.next_time_zone),
        ("Asia/Kolkata", None)
    );
    // Another setting forgets nothing: where the month began depends on it.
    let named = AskedSettings {
        display_name: "Acme".into(),
        ..zone("Asia/Kolkata")
    };
    update("f", named, "").await.unwrap();
    let stored = admin.ledger.tenant_settings(&caller.tenant).await.unwrap();
    assert_eq!(
        stored.settings.zone_before,
        Some((None, DECEMBER_IN_NEW_YORK))
    );
    let conflict = update("d", zone("UTC"), "").await;
    assert_eq!(reason(conflict.unwrap_err()), "REQUEST_ID_CONFLICT");
    let stale = update("e", zone("UTC"), "stale").await;
    assert_eq!(reason(stale.unwrap_err()), "ETAG_MISMATCH");
    let unknown = update("e", zone("Mars/Olympus"), "").await;
    assert_eq!(reason(unknown.unwrap_err()), "TIME_ZONE_UNKNOWN");
}

#[tokio::test]
async fn settings_can_be_sent_back_as_they_were_read() {
    let service = service().await;
    let (admin, caller) = (&service.admin, &service.caller);
    let read = wire::tenant("acme".into(), admin.tenant(caller).await.unwrap());
    let mut settings = read.settings.unwrap();
    settings.default_profile_id = "pro".into();
    settings.default_max_output_tokens = Some(7);
    settings.summarize_below_percent = Some(0);
    let asked = wire::settings(Some(settings.clone()), Some(90)).unwrap();
    let set = admin.update_tenant(caller, "a", asked, "").await.unwrap();
    let sent_back = wire::tenant("acme".into(), set.clone()).settings.unwrap();
    assert_eq!(sent_back, settings);
    let applies = service.effective(user("new")).await;
    assert_eq!(applies.profile.unwrap().profile.profile_id, "pro");
    assert_eq!(applies.assigned_to, Some((Scope::Tenant, String::new())));
    let error = admin
        .delete_profile(caller, "b", "pro".into(), String::new())
        .await;
    assert_eq!(reason(error.unwrap_err()), "PROFILE_IN_USE");

    let with = |change: fn(&mut tokenmeter_api::v1::TenantSettings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        wire::settings(Some(settings), Some(90))
    };
    let kept = with(|settings| settings.period_history = Some(12));
    assert_eq!(reason(kept.unwrap_err()), "NOT_YET_IMPLEMENTED");
    let kept = with(|settings| settings.event_retention = Some(Default::default()));
    assert_eq!(reason(kept.unwrap_err()), "NOT_YET_IMPLEMENTED");
    let kept = with(|settings| settings.disabled = true);
    assert_eq!(reason(kept.unwrap_err()), "PERMISSION_DENIED");
    let asked = with(|settings| settings.default_max_output_tokens = Some(0)).unwrap();
    let error = admin.update_tenant(caller, "c", asked, "").await;
    assert_eq!(reason(error.unwrap_err()), "FIELD_INVALID");
    let asked = with(|settings| settings.default_profile_id = "absent".into()).unwrap();
    let error = admin.update_tenant(caller, "c", asked, "").await;
    assert_eq!(reason(error.unwrap_err()), "NOT_FOUND");
    assert_eq!(admin.tenant(caller).await.unwrap(), set);
}
