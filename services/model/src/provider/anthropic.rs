//! Anthropic's Messages API, also behind Bedrock's InvokeModel and Vertex AI.
//!
//! `input_tokens` EXCLUDES cache: "Total input tokens in a request is the summation of
//! input_tokens, cache_creation_input_tokens, and cache_read_input_tokens"
//! (<https://platform.claude.com/docs/en/api/messages>, `usage`). Thinking is part of
//! `output_tokens` (<https://platform.claude.com/docs/en/build-with-claude/extended-thinking>).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::envelope::Usages;
use super::json::{Node, remainder};
use super::{Context, Error, openai};
use crate::counts::{CacheWrites, Line, TokenCounts};

const TOTAL: &str = "cache_creation_input_tokens";
const SPLIT: &str = "cache_creation";

/// The known keys of a stream's usage objects, each with its last value.
///
/// "The token counts shown in the usage field of the message_delta event are cumulative"
/// (<https://platform.claude.com/docs/en/build-with-claude/streaming>), so nothing is added up.
struct Merged {
    map: Map<String, Value>,
    path: String,
    /// The cache writes' split is older than their total.
    stale_split: bool,
}

fn merge(usages: &Usages<'_>) -> Merged {
    const KEYS: [&str; 8] = [
        "input_tokens",
        "cache_read_input_tokens",
        TOTAL,
        SPLIT,
        "output_tokens",
        "output_tokens_details",
        "server_tool_use",
        "iterations",
    ];
    let mut merged = Merged {
        map: Map::new(),
        path: usages.last().usage.path.clone(),
        stale_split: false,
    };
    for found in &usages.all {
        let usage = found.usage.map;
        for key in KEYS {
            if let Some(value) = usage.get(key).filter(|value| !value.is_null()) {
                merged.map.insert(key.to_owned(), value.clone());
            }
        }
        if found.usage.has(&[SPLIT]) {
            merged.stale_split = false;
        } else if found.usage.has(&[TOTAL]) {
            merged.stale_split = true;
        }
    }
    merged
}

pub(super) fn lines(context: &Context<'_>, usages: &Usages<'_>) -> Result<Vec<Line>, Error> {
    let merged = merge(usages);
    let usage = Node::new(&merged.map, merged.path.as_str());
    let mut top = counts(&usage, merged.stale_split)?;
    let thinking = thinking(&usage)?;
    remainder(
        &usage.path,
        "output tokens without thinking",
        top.output,
        thinking,
    )?;
    let mut tool_requests = BTreeMap::new();
    if let Some(tools) = usage.object("server_tool_use")? {
        openai::suffixed(&tools, "_requests", &mut tool_requests)?;
    }
    let entries = usage.list("iterations")?;
    if entries.is_empty() {
        top.reasoning = thinking;
        return Ok(vec![Line {
            model: context.model.clone(),
            counts: top,
            tool_requests,
        }]);
    }
    let iterations = Iterations::read(context, &usage, &entries)?;
    iterations.check_top(&top, &usage)?;
    let mut lines = iterations.lines();
    let primary = lines
        .iter()
        .position(|line| line.model == context.model)
        .unwrap_or_default();
    if primary > 0 {
        lines[..=primary].rotate_right(1);
    }
    if let Some(line) = lines.first_mut() {
        // The entries carry no thinking of their own; it is the answering model's.
        if !iterations.own_thinking {
            remainder(
                &usage.path,
                "output tokens without thinking",
                line.counts.output,
                thinking,
            )?;
            line.counts.reasoning = thinking;
        }
        line.tool_requests = tool_requests;
    }
    Ok(lines)
}

/// Counts of a usage object or of one of its iterations, without thinking.
fn counts(usage: &Node<'_>, stale_split: bool) -> Result<TokenCounts, Error> {
    Ok(TokenCounts {
        input: usage.required("input_tokens")?,
        cache_read: usage.count_or_zero("cache_read_input_tokens")?,
        cache_write: cache_writes(usage, stale_split)?,
        output: usage.required("output_tokens")?,
        ..TokenCounts::default()
    })
}

/// Cache writes by time-to-live: `cache_creation_input_tokens` is the total, `cache_creation` its
/// split (<https://platform.claude.com/docs/en/build-with-claude/prompt-caching>, "1-hour cache
/// duration"). Without a split the time-to-live is unknown. A stream's deltas repeat the total
/// only: what it has more than the split of `message_start` is of unknown time-to-live.
fn cache_writes(usage: &Node<'_>, stale_split: bool) -> Result<CacheWrites, Error> {
    let total = usage.count(TOTAL)?;
    let Some(split) = usage.object(SPLIT)? else {
        return Ok(CacheWrites {
            unspecified: total.unwrap_or(0),
            ..CacheWrites::default()
        });
    };
    let ttl_5m = split.count_or_zero("ephemeral_5m_input_tokens")?;
    let ttl_1h = split.count_or_zero("ephemeral_1h_input_tokens")?;
    let parts = ttl_5m + ttl_1h;
    let total = total.unwrap_or(parts);
    if total != parts && !(stale_split && total > parts) {
        return Err(Error::Contradiction {
            path: usage.path.clone(),
            what: "cache writes",
            stated: total,
            other: parts,
        });
    }
    Ok(CacheWrites {
        ttl_5m,
        ttl_1h,
        unspecified: total - parts,
        ..CacheWrites::default()
    })
}

fn thinking(usage: &Node<'_>) -> Result<i64, Error> {
    match usage.object("output_tokens_details")? {
        Some(details) => details.count_or_zero("thinking_tokens"),
        None => Ok(0),
    }
}

/// One sampling iteration.
struct Iteration {
    model: String,
    /// A `message` or `fallback_message`: what the top level speaks of.
    base: bool,
    counts: TokenCounts,
}

/// `usage.iterations[]`: "The top-level input_tokens and output_tokens do not include compaction
/// iteration usage. They reflect the sum of all non-compaction iterations. To calculate total
/// tokens consumed and billed for a request, sum across all entries in the usage.iterations
/// array" (<https://platform.claude.com/docs/en/build-with-claude/compaction>, "Understanding
/// usage"). `advisor_message` is another model's and outside the top level as well
/// (<https://platform.claude.com/docs/en/agents-and-tools/tool-use/advisor-tool>).
struct Iterations {
    all: Vec<Iteration>,
    fallback: bool,
    own_thinking: bool,
}

impl Iterations {
    fn read(context: &Context<'_>, usage: &Node<'_>, entries: &[Node<'_>]) -> Result<Self, Error> {
        let fallback = entries
            .iter()
            .any(|entry| entry.word("type") == Some("fallback_message"));
        let own_thinking = entries
            .iter()
            .any(|entry| entry.has(&["output_tokens_details"]));
        // A declined attempt is the requested model's, the answer the response's.
        let declined = Some(&context.requested).filter(|model| fallback && !model.is_empty());
        let mut all = Vec::with_capacity(entries.len());
        for entry in entries {
            let kind = entry.word("type").unwrap_or("message");
            let mut counts = counts(entry, false)?;
            counts.reasoning = thinking(entry)?;
            remainder(
                &entry.path,
                "output tokens without thinking",
                counts.output,
                counts.reasoning,
            )?;
            let unnamed = match declined {
                Some(model) if kind == "message" => model,
                _ => &context.model,
            };
            all.push(Iteration {
                model: entry.name("model").unwrap_or(unnamed).to_owned(),
                base: matches!(kind, "message" | "fallback_message"),
                counts,
            });
        }
        if all.is_empty() {
            return Err(Error::CountMissing {
                path: usage.at("iterations"),
            });
        }
        Ok(Self {
            all,
            fallback,
            own_thinking,
        })
    }

    /// The top level is the sum of the `message` iterations. After a fallback it is the serving
    /// attempt alone (<https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback>;
    /// a recorded example in <https://github.com/ccusage/ccusage/issues/1552>).
    fn check_top(&self, top: &TokenCounts, usage: &Node<'_>) -> Result<(), Error> {
        let serving = self.all.iter().rfind(|iteration| iteration.base);
        let all = self.sum(|iteration| iteration.base);
        if figures(&all) == figures(top) {
            return Ok(());
        }
        let attempt = self.sum(|iteration| {
            iteration.base && serving.is_some_and(|serving| serving.model == iteration.model)
        });
        if self.fallback && figures(&attempt) == figures(top) {
            return Ok(());
        }
        let expected = if self.fallback { attempt } else { all };
        let names = ["input", "cache reads", "cache writes", "output"];
        for ((what, stated), other) in names.into_iter().zip(figures(top)).zip(figures(&expected)) {
            if stated != other {
                return Err(Error::Contradiction {
                    path: usage.at("iterations"),
                    what,
                    stated,
                    other,
                });
            }
        }
        Ok(())
    }

    fn sum(&self, chosen: impl Fn(&Iteration) -> bool) -> TokenCounts {
        let mut lines = Vec::new();
        for iteration in self.all.iter().filter(|iteration| chosen(iteration)) {
            super::add(&mut lines, "", &iteration.counts);
        }
        lines.first().map(|line| line.counts).unwrap_or_default()
    }

    /// A line per billed model. "You are not billed for a request refused before any output"
    /// (refusals and fallback, as above): an attempt without output before a fallback is left out.
    fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let last = self.all.iter().rposition(|iteration| iteration.base);
        for (i, iteration) in self.all.iter().enumerate() {
            let waived = self.fallback
                && iteration.base
                && last.is_some_and(|last| i < last)
                && iteration.counts.output == 0;
            if !waived {
                super::add(&mut lines, &iteration.model, &iteration.counts);
            }
        }
        lines
    }
}

fn figures(counts: &TokenCounts) -> [i64; 4] {
    [
        counts.input,
        counts.cache_read,
        counts.cache_write.total(),
        counts.output,
    ]
}
