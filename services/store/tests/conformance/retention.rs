//! Purges: old events go, no total changes, and what they were is not accepted again.

use std::sync::Arc;

use tokenmeter_model::item::{Item, ToolStatus};
use tokenmeter_model::totals::{BUCKET_US, Totals};
use tokenmeter_model::zone::Zone;
use tokenmeter_store::ledger::correction::{RepriceQuery, VoidOutcome};
use tokenmeter_store::ledger::items::ItemOutcome;
use tokenmeter_store::ledger::reports::{self, Part, SessionOrder, SessionQuery};
use tokenmeter_store::ledger::retention::{Dropped, Purged};
use tokenmeter_store::ledger::{
    Error, EventQuery, Ledger, Outcome, Range, ServiceQuery, Subject, Submission,
};

use super::items::{champion, message, record_items, tool};
use super::{T0, event, record, submission, tenant, user_totals, void};

/// A day in microseconds.
pub const DAY_US: i64 = 86_400_000_000;

/// The first instant of the month of a time, and of the next one.
fn month(at_us: i64) -> (i64, i64) {
    let utc = Zone::utc();
    (utc.start_of_month(at_us), utc.next_month(at_us))
}

/// Purges to the end; answers all that was dropped of tenant `a`.
pub async fn purge(ledger: &dyn Ledger, before_us: i64) -> Dropped {
    let mut dropped = Dropped::default();
    loop {
        let step = ledger.purge(before_us, false).await.unwrap();
        if let Some(more) = step.tenants.get(&tenant("a")) {
            dropped.add(more);
        }
        if step.complete {
            return dropped;
        }
    }
}

/// Events of July, August and September, of two users and sessions, one voided, one repriced.
async fn three_months(ledger: &dyn Ledger) {
    let mut batch = Vec::new();
    for (n, days) in (0..).zip([62, 61, 31, 30, 1, 0]) {
        let mut one = event(&format!("e{n}"), if n % 2 == 0 { "u" } else { "v" });
        one.team_id = "team".into();
        one.turn = Some(n / 2);
        one.latency_ms = Some(100);
        one.request_time_us = Some(T0 - days * DAY_US);
        batch.push(submission("a", one, 10, T0 - days * DAY_US));
    }
    let other = submission("b", event("e0", "u"), 7, T0 - 62 * DAY_US);
    batch.push(other);
    record(ledger, batch).await;
    let voided = ledger.void(void("a", "v1", "e1", "wrong", T0)).await;
    assert!(matches!(voided.unwrap(), VoidOutcome::Voided { .. }));
}

/// Everything that a purge must not change.
async fn figures(ledger: &dyn Ledger) -> Vec<(String, Totals)> {
    let owner = tenant("a");
    let whole = Range {
        from_us: month(T0 - 70 * DAY_US).0,
        to_us: month(T0).1,
    };
    let mut all = Vec::new();
    for range in [None, Some(whole)] {
        for subject in [
            Subject::User("u"),
            Subject::User("v"),
            Subject::Team("team"),
        ] {
            let totals = ledger.totals(&owner, subject, range).await.unwrap();
            all.push((format!("{subject:?} {range:?}"), totals));
        }
        let query = ServiceQuery {
            range,
            ..ServiceQuery::default()
        };
        let usage = ledger.service_usage(&owner, &query).await.unwrap();
        if range.is_none() {
            assert_eq!((usage.users, usage.sessions), (2, 1));
        }
        for model in usage.models {
            all.push((format!("{} {range:?}", model.model), model.totals));
        }
    }
    let session = ledger.session(&owner, "s").await.unwrap().unwrap();
    assert_eq!(session.first_us, T0 - 62 * DAY_US);
    assert_eq!(session.last_us, T0);
    all.push(("session".into(), session.totals));
    all.extend(session.models.into_iter().map(|m| (m.model, m.totals)));
    for user_id in ["u", "v"] {
        let part = Part {
            user_id: user_id.into(),
            ..Part::default()
        };
        let models = ledger.by_model(&owner, &part).await.unwrap();
        all.extend(models.into_iter().map(|m| (user_id.into(), m.totals)));
    }
    let mut months = Vec::new();
    for days in [0, 31, 62] {
        let (from_us, to_us) = month(T0 - days * DAY_US);
        months.push(Range { from_us, to_us });
    }
    for (month, totals) in ledger.user_spans(&owner, "u", &months, 10).await.unwrap() {
        all.push((format!("u {month:?}"), totals));
    }
    let by_model = ledger.user_spans_by_model(&owner, "u", &months).await;
    for (month, models) in by_model.unwrap() {
        all.extend(
            models
                .into_iter()
                .map(|m| (format!("{} {month:?}", m.model), m.totals)),
        );
    }
    let page = reports::Page {
        limit: 10,
        ..reports::Page::default()
    };
    let query = SessionQuery {
        order: SessionOrder::Tokens,
        ..SessionQuery::default()
    };
    for session in ledger.sessions(&owner, &query, page).await.unwrap().entries {
        assert_eq!(session.first_us, T0 - 62 * DAY_US);
        all.extend(session.models.into_iter().map(|m| (m.model, m.totals)));
    }
    all
}

pub async fn a_purge_changes_no_total(ledger: &dyn Ledger) {
    three_months(ledger).await;
    let before = figures(ledger).await;
    let owner = tenant("a");
    let sealed = month(T0 - 31 * DAY_US).1;

    let would = ledger.purge(T0, true).await.unwrap();
    assert!(would.complete);
    assert_eq!(ledger.sealed_before().await.unwrap(), 0, "a dry run");
    let expected = would.tenants[&owner];
    assert_eq!((expected.events, expected.sealed.requests), (4, 3));
    assert_eq!(would.tenants[&tenant("b")].events, 1);

    // The month that the time falls into is kept as a whole.
    assert_eq!(purge(ledger, T0).await, expected);
    assert_eq!(ledger.sealed_before().await.unwrap(), sealed);
    assert_eq!(figures(ledger).await, before);
    let query = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    let kept = ledger.events(&owner, &query).await.unwrap();
    let kept: Vec<_> = kept.iter().map(|one| one.event.event_id.as_str()).collect();
    assert_eq!(kept, ["e5", "e4"]);
    let oldest = ledger.oldest_kept(&owner).await.unwrap();
    assert_eq!(oldest, Some(T0 - DAY_US));
    assert_eq!(ledger.oldest_kept(&tenant("b")).await.unwrap(), None);

    // Again, or up to an earlier time, changes nothing.
    for before_us in [T0, T0 - 40 * DAY_US, 0] {
        let again = ledger.purge(before_us, false).await.unwrap();
        let nothing = Purged {
            sealed_before_us: sealed,
            complete: true,
            ..Purged::default()
        };
        assert_eq!(again, nothing);
    }
    assert_eq!(figures(ledger).await, before);
    let clean = ledger.reconcile(&owner, "", false, "r", T0).await.unwrap();
    assert_eq!(clean.drift_count, 0);
    assert!(clean.totals_checked > 0);
}

pub async fn what_is_sealed_is_not_accepted_again(ledger: &dyn Ledger) {
    three_months(ledger).await;
    let sealed = month(T0 - 31 * DAY_US).1;
    let end = ledger.last_position().await.unwrap();
    purge(ledger, sealed).await;
    let too_old = Outcome::TooOld { oldest_us: sealed };
    let mut retry = event("e0", "u");
    retry.team_id = "team".into();
    let batch: Vec<Submission> = vec![
        submission("a", event("new", "u"), 1, sealed - 1),
        submission("a", event("on the edge", "u"), 1, sealed),
        submission("a", retry.clone(), 1, T0 - 62 * DAY_US),
        // Without a time of its own, a retry is charged when it comes.
        submission("a", retry, 1, T0),
        submission("a", event("fine", "u"), 1, T0),
        // Of several with one id, the first that is not too old stands.
        submission("a", event("twice", "u"), 1, sealed - 2),
        submission("a", event("twice", "u"), 1, T0),
        submission("a", event("twice", "u"), 1, T0),
    ];
    let outcomes = record(ledger, batch).await;
    assert_eq!(outcomes[0], too_old);
    assert!(matches!(outcomes[1], Outcome::Recorded { .. }));
    assert_eq!(outcomes[2..4], [too_old.clone(), too_old.clone()]);
    assert!(matches!(outcomes[4], Outcome::Recorded { .. }));
    assert_eq!(outcomes[5], too_old);
    assert!(matches!(outcomes[6], Outcome::Recorded { .. }));
    assert!(matches!(outcomes[7], Outcome::Duplicate(_)));
    for (name, id) in [("v2", "e0"), ("v3", "e1"), ("v1", "e1")] {
        let wanted = void("a", name, id, "wrong", T0);
        let outcome = ledger.void(wanted).await.unwrap();
        assert_eq!(outcome, VoidOutcome::TooOld { oldest_us: sealed });
        if name != "v1" {
            let remembered = ledger.remembered(&tenant("a"), name).await.unwrap();
            assert_eq!(remembered, None, "{name}");
        }
    }
    let query = RepriceQuery {
        include_priced: true,
        ..RepriceQuery::default()
    };
    let last = ledger.last_position().await.unwrap();
    let lines = ledger
        .reprice_candidates(&tenant("a"), &query, 0, last)
        .await;
    let lines = lines.unwrap();
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| line.charge_time_us >= sealed));

    // Who followed the log goes on; who comes from before the drop is told.
    let start = ledger.log_start(&tenant("a")).await.unwrap();
    assert!(start > 0 && start <= end);
    assert!(ledger.log(&tenant("a"), start, 100).await.is_ok());
    let missed = ledger.log(&tenant("a"), 0, 100).await;
    assert!(matches!(missed, Err(Error::Unavailable(_))), "{missed:?}");
}

pub async fn ragged_edges_that_are_sealed_are_told(ledger: &dyn Ledger) {
    three_months(ledger).await;
    let owner = tenant("a");
    let sealed = month(T0 - 31 * DAY_US).1;
    purge(ledger, sealed).await;
    let not_retained = |error: Error| match error {
        Error::NotRetained { oldest_us } => assert_eq!(oldest_us, sealed),
        other => panic!("{other:?}"),
    };
    let range = |from_us: i64| {
        Some(Range {
            from_us,
            to_us: T0 + 1,
        })
    };
    let user = Subject::User("u");
    for (from_us, kept) in [
        (sealed - 1, false),
        (sealed, true),
        (sealed + 1, true),
        (sealed - BUCKET_US, true),
        (i64::MIN, true),
    ] {
        let totals = ledger.totals(&owner, user, range(from_us)).await;
        assert_eq!(totals.is_ok(), kept, "{from_us}");
        let query = ServiceQuery {
            range: range(from_us),
            ..ServiceQuery::default()
        };
        let usage = ledger.service_usage(&owner, &query).await;
        assert_eq!(usage.is_ok(), kept, "{from_us}");
        if !kept {
            not_retained(totals.unwrap_err());
            not_retained(usage.unwrap_err());
        }
    }
    // Sessions keep no quarter-hours, and figures by model of a user neither.
    let session = Subject::Session("s");
    let from = sealed - BUCKET_US;
    not_retained(
        ledger
            .totals(&owner, session, range(from))
            .await
            .unwrap_err(),
    );
    assert!(ledger.totals(&owner, session, range(sealed)).await.is_ok());
    let mut part = Part {
        user_id: "u".into(),
        range: range(from),
        ..Part::default()
    };
    not_retained(ledger.by_model(&owner, &part).await.unwrap_err());
    part.range = None;
    part.session_id = "s".into();
    not_retained(ledger.by_model(&owner, &part).await.unwrap_err());
    // Months of another zone are known by model as far as they are months of UTC, and complete.
    let shifted = Range {
        from_us: month(T0 - 62 * DAY_US).0 - BUCKET_US,
        to_us: sealed - BUCKET_US,
    };
    let models = ledger.user_spans_by_model(&owner, "u", &[shifted]).await;
    let models = models.unwrap().pop().unwrap().1;
    let whole = ledger.totals(&owner, user, Some(shifted)).await.unwrap();
    let named: Vec<_> = models
        .iter()
        .map(|m| (m.model.as_str(), m.totals.requests))
        .collect();
    assert_eq!(named, [("claude", 1), ("", 1)]);
    assert_eq!(whole.requests, 2);
}

pub async fn items_are_dropped_with_their_month(ledger: &dyn Ledger) {
    let sealed = month(T0).0;
    let old = |item: Item| match item {
        Item::Message(mut one) => {
            one.time_us = Some(sealed - 1);
            Item::Message(one)
        }
        other => other,
    };
    let items = vec![
        Item::Tool(tool("t", ToolStatus::Succeeded)),
        old(message("old", 1)),
        message("new", 2),
        champion("c", 3),
    ];
    record_items(ledger, "a", items, sealed - 5).await;
    let newer = vec![message("newer", 2)];
    record_items(ledger, "a", newer, sealed).await;
    let would = ledger.purge(T0, true).await.unwrap();
    assert_eq!(would.tenants[&tenant("a")].other_rows, 4);
    let dropped = purge(ledger, T0).await;
    assert_eq!((dropped.events, dropped.other_rows), (0, 4));
    let page = reports::Page {
        limit: 10,
        ..reports::Page::default()
    };
    let kept = ledger.messages(&tenant("a"), "s", "", page).await.unwrap();
    assert_eq!(kept.entries.len(), 1);
    let too_old = record_items(ledger, "a", vec![old(message("late", 1))], T0).await;
    assert_eq!(too_old, [ItemOutcome::TooOld { oldest_us: sealed }]);
}

/// Events keep coming while months before are dropped, by two purges at once; some come late.
pub async fn a_purge_in_mid_load_keeps_every_total<L: Ledger>(ledger: L) {
    let ledger: Arc<dyn Ledger> = Arc::new(ledger);
    let old: Vec<_> = (0..900)
        .map(|n| {
            let mut one = event(&format!("old{n}"), "u");
            one.session_id = format!("s{}", n % 50);
            submission("a", one, 1, T0 - (20 + n % 60) * DAY_US)
        })
        .collect();
    for batch in old.chunks(300) {
        record(&*ledger, batch.to_vec()).await;
    }
    let purges: Vec<_> = (0..2)
        .map(|_| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move { purge(&*ledger, T0).await.events })
        })
        .collect();
    let loads: Vec<_> = (0..4)
        .map(|task| {
            let ledger = Arc::clone(&ledger);
            tokio::spawn(async move {
                let mut recorded = 0;
                for n in 0..60 {
                    // Every third is of a month that is being dropped.
                    let days = if n % 3 == 0 { 40 } else { 0 };
                    let one = event(&format!("new{task}-{n}"), "u");
                    let one = submission("a", one, 1, T0 - days * DAY_US);
                    match record(&*ledger, vec![one]).await.pop() {
                        Some(Outcome::Recorded { .. }) => recorded += 1,
                        Some(Outcome::TooOld { .. }) => assert_eq!(days, 40),
                        other => panic!("{other:?}"),
                    }
                }
                recorded
            })
        })
        .collect();
    let mut recorded = 900;
    for load in loads {
        recorded += load.await.unwrap();
    }
    let mut dropped = 0;
    for one in purges {
        dropped += one.await.unwrap();
    }
    let sealed = month(T0).0;
    let totals = user_totals(&*ledger, "a", "u").await;
    assert_eq!(
        (totals.requests, totals.cost_nano_usd),
        (recorded, recorded)
    );
    let query = EventQuery {
        limit: 10_000,
        ..EventQuery::default()
    };
    let kept = ledger.events(&tenant("a"), &query).await.unwrap();
    assert!(kept.iter().all(|one| one.charge_time_us >= sealed));
    assert_eq!(dropped + i64::try_from(kept.len()).unwrap(), recorded);
    let clean = ledger
        .reconcile(&tenant("a"), "", false, "after", T0)
        .await
        .unwrap();
    assert_eq!(clean.drift_count, 0);
}
