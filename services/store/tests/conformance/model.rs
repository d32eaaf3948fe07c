//! Random sequences of records, retries, conflicts, voids, reprices, items and purges against a small
//! reference.

mod purged;
mod reference;

use std::collections::BTreeMap;
use std::future::Future;

use proptest::prelude::*;
use tokenmeter_model::counts::{CacheWrites, Line, TokenCounts};
use tokenmeter_model::event::{Event, Status};
use tokenmeter_model::item::{Item, ToolInvocation, ToolStatus};
use tokenmeter_model::totals::BUCKET_US;
use tokenmeter_store::ledger::correction::{Adjustment, RepriceQuery, RepriceStep, VoidOutcome};
use tokenmeter_store::ledger::items::ItemOutcome;
use tokenmeter_store::ledger::log::Change;
use tokenmeter_store::ledger::{
    EventQuery, Ledger, Outcome, Range, Recorded, ServiceQuery, Subject, Voided, reports,
};

use self::reference::{Reference, Standing, figures, sum};
use super::items::{champion, message, record_items, tool};
use super::retention::DAY_US;
use super::{T0, event, quote, record, request, submission, tenant};

/// From one month into the one before, and not further.
const MONTH_US: i64 = 30 * DAY_US;

#[derive(Debug, Clone)]
enum Step {
    /// Sends events; ids repeat, so some are retries and some are conflicts.
    Record(Vec<Sent>),
    /// Sets a price for what has none, or for every line.
    Reprice { cost: i64, include_priced: bool },
    /// Voids an event, if there is one of this id.
    Void(u8),
    /// Sends items; ids repeat, as with events.
    Items(Vec<SentItem>),
    /// Drops what is older than the month that was so many months ago.
    Purge(i64),
}

/// An item of one of three kinds, with one of a few ids and contents.
#[derive(Debug, Clone)]
struct SentItem {
    kind: u8,
    id: u8,
    content: u8,
}

/// The reference of items: by kind and id, the contents that are known of it, last the one that
/// stands, and when the first came.
type Items = BTreeMap<(u8, u8), (Vec<u8>, i64)>;

#[derive(Debug, Clone)]
struct Sent {
    id: u8,
    payload: u8,
    lines: u8,
    minutes: i64,
    /// So many months ago.
    months: i64,
    priced: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let what = (0..24_u8, 0..2_u8, 1..4_u8, any::<bool>());
    (what, 0..90_i64, 0..3_i64).prop_map(|((id, payload, lines, priced), minutes, months)| Sent {
        id,
        payload,
        lines,
        minutes,
        months,
        priced,
    })
}

fn sent_item() -> impl Strategy<Value = SentItem> {
    (0..3_u8, 0..5_u8, 0..4_u8).prop_map(|(kind, id, content)| SentItem { kind, id, content })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(sent(), 1..12).prop_map(Step::Record),
        1 => (1..1_000_i64, any::<bool>())
            .prop_map(|(cost, include_priced)| Step::Reprice { cost, include_priced }),
        2 => (0..24_u8).prop_map(Step::Void),
        1 => proptest::collection::vec(sent_item(), 1..12).prop_map(Step::Items),
        1 => (0..3_i64).prop_map(Step::Purge),
    ]
}

/// Everything about an event but its id follows from its id and payload, so that a retry is equal.
fn build(sent: &Sent) -> (Event, i64) {
    let seed = i64::from(sent.id) * 2 + i64::from(sent.payload);
    let lines = 1 + (sent.id + sent.payload + sent.lines) % 3;
    let time = T0 - sent.months * MONTH_US + sent.minutes * 60_000_000;
    let event = Event {
        user_id: format!("u{}", sent.id % 3),
        team_id: if sent.id.is_multiple_of(4) {
            String::new()
        } else {
            format!("t{}", sent.id % 2)
        },
        session_id: if sent.id.is_multiple_of(5) {
            String::new()
        } else {
            format!("s{}", sent.id % 4)
        },
        request_time_us: Some(time),
        status: [Status::Succeeded, Status::Failed, Status::Interrupted]
            [usize::from(sent.id + sent.payload) % 3],
        latency_ms: (sent.id % 4 != 1).then_some(100 + seed),
        lines: (0..lines).map(|n| build_line(seed, n.into())).collect(),
        ..event(&format!("e{}", sent.id), "")
    };
    (event, time)
}

/// A line with every figure set, each to another number.
fn build_line(seed: i64, n: i64) -> Line {
    let mut figure = 0;
    let mut next = || {
        figure += 1;
        figure * (seed + n) + figure
    };
    Line {
        model: format!("m{}", (n + seed) % 3),
        counts: TokenCounts {
            reasoning: next(),
            input_audio: next(),
            input_image: next(),
            tool_use_prompt: next(),
            cache_read_audio: next(),
            output_audio: next(),
            output_image: next(),
            cache_write: CacheWrites {
                ttl_5m: next(),
                ttl_30m: next(),
                ttl_1h: next(),
                ttl_12h: next(),
                unspecified: next(),
            },
            // The wholes come last: each is larger than its parts together.
            cache_read: next(),
            input: next(),
            output: next(),
        },
        tool_requests: [("web_search", next()), ("web_fetch", n)]
            .map(|(tool, requests)| (tool.to_owned(), requests))
            .into(),
    }
}

pub fn totals_equal_the_reference_at_every_step<L, K, F>(open: impl Fn() -> F)
where
    L: Ledger,
    F: Future<Output = (L, K)>,
{
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let steps = proptest::collection::vec(step(), 1..12);
    runner
        .run(&steps, |steps| {
            runtime.block_on(async {
                let (ledger, _kept) = open().await;
                let mut reference = Reference::default();
                let mut known = Items::new();
                for (n, step) in steps.iter().enumerate() {
                    // A request of its own for each step.
                    let name = format!("request-{n}");
                    match step {
                        Step::Record(sent) => send(&ledger, &mut reference, sent).await,
                        Step::Reprice {
                            cost,
                            include_priced,
                        } => {
                            reprice(&ledger, &mut reference, &name, *cost, *include_priced).await;
                        }
                        Step::Items(sent) => {
                            let now = T0 + i64::try_from(n).unwrap();
                            send_items(&ledger, &mut known, sent, now).await;
                        }
                        Step::Void(id) => void(&ledger, &mut reference, &name, *id).await,
                        Step::Purge(months) => {
                            purged::purge(&ledger, &mut reference, T0 - months * MONTH_US).await;
                        }
                    }
                    compare(&ledger, &reference).await;
                    purged::compare(&ledger, &reference).await;
                    follow(&ledger, &reference).await;
                    compare_items(&ledger, &known).await;
                }
            });
            Ok(())
        })
        .unwrap();
}

async fn send(ledger: &impl Ledger, reference: &mut Reference, sent: &[Sent]) {
    let mut batch = Vec::new();
    for one in sent {
        let (event, time) = build(one);
        let mut submission = submission("a", event, i64::from(one.id) + 1, time);
        if !one.priced {
            submission.quotes[0] = None;
        }
        batch.push(submission);
    }
    for (outcome, one) in record(ledger, batch.clone()).await.into_iter().zip(batch) {
        let id = one.event.event_id.clone();
        let sealed = reference.sealed_before;
        let standing = reference.get(&id);
        if one.charge_time_us < sealed || standing.is_some_and(|standing| standing.time < sealed) {
            // Of another time than the one that stands and is kept, it is a conflict as well.
            let conflicts = standing.is_some_and(|standing| standing.time >= sealed);
            match outcome {
                Outcome::TooOld { oldest_us } => assert_eq!(oldest_us, sealed),
                Outcome::Conflict(_) if conflicts => {}
                other => panic!("{other:?}"),
            }
            continue;
        }
        match standing {
            None => {
                assert!(matches!(outcome, Outcome::Recorded { .. }), "{outcome:?}");
                let standing = Standing {
                    event: one.event,
                    time: one.charge_time_us,
                    first: one.quotes.clone(),
                    quotes: one.quotes,
                    voided: None,
                };
                reference.insert(id, standing);
            }
            // A retry gets its first answer, whatever happened to the event since.
            Some(standing) if standing.event == one.event => match outcome {
                Outcome::Duplicate(was) => {
                    assert_eq!(
                        (&was.event, &was.quotes),
                        (&standing.event, &standing.first)
                    );
                    assert_eq!(was.voided, standing.voided);
                }
                other => panic!("{other:?}"),
            },
            Some(standing) => match outcome {
                Outcome::Conflict(was) => assert_eq!(was.voided, standing.voided),
                other => panic!("{other:?}"),
            },
        }
    }
}

/// Contents 0 and 1 of a tool are starts of one use, 2 and 3 are ends of it.
fn build_item(sent: &SentItem) -> Item {
    let id = format!("i{}", sent.id);
    let content = i64::from(sent.content);
    match sent.kind {
        0 => {
            let status = match sent.content {
                0 | 1 => ToolStatus::Started,
                _ => ToolStatus::Failed,
            };
            Item::Tool(ToolInvocation {
                estimated_tokens: content,
                ..tool(&id, status)
            })
        }
        1 => message(&id, content),
        _ => champion(&id, content + 1),
    }
}

async fn send_items(ledger: &impl Ledger, known: &mut Items, sent: &[SentItem], now: i64) {
    let batch = sent.iter().map(build_item).collect();
    let outcomes = record_items(ledger, "a", batch, now).await;
    for (outcome, one) in outcomes.into_iter().zip(sent) {
        let (contents, recorded_at_us) =
            known.entry((one.kind, one.id)).or_insert((Vec::new(), now));
        let recorded_at_us = *recorded_at_us;
        let ends = one.kind == 0 && one.content >= 2 && matches!(contents[..], [0 | 1]);
        let expected = if contents.contains(&one.content) {
            ItemOutcome::Duplicate { recorded_at_us }
        } else if contents.is_empty() || ends {
            contents.push(one.content);
            ItemOutcome::Recorded { recorded_at_us }
        } else {
            ItemOutcome::Conflict
        };
        assert_eq!(outcome, expected, "{one:?}");
    }
}

async fn void(ledger: &impl Ledger, reference: &mut Reference, name: &str, id: u8) {
    let id = format!("e{id}");
    let now = T0 + i64::try_from(reference.len()).unwrap();
    let wanted = super::void("a", name, &id, &format!("because of {name}"), now);
    let outcome = ledger.void(wanted.clone()).await.unwrap();
    let sealed = reference.sealed_before;
    let Some(standing) = reference.get_mut(&id) else {
        assert_eq!(outcome, VoidOutcome::NotFound);
        return;
    };
    if standing.time < sealed {
        assert_eq!(outcome, VoidOutcome::TooOld { oldest_us: sealed });
        return;
    }
    let already = standing.voided.is_some();
    let voided = standing.voided.get_or_insert(Voided {
        at_us: now,
        reason: wanted.reason.clone(),
    });
    match &outcome {
        VoidOutcome::Voided {
            event,
            already: was,
        } => {
            assert_eq!(*was, already);
            assert_eq!(event.voided.as_ref(), Some(&*voided));
            assert_eq!(event.quotes, standing.quotes);
        }
        other => panic!("{other:?}"),
    }
    // Sent again, it gets its first answer; with another content it is told apart.
    assert_eq!(ledger.void(wanted).await.unwrap(), outcome);
    let other = super::void("a", name, &id, "another reason", now);
    let outcome = ledger.void(other).await.unwrap();
    assert_eq!(outcome, VoidOutcome::RequestConflict);
}

async fn reprice(
    ledger: &impl Ledger,
    reference: &mut Reference,
    name: &str,
    cost: i64,
    include_priced: bool,
) {
    let owner = tenant("a");
    let to = quote(cost).unwrap();
    let query = RepriceQuery {
        include_priced,
        ..RepriceQuery::default()
    };
    let last = ledger.last_position().await.unwrap();
    let found = ledger.reprice_candidates(&owner, &query, 0, last).await;
    let adjustments: Vec<_> = found
        .unwrap()
        .iter()
        .filter(|line| line.priced.quote != Some(to))
        .map(|line| Adjustment {
            position: line.position,
            from: line.priced.quote,
            to,
        })
        .collect();
    let sealed = reference.sealed_before;
    let wanted: Vec<_> = reference
        .values_mut()
        .filter(|one| one.voided.is_none() && one.time >= sealed)
        .flat_map(|one| &mut one.quotes)
        .filter(|quote| **quote != Some(to) && (include_priced || quote.is_none()))
        .collect();
    assert_eq!(adjustments.len(), wanted.len());
    let step = RepriceStep {
        request: request("a", name, "RepriceUsage", T0),
        previous: None,
        reprice_id: name.into(),
        adjustments,
        progress: "half".into(),
    };
    assert!(ledger.reprice(step.clone()).await.unwrap());
    if !wanted.is_empty() {
        // Sent again, nothing applies: the quotes that the caller saw no longer stand.
        assert!(!ledger.reprice(step).await.unwrap());
    }
    let remembered = ledger.remembered(&owner, name).await.unwrap().unwrap();
    assert_eq!(remembered.answer, "half");
    wanted.into_iter().for_each(|quote| *quote = Some(to));
}

async fn compare(ledger: &impl Ledger, reference: &Reference) {
    let owner = tenant("a");
    let ragged = Range {
        from_us: T0 + 7 * 60_000_000,
        to_us: T0 + BUCKET_US * 4 + 1,
    };
    for range in [
        None,
        Some(ragged),
        Some(Range {
            from_us: T0,
            to_us: T0 + 1,
        }),
    ] {
        for n in 0..4 {
            let (user, team, session) = (format!("u{n}"), format!("t{n}"), format!("s{n}"));
            for (subject, expected) in [
                (
                    Subject::User(&user),
                    sum(reference, range, |e, _| e.user_id == user),
                ),
                (
                    Subject::Team(&team),
                    sum(reference, range, |e, _| e.team_id == team),
                ),
                (
                    Subject::Session(&session),
                    sum(reference, range, |e, _| e.session_id == session),
                ),
            ] {
                let totals = ledger.totals(&owner, subject, range).await.unwrap();
                assert_eq!(figures(&totals), expected, "{subject:?} {range:?}");
            }
        }
        let query = ServiceQuery {
            range,
            ..ServiceQuery::default()
        };
        for model in ledger.service_usage(&owner, &query).await.unwrap().models {
            let expected = sum(reference, range, |_, m| m == model.model);
            assert_eq!(
                figures(&model.totals),
                expected,
                "{} {range:?}",
                model.model
            );
        }
    }
    let session = ledger.session(&owner, "s1").await.unwrap();
    let of_session: Vec<_> = reference
        .values()
        .filter(|one| one.voided.is_none() && one.event.session_id == "s1")
        .collect();
    assert_eq!(session.is_some(), !of_session.is_empty());
    if let Some(session) = &session {
        let times = || of_session.iter().map(|one| one.time);
        assert_eq!(Some(session.first_us), times().min());
        assert_eq!(Some(session.last_us), times().max());
    }
    for model in session.map(|session| session.models).unwrap_or_default() {
        let expected = sum(reference, None, |e, m| {
            e.session_id == "s1" && m == model.model
        });
        assert_eq!(figures(&model.totals), expected);
    }
    let query = EventQuery {
        limit: 1_000,
        ..EventQuery::default()
    };
    let listed = ledger.events(&owner, &query).await.unwrap();
    assert_eq!(listed.len(), reference.kept().count());
    for one in listed {
        let standing = &reference[&one.event.event_id];
        assert_eq!(one.event, standing.event);
        assert_eq!(one.charge_time_us, standing.time);
        assert_eq!(one.voided, standing.voided);
        assert_eq!(one.quotes, standing.quotes);
    }
    let kept = Range {
        from_us: reference.sealed_before,
        to_us: i64::MAX,
    };
    let all = sum(reference, Some(kept), |_, _| true);
    let (_, waiting) = *all
        .iter()
        .find(|(name, _)| *name == "unpriced_lines")
        .unwrap();
    let unpriced = ledger.unpriced(&owner, None, 100).await.unwrap();
    assert_eq!(unpriced.total_lines, waiting);
    let listed: i64 = unpriced.models.iter().map(|model| model.lines).sum();
    assert_eq!(listed, waiting);
}

/// Who folds the log, a few positions at a time, arrives at what stands; from where it begins since
/// the last purge, at what was recorded from there on.
async fn follow(ledger: &impl Ledger, reference: &Reference) {
    let owner = tenant("a");
    let start = ledger.log_start(&owner).await.unwrap();
    let last = ledger.last_position().await.unwrap();
    let mut folded: BTreeMap<String, Recorded> = BTreeMap::new();
    let mut after = start;
    while after < last {
        let page = ledger.log(&owner, after, 7).await.unwrap();
        assert!(page.through > after, "the log stands still at {after}");
        after = page.through;
        for entry in page.entries {
            let event = match &entry.change {
                Change::Recorded(event) => event,
                Change::Voided(event) => {
                    assert!(event.voided.is_some());
                    let before = folded.get(&event.event.event_id);
                    assert!(before.map_or(start > 0, |one| one.quotes == event.quotes));
                    event
                }
                Change::Repriced {
                    event, previous, ..
                } => {
                    let before = folded.get(&event.event.event_id);
                    assert!(before.map_or(start > 0, |one| one.quotes == *previous));
                    event
                }
            };
            folded.insert(event.event.event_id.clone(), event.clone());
        }
    }
    if start == 0 {
        assert_eq!(folded.len(), reference.len());
    }
    for (id, event) in &folded {
        let standing = &reference[id];
        assert!(standing.time >= reference.sealed_before);
        assert_eq!(event.event, standing.event);
        assert_eq!(event.quotes, standing.quotes);
        assert_eq!(event.voided, standing.voided);
    }
}

/// Tools and messages read back as the items that stand.
async fn compare_items(ledger: &impl Ledger, known: &Items) {
    let owner = tenant("a");
    let page = reports::Page {
        limit: 100,
        ..reports::Page::default()
    };
    let of_kind = |kind: u8| -> Vec<(u8, u8)> {
        let items = known.iter().filter(|((of, _), _)| *of == kind);
        items
            .map(|((_, id), (contents, _))| (*id, contents[contents.len() - 1]))
            .collect()
    };
    let tools = of_kind(0);
    let used = ledger
        .tools(&owner, &reports::ToolQuery::default(), page)
        .await;
    let used: Vec<_> = used
        .unwrap()
        .entries
        .iter()
        .map(|tool| (tool.calls, tool.failed, tool.estimated_tokens))
        .collect();
    let calls = i64::try_from(tools.len()).unwrap();
    let ended = tools
        .iter()
        .map(|(_, content)| i64::from(*content >= 2))
        .sum();
    let tokens = tools.iter().map(|(_, content)| i64::from(*content)).sum();
    let expected = if tools.is_empty() {
        vec![]
    } else {
        vec![(calls, ended, tokens)]
    };
    assert_eq!(used, expected);
    let messages = ledger.messages(&owner, "s", "", page).await.unwrap();
    let mut listed: Vec<_> = messages
        .entries
        .into_iter()
        .map(|message| match message {
            reports::Message::Item(item) => (item.message_id, item.tokens),
            reports::Message::Event(event) => panic!("{event:?}"),
        })
        .collect();
    listed.sort();
    let expected: Vec<_> = of_kind(1)
        .into_iter()
        .map(|(id, content)| (format!("i{id}"), Some(i64::from(content))))
        .collect();
    assert_eq!(listed, expected);
}
