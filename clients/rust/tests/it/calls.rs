//! Unary calls: what is repeated, when, and until when.

use tokenmeter_api::status::Failure;
use tokenmeter_client::{Code, ErrorReason, Options, v1};
use tokio::time::Instant;
use tonic::Status;

use crate::fake::{Answer, Fake, event, ms};

fn refuse(reason: ErrorReason) -> Answer {
    Answer::Refuse(Failure::new(reason, "not now").into())
}

fn refuse_for(reason: ErrorReason, millis: u64) -> Answer {
    Answer::Refuse(
        Failure::new(reason, "not now")
            .retry_after(ms(millis))
            .into(),
    )
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_the_moment_is_sent_again_and_not_before_the_server_says() {
    let fake = Fake::default().script([
        refuse_for(ErrorReason::LedgerUnavailable, 1_500),
        refuse_for(ErrorReason::Overloaded, 2_500),
        refuse(ErrorReason::TimedOut),
    ]);
    let recorded = fake.client().record(event("e")).await.unwrap();
    assert_eq!(recorded.event_id, "e");
    let at: Vec<_> = fake.seen().iter().map(|seen| seen.at).collect();
    assert_eq!(at.len(), 4);
    assert!(at[1] - at[0] >= ms(1_500) && at[2] - at[1] >= ms(2_500));
    assert!(at[3] - at[2] >= ms(200) && at[3] - at[2] <= ms(401));
}

#[tokio::test(start_paused = true)]
async fn what_will_not_change_is_sent_once() {
    for reason in [
        ErrorReason::FieldInvalid,
        ErrorReason::PermissionDenied,
        ErrorReason::MessageTooLarge,
        ErrorReason::EventConflict,
        ErrorReason::Internal,
        ErrorReason::NotYetImplemented,
    ] {
        let fake = Fake::default().script([refuse(reason)]);
        let error = fake.client().record(event("e")).await.unwrap_err();
        assert_eq!(error.reason, Some(reason));
        assert_eq!(fake.seen().len(), 1, "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn repetitions_are_bounded_in_number() {
    let down = || Answer::Refuse(Status::unavailable("down"));
    let fake = Fake::default().script((0..9).map(|_| down()));
    let options = Options::new("localhost").attempts(3);
    let error = fake.client_with(options).record(event("e")).await;
    assert_eq!(error.unwrap_err().code, Code::Unavailable);
    assert_eq!(fake.seen().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_of_all_attempts_together() {
    let fake = Fake::default().script([
        refuse_for(ErrorReason::LedgerUnavailable, 4_000),
        Answer::Hang,
    ]);
    let began = Instant::now();
    let options = Options::new("localhost").deadline(ms(10_000));
    let error = fake.client_with(options).user_usage("ada", &[]).await;
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert!(error.is_applied_unknown() && error.is_retryable());
    let took = began.elapsed();
    assert!(took >= ms(10_000) && took < ms(10_100), "{took:?}");
    let timeouts: Vec<_> = fake.seen().into_iter().map(|seen| seen.timeout).collect();
    assert_eq!(timeouts[0].as_deref(), Some("10000000u"));
    let second = timeouts[1].as_deref().unwrap().trim_end_matches('u');
    assert!(second.parse::<u64>().unwrap() <= 6_000_000);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_that_comes_after_the_deadline() {
    let fake = Fake::default().script([refuse_for(ErrorReason::LedgerUnavailable, 60_000)]);
    let began = Instant::now();
    let error = fake.client().record(event("e")).await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::LedgerUnavailable));
    assert!(began.elapsed() < ms(1_000));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_somebody_cancelled_says_so() {
    let cancelled = || Answer::Refuse(Status::cancelled("the proxy is going away"));
    let fake = Fake::default().script([cancelled()]);
    let error = fake.client().record(event("e")).await.unwrap_err();
    assert_eq!(error.code, Code::Cancelled);
    assert_eq!(error.message, "the proxy is going away");
    assert!(error.is_applied_unknown() && !error.is_retryable());
    assert_eq!(fake.seen().len(), 1);

    // With the end of the call's time it is that.
    let fake = Fake::default().script([cancelled()]);
    let options = Options::new("localhost").deadline(ms(4));
    let error = fake.client_with(options).record(event("e")).await;
    assert_eq!(error.unwrap_err().code, Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn a_request_may_have_its_own_deadline() {
    let fake = Fake::default().script([Answer::Hang]);
    let mut request = tonic::Request::new(v1::GetUserUsageRequest::default());
    request.set_timeout(ms(700));
    let began = Instant::now();
    let status = fake.client().analytics().get_user_usage(request).await;
    assert_eq!(status.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(began.elapsed() < ms(800));
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_connection_is_cut_is_sent_again_on_another() {
    let fake = Fake::default().script([Answer::Cut, Answer::Cut]);
    let client = fake.client();
    let results = client.record_batch(vec![event("a"), event("b")]).await;
    let results = results.unwrap();
    let ids: Vec<_> = results
        .into_iter()
        .map(|one| one.unwrap().event_id)
        .collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(fake.seen().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn every_call_says_who_asks_unless_its_request_does() {
    let fake = Fake::default();
    let client = fake.client_with(Options::new("localhost").tenant("acme"));
    client.user_usage("", &[]).await.unwrap();
    let mut request = tonic::Request::new(v1::GetUserUsageRequest::default());
    let metadata = request.metadata_mut();
    metadata.insert("tokenmeter-tenant", "other".parse().unwrap());
    client.analytics().get_user_usage(request).await.unwrap();
    let tenants: Vec<_> = fake.seen().into_iter().map(|seen| seen.tenant).collect();
    assert_eq!(tenants, [Some("acme".into()), Some("other".into())]);
}

#[tokio::test]
async fn an_absent_server_is_told_at_connecting() {
    let port = tokenmeter_tests::free_port();
    let options = Options::new(format!("127.0.0.1:{port}"));
    let error = tokenmeter_client::Client::connect(options)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains(&port.to_string()), "{error}");
}
