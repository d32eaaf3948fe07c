//! Subscriptions and exports of a real server, over connections that really break.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason as R;
use tokenmeter_api::v1::analytics_service_client::AnalyticsServiceClient;
use tokenmeter_api::v1::stream_token_events_response::Event;
use tokenmeter_tests::{Chance, Server, Start, sqlite_only};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::{As, Clients, Metadata, event, line, lines, refusal};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a subscriber is cut off.
const CUTS: usize = 200;

type Feed = Streaming<v1::StreamTokenEventsResponse>;

pub(crate) fn asked(resume_token: &str) -> v1::StreamTokenEventsRequest {
    v1::StreamTokenEventsRequest {
        resume_token: resume_token.to_owned(),
        ..Default::default()
    }
}

async fn subscribe(server: &Server, request: v1::StreamTokenEventsRequest) -> Result<Feed, Status> {
    // A connection of its own, so that dropping it breaks it.
    let mut client = AnalyticsServiceClient::new(server.channel().await);
    Ok(client.stream_token_events(request).await?.into_inner())
}

async fn next(feed: &mut Feed) -> v1::StreamTokenEventsResponse {
    let response = tokio::time::timeout(PATIENCE, feed.message()).await;
    let response = response.expect("a response in time").unwrap().unwrap();
    assert!((1..=1_024).contains(&response.resume_token.len()));
    response
}

/// The id of the next event that is recorded, with its token; heartbeats pass.
async fn next_recorded(feed: &mut Feed) -> (String, String) {
    loop {
        let response = next(feed).await;
        match response.event.unwrap() {
            Event::UsageRecorded(event) => return (event.event_id, response.resume_token),
            Event::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The token that a subscription begins with.
async fn first_token(feed: &mut Feed) -> String {
    let first = next(feed).await;
    assert!(
        matches!(first.event, Some(Event::Heartbeat(_))),
        "{first:?}"
    );
    first.resume_token
}

/// A writer that records until told to stop; answers the ids that were acknowledged, in order.
pub(crate) fn writer(
    channel: Channel,
    name: &'static str,
    stop: &Arc<AtomicBool>,
    acknowledged: &Arc<AtomicU64>,
) -> JoinHandle<Vec<String>> {
    let (stop, acknowledged) = (Arc::clone(stop), Arc::clone(acknowledged));
    tokio::spawn(async move {
        let mut client = v1::metering_service_client::MeteringServiceClient::new(channel);
        let mut ids = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let id = format!("{name}-{}", ids.len());
            let request = v1::RecordUsageRequest {
                event: Some(event(&id)),
                ..Default::default()
            };
            // While the server is down the same event is sent again.
            if client.record_usage(request).await.is_ok() {
                ids.push(id);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            } else {
                tokio::task::yield_now().await;
            }
        }
        ids
    })
}

/// Every writer's events are in `seen` once and in the writer's order, and nothing else is.
pub(crate) fn is_complete(seen: &[String], writers: &[Vec<String>]) {
    let mut of: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for id in seen {
        of.entry(id.split_once('-').unwrap().0)
            .or_default()
            .push(id);
    }
    for ids in writers {
        let name = ids[0].split_once('-').unwrap().0;
        let got = of.remove(name).unwrap_or_default();
        // What was under way at the end may be recorded, and its answer lost.
        assert!(
            got.len() >= ids.len(),
            "{name}: {} of {}",
            got.len(),
            ids.len()
        );
        assert!(got.len() <= ids.len() + 1, "{name}: more than were sent");
        assert!(
            got.iter().zip(ids).all(|(got, sent)| *got == sent),
            "{name}"
        );
    }
    assert!(of.is_empty(), "{of:?}");
}

async fn cut_and_resumed(server: &mut Server, cuts: usize, kills: usize, chance: &mut Chance) {
    let mut feed = subscribe(server, asked("")).await.unwrap();
    let mut token = first_token(&mut feed).await;
    let (stop, acknowledged) = (Arc::default(), Arc::new(AtomicU64::new(0)));
    let lazy = Channel::from_shared(format!("http://{}", server.address())).unwrap();
    let writers: Vec<_> = ["a", "b"]
        .map(|name| writer(lazy.connect_lazy(), name, &stop, &acknowledged))
        .into();
    let mut seen = Vec::new();
    let kill_every = cuts / (kills + 1);
    for cut in 1..=cuts {
        for _ in 0..chance.below(12) {
            let (id, next) = next_recorded(&mut feed).await;
            seen.push(id);
            token = next;
        }
        drop(feed);
        if kills > 0 && cut % kill_every == 0 && cut / kill_every <= kills {
            server.restart();
        }
        feed = subscribe(server, asked(&token)).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent = Vec::new();
    for writer in writers {
        sent.push(writer.await.unwrap());
    }
    let mut clients = Clients::of(server).await;
    clients.record(event("end-0")).await.unwrap();
    loop {
        let (id, _) = next_recorded(&mut feed).await;
        if id == "end-0" {
            break;
        }
        seen.push(id);
    }
    println!("{} events, {cuts} cuts, {kills} kills", seen.len());
    is_complete(&seen, &sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_cut_off_200_times_misses_nothing_and_sees_nothing_twice() {
    let mut chance = Chance::new("cuts of a subscription");
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    cut_and_resumed(&mut server, CUTS, 0, &mut chance).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_goes_on_after_kills_of_the_server() {
    let mut chance = Chance::new("kills under a subscription");
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    cut_and_resumed(&mut server, 20, 5, &mut chance).await;
}

fn filtered(filter: v1::EventFilter, resume_token: &str) -> v1::StreamTokenEventsRequest {
    v1::StreamTokenEventsRequest {
        filter: Some(filter),
        ..asked(resume_token)
    }
}

fn of_user(user: &str) -> v1::EventFilter {
    v1::EventFilter {
        user_id: user.to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn every_filter_filters_and_a_bad_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let label = |key: &str, value: &str| v1::Label {
        key: key.into(),
        value: value.into(),
    };
    let yes = v1::EventFilter {
        user_id: "eve".into(),
        session_id: "s-9".into(),
        team_id: "red".into(),
        models: vec!["gpt-x".into(), "other".into()],
        types: vec![v1::TokenEventType::UsageRecorded.into()],
        labels: vec![label("k", "v")],
        phases: vec![v1::TokenPhase::Finalize.into()],
        lifecycle_kinds: vec![v1::LifecycleKind::Complete.into()],
    };
    let no = |change: fn(&mut v1::EventFilter)| {
        let mut filter = yes.clone();
        change(&mut filter);
        filter
    };
    let wrong = [
        no(|filter| filter.user_id = "ada".into()),
        no(|filter| filter.session_id = "s-1".into()),
        no(|filter| filter.team_id = "blue".into()),
        no(|filter| filter.models = vec!["other".into()]),
        no(|filter| filter.types = vec![v1::TokenEventType::UsageVoided.into()]),
        no(|filter| filter.labels[0].value = "w".into()),
    ];
    let mut feeds = Vec::new();
    for filter in [yes.clone(), v1::EventFilter::default()]
        .iter()
        .chain(&wrong)
    {
        let mut request = filtered(filter.clone(), "");
        request.heartbeat_interval = Some(prost_types::Duration::default());
        let mut feed = subscribe(&server, request).await.unwrap();
        let token = first_token(&mut feed).await;
        feeds.push((feed, token));
    }
    let mut wanted = event("wanted");
    wanted.user_id = "eve".into();
    wanted.session_id = "s-9".into();
    wanted.team_id = "red".into();
    wanted.labels = vec![label("k", "v"), label("l", "")];
    let of_model = |model: &str| v1::UsageLine {
        model: model.into(),
        ..line(crate::support::counts())
    };
    wanted.usage = Some(lines(vec![of_model("gpt-y"), of_model("gpt-x")]));
    clients.record(wanted).await.unwrap();
    for (feed, _) in &mut feeds[..2] {
        assert_eq!(next_recorded(feed).await.0, "wanted");
    }
    // A heartbeat's token moves past what the filter leaves out.
    for (n, (feed, before)) in feeds[2..].iter_mut().enumerate() {
        loop {
            let response = next(feed).await;
            assert!(matches!(response.event, Some(Event::Heartbeat(_))), "{n}");
            if response.resume_token != *before {
                break;
            }
        }
    }

    let many = |n: usize| vec!["m".to_owned(); n];
    for (filter, field) in [
        (of_user(&"x".repeat(256)), "filter.user_id"),
        (
            v1::EventFilter {
                models: many(65),
                ..Default::default()
            },
            "filter.models",
        ),
        (
            v1::EventFilter {
                types: vec![77],
                ..Default::default()
            },
            "filter.types[0]",
        ),
        (
            v1::EventFilter {
                labels: vec![label("k", "v"); 9],
                ..Default::default()
            },
            "filter.labels",
        ),
    ] {
        let status = subscribe(&server, filtered(filter, "")).await.unwrap_err();
        let refused = refusal(&status);
        assert_eq!(refused.reason, R::FieldInvalid);
        assert_eq!(refused.violations[0].0, field);
    }
    let mut request = asked("");
    request.heartbeat_interval = Some(prost_types::Duration {
        seconds: 1,
        nanos: -1,
    });
    let status = subscribe(&server, request).await.unwrap_err();
    assert_eq!(refusal(&status).violations[0].0, "heartbeat_interval");
}

#[tokio::test]
async fn who_reads_only_itself_sees_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let who = Metadata::new(&[("tokenmeter-user", "eve"), ("tokenmeter-roles", "read_own")]);
    let mut eve: AnalyticsServiceClient<As> =
        AnalyticsServiceClient::with_interceptor(server.channel().await, who);
    let denied = eve.stream_token_events(filtered(of_user("ada"), "")).await;
    assert_eq!(refusal(&denied.unwrap_err()).reason, R::PermissionDenied);
    let mut feed = eve
        .stream_token_events(asked(""))
        .await
        .unwrap()
        .into_inner();
    let token = first_token(&mut feed).await;
    clients.record(event("adas")).await.unwrap();
    let mut own = event("eves");
    own.user_id = "eve".into();
    clients.record(own).await.unwrap();
    assert_eq!(next_recorded(&mut feed).await.0, "eves");
    // The token is of what eve may see; it opens no more for anybody.
    let status = subscribe(&server, asked(&token)).await.unwrap_err();
    assert_eq!(refusal(&status).reason, R::ResumeTokenFilterMismatch);
    let other = Metadata::new(&[("tokenmeter-tenant", "acme")]);
    let mut acme = AnalyticsServiceClient::with_interceptor(server.channel().await, other);
    let status = acme.stream_token_events(asked(&token)).await.unwrap_err();
    assert_eq!(refusal(&status).reason, R::ResumeTokenFilterMismatch);
}

#[tokio::test]
async fn a_token_that_cannot_be_used_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let mut feed = subscribe(&server, asked("")).await.unwrap();
    first_token(&mut feed).await;
    clients.record(event("one")).await.unwrap();
    let (_, token) = next_recorded(&mut feed).await;

    let refused = async |request| refusal(&subscribe(&server, request).await.unwrap_err());
    let truncated = &token[..token.len() - 1];
    let mut forged = token.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == '0' { '1' } else { '0' });
    let long = "x".repeat(100_000);
    for bad in [truncated, &forged, &long, "x"] {
        let failure = refused(asked(bad)).await;
        assert_eq!(failure.reason, R::ResumeTokenInvalid, "{bad:.80}");
        assert_eq!(failure.code, Code::InvalidArgument);
    }
    let failure = refused(filtered(of_user("ada"), &token)).await;
    assert_eq!(failure.reason, R::ResumeTokenFilterMismatch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_what_a_restore_undid_has_expired() {
    if !sqlite_only("a copy of the file takes the place of the file") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut server = Start::new(folder.path())
        .argument("--ledger")
        .argument("sqlite:t.db")
        .serve();
    let mut clients = Clients::of(&server).await;
    let mut feed = subscribe(&server, asked("")).await.unwrap();
    first_token(&mut feed).await;
    clients.record(event("before")).await.unwrap();
    let (_, kept) = next_recorded(&mut feed).await;
    server.terminate();

    // A copy of the ledger, which then goes on, and is replaced by the copy.
    let copied = |from: &str, to: &str| {
        for end in ["", "-wal"] {
            let from = folder.path().join(format!("{from}{end}"));
            let to = folder.path().join(format!("{to}{end}"));
            let _ = fs::remove_file(&to);
            if from.exists() {
                fs::copy(&from, &to).unwrap();
            }
        }
    };
    copied("t.db", "copy.db");
    server.restart();
    let mut clients = Clients::of(&server).await;
    let mut feed = subscribe(&server, asked(&kept)).await.unwrap();
    clients.record(event("undone")).await.unwrap();
    let (id, lost) = next_recorded(&mut feed).await;
    assert_eq!(id, "undone");
    server.terminate();
    copied("copy.db", "t.db");
    server.restart();

    // Whether or not as much was recorded since, the token is of a place that is no more.
    let mut clients = Clients::of(&server).await;
    for n in 0..3 {
        let failure = refusal(&subscribe(&server, asked(&lost)).await.unwrap_err());
        assert_eq!(failure.reason, R::ResumeTokenExpired);
        assert_eq!(failure.code, Code::OutOfRange);
        let oldest = &failure.metadata["oldest_resume_token"];
        let mut feed = subscribe(&server, asked(oldest)).await.unwrap();
        assert_eq!(next_recorded(&mut feed).await.0, "before");
        clients.record(event(&format!("new{n}"))).await.unwrap();
    }
    // One of before the copy is as good as ever.
    let mut feed = subscribe(&server, asked(&kept)).await.unwrap();
    for n in 0..3 {
        assert_eq!(next_recorded(&mut feed).await.0, format!("new{n}"));
    }
}

#[tokio::test]
async fn silence_is_broken_by_heartbeats() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut request = asked("");
    // Moved to the nearest, which is a second.
    request.heartbeat_interval = Some(prost_types::Duration {
        seconds: -5,
        nanos: 0,
    });
    let mut feed = subscribe(&server, request).await.unwrap();
    let started = std::time::Instant::now();
    for _ in 0..3 {
        let response = next(&mut feed).await;
        assert!(matches!(response.event, Some(Event::Heartbeat(_))));
    }
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1_900), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_asks_subscribers_to_come_back_and_waits_for_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let mut feed = subscribe(&server, asked("")).await.unwrap();
    first_token(&mut feed).await;
    clients.record(event("before")).await.unwrap();
    next_recorded(&mut feed).await;
    let started = std::time::Instant::now();
    server.ask_to_end();
    let last = next(&mut feed).await;
    match last.event {
        Some(Event::Reconnect(reconnect)) => {
            assert!((100..2_000).contains(&reconnect.after_ms), "{reconnect:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(feed.message().await.unwrap(), None);
    drop((feed, clients));
    server.terminate();
    // The grace period is 20 seconds.
    assert!(started.elapsed() < Duration::from_secs(15));
    server.restart();
    let mut clients = Clients::of(&server).await;
    let mut feed = subscribe(&server, asked(&last.resume_token)).await.unwrap();
    clients.record(event("after")).await.unwrap();
    assert_eq!(next_recorded(&mut feed).await.0, "after");
}

#[tokio::test]
async fn streams_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let server = Start::new(folder.path())
        .argument("--max-open-streams")
        .argument("2")
        .serve();
    let one = subscribe(&server, asked("")).await.unwrap();
    let _two = subscribe(&server, asked("")).await.unwrap();
    let status = subscribe(&server, asked("")).await.unwrap_err();
    assert_eq!(refusal(&status).reason, R::TooManyStreams);
    drop(one);
    let again = async {
        while subscribe(&server, asked("")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
}

/// The parts of an export, at most so many.
async fn export(
    server: &Server,
    request: v1::ExportUsageRequest,
    parts: usize,
) -> Result<Vec<v1::ExportUsageResponse>, Status> {
    let mut client = AnalyticsServiceClient::new(server.channel().await);
    let mut stream = client.export_usage(request).await?.into_inner();
    let mut got = Vec::new();
    while got.len() < parts
        && let Some(part) = stream.message().await?
    {
        assert!(part.events.len() <= 1_000 && part.data.len() <= 1_048_576);
        got.push(part);
    }
    Ok(got)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_of_one_moment_and_goes_on_where_it_broke() {
    const EVENTS: usize = 900;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut clients = Clients::of(&server).await;
    let batch = |name: &str| (0..EVENTS).map(|n| event(&format!("{name}-{n}"))).collect();
    clients.batch(batch("before")).await.unwrap();
    let request = v1::ExportUsageRequest::default();
    let whole = export(&server, request.clone(), usize::MAX).await.unwrap();
    let all: Vec<_> = whole
        .iter()
        .flat_map(|part| &part.events)
        .cloned()
        .collect();
    let mut listed = clients.all_events().await;
    listed.reverse();
    assert_eq!(all, listed);
    let summary = whole.last().unwrap().summary.clone().unwrap();
    assert_eq!(summary.events, EVENTS as i64);
    let tokens: i64 = all.iter().map(|event| event.total_tokens).sum();
    assert_eq!(summary.total_tokens, tokens);

    // Broken after each part, while others are recorded: the same events and the same summary.
    let (mut got, mut resumed) = (Vec::new(), request.clone());
    let again = loop {
        clients
            .batch(batch(&format!("later-{}", got.len())))
            .await
            .unwrap();
        let part = export(&server, resumed.clone(), 1).await.unwrap().remove(0);
        got.extend(part.events);
        resumed.resume_token = part.resume_token;
        if let Some(summary) = part.summary {
            break summary;
        }
    };
    assert!(
        got.len() > EVENTS,
        "the second export has what came before it"
    );
    assert_eq!(again.events, got.len() as i64);
    assert_eq!(got[..EVENTS], all);
    assert!(
        got.iter()
            .all(|event| !event.event_id.starts_with("later-2"))
    );

    let lines = v1::ExportUsageRequest {
        format: v1::ExportFormat::JsonLines.into(),
        user_id: "ada".into(),
        ..Default::default()
    };
    let parts = export(&server, lines.clone(), usize::MAX).await.unwrap();
    let text: Vec<u8> = parts.iter().flat_map(|part| part.data.clone()).collect();
    let rows: Vec<serde_json::Value> = String::from_utf8(text)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let events = parts.last().unwrap().summary.as_ref().unwrap().events;
    assert_eq!(rows.len() as i64, events);
    assert_eq!(rows[0]["eventId"], all[0].event_id.as_str());
    assert_eq!(rows[0]["totalTokens"], all[0].total_tokens.to_string());

    let mut other = lines;
    other.resume_token = resumed.resume_token;
    let status = export(&server, other, 1).await.unwrap_err();
    assert_eq!(refusal(&status).reason, R::ResumeTokenFilterMismatch);
    for format in [v1::ExportFormat::FocusCsv, v1::ExportFormat::FocusParquet] {
        let focus = v1::ExportUsageRequest {
            format: format.into(),
            ..Default::default()
        };
        let status = export(&server, focus, 1).await.unwrap_err();
        assert_eq!(refusal(&status).reason, R::NotYetImplemented);
    }
}
