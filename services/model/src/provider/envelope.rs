//! Where a document keeps its usage, which API's shape it has, and the facts beside it.

use serde_json::Value;

use crate::tier::ServiceTier;

use super::json::{Node, is_word};
use super::{Error, Provider, Response};
use crate::bounds;

/// The shape of a usage object. It is told by its keys, because gateways and clouds return other
/// vendors' shapes: Claude under Bedrock's InvokeModel, OpenAI's under nearly everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `input_tokens` without cache.
    Anthropic,
    /// `prompt_tokens`, `completion_tokens`.
    Chat,
    /// `input_tokens` with cache, as in OpenAI's Responses API.
    Responses,
    /// `promptTokenCount`.
    Gemini,
    /// `inputTokens`.
    Converse,
    /// `amazon-bedrock-invocationMetrics`.
    InvocationMetrics,
    /// `inputTextTokenCount`.
    Titan,
    /// `prompt_token_count`.
    Llama,
    /// `billed_units`, `tokens`.
    Cohere,
}

impl Shape {
    /// When a stream holds several shapes, only those of the highest rank count. Bedrock appends
    /// its invocation metrics to the vendor's own chunks: the same tokens once more. Titan's and
    /// Llama's chunks are partial, so there the metrics are the better statement.
    fn rank(self) -> u8 {
        match self {
            Self::Titan | Self::Llama => 0,
            Self::InvocationMetrics => 1,
            _ => 2,
        }
    }
}

/// A usage object and the object that holds it.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) usage: Node<'a>,
    /// The response, message or chunk.
    pub(super) holder: Node<'a>,
    shape: Shape,
}

/// The usage objects of one response: one shape, in order, at least one.
#[derive(Debug)]
pub(super) struct Usages<'a> {
    pub(super) shape: Shape,
    pub(super) all: Vec<Found<'a>>,
    last: usize,
}

impl<'a> Usages<'a> {
    /// The last one: counts of a stream are cumulative everywhere.
    pub(super) fn last(&self) -> &Found<'a> {
        &self.all[self.last]
    }
}

const GEMINI: [&str; 7] = [
    "promptTokenCount",
    "candidatesTokenCount",
    "responseTokenCount",
    "totalTokenCount",
    "thoughtsTokenCount",
    "cachedContentTokenCount",
    "toolUsePromptTokenCount",
];
const ANTHROPIC_ONLY: [&str; 6] = [
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "server_tool_use",
    "iterations",
    "inference_geo",
];
const RESPONSES_ONLY: [&str; 3] = [
    "total_tokens",
    "input_tokens_details",
    "input_token_details",
];
/// Keys of a usage object that says nothing of tokens yet.
const WORDS_ONLY: [&str; 6] = [
    "trafficType",
    "serviceTier",
    "service_tier",
    "speed",
    "inference_geo",
    "id",
];

fn shape_of(usage: &Node<'_>, holder: &Node<'_>, response: &Response<'_>) -> Option<Shape> {
    if usage.peek("billed_units").is_some() || usage.peek("tokens").is_some() {
        return Some(Shape::Cohere);
    }
    let table: [(&[&str], Shape); 6] = [
        (&GEMINI, Shape::Gemini),
        (&["inputTextTokenCount"], Shape::Titan),
        (
            &["prompt_token_count", "generation_token_count"],
            Shape::Llama,
        ),
        (
            &["inputTokenCount", "outputTokenCount"],
            Shape::InvocationMetrics,
        ),
        (&["inputTokens", "outputTokens"], Shape::Converse),
        (&["prompt_tokens", "completion_tokens"], Shape::Chat),
    ];
    if let Some((_, shape)) = table.iter().find(|(keys, _)| usage.has(keys)) {
        return Some(*shape);
    }
    if !usage.has(&["input_tokens", "output_tokens"]) {
        return None;
    }
    if usage.has(&ANTHROPIC_ONLY) {
        return Some(Shape::Anthropic);
    }
    let reasoning = usage
        .peek("output_tokens_details")
        .is_some_and(|details| details.has(&["reasoning_tokens"]));
    if reasoning || usage.has(&RESPONSES_ONLY) {
        return Some(Shape::Responses);
    }
    let message = holder
        .word("type")
        .is_some_and(|word| word.starts_with("message"));
    let anthropic = message
        || response.api.contains("/messages")
        || matches!(
            response.provider,
            Provider::Anthropic | Provider::Bedrock | Provider::VertexAi
        );
    Some(if anthropic {
        Shape::Anthropic
    } else {
        Shape::Responses
    })
}

/// The objects of a document that can hold a usage: itself, the response inside a stream event
/// (`response.completed`, `message_start`), and the answer inside a batch result.
fn holders<'a>(root: &Node<'a>) -> Vec<Node<'a>> {
    let mut holders = vec![root.clone()];
    if let Some(response) = root.peek("response") {
        holders.extend(response.peek("body"));
        holders.push(response);
    }
    holders.extend(root.peek("message"));
    holders.extend(root.peek("result").and_then(|r| r.peek("message")));
    holders
}

/// The places in a holder where a usage can stand; the first that holds counts is read, so that
/// Groq's `x_groq.usage`, a repetition of `usage`, is never counted twice.
fn places<'a>(holder: &Node<'a>) -> impl Iterator<Item = Node<'a>> + use<'a> {
    [
        holder.peek("usage"),
        holder.peek("usageMetadata"),
        holder.peek("metadata").and_then(|m| m.peek("usage")),
        holder.peek("delta").and_then(|d| d.peek("usage")),
        holder.peek("x_groq").and_then(|x| x.peek("usage")),
        holder.peek("meta"),
        holder.peek("amazon-bedrock-invocationMetrics"),
    ]
    .into_iter()
    .flatten()
}

/// Finds the usage objects of all documents.
pub(super) fn usages<'a>(response: &Response<'_>, roots: &[Node<'a>]) -> Result<Usages<'a>, Error> {
    let mut all = Vec::new();
    let mut unknown = None;
    for root in roots {
        match find(response, root) {
            Ok(Some(found)) => all.push(found),
            Ok(None) => {}
            Err(path) => unknown = Some(path),
        }
    }
    let Some(rank) = all.iter().map(|found| found.shape.rank()).max() else {
        return Err(match unknown {
            Some(path) => Error::UnknownShape { path },
            None => Error::UsageMissing,
        });
    };
    all.retain(|found| found.shape.rank() == rank);
    let Some(shape) = all.first().map(|found| found.shape) else {
        return Err(Error::UsageMissing);
    };
    if let Some(other) = all.iter().find(|found| found.shape != shape) {
        return Err(Error::MixedShapes {
            path: other.usage.path.clone(),
        });
    }
    let last = all.len() - 1;
    Ok(Usages { shape, all, last })
}

/// The usage of one document; the path of a usage object without a known key as `Err`.
fn find<'a>(response: &Response<'_>, root: &Node<'a>) -> Result<Option<Found<'a>>, String> {
    let mut unknown = None;
    for holder in holders(root) {
        for usage in places(&holder) {
            if let Some(shape) = shape_of(&usage, &holder, response) {
                return Ok(Some(Found {
                    usage,
                    holder,
                    shape,
                }));
            }
            let silent = usage
                .map
                .iter()
                .all(|(key, value)| value.is_null() || WORDS_ONLY.contains(&key.as_str()));
            if !silent && !usage.path.ends_with("meta") {
                unknown = Some(usage.path);
            }
        }
    }
    if let Some(shape) = shape_of(root, root, response) {
        return Ok(Some(Found {
            usage: root.clone(),
            holder: root.clone(),
            shape,
        }));
    }
    unknown.map_or(Ok(None), Err)
}

/// What the documents say beside the counts.
#[derive(Debug, Default)]
pub(super) struct Facts<'a> {
    pub(super) model: Option<&'a str>,
    pub(super) service_tier: Option<String>,
    pub(super) inference_region: Option<String>,
    pub(super) response_id: Option<String>,
    pub(super) created_us: Option<i64>,
    pub(super) stop_reason: Option<String>,
}

impl<'a> Facts<'a> {
    pub(super) fn read(response: &Response<'_>, roots: &[Node<'a>]) -> Self {
        let mut facts = Self::default();
        let mut step_id = None;
        for root in roots {
            // The innermost first: a batch row's own id is not the response's.
            for holder in holders(root).iter().rev() {
                facts.read_holder(holder, &mut step_id);
            }
            facts.read_stop(root);
        }
        facts.response_id = facts.response_id.or(step_id);
        let standard = |word: &String| ServiceTier::from_provider(word) == ServiceTier::Standard;
        if roots.iter().any(is_batch_row) && facts.service_tier.as_ref().is_none_or(standard) {
            facts.service_tier = Some(ServiceTier::Batch.as_str().to_owned());
        }
        if facts.inference_region.is_none() && response.provider == Provider::VertexAi {
            facts.inference_region = location(response.api);
        }
        facts
    }

    fn read_holder(&mut self, holder: &Node<'a>, step_id: &mut Option<String>) {
        // The last model wins: a stream that falls back to another model names it later.
        let model = holder.name("model").or_else(|| holder.name("modelVersion"));
        self.model = model.or(self.model);
        let id = holder.name("id").or_else(|| holder.name("responseId"));
        // An Assistants stream holds the run and its steps; the run is the response.
        if holder.word("object") == Some("thread.run.step") {
            *step_id = step_id.take().or(id.map(str::to_owned));
        } else if self.response_id.is_none() {
            self.response_id = id.map(str::to_owned);
        }
        self.created_us = self.created_us.or_else(|| created_us(holder));
        let tier = service_tier(holder);
        self.service_tier = tier.or(self.service_tier.take());
        for usage in places(holder).chain([holder.clone()]) {
            // Anthropic: `not_available` where the region is not known.
            if let Some(geo) = usage
                .word("inference_geo")
                .filter(|g| *g != "not_available")
            {
                self.inference_region = Some(geo.to_owned());
            }
        }
    }

    fn read_stop(&mut self, root: &Node<'a>) {
        for holder in holders(root) {
            let word = [
                Some(holder.clone()),
                holder.peek("delta"),
                holder.peek_first("choices"),
                holder.peek_first("candidates"),
                holder.peek("messageStop"),
                holder.peek_first("results"),
                holder.peek("incomplete_details"),
            ]
            .into_iter()
            .flatten()
            .find_map(|node| {
                [
                    "stop_reason",
                    "finish_reason",
                    "stopReason",
                    "finishReason",
                    "completionReason",
                    "reason",
                ]
                .iter()
                .find_map(|key| node.word(key))
            });
            // The Responses API says `status`, and a reason only when it is incomplete.
            let status = || match holder.word("object") {
                Some("response" | "thread.run") => holder.word("status"),
                _ => None,
            };
            if let Some(word) = word.or_else(status) {
                self.stop_reason = Some(word.to_owned());
            }
        }
    }
}

/// A row of a batch's output file: OpenAI's holds the answer under `response.body`
/// (<https://platform.openai.com/docs/guides/batch>), Gemini's has a `key` beside the `response`
/// (<https://ai.google.dev/gemini-api/docs/batch-api>). Neither says the tier that it was billed at.
/// Anthropic's rows say `batch` themselves.
fn is_batch_row(root: &Node<'_>) -> bool {
    root.peek("response")
        .is_some_and(|response| response.peek("body").is_some() || root.map.contains_key("key"))
}

/// The tier as served. Anthropic's `speed: fast` is a dearer mode of the standard tier
/// (<https://platform.claude.com/docs/en/build-with-claude/fast-mode>) and selects the price, so
/// it is reported as the tier. Vertex AI's `trafficType` comes as a name or as the enum's number.
fn service_tier(holder: &Node<'_>) -> Option<String> {
    let nodes: Vec<Node<'_>> = places(holder).chain([holder.clone()]).collect();
    if nodes.iter().any(|node| node.word("speed") == Some("fast")) {
        return Some("fast".to_owned());
    }
    nodes.iter().find_map(|node| {
        let word = node
            .word("service_tier")
            .or_else(|| node.word("serviceTier"))
            .map(str::to_owned)
            .or_else(|| {
                // Bedrock Converse: `"serviceTier": {"type": "flex"}`.
                let tier = node.peek("serviceTier")?;
                tier.word("type").map(str::to_owned)
            });
        word.or_else(|| match node.map.get("trafficType")? {
            Value::String(word) if is_word(word) && word != "TRAFFIC_TYPE_UNSPECIFIED" => {
                Some(word.clone())
            }
            Value::Number(number) => match number.as_i64() {
                Some(1) => Some("ON_DEMAND".to_owned()),
                Some(2) => Some("PROVISIONED_THROUGHPUT".to_owned()),
                _ => None,
            },
            _ => None,
        })
    })
}

/// The location in a Vertex AI path: `/v1/projects/p/locations/europe-west4/…`.
fn location(api: &str) -> Option<String> {
    let (_, after) = api.split_once("/locations/")?;
    let location = after.split('/').next()?;
    is_word(location).then(|| location.to_owned())
}

/// `created` and `created_at` are seconds since the epoch; Google's `createTime` and Anthropic's
/// batch times are RFC 3339. A time out of bounds is not kept.
fn created_us(holder: &Node<'_>) -> Option<i64> {
    let us = ["created", "created_at", "createTime"]
        .iter()
        .find_map(|key| match holder.map.get(*key)? {
            Value::Number(number) => number.as_i64()?.checked_mul(1_000_000),
            Value::String(text) => rfc3339_us(text),
            _ => None,
        })?;
    (bounds::MIN_TIME_US..=253_402_300_799_999_999)
        .contains(&us)
        .then_some(us)
}

/// Microseconds of an RFC 3339 time in UTC (`Z`), as Google writes it.
fn rfc3339_us(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(digits);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    // Days since the epoch by the civil calendar, years beginning in March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let micros = digits(&format!("{fraction:0<6.6}"))?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

fn digits(text: &str) -> Option<i64> {
    let plain = (1..=6).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_microsecond() {
        let cases = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-03-01T00:00:00Z", Some(951_868_800_000_000)),
            ("2025-06-25T10:20:30.1234567Z", Some(1_750_846_830_123_456)),
            ("2025-06-25T10:20:30.5Z", Some(1_750_846_830_500_000)),
            ("2025-06-25", None),
            ("2025-13-25T10:20:30Z", None),
            ("2025-06-25T10:20:30+02:00", None),
        ];
        for (text, us) in cases {
            assert_eq!(rfc3339_us(text), us, "{text}");
        }
    }
}
