use tokenmeter_model::limit::{MAX_AMOUNT, shipped};

use super::*;

fn limit_of(scope: Scope, metric: Metric, window: Window) -> Limit {
    Limit {
        name: "n".into(),
        scope,
        metric,
        window,
        amount: 7,
        enforcement: Enforcement::Shadow,
        hard: true,
        alert_percents: vec![50, 90],
        provider: "anthropic".into(),
        model: "claude".into(),
    }
}

#[test]
fn every_limit_survives_a_round_trip() {
    for scope in Scope::ALL {
        for metric in Metric::ALL {
            for window in Window::ALL {
                let sent = limit_of(*scope, *metric, *window);
                let mut out = Vec::new();
                let read = limits("limits", vec![(&sent).into()], &mut out);
                // A session's budget is no limit of the contract.
                let life = if *window == Window::Budget {
                    Window::Session
                } else {
                    *window
                };
                assert_eq!(read, [limit_of(*scope, *metric, life)]);
                assert!(out.is_empty());
            }
        }
    }
    for (n, one) in Enforcement::ALL.iter().enumerate() {
        let wire: i32 = v1::Enforcement::from(*one).into();
        assert_eq!(usize::try_from(wire).unwrap(), n + 1);
        assert_eq!(enforcement("enforcement", wire), Ok(*one));
    }
    for (n, one) in OvershootCause::ALL.iter().enumerate() {
        let wire: i32 = v1::OvershootCause::from(*one).into();
        assert_eq!(usize::try_from(wire).unwrap(), n + 1);
    }
}

#[test]
fn what_is_not_said_has_its_default_and_a_provider_its_name() {
    let wire = v1::Limit {
        scope: v1::LimitScope::User.into(),
        metric: v1::LimitMetric::Requests.into(),
        window: v1::LimitWindow::Minute.into(),
        provider: "Bedrock".into(),
        ..Default::default()
    };
    let mut out = Vec::new();
    let read = limits("limits", vec![wire], &mut out).remove(0);
    assert_eq!(read.enforcement, Enforcement::Block);
    assert_eq!(read.provider, "aws.bedrock");
    assert_eq!(v1::Limit::from(&read).name, "user-requests-minute");
    assert_eq!(spelled("acme".into()), "acme");
    assert_eq!(failure_mode("failure_mode", 0), Ok(FailureMode::Open));
    assert_eq!(scope_filter("scope", 0), Ok(None));
    assert_eq!(scope_filter("scope", 2), Ok(Some(Scope::Team)));
    assert!(out.is_empty());
}

#[test]
fn what_cannot_be_read_is_named_with_its_path() {
    let wire = v1::Limit {
        scope: 9,
        enforcement: 9,
        ..Default::default()
    };
    let mut out = Vec::new();
    assert!(limits("limits", vec![wire], &mut out).is_empty());
    let found: Vec<_> = out.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "limits[0].scope: is not known; send one of LimitScope",
            "limits[0].metric: is required; send one of LimitMetric",
            "limits[0].window: is required; send one of LimitWindow",
            "limits[0].enforcement: is not known; send one of Enforcement",
        ]
    );
    assert!(out.iter().all(|violation| violation.kind == Kind::Limit));
    let reason = crate::status::reason_of_violations(&out);
    assert_eq!(reason, v1::ErrorReason::LimitInvalid);
    assert!(scope_filter("scope", 6).is_err());
}

/// However many limits a request has, no more is read than is needed to refuse it.
#[test]
fn a_list_of_limits_is_bounded() {
    let mut out = Vec::new();
    let read = limits("limits", vec![v1::Limit::default(); 100_000], &mut out);
    assert!(read.is_empty());
    assert_eq!(out.len(), 3 * (MAX_LIMITS + 1));
}

#[test]
fn every_shipped_profile_survives_a_round_trip() {
    for mut sent in shipped() {
        sent.max_hold_us = Some(1_500_000);
        sent.session_budget_max_tokens = Some(0);
        sent.failure_mode = FailureMode::Closed;
        let wire = from_profile(&sent, "e".into(), true, 1, 2);
        assert_eq!((wire.etag.as_str(), wire.shipped), ("e", true));
        assert_eq!(wire.created_time, Some(time::from_micros(1)));
        assert_eq!(wire.updated_time, Some(time::from_micros(2)));
        assert_eq!(profile("profile", Some(wire)), Ok(sent));
    }
}

#[test]
fn a_profile_that_cannot_be_read_says_everything_that_is_wrong() {
    let wire = v1::Profile {
        limits: vec![v1::Limit {
            metric: v1::LimitMetric::Cost.into(),
            window: v1::LimitWindow::Month.into(),
            ..Default::default()
        }],
        failure_mode: 9,
        max_hold: Some(prost_types::Duration {
            seconds: 1,
            nanos: -1,
        }),
        ..Default::default()
    };
    let fields = |wire| -> Vec<_> {
        let violations = profile("profile", wire).unwrap_err();
        violations.into_iter().map(|v| v.field).collect()
    };
    assert_eq!(
        fields(Some(wire)),
        [
            "profile.limits[0].scope",
            "profile.failure_mode",
            "profile.max_hold"
        ]
    );
    assert_eq!(fields(None), ["profile"]);
}

#[test]
fn subjects_have_an_id_unless_they_are_the_tenant() {
    let ask = |scope: v1::LimitScope, id: &str| {
        let wire = v1::Subject {
            scope: scope.into(),
            id: id.into(),
        };
        subject("subject", Some(wire)).map_err(|out| out[0].field.clone())
    };
    let id = |field: &str| Err(field.to_owned());
    assert_eq!(
        ask(v1::LimitScope::Tenant, ""),
        Ok((Scope::Tenant, String::new()))
    );
    assert_eq!(ask(v1::LimitScope::Tenant, "t"), id("subject.id"));
    assert_eq!(
        ask(v1::LimitScope::Team, "red"),
        Ok((Scope::Team, "red".into()))
    );
    assert_eq!(ask(v1::LimitScope::User, ""), id("subject.id"));
    assert_eq!(
        ask(v1::LimitScope::User, &"x".repeat(256)),
        id("subject.id")
    );
    assert_eq!(ask(v1::LimitScope::Unspecified, "x"), id("subject.scope"));
    assert_eq!(subject("subject", None).unwrap_err()[0].field, "subject");
    let wire = from_subject(Scope::ApiKey, "k".into());
    assert_eq!(
        subject("subject", Some(wire)),
        Ok((Scope::ApiKey, "k".into()))
    );
}

#[test]
fn estimates_are_read_with_their_cost() {
    let wire = v1::Estimate {
        input_tokens: 1,
        cache_read_tokens: 2,
        max_output_tokens: Some(3),
        cost: Some(money::from_nano_usd(4)),
    };
    let read = Estimate {
        input_tokens: 1,
        cache_read_tokens: 2,
        max_output_tokens: Some(3),
        cost_nano_usd: Some(4),
    };
    assert_eq!(estimate("estimate", &wire), Ok(read));
    let mut euro = wire;
    if let Some(cost) = &mut euro.cost {
        cost.currency_code = "EUR".into();
    }
    let field = estimate("estimate", &euro).unwrap_err().field;
    assert_eq!(field, "estimate.cost.currency_code");
}

#[test]
fn a_state_never_remains_below_zero_and_tells_the_overage() {
    let limit = limit_of(Scope::User, Metric::TotalTokens, Window::Month);
    let state = |amount, used, held| -> (i64, i64) {
        let limit = Limit {
            amount,
            ..limit.clone()
        };
        let state = v1::LimitState::from(State {
            limit: &limit,
            subject: "ann",
            profile_id: "free",
            used,
            held,
            reset_us: None,
            exceeded: false,
            degraded: false,
        });
        (state.remaining, state.overage)
    };
    assert_eq!(state(7, 2, 3), (2, 0));
    assert_eq!(state(7, 5, 3), (0, 0));
    assert_eq!(state(7, 9, 3), (0, 2));
    assert_eq!(state(MAX_AMOUNT, i64::MAX, i64::MAX).0, 0);
}

#[test]
fn a_refusal_tells_its_kind() {
    use v1::RefusalCause as Cause;
    for (metric, window, cause) in [
        (Metric::Requests, Window::Minute, Cause::Rate),
        (Metric::InputTokens, Window::Day, Cause::Tokens),
        (Metric::UncachedInputTokens, Window::Day, Cause::Tokens),
        (Metric::OutputTokens, Window::Day, Cause::Tokens),
        (Metric::TotalTokens, Window::Session, Cause::Tokens),
        (Metric::Cost, Window::Month, Cause::Cost),
        (Metric::Cost, Window::Request, Cause::RequestTooLarge),
        (Metric::TotalTokens, Window::Budget, Cause::SessionBudget),
    ] {
        assert_eq!(
            refusal_cause(&limit_of(Scope::Session, metric, window)),
            cause
        );
    }
    let wait = |wait_us| refusal(Cause::Rate, String::new(), None, 1, wait_us).retry_after;
    assert_eq!(wait(None), None);
    assert_eq!(
        wait(Some(1_500_000)),
        Some(time::duration_from_micros(1_500_000))
    );
    assert_eq!(wait(Some(-1)), Some(time::duration_from_micros(0)));
}

#[test]
fn a_hold_has_a_cost_if_it_has_a_price_or_was_given_one() {
    let hold = |price_version, cost_nano_usd| {
        v1::Hold::from(Held {
            reservation_id: "r",
            state: v1::HoldState::Active,
            amounts: Amounts {
                input: 1,
                output: 2,
                cost_nano_usd,
                ..Amounts::ZERO
            },
            price_version,
            admit_us: 3,
            expire_us: 4,
        })
    };
    assert_eq!(hold(None, 0).cost, None);
    assert_eq!(hold(None, 5).cost, Some(money::from_nano_usd(5)));
    let priced = hold(Some(1), 0);
    assert_eq!(priced.cost, Some(money::from_nano_usd(0)));
    assert_eq!((priced.input_tokens, priced.output_tokens), (1, 2));
}
