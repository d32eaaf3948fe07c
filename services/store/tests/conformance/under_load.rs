//! What every ledger does when calls race, the writer is held up, or nobody closes it.

use std::sync::Arc;

use tokenmeter_store::ledger::{Error, EventQuery, Ledger, Outcome};

use super::{T0, event, record, submission, tenant, user_totals};

/// Sixteen tasks send the same two hundred events at once.
pub async fn racing_writers_record_once(ledger: impl Ledger) {
    let ledger: Arc<dyn Ledger> = Arc::new(ledger);
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move {
                let mut recorded = 0;
                for n in 0..200 {
                    let n = (n + task * 13) % 200;
                    let one = submission("a", event(&format!("e{n}"), "u"), n, T0);
                    match record(&*ledger, vec![one]).await.pop() {
                        Some(Outcome::Recorded { .. }) => recorded += 1,
                        Some(Outcome::Duplicate(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
                recorded
            })
        })
        .collect();
    let mut recorded = 0;
    for task in tasks {
        recorded += task.await.unwrap();
    }
    assert_eq!(recorded, 200);
    let totals = user_totals(&*ledger, "a", "u").await;
    assert_eq!(
        (totals.requests, totals.cost_nano_usd),
        (200, (0..200).sum())
    );
}

/// What was acknowledged stands for whoever opens the ledger anew, though nobody closed it. That
/// the commit also reached the disk is for a system-call trace to show (tests/e2e).
pub async fn ack_is_durable<L: Ledger>(ledger: L, reopen: impl AsyncFn() -> L) {
    let batch = (0..10)
        .map(|n| submission("a", event(&format!("e{n}"), "u"), 1, T0))
        .collect();
    record(&ledger, batch).await;
    let again = reopen().await;
    assert_eq!(user_totals(&again, "a", "u").await.requests, 10);
    let query = EventQuery {
        limit: 100,
        ..EventQuery::default()
    };
    assert_eq!(again.events(&tenant("a"), &query).await.unwrap().len(), 10);
}

/// With the writer held up, calls past the queue's bound are refused at once, and everything that
/// was taken is recorded when the writer goes on.
pub async fn bounded<L: Ledger>(ledger: L, let_go: impl AsyncFnOnce()) {
    const CALLS: usize = 40;
    const EVENTS: usize = 1_000;
    let ledger: Arc<dyn Ledger> = Arc::new(ledger);
    let (answers, mut answered) = tokio::sync::mpsc::unbounded_channel();
    for call in 0..CALLS {
        let (ledger, answers) = (Arc::clone(&ledger), answers.clone());
        let batch: Vec<_> = (0..EVENTS)
            .map(|n| submission("a", event(&format!("e{call}-{n}"), "u"), 1, T0))
            .collect();
        tokio::spawn(async move { answers.send(ledger.record(batch.into()).await) });
    }
    // Refusals come while the writer is still held up; no more than the bound's worth may wait.
    let mut refused = 0;
    let refusals = async {
        while refused < CALLS / 2 {
            assert!(matches!(
                answered.recv().await,
                Some(Err(Error::Overloaded(_)))
            ));
            refused += 1;
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(2), refusals).await;
    let_go().await;
    assert!(
        in_time.is_ok(),
        "only {refused} of {CALLS} calls were refused"
    );
    let rest = CALLS - refused;
    for _ in 0..rest {
        match answered.recv().await.unwrap() {
            Ok(outcomes) => assert_eq!(outcomes.len(), EVENTS),
            Err(Error::Overloaded(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused < CALLS, "the queue took nothing");
    let taken = i64::try_from((CALLS - refused) * EVENTS).unwrap();
    assert_eq!(user_totals(&*ledger, "a", "u").await.requests, taken);
}
