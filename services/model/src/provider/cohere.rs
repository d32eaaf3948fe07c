//! Cohere's v2 `usage` and v1 `meta`.

use super::json::Node;
use super::{Context, Error};
use crate::counts::{Line, TokenCounts};

/// `billed_units` is what is billed; `tokens` counts what the model read, with Cohere's own
/// preamble, before billing (<https://docs.cohere.com/v2/docs/how-does-cohere-pricing-work>,
/// <https://docs.cohere.com/v2/reference/chat>). "When both used and billable tokens are
/// available, report billable tokens" (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>).
/// `cached_tokens` counts on the base of `tokens` (recorded: 144 cached where 41 are billed), so
/// it is no part of the billed input and is not read.
pub(super) fn line(context: &Context<'_>, usage: &Node<'_>) -> Result<Line, Error> {
    const COUNTS: [&str; 4] = [
        "input_tokens",
        "output_tokens",
        "image_tokens",
        "search_units",
    ];
    let mut line = Line {
        model: context.model.clone(),
        ..Line::default()
    };
    let units = match usage
        .object("billed_units")?
        .filter(|units| units.has(&COUNTS))
    {
        Some(units) => Some(units),
        None => usage.object("tokens")?.filter(|tokens| tokens.has(&COUNTS)),
    };
    let Some(units) = units else {
        return Err(Error::CountMissing {
            path: usage.at("billed_units"),
        });
    };
    // Embeddings of images bill `image_tokens` beside the text's `input_tokens`.
    let image = units.count_or_zero("image_tokens")?;
    line.counts = TokenCounts {
        input: units.count_or_zero("input_tokens")? + image,
        input_image: image,
        output: units.count_or_zero("output_tokens")?,
        ..TokenCounts::default()
    };
    // Rerank bills searches, not tokens.
    let searches = units.count_or_zero("search_units")?;
    if searches > 0 {
        line.tool_requests
            .insert("search_units".to_owned(), searches);
    }
    Ok(line)
}
