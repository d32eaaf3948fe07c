//! Leases: exactly one node does a job, and once.

use std::time::Duration;

use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::ledger::jobs::{Ending, JobState};

use super::{T0, event, record, submission, tenant};

const LONG: Duration = Duration::from_secs(600);

async fn state(ledger: &dyn Ledger, job: &str) -> JobState {
    let jobs = ledger.jobs().await.unwrap();
    jobs.into_iter().find(|one| one.job == job).unwrap()
}

pub async fn exactly_one_node_does_a_job(ledger: &dyn Ledger) {
    let take = |node, key| ledger.take_job("rollover", node, key, LONG);
    let racers = ["a", "b", "c", "d"].map(|node| take(node, "2026-07"));
    let [a, b, c, d] = racers;
    let (a, b, c, d) = tokio::join!(a, b, c, d);
    let held: Vec<_> = [a, b, c, d]
        .into_iter()
        .filter_map(|taken| taken.unwrap())
        .collect();
    assert_eq!(held.len(), 1, "one of four nodes takes it: {held:?}");
    assert!(state(ledger, "rollover").await.running);
    // Another job is another lease.
    let other = ledger.take_job("retention", "b", "2026-07-01", LONG).await;
    assert!(other.unwrap().is_some());

    assert!(ledger.renew_job(&held[0], LONG).await.unwrap());
    let done = Ending::Done { key: "2026-07" };
    assert!(ledger.end_job(&held[0], done, "3 closed").await.unwrap());
    let after = state(ledger, "rollover").await;
    assert_eq!(
        (after.running, after.free, after.succeeded, &*after.last_key),
        (false, true, Some(true), "2026-07")
    );
    assert_eq!(after.detail, "3 closed");
    assert!(after.last_end_us >= Some(after.last_start_us));

    // Two nodes one after the other do it once; the next month is due again, no earlier one is.
    assert_eq!(take("b", "2026-07").await.unwrap(), None);
    assert_eq!(take("b", "2026-06").await.unwrap(), None);
    assert!(take("b", "2026-08").await.unwrap().is_some());
}

pub async fn who_lost_a_lease_is_told(ledger: &dyn Ledger) {
    let take = |node, lease| ledger.take_job("rollover", node, "2026-07", lease);
    let lost = take("a", Duration::ZERO).await.unwrap().unwrap();
    assert!(!state(ledger, "rollover").await.running, "it ran out");
    // Nobody has taken it: who had it may go on.
    assert!(ledger.renew_job(&lost, Duration::ZERO).await.unwrap());
    let held = take("b", LONG).await.unwrap().unwrap();
    assert!(held.generation > lost.generation);
    assert!(!ledger.renew_job(&lost, LONG).await.unwrap());
    let done = Ending::Done { key: "2026-07" };
    assert!(!ledger.end_job(&lost, done, "too late").await.unwrap());
    let now = state(ledger, "rollover").await;
    assert_eq!((now.running, &*now.node), (true, "b"));
    assert_eq!((&*now.last_key, now.succeeded), ("", None));
    assert!(ledger.end_job(&held, done, "").await.unwrap());
    // It has ended: neither is it renewed nor does it end again.
    assert!(!ledger.renew_job(&held, LONG).await.unwrap());
    assert!(!ledger.end_job(&held, Ending::Released, "").await.unwrap());
}

pub async fn a_job_that_failed_waits_for_all_nodes(ledger: &dyn Ledger) {
    let take = |node| ledger.take_job("rollover", node, "2026-07", LONG);
    let held = take("a").await.unwrap().unwrap();
    let failed = |retry_after| Ending::Failed { retry_after };
    ledger
        .end_job(&held, failed(LONG), "no disk")
        .await
        .unwrap();
    let after = state(ledger, "rollover").await;
    assert_eq!(
        (after.running, after.free, after.succeeded, after.failures),
        (false, false, Some(false), 1)
    );
    assert!(after.lease_until_us > after.last_start_us);
    assert_eq!(take("b").await.unwrap(), None, "not before its time");

    // Another job, whose time to wait is over at once.
    let take = |node| ledger.take_job("retention", node, "2026-07-01", LONG);
    for failures in 1..=2 {
        let held = take("a").await.unwrap().unwrap();
        let ended = ledger
            .end_job(&held, failed(Duration::ZERO), "no disk")
            .await;
        assert!(ended.unwrap());
        assert_eq!(state(ledger, "retention").await.failures, failures);
    }
    // Broken off, it is no failure and free at once; done, it has not failed any more.
    let held = take("b").await.unwrap().unwrap();
    ledger.end_job(&held, Ending::Released, "").await.unwrap();
    let released = state(ledger, "retention").await;
    assert_eq!((released.free, released.failures), (true, 2));
    let held = take("c").await.unwrap().unwrap();
    let done = Ending::Done { key: "2026-07-01" };
    ledger.end_job(&held, done, "").await.unwrap();
    let after = state(ledger, "retention").await;
    assert_eq!((after.failures, after.succeeded), (0, Some(true)));
    assert_eq!(after.node, "c");
}

pub async fn tenants_page_in_order(ledger: &dyn Ledger) {
    assert_eq!(ledger.tenants(None, 9).await.unwrap(), []);
    for owner in ["b", "a", "c-1", "c"] {
        let sent = submission(owner, event("e", "u"), 1, T0);
        record(ledger, vec![sent]).await;
    }
    let names = ["a", "b", "c", "c-1"].map(tenant);
    assert_eq!(ledger.tenants(None, 9).await.unwrap(), names);
    assert_eq!(ledger.tenants(None, 2).await.unwrap(), names[..2]);
    let rest = ledger.tenants(Some(&names[1]), 2).await.unwrap();
    assert_eq!(rest, names[2..]);
    assert_eq!(ledger.tenants(Some(&names[3]), 2).await.unwrap(), []);
}
