//! The subscription: nothing is missed and nothing comes twice, whatever becomes of its streams.

use std::sync::{Arc, Mutex};

use tokenmeter_api::status::Failure;
use tokenmeter_client::{Client, Code, ErrorReason, Event, TokenEvents, oldest_token, v1};
use tokenmeter_tests::Chance;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use crate::fake::{Answers, Fake, ms};

/// How many events the log of the fake has; the token of the nth is n.
const LOG: u64 = 1_000;

fn response(token: u64, event: Option<Event>) -> v1::StreamTokenEventsResponse {
    v1::StreamTokenEventsResponse {
        resume_token: token.to_string(),
        event,
    }
}

fn recorded(n: u64) -> Event {
    Event::UsageRecorded(v1::RecordedEvent {
        event_id: n.to_string(),
        ..Default::default()
    })
}

fn subscribe(client: &Client, token: &str) -> TokenEvents {
    client.events(v1::EventFilter::default(), token)
}

/// The number of the next event.
async fn number(events: &mut TokenEvents) -> u64 {
    match events.next().await.unwrap() {
        Event::UsageRecorded(event) => event.event_id.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// One stream of a server that sends its log and ends at random in every way there is.
async fn unreliable(
    mut chance: Chance,
    request: v1::StreamTokenEventsRequest,
    answers: Answers<v1::StreamTokenEventsResponse>,
    fake: Fake,
) {
    let mut at: u64 = request.resume_token.parse().unwrap();
    loop {
        let quiet = match chance.below(60) {
            0 => Some(Event::Heartbeat(v1::Heartbeat::default())),
            1 => {
                let after_ms = chance.below(300).cast_signed() - 10;
                Some(Event::Reconnect(v1::Reconnect { after_ms }))
            }
            2 => {
                let end = Failure::new(ErrorReason::ShuttingDown, "end");
                return drop(answers.send(Err(end.into())).await);
            }
            3 => return,
            4 => return drop(answers.send(Err(Status::unknown("a proxy"))).await),
            5 => {
                fake.cut();
                None
            }
            6 => {
                sleep(ms(chance.below(50_000))).await;
                None
            }
            _ => {
                at += 1;
                if at > LOG {
                    return;
                }
                Some(recorded(at))
            }
        };
        if answers.send(Ok(response(at, quiet))).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_missed_and_nothing_comes_twice_through_lost_streams() {
    let mut chance = Chance::new("nothing_is_missed_and_nothing_comes_twice_through_lost_streams");
    for _ in 0..10 * tokenmeter_tests::rounds() {
        let fake = Fake::default();
        let (source, this) = (Mutex::new(chance.fork()), fake.clone());
        let fake = fake.on_events(move |_, request, answers| {
            let chance = source.lock().unwrap().fork();
            unreliable(chance, request, answers, this.clone())
        });
        let client = fake.client();
        let mut events = subscribe(&client, "0");
        let mut seen = 0;
        while seen < LOG {
            // A `next` that is dropped early, and a program that begins again with its token.
            let patience = ms(chance.below(2_000));
            if let Ok(n) = timeout(patience, number(&mut events)).await {
                seen += 1;
                assert_eq!(n, seen);
                assert_eq!(events.resume_token(), n.to_string());
            }
            if chance.below(100) == 0 {
                let token = events.resume_token().to_owned();
                events = subscribe(&client, &token);
            }
        }
        println!("{LOG} events over {} streams", fake.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_left_after_45_seconds_and_one_with_heartbeats_is_not() {
    let fake = Fake::default().on_events(|n, _, answers| async move {
        for _ in 0..4 {
            sleep(ms(15_000)).await;
            if n == 0 {
                let beat = Event::Heartbeat(v1::Heartbeat::default());
                let _ = answers.send(Ok(response(7, Some(beat)))).await;
            }
        }
        if n < 2 {
            answers.closed().await;
        } else {
            let _ = answers.send(Ok(response(8, Some(recorded(8))))).await;
        }
    });
    let client = fake.client();
    let mut events = subscribe(&client, "");
    let began = Instant::now();
    assert!(timeout(ms(104_000), events.next()).await.is_err());
    assert_eq!(fake.streams(), 1, "four heartbeats, then 44 seconds");
    assert_eq!(events.resume_token(), "7");
    assert!(timeout(ms(2_000), events.next()).await.is_err());
    assert_eq!(fake.streams(), 2);
    assert!(began.elapsed() >= ms(105_000));
}

#[tokio::test(start_paused = true)]
async fn a_reconnect_is_obeyed_with_the_token_it_carries() {
    let opened = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&opened);
    let fake = Fake::default().on_events(move |n, request, answers| {
        let mut times = times.lock().unwrap();
        times.push((Instant::now(), request.resume_token));
        async move {
            let event = match n {
                0 => Event::Reconnect(v1::Reconnect { after_ms: 3_000 }),
                _ => recorded(9),
            };
            let _ = answers.send(Ok(response(8, Some(event)))).await;
            answers.closed().await;
        }
    });
    assert_eq!(number(&mut subscribe(&fake.client(), "1")).await, 9);
    let opened = opened.lock().unwrap().clone();
    assert_eq!((&*opened[0].1, &*opened[1].1), ("1", "8"));
    let waited = opened[1].0 - opened[0].0;
    assert!(waited >= ms(3_000) && waited < ms(3_100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn waits_double_while_the_server_is_away() {
    let opened = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&opened);
    let fake = Fake::default().on_events(move |n, _, answers| {
        times.lock().unwrap().push(Instant::now());
        async move {
            let answer = match n {
                0..12 => Err(Status::unavailable("away")),
                _ => Ok(response(1, Some(recorded(1)))),
            };
            let _ = answers.send(answer).await;
        }
    });
    assert_eq!(number(&mut subscribe(&fake.client(), "0")).await, 1);
    let opened = opened.lock().unwrap().clone();
    let whole = [100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000];
    for (pair, whole) in opened.windows(2).zip(whole) {
        let waited = pair[1] - pair[0];
        assert!(
            waited >= ms(whole / 2) && waited <= ms(whole + 5),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_told_with_the_one_to_go_on_with() {
    let fake = Fake::default().on_events(|_, request, answers| async move {
        let answer = if request.resume_token == "3" {
            let expired = Failure::new(ErrorReason::ResumeTokenExpired, "expired");
            Err(expired.metadata("oldest_resume_token", "40").into())
        } else {
            let at: u64 = request.resume_token.parse().unwrap();
            Ok(response(at + 1, Some(recorded(at + 1))))
        };
        let _ = answers.send(answer).await;
    });
    let client = fake.client();
    let mut events = subscribe(&client, "3");
    let error = events.next().await.unwrap_err();
    assert_eq!(error.reason, Some(ErrorReason::ResumeTokenExpired));
    let oldest = oldest_token(&error).unwrap().to_owned();
    assert_eq!(oldest, "40");
    assert_eq!(events.resume_token(), "3", "nothing is skipped by itself");
    events.resume_from(oldest);
    assert_eq!(number(&mut events).await, 41);
}

#[tokio::test(start_paused = true)]
async fn what_connecting_again_does_not_mend_is_told_at_once() {
    let fake = Fake::default().on_events(|_, _, answers| async move {
        let _ = answers.send(Err(Status::permission_denied("no"))).await;
    });
    let client = fake.client();
    let mut events = subscribe(&client, "");
    let error = events.next().await.unwrap_err();
    assert_eq!(error.code, Code::PermissionDenied);
    assert_eq!((oldest_token(&error), fake.streams()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_has_begun_misses_nothing_although_its_first_stream_is_lost() {
    for first in [recorded(5), Event::Heartbeat(v1::Heartbeat::default())] {
        let first = response(5, Some(first));
        let held = matches!(first.event, Some(Event::UsageRecorded(_)));
        let fake = Fake::default().on_events(move |n, request, answers| {
            let first = first.clone();
            async move {
                let answer = match n {
                    0 => Err(Status::unavailable("away")),
                    1 => Ok(first),
                    _ => {
                        assert_eq!(request.resume_token, "5");
                        Ok(response(6, Some(recorded(6))))
                    }
                };
                let _ = answers.send(answer).await;
            }
        });
        let client = fake.client();
        let mut events = subscribe(&client, "");
        events.begin().await.unwrap();
        fake.cut();
        if held {
            assert_eq!(events.resume_token(), "", "it is not handed out yet");
            assert_eq!(number(&mut events).await, 5);
        }
        assert_eq!(number(&mut events).await, 6);
    }
}
