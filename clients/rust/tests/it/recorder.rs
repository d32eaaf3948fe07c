//! The recorder: every event stands once and has one result, whatever becomes of its streams.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokenmeter_api::status::Failure;
use tokenmeter_client::{ErrorReason, NotTaken, RecorderOptions, v1};
use tokenmeter_tests::Chance;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use crate::fake::{Answers, Fake, acknowledged, event, ms};

/// What the server has recorded, each with its content.
type Ledger = Arc<Mutex<HashMap<String, v1::UsageEvent>>>;

fn below(chance: &mut Chance, below: usize) -> usize {
    usize::try_from(chance.below(below as u64)).unwrap()
}

/// One stream of a server that fails at random: it records what comes, answers late, in another
/// order and in other groups, refuses for the moment, and ends in every way there is.
async fn unreliable(
    mut chance: Chance,
    ledger: Ledger,
    mut requests: Streaming<v1::StreamUsageRequest>,
    answers: Answers<v1::StreamUsageResponse>,
    fake: Fake,
) {
    let mut unanswered = Vec::new();
    while let Ok(Some(message)) = requests.message().await {
        assert!((1..=1_000).contains(&message.events.len()));
        for one in message.events {
            let event = one.event.clone().unwrap();
            if chance.below(20) == 0 {
                unanswered.push(v1::StreamedResult {
                    sequence: one.sequence,
                    result: Some(overloaded()),
                });
                continue;
            }
            let mut ledger = ledger.lock().unwrap();
            let first = ledger
                .entry(event.event_id.clone())
                .or_insert(event.clone());
            assert_eq!(*first, event, "an event was sent again with other content");
            unanswered.push(acknowledged(&one));
        }
        assert!(unanswered.len() <= 4_096, "{} on the way", unanswered.len());
        sleep(ms(chance.below(50))).await;
        while !unanswered.is_empty() && chance.below(4) > 0 {
            let mut results = Vec::new();
            for _ in 0..=chance.below(300) {
                if !unanswered.is_empty() {
                    let at = below(&mut chance, unanswered.len());
                    results.push(unanswered.swap_remove(at));
                }
            }
            if answers
                .send(Ok(v1::StreamUsageResponse { results }))
                .await
                .is_err()
            {
                return;
            }
        }
        let end = |reason| Err(Failure::new(reason, "end").retry_after(ms(20)).into());
        match chance.below(12) {
            0 => return drop(answers.send(end(ErrorReason::ShuttingDown)).await),
            1 => return drop(answers.send(end(ErrorReason::AcksUnread)).await),
            2 => return drop(answers.send(end(ErrorReason::LedgerUnavailable)).await),
            3 => return,
            4 => return drop(answers.send(Err(Status::internal("oh"))).await),
            5 => fake.cut(),
            _ => {}
        }
    }
    for rest in unanswered.chunks(1_000) {
        let results = rest.to_vec();
        let _ = answers.send(Ok(v1::StreamUsageResponse { results })).await;
    }
}

fn overloaded() -> v1::RecordResult {
    let error = v1::ItemError {
        reason: ErrorReason::Overloaded.into(),
        retryable: true,
        retry_after_ms: Some(5),
        ..Default::default()
    };
    v1::RecordResult {
        result: Some(v1::record_result::Result::Error(error)),
    }
}

fn flaky(chance: Chance, ledger: &Ledger) -> Fake {
    let fake = Fake::default();
    let (chance, ledger, this) = (Mutex::new(chance), Arc::clone(ledger), fake.clone());
    fake.on_usage(move |_, requests, answers| {
        let chance = chance.lock().unwrap().fork();
        unreliable(chance, Arc::clone(&ledger), requests, answers, this.clone())
    })
}

#[tokio::test(start_paused = true)]
async fn exactly_once_through_lost_streams() {
    let mut chance = Chance::new("exactly_once_through_lost_streams");
    for _ in 0..10 * tokenmeter_tests::rounds() {
        let ledger = Ledger::default();
        let fake = flaky(chance.fork(), &ledger);
        let options = RecorderOptions {
            capacity: 1 + below(&mut chance, 6_000),
            batch_events: 1 + below(&mut chance, 1_000),
            batch_bytes: 1_000 + below(&mut chance, 100_000),
            drain: ms(3_600_000),
            ..Default::default()
        };
        let recorder = fake.client().recorder(options);
        let events = 2_000 + chance.below(4_000);
        let mut receipts = Vec::new();
        for n in 0..events {
            let receipt = recorder.record(event(format!("e-{n}"))).await.unwrap();
            receipts.push((n, receipt));
            if chance.below(500) == 0 {
                sleep(ms(chance.below(300))).await;
            }
            if chance.below(1_500) == 0 {
                fake.cut();
            }
            if chance.below(2_000) == 0 {
                recorder.flush().await.unwrap();
                assert_eq!(ledger.lock().unwrap().len() as u64, n + 1);
            }
        }
        recorder.close().await.unwrap();
        for (n, receipt) in receipts {
            assert_eq!(receipt.await.unwrap().event_id, format!("e-{n}"));
        }
        assert_eq!(ledger.lock().unwrap().len() as u64, events);
        println!("{events} events over {} streams", fake.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_recorder_takes_nothing_until_there_is_room() {
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let fake = Fake::default().on_usage(move |_, mut requests, answers| {
        let gate = Arc::clone(&gate);
        async move {
            while let Ok(Some(message)) = requests.message().await {
                while !gate.load(Ordering::SeqCst) {
                    sleep(ms(10)).await;
                }
                let results = message.events.iter().map(acknowledged).collect();
                let _ = answers.send(Ok(v1::StreamUsageResponse { results })).await;
            }
        }
    });
    let recorder = fake.client().recorder(RecorderOptions {
        capacity: 10,
        ..Default::default()
    });
    let mut receipts = Vec::new();
    for n in 0..10 {
        receipts.push(recorder.try_record(event(format!("e-{n}"))).unwrap());
    }
    assert_eq!(recorder.room(), 0);
    match recorder.try_record(event("more")) {
        Err(NotTaken::Full(back)) => assert_eq!(back.event_id, "more"),
        other => panic!("{other:?}"),
    }
    let waiting = timeout(ms(5_000), recorder.record(event("more"))).await;
    assert!(waiting.is_err(), "a full recorder took an event");
    open.store(true, Ordering::SeqCst);
    receipts.push(recorder.record(event("more")).await.unwrap());
    recorder.flush().await.unwrap();
    assert_eq!(recorder.room(), 10);
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(fake.streams(), 1);
    recorder.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_window_is_sent_without_results() {
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let fake = Fake::default().on_usage(move |_, mut requests, answers| {
        let count = Arc::clone(&count);
        async move {
            while let Ok(Some(message)) = requests.message().await {
                count.fetch_add(message.events.len(), Ordering::SeqCst);
            }
            drop(answers);
        }
    });
    let recorder = fake.client().recorder(RecorderOptions {
        capacity: 20_000,
        silence: ms(3_600_000),
        ..Default::default()
    });
    for n in 0..20_000 {
        drop(recorder.try_record(event(format!("e-{n}"))).unwrap());
        if n % 1_000 == 0 {
            sleep(ms(1)).await;
        }
    }
    sleep(ms(10_000)).await;
    assert_eq!(received.load(Ordering::SeqCst), 4_096);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_shuts_down_is_left_alone_for_as_long_as_it_says() {
    let opened = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&opened);
    let fake = Fake::default().on_usage(move |n, mut requests, answers| {
        times.lock().unwrap().push(Instant::now());
        async move {
            let message = requests.message().await.unwrap().unwrap();
            if n == 0 {
                let leaving = Failure::new(ErrorReason::ShuttingDown, "leaving");
                let _ = answers
                    .send(Err(leaving.retry_after(ms(7_000)).into()))
                    .await;
                return;
            }
            let results = message.events.iter().map(acknowledged).collect();
            let _ = answers.send(Ok(v1::StreamUsageResponse { results })).await;
        }
    });
    let recorder = fake.client().recorder(RecorderOptions::default());
    let receipt = recorder.record(event("e")).await.unwrap();
    receipt.await.unwrap();
    let opened = opened.lock().unwrap().clone();
    assert_eq!(opened.len(), 2);
    assert!(opened[1] - opened[0] >= ms(7_000));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_gives_no_results_is_left_for_another_stream() {
    let fake = Fake::default().on_usage(|n, mut requests, answers| async move {
        while let Ok(Some(message)) = requests.message().await {
            if n > 0 {
                let results = message.events.iter().map(acknowledged).collect();
                let _ = answers.send(Ok(v1::StreamUsageResponse { results })).await;
            }
        }
    });
    let began = Instant::now();
    let recorder = fake.client().recorder(RecorderOptions::default());
    recorder.record(event("e")).await.unwrap().await.unwrap();
    assert!(began.elapsed() >= ms(60_000) && began.elapsed() < ms(61_000));
    assert_eq!(fake.streams(), 2);
}
