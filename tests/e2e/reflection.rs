//! A stranger with grpcurl and no files: reflection tells everything, figures are exact, errors are
//! readable.

use serde_json::{Value, json};
use tokenmeter_tests::Server;
use tokio_stream::StreamExt as _;

const SERVICES: [&str; 3] = ["MeteringService", "AnalyticsService", "AdminService"];

/// OpenAI's usage as it comes: 1,024 of 1,200 prompt tokens cached.
const OPENAI: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o","usage":{"prompt_tokens":1200,"completion_tokens":85,"total_tokens":1285,"prompt_tokens_details":{"cached_tokens":1024},"completion_tokens_details":{"reasoning_tokens":20}}}"#;
/// Anthropic's usage as it comes.
const ANTHROPIC: &str = r#"{"id":"msg_1","type":"message","model":"claude-sonnet-4-5","usage":{"input_tokens":120,"cache_creation_input_tokens":300,"cache_creation":{"ephemeral_5m_input_tokens":300,"ephemeral_1h_input_tokens":0},"cache_read_input_tokens":2000,"output_tokens":85}}"#;

fn pasted(provider: &str, document: &str) -> Value {
    json!({"event": {"user_id": "ada", "session_id": "s-1", "provider": provider,
        "provider_usage": {"usage_json": document}}})
}

#[test]
fn services_and_messages_are_listed_and_described() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let list = server.grpcurl_words(&[], &["list"]).success().stdout;
    for service in SERVICES {
        assert!(
            list.lines()
                .any(|line| line == format!("tokenmeter.v1.{service}")),
            "{list}"
        );
    }
    assert!(
        list.lines().any(|line| line == "grpc.health.v1.Health"),
        "{list}"
    );
    let service = "tokenmeter.v1.MeteringService";
    let methods = server
        .grpcurl_words(&[], &["list", service])
        .success()
        .stdout;
    assert!(
        methods
            .lines()
            .any(|line| line == format!("{service}.RecordUsage")),
        "{methods}"
    );
    let text = server
        .grpcurl_words(&[], &["describe", service])
        .success()
        .stdout;
    assert!(
        text.contains("rpc RecordUsage ( .tokenmeter.v1.RecordUsageRequest )"),
        "{text}"
    );
    // Comments come along, so that the contract is its own manual.
    assert!(
        text.contains("Access: credentials required; roles: meter"),
        "{text}"
    );
    let message = "tokenmeter.v1.UsageEvent";
    let text = server
        .grpcurl_words(&[], &["describe", message])
        .success()
        .stdout;
    assert!(text.contains("string event_id = 1;"), "{text}");
    assert!(
        text.contains(".tokenmeter.v1.ProviderUsage provider_usage = 10;"),
        "{text}"
    );
    let text = server
        .grpcurl_words(&[], &["describe", "google.rpc.ErrorInfo"])
        .success()
        .stdout;
    assert!(text.contains("string reason = 1;"), "{text}");
}

#[test]
fn a_providers_own_object_is_pasted_and_its_figures_are_exact() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let record = "tokenmeter.v1.MeteringService/RecordUsage";
    let answer = server.grpcurl(record, &pasted("openai", OPENAI)).unwrap();
    let recorded = &answer["recorded"];
    assert_eq!(recorded["outcome"], "RECORD_OUTCOME_RECORDED");
    assert_eq!(recorded["eventId"], "chatcmpl-1");
    assert_eq!(recorded["counts"]["input"], "176");
    assert_eq!(recorded["counts"]["cacheRead"], "1024");
    assert_eq!(recorded["counts"]["reasoning"], "20");
    // 176 × $2.50 + 1,024 × $1.25 + 85 × $10 per million tokens.
    let cost = json!({"currencyCode": "USD", "units": "0", "nanos": 2_570_000});
    assert_eq!(recorded["cost"], cost);
    let again = server.grpcurl(record, &pasted("openai", OPENAI)).unwrap();
    assert_eq!(again["recorded"]["outcome"], "RECORD_OUTCOME_DUPLICATE");
    assert_eq!(again["recorded"]["recordedTime"], recorded["recordedTime"]);
    let answer = server
        .grpcurl(record, &pasted("anthropic", ANTHROPIC))
        .unwrap();
    assert_eq!(answer["recorded"]["cost"]["nanos"], 3_360_000);

    let read = "tokenmeter.v1.AnalyticsService/GetUserUsage";
    let answer = server.grpcurl(read, &json!({"user_id": "ada"})).unwrap();
    let intervals = answer["intervals"].as_array().unwrap();
    assert_eq!(intervals.len(), 2);
    assert_eq!(intervals[0]["interval"], "INTERVAL_LIFETIME");
    assert_eq!(intervals[1]["interval"], "INTERVAL_LAST_24_HOURS");
    let totals = &intervals[0]["totals"];
    for (field, value) in [
        ("promptTokens", "3620"),
        ("completionTokens", "170"),
        ("totalTokens", "3790"),
        ("uncachedTotalTokens", "466"),
        ("requests", "2"),
        ("succeededRequests", "2"),
        ("lines", "2"),
        ("unpricedLines", "0"),
    ] {
        assert_eq!(totals[field], value, "{field}");
    }
    assert_eq!(totals["counts"]["cacheWrite"]["ttl5m"], "300");
    assert_eq!(totals["cost"]["nanos"], 5_930_000);
    // 1,024 × ($2.50 − $1.25) + 2,000 × ($3 − $0.30), and 300 × ($3.75 − $3).
    assert_eq!(totals["cacheSaving"]["nanos"], 6_680_000);
    assert_eq!(totals["cacheWriteExtra"]["nanos"], 225_000);
    assert_eq!(intervals[1]["totals"], *totals);
}

#[test]
fn the_details_of_an_error_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let record = "tokenmeter.v1.MeteringService/RecordUsage";
    let request = json!({"event": {"event_id": "e", "user_id": "ada", "provider": "anthropic",
        "lines": {"lines": [{"model": "m", "counts": {"input": -1}}]}}});
    let refused = server.grpcurl(record, &request).unwrap_err();
    assert_eq!(refused.0["code"], 3, "{refused}");
    let details = refused.0["details"].as_array().unwrap();
    let detail = |name: &str| {
        let url = format!("type.googleapis.com/google.rpc.{name}");
        let found = details
            .iter()
            .find(|detail| detail["@type"] == url.as_str());
        found.unwrap_or_else(|| panic!("no {name}: {refused}"))
    };
    assert_eq!(detail("ErrorInfo")["reason"], "FIELD_INVALID");
    assert_eq!(detail("ErrorInfo")["domain"], "tokenmeter.v1");
    let violation = &detail("BadRequest")["fieldViolations"][0];
    assert_eq!(violation["field"], "event.lines.lines[0].counts.input");
    let text = violation["description"].as_str().unwrap();
    assert!(
        text.contains("-1") && text.contains("from 0 to 1000000000"),
        "{text}"
    );
    // And as a person sees it, without -format-error.
    let data = request.to_string();
    let seen = server.grpcurl_words(&["-d", &data], &[record]);
    assert!(!seen.status.success());
    assert!(
        seen.stderr.contains("Code: InvalidArgument"),
        "{}",
        seen.stderr
    );
    assert!(
        seen.stderr.contains("\"reason\": \"FIELD_INVALID\""),
        "{}",
        seen.stderr
    );
}

/// Asks either version of reflection for its services, and for the file of a message.
macro_rules! ask {
    ($version:ident, $server:expr) => {{
        use pb::server_reflection_request::MessageRequest as Ask;
        use pb::server_reflection_response::MessageResponse as Answer;
        use tonic_reflection::pb::$version as pb;
        let mut client =
            pb::server_reflection_client::ServerReflectionClient::new($server.channel().await);
        let asks = [
            Ask::ListServices(String::new()),
            Ask::FileContainingSymbol("tokenmeter.v1.UsageEvent".into()),
        ];
        let asks = asks.map(|ask| pb::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(ask),
        });
        let answers = client
            .server_reflection_info(tokio_stream::iter(asks))
            .await
            .unwrap();
        let answers: Vec<_> = answers.into_inner().collect().await;
        let mut names = Vec::new();
        let mut files = 0;
        for answer in answers {
            match answer.unwrap().message_response.unwrap() {
                Answer::ListServicesResponse(list) => {
                    names.extend(list.service.into_iter().map(|service| service.name));
                }
                Answer::FileDescriptorResponse(found) => files += found.file_descriptor_proto.len(),
                other => panic!("{other:?}"),
            }
        }
        (names, files)
    }};
}

#[tokio::test]
async fn reflection_answers_in_its_old_version_as_in_its_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    for (names, files) in [ask!(v1, server), ask!(v1alpha, server)] {
        for service in SERVICES {
            assert!(
                names.contains(&format!("tokenmeter.v1.{service}")),
                "{names:?}"
            );
        }
        // Each version tells of both.
        for version in ["v1", "v1alpha"] {
            let name = format!("grpc.reflection.{version}.ServerReflection");
            assert!(names.contains(&name), "{names:?}");
        }
        assert!(files >= 1, "no file holds UsageEvent");
    }
}
