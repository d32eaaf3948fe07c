//! A watch against a server that ends its streams in every way.

use std::sync::{Arc, Mutex};

use clap::Parser as _;
use tokenmeter_api::status::Failure;
use tokio::net::TcpListener;
use tonic::codegen::BoxStream;
use tonic::{Request, Response};
use v1::analytics_service_server::{AnalyticsService, AnalyticsServiceServer};

use super::*;
use crate::cli::{Cli, Command};

/// What one connection of the scripted server does.
#[derive(Clone)]
enum Step {
    /// Sends events with these tokens, then ends the stream so.
    Send(Vec<&'static str>, Ending),
    /// Refuses the token.
    Expired(&'static str),
}

#[derive(Clone, Copy)]
enum Ending {
    Broken,
    Reconnect,
    Closed,
    Denied,
}

#[derive(Clone, Default)]
struct Scripted {
    steps: Arc<Mutex<Vec<Step>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

fn response(token: &str, event: Event) -> Result<v1::StreamTokenEventsResponse, Status> {
    Ok(v1::StreamTokenEventsResponse {
        resume_token: token.to_owned(),
        event: Some(event),
    })
}

#[tonic::async_trait]
impl AnalyticsService for Scripted {
    async fn stream_token_events(
        &self,
        request: Request<v1::StreamTokenEventsRequest>,
    ) -> Result<Response<BoxStream<v1::StreamTokenEventsResponse>>, Status> {
        let asked = request.into_inner();
        assert_eq!(asked.filter.unwrap().user_id, "ada");
        self.asked.lock().unwrap().push(asked.resume_token);
        let step = self.steps.lock().unwrap().remove(0);
        let (tokens, ending) = match step {
            Step::Send(tokens, ending) => (tokens, ending),
            Step::Expired(oldest) => {
                let mut failure = Failure::new(ErrorReason::ResumeTokenExpired, "too old");
                let oldest = ("oldest_resume_token".to_owned(), oldest.to_owned());
                failure.metadata.extend([oldest]);
                return Err(failure.into());
            }
        };
        let mut responses = vec![response("h", Event::Heartbeat(v1::Heartbeat::default()))];
        responses.extend(tokens.into_iter().map(|token| {
            let event = v1::RecordedEvent {
                event_id: token.to_owned(),
                ..Default::default()
            };
            response(token, Event::UsageRecorded(event))
        }));
        match ending {
            Ending::Broken => responses.push(Err(Status::unavailable("gone"))),
            Ending::Reconnect => {
                responses.push(response(
                    "r",
                    Event::Reconnect(v1::Reconnect { after_ms: 1 }),
                ));
            }
            Ending::Closed => {}
            Ending::Denied => responses.push(Err(Failure::new(
                ErrorReason::PermissionDenied,
                "not yours",
            )
            .into())),
        }
        let responses = futures_util::stream::iter(responses);
        Ok(Response::new(Box::pin(responses)))
    }
}

async fn serve(steps: Vec<Step>) -> (Scripted, String) {
    let scripted = Scripted::default();
    *scripted.steps.lock().unwrap() = steps;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let service = AnalyticsServiceServer::new(scripted.clone());
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    (scripted, at)
}

async fn watch(at: &str, words: &[&str]) -> Result<(), Error> {
    let line = ["tokenmeter", "watch", "--user", "ada", "--server", at];
    let cli = Cli::try_parse_from(line.iter().chain(words)).unwrap();
    let Command::Watch(args) = cli.command else {
        panic!("another command");
    };
    run(*args, &cli.client, Output::Json).await
}

#[tokio::test]
async fn every_connection_goes_on_with_the_last_token() {
    let (server, at) = serve(vec![
        Step::Send(vec!["a", "b"], Ending::Broken),
        Step::Send(vec![], Ending::Closed),
        Step::Send(vec!["c"], Ending::Reconnect),
        Step::Expired("oldest"),
        Step::Send(vec!["d", "e"], Ending::Broken),
    ])
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "start\n").unwrap();
    let file = file.to_str().unwrap();
    watch(&at, &["--token-file", file, "--count", "4"])
        .await
        .unwrap();
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked, ["start", "b", "h", "r", "oldest"]);
    // The fifth event was not wanted any more.
    assert_eq!(std::fs::read_to_string(file).unwrap(), "d\n");
}

#[tokio::test]
async fn a_refusal_ends_the_watch_and_the_token_is_kept() {
    let (server, at) = serve(vec![Step::Send(vec!["a"], Ending::Denied)]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let words = ["--token-file", file.to_str().unwrap()];
    let error = watch(&at, &words).await.unwrap_err().to_string();
    assert_eq!(error, "PERMISSION_DENIED: not yours");
    assert_eq!(*server.asked.lock().unwrap(), [""]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a\n");

    std::fs::write(&file, "x".repeat(2_000)).unwrap();
    let error = watch(&at, &words).await.unwrap_err().to_string();
    assert!(error.contains("holds no resume token"), "{error}");
}

#[tokio::test]
async fn an_empty_token_file_is_refused_and_an_absent_one_begins_now() {
    let (server, at) = serve(vec![Step::Send(vec!["a"], Ending::Denied)]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let words = ["--token-file", file.to_str().unwrap(), "--count", "1"];
    for empty in ["", " \n"] {
        std::fs::write(&file, empty).unwrap();
        let error = watch(&at, &words).await.unwrap_err().to_string();
        assert!(
            error.contains("is empty") && error.contains("remove it"),
            "{error}"
        );
    }
    assert!(server.asked.lock().unwrap().is_empty());
    std::fs::remove_file(&file).unwrap();
    watch(&at, &words).await.unwrap();
    assert_eq!(*server.asked.lock().unwrap(), [""]);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
