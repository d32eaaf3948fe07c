//! Gemini's `usageMetadata`, in the Gemini API and Vertex AI.
//!
//! `promptTokenCount` INCLUDES `cachedContentTokenCount` ("still the total effective prompt size
//! meaning this includes the number of tokens in the cached content"); thoughts are beside the
//! candidates and tool-use prompt tokens on top of the prompt
//! (<https://ai.google.dev/api/generate-content#UsageMetadata>,
//! <https://cloud.google.com/vertex-ai/generative-ai/docs/reference/rest/v1/GenerateContentResponse#UsageMetadata>).
//! Versions of the API differed, so the total decides between the readings.
//! A stream's counts are cumulative: the last usage-bearing chunk is the response's.

use serde_json::Value;

use super::envelope::Found;
use super::json::{Node, remainder};
use super::{Context, Error};
use crate::counts::{CacheWrites, TokenCounts};

pub(super) fn counts(context: &Context<'_>, found: &Found<'_>) -> Result<TokenCounts, Error> {
    let usage = &found.usage;
    if is_cached_content(context, found) {
        return Ok(TokenCounts {
            cache_write: CacheWrites {
                unspecified: usage.required("totalTokenCount")?,
                ..CacheWrites::default()
            },
            ..TokenCounts::default()
        });
    }
    let thoughts = usage.count_or_zero("thoughtsTokenCount")?;
    let tool_use = usage.count_or_zero("toolUsePromptTokenCount")?;
    let (prompt, output) = prompt_and_output(usage, thoughts, tool_use)?;
    remainder(
        &usage.path,
        "output tokens without thoughts",
        output,
        thoughts,
    )?;
    let cache_read = usage.count_or_zero("cachedContentTokenCount")?;
    let input = remainder(&usage.path, "uncached prompt tokens", prompt, cache_read)?;
    let mut counts = TokenCounts {
        input,
        cache_read,
        output,
        reasoning: thoughts,
        tool_use_prompt: tool_use.min(input),
        ..TokenCounts::default()
    };
    modalities(usage, &mut counts)?;
    Ok(counts)
}

/// Creating a cached content answers with its size alone: tokens written to the cache, kept for
/// the time the request says (<https://ai.google.dev/api/caching#CachedContent>).
fn is_cached_content(context: &Context<'_>, found: &Found<'_>) -> bool {
    let only_total = !found.usage.has(&[
        "promptTokenCount",
        "candidatesTokenCount",
        "responseTokenCount",
        "thoughtsTokenCount",
        "toolUsePromptTokenCount",
    ]);
    let cached_content = context.api.contains("cachedContents")
        || (found.holder.has(&["model"]) && !found.holder.has(&["responseId", "candidates"]));
    only_total && cached_content
}

/// The prompt with its tool-use tokens and the output with its thoughts, by the first reading
/// that gives the stated total. Embeddings state none.
fn prompt_and_output(usage: &Node<'_>, thoughts: i64, tool_use: i64) -> Result<(i64, i64), Error> {
    let prompt = usage.count_or_zero("promptTokenCount")?;
    // The Live API says `responseTokenCount`.
    let answer = usage
        .agreed(
            "candidate tokens",
            &["candidatesTokenCount", "responseTokenCount"],
        )?
        .unwrap_or(0);
    let documented = (prompt + tool_use, answer + thoughts);
    let Some(total) = usage.count("totalTokenCount")? else {
        return Ok(documented);
    };
    [
        documented,
        (prompt + tool_use, answer),
        (prompt, answer + thoughts),
        (prompt, answer),
    ]
    .into_iter()
    .find(|(prompt, output)| prompt + output == total)
    .ok_or(Error::Contradiction {
        path: usage.path.clone(),
        what: "the total",
        stated: total,
        other: documented.0 + documented.1,
    })
}

#[derive(Default)]
struct Modalities {
    audio: i64,
    image: i64,
}

/// Tokens by modality: names, or the enum's numbers (2 image, 4 audio) as some clients send them
/// (<https://ai.google.dev/api/generate-content#Modality>).
fn by_modality(usage: &Node<'_>, key: &str) -> Result<Modalities, Error> {
    let mut found = Modalities::default();
    for entry in usage.list(key)? {
        let tokens = entry.count_or_zero("tokenCount")?;
        let modality = entry.map.get("modality");
        match (
            modality.and_then(Value::as_str),
            modality.and_then(Value::as_i64),
        ) {
            (Some("AUDIO"), _) | (_, Some(4)) => found.audio += tokens,
            (Some("IMAGE"), _) | (_, Some(2)) => found.image += tokens,
            _ => {}
        }
    }
    Ok(found)
}

/// The first of two spellings that is present.
fn spelled<'k>(usage: &Node<'_>, keys: [&'k str; 2]) -> &'k str {
    if usage.has(&keys[..1]) {
        keys[0]
    } else {
        keys[1]
    }
}

fn modalities(usage: &Node<'_>, counts: &mut TokenCounts) -> Result<(), Error> {
    let path = &usage.path;
    // batchEmbedContents says `promptTokenDetails`.
    let prompt = by_modality(
        usage,
        spelled(usage, ["promptTokensDetails", "promptTokenDetails"]),
    )?;
    let tools = by_modality(usage, "toolUsePromptTokensDetails")?;
    let audio = prompt.audio + tools.audio;
    let image = prompt.image + tools.image;
    if counts.cache_read > 0 && !usage.has(&["cacheTokensDetails"]) {
        // What was cached is not said: at most the uncached prompt can be media in `input`.
        counts.input_audio = audio.min(counts.input);
        counts.input_image = image.min(counts.input - counts.input_audio);
    } else {
        let cached = by_modality(usage, "cacheTokensDetails")?;
        let parts = cached.audio + cached.image;
        remainder(
            path,
            "cached tokens without media",
            counts.cache_read,
            parts,
        )?;
        counts.cache_read_audio = cached.audio;
        counts.input_audio = remainder(path, "uncached audio tokens", audio, cached.audio)?;
        counts.input_image = remainder(path, "uncached image tokens", image, cached.image)?;
        let parts = counts.input_audio + counts.input_image;
        remainder(path, "uncached tokens without media", counts.input, parts)?;
    }
    let answer = by_modality(
        usage,
        spelled(usage, ["candidatesTokensDetails", "responseTokensDetails"]),
    )?;
    let parts = answer.audio + answer.image;
    remainder(path, "output tokens without media", counts.output, parts)?;
    counts.output_audio = answer.audio;
    counts.output_image = answer.image;
    Ok(())
}
