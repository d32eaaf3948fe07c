//! Random sequences of records, retries, conflicts and reprices against a small reference.

use std::collections::BTreeMap;
use std::future::Future;

use proptest::prelude::*;
use tokenmeter_model::event::Event;
use tokenmeter_model::price::Quote;
use tokenmeter_model::totals::{BUCKET_US, Totals};
use tokenmeter_store::ledger::{
    Adjustment, EventQuery, Ledger, Outcome, Range, ServiceQuery, Subject,
};

use super::{T0, event, line, quote, record, submission, tenant};

/// The reference: every accepted event once, with the quote that stands for each of its lines.
type Reference = BTreeMap<String, (Event, i64, Vec<Option<Quote>>)>;

/// The ten lines that every total is held against: add up what passes the filter.
fn sum(
    reference: &Reference,
    range: Option<Range>,
    keep: impl Fn(&Event, &str) -> bool,
) -> [i64; 7] {
    let mut sums = [0; 7];
    for (event, time, quotes) in reference.values() {
        for (n, (line, quote)) in event.lines.iter().zip(quotes).enumerate() {
            if range.is_none_or(|r| r.from_us <= *time && *time < r.to_us)
                && keep(event, &line.model)
            {
                let quote =
                    quote.map_or([0, 0, 1], |q| [q.cost_nano_usd, q.cache_saving_nano_usd, 0]);
                let adds = [
                    i64::from(n == 0),
                    line.counts.input,
                    line.counts.cache_read,
                    line.counts.output,
                ];
                sums.iter_mut()
                    .zip(adds.into_iter().chain(quote))
                    .for_each(|(sum, add)| *sum += add);
            }
        }
    }
    sums
}

fn figures(t: &Totals) -> [i64; 7] {
    let tokens = [t.requests, t.input, t.cache_read, t.output];
    let rest = [t.cost_nano_usd, t.cache_saving_nano_usd, t.unpriced_lines];
    std::array::from_fn(|n| if n < 4 { tokens[n] } else { rest[n - 4] })
}

#[derive(Debug, Clone)]
enum Step {
    /// Sends events; ids repeat, so some are retries and some are conflicts.
    Record(Vec<Sent>),
    /// Sets a price for what has none.
    Reprice(i64),
}

#[derive(Debug, Clone)]
struct Sent {
    id: u8,
    payload: u8,
    lines: u8,
    minutes: i64,
    priced: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    (0..24_u8, 0..2_u8, 1..4_u8, 0..90_i64, any::<bool>()).prop_map(
        |(id, payload, lines, minutes, priced)| Sent {
            id,
            payload,
            lines,
            minutes,
            priced,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(sent(), 1..12).prop_map(Step::Record),
        1 => (1..1_000_i64).prop_map(Step::Reprice),
    ]
}

/// Everything about an event but its id follows from its id and payload, so that a retry is equal.
fn build(sent: &Sent) -> (Event, i64) {
    let seed = i64::from(sent.id) * 2 + i64::from(sent.payload);
    let lines = 1 + (sent.id + sent.payload + sent.lines) % 3;
    let time = T0 + sent.minutes * 60_000_000;
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
        lines: (0..lines)
            .map(|n| {
                let mut line = line(
                    &format!("m{}", (i64::from(n) + seed) % 3),
                    seed,
                    3 * seed + 1,
                );
                line.counts.cache_read = 5 * seed;
                line
            })
            .collect(),
        ..event(&format!("e{}", sent.id), "")
    };
    (event, time)
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
                let mut reference = Reference::new();
                for step in &steps {
                    match step {
                        Step::Record(sent) => send(&ledger, &mut reference, sent).await,
                        Step::Reprice(cost) => reprice(&ledger, &mut reference, *cost).await,
                    }
                    compare(&ledger, &reference).await;
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
        match reference.get(&id) {
            None => {
                assert!(matches!(outcome, Outcome::Recorded { .. }), "{outcome:?}");
                reference.insert(id, (one.event, one.charge_time_us, one.quotes));
            }
            Some((event, ..)) if *event == one.event => {
                assert!(matches!(outcome, Outcome::Duplicate(_)), "{outcome:?}");
            }
            Some(_) => assert!(matches!(outcome, Outcome::Conflict(_)), "{outcome:?}"),
        }
    }
}

async fn reprice(ledger: &impl Ledger, reference: &mut Reference, cost: i64) {
    let owner = tenant("a");
    let to = quote(cost).unwrap();
    let waiting = ledger.unpriced_lines(&owner, 0, 1_000).await.unwrap();
    let adjustments: Vec<_> = waiting
        .iter()
        .map(|line| Adjustment {
            position: line.position,
            from: None,
            to,
        })
        .collect();
    let applied = ledger
        .adjust(&owner, adjustments.clone(), T0)
        .await
        .unwrap();
    assert_eq!(usize::try_from(applied).unwrap(), waiting.len());
    // Sent again, nothing applies: the quote that the caller saw no longer stands.
    assert_eq!(ledger.adjust(&owner, adjustments, T0).await.unwrap(), 0);
    for (_, _, quotes) in reference.values_mut() {
        quotes
            .iter_mut()
            .filter(|quote| quote.is_none())
            .for_each(|quote| *quote = Some(to));
    }
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
    assert_eq!(listed.len(), reference.len());
    for one in listed {
        let (event, time, quotes) = &reference[&one.event.event_id];
        assert_eq!((&one.event, &one.charge_time_us), (event, time));
        let costs = |quotes: &[Option<Quote>]| -> Vec<Option<i64>> {
            quotes
                .iter()
                .map(|quote| quote.map(|quote| quote.cost_nano_usd))
                .collect()
        };
        assert_eq!(costs(&one.quotes), costs(quotes));
    }
}
