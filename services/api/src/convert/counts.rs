//! Token counts and lines.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use tokenmeter_model::bounds::Violation;
use tokenmeter_model::counts::{CacheWrites, Line, TokenCounts};

use crate::v1;

impl From<CacheWrites> for v1::CacheWrites {
    fn from(writes: CacheWrites) -> Self {
        let CacheWrites {
            ttl_5m,
            ttl_30m,
            ttl_1h,
            ttl_12h,
            unspecified,
        } = writes;
        Self {
            ttl_5m,
            ttl_30m,
            ttl_1h,
            ttl_12h,
            unspecified,
        }
    }
}

impl From<v1::CacheWrites> for CacheWrites {
    fn from(writes: v1::CacheWrites) -> Self {
        let v1::CacheWrites {
            ttl_5m,
            ttl_30m,
            ttl_1h,
            ttl_12h,
            unspecified,
        } = writes;
        Self {
            ttl_5m,
            ttl_30m,
            ttl_1h,
            ttl_12h,
            unspecified,
        }
    }
}

impl From<TokenCounts> for v1::TokenCounts {
    fn from(counts: TokenCounts) -> Self {
        Self {
            input: counts.input,
            cache_read: counts.cache_read,
            cache_write: (counts.cache_write != CacheWrites::default())
                .then(|| counts.cache_write.into()),
            output: counts.output,
            reasoning: counts.reasoning,
            input_audio: counts.input_audio,
            input_image: counts.input_image,
            tool_use_prompt: counts.tool_use_prompt,
            cache_read_audio: counts.cache_read_audio,
            output_audio: counts.output_audio,
            output_image: counts.output_image,
        }
    }
}

impl From<v1::TokenCounts> for TokenCounts {
    fn from(counts: v1::TokenCounts) -> Self {
        Self {
            input: counts.input,
            cache_read: counts.cache_read,
            cache_write: counts.cache_write.map(Into::into).unwrap_or_default(),
            output: counts.output,
            reasoning: counts.reasoning,
            input_audio: counts.input_audio,
            input_image: counts.input_image,
            tool_use_prompt: counts.tool_use_prompt,
            cache_read_audio: counts.cache_read_audio,
            output_audio: counts.output_audio,
            output_image: counts.output_image,
        }
    }
}

/// A caller's line; `field` is its path in the request. A tool that is named twice is refused,
/// because the model holds each once. All other bounds are left to `Line::check`.
pub fn line(field: &str, line: v1::UsageLine) -> Result<Line, Violation> {
    let mut tool_requests = BTreeMap::new();
    for (index, request) in line.tool_requests.into_iter().enumerate() {
        match tool_requests.entry(request.tool) {
            Entry::Vacant(entry) => {
                entry.insert(request.requests);
            }
            Entry::Occupied(_) => {
                return Err(Violation::new(
                    format!("{field}.tool_requests[{index}].tool"),
                    "is named twice; send one entry per tool",
                ));
            }
        }
    }
    Ok(Line {
        model: line.model,
        counts: line.counts.map(Into::into).unwrap_or_default(),
        tool_requests,
    })
}

impl From<Line> for v1::UsageLine {
    fn from(line: Line) -> Self {
        Self {
            model: line.model,
            counts: Some(line.counts.into()),
            tool_requests: tool_requests(line.tool_requests),
        }
    }
}

/// Tool requests as the wire has them, sorted by tool.
pub fn tool_requests(requests: BTreeMap<String, i64>) -> Vec<v1::ToolRequests> {
    requests
        .into_iter()
        .map(|(tool, requests)| v1::ToolRequests { tool, requests })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distinct() -> TokenCounts {
        TokenCounts {
            input: 1,
            cache_read: 2,
            cache_write: CacheWrites {
                ttl_5m: 3,
                ttl_30m: 4,
                ttl_1h: 5,
                ttl_12h: 6,
                unspecified: 7,
            },
            output: 8,
            reasoning: 9,
            input_audio: 10,
            input_image: 11,
            tool_use_prompt: 12,
            cache_read_audio: 13,
            output_audio: 14,
            output_image: 15,
        }
    }

    #[test]
    fn every_count_survives_a_round_trip() {
        let sent = Line {
            model: "claude".into(),
            counts: distinct(),
            tool_requests: [("web_fetch".to_owned(), 2), ("web_search".to_owned(), 1)].into(),
        };
        assert_eq!(line("lines[0]", sent.clone().into()), Ok(sent));
        assert_eq!(
            v1::TokenCounts::from(TokenCounts::default()).cache_write,
            None
        );
    }

    #[test]
    fn a_tool_named_twice_is_refused_with_its_path() {
        let twice = v1::ToolRequests {
            tool: "web_search".into(),
            requests: 1,
        };
        let sent = v1::UsageLine {
            tool_requests: vec![twice.clone(), twice],
            ..Default::default()
        };
        let violation = line("lines.lines[3]", sent).unwrap_err();
        assert_eq!(violation.field, "lines.lines[3].tool_requests[1].tool");
    }
}
