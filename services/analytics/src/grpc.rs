//! The contract `AnalyticsService`: convert, call, convert back. What this version does not answer
//! is refused before it gets here (`tokenmeter_identity::TABLE`).

use futures_util::StreamExt as _;
use tokenmeter_api::convert::{event, time};
use tokenmeter_api::v1;
use tokenmeter_api::v1::analytics_service_server::AnalyticsService;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::totals::Totals;
use tokenmeter_store::ledger::{self, EventQuery, Latency, ModelTotals, Range, ServiceQuery};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::live::{Live, wire};
use crate::service::{Analytics, Interval};

/// Most statuses that filter a list: there are no more.
const MAX_STATUSES: usize = 3;
/// Most models in one answer.
const MAX_MODELS: usize = 1_000;

/// [`Analytics`] over gRPC.
pub struct Grpc {
    analytics: Analytics,
    live: Live,
    /// The ledger's epoch, which every position starts with.
    epoch: String,
}

impl Grpc {
    /// The service, with the epoch of its ledger.
    pub fn new(analytics: Analytics, live: Live, epoch: String) -> Self {
        Self {
            analytics,
            live,
            epoch,
        }
    }
}

#[tonic::async_trait]
impl AnalyticsService for Grpc {
    async fn get_user_usage(
        &self,
        request: Request<v1::GetUserUsageRequest>,
    ) -> Result<Response<v1::GetUserUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let intervals = intervals(&asked.intervals)?;
        let (user_id, answers, last_updated) = self
            .analytics
            .user_usage(&caller, &asked.user_id, &intervals)
            .await?;
        Ok(Response::new(v1::GetUserUsageResponse {
            user_id,
            intervals: answers
                .iter()
                .map(|answer| v1::IntervalUsage {
                    interval: from_interval(answer.interval).into(),
                    start_time: answer.range.map(|range| time::from_micros(range.from_us)),
                    end_time: answer.range.map(|range| time::from_micros(range.to_us)),
                    totals: Some((&answer.totals).into()),
                })
                .collect(),
            last_updated: last_updated.map(time::from_micros),
        }))
    }

    async fn get_session_usage(
        &self,
        request: Request<v1::GetSessionUsageRequest>,
    ) -> Result<Response<v1::GetSessionUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let session_id = request.into_inner().session_id;
        let session = self.analytics.session_usage(&caller, &session_id).await?;
        Ok(Response::new(v1::GetSessionUsageResponse {
            session_id,
            models: models(&session.models, session.totals.total()),
            totals: Some((&session.totals).into()),
            user_id: session.user_id,
            turns: session.turns,
            first_event_time: Some(time::from_micros(session.first_us)),
            last_event_time: Some(time::from_micros(session.last_us)),
            last_updated: Some(time::from_micros(session.totals.updated_at_us)),
        }))
    }

    async fn list_usage_events(
        &self,
        request: Request<v1::ListUsageEventsRequest>,
    ) -> Result<Response<v1::ListUsageEventsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let (page_size, page_token) = (asked.page_size, asked.page_token.clone());
        let query = event_query(asked)?;
        let (events, next) = self
            .analytics
            .events(&caller, query, page_size, &page_token)
            .await?;
        let events = events
            .into_iter()
            .map(|one| event::recorded_event(one, &self.epoch))
            .collect();
        let next_page_token = next.unwrap_or_default();
        Ok(Response::new(v1::ListUsageEventsResponse {
            events,
            next_page_token,
        }))
    }

    async fn get_service_usage(
        &self,
        request: Request<v1::GetServiceUsageRequest>,
    ) -> Result<Response<v1::GetServiceUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let query = ServiceQuery {
            range: asked.range.as_ref().map(range).transpose()?,
            provider: asked.provider,
            model: asked.model,
        };
        let usage = self.analytics.service_usage(&caller, &query).await?;
        let mut totals = Totals::default();
        for model in &usage.models {
            totals = totals.checked_add(&model.totals).ok_or_else(|| {
                Error::Ledger(ledger::Error::OutOfRange("the sum over all models".into()))
            })?;
        }
        let latency_of = |of: &tokenmeter_store::ledger::Latencies, model: &v1::ModelUsage| {
            of.models
                .get(&(model.provider.clone(), model.model.clone()))
                .map(latency)
        };
        let models: Vec<_> = models(&usage.models, totals.total())
            .into_iter()
            .take(MAX_MODELS)
            .map(|model| v1::ServiceModelUsage {
                response_time: latency_of(&usage.response_times, &model),
                time_to_first_token: latency_of(&usage.first_tokens, &model),
                usage: Some(model),
            })
            .collect();
        Ok(Response::new(v1::GetServiceUsageResponse {
            range: asked.range,
            totals: Some((&totals).into()),
            models_truncated: usage.models.len() > models.len(),
            models,
            response_time: Some(latency(&usage.response_times.all)),
            time_to_first_token: Some(latency(&usage.first_tokens.all)),
            users: usage.users,
            sessions: usage.sessions,
        }))
    }

    async fn stream_token_events(
        &self,
        request: Request<v1::StreamTokenEventsRequest>,
    ) -> Result<Response<BoxStream<v1::StreamTokenEventsResponse>>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let heartbeat = wire::interval(asked.heartbeat_interval)?;
        let filter = wire::asked(asked.filter)?;
        let items = self
            .live
            .subscribe(&caller, filter, &asked.resume_token, heartbeat)?;
        let epoch = self.epoch.clone();
        let responses = items.map(move |item| match item {
            Ok(item) => Ok(wire::response(item, &epoch)),
            Err(error) => Err(error.into()),
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn export_usage(
        &self,
        request: Request<v1::ExportUsageRequest>,
    ) -> Result<Response<BoxStream<v1::ExportUsageResponse>>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let format = wire::export_format(&asked)?;
        let wanted = wire::export_asked(&asked, format)?;
        let export = self.live.export(&caller, wanted, &asked.resume_token)?;
        Ok(Response::new(wire::export(
            export,
            format,
            self.epoch.clone(),
        )))
    }
}

/// The intervals asked for, each once; none means lifetime and the last 24 hours.
fn intervals(asked: &[i32]) -> Result<Vec<Interval>, Error> {
    if asked.is_empty() {
        return Ok(vec![Interval::Lifetime, Interval::Last24Hours]);
    }
    let mut intervals = Vec::new();
    for (n, number) in asked.iter().enumerate() {
        let interval = match v1::Interval::try_from(*number) {
            Ok(v1::Interval::LastHour) => Interval::LastHour,
            Ok(v1::Interval::Last24Hours) => Interval::Last24Hours,
            Ok(v1::Interval::Day) => Interval::Day,
            Ok(v1::Interval::Month) => Interval::Month,
            Ok(v1::Interval::Lifetime) => Interval::Lifetime,
            Ok(v1::Interval::Unspecified) | Err(_) => {
                let text = "is no interval; send one of Interval";
                return Err(Violation::new(format!("intervals[{n}]"), text).into());
            }
        };
        if !intervals.contains(&interval) {
            intervals.push(interval);
        }
    }
    Ok(intervals)
}

fn from_interval(interval: Interval) -> v1::Interval {
    match interval {
        Interval::LastHour => v1::Interval::LastHour,
        Interval::Last24Hours => v1::Interval::Last24Hours,
        Interval::Day => v1::Interval::Day,
        Interval::Month => v1::Interval::Month,
        Interval::Lifetime => v1::Interval::Lifetime,
    }
}

fn event_query(asked: v1::ListUsageEventsRequest) -> Result<EventQuery, Error> {
    if asked.statuses.len() > MAX_STATUSES {
        let text = format!(
            "{} statuses is too many; send each of EventStatus at most once",
            asked.statuses.len()
        );
        return Err(Violation::new("statuses", text).into());
    }
    let statuses = (0..)
        .zip(&asked.statuses)
        .map(|(n, number): (usize, _)| event::status_filter(&format!("statuses[{n}]"), *number))
        .collect::<Result<_, _>>()?;
    Ok(EventQuery {
        event_id: asked.event_id,
        user_id: asked.user_id,
        team_id: asked.team_id,
        session_id: asked.session_id,
        provider: asked.provider,
        model: asked.model,
        statuses,
        labels: asked
            .labels
            .into_iter()
            .map(|label| (label.key, label.value))
            .collect(),
        turn: asked.turn,
        unpriced_only: asked.unpriced_only,
        range: asked.range.as_ref().map(range).transpose()?,
        before: None,
        limit: 0,
    })
}

/// A range of times; an open end is open.
pub(crate) fn range(range: &v1::TimeRange) -> Result<Range, Error> {
    let read = |field: &str, at: &Option<_>, open: i64| match at {
        Some(at) => time::to_micros(field, at),
        None => Ok(open),
    };
    Ok(Range {
        from_us: read("range.start_time", &range.start_time, i64::MIN / 2)?,
        to_us: read("range.end_time", &range.end_time, i64::MAX / 2)?,
    })
}

/// Models with their share of the tokens, most tokens first.
fn models(models: &[ModelTotals], total: i64) -> Vec<v1::ModelUsage> {
    let mut sorted: Vec<_> = models.iter().collect();
    sorted.sort_by_key(|model| std::cmp::Reverse(model.totals.total()));
    sorted
        .into_iter()
        .map(|model| v1::ModelUsage {
            provider: model.provider.clone(),
            model: model.model.clone(),
            totals: Some((&model.totals).into()),
            token_share_ppm: share_ppm(model.totals.total(), total),
        })
        .collect()
}

/// Parts per million, rounded down; 0 of nothing.
fn share_ppm(part: i64, whole: i64) -> i64 {
    if whole == 0 {
        return 0;
    }
    i64::try_from(i128::from(part) * 1_000_000 / i128::from(whole)).unwrap_or_default()
}

fn latency(latency: &Latency) -> v1::Latency {
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
