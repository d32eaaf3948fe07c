//! Admission and settlement on a real ledger, with counters in memory.

#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod support;

use std::collections::BTreeMap;

use tokenmeter_metering::admission::{Authorization, Authorize, BudgetChange, Call, Cause, Extend};
use tokenmeter_metering::{Error, Recorded};
use tokenmeter_model::counts::{Line, TokenCounts};
use tokenmeter_model::event::{Draft, Event, Usage};
use tokenmeter_model::limit::{
    Enforcement, Estimate, Limit, Metric, OvershootCause, Scope, Window,
};
use tokenmeter_store::counters::{Found, HoldState};
use tokenmeter_store::ledger::limits::HitQuery;

use support::{NOON_US, SECOND_US, Service, limit, service};

const MODEL: &str = "claude-sonnet-4-5";

fn ask(request_id: &str, input: i64, output: i64) -> Authorize {
    Authorize {
        request_id: request_id.into(),
        call: Call {
            session_id: "s".into(),
            provider: "anthropic".into(),
            model: MODEL.into(),
            ..Call::default()
        },
        estimate: Estimate {
            input_tokens: input,
            max_output_tokens: Some(output),
            ..Estimate::default()
        },
        ..Authorize::default()
    }
}

fn event(event_id: &str, reservation_id: &str, input: i64, output: i64) -> Draft {
    let line = Line {
        model: MODEL.into(),
        counts: TokenCounts {
            input,
            output,
            ..TokenCounts::default()
        },
        tool_requests: BTreeMap::new(),
    };
    Draft {
        event: Event {
            event_id: event_id.into(),
            session_id: "s".into(),
            provider: "anthropic".into(),
            reservation_id: reservation_id.into(),
            ..Event::default()
        },
        usage: Some(Usage::Lines(vec![line])),
    }
}

impl Service {
    async fn ask(&self, asked: Authorize) -> Authorization {
        self.admission.authorize(&self.caller, asked).await.unwrap()
    }

    async fn record(&self, draft: Draft) -> Recorded {
        let recorded = self.metering.record(&self.caller, Ok(draft), true);
        recorded.await.unwrap()
    }

    /// What is used and held of the user's only limit.
    async fn stands(&self) -> (i64, i64) {
        let probe = Authorize {
            dry_run: true,
            ..ask("probe", 0, 0)
        };
        stands(&self.ask(probe).await)
    }
}

fn stands(decided: &Authorization) -> (i64, i64) {
    let limits: Vec<_> = decided.states.limits().collect();
    assert_eq!(limits.len(), 1, "{limits:?}");
    (limits[0].1.used, limits[0].1.held)
}

fn reservation(decided: &Authorization) -> String {
    assert_eq!(decided.refusal, None);
    decided.hold.as_ref().unwrap().reservation_id.clone()
}

#[tokio::test]
async fn the_shipped_tier_admits_ten_calls_a_minute_and_says_when_to_come_back() {
    let service = service().await;
    for n in 0..10 {
        let decided = service.ask(ask(&format!("r{n}"), 10, 5)).await;
        assert_eq!(decided.refusal, None, "{n}");
        assert!(decided.price_found);
        service.pass(SECOND_US);
    }
    let decided = service.ask(ask("r10", 10, 5)).await;
    let refusal = decided.refusal.unwrap();
    assert_eq!((refusal.cause, refusal.asked), (Cause::Rate, 1));
    assert_eq!(refusal.rule.limit.name, "requests-per-minute");
    // The first call was 10 s ago, and its second counts until all of it is out.
    assert_eq!(refusal.retry_after_us, Some(51 * SECOND_US));
    assert_eq!(
        refusal.message,
        "limit requests-per-minute of user ann: 0 of 10 requests used, 10 held; retry in 51 s"
    );
    service.pass(51 * SECOND_US);
    assert_eq!(service.ask(ask("r10", 10, 5)).await.refusal, None);
}

#[tokio::test]
async fn a_hold_is_settled_by_its_event_once_and_told_again() {
    let service = service().await;
    let tokens = limit(Metric::TotalTokens, Window::Day, 1_000);
    service.limits_of("ann", vec![tokens]).await;
    let admitted = service.ask(ask("r", 100, 400)).await;
    assert_eq!(stands(&admitted), (0, 500));
    let id = reservation(&admitted);
    let again = service.ask(ask("r", 100, 400)).await;
    assert!(again.replayed);
    assert_eq!(reservation(&again), id);
    service.pass(5 * SECOND_US);
    let first = service.record(event("e", &id, 90, 60)).await;
    assert_eq!(first.charge_time_us, NOON_US);
    let settled = first.settled.clone().unwrap();
    assert!(matches!(&settled.found, Found::Settled(hold) if hold.event_id == "e"));
    assert_eq!(settled.overshoots, []);
    assert_eq!(service.stands().await, (150, 0));
    let repeated = service.record(event("e", &id, 90, 60)).await;
    assert!(repeated.duplicate);
    assert_eq!(
        (&repeated.settled, repeated.states),
        (&first.settled, first.states)
    );
    let other = service
        .metering
        .record(&service.caller, Ok(event("f", &id, 1, 1)), false);
    assert!(matches!(other.await, Err(Error::ReservationSettled(event)) if event == "e"));
    assert_eq!(service.stands().await, (150, 0));
    // Everything is in the log, too, and counts no second time.
    service.admission.sweep().await.unwrap();
    assert_eq!(service.stands().await, (150, 0));
    let voided = service
        .metering
        .void(&service.caller, "v".into(), "e".into(), "wrong".into());
    let states = voided.await.unwrap().states;
    assert_eq!(states.standings[0].used, 0);
    assert_eq!(service.stands().await, (0, 0));
}

#[tokio::test]
async fn a_hold_is_enlarged_made_smaller_and_given_back() {
    let service = service().await;
    let tokens = limit(Metric::TotalTokens, Window::Day, 1_000);
    service.limits_of("ann", vec![tokens]).await;
    let id = reservation(&service.ask(ask("r", 100, 400)).await);
    let extend = |request_id: &str, output| Extend {
        request_id: request_id.into(),
        reservation_id: id.clone(),
        total: Some(Estimate {
            input_tokens: 100,
            max_output_tokens: Some(output),
            ..Estimate::default()
        }),
        hold_us: None,
    };
    let extended = service
        .admission
        .extend(&service.caller, extend("x1", 900))
        .await
        .unwrap();
    assert_eq!(
        (extended.refusal, extended.hold.amounts.output),
        (None, 900)
    );
    let refused = service
        .admission
        .extend(&service.caller, extend("x2", 901))
        .await
        .unwrap();
    let refusal = refused.refusal.unwrap();
    assert_eq!((refusal.cause, refusal.asked), (Cause::Tokens, 1));
    assert_eq!(
        refusal.message,
        "limit user-total-tokens-day of user ann: 0 of 1000 tokens used, 1000 held, 1 asked; retry \
         in 43200 s"
    );
    assert_eq!(service.stands().await, (0, 1_000));
    let (hold, states) = service
        .admission
        .release(&service.caller, "l", &id)
        .await
        .unwrap();
    assert_eq!(
        (hold.state, states.standings[0].held),
        (HoldState::Released, 0)
    );
    let again = service
        .admission
        .release(&service.caller, "l", &id)
        .await
        .unwrap();
    assert_eq!(again.0.state, HoldState::Released);
    let late = service
        .admission
        .extend(&service.caller, extend("x3", 1))
        .await;
    assert!(
        matches!(late, Err(Error::ReservationReleased(_))),
        "{late:?}"
    );
    let unknown = service
        .admission
        .release(&service.caller, "l", "none")
        .await;
    assert!(
        matches!(unknown, Err(Error::NoReservation(_))),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn usage_after_expiry_counts_and_says_so() {
    let service = service().await;
    let tokens = limit(Metric::OutputTokens, Window::Day, 1_000);
    service.limits_of("ann", vec![tokens]).await;
    let asked = Authorize {
        hold_us: Some(SECOND_US),
        ..ask("r", 0, 900)
    };
    let id = reservation(&service.ask(asked).await);
    service.pass(2 * SECOND_US);
    let other = reservation(&service.ask(ask("s", 0, 950)).await);
    let late = service.record(event("e", &id, 0, 800)).await;
    let settled = late.settled.unwrap();
    assert!(matches!(&settled.found, Found::Ended(hold) if hold.state == HoldState::Expired));
    assert_eq!(settled.overshoots, []);
    // It took the room of the other, which kept to its own.
    let kept = service.record(event("f", &other, 0, 950)).await;
    let overshoots = kept.settled.unwrap().overshoots;
    assert_eq!(
        (overshoots[0].amount, overshoots[0].cause),
        (750, OvershootCause::WithoutHold)
    );
    let above = service.record(event("g", "", 0, 5)).await;
    assert_eq!(above.settled, None);
    let ids = ["f", "g"];
    service.admission.close().await;
    let kept = service
        .ledger
        .overshoots(&service.caller.tenant, &ids)
        .await
        .unwrap();
    let kept: Vec<_> = kept
        .iter()
        .map(|one| (one.event_id.as_str(), one.amount))
        .collect();
    assert_eq!(kept, [("f", 750), ("g", 5)]);
}

#[tokio::test]
async fn shadow_and_overage_limits_are_told_and_never_refuse() {
    let service = service().await;
    let shadow = Limit {
        enforcement: Enforcement::Shadow,
        ..limit(Metric::TotalTokens, Window::Day, 10)
    };
    let overage = Limit {
        enforcement: Enforcement::RecordOverage,
        ..limit(Metric::OutputTokens, Window::Day, 10)
    };
    service.limits_of("ann", vec![shadow, overage]).await;
    let decided = service.ask(ask("r", 0, 20)).await;
    let id = reservation(&decided);
    let shadows: Vec<_> = decided
        .shadow_refusals
        .iter()
        .map(|one| one.cause)
        .collect();
    assert_eq!(shadows, [Cause::Tokens]);
    let recorded = service.record(event("e", &id, 0, 20)).await;
    let overshoots = recorded.settled.unwrap().overshoots;
    assert_eq!(overshoots.len(), 1);
    assert_eq!(
        (overshoots[0].amount, overshoots[0].cause),
        (10, OvershootCause::OverageAllowed)
    );
    service.ask(ask("s", 0, 20)).await;
    service.admission.close().await;
    let query = HitQuery {
        limit: 10,
        ..HitQuery::default()
    };
    let hits = service
        .ledger
        .hits(&service.caller.tenant, &query)
        .await
        .unwrap();
    let mut hits: Vec<_> = hits
        .iter()
        .map(|(_, hit)| (hit.enforcement, hit.count))
        .collect();
    hits.sort_unstable();
    assert_eq!(
        hits,
        [(Enforcement::RecordOverage, 2), (Enforcement::Shadow, 2)]
    );
}

#[tokio::test]
async fn a_model_without_a_price_is_refused_by_hard_limits_of_cost_only() {
    let service = service().await;
    let hard = Limit {
        hard: true,
        ..limit(Metric::Cost, Window::Day, 1_000_000_000)
    };
    let soft = limit(Metric::Cost, Window::Month, 1_000_000_000);
    service.limits_of("ann", vec![soft.clone(), hard]).await;
    let unpriced = |request_id: &str, cost_nano_usd| {
        let mut asked = ask(request_id, 10, 10);
        asked.call.model = "nobody-knows".into();
        asked.estimate.cost_nano_usd = cost_nano_usd;
        asked
    };
    let refusal = service.ask(unpriced("r", None)).await;
    assert!(!refusal.price_found);
    let exceeded: Vec<_> = refusal
        .states
        .limits()
        .map(|(_, one)| one.exceeded)
        .collect();
    assert_eq!(exceeded, [false, true]);
    let refusal = refusal.refusal.unwrap();
    assert_eq!(
        (refusal.cause, refusal.retry_after_us),
        (Cause::Unpriced, None)
    );
    assert!(refusal.rule.limit.hard);
    assert_eq!(service.ask(unpriced("r", Some(5))).await.refusal, None);
    let priced = service.ask(ask("p", 1_000, 1_000)).await;
    // 1,000 × $3 + 1,000 × $15 per million tokens.
    assert_eq!(priced.hold.unwrap().amounts.cost_nano_usd, 18_000_000);
    service
        .change(
            "soft only",
            tokenmeter_store::ledger::limits::LimitChange::SetLimits {
                scope: Scope::User,
                subject: "ann".into(),
                limits: vec![soft],
            },
        )
        .await;
    assert_eq!(service.ask(unpriced("s", None)).await.refusal, None);
}

#[tokio::test]
async fn a_session_has_a_budget_that_can_be_set_enforced_and_set_back() {
    let service = service().await;
    service.limits_of("ann", Vec::new()).await;
    let fresh = service
        .admission
        .budget(&service.caller, "s")
        .await
        .unwrap();
    assert_eq!(
        (fresh.max, fresh.total(), fresh.updated_us),
        (100_000, 0, 0)
    );
    service.record(event("e", "", 300, 200)).await;
    let set = BudgetChange::Set {
        budget_max: Some(1_000),
        enforced: Some(true),
        summarize_below_percent: Some(50),
    };
    let change = service
        .admission
        .change_budget(&service.caller, "b", "s", set.clone());
    let budget = change.await.unwrap();
    assert_eq!(
        (budget.prompt, budget.completion, budget.remaining()),
        (300, 200, 500)
    );
    assert!(!budget.should_summarize());
    let decided = service.ask(ask("r", 100, 400)).await;
    let held = decided.session_budget.clone().unwrap();
    assert_eq!(
        (held.held, held.remaining(), held.should_summarize()),
        (500, 0, true)
    );
    assert_eq!((held.prompt, held.completion, held.tools), (300, 200, 0));
    assert_eq!(decided.states.limits().count(), 0);
    let refusal = service.ask(ask("s", 1, 0)).await.refusal.unwrap();
    assert_eq!(refusal.cause, Cause::SessionBudget);
    assert_eq!(
        refusal.message,
        "token budget of session s: 500 of 1000 tokens used, 500 held, 1 asked; set a larger budget \
         or reset it"
    );
    let reset = BudgetChange::Reset {
        restore_default: false,
    };
    let change = service
        .admission
        .change_budget(&service.caller, "c", "s", reset);
    let budget = change.await.unwrap();
    assert_eq!((budget.total(), budget.held, budget.max), (0, 500, 1_000));
    assert_eq!(service.ask(ask("s", 1, 0)).await.refusal, None);
    let again = service
        .admission
        .change_budget(&service.caller, "b", "s", set);
    assert_eq!(again.await.unwrap().total(), 0);
}

#[tokio::test]
async fn holds_outlive_the_process_and_counters_come_from_the_ledger() {
    let service = service().await;
    let tokens = limit(Metric::TotalTokens, Window::Day, 1_000);
    service.limits_of("ann", vec![tokens]).await;
    let id = reservation(&service.ask(ask("r", 100, 400)).await);
    service.record(event("e", "", 10, 20)).await;
    let service = service.restart().await;
    assert_eq!(service.stands().await, (30, 500));
    let settled = service.record(event("f", &id, 1, 1)).await.settled.unwrap();
    assert!(matches!(settled.found, Found::Settled(_)));
    assert_eq!(service.stands().await, (32, 0));
}

#[tokio::test]
async fn a_reservation_is_for_the_user_and_session_that_asked() {
    let service = service().await;
    let id = reservation(&service.ask(ask("r", 1, 1)).await);
    for (field, change) in [("user_id", "bob"), ("session_id", "other")] {
        let mut draft = event("e", &id, 1, 1);
        match field {
            "user_id" => draft.event.user_id = change.into(),
            _ => draft.event.session_id = change.into(),
        }
        let result = service
            .metering
            .record(&service.caller, Ok(draft), false)
            .await;
        assert!(matches!(result, Err(Error::ReservationMismatch(one)) if one == field));
    }
}

#[tokio::test]
async fn bounds_are_named() {
    let service = service().await;
    let mut asked = ask("", -1, 1_000_000_001);
    asked.call.model = String::new();
    asked.call.thinking = Some(tokenmeter_model::event::Thinking {
        enabled: true,
        budget_tokens: Some(1_023),
    });
    asked.hold_us = Some(SECOND_US - 1);
    match service.admission.authorize(&service.caller, asked).await {
        Err(Error::Invalid(violations)) => {
            let fields: Vec<_> = violations.iter().map(|one| one.field.as_str()).collect();
            assert_eq!(
                fields,
                [
                    "request_id",
                    "call.model",
                    "call.thinking.budget_tokens",
                    "estimate.input_tokens",
                    "estimate.max_output_tokens",
                    "hold_duration",
                ]
            );
        }
        other => panic!("{other:?}"),
    }
    let mut asked = ask("r", 1, 1);
    asked.call.provider = "nobody".into();
    let unknown = service.admission.authorize(&service.caller, asked).await;
    assert!(matches!(
        unknown,
        Err(Error::UnknownProvider("call.provider", _))
    ));
}
