//! Costs agree, to the nano-USD, with an independent computation in Python's `decimal`
//! (`cost_decimal.py`), for every imported model in every shape and tier.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, too, may stop at the first surprise"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tokenmeter_model::counts::{CacheWrites, Line, TokenCounts};
use tokenmeter_model::price::{Price, Unpriced, litellm, quote};
use tokenmeter_model::tier::ServiceTier;

mod shared_data;

/// The counts of a run come from this seed; change it to search elsewhere.
const SEED: u64 = 0x746f_6b65_6e6d_6574;
const TIERS: [ServiceTier; 6] = [
    ServiceTier::Standard,
    ServiceTier::Batch,
    ServiceTier::Priority,
    ServiceTier::Flex,
    ServiceTier::Fast,
    ServiceTier::Other,
];
/// Models that must be among the compared ones, whatever else the file holds.
const REQUIRED: [&str; 36] = [
    "claude-fable-5",
    "claude-haiku-4-5",
    "claude-haiku-5-5",
    "claude-opus-4-6",
    "claude-opus-5-5",
    "claude-sonnet-4-5",
    "claude-sonnet-5",
    "gpt-4.1",
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5.4",
    "gpt-5.5",
    "gpt-6-astra",
    "gpt-6-luna",
    "gpt-6-sol",
    "gpt-audio",
    "gpt-realtime",
    "o3",
    "o4-mini",
    "gemini/gemini-2.5-flash",
    "gemini/gemini-2.5-flash-lite",
    "gemini/gemini-2.5-pro",
    "gemini/gemini-3-flash-preview",
    "gemini/gemini-3.1-pro-preview",
    "gemini-2.5-pro",
    "anthropic.claude-sonnet-4-5-20250929-v1:0",
    "us.amazon.nova-2-lite-v1:0",
    "azure/gpt-5.4",
    "azure/eu/gpt-5-2025-08-07",
    "dashscope/qwen-flash",
    "dashscope/qwen3-max",
    "deepseek-chat",
    "groq/openai/gpt-oss-120b",
    "xai/grok-4.6",
];

struct Random(u64);

impl Random {
    /// xorshift64*, below `limit`.
    fn below(&mut self, limit: i64) -> i64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        i64::try_from(high).unwrap() % limit
    }
}

/// One line of each shape, the model aside.
fn shapes(price: &Price, random: &mut Random) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut add = |counts: TokenCounts| {
        lines.push(Line {
            model: price.model.clone(),
            counts,
            tool_requests: BTreeMap::new(),
        });
    };
    let mut n = || random.below(20_000);
    let plain = TokenCounts {
        input: n(),
        output: n(),
        ..Default::default()
    };
    let (reasoning, spoken, drawn) = (n(), n(), n());
    add(plain);
    add(TokenCounts {
        cache_read: n(),
        ..plain
    });
    for ttl in 0..5 {
        let mut cache_write = CacheWrites::default();
        let field = [
            &mut cache_write.ttl_5m,
            &mut cache_write.ttl_30m,
            &mut cache_write.ttl_1h,
            &mut cache_write.ttl_12h,
            &mut cache_write.unspecified,
        ];
        *field.into_iter().nth(ttl).unwrap() = n();
        add(TokenCounts {
            cache_write,
            ..plain
        });
    }
    add(TokenCounts {
        output: plain.output + reasoning,
        reasoning,
        ..plain
    });
    let everything = TokenCounts {
        input: plain.input + spoken + drawn,
        cache_read: reasoning + spoken,
        cache_write: CacheWrites {
            ttl_5m: n(),
            ttl_30m: n(),
            ttl_1h: n(),
            ttl_12h: n(),
            unspecified: n(),
        },
        output: plain.output + reasoning + spoken + drawn,
        reasoning,
        input_audio: spoken,
        input_image: drawn,
        tool_use_prompt: 0,
        cache_read_audio: spoken,
        output_audio: spoken,
        output_image: drawn,
    };
    add(everything);
    for tier in price.tiers.values() {
        for long in &tier.long_context {
            for over in [0, 1, 2] {
                let rest = long.above_tokens + over - everything.prompt();
                add(TokenCounts {
                    input: everything.input + rest.max(0),
                    ..everything
                });
                add(TokenCounts {
                    input: long.above_tokens + over,
                    ..plain
                });
            }
        }
    }
    let mut tools = lines[0].clone();
    for tool in [
        "web_search",
        "google_maps",
        "file_search",
        "code_interpreter",
        "web_fetch",
    ] {
        tools
            .tool_requests
            .insert(tool.to_owned(), random.below(50));
    }
    lines.push(tools);
    lines
}

fn answer(quote: Result<tokenmeter_model::price::Quote, Unpriced>) -> Value {
    match quote {
        Ok(quote) => json!([
            quote.cost_nano_usd,
            quote.cache_saving_nano_usd,
            quote.cache_write_extra_nano_usd
        ]),
        Err(_) => Value::Null,
    }
}

fn python(path: &std::path::Path, cases: &[Value]) -> Vec<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cost_decimal.py");
    let mut child = Command::new("python3")
        .arg(script)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 can be started");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    // The script reads all of its input before it writes.
    stdin
        .write_all(serde_json::to_string(cases).unwrap().as_bytes())
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "cost_decimal.py failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn costs_agree_with_decimal_arithmetic() {
    let Some(path) = shared_data::litellm_path() else {
        return;
    };
    let import = litellm::read(&shared_data::read_gz(&path)).unwrap();
    let mut random = Random(SEED);
    let mut cases = Vec::new();
    let mut ours = Vec::new();
    let mut keys = Vec::new();
    for price in &import.prices {
        let key = price.source.split_once(": ").unwrap().1;
        keys.push(key);
        for line in shapes(price, &mut random) {
            for tier in TIERS {
                cases.push(json!({
                    "key": key,
                    "tier": tier.as_str(),
                    "counts": line.counts,
                    "tools": line.tool_requests,
                }));
                ours.push(answer(quote(price, &line, tier)));
            }
        }
    }
    let missing: Vec<_> = REQUIRED.iter().filter(|key| !keys.contains(key)).collect();
    assert!(missing.is_empty(), "not compared: {missing:?}");
    let theirs = python(&path, &cases);
    assert_eq!(theirs.len(), ours.len());
    let different: Vec<_> = (0..ours.len()).filter(|i| ours[*i] != theirs[*i]).collect();
    for i in different.iter().take(20) {
        println!("{}: ours {}, decimal {}", cases[*i], ours[*i], theirs[*i]);
    }
    assert!(
        different.is_empty(),
        "{} of {} differ",
        different.len(),
        ours.len()
    );
    let unpriced = ours.iter().filter(|answer| answer.is_null()).count();
    println!(
        "seed {SEED:#x}: {} models, {} lines agree, {unpriced} of them unpriced on both sides",
        keys.len(),
        ours.len()
    );
}
