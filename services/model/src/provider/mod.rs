//! Provider normalisation (R12): a provider's own usage object, as it came, to disjoint counts.
//!
//! Every rule stands here once, beside its source; `docs/normalisation.md` explains them. Nothing
//! is guessed: where a document's statements disagree or a remainder would be negative, the
//! answer is a named [`Error`], never a clamp. Only known keys are read; text is never kept.

mod anthropic;
mod bedrock;
mod cohere;
mod envelope;
mod error;
mod gemini;
mod json;
mod name;
mod openai;
mod stop;

pub use error::{Error, Problem, REASONS};
pub use name::percent_decode;
pub use stop::StopReason;

use crate::bounds;
use crate::counts::{Line, TokenCounts};
use envelope::{Shape, Usages};
use json::Node;

/// A provider, by its OpenTelemetry GenAI name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Provider {
    /// Anthropic.
    Anthropic,
    /// OpenAI.
    OpenAi,
    /// Azure OpenAI, and other models behind Azure's OpenAI-compatible API.
    AzureOpenAi,
    /// Gemini API (AI Studio).
    Gemini,
    /// Vertex AI.
    VertexAi,
    /// Amazon Bedrock.
    Bedrock,
    /// Mistral AI.
    Mistral,
    /// Cohere.
    Cohere,
    /// Groq.
    Groq,
    /// DeepSeek.
    DeepSeek,
    /// xAI.
    XAi,
    /// OpenRouter.
    OpenRouter,
    /// Cerebras.
    Cerebras,
    /// Together AI.
    Together,
    /// Hugging Face inference providers.
    HuggingFace,
}

impl Provider {
    /// Every provider, in the order of the contract's enum.
    pub const ALL: [Self; 15] = [
        Self::Anthropic,
        Self::OpenAi,
        Self::AzureOpenAi,
        Self::Gemini,
        Self::VertexAi,
        Self::Bedrock,
        Self::Mistral,
        Self::Cohere,
        Self::Groq,
        Self::DeepSeek,
        Self::XAi,
        Self::OpenRouter,
        Self::Cerebras,
        Self::Together,
        Self::HuggingFace,
    ];

    /// The canonical name. Those with a well-known value are OpenTelemetry's `gen_ai.provider.name`
    /// (<https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/>).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
            Self::AzureOpenAi => "azure.ai.openai",
            Self::Gemini => "gcp.gemini",
            Self::VertexAi => "gcp.vertex_ai",
            Self::Bedrock => "aws.bedrock",
            Self::Mistral => "mistral_ai",
            Self::Cohere => "cohere",
            Self::Groq => "groq",
            Self::DeepSeek => "deepseek",
            Self::XAi => "x_ai",
            Self::OpenRouter => "openrouter",
            Self::Cerebras => "cerebras",
            Self::Together => "together_ai",
            Self::HuggingFace => "huggingface",
        }
    }

    /// Reads a canonical name or a common alias, case and separators aside.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase().replace(['-', ' '], "_");
        Some(match name.as_str() {
            "anthropic" | "claude" => Self::Anthropic,
            "openai" | "open_ai" => Self::OpenAi,
            "azure.ai.openai" | "az.ai.openai" | "azure" | "azure_openai" | "azure_ai"
            | "azure.ai.inference" | "az.ai.inference" => Self::AzureOpenAi,
            "gcp.gemini" | "gemini" | "google" | "google_gla" | "gcp.gen_ai" | "google_genai"
            | "google_ai_studio" => Self::Gemini,
            "gcp.vertex_ai" | "vertex_ai" | "vertexai" | "vertex" | "google_vertex" => {
                Self::VertexAi
            }
            "aws.bedrock" | "bedrock" | "aws_bedrock" | "amazon_bedrock" => Self::Bedrock,
            "mistral_ai" | "mistral" | "mistralai" => Self::Mistral,
            "cohere" => Self::Cohere,
            "groq" => Self::Groq,
            "deepseek" | "deep_seek" => Self::DeepSeek,
            "x_ai" | "xai" | "grok" => Self::XAi,
            "openrouter" | "open_router" => Self::OpenRouter,
            "cerebras" => Self::Cerebras,
            "together_ai" | "together" | "togetherai" => Self::Together,
            "huggingface" | "hugging_face" | "hf" => Self::HuggingFace,
            _ => return None,
        })
    }
}

/// What a provider returned for one call.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// Who returned it.
    pub provider: Provider,
    /// The API's path or name as the caller knows it; may be empty.
    pub api: &'a str,
    /// The request's model, for documents that name none; may be empty or percent-encoded.
    pub model: &'a str,
    /// One document for a plain response, the usage-bearing chunks in order for a streamed one.
    /// Each is the bare usage object or any response or chunk that holds it.
    pub documents: &'a [&'a str],
    /// Was the response streamed? A plain one has exactly one document.
    pub streamed: bool,
}

/// A provider's usage in this crate's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normalized {
    /// One line per billed model, the answering model's first; 1 to [`bounds::MAX_LINES`].
    pub lines: Vec<Line>,
    /// The tier as served, the provider's own word; see [`crate::tier::ServiceTier::from_provider`].
    pub service_tier: Option<String>,
    /// Where inference ran, the provider's own word.
    pub inference_region: Option<String>,
    /// The provider's id of the response.
    pub response_id: Option<String>,
    /// The provider's creation time, microseconds since the Unix epoch.
    pub created_us: Option<i64>,
    /// Why generation stopped, the provider's own word; see [`StopReason::from_provider`].
    pub stop_reason: Option<String>,
}

/// What the shape modules know of the response beside its usage.
struct Context<'a> {
    provider: Provider,
    api: &'a str,
    /// The model that is billed, unless the usage names others.
    model: String,
    /// The request's model, decoded; may be empty.
    requested: String,
}

/// Turns a provider's usage into disjoint counts.
///
/// # Errors
/// Why the documents do not add up to usage; nothing is clamped or guessed.
pub fn normalize(response: &Response<'_>) -> Result<Normalized, Error> {
    read(response).map_err(Error::placed)
}

fn read(response: &Response<'_>) -> Result<Normalized, Error> {
    let count = response.documents.len();
    let max = if response.streamed {
        bounds::MAX_STREAM_DOCUMENTS
    } else {
        1
    };
    if count > max {
        return Err(Error::TooManyDocuments {
            documents: count,
            max,
        });
    }
    let mut parsed = Vec::with_capacity(count);
    for (i, document) in response.documents.iter().enumerate() {
        let path = document_path(i, count);
        parsed.push((json::parse(document, &path)?, path));
    }
    let roots: Vec<Node<'_>> = parsed
        .iter()
        .map(|(map, path)| Node::new(map, path.as_str()))
        .collect();

    let facts = envelope::Facts::read(response, &roots);
    let usages = envelope::usages(response, &roots)?;
    let context = Context {
        provider: response.provider,
        api: response.api,
        model: name::billed_model(response, facts.model)?,
        requested: percent_decode(response.model),
    };
    let lines = lines(&context, &usages)?;
    check(&lines)?;
    Ok(Normalized {
        lines,
        service_tier: facts.service_tier,
        inference_region: facts.inference_region,
        response_id: facts.response_id,
        created_us: facts.created_us,
        stop_reason: facts.stop_reason,
    })
}

fn document_path(index: usize, count: usize) -> String {
    if count == 1 {
        String::new()
    } else {
        format!("documents[{index}]")
    }
}

fn lines(context: &Context<'_>, usages: &Usages<'_>) -> Result<Vec<Line>, Error> {
    let last = usages.last();
    match usages.shape {
        Shape::Anthropic => anthropic::lines(context, usages),
        Shape::Chat => openai::chat(context, usages),
        Shape::Responses => openai::responses(context, &last.usage),
        Shape::Gemini => gemini::counts(context, last).map(|counts| one(context, counts)),
        Shape::Converse => bedrock::converse(&last.usage).map(|counts| one(context, counts)),
        Shape::InvocationMetrics => {
            bedrock::invocation_metrics(&last.usage).map(|counts| one(context, counts))
        }
        Shape::Titan => bedrock::titan(&last.usage).map(|counts| one(context, counts)),
        Shape::Llama => bedrock::llama(usages).map(|counts| one(context, counts)),
        Shape::Cohere => cohere::line(context, &last.usage).map(|line| vec![line]),
    }
}

fn one(context: &Context<'_>, counts: TokenCounts) -> Vec<Line> {
    vec![Line {
        model: context.model.clone(),
        counts,
        ..Line::default()
    }]
}

/// Adds `counts` to the line of `model`.
fn add(lines: &mut Vec<Line>, model: &str, counts: &TokenCounts) {
    let line = match lines.iter().position(|line| line.model == model) {
        Some(at) => &mut lines[at],
        None => {
            lines.push(Line {
                model: model.to_owned(),
                counts: *counts,
                ..Line::default()
            });
            return;
        }
    };
    line.counts.add(counts);
}

/// The bounds that every line keeps, whatever rule made it.
fn check(lines: &[Line]) -> Result<(), Error> {
    if lines.len() > bounds::MAX_LINES {
        return Err(Error::TooManyLines { lines: lines.len() });
    }
    let mut violations = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        if line.model.len() > bounds::MAX_TEXT_BYTES {
            return Err(Error::ModelTooLong {
                bytes: line.model.len(),
            });
        }
        line.check(format_args!("lines[{i}]"), &mut violations);
    }
    match violations.into_iter().next() {
        Some(violation) => Err(Error::OutOfBounds {
            path: violation.field,
            description: violation.description,
        }),
        None => Ok(()),
    }
}
