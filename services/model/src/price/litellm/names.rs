//! litellm's provider names and model keys in our words.

/// The canonical provider name of a `litellm_provider`; an unknown one keeps its name.
pub(super) fn provider(litellm: &str) -> &str {
    match litellm {
        "azure" | "azure_ai" | "azure_text" => "azure.ai.openai",
        "gemini" => "gcp.gemini",
        "vertex_ai" => "gcp.vertex_ai",
        "bedrock" | "bedrock_converse" => "aws.bedrock",
        "mistral" => "mistral_ai",
        "cohere" | "cohere_chat" => "cohere",
        "text-completion-openai" => "openai",
        "fireworks_ai-embedding-models" => "fireworks_ai",
        "xai" => "x_ai",
        "watsonx" => "ibm.watsonx.ai",
        other if other.starts_with("vertex_ai-") => "gcp.vertex_ai",
        other => other,
    }
}

/// The model name of a key: the key without litellm's routing prefix, when it has one.
/// Everything else of a path (`eu/gpt-4o`, `us-east-1/…`) stays, because its price differs.
pub(super) fn model<'a>(key: &'a str, litellm_provider: &str) -> &'a str {
    match key.split_once('/') {
        Some((head, rest))
            if !rest.is_empty()
                && (head == litellm_provider || head == route(litellm_provider)) =>
        {
            rest
        }
        _ => key,
    }
}

/// The routing prefix of a provider whose name is longer than it.
fn route(litellm_provider: &str) -> &str {
    match litellm_provider {
        "azure_text" => "azure",
        "bedrock_converse" => "bedrock",
        "cohere_chat" => "cohere",
        "fireworks_ai-embedding-models" => "fireworks_ai",
        other if other.starts_with("vertex_ai-") => "vertex_ai",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_provider_and_model() {
        let cases = [
            ("gpt-4o", "openai", "openai", "gpt-4o"),
            ("openai/container", "openai", "openai", "container"),
            ("azure/eu/gpt-4o", "azure", "azure.ai.openai", "eu/gpt-4o"),
            (
                "gemini/gemini-2.5-pro",
                "gemini",
                "gcp.gemini",
                "gemini-2.5-pro",
            ),
            (
                "gemini-2.5-pro",
                "vertex_ai-language-models",
                "gcp.vertex_ai",
                "gemini-2.5-pro",
            ),
            (
                "vertex_ai/claude-opus-4",
                "vertex_ai-anthropic_models",
                "gcp.vertex_ai",
                "claude-opus-4",
            ),
            (
                "bedrock/us-east-1/x.y",
                "bedrock",
                "aws.bedrock",
                "us-east-1/x.y",
            ),
            (
                "us.anthropic.claude",
                "bedrock_converse",
                "aws.bedrock",
                "us.anthropic.claude",
            ),
            (
                "openrouter/openai/gpt-4o",
                "openrouter",
                "openrouter",
                "openai/gpt-4o",
            ),
            ("xai/grok-4.6", "xai", "x_ai", "grok-4.6"),
            ("novita/deepseek/x", "novita", "novita", "deepseek/x"),
            (
                "low/1024-x-1024/gpt-image-1",
                "openai",
                "openai",
                "low/1024-x-1024/gpt-image-1",
            ),
        ];
        for (key, litellm, ours, name) in cases {
            assert_eq!(
                (provider(litellm), model(key, litellm)),
                (ours, name),
                "{key}"
            );
        }
    }
}
