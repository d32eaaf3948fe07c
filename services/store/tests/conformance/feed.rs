//! feed_complete: who follows the log gets everything that was recorded, voided and repriced, in
//! commit order, each once, wherever it is cut off and goes on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokenmeter_model::event::Event;
use tokenmeter_model::totals::Totals;
use tokenmeter_store::ledger::correction::{Adjustment, RepriceQuery, RepriceStep, VoidOutcome};
use tokenmeter_store::ledger::log::{Change, Entry, ExportQuery};
use tokenmeter_store::ledger::{Ledger, Outcome, Recorded};
use tokenmeter_store::tail::Tail;

use super::{T0, event, line, quote, record, request, submission, tenant, user_totals, void};

/// How long a subscriber waits for what has been committed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Voids an event, with the reason `mistake`.
pub async fn take_out(ledger: &dyn Ledger, id: &str) {
    let outcome = ledger.void(void("a", &format!("void-{id}"), id, "mistake", T0 + 2));
    assert!(matches!(
        outcome.await.unwrap(),
        VoidOutcome::Voided { already: false, .. }
    ));
}

/// An event of some lines, of which the first may be unpriced.
pub async fn send(ledger: &dyn Ledger, owner: &str, id: &str, lines: usize, priced: bool) -> i64 {
    let one = Event {
        lines: (0..lines)
            .map(|n| line(&format!("m{n}"), 10 + i64::try_from(n).unwrap(), 5))
            .collect(),
        ..event(id, "u")
    };
    let mut one = submission(owner, one, 100, T0);
    if !priced {
        one.quotes[0] = None;
    }
    match record(ledger, vec![one]).await[..] {
        [Outcome::Recorded { position }] => position,
        ref other => panic!("{other:?}"),
    }
}

/// Prices what waits for a price; answers how many lines.
pub async fn reprice(ledger: &dyn Ledger, cost: i64, run: &str) -> usize {
    let all = RepriceQuery::default();
    let end = ledger.last_position().await.unwrap();
    let waiting = ledger.reprice_candidates(&tenant("a"), &all, 0, end).await;
    let adjustments: Vec<_> = waiting
        .unwrap()
        .iter()
        .map(|line| Adjustment {
            position: line.position,
            from: None,
            to: quote(cost).unwrap(),
        })
        .collect();
    let lines = adjustments.len();
    let step = RepriceStep {
        request: request("a", run, "RepriceUsage", T0 + 1),
        previous: None,
        reprice_id: run.to_owned(),
        adjustments,
        progress: String::new(),
    };
    assert!(ledger.reprice(step).await.unwrap());
    lines
}

/// The whole log, read so many positions at a time.
pub async fn whole(ledger: &dyn Ledger, owner: &str, positions: i64) -> Vec<Arc<Entry>> {
    let end = ledger.last_position().await.unwrap();
    let (mut at, mut entries) = (0, Vec::new());
    while at < end {
        let page = ledger.log(&tenant(owner), at, positions).await.unwrap();
        assert!(page.through > at && page.through <= end, "{at} {page:?}");
        at = page.through;
        entries.extend(page.entries);
    }
    entries
}

/// What stands after every change, by event id.
fn fold(entries: &[Arc<Entry>]) -> BTreeMap<String, Recorded> {
    let mut standing = BTreeMap::new();
    let mut last = 0;
    for entry in entries {
        assert!(entry.position > last, "{entry:?} after {last}");
        last = entry.position;
        match &entry.change {
            Change::Recorded(event) => {
                let id = event.event.event_id.clone();
                assert_eq!(standing.insert(id, event.clone()), None, "{entry:?} again");
            }
            Change::Repriced {
                event, previous, ..
            } => {
                let before = standing.insert(event.event.event_id.clone(), event.clone());
                assert_eq!(&before.unwrap().quotes, previous);
            }
            Change::Voided(event) => {
                let before = standing.remove(&event.event.event_id).unwrap();
                let voided = event.voided.as_ref().unwrap();
                assert_eq!(voided.reason, "mistake");
                assert_eq!(before.quotes, event.quotes);
            }
        }
    }
    standing
}

fn sums(standing: &BTreeMap<String, Recorded>) -> [i64; 5] {
    let mut sums = [0; 5];
    for one in standing.values() {
        sums[0] += 1;
        for (line, quote) in one.event.lines.iter().zip(&one.quotes) {
            sums[1] += line.counts.input;
            sums[2] += line.counts.output;
            sums[3] += quote.map_or(0, |quote| quote.cost_nano_usd);
            sums[4] += i64::from(quote.is_none());
        }
    }
    sums
}

fn figures(totals: &Totals) -> [i64; 5] {
    let Totals {
        requests,
        input,
        output,
        cost_nano_usd,
        unpriced_lines,
        ..
    } = *totals;
    [requests, input, output, cost_nano_usd, unpriced_lines]
}

/// Folding the log from the beginning gives the totals; another tenant's is not in it; and pages of
/// any size hold the same entries.
pub async fn the_log_folds_to_the_totals(ledger: &dyn Ledger) {
    let a = tenant("a");
    let empty = ledger.log(&a, 0, 100).await.unwrap();
    assert_eq!((empty.entries.len(), empty.through), (0, 0));
    for n in 0..12 {
        send(ledger, "a", &format!("e{n}"), 1 + n % 4, n % 3 != 0).await;
        send(ledger, "b", &format!("e{n}"), 1 + n % 2, true).await;
    }
    assert_eq!(reprice(ledger, 7, "run").await, 4);
    for owner in ["a", "b"] {
        let totals = user_totals(ledger, owner, "u").await;
        let entries = whole(ledger, owner, 1_000).await;
        assert_eq!(sums(&fold(&entries)), figures(&totals), "{owner}");
    }
    assert_eq!(whole(ledger, "b", 7).await.len(), 12);
    assert_eq!(whole(ledger, "c", 7).await.len(), 0);

    // A void after a reprice takes out the new price; one of several lines is one entry.
    let before = fold(&whole(ledger, "a", 1_000).await);
    let moment = ledger.last_position().await.unwrap();
    for id in ["e3", "e6"] {
        take_out(ledger, id).await;
    }
    send(ledger, "a", "last", 2, true).await;
    let entries = whole(ledger, "a", 1_000).await;
    let kinds = entries.iter().map(|entry| match entry.change {
        Change::Recorded(_) => 'r',
        Change::Repriced { .. } => 'p',
        Change::Voided(_) => 'v',
    });
    assert_eq!(kinds.collect::<String>(), "rrrrrrrrrrrrppppvvr");
    let mut expected = before.clone();
    expected.remove("e3");
    expected.remove("e6");
    let mut standing = fold(&entries);
    assert!(standing.remove("last").is_some());
    assert_eq!(standing, expected);
    for positions in 1..=50 {
        assert_eq!(whole(ledger, "a", positions).await, entries, "{positions}");
    }
    exports_are_of_their_moment(ledger, moment, &before).await;
    let end = ledger.last_position().await.unwrap();
    let past = ledger.log(&a, end + 5, 10).await.unwrap();
    assert_eq!((past.entries.len(), past.through), (0, end + 5));
}

/// As of a moment nothing that came later shows: not the voids of two events, not the last event.
async fn exports_are_of_their_moment(
    ledger: &dyn Ledger,
    moment: i64,
    before: &BTreeMap<String, Recorded>,
) {
    let mut expected: Vec<_> = before.values().cloned().collect();
    expected.sort_by_key(|event| (event.charge_time_us, event.position));
    let mut query = ExportQuery {
        as_of: moment,
        user_id: "u".into(),
        range: None,
        include_voided: false,
        after: None,
        limit: 5,
    };
    let mut got = Vec::new();
    loop {
        let page = ledger.export(&tenant("a"), &query).await.unwrap();
        let Some(last) = page.last() else { break };
        query.after = Some((last.charge_time_us, last.position));
        got.extend(page);
    }
    assert_eq!(got, expected);
    query.after = None;
    query.limit = 100;
    query.as_of = ledger.last_position().await.unwrap();
    let now = ledger.export(&tenant("a"), &query).await.unwrap();
    assert_eq!(now.len(), expected.len() + 1 - 2);
    query.include_voided = true;
    let all = ledger.export(&tenant("a"), &query).await.unwrap();
    let voided = all.iter().filter(|event| event.voided.is_some());
    assert_eq!((all.len(), voided.count()), (expected.len() + 1, 2));
    query.user_id = "nobody".into();
    assert_eq!(ledger.export(&tenant("a"), &query).await.unwrap(), []);
}

#[derive(Debug, Clone)]
enum Step {
    Record {
        lines: usize,
        priced: bool,
        others: bool,
    },
    Reprice(i64),
    /// Voids the event of this number, unless it is voided.
    Void(usize),
    /// A subscriber takes some pages at most.
    Take {
        who: usize,
        pages: usize,
    },
    /// A subscriber is cut off, and goes on after the last entry that it has seen.
    Cut(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4_usize, any::<bool>(), any::<bool>()).prop_map(|(lines, priced, others)| {
            Step::Record { lines, priced, others }
        }),
        1 => (1..100_i64).prop_map(Step::Reprice),
        2 => (0..20_usize).prop_map(Step::Void),
        4 => (0..3_usize, 1..3_usize).prop_map(|(who, pages)| Step::Take { who, pages }),
        3 => (0..3_usize).prop_map(Step::Cut),
    ]
}

/// A subscriber with what it has seen.
struct Follower {
    subscription: Option<tokenmeter_store::tail::Subscription>,
    seen: Vec<Arc<Entry>>,
}

impl Follower {
    /// Takes a page if there is one, beginning after the last entry seen.
    async fn take(&mut self, tail: &Arc<Tail>) {
        let after = self.seen.last().map_or(0, |entry| entry.position);
        let subscription = self
            .subscription
            .get_or_insert_with(|| tail.subscribe(&tenant("a"), after));
        let page = subscription.next().await.unwrap();
        self.seen.extend(page.entries);
    }
}

/// Random changes while subscribers are cut off and go on; in the end each has seen the whole log.
pub fn feed_complete<L, K, F>(open: impl Fn() -> F)
where
    L: Ledger,
    F: Future<Output = (L, K)>,
{
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        // What fails here is a wait that runs out, and each smaller case would wait as long.
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    });
    runner
        .run(&proptest::collection::vec(step(), 10..60), |steps| {
            runtime.block_on(async {
                let (ledger, _kept) = open().await;
                play(Arc::new(ledger), &steps).await;
            });
            Ok(())
        })
        .unwrap();
}

async fn play(ledger: Arc<dyn Ledger>, steps: &[Step]) {
    let tail = Tail::new(Arc::clone(&ledger));
    let mut followers: [Follower; 3] = std::array::from_fn(|_| Follower {
        subscription: None,
        seen: Vec::new(),
    });
    let mut sent: Vec<Option<String>> = Vec::new();
    for (n, step) in steps.iter().enumerate() {
        match step {
            Step::Record {
                lines,
                priced,
                others,
            } => {
                let id = format!("e{}", sent.len());
                send(&*ledger, "a", &id, *lines, *priced).await;
                if *others {
                    send(&*ledger, "b", &id, *lines, *priced).await;
                }
                sent.push(Some(id));
            }
            Step::Reprice(cost) => {
                reprice(&*ledger, *cost, &format!("run-{n}")).await;
            }
            Step::Void(n) => {
                if let Some(id) = sent.get_mut(*n).and_then(Option::take) {
                    take_out(&*ledger, &id).await;
                }
            }
            Step::Take { who, pages } => {
                for _ in 0..*pages {
                    let take = followers[*who].take(&tail);
                    // Nothing may be there to take, and then nothing comes.
                    let _ = tokio::time::timeout(Duration::from_millis(30), take).await;
                }
            }
            Step::Cut(who) => followers[*who].subscription = None,
        }
    }
    send(&*ledger, "a", "the last one", 1, true).await;
    let expected = whole(&*ledger, "a", 1_000).await;
    fold(&expected);
    for follower in &mut followers {
        let all = async {
            while follower.seen.len() < expected.len() {
                follower.take(&tail).await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, all).await;
        assert!(
            done.is_ok(),
            "{} of {}",
            follower.seen.len(),
            expected.len()
        );
        assert_eq!(follower.seen, expected);
    }
}

/// A thousand subscribers that are behind do not keep one at the end from what comes.
pub async fn those_behind_do_not_hold_up_the_one_at_the_end(ledger: impl Ledger) {
    let ledger: Arc<dyn Ledger> = Arc::new(ledger);
    for batch in 0..10 {
        let batch = (0..500)
            .map(|n| submission("a", event(&format!("e{batch}-{n}"), "u"), 1, T0))
            .collect();
        record(&*ledger, batch).await;
    }
    let tail = Tail::new(Arc::clone(&ledger));
    let behind: Vec<_> = (0..1_000)
        .map(|_| {
            let mut subscription = tail.subscribe(&tenant("a"), 0);
            tokio::spawn(async move {
                let mut seen = 0;
                while seen < 5_000 {
                    seen += subscription.next().await.unwrap().entries.len();
                }
                seen
            })
        })
        .collect();
    // This one never comes back for what it asked for; its turn is not lost for the others.
    let mut stalled = tail.subscribe(&tenant("a"), 0);
    assert!(stalled.next().await.is_ok());
    let _ = tokio::time::timeout(Duration::ZERO, stalled.next()).await;

    let mut live = tail.subscribe(&tenant("a"), tail.end().await.unwrap());
    send(&*ledger, "a", "now", 1, true).await;
    let page = tokio::time::timeout(PATIENCE, live.next()).await.unwrap();
    assert_eq!(page.unwrap().entries.len(), 1);
    assert!(
        behind.iter().any(|one| !one.is_finished()),
        "all had caught up before the one at the end was served"
    );
    behind.into_iter().for_each(|one| one.abort());
}
