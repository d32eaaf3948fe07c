//! Those who follow a tenant in which nothing happens.

use std::sync::Arc;
use std::time::Duration;

use tokenmeter_store::ledger::Ledger;
use tokenmeter_store::tail::{Subscription, Tail};

use super::feed::{PATIENCE, reprice, send, take_out};
use super::{T0, event, record, submission, tenant};

/// Records, voids and reprices touch their tenant and no other, a repeat touches nobody, and what
/// another one wrote to the same ledger may be anybody's.
pub async fn a_commit_touches_the_tenants_in_it<L: Ledger>(
    ledger: &L,
    other: impl AsyncFnOnce() -> L,
) {
    let end = async || ledger.last_position().await.unwrap();
    let touched = |name, since| ledger.touched(&tenant(name), since);
    let start = end().await;
    assert!(!touched("a", start) && !touched("b", start));
    send(ledger, "a", "e", 2, false).await;
    let now = end().await;
    assert!(touched("a", start) && touched("a", now - 1));
    assert!(!touched("a", now) && !touched("b", start));

    let before = end().await;
    assert_eq!(reprice(ledger, 5, "run").await, 1);
    let now = end().await;
    assert!(touched("a", before) && !touched("a", now));
    let before = now;
    take_out(ledger, "e").await;
    let now = end().await;
    assert!(touched("a", before) && !touched("a", now));
    assert!(!touched("b", start));

    // A group has several tenants; who only repeats what stands has nothing in it.
    let again = || submission("b", event("b", "u"), 1, T0);
    record(ledger, vec![again()]).await;
    let before = end().await;
    let group = vec![again(), submission("c", event("c", "u"), 1, T0)];
    record(ledger, group).await;
    end().await;
    assert!(touched("c", before) && !touched("b", before));

    let before = end().await;
    let other = other().await;
    send(&other, "b", "elsewhere", 1, true).await;
    other.close().await;
    send(ledger, "a", "after it", 1, true).await;
    let now = end().await;
    assert!(touched("b", before), "another one wrote for it");
    assert!(!touched("b", now));
}

/// The followers of many idle tenants move on with the commits of a busy one, and each has its
/// events when they come.
pub async fn followers_of_idle_tenants_miss_nothing(ledger: impl Ledger) {
    const IDLE: usize = 200;
    let ledger: Arc<dyn Ledger> = Arc::new(ledger);
    let tail = Tail::new(Arc::clone(&ledger));
    let name = |n: usize| format!("idle-{n}");
    let start = tail.end().await.unwrap();
    let mut idle: Vec<_> = (0..IDLE)
        .map(|n| tail.subscribe(&tenant(&name(n)), start))
        .collect();
    for n in 0..20 {
        send(&*ledger, "busy", &format!("e{n}"), 2, true).await;
    }
    let end = tail.end().await.unwrap();
    let all = async {
        for one in &mut idle {
            moves_to(one, end).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, all).await.is_ok());

    for n in 0..IDLE {
        send(&*ledger, &name(n), "first", 1, true).await;
        send(&*ledger, "busy", &format!("between-{n}"), 1, true).await;
        send(&*ledger, &name(n), "second", 1, true).await;
    }
    for (n, one) in idle.iter_mut().enumerate() {
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let page = tokio::time::timeout(PATIENCE, one.next()).await;
            seen.extend(page.unwrap().unwrap().entries);
        }
        let log = super::feed::whole(&*ledger, &name(n), 1_000).await;
        assert_eq!(seen, log);
    }
}

async fn moves_to(subscription: &mut Subscription, position: i64) {
    while subscription.position() < position {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
