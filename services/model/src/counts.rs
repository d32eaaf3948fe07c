//! Disjoint token counts (R1, R3) and lines.
//!
//! `input` (uncached) + `cache_read` + Σ `cache_write[ttl]` = prompt; `output` includes
//! `reasoning`; total = prompt + output. The rest are sub-counts: part of the count they name,
//! never added to it.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::bounds::{self, Violation};

/// Tokens written to a provider's prompt cache, by time-to-live (R3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheWrites {
    /// Kept for 5 minutes.
    pub ttl_5m: i64,
    /// Kept for 30 minutes.
    pub ttl_30m: i64,
    /// Kept for 1 hour.
    pub ttl_1h: i64,
    /// Kept for 12 hours.
    pub ttl_12h: i64,
    /// The provider did not say for how long.
    pub unspecified: i64,
}

impl CacheWrites {
    /// Σ over all times-to-live.
    pub fn total(&self) -> i64 {
        self.ttl_5m + self.ttl_30m + self.ttl_1h + self.ttl_12h + self.unspecified
    }
}

/// What one model of one call used, in tokens. Every field is 0 to [`bounds::MAX_TOKENS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Uncached prompt tokens.
    pub input: i64,
    /// Prompt tokens served from the provider's cache.
    pub cache_read: i64,
    /// Prompt tokens written to the provider's cache.
    pub cache_write: CacheWrites,
    /// Generated tokens, reasoning included.
    pub output: i64,
    /// Part of `output`: thinking or reasoning tokens (R4).
    pub reasoning: i64,
    /// Part of `input`: audio tokens.
    pub input_audio: i64,
    /// Part of `input`: image tokens.
    pub input_image: i64,
    /// Part of `input`: prompt tokens that server-side tools added.
    pub tool_use_prompt: i64,
    /// Part of `cache_read`: audio tokens.
    pub cache_read_audio: i64,
    /// Part of `output`: audio tokens.
    pub output_audio: i64,
    /// Part of `output`: image tokens.
    pub output_image: i64,
}

impl TokenCounts {
    /// Prompt tokens: input + cache reads + cache writes.
    pub fn prompt(&self) -> i64 {
        self.input + self.cache_read + self.cache_write.total()
    }

    /// Total tokens: prompt + output.
    pub fn total(&self) -> i64 {
        self.prompt() + self.output
    }

    /// Adds every count of `other`.
    pub fn add(&mut self, other: &Self) {
        self.input += other.input;
        self.cache_read += other.cache_read;
        self.cache_write.ttl_5m += other.cache_write.ttl_5m;
        self.cache_write.ttl_30m += other.cache_write.ttl_30m;
        self.cache_write.ttl_1h += other.cache_write.ttl_1h;
        self.cache_write.ttl_12h += other.cache_write.ttl_12h;
        self.cache_write.unspecified += other.cache_write.unspecified;
        self.output += other.output;
        self.reasoning += other.reasoning;
        self.input_audio += other.input_audio;
        self.input_image += other.input_image;
        self.tool_use_prompt += other.tool_use_prompt;
        self.cache_read_audio += other.cache_read_audio;
        self.output_audio += other.output_audio;
        self.output_image += other.output_image;
    }

    /// Every count with the name it has in the contract.
    pub fn named(&self) -> [(&'static str, i64); 15] {
        [
            ("input", self.input),
            ("cache_read", self.cache_read),
            ("cache_write.ttl_5m", self.cache_write.ttl_5m),
            ("cache_write.ttl_30m", self.cache_write.ttl_30m),
            ("cache_write.ttl_1h", self.cache_write.ttl_1h),
            ("cache_write.ttl_12h", self.cache_write.ttl_12h),
            ("cache_write.unspecified", self.cache_write.unspecified),
            ("output", self.output),
            ("reasoning", self.reasoning),
            ("input_audio", self.input_audio),
            ("input_image", self.input_image),
            ("tool_use_prompt", self.tool_use_prompt),
            ("cache_read_audio", self.cache_read_audio),
            ("output_audio", self.output_audio),
            ("output_image", self.output_image),
        ]
    }

    /// Checks bounds and that no sub-count passes the count it is part of.
    /// `field` is the path of the counts in the contract.
    pub fn check(&self, field: impl Display, out: &mut Vec<Violation>) {
        let before = out.len();
        for (name, value) in self.named() {
            let path = format_args!("{field}.{name}");
            bounds::range(path, value, 0, bounds::MAX_TOKENS, out);
        }
        if out.len() > before {
            return;
        }
        let parts = [
            ("reasoning", self.reasoning, "output", self.output),
            (
                "input_image",
                self.input_audio + self.input_image,
                "input",
                self.input,
            ),
            ("tool_use_prompt", self.tool_use_prompt, "input", self.input),
            (
                "cache_read_audio",
                self.cache_read_audio,
                "cache_read",
                self.cache_read,
            ),
            (
                "output_image",
                self.output_audio + self.output_image,
                "output",
                self.output,
            ),
        ];
        // Audio and image exclude each other, so their sum is held against the whole and named by
        // its last part.
        for (part, part_tokens, whole, whole_tokens) in parts {
            if part_tokens > whole_tokens {
                out.push(Violation::new(
                    format!("{field}.{part}"),
                    format!(
                        "{part_tokens} is more than {whole} ({whole_tokens}), which includes it; \
                         send {part} as a part of {whole}"
                    ),
                ));
            }
        }
    }
}

/// What one event bills for one model: its counts and the server-side tool requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The model as the provider names it, 1 to 255 bytes.
    pub model: String,
    /// Disjoint token counts.
    pub counts: TokenCounts,
    /// Requests to server-side tools that carry a fee, by tool (`web_search`, `web_fetch`, …);
    /// at most [`bounds::MAX_TOOL_KINDS`] kinds.
    pub tool_requests: BTreeMap<String, i64>,
}

impl Line {
    /// Checks every bound of the line. `field` is its path in the contract.
    pub fn check(&self, field: impl Display, out: &mut Vec<Violation>) {
        bounds::required_text(format_args!("{field}.model"), &self.model, out);
        self.counts.check(format_args!("{field}.counts"), out);
        if self.tool_requests.len() > bounds::MAX_TOOL_KINDS {
            out.push(Violation::new(
                format!("{field}.tool_requests"),
                format!(
                    "{} kinds of tools is too many; send at most {}",
                    self.tool_requests.len(),
                    bounds::MAX_TOOL_KINDS
                ),
            ));
        }
        for (tool, requests) in &self.tool_requests {
            let path = format_args!("{field}.tool_requests[{tool:.64}]");
            bounds::required_text(path, tool, out);
            bounds::range(path, *requests, 0, bounds::MAX_TOOL_REQUESTS, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(counts: TokenCounts) -> Vec<String> {
        let mut out = Vec::new();
        counts.check("counts", &mut out);
        out.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn prompt_and_total_add_the_disjoint_counts_only() {
        let counts = TokenCounts {
            input: 1,
            cache_read: 20,
            cache_write: CacheWrites {
                ttl_5m: 300,
                ttl_1h: 4_000,
                ..Default::default()
            },
            output: 50_000,
            reasoning: 40_000,
            tool_use_prompt: 1,
            ..Default::default()
        };
        assert_eq!(counts.prompt(), 4_321);
        assert_eq!(counts.total(), 54_321);
        assert!(violations(counts).is_empty());
    }

    #[test]
    fn negative_and_oversized_counts_are_named() {
        let counts = TokenCounts {
            input: -1,
            output: bounds::MAX_TOKENS + 1,
            ..Default::default()
        };
        assert_eq!(violations(counts), ["counts.input", "counts.output"]);
    }

    #[test]
    fn a_part_may_not_pass_its_whole() {
        let counts = TokenCounts {
            output: 10,
            reasoning: 11,
            ..Default::default()
        };
        assert_eq!(violations(counts), ["counts.reasoning"]);
    }
}
