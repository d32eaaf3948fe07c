//! What the ledger keeps for limits.

pub mod uses;

use std::collections::BTreeSet;

use tokenmeter_model::fingerprint::Canonical;
use tokenmeter_model::limit::{
    Enforcement, FailureMode, Limit, Metric, Profile, Scope, Window, shipped,
};
use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::ledger::correction::Request;
use tokenmeter_store::ledger::limits::{
    Assignment, LimitChange, LimitOutcome, MAX_PROFILES, StoredProfile, StoredTenant,
    SubjectLimits, TenantSettings,
};

use super::{T0, request, tenant};

const SECOND: i64 = 1_000_000;

fn limit(scope: Scope, metric: Metric, window: Window, amount: i64) -> Limit {
    Limit {
        name: format!("{} {}", metric.as_str(), window.as_str()),
        scope,
        metric,
        window,
        amount,
        enforcement: Enforcement::Block,
        hard: false,
        alert_percents: vec![50, 100],
        provider: "anthropic".into(),
        model: String::new(),
    }
}

fn profile(id: &str) -> Profile {
    Profile {
        profile_id: id.into(),
        display_name: format!("Profile \"{id}\" Ä"),
        limits: vec![
            limit(Scope::ApiKey, Metric::Cost, Window::Month, 5),
            limit(
                Scope::Session,
                Metric::UncachedInputTokens,
                Window::Session,
                i64::MAX,
            ),
        ],
        failure_mode: FailureMode::Closed,
        session_budget_max_tokens: Some(7),
        enforce_session_budget: true,
        max_hold_us: Some(SECOND),
    }
}

/// A request of a name of its own.
fn named(owner: &str, name: &str, at_us: i64) -> Request {
    Request {
        fingerprint: Canonical::new().text(name).finish(),
        ..request(owner, name, "Change", at_us)
    }
}

/// Makes a change under a name of its own.
async fn change(ledger: &dyn Ledger, owner: &str, name: &str, change: LimitChange) -> LimitOutcome {
    let request = named(owner, name, T0);
    ledger.change_limits(request, change).await.unwrap()
}

/// The profile that a change left.
fn left(outcome: LimitOutcome) -> StoredProfile {
    match outcome {
        LimitOutcome::Done {
            profile: Some(profile),
            ..
        } => profile,
        other => panic!("{other:?}"),
    }
}

const DONE: LimitOutcome = LimitOutcome::Done {
    profile: None,
    previous_profile_id: None,
    assignment: None,
};

fn assign(scope: Scope, subject: &str, profile_id: &str) -> LimitChange {
    LimitChange::Assign {
        scope,
        subject: subject.into(),
        profile_id: profile_id.into(),
    }
}

fn unassign(scope: Scope, subject: &str) -> LimitChange {
    LimitChange::Unassign {
        scope,
        subject: subject.into(),
    }
}

fn delete(profile_id: &str, etag: &str) -> LimitChange {
    LimitChange::DeleteProfile {
        profile_id: profile_id.into(),
        etag: etag.into(),
    }
}

fn update(profile: &Profile, etag: &str) -> LimitChange {
    LimitChange::UpdateProfile {
        profile: profile.clone(),
        etag: etag.into(),
    }
}

async fn ids(ledger: &dyn Ledger, owner: &str, after: &str, limit: i64) -> Vec<String> {
    let page = ledger.profiles(&tenant(owner), after, limit).await.unwrap();
    page.into_iter().map(|one| one.profile.profile_id).collect()
}

pub async fn a_new_ledger_has_the_shipped_profiles(ledger: &dyn Ledger) {
    let owner = tenant("a");
    let stored = ledger.profiles(&owner, "", 100).await.unwrap();
    assert!(stored.iter().all(|one| one.shipped && one.created_us > 0));
    assert!(
        stored
            .iter()
            .all(|one| one.updated_us == one.created_us && one.etag == "1")
    );
    let mut expected = shipped();
    expected.sort_by(|a, b| a.profile_id.cmp(&b.profile_id));
    let found: Vec<_> = stored.iter().map(|one| one.profile.clone()).collect();
    assert_eq!(found, expected);
    for one in stored {
        let id = one.profile.profile_id.clone();
        assert_eq!(ledger.profile(&owner, &id).await.unwrap(), Some(one));
    }
    assert_eq!(ledger.profile(&owner, "none").await.unwrap(), None);
    assert_eq!(ledger.limits_version().await.unwrap(), 1);
}

pub async fn profiles_are_created_changed_and_deleted(ledger: &dyn Ledger) {
    let a = tenant("a");
    let create = LimitChange::CreateProfile(profile("gold"));
    let created = left(change(ledger, "a", "1", create.clone()).await);
    let expected = StoredProfile {
        profile: profile("gold"),
        etag: created.etag.clone(),
        shipped: false,
        created_us: T0,
        updated_us: T0,
    };
    assert_eq!(created, expected);
    assert_eq!(
        ledger.profile(&a, "gold").await.unwrap(),
        Some(created.clone())
    );
    assert_eq!(
        change(ledger, "a", "2", create.clone()).await,
        LimitOutcome::Exists
    );
    // Another tenant has none, and may have one of the same id.
    assert_eq!(ledger.profile(&tenant("b"), "gold").await.unwrap(), None);
    let other = left(change(ledger, "b", "1", create).await);
    assert_ne!(other.etag, created.etag);

    let mut changed = profile("gold");
    changed.limits.clear();
    let stale = change(ledger, "a", "3", update(&changed, &other.etag)).await;
    assert_eq!(stale, LimitOutcome::EtagMismatch);
    let later = named("a", "4", T0 + 9);
    let outcome = ledger
        .change_limits(later, update(&changed, &created.etag))
        .await;
    let updated = left(outcome.unwrap());
    assert_ne!(updated.etag, created.etag);
    assert_eq!((updated.created_us, updated.updated_us), (T0, T0 + 9));
    assert_eq!(
        ledger.profile(&a, "gold").await.unwrap(),
        Some(updated.clone())
    );
    let elsewhere = ledger.profile(&tenant("b"), "gold").await.unwrap();
    assert_eq!(elsewhere, Some(other));
    let none = update(&profile("none"), "");
    assert_eq!(change(ledger, "a", "5", none).await, LimitOutcome::NotFound);

    let stale = change(ledger, "a", "6", delete("gold", &created.etag)).await;
    assert_eq!(stale, LimitOutcome::EtagMismatch);
    assert_eq!(
        change(ledger, "a", "7", delete("gold", &updated.etag)).await,
        DONE
    );
    assert_eq!(ledger.profile(&a, "gold").await.unwrap(), None);
    let gone = change(ledger, "a", "8", delete("gold", "")).await;
    assert_eq!(gone, LimitOutcome::NotFound);
    // Created again it is another one.
    let again = left(
        change(
            ledger,
            "a",
            "9",
            LimitChange::CreateProfile(profile("gold")),
        )
        .await,
    );
    assert!(again.etag != created.etag && again.etag != updated.etag);
}

pub async fn shipped_profiles_are_a_tenants_own_once_changed(ledger: &dyn Ledger) {
    let (a, b) = (tenant("a"), tenant("b"));
    let before = ledger.profile(&a, "free").await.unwrap().unwrap();
    let create = LimitChange::CreateProfile(profile("free"));
    assert_eq!(change(ledger, "a", "1", create).await, LimitOutcome::Exists);
    let mut free = before.profile.clone();
    free.limits[0].amount = 99;
    let changed = left(change(ledger, "a", "2", update(&free, &before.etag)).await);
    assert!(changed.shipped);
    assert_eq!(
        (changed.created_us, changed.updated_us),
        (before.created_us, T0)
    );
    assert_eq!(
        ledger.profile(&a, "free").await.unwrap(),
        Some(changed.clone())
    );
    assert_eq!(ledger.profile(&b, "free").await.unwrap(), Some(before));
    let all = ledger.profiles(&a, "", 100).await.unwrap();
    assert_eq!(all.len(), shipped().len());
    assert!(all.contains(&changed));
    let gone = change(ledger, "a", "3", delete("free", "")).await;
    assert_eq!(gone, LimitOutcome::InUse);

    // Lists go on after an id, own and shipped ones together.
    for id in ["alpha", "gold", "z"] {
        let create = LimitChange::CreateProfile(profile(id));
        left(change(ledger, "a", id, create).await);
    }
    let every = [
        "alpha",
        "enterprise",
        "free",
        "gold",
        "pro",
        "unlimited",
        "z",
    ];
    assert_eq!(ids(ledger, "a", "", 100).await, every);
    assert_eq!(ids(ledger, "a", "enterprise", 3).await, every[2..5]);
    assert_eq!(ids(ledger, "a", "z", 3).await, [""; 0]);
    assert_eq!(ids(ledger, "b", "", 2).await, ["enterprise", "free"]);
}

pub async fn a_profile_in_use_stays(ledger: &dyn Ledger) {
    for id in ["gold", "base"] {
        left(change(ledger, "a", id, LimitChange::CreateProfile(profile(id))).await);
    }
    change(ledger, "a", "1", assign(Scope::Team, "t", "gold")).await;
    let settings = |default: &str| LimitChange::UpdateTenant {
        settings: TenantSettings {
            default_profile_id: (!default.is_empty()).then(|| default.into()),
            ..TenantSettings::default()
        },
        etag: String::new(),
    };
    let none = change(ledger, "a", "2", settings("none")).await;
    assert_eq!(none, LimitOutcome::NotFound);
    assert_eq!(change(ledger, "a", "3", settings("base")).await, DONE);
    for (n, id) in ["gold", "base"].into_iter().enumerate() {
        let outcome = change(ledger, "a", &format!("in use {n}"), delete(id, "")).await;
        assert_eq!(outcome, LimitOutcome::InUse, "{id}");
    }
    change(ledger, "a", "4", unassign(Scope::Team, "t")).await;
    change(ledger, "a", "5", settings("")).await;
    for id in ["gold", "base"] {
        assert_eq!(
            change(ledger, "a", &format!("free {id}"), delete(id, "")).await,
            DONE
        );
    }
}

pub async fn subjects_have_what_was_set(ledger: &dyn Ledger) {
    let a = tenant("a");
    let given = |scope, subject: &str, profile_id: &str| Assignment {
        scope,
        subject: subject.into(),
        profile_id: profile_id.into(),
        assigned_us: T0,
        assigned_by: "admin".into(),
    };
    let to_ann = given(Scope::User, "ann", "pro");
    let first = LimitOutcome::Done {
        profile: None,
        previous_profile_id: None,
        assignment: Some(to_ann.clone()),
    };
    let done = change(ledger, "a", "1", assign(Scope::User, "ann", "pro")).await;
    assert_eq!(done, first);
    let none = change(ledger, "a", "2", assign(Scope::User, "ann", "none")).await;
    assert_eq!(none, LimitOutcome::NotFound);
    match change(ledger, "a", "3", assign(Scope::User, "ann", "free")).await {
        LimitOutcome::Done {
            previous_profile_id: Some(previous),
            ..
        } => assert_eq!(previous, "pro"),
        other => panic!("{other:?}"),
    }
    change(ledger, "a", "4", assign(Scope::Team, "ann", "enterprise")).await;
    change(ledger, "a", "5", assign(Scope::Tenant, "", "unlimited")).await;
    change(ledger, "b", "6", assign(Scope::User, "ann", "pro")).await;
    let own = vec![
        limit(Scope::User, Metric::Requests, Window::Day, 3),
        limit(Scope::User, Metric::OutputTokens, Window::Request, 0),
    ];
    let set = |scope, limits: &[Limit]| LimitChange::SetLimits {
        scope,
        subject: "ann".into(),
        limits: limits.to_vec(),
    };
    assert_eq!(change(ledger, "a", "7", set(Scope::User, &own)).await, DONE);
    assert_eq!(
        change(ledger, "a", "8", set(Scope::Session, &own[1..])).await,
        DONE
    );

    let asked = [
        (Scope::Session, "ann"),
        (Scope::Tenant, ""),
        (Scope::User, "ann"),
        (Scope::User, "bob"),
        (Scope::ApiKey, "ann"),
        (Scope::Team, "ann"),
    ];
    let has = |profile: &str, limits: &[Limit]| SubjectLimits {
        profile_id: (!profile.is_empty()).then(|| profile.into()),
        limits: limits.to_vec(),
    };
    let found = ledger.subject_limits(&a, &asked).await.unwrap();
    let expected = [
        has("", &own[1..]),
        has("unlimited", &[]),
        has("free", &own),
        has("", &[]),
        has("", &[]),
        has("enterprise", &[]),
    ];
    assert_eq!(found, expected);
    assert_eq!(ledger.subject_limits(&a, &[]).await.unwrap(), []);

    change(ledger, "a", "9", set(Scope::User, &[])).await;
    match change(ledger, "a", "10", unassign(Scope::User, "ann")).await {
        LimitOutcome::Done {
            previous_profile_id: Some(previous),
            ..
        } => assert_eq!(previous, "free"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        change(ledger, "a", "11", unassign(Scope::User, "ann")).await,
        DONE
    );
    let ann = [(Scope::User, "ann")];
    let found = ledger.subject_limits(&a, &ann).await.unwrap();
    assert_eq!(found, [has("", &[])]);
    let other = ledger.subject_limits(&tenant("b"), &ann).await.unwrap();
    assert_eq!(other, [has("pro", &[])]);
}

pub async fn assignments_page_in_order(ledger: &dyn Ledger) {
    let all = [
        (Scope::Team, "a", "free"),
        (Scope::Team, "b", "pro"),
        (Scope::Tenant, "", "pro"),
        (Scope::User, "B", "free"),
        (Scope::User, "a", "pro"),
    ];
    for (n, (scope, subject, profile)) in all.iter().rev().enumerate() {
        change(
            ledger,
            "a",
            &n.to_string(),
            assign(*scope, subject, profile),
        )
        .await;
    }
    change(ledger, "b", "other", assign(Scope::User, "x", "free")).await;
    let list = async |scope, profile: &str, after, limit| {
        let owner = tenant("a");
        let page = ledger
            .assignments(&owner, scope, profile, after, limit)
            .await;
        let key = |one: Assignment| (one.scope, one.subject, one.profile_id);
        page.unwrap().into_iter().map(key).collect::<Vec<_>>()
    };
    let expected = |which: &[usize]| {
        let one = |n: &usize| (all[*n].0, all[*n].1.to_owned(), all[*n].2.to_owned());
        which.iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(list(None, "", None, 9).await, expected(&[0, 1, 2, 3, 4]));
    assert_eq!(list(None, "", None, 2).await, expected(&[0, 1]));
    let after = Some((Scope::Team, "b"));
    assert_eq!(list(None, "", after, 2).await, expected(&[2, 3]));
    assert_eq!(
        list(Some(Scope::User), "", None, 9).await,
        expected(&[3, 4])
    );
    assert_eq!(list(None, "pro", after, 9).await, expected(&[2, 4]));
    assert_eq!(
        list(Some(Scope::Team), "pro", None, 9).await,
        expected(&[1])
    );
}

pub async fn settings_are_replaced_as_a_whole(ledger: &dyn Ledger) {
    let a = tenant("a");
    assert_eq!(
        ledger.tenant_settings(&a).await.unwrap(),
        StoredTenant::default()
    );
    let settings = TenantSettings {
        display_name: "Ä".into(),
        time_zone: Some("Asia/Kolkata".into()),
        zone_before: Some((None, T0 + 7)),
        default_profile_id: Some("pro".into()),
        default_max_output_tokens: Some(1),
        summarize_below_percent: Some(0),
    };
    let set = |settings: &TenantSettings, etag: &str| LimitChange::UpdateTenant {
        settings: settings.clone(),
        etag: etag.into(),
    };
    let stale = change(ledger, "a", "1", set(&settings, "1")).await;
    assert_eq!(stale, LimitOutcome::EtagMismatch);
    assert_eq!(change(ledger, "a", "2", set(&settings, "")).await, DONE);
    let stored = ledger.tenant_settings(&a).await.unwrap();
    assert_eq!((&stored.settings, stored.updated_us), (&settings, Some(T0)));
    assert!(!stored.etag.is_empty());

    let next = TenantSettings::default();
    assert_eq!(
        change(ledger, "a", "3", set(&next, &stored.etag)).await,
        DONE
    );
    let stale = change(ledger, "a", "4", set(&settings, &stored.etag)).await;
    assert_eq!(stale, LimitOutcome::EtagMismatch);
    let now = ledger.tenant_settings(&a).await.unwrap();
    assert_eq!(now.settings, next);
    assert_ne!(now.etag, stored.etag);
    let other = ledger.tenant_settings(&tenant("b")).await.unwrap();
    assert_eq!(other, StoredTenant::default());
}

pub async fn a_change_is_made_once(ledger: &dyn Ledger) {
    let create = LimitChange::CreateProfile(profile("gold"));
    let first = change(ledger, "a", "same", create.clone()).await;
    let version = ledger.limits_version().await.unwrap();
    // Whatever became of the profile since, a repeat gets the first answer and changes nothing.
    let mut changed = profile("gold");
    changed.display_name = "another".into();
    let now = left(change(ledger, "a", "2", update(&changed, "")).await);
    let later = named("a", "same", T0 + 5);
    let again = ledger.change_limits(later, create.clone()).await.unwrap();
    assert_eq!(again, first);
    let stands = ledger.profile(&tenant("a"), "gold").await.unwrap();
    assert_eq!(stands, Some(now));
    assert_eq!(ledger.limits_version().await.unwrap(), version + 1);
    // The same name for something else.
    let other = Request {
        fingerprint: Canonical::new().text("other").finish(),
        ..named("a", "same", T0)
    };
    let outcome = ledger.change_limits(other, delete("gold", "")).await;
    assert_eq!(outcome.unwrap(), LimitOutcome::RequestConflict);
    // In another tenant it is another request.
    left(change(ledger, "b", "same", create.clone()).await);

    // What was not made is not remembered, and raises nothing.
    let version = ledger.limits_version().await.unwrap();
    let early = assign(Scope::User, "u", "late");
    let refused = change(ledger, "a", "early", early.clone()).await;
    assert_eq!(refused, LimitOutcome::NotFound);
    assert_eq!(ledger.limits_version().await.unwrap(), version);
    left(
        change(
            ledger,
            "a",
            "3",
            LimitChange::CreateProfile(profile("late")),
        )
        .await,
    );
    let made = change(ledger, "a", "early", early).await;
    assert!(matches!(made, LimitOutcome::Done { .. }), "{made:?}");
    assert_eq!(ledger.limits_version().await.unwrap(), version + 2);
}

pub async fn racing_changes_have_versions_of_their_own(ledger: &dyn Ledger) {
    let create = |owner: &'static str, n: usize| async move {
        let name = format!("{n}");
        let one = LimitChange::CreateProfile(profile(&format!("p{}", n % 4)));
        change(ledger, owner, &name, one).await
    };
    let tasks = (0..8).flat_map(|n| [create("a", n), create("b", n)]);
    let outcomes = futures_util::future::join_all(tasks).await;
    let made: Vec<_> = outcomes
        .into_iter()
        .filter(|outcome| *outcome != LimitOutcome::Exists)
        .map(|outcome| left(outcome).etag)
        .collect();
    // Each of four profiles of two tenants was made by one of two who raced for it.
    assert_eq!(made.len(), 8);
    assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), 8);
    assert_eq!(ledger.limits_version().await.unwrap(), 1 + 8);
}

pub async fn profiles_are_bounded(ledger: &dyn Ledger, execute: impl AsyncFn(String)) {
    let first = left(change(ledger, "a", "1", LimitChange::CreateProfile(profile("p"))).await);
    let mut free = ledger
        .profile(&tenant("a"), "free")
        .await
        .unwrap()
        .unwrap()
        .profile;
    free.limits.clear();
    // A changed one of those that ship is not among them.
    left(change(ledger, "a", "2", update(&free, "")).await);
    let copies = format!(
        "WITH RECURSIVE numbers (n) AS \
         (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < {MAX_PROFILES}) \
         INSERT INTO profiles (tenant_id, profile_id, profile, version, created_at, updated_at) \
         SELECT tenant_id, 'p' || n, profile, version, created_at, updated_at \
         FROM profiles, numbers WHERE tenant_id = 'a' AND profile_id = 'p'"
    );
    execute(copies).await;
    let more = LimitChange::CreateProfile(profile("more"));
    let full = change(ledger, "a", "3", more.clone()).await;
    assert_eq!(full, LimitOutcome::Full);
    left(change(ledger, "a", "4", update(&profile("p"), &first.etag)).await);
    assert_eq!(change(ledger, "a", "5", delete("p9", "")).await, DONE);
    left(change(ledger, "a", "3", more.clone()).await);
    left(change(ledger, "b", "3", more).await);
}
