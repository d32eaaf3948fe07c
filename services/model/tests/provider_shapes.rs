//! Provider normalisation, shape by shape: `provider_shapes.jsonl` holds one line per structure,
//! with numbers of our own and the counts that the named source gives for them. Every trap (cache
//! in or out, reasoning in or out, first or last chunk, sum or total) gives another answer.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may stop")]

mod provider_support;

use provider_support::{Fixture, fixtures};
use serde_json::{Value, json};
use tokenmeter_model::counts::{Line, TokenCounts};
use tokenmeter_model::provider::{Error, Normalized, Provider, Response, normalize};

fn run(fixture: &Fixture) -> Result<Normalized, Error> {
    let documents: Vec<String> = fixture.documents.iter().map(Value::to_string).collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    normalize(&Response {
        provider: Provider::parse(&fixture.provider).expect("a known provider"),
        api: &fixture.api,
        model: &fixture.model,
        documents: &documents,
        streamed: fixture.streamed,
    })
}

/// The expected line; counts that the fixture leaves out are 0.
fn line(expected: &Value) -> Line {
    let mut counts = serde_json::to_value(TokenCounts::default()).unwrap();
    for (key, value) in expected["counts"].as_object().unwrap() {
        match value {
            Value::Object(parts) => {
                for (part, value) in parts {
                    assert!(
                        counts[key].get(part).is_some(),
                        "unknown count {key}.{part}"
                    );
                    counts[key][part] = value.clone();
                }
            }
            value => {
                assert!(counts.get(key).is_some(), "unknown count {key}");
                counts[key] = value.clone();
            }
        }
    }
    let tools = expected.get("tool_requests").cloned();
    Line {
        model: expected["model"].as_str().unwrap().to_owned(),
        counts: serde_json::from_value(counts).unwrap(),
        tool_requests: serde_json::from_value(tools.unwrap_or(json!({}))).unwrap(),
    }
}

/// What is wrong with the answer to a fixture, if anything.
fn difference(fixture: &Fixture) -> Option<String> {
    let expected = &fixture.expected;
    let text = |key: &str| expected.get(key).and_then(Value::as_str).map(str::to_owned);
    match (run(fixture), text("error")) {
        (Err(error), Some(reason)) if error.reason() == reason => None,
        (Err(error), _) => Some(format!("refused {}: {error}", error.reason())),
        (Ok(normalized), Some(reason)) => Some(format!("{reason} expected, not {normalized:?}")),
        (Ok(normalized), None) => {
            let expected = Normalized {
                lines: expected["lines"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(line)
                    .collect(),
                service_tier: text("service_tier"),
                inference_region: text("inference_region"),
                response_id: text("response_id"),
                created_us: expected.get("created_us").and_then(Value::as_i64),
                stop_reason: text("stop_reason"),
            };
            (normalized != expected).then(|| format!("{normalized:#?}\nexpected {expected:#?}"))
        }
    }
}

#[test]
fn every_shape_gives_the_documented_counts() {
    let fixtures = fixtures();
    let wrong: Vec<String> = fixtures
        .iter()
        .filter_map(|f| difference(f).map(|text| format!("{}: {text}", f.name)))
        .collect();
    println!("{} fixtures", fixtures.len());
    assert!(
        wrong.is_empty(),
        "{} wrong\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_provider_has_shapes_and_its_name_reads_back() {
    let fixtures = fixtures();
    for provider in Provider::ALL {
        assert_eq!(Provider::parse(provider.as_str()), Some(provider));
        let known = |f: &&Fixture| Provider::parse(&f.provider) == Some(provider);
        assert!(fixtures.iter().any(|f| known(&f)), "{}", provider.as_str());
    }
    for (alias, provider) in [
        ("Azure", Provider::AzureOpenAi),
        ("az.ai.openai", Provider::AzureOpenAi),
        ("gcp.gen_ai", Provider::Gemini),
        ("vertex-ai", Provider::VertexAi),
        ("bedrock", Provider::Bedrock),
        ("xai", Provider::XAi),
        ("mistral", Provider::Mistral),
        ("together", Provider::Together),
    ] {
        assert_eq!(Provider::parse(alias), Some(provider), "{alias}");
    }
    assert_eq!(Provider::parse("acme"), None);
}

#[test]
fn text_of_a_document_reaches_neither_answer_nor_error() {
    for fixture in fixtures() {
        let answer = match run(&fixture) {
            Ok(normalized) => format!("{normalized:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!answer.contains("secret"), "{}: {answer}", fixture.name);
    }
    let prose = r#"{"model":"m","stop_reason":"secret and long prose","service_tier":"secret é",
        "usage":{"prompt_tokens":"secret","completion_tokens":1}}"#;
    for document in [prose, "secret", "[\"secret\"]", r#"{"usage":{"secret":1}}"#] {
        let error = normalize(&Response {
            provider: Provider::OpenAi,
            api: "",
            model: "m",
            documents: &[document],
            streamed: false,
        })
        .unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        let text = error.to_string();
        assert!(
            !text.ends_with('.') && text.contains("; "),
            "no mend: {text}"
        );
    }
}

#[test]
fn documents_are_bounded() {
    let long = format!(
        "{{\"usage\":{{\"prompt_tokens\":1}},\"x\":\"{}\"}}",
        "y".repeat(65_536)
    );
    let deep = "[".repeat(2_000);
    let many = vec!["{}"; 1_025];
    for (documents, reason) in [
        (vec![long.as_str()], "USAGE_TOO_LARGE"),
        (vec![deep.as_str()], "USAGE_JSON_INVALID"),
        (many, "USAGE_TOO_LARGE"),
    ] {
        let error = normalize(&Response {
            provider: Provider::OpenAi,
            api: "",
            model: "m",
            documents: &documents,
            streamed: true,
        })
        .unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
}

/// Errors name the place and its own bound, also where the document is a bare usage object.
#[test]
fn errors_name_their_place_and_bound() {
    let error = |provider, document: &str| {
        normalize(&Response {
            provider,
            api: "",
            model: "m",
            documents: &[document],
            streamed: false,
        })
        .unwrap_err()
        .to_string()
    };
    let bare = r#"{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 9}"#;
    let text = error(Provider::OpenAi, bare);
    assert!(
        text.starts_with("the document: the total is stated as 9"),
        "{text}"
    );
    let tools: Vec<_> = (0..20).map(|n| format!(r#""t{n}_requests": 1"#)).collect();
    let tools = tools.join(", ");
    let many =
        format!(r#"{{"input_tokens": 1, "output_tokens": 1, "server_tool_use": {{{tools}}}}}"#);
    let text = error(Provider::Anthropic, &many);
    assert!(
        text.contains("20 kinds of tools is too many; send at most 16"),
        "{text}"
    );
}
