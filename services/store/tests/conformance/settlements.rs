//! One settlement a reservation, and the API key with which an event was recorded.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokenmeter_model::event::Event;
use tokenmeter_store::ledger::{EventQuery, Ledger, Outcome, Submission};

use super::{T0, event, record, submission, tenant, user_totals, void};

fn settling(id: &str, reservation: &str) -> Submission {
    let event = Event {
        reservation_id: reservation.into(),
        ..event(id, "u")
    };
    submission("a", event, 1, T0)
}

fn words(outcomes: &[Outcome]) -> Vec<&str> {
    outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Recorded { .. } => "recorded",
            Outcome::Duplicate(_) => "duplicate",
            Outcome::Conflict(_) => "conflict",
            Outcome::ReservationSettled { event_id } => event_id,
            Outcome::TooOld { .. } => "too old",
        })
        .collect()
}

pub async fn a_reservation_is_settled_once(ledger: &dyn Ledger) {
    let first = settling("first", "r");
    let outcomes = record(ledger, vec![first.clone(), settling("free", "")]).await;
    assert_eq!(words(&outcomes), ["recorded", "recorded"]);

    // The event repeated has its first answer; any other with the reservation is refused, whatever it
    // comes with, and leaves nothing behind: its id is still free.
    let batch = vec![
        settling("second", "r"),
        first.clone(),
        settling("third", "other"),
        settling("first", "elsewhere"),
    ];
    let expected = ["first", "duplicate", "recorded", "conflict"];
    assert_eq!(words(&record(ledger, batch).await), expected);
    assert_eq!(user_totals(ledger, "a", "u").await.requests, 3);
    let outcomes = record(ledger, vec![settling("second", "elsewhere")]).await;
    assert_eq!(words(&outcomes), ["recorded"]);

    // Another tenant has reservations of its own.
    let elsewhere = Submission {
        tenant: tenant("b"),
        ..settling("stranger", "r")
    };
    assert_eq!(words(&record(ledger, vec![elsewhere]).await), ["recorded"]);

    // A void does not give it free.
    ledger
        .void(void("a", "v", "first", "slip", T0))
        .await
        .unwrap();
    let outcomes = record(ledger, vec![settling("fourth", "r"), first]).await;
    assert_eq!(words(&outcomes), ["first", "duplicate"]);
}

pub async fn of_one_batch_the_first_settles(ledger: &dyn Ledger) {
    let batch = vec![
        settling("one", "r"),
        settling("one", "r"),
        settling("two", "r"),
        settling("two", "r2"),
        settling("two", "r"),
        settling("three", "r2"),
        settling("four", "r3"),
    ];
    let expected = [
        "recorded",
        "duplicate",
        "one",
        "recorded",
        "conflict",
        "two",
        "recorded",
    ];
    assert_eq!(words(&record(ledger, batch).await), expected);
    assert_eq!(user_totals(ledger, "a", "u").await.requests, 3);
    let query = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    let events = ledger.events(&tenant("a"), &query).await.unwrap();
    let found: BTreeSet<_> = events
        .iter()
        .map(|one| (&*one.event.event_id, &*one.event.reservation_id))
        .collect();
    let expected = [("four", "r3"), ("one", "r"), ("two", "r2")];
    assert_eq!(found, BTreeSet::from(expected));
}

/// Many calls at once, each with another event for the same few reservations.
pub async fn racing_events_settle_once(ledger: Arc<dyn Ledger>) {
    const RESERVATIONS: usize = 5;
    let calls = (0..40).map(|n| {
        let ledger = Arc::clone(&ledger);
        tokio::spawn(async move {
            // In another order each, so that groups meet crosswise.
            let batch = (0..RESERVATIONS).map(|place| {
                let reservation = (place + n) % RESERVATIONS;
                settling(&format!("e{n}-{reservation}"), &format!("r{reservation}"))
            });
            record(&*ledger, batch.collect()).await
        })
    });
    let mut recorded = 0;
    for call in calls.collect::<Vec<_>>() {
        let outcomes = call.await.unwrap();
        recorded += words(&outcomes)
            .iter()
            .filter(|word| **word == "recorded")
            .count();
    }
    assert_eq!(recorded, RESERVATIONS);
    assert_eq!(user_totals(&*ledger, "a", "u").await.requests, 5);
}

pub async fn api_keys_read_back_as_recorded(ledger: &dyn Ledger) {
    let keyed = Submission {
        api_key_id: "key-1".into(),
        ..settling("keyed", "")
    };
    record(ledger, vec![keyed.clone(), settling("plain", "")]).await;
    // The first answer names the key of the first.
    let again = Submission {
        api_key_id: "key-2".into(),
        ..keyed
    };
    match &record(ledger, vec![again]).await[..] {
        [Outcome::Duplicate(first)] => assert_eq!(first.api_key_id, "key-1"),
        other => panic!("{other:?}"),
    }
    ledger
        .void(void("a", "v", "keyed", "slip", T0))
        .await
        .unwrap();
    let query = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    let events = ledger.events(&tenant("a"), &query).await.unwrap();
    let found: BTreeSet<_> = events
        .iter()
        .map(|one| (&*one.event.event_id, &*one.api_key_id))
        .collect();
    assert_eq!(found, BTreeSet::from([("keyed", "key-1"), ("plain", "")]));
}
