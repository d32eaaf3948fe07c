//! An export from a server that breaks off.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use tokenmeter_api::convert::money::from_nano_usd;
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1::ErrorReason;
use tokio::net::TcpListener;
use tonic::codegen::BoxStream;
use tonic::{Request, Response};
use v1::analytics_service_server::{AnalyticsService, AnalyticsServiceServer};

use super::*;
use crate::cli::{Cli, Command};

/// After how many parts a connection breaks, and why, if the server says.
type Break = (usize, Option<ErrorReason>);

/// Three parts of one event each, the second voided. The token of a part is its number.
#[derive(Clone, Default)]
struct Parts {
    breaks: Arc<Mutex<Vec<Break>>>,
    asked: Arc<Mutex<Vec<v1::ExportUsageRequest>>>,
    /// What the summary says too much.
    wrong: i64,
}

fn line(n: usize) -> String {
    let event = v1::RecordedEvent {
        event_id: format!("e{n}"),
        total_tokens: 10,
        cost: Some(from_nano_usd(7)),
        unpriced_lines: 1,
        voided: n == 1,
        ..Default::default()
    };
    json::encode(&event) + "\n"
}

#[tonic::async_trait]
impl AnalyticsService for Parts {
    async fn export_usage(
        &self,
        request: Request<v1::ExportUsageRequest>,
    ) -> Result<Response<BoxStream<v1::ExportUsageResponse>>, Status> {
        let request = request.into_inner();
        let from: usize = request.resume_token.parse().unwrap_or_default();
        self.asked.lock().unwrap().push(request);
        let mut parts: Vec<_> = (from..3)
            .map(|n| {
                Ok(v1::ExportUsageResponse {
                    data: line(n).into(),
                    resume_token: (n + 1).to_string(),
                    ..Default::default()
                })
            })
            .collect();
        parts.push(Ok(v1::ExportUsageResponse {
            resume_token: "3".into(),
            summary: Some(v1::ExportSummary {
                events: 3 + self.wrong,
                total_tokens: 20,
                cost: Some(from_nano_usd(14)),
                unpriced_lines: 2,
            }),
            ..Default::default()
        }));
        let mut breaks = self.breaks.lock().unwrap();
        if !breaks.is_empty() {
            let (after, reason) = breaks.remove(0);
            parts.truncate(after);
            let status = reason.map_or_else(
                || Status::unavailable("gone"),
                |reason| Failure::new(reason, "no more").into(),
            );
            parts.push(Err(status));
        }
        Ok(Response::new(Box::pin(futures_util::stream::iter(parts))))
    }
}

async fn serve(parts: Parts) -> String {
    serve_at(parts, "127.0.0.1:0").await
}

async fn serve_at(parts: Parts, address: &str) -> String {
    let listener = TcpListener::bind(address).await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let service = AnalyticsServiceServer::new(parts);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    at
}

async fn export(at: &str, out: &Path, words: &[&str]) -> Result<(), Error> {
    export_words(at, &[&["--out", out.to_str().unwrap()], words].concat()).await
}

async fn export_words(at: &str, words: &[&str]) -> Result<(), Error> {
    let line = ["tokenmeter", "export", "--server", at];
    let cli = Cli::try_parse_from(line.iter().chain(words)).unwrap();
    let Command::Export(args) = cli.command else {
        panic!("another command");
    };
    run(&args, &cli.client, Output::Json).await
}

fn files(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn whole() -> String {
    (0..3).map(line).collect()
}

#[tokio::test]
async fn a_broken_export_goes_on_and_is_whole_in_the_end() {
    let parts = Parts::default();
    *parts.breaks.lock().unwrap() = vec![(1, None), (0, None), (1, None)];
    let at = serve(parts.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    export(&at, &out, &["--include-voided", "--user", "ada"])
        .await
        .unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), whole());
    assert_eq!(files(folder.path()), ["out.jsonl"]);
    let asked = parts.asked.lock().unwrap().clone();
    let tokens: Vec<_> = asked
        .iter()
        .map(|asked| asked.resume_token.as_str())
        .collect();
    assert_eq!(tokens, ["", "1", "1", "2"]);
    assert!(
        asked
            .iter()
            .all(|asked| asked.include_voided && asked.user_id == "ada")
    );
    assert!(
        asked
            .iter()
            .all(|asked| asked.format() == v1::ExportFormat::JsonLines)
    );

    let error = export(&at, &out, &[]).await.unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
}

#[tokio::test]
async fn a_later_run_goes_on_where_the_last_one_ended() {
    let parts = Parts::default();
    *parts.breaks.lock().unwrap() = vec![(2, Some(ErrorReason::PermissionDenied))];
    let at = serve(parts.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let error = export(&at, &out, &[]).await.unwrap_err().to_string();
    assert!(
        error.contains("PERMISSION_DENIED") && error.contains("--restart"),
        "{error}"
    );
    assert_eq!(
        files(folder.path()),
        ["out.jsonl.part", "out.jsonl.part.json"]
    );
    // A part that was written and not noted, as after a kill.
    let part = folder.path().join("out.jsonl.part");
    let written = fs::read_to_string(&part).unwrap();
    fs::write(&part, written + "half a li").unwrap();

    let other = export(&at, &out, &["--user", "bob"])
        .await
        .unwrap_err()
        .to_string();
    assert!(other.contains("belongs to another export"), "{other}");
    export(&at, &out, &[]).await.unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), whole());
    assert_eq!(files(folder.path()), ["out.jsonl"]);
    assert_eq!(parts.asked.lock().unwrap()[1].resume_token, "2");
}

#[tokio::test]
async fn a_restart_begins_anew_and_a_lost_part_is_noticed() {
    let parts = Parts::default();
    let denied = Some(ErrorReason::PermissionDenied);
    *parts.breaks.lock().unwrap() = vec![(2, denied)];
    let at = serve(parts.clone()).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    assert!(export(&at, &out, &[]).await.is_err());
    fs::write(folder.path().join("out.jsonl.part"), "").unwrap();
    let error = export(&at, &out, &[]).await.unwrap_err().to_string();
    assert!(error.contains("is shorter than was written"), "{error}");
    export(&at, &out, &["--restart"]).await.unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), whole());
    assert_eq!(parts.asked.lock().unwrap()[1].resume_token, "");
}

#[tokio::test]
async fn a_summary_that_says_otherwise_is_no_success() {
    let at = serve(Parts {
        wrong: 1,
        ..Default::default()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let error = export(&at, &out, &[]).await.unwrap_err();
    assert!(matches!(error, Error::Reported));
    assert!(!out.exists());
}

#[tokio::test]
async fn a_part_that_no_export_wrote_is_left_alone() {
    let at = serve(Parts::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let part = folder.path().join("out.jsonl.part");
    let notes = folder.path().join("out.jsonl.part.json");
    fs::write(&part, "somebody's own").unwrap();
    for words in [&[][..], &["--restart"]] {
        let error = export(&at, &out, words).await.unwrap_err().to_string();
        assert!(
            error.contains("out.jsonl.part exists") && error.contains("--out"),
            "{error}"
        );
    }
    fs::write(&notes, "{}").unwrap();
    for words in [&[][..], &["--restart"]] {
        let error = export(&at, &out, words).await.unwrap_err().to_string();
        assert!(error.contains("holds no notes of an export"), "{error}");
    }
    assert_eq!(fs::read_to_string(&part).unwrap(), "somebody's own");
    assert_eq!(fs::read_to_string(&notes).unwrap(), "{}");
    assert!(!out.exists());
}

#[tokio::test]
async fn two_exports_to_one_file_do_not_run_at_once() {
    let at = serve(Parts::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let mut first = Sink::file(&out, "one".to_owned(), false).unwrap();
    let mut mark = first.mark().clone();
    mark.bytes = 5;
    first.write(b"half\n", &mark).unwrap();
    for words in [&[][..], &["--restart"]] {
        let error = export(&at, &out, words).await.unwrap_err().to_string();
        assert!(error.contains("another export to"), "{error}");
    }
    first.finish().unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), "half\n");
    assert_eq!(files(folder.path()), ["out.jsonl"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = gone.local_addr().unwrap().to_string();
    drop(gone);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.jsonl");
    let error = export(&at, &out, &["--retry-for", "0"]).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let late = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        serve_at(Parts::default(), &at).await
    };
    let (exported, _) = tokio::join!(export(&at, &out, &["--retry-for", "30"]), late);
    exported.unwrap();
    assert_eq!(fs::read_to_string(&out).unwrap(), whole());
}

#[tokio::test]
async fn an_export_to_standard_output_is_not_told_to_restart_or_go_on() {
    let gone = (1, None);
    for breaks in [
        vec![(1, Some(ErrorReason::PermissionDenied))],
        vec![gone; 9],
    ] {
        let parts = Parts::default();
        *parts.breaks.lock().unwrap() = breaks;
        let at = serve(parts).await;
        let error = export_words(&at, &["--retry-for", "0"]).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("export again"), "{error}");
        assert!(
            !error.contains("--restart") && !error.contains("goes on from here"),
            "{error}"
        );
    }
}
