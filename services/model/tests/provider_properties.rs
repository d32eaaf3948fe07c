//! Provider normalisation on documents that no provider would send: it never panics, and what it
//! accepts keeps every bound and adds up to the document's own total.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may stop")]

mod provider_support;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use provider_support::{Fixture, fixtures};
use serde_json::{Map, Value, json};
use tokenmeter_model::provider::{Provider, REASONS, Response, normalize};

static FIXTURES: LazyLock<Vec<Fixture>> = LazyLock::new(fixtures);

/// Every key that occurs in a fixture.
fn keys() -> Vec<String> {
    fn walk(value: &Value, keys: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    keys.insert(key.clone());
                    walk(value, keys);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, keys)),
            _ => {}
        }
    }
    let mut keys = BTreeSet::new();
    for fixture in FIXTURES.iter() {
        fixture.documents.iter().for_each(|d| walk(d, &mut keys));
    }
    keys.into_iter().collect()
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (0_i64..40).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        2 => prop::sample::select(vec![
            "message", "compaction", "fallback_message", "advisor_message", "thread.run",
            "thread.run.step", "AUDIO", "IMAGE", "TEXT", "5m", "1h", "fast", "2025-01-02T03:04:05Z",
        ]).prop_map(Value::from),
        1 => ".{0,12}".prop_map(Value::from),
    ]
}

/// Documents of known keys in unknown places.
fn document() -> impl Strategy<Value = Value> {
    let keys = keys();
    leaf().prop_recursive(4, 48, 8, move |inner| {
        prop_oneof![
            4 => btree_map(prop::sample::select(keys.clone()), inner.clone(), 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
            1 => vec(inner, 0..4).prop_map(Value::Array),
        ]
    })
}

fn ask(provider: Provider, api: &str, documents: &[Value]) -> Result<i64, &'static str> {
    let documents: Vec<String> = documents.iter().map(Value::to_string).collect();
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let answer = normalize(&Response {
        provider,
        api,
        model: "a%3Amodel",
        documents: &documents,
        streamed: true,
    });
    match answer {
        Ok(normalized) => {
            let mut violations = Vec::new();
            for line in &normalized.lines {
                line.check("line", &mut violations);
            }
            assert!(violations.is_empty(), "{violations:?}");
            assert!((1..=16).contains(&normalized.lines.len()));
            Ok(normalized
                .lines
                .iter()
                .map(|line| line.counts.total())
                .sum())
        }
        Err(error) => {
            assert!(REASONS.contains(&error.reason()));
            Err(error.reason())
        }
    }
}

fn providers() -> impl Strategy<Value = Provider> {
    prop::sample::select(Provider::ALL.to_vec())
}

fn apis() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "/v1/messages",
        "/model/a%3A0/invoke",
        "/v1beta/cachedContents",
        "/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
        "/model//",
        "%/models/",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_text_never_panics(
        provider in providers(),
        api in ".{0,40}",
        model in ".{0,40}",
        documents in vec(".{0,200}", 0..4),
        streamed: bool,
    ) {
        let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
        let _ = normalize(&Response { provider, api: &api, model: &model, documents: &documents, streamed });
    }

    #[test]
    fn known_keys_in_unknown_places_never_panic_and_keep_the_bounds(
        provider in providers(),
        api in apis(),
        documents in vec(document(), 1..4),
    ) {
        let _ = ask(provider, api, &documents);
    }

    #[test]
    fn fixtures_with_one_value_changed_never_panic_and_keep_the_bounds(
        at in any::<prop::sample::Index>(),
        which in any::<prop::sample::Index>(),
        provider in providers(),
        value in leaf(),
    ) {
        let all = &*FIXTURES;
        let fixture = &all[at.index(all.len())];
        let mut documents = fixture.documents.clone();
        let mut paths = Vec::new();
        documents.iter().enumerate().for_each(|(i, d)| pointers(d, &format!("/{i}"), &mut paths));
        if !paths.is_empty() {
            let path = &paths[which.index(paths.len())];
            let mut whole = Value::Array(documents);
            *whole.pointer_mut(path).unwrap() = value;
            documents = whole.as_array().unwrap().clone();
            let _ = ask(provider, &fixture.api, &documents);
            let _ = ask(Provider::parse(&fixture.provider).unwrap(), &fixture.api, &documents);
        }
    }

    #[test]
    fn a_stated_total_is_the_total_of_the_lines(
        provider in providers(),
        n in vec(0_i64..30, 8),
        total in 0_i64..120,
        stated: bool,
    ) {
        let plain = n[0] + n[1];
        let total = if stated { total } else { plain };
        let cases = [
            (json!({"prompt_tokens": n[0], "completion_tokens": n[1], "total_tokens": total,
                "prompt_tokens_details": {"cached_tokens": n[2], "cache_write_tokens": n[3], "audio_tokens": n[6]},
                "completion_tokens_details": {"reasoning_tokens": n[4], "audio_tokens": n[7]}}), total),
            (json!({"input_tokens": n[0], "output_tokens": n[1], "total_tokens": total,
                "input_tokens_details": {"cached_tokens": n[2]},
                "output_tokens_details": {"reasoning_tokens": n[4]}}), total),
            (json!({"promptTokenCount": n[0], "candidatesTokenCount": n[1], "thoughtsTokenCount": n[4],
                "toolUsePromptTokenCount": n[5], "cachedContentTokenCount": n[2], "totalTokenCount": total}), total),
            (json!({"inputTokens": n[0], "outputTokens": n[1], "cacheReadInputTokens": n[2],
                "cacheWriteInputTokens": n[3], "totalTokens": total}), total),
        ];
        for (usage, total) in cases {
            if let Ok(sum) = ask(provider, "", &[json!({"usage": usage})]) {
                prop_assert_eq!(sum, total);
            }
        }
        // Without a stated total Anthropic's own sum is the total, and nothing can be refused.
        let usage = json!({"input_tokens": n[0], "output_tokens": n[1],
            "cache_read_input_tokens": n[2], "cache_creation_input_tokens": n[3]});
        prop_assert_eq!(ask(provider, "", &[json!({"usage": usage})]), Ok(n[0] + n[1] + n[2] + n[3]));
    }
}

fn pointers(value: &Value, path: &str, paths: &mut Vec<String>) {
    paths.push(path.to_owned());
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{path}/{key}"), paths);
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                pointers(item, &format!("{path}/{i}"), paths);
            }
        }
        _ => {}
    }
}
