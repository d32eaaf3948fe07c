//! Amazon Bedrock's own shapes. InvokeModel otherwise returns the vendor's, told by its keys.

use super::envelope::Usages;
use super::json::{Node, agree};
use super::{Error, json};
use crate::counts::{CacheWrites, TokenCounts};

/// Converse, ConverseStream and Nova: `inputTokens` EXCLUDES cache and `totalTokens` is the sum of
/// all four (<https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html>; a recorded
/// call has 3 + 2,074 written + 288 = 2,365). The `…TokenCount` spellings repeat the counts.
/// <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html>
pub(super) fn converse(usage: &Node<'_>) -> Result<TokenCounts, Error> {
    let input = usage.required("inputTokens")?;
    // Embedding models have no output.
    let output = usage.count_or_zero("outputTokens")?;
    let counts = with_cache(
        usage,
        input,
        output,
        &["cacheReadInputTokens", "cacheReadInputTokenCount"],
        &["cacheWriteInputTokens", "cacheWriteInputTokenCount"],
    )?;
    let mut total = Some(counts.total());
    agree(
        &mut total,
        usage.count("totalTokens")?,
        "the total",
        &usage.path,
    )?;
    Ok(counts)
}

/// `amazon-bedrock-invocationMetrics`, on the last chunk of InvokeModelWithResponseStream:
/// `inputTokenCount` excludes cache as well (recorded in
/// <https://github.com/BerriAI/litellm/pull/36878>).
pub(super) fn invocation_metrics(usage: &Node<'_>) -> Result<TokenCounts, Error> {
    let input = usage.required("inputTokenCount")?;
    let output = usage.count_or_zero("outputTokenCount")?;
    with_cache(
        usage,
        input,
        output,
        &["cacheReadInputTokenCount"],
        &["cacheWriteInputTokenCount"],
    )
}

fn with_cache(
    usage: &Node<'_>,
    input: i64,
    output: i64,
    read: &[&str],
    written: &[&str],
) -> Result<TokenCounts, Error> {
    let cache_read = usage.agreed("cache reads", read)?.unwrap_or(0);
    let written = usage.agreed("cache writes", written)?;
    Ok(TokenCounts {
        input,
        cache_read,
        cache_write: cache_writes(usage, written)?,
        output,
        ..TokenCounts::default()
    })
}

/// `cacheDetails`: "Detailed breakdown of cache writes by TTL"
/// (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_CacheDetail.html>).
fn cache_writes(usage: &Node<'_>, written: Option<i64>) -> Result<CacheWrites, Error> {
    let details = usage.list("cacheDetails")?;
    let mut writes = CacheWrites::default();
    for detail in &details {
        let tokens = detail.count_or_zero("inputTokens")?;
        match detail.word("ttl") {
            Some("5m") => writes.ttl_5m += tokens,
            Some("1h") => writes.ttl_1h += tokens,
            _ => writes.unspecified += tokens,
        }
    }
    if details.is_empty() {
        writes.unspecified = written.unwrap_or(0);
        return Ok(writes);
    }
    let mut total = Some(writes.total());
    json::agree(&mut total, written, "cache writes", &usage.path)?;
    Ok(writes)
}

/// Amazon Titan Text and Embeddings
/// (<https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-text.html>).
pub(super) fn titan(usage: &Node<'_>) -> Result<TokenCounts, Error> {
    let mut output = usage.count_or_zero("totalOutputTextTokenCount")?;
    for result in usage.list("results")? {
        output += result.count_or_zero("tokenCount")?;
    }
    Ok(TokenCounts {
        input: usage.required("inputTextTokenCount")?,
        output,
        ..TokenCounts::default()
    })
}

/// Meta Llama (<https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-meta.html>).
/// Of a stream's chunks the first has the prompt, and the generation's count grows.
pub(super) fn llama(usages: &Usages<'_>) -> Result<TokenCounts, Error> {
    let mut prompt = None;
    let mut output = 0;
    for found in &usages.all {
        prompt = found.usage.count("prompt_token_count")?.or(prompt);
        output = found
            .usage
            .count("generation_token_count")?
            .unwrap_or(output);
    }
    Ok(TokenCounts {
        input: prompt.ok_or_else(|| Error::CountMissing {
            path: usages.last().usage.at("prompt_token_count"),
        })?,
        output,
        ..TokenCounts::default()
    })
}
