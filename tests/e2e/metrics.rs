//! The metrics page, as a scraper meets it: well-formed, and its figures are what was recorded.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tokenmeter_tests::{Backend, Server, Start, backend, wait_until};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Clients, EVENT_NANO_USD, EVENT_TOKENS, counts, event, line, lines};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with a metrics page on a free port, and where that is.
fn measured(folder: &std::path::Path) -> (Server, SocketAddr) {
    let server = Start::new(folder)
        .argument("--metrics-listen=127.0.0.1:0")
        .serve();
    let greeting = server.stdout().remove(0);
    let (_, after) = greeting.split_once("metrics http://").unwrap();
    let (address, _) = after.split_once("/metrics").unwrap();
    (server, address.parse().unwrap())
}

/// Sends one request and answers the status line with the headers, and the body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The series of a page with their values. A page that breaks the text format fails the test.
fn scrape(address: SocketAddr) -> BTreeMap<String, String> {
    let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    let (mut helps, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    let mut series = BTreeMap::new();
    for row in body.lines().filter(|row| !row.is_empty()) {
        if let Some(help) = row.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap();
            assert_eq!(helps.insert(name, text), None, "{row}");
        } else if let Some(kind) = row.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(kinds.insert(name, kind), None, "{row}");
            assert!(helps.contains_key(name), "no HELP: {row}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{row}");
        } else {
            let (key, value) = row.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            let name = key.split('{').next().unwrap();
            assert!(is_typed(&kinds, name), "no TYPE: {row}");
            let before = series.insert(key.to_owned(), value.to_owned());
            assert_eq!(before, None, "twice: {row}");
        }
    }
    series
}

fn is_typed(kinds: &BTreeMap<&str, &str>, name: &str) -> bool {
    let parts = ["_bucket", "_sum", "_count"];
    let of_histogram = parts.iter().any(|part| {
        let base = name.strip_suffix(part);
        base.and_then(|base| kinds.get(base)) == Some(&"histogram")
    });
    of_histogram || kinds.contains_key(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_are_what_was_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let (server, page) = measured(folder.path());
    let mut clients = Clients::of(&server).await;
    for id in ["a", "b", "a"] {
        clients.record(event(id)).await.unwrap();
    }
    let mut other = event("a");
    other.session_id = "another".into();
    let mut unpriced = line(counts());
    unpriced.model = "nobody-priced-this".into();
    let mut free = event("c");
    free.usage = Some(lines(vec![unpriced]));
    let batch = vec![event("d"), other, event(""), free];
    clients.batch(batch).await.unwrap();
    let refused = clients.record(event("")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let refused = clients.call_empty("Nobody/Knows", &[]).await;
    assert_eq!(refused.code(), Code::Unimplemented);

    let lifetime = clients.lifetime("ada").await;
    assert_eq!(lifetime.total_tokens, 4 * EVENT_TOKENS);
    let seen = scrape(page);
    let told = |series: &str| {
        let value = seen.get(series);
        let value = value.unwrap_or_else(|| panic!("{series} is not among {seen:#?}"));
        value.parse::<i64>().unwrap()
    };
    let expected = [
        (r#"events_total{outcome="recorded"}"#, 4),
        (r#"events_total{outcome="duplicate"}"#, 1),
        (r#"events_total{outcome="refused"}"#, 3),
        (r#"events_refused_total{reason="EVENT_CONFLICT"}"#, 1),
        (r#"events_refused_total{reason="EVENT_ID_MISSING"}"#, 2),
        (r#"tokens_total{provider="anthropic",kind="input"}"#, 480),
        (
            r#"tokens_total{provider="anthropic",kind="cache_read"}"#,
            8_000,
        ),
        (
            r#"tokens_total{provider="anthropic",kind="cache_write"}"#,
            1_200,
        ),
        (r#"tokens_total{provider="anthropic",kind="output"}"#, 340),
        (
            r#"cost_nano_usd_total{provider="anthropic"}"#,
            3 * EVENT_NANO_USD,
        ),
        (r#"unpriced_lines_total{provider="anthropic"}"#, 1),
        (
            r#"rpcs_total{method="MeteringService/RecordUsage",code="OK"}"#,
            3,
        ),
        (
            r#"rpcs_total{method="MeteringService/RecordUsage",code="INVALID_ARGUMENT"}"#,
            1,
        ),
        (
            r#"rpcs_total{method="MeteringService/BatchRecordUsage",code="OK"}"#,
            1,
        ),
        (r#"rpcs_total{method="unknown",code="UNIMPLEMENTED"}"#, 1),
        (r#"rpcs_in_flight{method="MeteringService/RecordUsage"}"#, 0),
        (
            r#"rpc_duration_seconds_count{method="MeteringService/RecordUsage"}"#,
            4,
        ),
        ("ledger_queued_events", 0),
        ("ledger_group_failures_total", 0),
        ("ledger_group_events_sum", 6),
    ];
    for (series, value) in expected {
        assert_eq!(told(&format!("tokenmeter_{series}")), value, "{series}");
    }
    // Duplicates and conflicts leave gaps.
    assert!(told("tokenmeter_ledger_last_position") >= 6);
    if backend() == Backend::Sqlite {
        assert_eq!(told("tokenmeter_ledger_last_position"), 6);
        assert!(told("tokenmeter_ledger_wal_bytes") > 0);
    }
    assert!(told("tokenmeter_price_book_version") >= told("tokenmeter_shipped_prices"));
    assert!(told("process_resident_memory_bytes") > 1_000_000);
    assert!(told("process_open_fds") < told("process_max_fds"));
    for private in ["ada", "s-1", "sonnet", "default\""] {
        assert!(!format!("{seen:?}").contains(private), "{private} is told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_counts_until_it_ends_and_is_cancelled_when_its_caller_goes() {
    let folder = tempfile::tempdir().unwrap();
    let (server, page) = measured(folder.path());
    let mut health = HealthClient::new(server.channel().await);
    let request = HealthCheckRequest::default();
    let mut watch = health.watch(request).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    let open = r#"tokenmeter_rpcs_in_flight{method="Health/Watch"}"#;
    assert_eq!(scrape(page)[open], "1");
    drop(watch);
    let ended = r#"tokenmeter_rpcs_total{method="Health/Watch",code="CANCELLED"}"#;
    // Two figures, which a page may meet one after the other.
    let seen = wait_until("the stream to end", PATIENCE, || {
        Some(scrape(page)).filter(|seen| seen[open] == "0" && seen.contains_key(ended))
    });
    assert_eq!(seen[ended], "1");
    let measured = r#"tokenmeter_rpc_duration_seconds_count{method="Health/Watch"}"#;
    assert_eq!(seen.get(measured), None, "a stream's length is its own");
}

#[test]
fn the_page_is_all_that_its_port_serves_and_it_ends_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, page) = measured(folder.path());
    let status = |request: &str| {
        let (head, _) = ask(page, request);
        head.split_whitespace().nth(1).unwrap().to_owned()
    };
    // Scrapers that connect and say nothing do not keep others out.
    let silent: Vec<_> = (0..7).map(|_| TcpStream::connect(page).unwrap()).collect();
    assert_eq!(status("GET / HTTP/1.1\r\nhost: x\r\n\r\n"), "404");
    assert_eq!(status("GET /metrics/x HTTP/1.1\r\nhost: x\r\n\r\n"), "404");
    assert_eq!(status("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n"), "200");
    let post = "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(status(post), "405");
    let long = "x".repeat(9_000);
    let refused = status(&format!("GET /{long} HTTP/1.1\r\nhost: x\r\n\r\n"));
    assert!(refused.starts_with('4'), "{refused}");
    assert!(server.terminate().success());
    assert!(TcpStream::connect(page).is_err());
    drop(silent);
}

#[test]
fn there_is_no_page_unless_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    assert!(!server.stdout()[0].contains("metrics"));
}

#[test]
fn a_port_in_use_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let start = Start::new(folder.path()).argument(format!("--metrics-listen={address}"));
    let (status, stderr) = start.refused();
    assert_eq!(status.code(), Some(1));
    let told = format!("error: metrics_listen: {address} cannot be bound: ");
    assert!(stderr.starts_with(&told), "{stderr}");
}
