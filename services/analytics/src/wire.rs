//! Answers as the contract has them.

use tokenmeter_api::convert::{event, limit, money, time};
use tokenmeter_api::v1;
use tokenmeter_model::limit::Limit;
use tokenmeter_model::ratio;
use tokenmeter_model::totals::Totals;
use tokenmeter_store::ledger::limits::LimitHit;
use tokenmeter_store::ledger::periods::{Adjustment, AdjustmentKind, Consumption, Period};
use tokenmeter_store::ledger::reports::{Message, MessageItem, ToolUsage};
use tokenmeter_store::ledger::{Latency, ModelTotals, Range};

use crate::error::Error;
use crate::periods::{self, sum};
use crate::sessions::ListedSession;

/// Most tools, and most models, named in a session's summary.
const MAX_NAMES: usize = 64;
/// Most models of a period.
const MAX_PERIOD_MODELS: usize = 100;

/// Models with their share of the tokens, most tokens first.
pub(crate) fn models(models: &[ModelTotals], total: i64) -> Vec<v1::ModelUsage> {
    let mut sorted: Vec<_> = models.iter().collect();
    sorted.sort_by_key(|model| std::cmp::Reverse(model.totals.total()));
    sorted
        .into_iter()
        .map(|model| v1::ModelUsage {
            provider: model.provider.clone(),
            model: model.model.clone(),
            totals: Some((&model.totals).into()),
            token_share_ppm: ratio::ppm(model.totals.total(), total).unwrap_or_default(),
        })
        .collect()
}

pub(crate) fn latency(latency: &Latency) -> v1::Latency {
    let measured = |value: i64| (latency.measured > 0).then_some(value);
    v1::Latency {
        measured: latency.measured,
        mean_ms: measured(latency.mean_ms),
        p50_ms: measured(latency.p50_ms),
        p90_ms: measured(latency.p90_ms),
        p95_ms: measured(latency.p95_ms),
        p99_ms: measured(latency.p99_ms),
        max_ms: measured(latency.max_ms),
    }
}

pub(crate) fn day(day: periods::Period<Totals>) -> v1::DayUsage {
    v1::DayUsage {
        date: day.name,
        start_time: Some(time::from_micros(day.range.from_us)),
        end_time: Some(time::from_micros(day.range.to_us)),
        totals: Some((&day.usage).into()),
    }
}

pub(crate) fn month(month: periods::Period<Vec<ModelTotals>>) -> Result<v1::MonthUsage, Error> {
    let totals = sum(&month.usage)?;
    Ok(v1::MonthUsage {
        month: month.name,
        start_time: Some(time::from_micros(month.range.from_us)),
        end_time: Some(time::from_micros(month.range.to_us)),
        totals: Some((&totals).into()),
        models: models(&month.usage, totals.total()),
    })
}

pub(crate) fn efficiency(totals: &Totals) -> v1::CacheEfficiency {
    let (gross, extra) = (
        totals.cache_saving_nano_usd,
        totals.cache_write_extra_nano_usd,
    );
    v1::CacheEfficiency {
        prompt_tokens: totals.prompt(),
        read_tokens: totals.cache_read,
        write_tokens: totals.cache_write(),
        hit_rate_ppm: ratio::ppm(totals.cache_read, totals.prompt()),
        gross_saving: Some(money::from_nano_usd(gross)),
        write_extra: Some(money::from_nano_usd(extra)),
        net_saving: Some(money::from_nano_usd(gross.saturating_sub(extra))),
        unpriced_lines: totals.unpriced_lines,
    }
}

/// Efficiency by model, most prompt tokens first, at most `limit`.
pub(crate) fn efficiencies(models: &[ModelTotals], limit: usize) -> Vec<v1::ModelCacheEfficiency> {
    let mut sorted: Vec<_> = models.iter().collect();
    sorted.sort_by_key(|model| std::cmp::Reverse(model.totals.prompt()));
    sorted
        .into_iter()
        .take(limit)
        .map(|model| v1::ModelCacheEfficiency {
            provider: model.provider.clone(),
            model: model.model.clone(),
            efficiency: Some(efficiency(&model.totals)),
        })
        .collect()
}

pub(crate) fn session(session: ListedSession) -> Result<v1::SessionSummary, Error> {
    let ListedSession { summary, active } = session;
    let mut models: Vec<String> = Vec::new();
    for one in &summary.models {
        // Several providers may serve a model of one name.
        if models.len() < MAX_NAMES && !models.contains(&one.model) {
            models.push(one.model.clone());
        }
    }
    Ok(v1::SessionSummary {
        totals: Some((&sum(&summary.models)?).into()),
        session_id: summary.session_id,
        user_id: summary.user_id,
        turns: summary.turns,
        tool_invocations: summary.tools.iter().map(|(_, uses)| uses).sum(),
        tools: summary
            .tools
            .into_iter()
            .take(MAX_NAMES)
            .map(|(tool, _)| tool)
            .collect(),
        models,
        first_event_time: Some(time::from_micros(summary.first_us)),
        last_event_time: Some(time::from_micros(summary.last_us)),
        duration_ms: (summary.last_us - summary.first_us) / 1_000,
        active,
        messages: summary.messages,
    })
}

pub(crate) fn tool(tool: ToolUsage) -> v1::ToolUsage {
    v1::ToolUsage {
        tool: tool.tool,
        calls: tool.calls,
        succeeded: tool.succeeded,
        failed: tool.failed,
        cancelled: tool.cancelled,
        success_rate_ppm: ratio::ppm(tool.succeeded, tool.succeeded + tool.failed),
        duration: Some(latency(&tool.duration)),
        estimated_tokens: tool.estimated_tokens,
        last_start_time: Some(time::from_micros(tool.last_start_us)),
    }
}

pub(crate) fn period(period: Period) -> v1::Period {
    let range = period.month.range;
    v1::Period {
        period_id: period.month.id,
        as_closed: Some(consumption(range, &period.as_closed)),
        adjusted: Some(consumption(range, &period.adjusted)),
        adjustments: period.adjustments.into_iter().map(adjustment).collect(),
        closed_time: Some(time::from_micros(period.closed_at_us)),
    }
}

fn consumption(range: Range, consumption: &Consumption) -> v1::Consumption {
    let Consumption {
        totals,
        models: by_model,
        facts,
    } = consumption;
    let mut models = models(by_model, totals.total());
    models.truncate(MAX_PERIOD_MODELS);
    v1::Consumption {
        start_time: Some(time::from_micros(range.from_us)),
        end_time: Some(time::from_micros(range.to_us)),
        totals: Some(totals.into()),
        sessions: facts.sessions,
        judged_requests: facts.judged,
        judged_succeeded: facts.judged_succeeded,
        success_rate_ppm: ratio::ppm(facts.judged_succeeded, facts.judged),
        retrieval_stated: facts.retrieval_stated,
        retrieval_ran: facts.retrieval_ran,
        retrieval_activation_ppm: ratio::ppm(facts.retrieval_ran, facts.retrieval_stated),
        cases_retrieved: facts.cases_retrieved,
        champion_cases: facts.champion_cases,
        models,
        tool_invocations: facts.tool_invocations,
        // There are no quotas yet.
        overage_tokens: 0,
    }
}

fn adjustment(adjustment: Adjustment) -> v1::PeriodAdjustment {
    let kind = match adjustment.kind {
        AdjustmentKind::LateEvent => v1::AdjustmentKind::LateEvent,
        AdjustmentKind::Void => v1::AdjustmentKind::Void,
        AdjustmentKind::Reprice => v1::AdjustmentKind::Reprice,
    };
    v1::PeriodAdjustment {
        kind: kind.into(),
        event_id: adjustment.event_id,
        total_tokens: adjustment.tokens,
        cost: Some(money::from_nano_usd(adjustment.cost_nano_usd)),
        time: Some(time::from_micros(adjustment.at_us)),
    }
}

pub(crate) fn message(message: Message, epoch: &str) -> v1::MessageRecord {
    match message {
        Message::Item(item) => item_message(*item),
        Message::Event(recorded) => event_message(event::recorded_event(*recorded, epoch)),
    }
}

fn item_message(item: MessageItem) -> v1::MessageRecord {
    v1::MessageRecord {
        role: event::message_role(&item.role).into(),
        normalized_stop_reason: event::stop_reason(&item.stop_reason).into(),
        message_id: item.message_id,
        user_id: item.user_id,
        session_id: item.session_id,
        r#type: item.message_type,
        sequence: item.sequence,
        stop_reason: item.stop_reason,
        tool_use_id: item.tool_use_id,
        source_event_id: item.source_event_id,
        tokens: item.tokens,
        event_id: String::new(),
        lines: Vec::new(),
        time: Some(time::from_micros(item.time_us)),
        turn: item.turn,
        recorded_time: Some(time::from_micros(item.recorded_at_us)),
    }
}

fn event_message(event: v1::RecordedEvent) -> v1::MessageRecord {
    let facts = event.message.unwrap_or_default();
    let role = match facts.role() {
        v1::MessageRole::Unspecified => v1::MessageRole::Assistant,
        role => role,
    };
    v1::MessageRecord {
        message_id: match facts.message_id.is_empty() {
            true => event.event_id.clone(),
            false => facts.message_id,
        },
        user_id: event.user_id,
        session_id: event.session_id,
        role: role.into(),
        r#type: facts.r#type,
        sequence: facts.sequence,
        stop_reason: event.stop_reason,
        normalized_stop_reason: event.normalized_stop_reason,
        tool_use_id: facts.tool_use_id,
        source_event_id: facts.source_event_id,
        tokens: None,
        event_id: event.event_id,
        lines: event.lines,
        time: event.charge_time,
        turn: event.turn,
        recorded_time: event.recorded_time,
    }
}

/// Hits of one limit within a second, as it stood at the first of them.
pub(crate) fn hit(hit: LimitHit) -> v1::LimitHit {
    let of = Limit {
        name: hit.limit_name,
        scope: hit.scope,
        metric: hit.metric,
        window: hit.window,
        amount: hit.limit,
        enforcement: hit.enforcement,
        hard: hit.hard,
        alert_percents: Vec::new(),
        provider: String::new(),
        model: String::new(),
    };
    let state = limit::State {
        limit: &of,
        subject: &hit.subject,
        profile_id: &hit.profile_id,
        used: hit.used,
        held: hit.held,
        reset_us: None,
        exceeded: true,
        degraded: false,
    };
    v1::LimitHit {
        time: Some(time::from_micros(hit.second_us)),
        count: hit.count,
        state: Some(state.into()),
        cause: limit::refusal_cause(&of).into(),
        enforcement: v1::Enforcement::from(hit.enforcement).into(),
        user_id: hit.user_id,
        session_id: hit.session_id,
        model: hit.model,
    }
}
