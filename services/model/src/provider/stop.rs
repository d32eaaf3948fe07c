//! Why generation stopped (R5): the provider's own word, normalised.

use serde::{Deserialize, Serialize};

/// The normalised stop reason; the provider's own word is kept beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model finished by itself.
    EndTurn,
    /// A limit of output or context tokens was reached.
    MaxTokens,
    /// A stop sequence of the request was generated.
    StopSequence,
    /// The model asks for a tool to be run.
    ToolUse,
    /// A filter or guardrail cut the answer.
    ContentFilter,
    /// The model or its classifier declined.
    Refusal,
    /// The provider paused a long turn, to be continued.
    PauseTurn,
    /// The provider failed, or the output was malformed.
    Error,
    /// A word this version does not know.
    Other,
}

impl StopReason {
    /// Every value, in the order of the contract's enum.
    pub const ALL: [Self; 9] = [
        Self::EndTurn,
        Self::MaxTokens,
        Self::StopSequence,
        Self::ToolUse,
        Self::ContentFilter,
        Self::Refusal,
        Self::PauseTurn,
        Self::Error,
        Self::Other,
    ];

    /// The name in ledgers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndTurn => "end_turn",
            Self::MaxTokens => "max_tokens",
            Self::StopSequence => "stop_sequence",
            Self::ToolUse => "tool_use",
            Self::ContentFilter => "content_filter",
            Self::Refusal => "refusal",
            Self::PauseTurn => "pause_turn",
            Self::Error => "error",
            Self::Other => "other",
        }
    }

    /// Reads a provider's own word, case and separators aside.
    pub fn from_provider(word: &str) -> Self {
        let word = word.to_ascii_lowercase().replace('-', "_");
        match word.as_str() {
            "end_turn" | "stop" | "completed" | "complete" | "finish" | "finished" | "eos"
            | "eos_token" => Self::EndTurn,
            "max_tokens"
            | "max_output_tokens"
            | "length"
            | "model_length"
            | "model_context_window_exceeded" => Self::MaxTokens,
            "stop_sequence" | "stop_criteria_met" => Self::StopSequence,
            "tool_use" | "tool_calls" | "tool_call" | "function_call" | "requires_action" => {
                Self::ToolUse
            }
            "content_filter"
            | "content_filtered"
            | "guardrail_intervened"
            | "safety"
            | "recitation"
            | "language"
            | "blocklist"
            | "prohibited_content"
            | "spii"
            | "image_safety"
            | "image_prohibited_content"
            | "image_recitation"
            | "error_toxic" => Self::ContentFilter,
            "refusal" => Self::Refusal,
            "pause_turn" | "compaction" => Self::PauseTurn,
            "error"
            | "failed"
            | "malformed_function_call"
            | "malformed_model_output"
            | "malformed_tool_use"
            | "unexpected_tool_call"
            | "too_many_tool_calls"
            | "insufficient_system_resource"
            | "timeout" => Self::Error,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip_and_provider_words_are_known() {
        for reason in StopReason::ALL {
            assert_eq!(StopReason::from_provider(reason.as_str()), reason);
        }
        let cases = [
            ("STOP", StopReason::EndTurn),
            ("COMPLETE", StopReason::EndTurn),
            ("length", StopReason::MaxTokens),
            ("MAX_TOKENS", StopReason::MaxTokens),
            ("tool_calls", StopReason::ToolUse),
            ("SAFETY", StopReason::ContentFilter),
            ("guardrail_intervened", StopReason::ContentFilter),
            ("MALFORMED_FUNCTION_CALL", StopReason::Error),
            ("tomorrow", StopReason::Other),
        ];
        for (word, reason) in cases {
            assert_eq!(StopReason::from_provider(word), reason, "{word}");
        }
    }
}
