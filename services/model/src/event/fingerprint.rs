//! The fingerprint that tells a retry from a conflict (R2).

use super::Event;
use crate::fingerprint::Canonical;
pub use crate::fingerprint::{FINGERPRINT_BYTES, FINGERPRINT_VERSION, Fingerprint};

impl Event {
    /// The fingerprint of the payload: the version of the rule, then half a SHA-256 over every
    /// field the caller supplied. What the server fills in (times, costs, positions) is left out,
    /// so a retry has the same fingerprint for ever. Usage counts as its disjoint counts: two
    /// spellings of one provider response are one payload.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = Canonical::new();
        for text in [
            &self.event_id,
            &self.user_id,
            &self.team_id,
            &self.session_id,
            &self.provider,
            &self.reservation_id,
            &self.service_tier,
            &self.inference_region,
            &self.stop_reason,
        ] {
            hash.text(text);
        }
        hash.text(self.status.as_str());
        for number in [
            self.turn,
            self.request_time_us,
            self.latency_ms,
            self.time_to_first_token_ms,
        ] {
            hash.optional(number);
        }
        hash.length(self.lines.len());
        for line in &self.lines {
            hash.text(&line.model);
            for (_, count) in line.counts.named() {
                hash.number(count);
            }
            hash.length(line.tool_requests.len());
            for (tool, requests) in &line.tool_requests {
                hash.text(tool);
                hash.number(*requests);
            }
        }
        hash.length(self.labels.len());
        for (key, value) in &self.labels {
            hash.text(key);
            hash.text(value);
        }
        self.hash_facts(&mut hash);
        hash.finish()
    }

    fn hash_facts(&self, hash: &mut Canonical) {
        hash.optional(self.thinking.map(|thinking| i64::from(thinking.enabled)));
        hash.optional(self.thinking.and_then(|thinking| thinking.budget_tokens));
        hash.optional(self.message.as_ref().map(|_| 1));
        if let Some(message) = &self.message {
            for text in [
                &message.message_id,
                &message.role,
                &message.message_type,
                &message.tool_use_id,
                &message.source_event_id,
            ] {
                hash.text(text);
            }
            hash.optional(message.sequence);
        }
        hash.optional(
            self.retrieval
                .map(|retrieval| i64::from(retrieval.retrieval_ran)),
        );
        if let Some(retrieval) = self.retrieval {
            hash.number(retrieval.cases_retrieved);
            hash.optional(retrieval.succeeded.map(i64::from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::{Line, TokenCounts};
    use crate::event::{MessageFacts, RetrievalFacts, Status, Thinking};

    const NOW: i64 = 1_790_000_000_000_000;

    fn event() -> Event {
        Event {
            event_id: "msg_01".into(),
            user_id: "u".into(),
            provider: "anthropic".into(),
            lines: vec![Line {
                model: "m".into(),
                counts: TokenCounts {
                    input: 3,
                    output: 2,
                    ..Default::default()
                },
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_fingerprint_sees_every_field() {
        let base = event();
        let mut line = base.lines[0].clone();
        line.counts.cache_write.ttl_1h = 1;
        let variants = [
            Event {
                user_id: "v".into(),
                ..base.clone()
            },
            Event {
                team_id: "t".into(),
                ..base.clone()
            },
            Event {
                session_id: "t".into(),
                ..base.clone()
            },
            Event {
                turn: Some(0),
                ..base.clone()
            },
            Event {
                request_time_us: Some(NOW),
                ..base.clone()
            },
            Event {
                status: Status::Failed,
                ..base.clone()
            },
            Event {
                latency_ms: Some(0),
                ..base.clone()
            },
            Event {
                time_to_first_token_ms: Some(0),
                ..base.clone()
            },
            Event {
                labels: vec![("a".into(), "b".into())],
                ..base.clone()
            },
            Event {
                labels: vec![("ab".into(), String::new())],
                ..base.clone()
            },
            Event {
                thinking: Some(Thinking::default()),
                ..base.clone()
            },
            Event {
                thinking: Some(Thinking {
                    enabled: true,
                    budget_tokens: None,
                }),
                ..base.clone()
            },
            Event {
                message: Some(MessageFacts::default()),
                ..base.clone()
            },
            Event {
                retrieval: Some(RetrievalFacts::default()),
                ..base.clone()
            },
            Event {
                service_tier: "batch".into(),
                ..base.clone()
            },
            Event {
                lines: vec![line],
                ..base.clone()
            },
            Event {
                lines: vec![base.lines[0].clone(), base.lines[0].clone()],
                ..base.clone()
            },
        ];
        let mut seen = vec![base.fingerprint()];
        for variant in &variants {
            let fingerprint = variant.fingerprint();
            assert!(!seen.contains(&fingerprint), "{variant:?}");
            seen.push(fingerprint);
        }
        assert_eq!(base.fingerprint(), event().fingerprint());
        assert_eq!(base.fingerprint()[0], FINGERPRINT_VERSION);
    }
}
