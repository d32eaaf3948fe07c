//! What the provider tests share: the fixtures and the structure of documents.

use std::collections::BTreeSet;

use serde_json::Value;

/// One line of `provider_shapes.jsonl`.
#[allow(dead_code, reason = "each test binary uses its part of this module")]
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) provider: String,
    pub(crate) api: String,
    pub(crate) model: String,
    pub(crate) streamed: bool,
    pub(crate) documents: Vec<Value>,
    pub(crate) expected: Value,
}

/// Every fixture; each names its source.
pub(crate) fn fixtures() -> Vec<Fixture> {
    include_str!("../provider_shapes.jsonl")
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).expect("a fixture is JSON");
            let text = |key: &str| row[key].as_str().expect(key).to_owned();
            assert!(!text("source").is_empty(), "{}: no source", text("name"));
            Fixture {
                name: text("name"),
                provider: text("provider"),
                api: text("api"),
                model: text("model"),
                streamed: row["streamed"].as_bool().expect("streamed"),
                documents: row["documents"].as_array().expect("documents").clone(),
                expected: row["expected"].clone(),
            }
        })
        .collect()
}

/// The documents of a recorded usage: a list for a streamed response, one object else.
#[allow(dead_code, reason = "each test binary uses its part of this module")]
pub(crate) fn documents(usage: &Value) -> Vec<Value> {
    match usage {
        Value::Array(chunks) => chunks.clone(),
        plain => vec![plain.clone()],
    }
}

/// A provider's documents by their keys alone: streamed or not, and the distinct chunks in order,
/// each as the path of every key with the kind of its value.
pub(crate) type Structure = (String, bool, Vec<BTreeSet<String>>);

/// The structure of a provider's documents.
#[allow(dead_code, reason = "each test binary uses its part of this module")]
pub(crate) fn structure(provider: &str, streamed: bool, documents: &[Value]) -> Structure {
    let mut chunks = Vec::new();
    for document in documents {
        let mut paths = BTreeSet::new();
        walk(document, "", &mut paths);
        if !chunks.contains(&paths) {
            chunks.push(paths);
        }
    }
    (provider.to_owned(), streamed, chunks)
}

fn walk(value: &Value, path: &str, paths: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            paths.insert(format!("{path}{{}}"));
            for (key, value) in map {
                walk(value, &format!("{path}.{key}"), paths);
            }
        }
        Value::Array(items) => {
            paths.insert(format!("{path}[]"));
            for item in items {
                walk(item, &format!("{path}[]"), paths);
            }
        }
        Value::Null => drop(paths.insert(format!("{path}=null"))),
        Value::Bool(_) => drop(paths.insert(format!("{path}=bool"))),
        Value::Number(_) => drop(paths.insert(format!("{path}=number"))),
        Value::String(_) => drop(paths.insert(format!("{path}=string"))),
    }
}
