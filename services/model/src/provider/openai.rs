//! OpenAI's two usage shapes, which most providers return: Chat Completions (also Completions,
//! Embeddings, Assistants) and Responses (also Images, Realtime).
//!
//! The common rule: the prompt INCLUDES cached and cache-written tokens, the output INCLUDES
//! reasoning, and `total_tokens` is prompt + output.
//! Sources: "Prompt caching", <https://platform.openai.com/docs/guides/prompt-caching>
//! (`cached_tokens` of `prompt_tokens_details`); "Reasoning models",
//! <https://platform.openai.com/docs/guides/reasoning> (`reasoning_tokens` of
//! `completion_tokens_details`, billed as output). Cache writes are part of the prompt as well:
//! a recorded gpt-5.6 call has 4,012 written of 4,020 prompt tokens and a total of 4,024.

use std::collections::BTreeMap;

use super::envelope::Usages;
use super::json::{Node, agree, is_word, remainder};
use super::{Context, Error, Provider};
use crate::counts::{CacheWrites, Line, TokenCounts};

/// The key names of one of the two shapes.
struct Keys {
    prompt: &'static str,
    output: &'static str,
    prompt_details: [&'static str; 2],
    output_details: [&'static str; 2],
}

/// The singular `prompt_token_details` is what Assistants runs say.
const CHAT: Keys = Keys {
    prompt: "prompt_tokens",
    output: "completion_tokens",
    prompt_details: ["prompt_tokens_details", "prompt_token_details"],
    output_details: ["completion_tokens_details", "completion_token_details"],
};
/// The singular `input_token_details` is what Realtime and transcriptions say.
const RESPONSES: Keys = Keys {
    prompt: "input_tokens",
    output: "output_tokens",
    prompt_details: ["input_tokens_details", "input_token_details"],
    output_details: ["output_tokens_details", "output_token_details"],
};

/// Where a provider keeps reasoning tokens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reasoning {
    /// In the output, always.
    Inside,
    /// Where the total says; in the output if there is no total.
    ByTotalElseInside,
    /// Where the total says; beside the output if there is no total.
    ByTotalElseOutside,
    /// Not stated: what the total has more than prompt and output.
    Remainder,
}

/// xAI: "reasoning token consumption will be counted separately from completion_tokens, but will
/// be counted in the total_tokens"
/// (<https://docs.x.ai/docs/key-information/consumption-and-rate-limits>). Azure serves Grok with
/// xAI's counts under its OpenAI API. Gemini's OpenAI-compatible API states thoughts nowhere but
/// in the total (recorded: 66 + 6 with a total of 100), as its native API keeps them outside
/// candidates.
fn chat_reasoning(provider: Provider) -> Reasoning {
    match provider {
        Provider::XAi => Reasoning::ByTotalElseOutside,
        Provider::AzureOpenAi => Reasoning::ByTotalElseInside,
        Provider::Gemini | Provider::VertexAi => Reasoning::Remainder,
        _ => Reasoning::Inside,
    }
}

/// Chat Completions, and Groq's compound systems and the Assistants API, which use its counts.
pub(super) fn chat(context: &Context<'_>, usages: &Usages<'_>) -> Result<Vec<Line>, Error> {
    if let Some(lines) = assistants(context, usages)? {
        return Ok(lines);
    }
    let last = usages.last();
    let line = Line {
        model: context.model.clone(),
        counts: counts(&last.usage, &CHAT, chat_reasoning(context.provider))?,
        tool_requests: tool_requests(context.provider, &last.usage)?,
    };
    for breakdown in [
        last.holder.peek("usage_breakdown"),
        last.holder
            .peek("x_groq")
            .and_then(|x| x.peek("usage_breakdown")),
    ]
    .into_iter()
    .flatten()
    {
        let models = breakdown.list("models")?;
        if !models.is_empty() {
            return compound(&line, &breakdown, &models);
        }
    }
    Ok(vec![line])
}

/// The Responses API. xAI's counts are OpenAI's here, but the total decides
/// (<https://docs.x.ai/developers/advanced-api-usage/prompt-caching/usage-and-pricing>).
pub(super) fn responses(context: &Context<'_>, usage: &Node<'_>) -> Result<Vec<Line>, Error> {
    let reasoning = match context.provider {
        Provider::XAi | Provider::AzureOpenAi => Reasoning::ByTotalElseInside,
        _ => Reasoning::Inside,
    };
    Ok(vec![Line {
        model: context.model.clone(),
        counts: counts(usage, &RESPONSES, reasoning)?,
        tool_requests: tool_requests(context.provider, usage)?,
    }])
}

fn counts(usage: &Node<'_>, keys: &Keys, reasoning: Reasoning) -> Result<TokenCounts, Error> {
    let prompt = usage.required(keys.prompt)?;
    // Embeddings have no output.
    let output = usage.count_or_zero(keys.output)?;
    let total = usage.count("total_tokens")?;
    let prompt_details = usage.first_object(&keys.prompt_details)?;
    let output_details = usage.first_object(&keys.output_details)?;

    let stated = match &output_details {
        Some(details) => details.count("reasoning_tokens")?,
        None => None,
    };
    let (output, reasoning) = outputs(usage, reasoning, prompt, output, stated, total)?;
    let (cache_read, written) = cached(usage, prompt_details.as_ref(), prompt)?;
    let input = remainder(
        &usage.path,
        "uncached prompt tokens",
        prompt,
        cache_read + written,
    )?;
    let mut counts = TokenCounts {
        input,
        cache_read,
        cache_write: CacheWrites {
            unspecified: written,
            ..CacheWrites::default()
        },
        output,
        reasoning,
        ..TokenCounts::default()
    };
    if let Some(details) = &prompt_details {
        prompt_modalities(details, prompt, &mut counts)?;
    }
    if let Some(details) = &output_details {
        counts.output_audio = details.count_or_zero("audio_tokens")?;
        counts.output_image = details.count_or_zero("image_tokens")?;
        let parts = counts.output_audio + counts.output_image;
        remainder(&usage.path, "output tokens without media", output, parts)?;
    }
    Ok(counts)
}

/// Output with reasoning in it, and the reasoning, by the reading that gives the stated total.
fn outputs(
    usage: &Node<'_>,
    rule: Reasoning,
    prompt: i64,
    output: i64,
    stated: Option<i64>,
    total: Option<i64>,
) -> Result<(i64, i64), Error> {
    let reasoning = stated.unwrap_or(0);
    let contradiction = |total| Error::Contradiction {
        path: usage.path.clone(),
        what: "the total",
        stated: total,
        other: prompt + output,
    };
    let outside = match (rule, total) {
        (_, Some(total)) if total == prompt + output => false,
        (Reasoning::Inside, Some(total)) => return Err(contradiction(total)),
        (Reasoning::Remainder, Some(total)) => {
            let unstated = total - prompt - output;
            if unstated < 0 || stated.is_some_and(|stated| stated != unstated) {
                return Err(contradiction(total));
            }
            return Ok((output + unstated, unstated));
        }
        (_, Some(total)) if total == prompt + output + reasoning => true,
        (_, Some(total)) => return Err(contradiction(total)),
        (Reasoning::ByTotalElseOutside, None) => true,
        (_, None) => false,
    };
    if outside {
        return Ok((output + reasoning, reasoning));
    }
    remainder(
        &usage.path,
        "output tokens without reasoning",
        output,
        reasoning,
    )?;
    Ok((output, reasoning))
}

/// Cache reads and writes, both part of the prompt.
///
/// - DeepSeek: `prompt_cache_hit_tokens` + `prompt_cache_miss_tokens` = `prompt_tokens`
///   (<https://api-docs.deepseek.com/api/create-chat-completion>).
/// - Mistral: `num_cached_tokens`; Together and Hugging Face's router: `cached_tokens` beside the
///   prompt's count. Recorded calls total without them, so they are part of the prompt.
/// - OpenRouter: `cached_tokens`, `cache_write_tokens`
///   (<https://openrouter.ai/docs/use-cases/usage-accounting>).
fn cached(usage: &Node<'_>, details: Option<&Node<'_>>, prompt: i64) -> Result<(i64, i64), Error> {
    let keys = [
        "cached_tokens",
        "num_cached_tokens",
        "prompt_cache_hit_tokens",
    ];
    let mut cached = usage.agreed("cached prompt tokens", &keys)?;
    let mut written = 0;
    if let Some(details) = details {
        let stated = details.count("cached_tokens")?;
        agree(&mut cached, stated, "cached prompt tokens", &usage.path)?;
        written = details.count_or_zero("cache_write_tokens")?;
    }
    if let Some(miss) = usage.count("prompt_cache_miss_tokens")? {
        let other = cached.unwrap_or(0) + miss;
        if other != prompt {
            return Err(Error::Contradiction {
                path: usage.path.clone(),
                what: "prompt tokens, and their cache hits + misses,",
                stated: prompt,
                other,
            });
        }
    }
    Ok((cached.unwrap_or(0), written))
}

/// Audio and image tokens of the prompt. Which of them were cached is said only by Realtime's
/// `cached_tokens_details`; otherwise at most the uncached prompt can be media in `input`.
fn prompt_modalities(
    details: &Node<'_>,
    prompt: i64,
    counts: &mut TokenCounts,
) -> Result<(), Error> {
    let audio = details.count_or_zero("audio_tokens")?;
    let image = details.count_or_zero("image_tokens")?;
    let path = &details.path;
    remainder(path, "prompt tokens without media", prompt, audio + image)?;
    if let Some(cached) = details.object("cached_tokens_details")? {
        let cached_audio = cached.count_or_zero("audio_tokens")?;
        let cached_image = cached.count_or_zero("image_tokens")?;
        let parts = cached_audio + cached_image;
        remainder(
            path,
            "cached tokens without media",
            counts.cache_read,
            parts,
        )?;
        counts.cache_read_audio = cached_audio;
        counts.input_audio = remainder(path, "uncached audio tokens", audio, cached_audio)?;
        counts.input_image = remainder(path, "uncached image tokens", image, cached_image)?;
        let parts = counts.input_audio + counts.input_image;
        remainder(path, "uncached tokens without media", counts.input, parts)?;
    } else {
        counts.input_audio = audio.min(counts.input);
        counts.input_image = image.min(counts.input - counts.input_audio);
    }
    Ok(())
}

/// Requests to server-side tools.
///
/// - OpenRouter: `server_tool_use_details.web_search_requests`; `tool_calls_*` name no tool.
/// - xAI: `server_side_tool_usage_details.*_calls`, billed per call
///   (<https://docs.x.ai/developers/tools/overview>, <https://github.com/BerriAI/litellm/pull/30817>);
///   Live Search's `num_sources_used`, billed per
///   source, as `live_search_sources`.
fn tool_requests(provider: Provider, usage: &Node<'_>) -> Result<BTreeMap<String, i64>, Error> {
    let mut requests = BTreeMap::new();
    if let Some(tools) = usage.first_object(&["server_tool_use_details", "server_tool_use"])? {
        suffixed(&tools, "_requests", &mut requests)?;
    }
    if provider == Provider::XAi {
        if let Some(tools) = usage.object("server_side_tool_usage_details")? {
            suffixed(&tools, "_calls", &mut requests)?;
        }
        let sources = usage.count_or_zero("num_sources_used")?;
        if sources > 0 {
            requests.insert("live_search_sources".to_owned(), sources);
        }
    }
    Ok(requests)
}

/// The counts of keys such as `web_search_requests`, by tool, zeros left out.
pub(super) fn suffixed(
    tools: &Node<'_>,
    suffix: &str,
    requests: &mut BTreeMap<String, i64>,
) -> Result<(), Error> {
    for key in tools.map.keys().filter(|key| is_word(key)) {
        let Some(tool) = key.strip_suffix(suffix).filter(|tool| !tool.is_empty()) else {
            continue;
        };
        let count = tools.count_or_zero(key)?;
        if count > 0 {
            requests.insert(tool.to_owned(), count);
        }
    }
    Ok(())
}

/// Groq's compound systems run several models in one response and bill each
/// (<https://console.groq.com/docs/compound>, "Model usage details"). A model that ran several
/// times is listed several times. The list must add up to the response's own count.
fn compound(whole: &Line, breakdown: &Node<'_>, models: &[Node<'_>]) -> Result<Vec<Line>, Error> {
    let mut lines: Vec<Line> = Vec::new();
    for entry in models {
        let Some(usage) = entry.object("usage")? else {
            return Err(Error::CountMissing {
                path: entry.at("usage"),
            });
        };
        let counts = counts(&usage, &CHAT, Reasoning::Inside)?;
        let model = entry.name("model").unwrap_or(&whole.model);
        super::add(&mut lines, model, &counts);
    }
    let sum = |f: fn(&TokenCounts) -> i64| lines.iter().map(|line| f(&line.counts)).sum();
    for (what, stated, other) in [
        (
            "the prompt",
            whole.counts.prompt(),
            sum(TokenCounts::prompt),
        ),
        ("the output", whole.counts.output, sum(|c| c.output)),
    ] {
        if stated != other {
            return Err(Error::Contradiction {
                path: breakdown.path.clone(),
                what,
                stated,
                other,
            });
        }
    }
    Ok(lines)
}

/// Assistants: a run's usage is the total over its steps, so the run counts; only without one are
/// the steps added (<https://platform.openai.com/docs/api-reference/runs/object>, `usage`).
fn assistants(context: &Context<'_>, usages: &Usages<'_>) -> Result<Option<Vec<Line>>, Error> {
    for object in ["thread.run", "thread.run.step"] {
        // The last statement about each run or step, by its id.
        let mut by_id = BTreeMap::new();
        for found in &usages.all {
            if found.holder.word("object") == Some(object) {
                by_id.insert(found.holder.name("id").unwrap_or(""), &found.usage);
            }
        }
        if by_id.is_empty() {
            continue;
        }
        let mut lines = Vec::new();
        for usage in by_id.values() {
            let counts = counts(usage, &CHAT, Reasoning::Inside)?;
            super::add(&mut lines, &context.model, &counts);
        }
        return Ok(Some(lines));
    }
    Ok(None)
}
