//! How a recorder comes to its end, and what its events are told then.

use tokenmeter_api::status::Failure;
use tokenmeter_client::{Code, ErrorReason, NotTaken, RecorderOptions, v1};
use tokio::time::Instant;
use tonic::Status;

use crate::fake::{Fake, acknowledged, event, ms};

/// A server that ends every stream with this after its first message.
fn ending_with(status: Status) -> Fake {
    Fake::default().on_usage(move |_, mut requests, answers| {
        let status = status.clone();
        async move {
            let _ = requests.message().await;
            let _ = answers.send(Err(status)).await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn what_no_repetition_mends_is_told_to_every_event_and_to_every_later_one() {
    for reason in [ErrorReason::PermissionDenied, ErrorReason::FieldInvalid] {
        let failure = Failure::new(reason, "no").violation("events", "too many");
        let fake = ending_with(failure.into());
        let recorder = fake.client().recorder(RecorderOptions::default());
        let first = recorder.record(event("a")).await.unwrap();
        let second = recorder.record(event("b")).await.unwrap();
        let error = first.await.unwrap_err();
        assert_eq!(error.reason, Some(reason));
        assert_eq!(error.violations, [("events".into(), "too many".into())]);
        assert!(error.is_applied_unknown(), "it was sent");
        assert_eq!(second.await.unwrap_err().reason, Some(reason));
        let later = recorder.record(event("c")).await.unwrap_err();
        assert_eq!(later.reason, Some(reason));
        assert!(!later.is_applied_unknown(), "it was never sent");
        match recorder.try_record(event("d")) {
            Err(NotTaken::Ended(error)) => assert_eq!(error.reason, Some(reason)),
            other => panic!("{other:?}"),
        }
        assert!(recorder.flush().await.is_err());
        assert_eq!(recorder.close().await.unwrap_err().reason, Some(reason));
        assert_eq!(fake.streams(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_by_its_own_fault_is_tried_a_few_times() {
    let fake = ending_with(Failure::new(ErrorReason::Internal, "oh").into());
    let recorder = fake.client().recorder(RecorderOptions::default());
    let receipt = recorder.record(event("a")).await.unwrap();
    let error = receipt.await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::Internal));
    assert_eq!(fake.streams(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_refused_does_not_touch_the_others() {
    let fake = Fake::default().on_usage(|_, mut requests, answers| async move {
        while let Ok(Some(message)) = requests.message().await {
            let results = message.events.iter().map(|one| {
                if one.event.as_ref().unwrap().event_id != "bad" {
                    return acknowledged(one);
                }
                let failure = Failure::new(ErrorReason::ModelMissing, "no model");
                let error = v1::record_result::Result::Error(failure.into());
                v1::StreamedResult {
                    sequence: one.sequence,
                    result: Some(v1::RecordResult {
                        result: Some(error),
                    }),
                }
            });
            let results = results.collect();
            let _ = answers.send(Ok(v1::StreamUsageResponse { results })).await;
        }
    });
    let recorder = fake.client().recorder(RecorderOptions::default());
    let good = recorder.record(event("good")).await.unwrap();
    let bad = recorder.record(event("bad")).await.unwrap();
    recorder.flush().await.unwrap();
    assert_eq!(good.await.unwrap().event_id, "good");
    let error = bad.await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::ModelMissing));
    assert!(!error.is_applied_unknown() && !error.is_retryable());
    recorder.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_event_that_no_message_can_carry_is_refused_and_the_others_are_recorded() {
    let fake = Fake::default().on_usage(|_, mut requests, answers| async move {
        while let Ok(Some(message)) = requests.message().await {
            let size: usize = message
                .events
                .iter()
                .map(|one| one.event.as_ref().unwrap().user_id.len())
                .sum();
            if size > 100 {
                let failure = Failure::new(ErrorReason::MessageTooLarge, "too large");
                let _ = answers.send(Err(failure.into())).await;
                return;
            }
            let results = message.events.iter().map(acknowledged).collect();
            let _ = answers.send(Ok(v1::StreamUsageResponse { results })).await;
        }
    });
    let recorder = fake.client().recorder(RecorderOptions::default());
    let mut receipts = Vec::new();
    for n in 0..50 {
        let mut event = event(format!("e-{n}"));
        if n == 20 {
            event.user_id = "u".repeat(101);
        }
        receipts.push(recorder.record(event).await.unwrap());
    }
    recorder.close().await.unwrap();
    for (n, receipt) in receipts.into_iter().enumerate() {
        match receipt.await {
            Ok(_) => assert_ne!(n, 20),
            Err(error) => {
                assert_eq!((n, error.reason), (20, Some(ErrorReason::MessageTooLarge)));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn closing_waits_no_longer_than_the_recorder_was_told() {
    let fake = ending_with(Failure::new(ErrorReason::LedgerUnavailable, "down").into());
    let recorder = fake.client().recorder(RecorderOptions {
        drain: ms(5_000),
        ..Default::default()
    });
    let receipt = recorder.record(event("a")).await.unwrap();
    let began = Instant::now();
    let error = recorder.close().await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert!(began.elapsed() >= ms(5_000) && began.elapsed() < ms(5_100));
    assert!(receipt.await.unwrap_err().is_applied_unknown());
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_is_dropped_still_delivers_what_it_took() {
    let fake = Fake::default().on_usage(|n, mut requests, answers| async move {
        let message = requests.message().await.unwrap().unwrap();
        if n > 0 {
            let results = message.events.iter().map(acknowledged).collect();
            let _ = answers.send(Ok(v1::StreamUsageResponse { results })).await;
        }
    });
    let recorder = fake.client().recorder(RecorderOptions::default());
    let receipt = recorder.record(event("a")).await.unwrap();
    drop(recorder);
    assert_eq!(receipt.await.unwrap().event_id, "a");
}

#[tokio::test(start_paused = true)]
async fn a_recorder_without_events_opens_no_stream() {
    let fake = ending_with(Status::internal("not to be seen"));
    let recorder = fake.client().recorder(RecorderOptions::default());
    recorder.flush().await.unwrap();
    recorder.close().await.unwrap();
    assert_eq!(fake.streams(), 0);
}
