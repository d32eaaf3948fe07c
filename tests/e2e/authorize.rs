//! Asking before a call and settling after it, through the contract.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokenmeter_api::v1::{self, ErrorReason as R, HoldState, LimitMetric, LimitScope, LimitWindow};
use tokenmeter_tests::{Start, backend, planted};
use tonic::{Response, Status};

use crate::support::{Clients, line, lines, nano_usd, refusal};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server whose holds have a journal, whatever its ledger is.
fn start(folder: &std::path::Path) -> Start {
    let journal: PathBuf = folder.join("holds");
    match backend() {
        // Beside its file by itself.
        tokenmeter_tests::Backend::Sqlite => Start::new(folder),
        _ => Start::new(folder).argument(format!("--counters=memory:{}", journal.display())),
    }
}

fn ask(request_id: &str, input_tokens: i64, output_tokens: i64) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        request_id: request_id.into(),
        call: Some(v1::CallInfo {
            user_id: "ada".into(),
            session_id: "s-1".into(),
            provider: "anthropic".into(),
            model: "claude-sonnet-4-5".into(),
            ..Default::default()
        }),
        estimate: Some(v1::Estimate {
            input_tokens,
            max_output_tokens: Some(output_tokens),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn usage(event_id: &str, reservation_id: Option<&str>, input: i64, output: i64) -> v1::UsageEvent {
    let counts = v1::TokenCounts {
        input,
        output,
        ..Default::default()
    };
    v1::UsageEvent {
        event_id: event_id.into(),
        user_id: "ada".into(),
        session_id: "s-1".into(),
        provider: "anthropic".into(),
        reservation_id: reservation_id.map(Into::into),
        usage: Some(lines(vec![line(counts)])),
        ..Default::default()
    }
}

fn tokens_a_day(amount: i64, enforcement: v1::Enforcement) -> v1::Limit {
    v1::Limit {
        name: "tokens-a-day".into(),
        scope: LimitScope::User.into(),
        metric: LimitMetric::TotalTokens.into(),
        window: LimitWindow::Day.into(),
        amount,
        enforcement: enforcement.into(),
        ..Default::default()
    }
}

impl Clients {
    async fn ask(&mut self, ask: v1::AuthorizeRequest) -> v1::AuthorizeResponse {
        self.ask_whole(ask).await.unwrap().into_inner()
    }

    async fn ask_whole(
        &mut self,
        ask: v1::AuthorizeRequest,
    ) -> Result<Response<v1::AuthorizeResponse>, Status> {
        self.metering.authorize(ask).await
    }

    /// Asks and is admitted; the reservation.
    async fn reserve(&mut self, ask: v1::AuthorizeRequest) -> String {
        let answer = self.ask(ask).await;
        assert_eq!(answer.decision(), v1::Decision::Allowed, "{answer:?}");
        answer.hold.unwrap().reservation_id
    }

    async fn release(&mut self, reservation_id: &str) -> Result<v1::Hold, Status> {
        let request = v1::ReleaseReservationRequest {
            request_id: "give-back".into(),
            reservation_id: reservation_id.into(),
        };
        let answer = self.metering.release_reservation(request).await?;
        Ok(answer.into_inner().hold.unwrap())
    }

    async fn extend(
        &mut self,
        request_id: &str,
        reservation_id: &str,
        output_tokens: i64,
    ) -> Result<v1::ExtendReservationResponse, Status> {
        let request = v1::ExtendReservationRequest {
            request_id: request_id.into(),
            reservation_id: reservation_id.into(),
            total: Some(v1::Estimate {
                max_output_tokens: Some(output_tokens),
                ..Default::default()
            }),
            hold_duration: None,
        };
        let answer = self.metering.extend_reservation(request).await?;
        Ok(answer.into_inner())
    }

    /// What is used and held of ada's limit of tokens a day, by a question that holds nothing.
    async fn stands(&mut self) -> (i64, i64) {
        let dry = v1::AuthorizeRequest {
            dry_run: true,
            ..ask("dry", 0, 0)
        };
        let answer = self.ask(dry).await;
        assert_eq!(answer.hold, None);
        let limit = answer.limits.iter().find(|one| one.name == "tokens-a-day");
        limit.map(|limit| (limit.used, limit.held)).unwrap()
    }

    /// Gives ada this limit and no other, and waits until it applies.
    async fn limit_ada(&mut self, request_id: &str, limit: v1::Limit) {
        let subject = Some(v1::Subject {
            scope: LimitScope::User.into(),
            id: "ada".into(),
        });
        let assign = v1::AssignProfileRequest {
            request_id: format!("assign {request_id}"),
            subject: subject.clone(),
            profile_id: "unlimited".into(),
        };
        self.admin.assign_profile(assign).await.unwrap();
        let set = v1::SetLimitsRequest {
            request_id: request_id.into(),
            subject,
            limits: vec![limit.clone()],
        };
        self.admin.set_limits(set).await.unwrap();
        let asked = Instant::now();
        loop {
            let dry = v1::AuthorizeRequest {
                dry_run: true,
                ..ask("dry", 0, 0)
            };
            let states = self.ask(dry).await.limits;
            let applies = |state: &v1::LimitState| {
                (state.limit, state.enforcement) == (limit.amount, limit.enforcement)
            };
            if states.len() == 1 && states.iter().all(applies) {
                break;
            }
            // Changes of limits are effective within a second.
            assert!(asked.elapsed() < Duration::from_secs(1), "{states:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A number in the metadata of an answer.
fn number(answer: &Response<v1::AuthorizeResponse>, name: &str) -> i64 {
    let value = answer.metadata().get(name);
    let value = value.unwrap_or_else(|| panic!("no {name}: {:?}", answer.metadata()));
    value.to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_new_user_has_ten_calls_a_minute_and_is_told_when_to_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).serve();
    let mut clients = Clients::of(&server).await;
    for n in 0..10 {
        let answer = clients.ask_whole(ask(&format!("r-{n}"), 10, 5)).await;
        let answer = answer.unwrap();
        for spelling in ["x-ratelimit", "ratelimit"] {
            assert_eq!(number(&answer, &format!("{spelling}-limit")), 10);
            assert_eq!(number(&answer, &format!("{spelling}-remaining")), 9 - n);
        }
        let answer = answer.into_inner();
        assert_eq!(answer.decision(), v1::Decision::Allowed);
        assert!(answer.price_found && !answer.replayed && !answer.degraded);
        let names: Vec<_> = answer.limits.iter().map(|one| &*one.name).collect();
        assert_eq!(
            names,
            [
                "requests-per-minute",
                "requests-per-hour",
                "tokens-per-month"
            ]
        );
        assert!(
            answer
                .limits
                .iter()
                .all(|one| one.profile_id == "free" && one.subject == "ada")
        );
        assert_eq!(answer.session_budget.unwrap().held_tokens, 15 * (n + 1));
        // 10 × $3 + 5 × $15 per million tokens.
        let hold = answer.hold.unwrap();
        assert_eq!(nano_usd(hold.cost.as_ref()), 105_000);
        assert_eq!(hold.state(), HoldState::Active);
    }
    let denied = clients.ask_whole(ask("r-10", 10, 5)).await.unwrap();
    let wait = number(&denied, "retry-after");
    assert!((1..=61).contains(&wait), "{wait}");
    assert_eq!(number(&denied, "ratelimit-remaining"), 0);
    let denied = denied.into_inner();
    assert_eq!(
        (denied.decision(), &denied.hold),
        (v1::Decision::Denied, &None)
    );
    let refusal = denied.refusal.unwrap();
    assert_eq!(refusal.cause(), v1::RefusalCause::Rate);
    assert_eq!(
        refusal.message,
        format!(
            "limit requests-per-minute of user ada: 0 of 10 requests used, 10 held; retry in {wait} s"
        )
    );
    let limit = refusal.limit.unwrap();
    assert_eq!((limit.remaining, limit.exceeded), (0, true));
}

#[tokio::test]
async fn a_call_is_admitted_extended_settled_and_voided() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).serve();
    let mut clients = Clients::of(&server).await;
    let limit = tokens_a_day(1_000, v1::Enforcement::Block);
    clients.limit_ada("limits", limit).await;
    let admitted = clients.ask(ask("r", 100, 400)).await;
    let hold = admitted.hold.unwrap();
    let id = &*hold.reservation_id;
    let again = clients.ask(ask("r", 100, 400)).await;
    assert!(again.replayed);
    assert_eq!(again.hold.as_ref(), Some(&hold));
    let other = clients.ask_whole(ask("r", 100, 401)).await.unwrap_err();
    assert_eq!(refusal(&other).reason, R::RequestIdConflict);
    assert_eq!(clients.stands().await, (0, 500));

    let extended = clients.extend("x", id, 900).await.unwrap();
    assert_eq!(extended.hold.unwrap().output_tokens, 900);
    let denied = clients.extend("y", id, 1_001).await.unwrap();
    assert_eq!(denied.decision(), v1::Decision::Denied);
    assert_eq!(denied.refusal.unwrap().cause(), v1::RefusalCause::Tokens);
    assert_eq!(clients.stands().await, (0, 900));

    let settled = clients
        .record(usage("e", Some(id), 100, 200))
        .await
        .unwrap();
    assert_eq!(settled.charge_time, hold.admit_time);
    let settlement = settled.settlement.clone().unwrap();
    assert_eq!(settlement.state(), v1::SettlementState::Settled);
    assert_eq!(
        (settlement.held_tokens, settlement.released_tokens),
        (900, 600)
    );
    assert_eq!(settlement.overshoots, []);
    assert_eq!((settled.limits[0].used, settled.limits[0].held), (300, 0));
    let repeated = clients
        .record(usage("e", Some(id), 100, 200))
        .await
        .unwrap();
    assert_eq!(repeated.outcome(), v1::RecordOutcome::Duplicate);
    assert_eq!(repeated.settlement, settled.settlement);
    let late = clients.release(id).await.unwrap_err();
    assert_eq!(refusal(&late).reason, R::ReservationSettled);
    let second = clients
        .record(usage("f", Some(id), 1, 1))
        .await
        .unwrap_err();
    assert_eq!(refusal(&second).reason, R::ReservationSettled);
    assert_eq!(clients.stands().await, (300, 0));

    // Above the hold: recorded, and said.
    let id = clients.reserve(ask("s", 0, 700)).await;
    let above = clients.record(usage("g", Some(&id), 0, 750)).await.unwrap();
    let overshoots = above.settlement.unwrap().overshoots;
    assert_eq!(overshoots.len(), 1);
    assert_eq!(overshoots[0].cause(), v1::OvershootCause::AboveHold);
    assert_eq!(
        (&*overshoots[0].limit_name, overshoots[0].amount),
        ("tokens-a-day", 50)
    );

    let void = v1::VoidUsageRequest {
        request_id: "v".into(),
        event_id: "g".into(),
        reason: "wrong".into(),
    };
    let voided = clients
        .metering
        .void_usage(void)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(voided.limits[0].used, 300);
    assert_eq!(clients.stands().await, (300, 0));
}

#[tokio::test]
async fn a_hold_ends_by_itself_or_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).serve();
    let mut clients = Clients::of(&server).await;
    let limit = tokens_a_day(1_000, v1::Enforcement::Block);
    clients.limit_ada("limits", limit).await;
    let id = clients.reserve(ask("given back", 0, 1_000)).await;
    let full = clients.ask(ask("too much", 0, 1)).await;
    assert_eq!(full.refusal.unwrap().cause(), v1::RefusalCause::Tokens);
    assert_eq!(
        clients.release(&id).await.unwrap().state(),
        HoldState::Released
    );
    assert_eq!(
        clients.release(&id).await.unwrap().state(),
        HoldState::Released
    );
    let short = v1::AuthorizeRequest {
        hold_duration: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..ask("forgotten", 0, 1_000)
    };
    let id = clients.reserve(short).await;
    let began = Instant::now();
    while clients.stands().await.1 > 0 {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        clients.release(&id).await.unwrap().state(),
        HoldState::Expired
    );
    let late = clients.extend("x", &id, 5).await.unwrap_err();
    assert_eq!(refusal(&late).reason, R::ReservationExpired);
    let late = clients.record(usage("e", Some(&id), 0, 700)).await.unwrap();
    let settlement = late.settlement.unwrap();
    assert_eq!(settlement.state(), v1::SettlementState::AfterExpiry);
    assert_eq!(clients.stands().await, (700, 0));
    let unknown = clients
        .record(usage("f", Some("nobody's"), 0, 1))
        .await
        .unwrap();
    let state = unknown.settlement.unwrap().state();
    assert_eq!(state, v1::SettlementState::UnknownReservation);
}

#[tokio::test]
async fn a_limit_in_shadow_mode_is_told_and_does_not_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).serve();
    let mut clients = Clients::of(&server).await;
    let limit = tokens_a_day(10, v1::Enforcement::Shadow);
    clients.limit_ada("limits", limit).await;
    let answer = clients.ask(ask("r", 0, 11)).await;
    assert_eq!(answer.decision(), v1::Decision::Allowed);
    assert_eq!(answer.shadow_refusals.len(), 1);
    let shadow = &answer.shadow_refusals[0];
    assert_eq!(
        (shadow.cause(), shadow.asked),
        (v1::RefusalCause::Tokens, 11)
    );
    assert_eq!(
        shadow.message,
        "limit tokens-a-day of user ada: 11 tokens asked, at most 10 allowed; ask for less"
    );
}

#[tokio::test]
async fn a_session_budget_is_set_enforced_and_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).serve();
    let mut clients = Clients::of(&server).await;
    let get = v1::GetTokenBudgetRequest {
        session_id: "s-1".into(),
    };
    clients.record(usage("e", None, 300, 200)).await.unwrap();
    let answer = clients
        .metering
        .get_token_budget(get.clone())
        .await
        .unwrap();
    let budget = answer.into_inner().budget.unwrap();
    assert_eq!((budget.budget_max, budget.total_tokens), (100_000, 500));
    assert_eq!(
        (&*budget.user_id, &*budget.model),
        ("ada", "claude-sonnet-4-5")
    );
    assert!(!budget.enforced && !budget.should_summarize && budget.last_updated.is_some());
    let tool = v1::ToolInvocation {
        invocation_id: "t".into(),
        tool: "search".into(),
        user_id: "ada".into(),
        session_id: "s-1".into(),
        estimated_tokens: 100,
        ..Default::default()
    };
    let set = v1::SetTokenBudgetRequest {
        request_id: "set".into(),
        session_id: "s-1".into(),
        budget_max: Some(1_000),
        enforced: Some(true),
        summarize_below_percent: Some(50),
    };
    clients.metering.set_token_budget(set).await.unwrap();
    let held = clients.ask(ask("a", 0, 10)).await.session_budget.unwrap();
    assert_eq!(
        (held.total_tokens, held.held_tokens, held.tool_tokens),
        (500, 10, 0)
    );
    let tools = v1::RecordToolInvocationsRequest {
        invocations: vec![tool],
    };
    clients
        .metering
        .record_tool_invocations(tools)
        .await
        .unwrap();
    let held = clients.ask(ask("b", 0, 1)).await.session_budget.unwrap();
    assert_eq!((held.prompt_tokens, held.completion_tokens), (300, 200));
    assert_eq!(
        (held.total_tokens, held.held_tokens, held.tool_tokens),
        (600, 11, 100)
    );
    assert_eq!((held.remaining_tokens, held.should_summarize), (389, true));
    let denied = clients.ask(ask("c", 0, 390)).await.refusal.unwrap();
    assert_eq!(denied.cause(), v1::RefusalCause::SessionBudget);
    let reset = v1::ResetTokenBudgetRequest {
        request_id: "reset".into(),
        session_id: "s-1".into(),
        restore_default: true,
    };
    let answer = clients.metering.reset_token_budget(reset).await.unwrap();
    let budget = answer.into_inner().budget.unwrap();
    assert_eq!((budget.total_tokens, budget.tool_tokens), (0, 0));
    assert_eq!((budget.budget_max, budget.held_tokens), (100_000, 11));
    assert_eq!(clients.ask(ask("c", 0, 390)).await.refusal, None);
}

#[tokio::test]
async fn holds_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = start(folder.path()).serve();
    let mut clients = Clients::of(&server).await;
    let limit = tokens_a_day(1_000, v1::Enforcement::Block);
    clients.limit_ada("limits", limit).await;
    let kept = clients.reserve(ask("kept", 0, 500)).await;
    let given = clients.reserve(ask("given back", 0, 100)).await;
    clients.record(usage("e", None, 20, 30)).await.unwrap();
    clients.release(&given).await.unwrap();
    let before = clients.stands().await;
    assert_eq!(before, (50, 500));
    server.kill();
    server.restart();
    let mut clients = Clients::of(&server).await;
    assert_eq!(clients.stands().await, before);
    let again = clients.ask(ask("kept", 0, 500)).await;
    assert_eq!(
        (again.replayed, again.hold.unwrap().reservation_id),
        (true, kept.clone())
    );
    let settled = clients
        .record(usage("f", Some(&kept), 0, 400))
        .await
        .unwrap();
    let state = settled.settlement.unwrap().state();
    assert_eq!(state, v1::SettlementState::Settled);
    assert_eq!(clients.stands().await, (450, 0));
}

/// counters_equal_ledger: the process that recorded ended before it told the counters.
#[tokio::test]
async fn what_the_counters_were_not_told_they_hear_from_the_log() {
    let Some(binary) = planted() else { return };
    let folder = tempfile::tempdir().unwrap();
    let start = start(folder.path()).program(binary);
    let server = start.variable("TOKENMETER_FAULT", "LeaveToSweeper").serve();
    let mut clients = Clients::of(&server).await;
    let limit = tokens_a_day(1_000, v1::Enforcement::Block);
    clients.limit_ada("limits", limit).await;
    let id = clients.reserve(ask("r", 0, 500)).await;
    let settled = clients
        .record(usage("e", Some(&id), 100, 200))
        .await
        .unwrap();
    let state = settled.settlement.unwrap().state();
    assert_eq!(state, v1::SettlementState::Settled);
    let began = Instant::now();
    while clients.stands().await != (300, 0) {
        assert!(began.elapsed() < PATIENCE, "{:?}", clients.stands().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let late = clients.release(&id).await.unwrap_err();
    assert_eq!(refusal(&late).reason, R::ReservationSettled);
}
