//! The contract `AnalyticsService`: convert, call, convert back. What this version does not answer
//! is refused before it gets here (`tokenmeter_identity::TABLE`).

use futures_util::StreamExt as _;
use tokenmeter_api::convert::{event, limit, time};
use tokenmeter_api::v1;
use tokenmeter_api::v1::analytics_service_server::AnalyticsService;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::Violation;
use tokenmeter_store::ledger::limits::HitQuery;
use tokenmeter_store::ledger::reports::{Part, SessionOrder, SessionQuery, ToolQuery};
use tokenmeter_store::ledger::{EventQuery, Range, ServiceQuery};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::live::{self, Live};
use crate::periods::{PeriodQuery, sum};
use crate::service::{Analytics, Interval};
use crate::wire::{self, latency, models};

/// Most statuses that filter a list: there are no more.
const MAX_STATUSES: usize = 3;
/// Most models in one answer.
const MAX_MODELS: usize = 1_000;
/// Most models of a user's current period.
const MAX_CURRENT_MODELS: usize = 100;

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
        let totals = sum(&usage.models)?;
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

    async fn list_monthly_usage(
        &self,
        request: Request<v1::ListMonthlyUsageRequest>,
    ) -> Result<Response<v1::ListMonthlyUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let query = PeriodQuery {
            user_id: asked.user_id,
            range: asked.range.as_ref().map(range).transpose()?,
            page_size: asked.page_size,
            page_token: asked.page_token,
        };
        let (months, next) = self.analytics.monthly(&caller, &query).await?;
        Ok(Response::new(v1::ListMonthlyUsageResponse {
            months: months
                .into_iter()
                .map(wire::month)
                .collect::<Result<_, _>>()?,
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn list_usage_history(
        &self,
        request: Request<v1::ListUsageHistoryRequest>,
    ) -> Result<Response<v1::ListUsageHistoryResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let query = PeriodQuery {
            user_id: asked.user_id,
            range: asked.range.as_ref().map(range).transpose()?,
            page_size: asked.page_size,
            page_token: asked.page_token,
        };
        let (days, next) = self.analytics.history(&caller, &query).await?;
        Ok(Response::new(v1::ListUsageHistoryResponse {
            days: days.into_iter().map(wire::day).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn get_current_usage(
        &self,
        request: Request<v1::GetCurrentUsageRequest>,
    ) -> Result<Response<v1::GetCurrentUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let (user_id, range, models) = self.analytics.current(&caller, &asked.user_id).await?;
        let totals = sum(&models)?;
        let mut models = wire::models(&models, totals.total());
        models.truncate(MAX_CURRENT_MODELS);
        Ok(Response::new(v1::GetCurrentUsageResponse {
            user_id,
            start_time: Some(time::from_micros(range.from_us)),
            end_time: Some(time::from_micros(range.to_us)),
            totals: Some((&totals).into()),
            // There are no limits and profiles yet.
            quotas: Vec::new(),
            profile_id: String::new(),
            cache: Some(wire::efficiency(&totals)),
            models,
        }))
    }

    async fn get_cache_efficiency(
        &self,
        request: Request<v1::GetCacheEfficiencyRequest>,
    ) -> Result<Response<v1::GetCacheEfficiencyResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let part = Part {
            user_id: asked.user_id,
            session_id: asked.session_id,
            model: asked.model,
            range: asked.range.as_ref().map(range).transpose()?,
        };
        let models = self.analytics.by_model(&caller, part).await?;
        Ok(Response::new(v1::GetCacheEfficiencyResponse {
            efficiency: Some(wire::efficiency(&sum(&models)?)),
            models: wire::efficiencies(&models, MAX_MODELS),
        }))
    }

    async fn list_top_sessions(
        &self,
        request: Request<v1::ListTopSessionsRequest>,
    ) -> Result<Response<v1::ListTopSessionsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let query = SessionQuery {
            range: asked.range.as_ref().map(range).transpose()?,
            order: session_order(asked.order_by)?,
            user_id: asked.user_id,
            ..SessionQuery::default()
        };
        let (sessions, next) = self
            .analytics
            .top_sessions(&caller, query, asked.page_size, &asked.page_token)
            .await?;
        Ok(Response::new(v1::ListTopSessionsResponse {
            sessions: sessions
                .into_iter()
                .map(wire::session)
                .collect::<Result<_, _>>()?,
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn list_session_summaries(
        &self,
        request: Request<v1::ListSessionSummariesRequest>,
    ) -> Result<Response<v1::ListSessionSummariesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let last_event = asked.range.as_ref().map(range).transpose()?;
        let (sessions, next) = self
            .analytics
            .session_summaries(
                &caller,
                asked.user_id,
                last_event,
                asked.active_only,
                asked.page_size,
                &asked.page_token,
            )
            .await?;
        Ok(Response::new(v1::ListSessionSummariesResponse {
            sessions: sessions
                .into_iter()
                .map(wire::session)
                .collect::<Result<_, _>>()?,
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn list_tool_usage(
        &self,
        request: Request<v1::ListToolUsageRequest>,
    ) -> Result<Response<v1::ListToolUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let query = ToolQuery {
            range: asked.range.as_ref().map(range).transpose()?,
            user_id: asked.user_id,
            session_id: asked.session_id,
            tool: asked.tool,
        };
        let (tools, next) = self
            .analytics
            .tool_usage(&caller, query, asked.page_size, &asked.page_token)
            .await?;
        Ok(Response::new(v1::ListToolUsageResponse {
            tools: tools.into_iter().map(wire::tool).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn list_periods(
        &self,
        request: Request<v1::ListPeriodsRequest>,
    ) -> Result<Response<v1::ListPeriodsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let (periods, next) = self
            .analytics
            .closed(&caller, &asked.user_id, asked.page_size, &asked.page_token)
            .await?;
        Ok(Response::new(v1::ListPeriodsResponse {
            periods: periods.into_iter().map(wire::period).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn list_messages(
        &self,
        request: Request<v1::ListMessagesRequest>,
    ) -> Result<Response<v1::ListMessagesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let (messages, next) = self
            .analytics
            .messages(
                &caller,
                &asked.session_id,
                asked.page_size,
                &asked.page_token,
            )
            .await?;
        Ok(Response::new(v1::ListMessagesResponse {
            messages: messages
                .into_iter()
                .map(|one| wire::message(one, &self.epoch))
                .collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn list_limit_hits(
        &self,
        request: Request<v1::ListLimitHitsRequest>,
    ) -> Result<Response<v1::ListLimitHitsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let query = HitQuery {
            scope: limit::scope_filter("scope", asked.scope).map_err(Error::from)?,
            range: asked.range.as_ref().map(range).transpose()?,
            user_id: asked.user_id,
            subject: asked.subject,
            limit_name: asked.limit_name,
            ..HitQuery::default()
        };
        let (hits, next) = self
            .analytics
            .limit_hits(&caller, query, asked.page_size, &asked.page_token)
            .await?;
        Ok(Response::new(v1::ListLimitHitsResponse {
            hits: hits.into_iter().map(wire::hit).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }

    async fn stream_token_events(
        &self,
        request: Request<v1::StreamTokenEventsRequest>,
    ) -> Result<Response<BoxStream<v1::StreamTokenEventsResponse>>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let heartbeat = live::wire::interval(asked.heartbeat_interval)?;
        let filter = live::wire::asked(asked.filter)?;
        let items = self
            .live
            .subscribe(&caller, filter, &asked.resume_token, heartbeat)
            .await?;
        let epoch = self.epoch.clone();
        let responses = items.map(move |item| match item {
            Ok(item) => Ok(live::wire::response(item, &epoch)),
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
        let format = live::wire::export_format(&asked)?;
        let wanted = live::wire::export_asked(&asked, format)?;
        let export = self
            .live
            .export(&caller, wanted, &asked.resume_token)
            .await?;
        Ok(Response::new(live::wire::export(
            export,
            format,
            self.epoch.clone(),
        )))
    }
}

/// The order of top sessions.
fn session_order(number: i32) -> Result<SessionOrder, Error> {
    match v1::SessionOrder::try_from(number) {
        Ok(v1::SessionOrder::Unspecified | v1::SessionOrder::TotalTokens) => {
            Ok(SessionOrder::Tokens)
        }
        Ok(v1::SessionOrder::Cost) => Ok(SessionOrder::Cost),
        Err(_) => {
            let text = "is no order; send one of SessionOrder";
            Err(Violation::new("order_by", text).into())
        }
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
