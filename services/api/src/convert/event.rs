//! Usage events: the contract's message to the model's draft, and what stands recorded back.

use tokenmeter_model::bounds::{Kind, Violation};
use tokenmeter_model::counts::{Line, TokenCounts};
use tokenmeter_model::event::{
    Draft, Event, MessageFacts, ProviderUsage, Recorded, RetrievalFacts, Status, Thinking, Usage,
};
use tokenmeter_model::price::Quote;
use tokenmeter_model::provider::StopReason;
use tokenmeter_model::tier::ServiceTier;

use super::{counts, money, time};
use crate::v1;

/// Reads an event as received.
///
/// # Errors
/// Every field that cannot be read, such as a timestamp that is none.
pub fn draft(event: v1::UsageEvent) -> Result<Draft, Vec<Violation>> {
    let mut out = Vec::new();
    let request_time_us = event.request_time.and_then(|at| {
        time::to_micros("request_time", &at)
            .map_err(|violation| out.push(violation))
            .ok()
    });
    let status = status(event.status, &mut out);
    let mut labels: Vec<_> = event
        .labels
        .into_iter()
        .map(|label| (label.key, label.value))
        .collect();
    labels.sort_unstable();
    let usage = match event.usage {
        Some(v1::usage_event::Usage::Lines(lines)) => {
            Some(Usage::Lines(read_lines(lines.lines, &mut out)))
        }
        Some(v1::usage_event::Usage::ProviderUsage(usage)) => {
            Some(Usage::Provider(provider_usage(usage, &mut out)))
        }
        None => {
            let text = "is required; send lines or provider_usage";
            out.push(Violation::new("usage", text).kind(Kind::UsageMissing));
            None
        }
    };
    let message = event.message.map(|facts| message(facts, &mut out));
    if !out.is_empty() {
        return Err(out);
    }
    Ok(Draft {
        event: Event {
            event_id: event.event_id,
            user_id: event.user_id,
            team_id: event.team_id,
            session_id: event.session_id,
            turn: event.turn,
            provider: event.provider,
            request_time_us,
            reservation_id: event.reservation_id.unwrap_or_default(),
            lines: Vec::new(),
            status,
            latency_ms: event.latency_ms,
            time_to_first_token_ms: event.time_to_first_token_ms,
            labels,
            thinking: event.thinking.map(|thinking| Thinking {
                enabled: thinking.enabled,
                budget_tokens: thinking.budget_tokens,
            }),
            service_tier: event.service_tier,
            inference_region: event.inference_region,
            stop_reason: event.stop_reason,
            message,
            retrieval: event.retrieval.map(|retrieval| RetrievalFacts {
                retrieval_ran: retrieval.retrieval_ran,
                cases_retrieved: retrieval.cases_retrieved,
                succeeded: retrieval.succeeded,
            }),
        },
        usage,
    })
}

fn read_lines(lines: Vec<v1::UsageLine>, out: &mut Vec<Violation>) -> Vec<Line> {
    let mut read = Vec::with_capacity(lines.len().min(tokenmeter_model::bounds::MAX_LINES + 1));
    for (n, line) in lines.into_iter().enumerate() {
        match counts::line(&format!("lines.lines[{n}]"), line) {
            Ok(line) => read.push(line),
            Err(violation) => out.push(violation),
        }
    }
    read
}

fn provider_usage(usage: v1::ProviderUsage, out: &mut Vec<Violation>) -> ProviderUsage {
    let streamed = !usage.stream_usage_json.is_empty();
    if streamed != usage.usage_json.is_empty() {
        let text = "send exactly one of usage_json and stream_usage_json";
        out.push(Violation::new("provider_usage", text));
    }
    for (field, value) in [
        ("provider_usage.provider", &usage.provider),
        ("provider_usage.api", &usage.api),
        ("provider_usage.model", &usage.model),
    ] {
        tokenmeter_model::bounds::text(field, value, out);
    }
    ProviderUsage {
        provider: usage.provider,
        api: usage.api,
        model: usage.model,
        documents: if streamed {
            usage.stream_usage_json
        } else {
            vec![usage.usage_json]
        },
        streamed,
    }
}

fn message(facts: v1::MessageFacts, out: &mut Vec<Violation>) -> MessageFacts {
    let role = match facts.role() {
        v1::MessageRole::Unspecified if facts.role != 0 => {
            out.push(Violation::new(
                "message.role",
                "is no role; send one of MessageRole",
            ));
            ""
        }
        v1::MessageRole::Unspecified => "",
        v1::MessageRole::User => "user",
        v1::MessageRole::Assistant => "assistant",
        v1::MessageRole::Tool => "tool",
        v1::MessageRole::System => "system",
    };
    MessageFacts {
        message_id: facts.message_id,
        role: role.to_owned(),
        message_type: facts.r#type,
        sequence: facts.sequence,
        tool_use_id: facts.tool_use_id,
        source_event_id: facts.source_event_id,
    }
}

fn status(number: i32, out: &mut Vec<Violation>) -> Status {
    match v1::EventStatus::try_from(number) {
        Ok(v1::EventStatus::Unspecified | v1::EventStatus::Succeeded) => Status::Succeeded,
        Ok(v1::EventStatus::Failed) => Status::Failed,
        Ok(v1::EventStatus::Interrupted) => Status::Interrupted,
        Err(_) => {
            out.push(Violation::new(
                "status",
                "is no status; send one of EventStatus",
            ));
            Status::Succeeded
        }
    }
}

/// Reads a status that filters; unspecified does not filter.
///
/// # Errors
/// A violation of `field` when the number is no status.
pub fn status_filter(field: &str, number: i32) -> Result<Status, Violation> {
    let mut out = Vec::new();
    let status = status(number, &mut out);
    match (number, out.is_empty()) {
        (1.., true) => Ok(status),
        _ => Err(Violation::new(
            field,
            "is no status; send one of EventStatus, not unspecified",
        )),
    }
}

/// A status of the contract.
pub fn event_status(status: Status) -> v1::EventStatus {
    match status {
        Status::Succeeded => v1::EventStatus::Succeeded,
        Status::Failed => v1::EventStatus::Failed,
        Status::Interrupted => v1::EventStatus::Interrupted,
    }
}

/// What the lines of an event come to.
pub struct Sums {
    /// The lines with their costs.
    pub lines: Vec<v1::RecordedLine>,
    /// Counts over all lines.
    pub counts: v1::TokenCounts,
    /// Prompt tokens over all lines.
    pub prompt_tokens: i64,
    /// Total tokens over all lines.
    pub total_tokens: i64,
    /// Cost of the priced lines; none when no line is priced.
    pub cost: Option<v1::Money>,
    /// Lines without a price.
    pub unpriced_lines: i32,
}

/// Adds up the lines of an event.
pub fn sums(lines: &[Line], quotes: &[Option<Quote>]) -> Sums {
    let mut total = TokenCounts::default();
    let mut cost: Option<i64> = None;
    let mut unpriced_lines = 0;
    let mut recorded = Vec::with_capacity(lines.len());
    for (n, line) in lines.iter().enumerate() {
        let quote = quotes.get(n).copied().flatten();
        total.add(&line.counts);
        match quote {
            Some(quote) => *cost.get_or_insert(0) += quote.cost_nano_usd,
            None => unpriced_lines += 1,
        }
        recorded.push(recorded_line(line, quote));
    }
    Sums {
        lines: recorded,
        counts: total.into(),
        prompt_tokens: total.prompt(),
        total_tokens: total.total(),
        cost: cost.map(money::from_nano_usd),
        unpriced_lines,
    }
}

fn recorded_line(line: &Line, quote: Option<Quote>) -> v1::RecordedLine {
    v1::RecordedLine {
        model: line.model.clone(),
        counts: Some(line.counts.into()),
        tool_requests: counts::tool_requests(line.tool_requests.clone()),
        cost: quote.map(|quote| money::from_nano_usd(quote.cost_nano_usd)),
        price_version: quote.map(|quote| quote.price_version),
        cache_saving: quote.map(|quote| money::from_nano_usd(quote.cache_saving_nano_usd)),
        cache_write_extra: quote
            .map(|quote| money::from_nano_usd(quote.cache_write_extra_nano_usd)),
    }
}

/// An event as lists show it; `epoch` is the ledger's, with which positions start.
pub fn recorded_event(recorded: Recorded, epoch: &str) -> v1::RecordedEvent {
    let Recorded {
        position,
        event,
        quotes,
        charge_time_us,
        recorded_at_us,
        api_key_id,
        voided,
    } = recorded;
    let position = format!("{epoch}-{position}");
    let (voided_at_us, void_reason) = voided.map(|voided| (voided.at_us, voided.reason)).unzip();
    let sums = sums(&event.lines, &quotes);
    let tier = ServiceTier::served(&event.provider, &event.service_tier);
    v1::RecordedEvent {
        request_time: event.request_time_us.map(time::from_micros),
        recorded_time: Some(time::from_micros(recorded_at_us)),
        charge_time: Some(time::from_micros(charge_time_us)),
        position,
        lines: sums.lines,
        counts: Some(sums.counts),
        prompt_tokens: sums.prompt_tokens,
        total_tokens: sums.total_tokens,
        cost: sums.cost,
        unpriced_lines: sums.unpriced_lines,
        status: event_status(event.status).into(),
        normalized_service_tier: v1::ServiceTier::from(tier).into(),
        normalized_stop_reason: stop_reason(&event.stop_reason).into(),
        event_id: event.event_id,
        user_id: event.user_id,
        team_id: event.team_id,
        session_id: event.session_id,
        turn: event.turn,
        provider: event.provider,
        reservation_id: event.reservation_id,
        latency_ms: event.latency_ms,
        time_to_first_token_ms: event.time_to_first_token_ms,
        labels: event
            .labels
            .into_iter()
            .map(|(key, value)| v1::Label { key, value })
            .collect(),
        thinking: event.thinking.map(|thinking| v1::Thinking {
            enabled: thinking.enabled,
            budget_tokens: thinking.budget_tokens,
        }),
        service_tier: event.service_tier,
        inference_region: event.inference_region,
        stop_reason: event.stop_reason,
        message: event.message.map(message_facts),
        retrieval: event.retrieval.map(|retrieval| v1::RetrievalFacts {
            retrieval_ran: retrieval.retrieval_ran,
            cases_retrieved: retrieval.cases_retrieved,
            succeeded: retrieval.succeeded,
        }),
        api_key_id,
        voided: voided_at_us.is_some(),
        voided_time: voided_at_us.map(time::from_micros),
        void_reason: void_reason.unwrap_or_default(),
        ..Default::default()
    }
}

fn message_facts(facts: MessageFacts) -> v1::MessageFacts {
    v1::MessageFacts {
        message_id: facts.message_id,
        role: message_role(&facts.role).into(),
        r#type: facts.message_type,
        sequence: facts.sequence,
        tool_use_id: facts.tool_use_id,
        source_event_id: facts.source_event_id,
    }
}

/// Who wrote a message, from the name in ledgers; any other is not stated.
pub fn message_role(name: &str) -> v1::MessageRole {
    match name {
        "user" => v1::MessageRole::User,
        "assistant" => v1::MessageRole::Assistant,
        "tool" => v1::MessageRole::Tool,
        "system" => v1::MessageRole::System,
        _ => v1::MessageRole::Unspecified,
    }
}

/// A provider's word for why the model stopped, in words common to all; unspecified if it is empty.
pub fn stop_reason(word: &str) -> v1::StopReason {
    if word.is_empty() {
        return v1::StopReason::Unspecified;
    }
    match StopReason::from_provider(word) {
        StopReason::EndTurn => v1::StopReason::EndTurn,
        StopReason::MaxTokens => v1::StopReason::MaxTokens,
        StopReason::StopSequence => v1::StopReason::StopSequence,
        StopReason::ToolUse => v1::StopReason::ToolUse,
        StopReason::ContentFilter => v1::StopReason::ContentFilter,
        StopReason::Refusal => v1::StopReason::Refusal,
        StopReason::PauseTurn => v1::StopReason::PauseTurn,
        StopReason::Error => v1::StopReason::Error,
        StopReason::Other => v1::StopReason::Other,
    }
}
