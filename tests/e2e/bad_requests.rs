//! Requests that are wrong as a whole: bytes that are no message, too much in one message, lists with
//! pages that do not exist, ids that stand already.

use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tokenmeter_tests::Server;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};

use crate::support::{Clients, EVENT_NANO_USD, EVENT_TOKENS, event, nano_usd, openai, refusal};

/// Like `UsageEvent`, with bytes where that has a string.
#[derive(Clone, PartialEq, prost::Message)]
struct RawEvent {
    #[prost(bytes = "vec", tag = "1")]
    event_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    user_id: Vec<u8>,
}

/// Like `RecordUsageRequest` and `BatchRecordUsageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct RawRequest {
    #[prost(message, repeated, tag = "1")]
    events: Vec<RawEvent>,
}

/// Bytes that are no message of any type: a field that promises more bytes than there are.
#[derive(Clone, PartialEq, prost::Message)]
struct Truncated {
    #[prost(fixed32, tag = "1")]
    event: u32,
}

async fn send<T: prost::Message + Send + Sync + 'static>(
    clients: &Clients,
    rpc: &str,
    message: T,
) -> Status {
    let mut client = tonic::client::Grpc::new(clients.channel.clone());
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<T, ()>::default();
    let path = PathAndQuery::try_from(format!("/tokenmeter.v1.MeteringService/{rpc}")).unwrap();
    client
        .unary(Request::new(message), path, codec)
        .await
        .unwrap_err()
}

#[tokio::test]
async fn bytes_that_are_no_message_name_the_field_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let before = clients.everything().await;
    let raw = |event_id: &[u8], user_id: &[u8]| RawEvent {
        event_id: event_id.to_vec(),
        user_id: user_id.to_vec(),
    };
    let id = RawRequest {
        events: vec![raw(b"\xff\xfe", b"ada")],
    };
    // A good event before the bad one does not stand: the message as a whole is no message.
    let user = RawRequest {
        events: vec![raw(b"good", b"ada"), raw(b"e", b"a\xc3")],
    };
    for (rpc, message, field) in [
        ("RecordUsage", id, "UsageEvent.event_id"),
        ("BatchRecordUsage", user, "UsageEvent.user_id"),
    ] {
        let status = send(&clients, rpc, message).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let failure = refusal(&status);
        assert_eq!(failure.reason, R::MessageUndecodable);
        assert_eq!(failure.violations[0].0, field);
        assert!(failure.violations[0].1.contains("UTF-8"), "{failure:?}");
    }
    let status = send(&clients, "RecordUsage", Truncated { event: 7 }).await;
    assert_eq!(refusal(&status).reason, R::MessageUndecodable, "{status:?}");
    assert_eq!(clients.everything().await, before);
}

#[tokio::test]
async fn a_message_of_10_mb_is_refused_with_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let before = clients.everything().await;
    let document = format!(r#"{{"x":"{}"}}"#, "x".repeat(60_000));
    let events = (0..170)
        .map(|n| openai(&format!("e-{n}"), &document))
        .collect();
    let status = clients.batch(events).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let failure = refusal(&status);
    assert_eq!(failure.reason, R::MessageTooLarge);
    assert_eq!(failure.metadata["max_message_bytes"], "4194304");
    assert!(failure.message.contains("4194304"), "{failure:?}");
    assert_eq!(clients.everything().await, before);
    // The connection goes on.
    clients.record(event("after")).await.unwrap();
}

#[tokio::test]
async fn a_batch_has_1_to_1000_events() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let before = clients.everything().await;
    let many = |n: usize| (0..n).map(|n| event(&format!("e-{n}"))).collect::<Vec<_>>();
    for n in [0, 1_001] {
        let failure = refusal(&clients.batch(many(n)).await.unwrap_err());
        assert_eq!(failure.reason, R::FieldInvalid);
        let (field, text) = &failure.violations[0];
        assert_eq!(field, "events");
        assert!(
            text.starts_with(&n.to_string()) && text.contains("1 to 1000"),
            "{text}"
        );
    }
    assert_eq!(clients.everything().await, before);
    let outcomes = clients.batch(many(1_000)).await.unwrap();
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Recorded(_)))
    );
    assert_eq!(clients.lifetime("ada").await.requests, 1_000);
}

#[tokio::test]
async fn an_id_with_another_payload_is_a_conflict_and_the_first_record_stands() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let first = clients.record(event("e")).await.unwrap();
    let before = clients.everything().await;
    let changes: [fn(&mut v1::UsageEvent); 5] = [
        |e| e.user_id = "bob".into(),
        |e| e.turn = Some(1),
        |e| e.stop_reason = "end_turn".into(),
        |e| {
            e.labels.push(v1::Label {
                key: "k".into(),
                value: "v".into(),
            })
        },
        |e| {
            if let Some(v1::usage_event::Usage::Lines(usage)) = &mut e.usage {
                usage.lines[0].counts.as_mut().unwrap().output += 1;
            }
        },
    ];
    let mut batch = vec![event("e"), event("new")];
    for change in changes {
        let mut other = event("e");
        change(&mut other);
        let status = clients.record(other.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists);
        let failure = refusal(&status);
        assert_eq!(failure.reason, R::EventConflict);
        assert_eq!(failure.resource, Some(("usage_event".into(), "e".into())));
        batch.push(other);
    }
    assert_eq!(clients.everything().await, before);
    let outcomes = clients.batch(batch).await.unwrap();
    let reasons: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Recorded(recorded) => recorded.outcome().as_str_name(),
            Outcome::Error(error) => error.reason().as_str_name(),
        })
        .collect();
    let mut expected = vec!["RECORD_OUTCOME_DUPLICATE", "RECORD_OUTCOME_RECORDED"];
    expected.extend(["ERROR_REASON_EVENT_CONFLICT"; 5]);
    assert_eq!(reasons, expected);
    let again = clients.record(event("e")).await.unwrap();
    let duplicate = v1::RecordOutcome::Duplicate.into();
    assert_eq!(
        again,
        v1::RecordedUsage {
            outcome: duplicate,
            ..first
        }
    );
    let stands = clients.find("e").await.unwrap();
    assert_eq!(
        (stands.user_id.as_str(), stands.total_tokens),
        ("ada", EVENT_TOKENS)
    );
    let totals = clients.lifetime("ada").await;
    assert_eq!(totals.requests, 2);
    assert_eq!(nano_usd(totals.cost.as_ref()), 2 * EVENT_NANO_USD);
}

fn list(page_size: i32, page_token: &str, user_id: &str) -> v1::ListUsageEventsRequest {
    v1::ListUsageEventsRequest {
        page_size,
        page_token: page_token.to_owned(),
        user_id: user_id.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn pages_are_coerced_or_refused_and_tokens_belong_to_their_list() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    for part in 0..2 {
        let events = (0..600).map(|n| event(&format!("e-{part}-{n}"))).collect();
        clients.batch(events).await.unwrap();
    }
    let mut ask = async |request| {
        let answer = clients.analytics.list_usage_events(request).await;
        answer.map(tonic::Response::into_inner)
    };
    assert_eq!(ask(list(0, "", "")).await.unwrap().events.len(), 50);
    assert_eq!(
        ask(list(i32::MAX, "", "")).await.unwrap().events.len(),
        1_000
    );
    let first = ask(list(7, "", "ada")).await.unwrap();
    assert_eq!(first.events.len(), 7);
    let token = first.next_page_token;
    let second = ask(list(7, &token, "ada")).await.unwrap();
    assert!(
        second
            .events
            .iter()
            .all(|event| !first.events.contains(event))
    );
    for page_size in [-1, i32::MIN] {
        let failure = refusal(&ask(list(page_size, "", "")).await.unwrap_err());
        assert_eq!(failure.reason, R::FieldInvalid);
        assert_eq!(failure.violations[0].0, "page_size");
        assert!(failure.violations[0].1.contains("to 1000"), "{failure:?}");
    }
    let forged = [
        token.replace('.', "!"),
        format!("{token}0"),
        "0.0.0".into(),
        "7".into(),
    ];
    let forged = forged.iter().map(|token| list(7, token, "ada"));
    for request in forged.chain([list(7, &token, "bob"), list(7, &token, "")]) {
        let failure = refusal(&ask(request.clone()).await.unwrap_err());
        assert_eq!(failure.reason, R::PageTokenInvalid, "{request:?}");
        assert_eq!(failure.violations[0].0, "page_token");
    }
}

#[tokio::test]
async fn tokens_of_the_price_book_belong_to_their_list_too() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let mut ask = async |page_size, token: &str, provider: &str| {
        let request = v1::ListPricesRequest {
            page_size,
            page_token: token.to_owned(),
            provider: provider.to_owned(),
            ..Default::default()
        };
        clients
            .admin
            .list_prices(request)
            .await
            .map(tonic::Response::into_inner)
    };
    let first = ask(3, "", "").await.unwrap();
    assert_eq!(first.prices.len(), 3);
    let second = ask(3, &first.next_page_token, "").await.unwrap();
    assert!(
        second
            .prices
            .iter()
            .all(|price| !first.prices.contains(price))
    );
    let failure = refusal(&ask(-1, "", "").await.unwrap_err());
    assert_eq!(failure.violations[0].0, "page_size");
    for (token, provider) in [
        (first.next_page_token.as_str(), "openai"),
        ("x", ""),
        ("-1", ""),
        ("1", ""),
    ] {
        let failure = refusal(&ask(3, token, provider).await.unwrap_err());
        assert_eq!(failure.reason, R::PageTokenInvalid, "{token} {provider}");
    }
}

/// Calls and expects a refusal for this reason that names this field.
macro_rules! refused {
    ($client:expr, $rpc:ident, $request:expr, $reason:ident, $field:expr) => {
        let status = $client.$rpc($request).await.unwrap_err();
        let failure = refusal(&status);
        assert_eq!(failure.reason, R::$reason, "{failure:?}");
        let named = failure.violations.iter().any(|(name, _)| name == $field);
        assert!(named, "{}: {failure:?}", $field);
    };
}

#[tokio::test]
async fn questions_out_of_bounds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut ask = Clients::of(&server).await.analytics;
    let long = "x".repeat(256);
    let user = v1::GetUserUsageRequest {
        user_id: long.clone(),
        ..Default::default()
    };
    refused!(ask, get_user_usage, user, FieldInvalid, "user_id");
    let interval = v1::GetUserUsageRequest {
        intervals: vec![99],
        ..Default::default()
    };
    refused!(ask, get_user_usage, interval, FieldInvalid, "intervals[0]");
    for session_id in [String::new(), long] {
        let session = v1::GetSessionUsageRequest { session_id };
        refused!(ask, get_session_usage, session, FieldInvalid, "session_id");
    }
    let labels = v1::ListUsageEventsRequest {
        labels: vec![v1::Label::default(); 9],
        ..Default::default()
    };
    refused!(ask, list_usage_events, labels, FieldInvalid, "labels");
    let turn = v1::ListUsageEventsRequest {
        turn: Some(1),
        ..Default::default()
    };
    refused!(ask, list_usage_events, turn, FieldInvalid, "turn");
    let unknown = v1::GetSessionUsageRequest {
        session_id: "no-such".into(),
    };
    let failure = refusal(&ask.get_session_usage(unknown).await.unwrap_err());
    assert_eq!(failure.code, Code::NotFound);
    assert_eq!(failure.resource, Some(("session".into(), "no-such".into())));
}

#[tokio::test]
async fn ranges_that_end_before_they_begin_are_refused_and_empty_ones_are_empty() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let at = Some(prost_types::Timestamp {
        seconds: 1_700_000_000,
        nanos: 0,
    });
    let placed = v1::UsageEvent {
        request_time: at,
        ..event("e")
    };
    clients.record(placed).await.unwrap();
    let mut ask = clients.analytics;
    let range = |seconds| v1::TimeRange {
        start_time: at,
        end_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
    };
    let usage = |seconds| v1::GetServiceUsageRequest {
        range: Some(range(seconds)),
        ..Default::default()
    };
    let events = |seconds| v1::ListUsageEventsRequest {
        range: Some(range(seconds)),
        ..Default::default()
    };
    let before = 1_699_999_999;
    refused!(ask, get_service_usage, usage(before), RangeInvalid, "range");
    refused!(
        ask,
        list_usage_events,
        events(before),
        RangeInvalid,
        "range"
    );
    for (end, found) in [(1_700_000_000, 0), (1_700_000_001, 1)] {
        let answer = ask.get_service_usage(usage(end)).await.unwrap();
        let totals = answer.into_inner().totals.unwrap();
        assert_eq!(totals.requests, found);
        assert_eq!(totals.total_tokens, found * EVENT_TOKENS);
        let answer = ask.list_usage_events(events(end)).await.unwrap();
        assert_eq!(answer.into_inner().events.len() as i64, found);
    }
}

#[tokio::test]
async fn changes_of_the_price_book_out_of_bounds_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut admin = Clients::of(&server).await.admin;
    let empty = v1::ImportPricesRequest {
        request_id: "r".into(),
        ..Default::default()
    };
    refused!(admin, import_prices, empty, FieldInvalid, "content");
    let unnamed = v1::ImportPricesRequest {
        content: "{}".into(),
        ..Default::default()
    };
    refused!(admin, import_prices, unnamed, FieldInvalid, "request_id");
    let no_file = v1::ImportPricesRequest {
        request_id: "r".into(),
        content: "[]".into(),
        ..Default::default()
    };
    refused!(admin, import_prices, no_file, ImportInvalid, "content");
    let none = v1::SetPricesRequest {
        request_id: "r".into(),
        ..Default::default()
    };
    refused!(admin, set_prices, none, FieldInvalid, "prices");
    let all = v1::ListPricesRequest::default();
    let mut price = admin
        .list_prices(all)
        .await
        .unwrap()
        .into_inner()
        .prices
        .remove(0);
    price.tiers[0].rates[0].pico_usd_per_token = -1;
    let negative = v1::SetPricesRequest {
        request_id: "r".into(),
        prices: vec![price],
        ..Default::default()
    };
    let failure = refusal(&admin.set_prices(negative).await.unwrap_err());
    assert_eq!(failure.reason, R::PriceInvalid);
    assert!(
        failure.violations[0].0.starts_with("prices[0]"),
        "{failure:?}"
    );
}
