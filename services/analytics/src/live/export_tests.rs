//! Exports of the largest events that the bounds allow.

use std::sync::Arc;

use futures_util::StreamExt as _;
use prost::Message as _;
use tokenmeter_api::convert::event::recorded_event;
use tokenmeter_api::streams::Streams;
use tokenmeter_api::v1;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{MAX_LABELS, MAX_LINES, MAX_TEXT_BYTES, MAX_TOOL_KINDS};
use tokenmeter_model::counts::Line;
use tokenmeter_model::event::Event;
use tokenmeter_store::clock;
use tokenmeter_store::ledger::{Ledger, Submission};
use tokenmeter_store::sqlite::Sqlite;
use tokio_util::sync::CancellationToken;

use super::*;

/// More than parts of any form hold.
const EVENTS: usize = 15;

/// A text of full length that JSON writes with six bytes a character, another one for each number.
fn text(n: usize) -> String {
    let number = format!("{n}");
    "\u{1}".repeat(MAX_TEXT_BYTES - number.len()) + &number
}

fn largest(n: usize) -> Event {
    let line = |n| Line {
        model: text(n),
        counts: Default::default(),
        tool_requests: (0..MAX_TOOL_KINDS).map(|n| (text(n), 1)).collect(),
    };
    Event {
        event_id: text(n),
        user_id: text(0),
        team_id: text(0),
        session_id: text(0),
        provider: "p".into(),
        labels: (0..MAX_LABELS).map(|n| (text(n), text(n))).collect(),
        lines: (0..MAX_LINES).map(line).collect(),
        ..Event::default()
    }
}

fn submission(caller: &Caller, n: usize) -> Submission {
    // A small one between large ones.
    let event = match n % 3 {
        0 => Event {
            labels: Vec::new(),
            ..largest(n)
        },
        _ => largest(n),
    };
    Submission {
        tenant: caller.tenant.clone(),
        fingerprint: event.fingerprint(),
        quotes: vec![None; event.lines.len()],
        event,
        charge_time_us: 1,
        recorded_at_us: 1,
        api_key_id: String::new(),
    }
}

/// All parts after a token, each in bounds.
async fn parts(
    live: &Live,
    caller: &Caller,
    format: v1::ExportFormat,
    resume_token: &str,
) -> Vec<v1::ExportUsageResponse> {
    let request = v1::ExportUsageRequest {
        format: format.into(),
        ..Default::default()
    };
    let format = wire::export_format(&request).unwrap();
    let asked = wire::export_asked(&request, format).unwrap();
    let export = live.export(caller, asked, resume_token).await.unwrap();
    let parts: Vec<_> = wire::export(export, format, "epoch".into()).collect().await;
    let parts: Vec<_> = parts.into_iter().map(Result::unwrap).collect();
    for part in &parts {
        assert!(part.data.len() <= 1_048_576, "{} bytes", part.data.len());
        let message = part.encoded_len();
        assert!(message <= 1_048_576 + 4_096, "a message of {message} bytes");
    }
    parts
}

fn content(parts: &[v1::ExportUsageResponse]) -> (Vec<v1::RecordedEvent>, Vec<u8>) {
    let events = parts.iter().flat_map(|part| part.events.clone());
    let data = parts.iter().flat_map(|part| part.data.to_vec());
    (events.collect(), data.collect())
}

#[tokio::test]
async fn parts_of_the_largest_events_are_in_bounds_and_go_on_where_they_broke() {
    let folder = tempfile::tempdir().unwrap();
    let ledger: Arc<dyn Ledger> =
        Arc::new(Sqlite::open(&folder.path().join("t.db")).await.unwrap());
    let caller = Caller::anonymous(&Default::default()).unwrap();
    let batch: Arc<[_]> = (0..EVENTS).map(|n| submission(&caller, n)).collect();
    for outcome in ledger.record(batch).await.unwrap() {
        outcome.unwrap();
    }
    let live = Live::new(
        Arc::clone(&ledger),
        Streams::new(2),
        clock::system(),
        CancellationToken::new(),
    );
    let query = tokenmeter_store::ledger::EventQuery {
        limit: 100,
        ..Default::default()
    };
    let mut recorded = ledger.events(&caller.tenant, &query).await.unwrap();
    recorded.sort_by_key(|event| event.position);
    let recorded: Vec<_> = recorded
        .into_iter()
        .map(|event| recorded_event(event, "epoch"))
        .collect();
    assert_eq!(recorded.len(), EVENTS);

    for format in [v1::ExportFormat::Events, v1::ExportFormat::JsonLines] {
        let whole = parts(&live, &caller, format, "").await;
        let (events, data) = content(&whole);
        if format == v1::ExportFormat::Events {
            assert_eq!(events, recorded);
        } else {
            let lines = data
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty());
            assert_eq!(lines.count(), EVENTS);
            assert!(whole.iter().all(|part| part.data.ends_with(b"\n")));
        }
        assert!(whole.len() >= 2, "{} parts", whole.len());
        let last = whole.last().unwrap();
        assert_eq!(last.summary.as_ref().unwrap().events, EVENTS as i64);
        for n in [1, whole.len() - 1] {
            let rest = parts(&live, &caller, format, &whole[n - 1].resume_token).await;
            assert_eq!(content(&rest), content(&whole[n..]), "after part {n}");
            assert_eq!(rest.last().unwrap().summary, last.summary);
        }
    }
}
