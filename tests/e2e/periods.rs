//! Closed months, as administrators and readers see them.

use prost::Message as _;
use prost_types::Timestamp;
use serde_json::json;
use tokenmeter_api::v1::{self, AdjustmentKind, ErrorReason};
use tokenmeter_tests::Server;

use crate::corrections::price;
use crate::support::{Clients, EVENT_NANO_USD, EVENT_TOKENS, event, nano_usd, refusal};

const DAY: i64 = 86_400;

/// The last month, which the server knows, and noon of a day in the midst of it.
pub(crate) async fn last_month(clients: &mut Clients) -> (String, Timestamp) {
    let request = v1::RolloverRequest {
        request_id: "which".into(),
        dry_run: true,
        ..Default::default()
    };
    let answer = clients.admin.rollover(request).await.unwrap().into_inner();
    let status = clients.admin.get_status(v1::GetStatusRequest {}).await;
    let now = status.unwrap().into_inner().server_time.unwrap();
    let today: Vec<i64> = now.to_string()[..10]
        .split('-')
        .map(|number| number.parse().unwrap())
        .collect();
    // Before the first of this month there are fifteen days of the last one.
    let midnight = now.seconds.div_euclid(DAY) * DAY;
    let seconds = midnight - (today[2] - 1 + 15) * DAY + DAY / 2;
    let noon = Timestamp { seconds, nanos: 0 };
    assert!(noon.to_string().starts_with(&answer.period_id), "{noon}");
    (answer.period_id, noon)
}

/// An event of a user at a time.
pub(crate) fn at(id: &str, user: &str, time: Timestamp) -> v1::UsageEvent {
    v1::UsageEvent {
        user_id: user.into(),
        request_time: Some(time),
        ..event(id)
    }
}

async fn rollover(
    clients: &mut Clients,
    id: &str,
    month: &str,
) -> Result<(i64, i64), tonic::Status> {
    let request = v1::RolloverRequest {
        request_id: id.into(),
        period_id: month.into(),
        dry_run: false,
    };
    let answer = clients.admin.rollover(request).await?.into_inner();
    Ok((answer.users, answer.already_closed))
}

pub(crate) async fn periods(clients: &mut Clients, user: &str) -> Vec<v1::Period> {
    let request = v1::ListPeriodsRequest {
        user_id: user.into(),
        ..Default::default()
    };
    let answer = clients.analytics.list_periods(request).await.unwrap();
    answer.into_inner().periods
}

#[tokio::test]
async fn a_month_is_closed_by_request_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let (month, noon) = last_month(&mut clients).await;
    for (id, user) in [("a", "ada"), ("b", "ada"), ("c", "bob")] {
        clients.record(at(id, user, noon)).await.unwrap();
    }
    clients.record(event("now")).await.unwrap();

    let run = |words: &[&str]| {
        let words = words.iter().copied().chain(["--output", "json"]);
        server.run(words).success().json()
    };
    let would = run(&["rollover", "--dry-run"]);
    let expected = json!({"dry_run": true, "period_id": month, "users": 2, "already_closed": 0});
    assert_eq!(would, expected);
    assert_eq!(periods(&mut clients, "ada").await, []);
    assert_eq!(run(&["rollover", "--period", &month])["users"], 2);
    let again = run(&["rollover", "--period", &month]);
    assert_eq!(
        (&again["users"], &again["already_closed"]),
        (&json!(0), &json!(2))
    );

    // A request has one answer, and names one thing.
    let (first, other) = (rollover(&mut clients, "r", "").await, at("d", "cyd", noon));
    clients.record(other).await.unwrap();
    assert_eq!(first.unwrap(), (0, 2));
    assert_eq!(rollover(&mut clients, "r", "").await.unwrap(), (0, 2));
    assert_eq!(rollover(&mut clients, "s", "").await.unwrap(), (1, 2));
    for (id, month, reason) in [
        ("r", &*month, ErrorReason::RequestIdConflict),
        ("t", "2999-01", ErrorReason::PeriodStateInvalid),
        ("t", &noon.to_string()[..10], ErrorReason::FieldInvalid),
        ("", "", ErrorReason::FieldInvalid),
    ] {
        let refused = rollover(&mut clients, id, month).await.unwrap_err();
        assert_eq!(refusal(&refused).reason, reason, "{id} {month}");
    }
}

#[tokio::test]
async fn what_comes_after_the_close_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let (month, noon) = last_month(&mut clients).await;
    clients.record(at("a", "ada", noon)).await.unwrap();
    let mut unpriced = at("unpriced", "ada", noon);
    if let Some(v1::usage_event::Usage::Lines(lines)) = &mut unpriced.usage {
        lines.lines[0].model = "nobody-sells-this".into();
    }
    clients.record(unpriced).await.unwrap();
    rollover(&mut clients, "r", "").await.unwrap();
    let before = periods(&mut clients, "ada").await.remove(0);
    assert_eq!(before.period_id, month);
    assert_eq!(before.adjusted, before.as_closed);
    let closed = before.as_closed.clone().unwrap();
    // The same as of any month.
    let monthly = v1::ListMonthlyUsageRequest {
        user_id: "ada".into(),
        ..Default::default()
    };
    let monthly = clients.analytics.list_monthly_usage(monthly).await.unwrap();
    let open = monthly.into_inner().months.remove(0);
    assert_eq!((closed.totals, closed.models), (open.totals, open.models));
    assert_eq!(
        (closed.start_time, closed.end_time),
        (open.start_time, open.end_time)
    );
    assert_eq!(closed.sessions, 1);

    let late = v1::UsageEvent {
        session_id: "s-2".into(),
        ..at("late", "ada", noon)
    };
    clients.record(late).await.unwrap();
    let void = v1::VoidUsageRequest {
        request_id: "v".into(),
        event_id: "a".into(),
        reason: "wrong".into(),
    };
    for _ in 0..2 {
        let voided = clients.metering.void_usage(void.clone()).await.unwrap();
        assert_eq!(voided.into_inner().adjusted_period_id, month);
    }
    price_the_rest(&mut clients, noon).await;

    let after = periods(&mut clients, "ada").await.remove(0);
    let bytes =
        |consumption: &Option<v1::Consumption>| consumption.as_ref().unwrap().encode_to_vec();
    assert_eq!(bytes(&after.as_closed), bytes(&before.as_closed));
    let changes: Vec<_> = after
        .adjustments
        .iter()
        .map(|one| {
            (
                one.kind(),
                &*one.event_id,
                one.total_tokens,
                nano_usd(one.cost.as_ref()),
            )
        })
        .collect();
    let tokens = EVENT_TOKENS;
    assert_eq!(
        changes,
        [
            (AdjustmentKind::LateEvent, "late", tokens, EVENT_NANO_USD),
            (AdjustmentKind::Void, "a", -tokens, -EVENT_NANO_USD),
            (AdjustmentKind::Reprice, "unpriced", 0, tokens * 1_000),
        ]
    );
    let adjusted = after.adjusted.unwrap();
    let totals = adjusted.totals.unwrap();
    assert_eq!((totals.requests, totals.unpriced_lines), (2, 0));
    assert_eq!(
        nano_usd(totals.cost.as_ref()),
        EVENT_NANO_USD + tokens * 1_000
    );
    assert_eq!(adjusted.sessions, 2);

    // An event of this month changes no closed one.
    clients.record(event("now")).await.unwrap();
    let void = v1::VoidUsageRequest {
        request_id: "w".into(),
        event_id: "now".into(),
        ..void
    };
    let voided = clients.metering.void_usage(void).await.unwrap();
    assert_eq!(voided.into_inner().adjusted_period_id, "");
}

/// Prices the model that nobody sells at 1,000 nano-USD a token, from that time on.
async fn price_the_rest(clients: &mut Clients, from: Timestamp) {
    let mut prices = price("p", "nobody-sells-this", 1_000);
    prices.prices[0].effective_from = Some(from);
    clients.admin.set_prices(prices).await.unwrap();
    let request = v1::RepriceUsageRequest {
        request_id: "reprice".into(),
        ..Default::default()
    };
    let done = clients.admin.reprice_usage(request).await.unwrap();
    assert_eq!(done.into_inner().lines_priced, 1);
}
