//! The everyday questions over the wire: months and days, the current period, caching, sessions,
//! tools, messages. Figures are computed by hand from [`event`], which is always the same.

use prost_types::Timestamp;
use tokenmeter_api::v1;
use tokenmeter_tests::{Server, Start};

use crate::support::{Clients, EVENT_NANO_USD, EVENT_TOKENS, event, line, lines, nano_usd};

/// 2026-03-31T18:30:00Z: midnight in Kolkata, where April begins.
pub(crate) const APRIL: i64 = 1_774_981_800;
/// What 2,000 tokens read from the cache saved: $3 less $0.30 a million.
const SAVED: i64 = 5_400_000;
/// What 300 tokens written to it cost more than $3 a million.
const EXTRA: i64 = 225_000;

pub(crate) fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

/// [`event`] of this session at a time.
pub(crate) fn placed(id: &str, session: &str, seconds: i64) -> v1::UsageEvent {
    v1::UsageEvent {
        session_id: session.to_owned(),
        request_time: at(seconds),
        ..event(id)
    }
}

async fn void(clients: &mut Clients, event_id: &str) {
    let request = v1::VoidUsageRequest {
        request_id: format!("void-{event_id}"),
        event_id: event_id.to_owned(),
        reason: "counted twice".into(),
    };
    clients.metering.void_usage(request).await.unwrap();
}

pub(crate) fn total(totals: Option<&v1::UsageTotals>) -> (i64, i64, i64) {
    let totals = totals.unwrap();
    (
        totals.requests,
        totals.total_tokens,
        nano_usd(totals.cost.as_ref()),
    )
}

/// What so many of [`event`] come to.
pub(crate) const fn times(n: i64) -> (i64, i64, i64) {
    (n, n * EVENT_TOKENS, n * EVENT_NANO_USD)
}

#[tokio::test]
async fn days_and_months_are_those_of_a_half_hour_zone() {
    let folder = tempfile::tempdir().unwrap();
    let server = Start::new(folder.path())
        .argument("--time-zone=Asia/Kolkata")
        .serve();
    let mut clients = Clients::of(&server).await;
    for (id, seconds) in [
        ("last-of-march", APRIL - 1),
        ("first-of-april", APRIL),
        ("gone", APRIL - 5 * 86_400),
        ("end-of-april-1", APRIL + 86_399),
        ("april-2", APRIL + 86_400),
    ] {
        clients.record(placed(id, "s", seconds)).await.unwrap();
    }
    void(&mut clients, "gone").await;

    let mut request = v1::ListUsageHistoryRequest {
        user_id: "ada".into(),
        page_size: 2,
        ..Default::default()
    };
    let first = clients.analytics.list_usage_history(request.clone()).await;
    let first = first.unwrap().into_inner();
    // What is recorded meanwhile on a day that was shown makes it appear no second time.
    let late = placed("late", "s", APRIL + 86_401);
    clients.record(late).await.unwrap();
    request.page_token = first.next_page_token;
    let second = clients.analytics.list_usage_history(request).await;
    let second = second.unwrap().into_inner();
    assert_eq!(second.next_page_token, "");
    let days: Vec<_> = first.days.iter().chain(&second.days).collect();
    let dates: Vec<_> = days.iter().map(|day| day.date.as_str()).collect();
    assert_eq!(dates, ["2026-04-02", "2026-04-01", "2026-03-31"]);
    let figures: Vec<_> = days.iter().map(|day| total(day.totals.as_ref())).collect();
    assert_eq!(figures, [times(1), times(2), times(1)]);
    let april_1 = (days[1].start_time, days[1].end_time);
    assert_eq!(april_1, (at(APRIL), at(APRIL + 86_400)));

    // The range touches April by its last second, and March not.
    let monthly = v1::ListMonthlyUsageRequest {
        user_id: "ada".into(),
        range: Some(v1::TimeRange {
            start_time: at(APRIL + 30 * 86_400 - 1),
            end_time: None,
        }),
        ..Default::default()
    };
    let months = clients.analytics.list_monthly_usage(monthly).await.unwrap();
    let months = months.into_inner().months;
    assert_eq!(months.len(), 1);
    assert_eq!(months[0].month, "2026-04");
    assert_eq!(months[0].start_time, at(APRIL));
    assert_eq!(months[0].end_time, at(APRIL + 30 * 86_400));
    assert_eq!(total(months[0].totals.as_ref()), times(4));
    let monthly = v1::ListMonthlyUsageRequest {
        user_id: "ada".into(),
        range: Some(v1::TimeRange {
            start_time: at(APRIL - 40 * 86_400),
            end_time: at(APRIL + 40 * 86_400),
        }),
        ..Default::default()
    };
    let months = clients.analytics.list_monthly_usage(monthly).await.unwrap();
    let months = months.into_inner().months;
    let names: Vec<_> = months.iter().map(|month| month.month.as_str()).collect();
    assert_eq!(names, ["2026-04", "2026-03"]);
    assert_eq!(months[1].models.len(), 1);
    assert_eq!(months[1].models[0].token_share_ppm, 1_000_000);
    assert_eq!(total(months[1].models[0].totals.as_ref()), times(1));
}

#[tokio::test]
async fn the_current_period_and_what_caching_saved() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for id in ["a", "b", "gone"] {
        clients.record(event(id)).await.unwrap();
    }
    let mut unpriced = line(v1::TokenCounts {
        input: 1_160,
        ..Default::default()
    });
    unpriced.model = "nobody-sells-this".into();
    let unpriced = v1::UsageEvent {
        session_id: "s-2".into(),
        usage: Some(lines(vec![unpriced])),
        ..event("unpriced")
    };
    clients.record(unpriced).await.unwrap();
    void(&mut clients, "gone").await;

    let current = v1::GetCurrentUsageRequest {
        user_id: "ada".into(),
    };
    let current = clients.analytics.get_current_usage(current).await.unwrap();
    let current = current.into_inner();
    assert_eq!(current.user_id, "ada");
    let totals = current.totals.as_ref();
    let (requests, tokens, cost) = times(2);
    assert_eq!(total(totals), (requests + 1, tokens + 1_160, cost));
    assert_eq!(current.models.len(), 2);
    assert_eq!(current.models[0].model, "claude-sonnet-4-5");
    let shares: Vec<_> = current.models.iter().map(|m| m.token_share_ppm).collect();
    // 5,010 and 1,160 of 6,170.
    assert_eq!(shares, [811_994, 188_006]);
    assert!(current.quotas.is_empty() && current.profile_id.is_empty());

    let cache = current.cache.unwrap();
    // 4,000 of 2 × 2,420 and 1,160: two in three.
    assert_eq!(
        (cache.read_tokens, cache.write_tokens, cache.prompt_tokens),
        (4_000, 600, 6_000)
    );
    assert_eq!(cache.hit_rate_ppm, Some(666_667));
    assert_eq!(nano_usd(cache.gross_saving.as_ref()), 2 * SAVED);
    assert_eq!(nano_usd(cache.write_extra.as_ref()), 2 * EXTRA);
    assert_eq!(nano_usd(cache.net_saving.as_ref()), 2 * (SAVED - EXTRA));
    assert_eq!(cache.unpriced_lines, 1);

    for (user, session, model, prompt) in [
        ("", "", "", 6_000),
        ("ada", "", "", 6_000),
        ("", "s-1", "", 4_840),
        ("ada", "s-2", "", 1_160),
        ("", "", "claude-sonnet-4-5", 4_840),
        ("bob", "", "", 0),
    ] {
        let request = v1::GetCacheEfficiencyRequest {
            user_id: user.into(),
            session_id: session.into(),
            model: model.into(),
            range: None,
        };
        let answer = clients.analytics.get_cache_efficiency(request).await;
        let answer = answer.unwrap().into_inner();
        let all = answer.efficiency.unwrap();
        assert_eq!(all.prompt_tokens, prompt, "{user} {session} {model}");
        assert_eq!(all.hit_rate_ppm.is_some(), prompt > 0);
        let of_models = answer.models.iter();
        let of_models = of_models.map(|one| one.efficiency.as_ref().unwrap().prompt_tokens);
        assert_eq!(of_models.sum::<i64>(), prompt, "{user} {session} {model}");
    }
}

#[tokio::test]
async fn sessions_are_ranked_once_each_while_recording_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    // s-4 has four events, s-3 three, and so on; s-1 is active last.
    for n in 1..=4 {
        for k in 0..n {
            let id = format!("{n}-{k}");
            let time = APRIL - n * 1_000 + k;
            let sent = placed(&id, &format!("s-{n}"), time);
            clients.record(sent).await.unwrap();
        }
    }
    let gone = placed("gone", "s-gone", APRIL);
    clients.record(gone).await.unwrap();
    void(&mut clients, "gone").await;

    let mut request = v1::ListTopSessionsRequest {
        page_size: 3,
        order_by: v1::SessionOrder::Cost.into(),
        ..Default::default()
    };
    let first = clients.analytics.list_top_sessions(request.clone()).await;
    let first = first.unwrap().into_inner();
    for k in 0..9 {
        let sent = placed(&format!("more-{k}"), "s-1", APRIL);
        clients.record(sent).await.unwrap();
    }
    request.page_token = first.next_page_token;
    let second = clients.analytics.list_top_sessions(request.clone()).await;
    let second = second.unwrap().into_inner();
    let all: Vec<_> = first.sessions.iter().chain(&second.sessions).collect();
    let ids: Vec<_> = all.iter().map(|one| one.session_id.as_str()).collect();
    assert_eq!(ids, ["s-4", "s-3", "s-2", "s-1"]);
    let figures: Vec<_> = all.iter().map(|one| total(one.totals.as_ref())).collect();
    assert_eq!(figures, [times(4), times(3), times(2), times(1)]);
    assert_eq!(all[0].first_event_time, at(APRIL - 4_000));
    assert_eq!((all[0].duration_ms, all[0].active), (3_000, false));
    assert_eq!(all[0].models, ["claude-sonnet-4-5"]);

    let now = v1::ListTopSessionsRequest::default();
    let now = clients.analytics.list_top_sessions(now).await.unwrap();
    assert_eq!(now.into_inner().sessions[0].session_id, "s-1");
    let summaries = v1::ListSessionSummariesRequest::default();
    let answer = clients.analytics.list_session_summaries(summaries).await;
    let ids = |answer: v1::ListSessionSummariesResponse| -> Vec<String> {
        let sessions = answer.sessions.into_iter();
        sessions.map(|one| one.session_id).collect()
    };
    let last_first = ["s-1", "s-2", "s-3", "s-4"];
    assert_eq!(ids(answer.unwrap().into_inner()), last_first);
    let recent = v1::UsageEvent {
        session_id: "s-3".into(),
        turn: Some(1),
        ..event("recent")
    };
    clients.record(recent).await.unwrap();
    let active = v1::ListSessionSummariesRequest {
        active_only: true,
        ..Default::default()
    };
    let answer = clients.analytics.list_session_summaries(active).await;
    let answer = answer.unwrap().into_inner();
    assert!(answer.sessions[0].active && answer.sessions[0].turns == 1);
    assert_eq!(ids(answer), ["s-3"]);
}

#[tokio::test]
async fn tools_and_messages_of_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let uses = [
        ("search", v1::ToolStatus::Succeeded, Some(100)),
        ("search", v1::ToolStatus::Succeeded, Some(300)),
        ("search", v1::ToolStatus::Failed, Some(201)),
        ("search", v1::ToolStatus::Started, None),
        ("run", v1::ToolStatus::Cancelled, None),
    ];
    let invocations = (0..).zip(uses).map(|(n, (tool, status, duration_ms))| {
        let invocation_id = format!("use-{n}");
        v1::ToolInvocation {
            invocation_id,
            tool: tool.into(),
            user_id: "ada".into(),
            session_id: "s-1".into(),
            status: status.into(),
            start_time: at(APRIL + n),
            duration_ms,
            estimated_tokens: 7,
            ..Default::default()
        }
    });
    let request = v1::RecordToolInvocationsRequest {
        invocations: invocations.collect(),
    };
    clients
        .metering
        .record_tool_invocations(request)
        .await
        .unwrap();
    let request = v1::ListToolUsageRequest {
        user_id: "ada".into(),
        session_id: "s-1".into(),
        ..Default::default()
    };
    let tools = clients.analytics.list_tool_usage(request).await.unwrap();
    let tools = tools.into_inner().tools;
    let [search, run] = &tools[..] else {
        panic!("{tools:?}")
    };
    assert_eq!((search.calls, search.succeeded, search.failed), (4, 2, 1));
    assert_eq!(search.success_rate_ppm, Some(666_667));
    assert_eq!(search.estimated_tokens, 28);
    assert_eq!(search.last_start_time, at(APRIL + 3));
    let duration = search.duration.unwrap();
    assert_eq!((duration.measured, duration.mean_ms), (3, Some(200)));
    assert_eq!((duration.p50_ms, duration.max_ms), (Some(201), Some(300)));
    assert_eq!(
        (run.calls, run.cancelled, run.success_rate_ppm),
        (1, 1, None)
    );
    assert_eq!(run.duration.unwrap().mean_ms, None);

    let said = |id: &str, sequence, seconds| v1::Message {
        message_id: id.into(),
        user_id: "ada".into(),
        session_id: "s-1".into(),
        role: v1::MessageRole::User.into(),
        sequence,
        tokens: Some(3),
        time: at(seconds),
        ..Default::default()
    };
    let request = v1::RecordMessagesRequest {
        messages: vec![
            said("ask", Some(0), APRIL),
            said("aside", None, APRIL + 2),
            said("early", None, APRIL - 1),
            said("ask-again", Some(2), APRIL + 5),
        ],
    };
    clients.metering.record_messages(request).await.unwrap();
    let answer = v1::UsageEvent {
        message: Some(v1::MessageFacts {
            sequence: Some(1),
            ..Default::default()
        }),
        stop_reason: "tool_use".into(),
        ..placed("msg_1", "s-1", APRIL + 1)
    };
    clients.record(answer).await.unwrap();
    let silent = placed("no-message", "s-1", APRIL + 3);
    clients.record(silent).await.unwrap();
    let mut request = v1::ListMessagesRequest {
        session_id: "s-1".into(),
        page_size: 2,
        ..Default::default()
    };
    let mut messages = Vec::new();
    loop {
        let page = clients.analytics.list_messages(request.clone()).await;
        let page = page.unwrap().into_inner();
        messages.extend(page.messages);
        // Whatever comes meanwhile, first or last, is on no further page.
        let late = v1::RecordMessagesRequest {
            messages: vec![said(
                &format!("late-{}", messages.len()),
                Some(0),
                1_000_000_000,
            )],
        };
        clients.metering.record_messages(late).await.unwrap();
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let ids: Vec<_> = messages.iter().map(|one| one.message_id.as_str()).collect();
    assert_eq!(ids, ["early", "ask", "msg_1", "aside", "ask-again"]);
    let answer = &messages[2];
    assert_eq!(answer.role(), v1::MessageRole::Assistant);
    assert_eq!(answer.normalized_stop_reason(), v1::StopReason::ToolUse);
    assert_eq!((answer.lines.len(), answer.event_id.as_str()), (1, "msg_1"));
    assert_eq!(nano_usd(answer.lines[0].cost.as_ref()), EVENT_NANO_USD);
    assert_eq!((messages[1].tokens, messages[1].time), (Some(3), at(APRIL)));
}
