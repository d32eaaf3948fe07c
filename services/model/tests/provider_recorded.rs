//! Provider normalisation against recorded usage objects, where they are at hand.
//!
//! The recordings are no part of the repository. They are looked for at `../shared/data` beside
//! the workspace, or where `TOKENMETER_SHARED_DATA` says; without them the test says so and ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may stop")]

mod provider_support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use provider_support::{documents, fixtures, structure};
use serde_json::Value;
use tokenmeter_model::provider::{Provider, REASONS, Response, normalize};

fn recordings() -> Option<(PathBuf, String)> {
    let folder = std::env::var_os("TOKENMETER_SHARED_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let file = folder.join("provider_usage.jsonl");
    std::fs::read_to_string(&file).ok().map(|text| (file, text))
}

fn text<'a>(row: &'a Value, key: &str) -> &'a str {
    row[key].as_str().unwrap_or("")
}

#[test]
fn every_recorded_usage_normalises_or_says_why_not() {
    let Some((file, rows)) = recordings() else {
        println!("skipped: no recorded usage at ../shared/data (or TOKENMETER_SHARED_DATA)");
        return;
    };
    let known: BTreeSet<_> = fixtures()
        .iter()
        .map(|f| structure(&f.provider, f.streamed, &f.documents))
        .collect();
    let mut seen = BTreeSet::new();
    let mut missing = BTreeMap::new();
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let (mut total, mut zero) = (0, Vec::new());
    for (i, row) in rows.lines().enumerate() {
        let line = i + 1;
        total += 1;
        let row: Value = serde_json::from_str(row).unwrap();
        let streamed = row["streaming"].as_bool().unwrap();
        let docs = documents(&row["usage"]);
        let structure = structure(text(&row, "provider"), streamed, &docs);
        if !known.contains(&structure) {
            missing.entry(structure.clone()).or_insert(line);
        }
        seen.insert(structure);
        let docs: Vec<String> = docs.iter().map(Value::to_string).collect();
        let docs: Vec<&str> = docs.iter().map(String::as_str).collect();
        let response = Response {
            provider: Provider::parse(text(&row, "provider")).expect("a known provider"),
            api: text(&row, "api"),
            model: text(&row, "request_model"),
            documents: &docs,
            streamed,
        };
        match normalize(&response) {
            Ok(normalized) => {
                let tokens: i64 = normalized.lines.iter().map(|l| l.counts.total()).sum();
                if tokens == 0 {
                    zero.push(line);
                }
            }
            Err(error) => {
                assert!(REASONS.contains(&error.reason()), "line {line}: {error}");
                let shown = format!("line {line}: {error}");
                refused.entry(error.reason()).or_default().push(shown);
            }
        }
    }
    println!(
        "{}: {total} rows, {} structures",
        file.display(),
        seen.len()
    );
    for (reason, rows) in &refused {
        println!("refused {reason}: {}", rows.len());
        for row in rows {
            println!("  {row}");
        }
    }
    println!("zero tokens: {zero:?}");
    let bad = zero.len() + refused.values().map(Vec::len).sum::<usize>();
    assert!(
        missing.is_empty(),
        "structures without a fixture (first line): {missing:#?}"
    );
    assert!(
        bad * 100 <= total,
        "{bad} of {total} rows refused or zero, more than 1 %"
    );
}
