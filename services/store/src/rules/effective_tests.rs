//! Which rules come out for whom.

use tokenmeter_model::limit::{FailureMode, MAX_AMOUNT};

use super::*;

fn limit(scope: Scope, metric: Metric, amount: i64) -> Limit {
    Limit {
        name: String::new(),
        scope,
        metric,
        window: Window::Day,
        amount,
        enforcement: Enforcement::Block,
        hard: false,
        alert_percents: Vec::new(),
        provider: String::new(),
        model: String::new(),
    }
}

fn profile(profile_id: &str, limits: Vec<Limit>) -> Profile {
    Profile {
        profile_id: profile_id.into(),
        display_name: String::new(),
        limits,
        failure_mode: FailureMode::Open,
        session_budget_max_tokens: None,
        enforce_session_budget: false,
        max_hold_us: None,
    }
}

fn owner(user: &str, team: &str, session: &str) -> Owner {
    Owner {
        user_id: user.into(),
        team_id: team.into(),
        session_id: session.into(),
        api_key_id: String::new(),
    }
}

fn assigned(profile_id: &str) -> SubjectLimits {
    SubjectLimits {
        profile_id: Some(profile_id.into()),
        limits: Vec::new(),
    }
}

fn tenant(settings: TenantSettings) -> Arc<TenantRules> {
    Arc::new(TenantRules::new(settings, &Zone::utc()))
}

#[test]
fn a_users_profile_goes_before_the_teams_and_the_tenants_and_the_default() {
    let none = SubjectLimits::default();
    let mut own = vec![
        (Scope::Tenant, assigned("t")),
        (Scope::Team, assigned("m")),
        (Scope::User, assigned("u")),
    ];
    let settings = TenantSettings {
        default_profile_id: Some("d".into()),
        ..TenantSettings::default()
    };
    let (plain, decided) = (tenant(TenantSettings::default()), tenant(settings));
    assert_eq!(profile_id(&decided, &own), "u");
    own[2].1 = none.clone();
    assert_eq!(profile_id(&decided, &own), "m");
    own[1].1 = none.clone();
    assert_eq!(profile_id(&decided, &own), "t");
    own[0].1 = none;
    assert_eq!(profile_id(&decided, &own), "d");
    assert_eq!(profile_id(&plain, &own), "free");
}

#[test]
fn rules_stand_by_scope_and_own_limits_take_the_place_of_the_same_of_the_profile() {
    let of_profile = vec![
        limit(Scope::User, Metric::Requests, 1),
        limit(Scope::Tenant, Metric::Cost, 2),
        limit(Scope::User, Metric::TotalTokens, 3),
        limit(Scope::ApiKey, Metric::TotalTokens, 4),
    ];
    let own = SubjectLimits {
        profile_id: None,
        limits: vec![
            limit(Scope::User, Metric::InputTokens, 5),
            limit(Scope::User, Metric::Requests, 6),
        ],
    };
    let parts = Parts {
        tenant: tenant(TenantSettings::default()),
        profile: Some(Arc::new(KeptProfile::new(profile("p", of_profile)))),
        own: &[(Scope::User, own)],
        facts: None,
    };
    let effective = Effective::new(parts, &owner("ann", "", ""));
    let rules: Vec<_> = effective
        .rules()
        .iter()
        .map(|rule| {
            (
                rule.limit.amount,
                rule.subject.to_string(),
                rule.profile_id.to_string(),
            )
        })
        .collect();
    let of = |amount, subject: &str, profile: &str| (amount, subject.into(), profile.into());
    assert_eq!(
        rules,
        [
            of(2, "", "p"),
            of(6, "ann", ""),
            of(3, "ann", "p"),
            of(5, "ann", "")
        ]
    );
    assert_eq!(effective.rules()[0].limit.name, "tenant-cost-day");
}

#[test]
fn a_session_has_a_budget_that_refuses_only_where_that_was_decided() {
    let effective = |enforce, set| {
        let facts = SessionFacts::new(BudgetUse {
            budget: set,
            ..BudgetUse::default()
        });
        let profile = Profile {
            session_budget_max_tokens: Some(7),
            enforce_session_budget: enforce,
            ..profile("p", Vec::new())
        };
        let parts = Parts {
            tenant: tenant(TenantSettings::default()),
            profile: Some(Arc::new(KeptProfile::new(profile))),
            own: &[],
            facts: Some(Arc::new(facts)),
        };
        Effective::new(parts, &owner("ann", "", "s"))
    };
    let plain = effective(false, None);
    let rules: Vec<_> = plain
        .rules()
        .iter()
        .map(|rule| (rule.limit.metric, rule.limit.amount, rule.limit.enforcement))
        .collect();
    let informs = Enforcement::Shadow;
    assert_eq!(
        rules,
        [
            (Metric::TotalTokens, 7, informs),
            (Metric::InputTokens, MAX_AMOUNT, informs)
        ]
    );
    let enforced = effective(true, None);
    assert_eq!(enforced.rules()[0].limit.enforcement, Enforcement::Block);
    let set = Budget {
        budget_max: Some(9),
        enforced: Some(false),
        base_prompt: 1,
        base_completion: 2,
        base_tools: 4,
        ..Budget::default()
    };
    let set = effective(true, Some(set));
    let rule = &set.rules()[0];
    assert_eq!((rule.limit.amount, rule.limit.enforcement), (9, informs));
    assert_eq!(rule.base.of(Metric::TotalTokens), 7);
}

#[test]
fn rules_for_some_models_cover_calls_of_those_only() {
    let some = Limit {
        model: "m".into(),
        ..limit(Scope::User, Metric::Cost, 1)
    };
    let all = limit(Scope::User, Metric::Requests, 2);
    let parts = Parts {
        tenant: tenant(TenantSettings::default()),
        profile: Some(Arc::new(KeptProfile::new(profile("p", vec![some, all])))),
        own: &[],
        facts: None,
    };
    let effective = Effective::new(parts, &owner("ann", "", ""));
    let amounts = |models: &[&str]| {
        let covering = effective.covering("x", models.iter().copied());
        covering
            .iter()
            .map(|rule| rule.limit.amount)
            .collect::<Vec<_>>()
    };
    assert_eq!(amounts(&["n"]), [2]);
    assert_eq!(amounts(&["n", "m"]), [1, 2]);
}

#[test]
fn a_zone_that_changes_next_month_is_in_the_calendar() {
    let settings = TenantSettings {
        time_zone: Some("Asia/Kolkata".into()),
        zone_before: Some((None, 5)),
        ..TenantSettings::default()
    };
    let zoned = &tenant(settings).zoned;
    assert_eq!(*zoned.at(4), Zone::utc());
    assert_eq!(*zoned.at(5), Zone::named("Asia/Kolkata").unwrap());
}
