//! The contract `MeteringService`: convert, call, convert back. What this version does not answer
//! is refused before it gets here (`tokenmeter_identity::TABLE`).

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt as _;
use tokenmeter_api::codec;
use tokenmeter_api::convert::{event, item, time};
use tokenmeter_api::status::Failure;
use tokenmeter_api::streams::Streams;
use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_server::MeteringService;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::item::Item;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Span;

use crate::admission::BudgetChange;
use crate::error::stream_end;
use crate::metrics::{self, Tally};
use crate::service::Metering;
use crate::stream::{self, End};
use crate::wire::admission::{self, limits};
use crate::wire::budget::token_budget;
use crate::wire::ratelimit;
use crate::wire::record::{outcome, record_result, recorded_usage};

/// [`Metering`] over gRPC, and what its streams need.
pub struct Grpc(pub Metering, pub StreamSettings);

/// What streams of events need beside the service.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// The places of open streams, shared with every other streaming RPC of the node.
    pub streams: Streams,
    /// How long results wait for a reader, and when the server stops.
    pub rules: stream::Rules,
    /// Largest message that the server takes, in bytes.
    pub max_message_bytes: usize,
}

#[tonic::async_trait]
impl MeteringService for Grpc {
    async fn record_usage(
        &self,
        request: Request<v1::RecordUsageRequest>,
    ) -> Result<Response<v1::RecordUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let draft = event::draft(asked.event.unwrap_or_default());
        let result = self.0.record(&caller, draft, asked.include_limits).await;
        metrics::tell([&result]);
        let recorded = result.map_err(|error| within("event", error.into()))?;
        let recorded = Some(recorded_usage(&caller.tenant, recorded));
        Ok(Response::new(v1::RecordUsageResponse { recorded }))
    }

    async fn batch_record_usage(
        &self,
        request: Request<v1::BatchRecordUsageRequest>,
    ) -> Result<Response<v1::BatchRecordUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let drafts = asked.events.into_iter().map(event::draft).collect();
        let results = self
            .0
            .record_batch(&caller, drafts, asked.include_limits)
            .await
            .map_err(Failure::from)?;
        metrics::tell(&results);
        let results = results
            .into_iter()
            .map(|result| record_result(&caller.tenant, result))
            .collect();
        Ok(Response::new(v1::BatchRecordUsageResponse { results }))
    }

    async fn stream_usage(
        &self,
        request: Request<Streaming<v1::StreamUsageRequest>>,
    ) -> Result<Response<BoxStream<v1::StreamUsageResponse>>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let place = self.1.streams.open()?;
        let max_message_bytes = self.1.max_message_bytes;
        // Whether limits are asked for is one bit of the message; it goes with each of its events.
        let messages = request.into_inner().map(|message| {
            message.map(|message| {
                let limits = message.include_limits;
                let events = message.events.into_iter();
                events.map(|event| (event, limits)).collect::<Vec<_>>()
            })
        });
        let metering = self.0.clone();
        let (call, tally) = (Span::current(), Arc::new(Mutex::new(Tally::default())));
        let told = Arc::clone(&tally);
        let record =
            move |events| streamed(metering.clone(), caller.clone(), events, Arc::clone(&tally));
        let answers = stream::open(messages, record, self.1.rules.clone(), place);
        let answers = answers.filter_map(move |answer| {
            if answer.is_err() {
                locked(&told).tell(&call);
            }
            ready(match answer {
                Ok(results) => Some(Ok(v1::StreamUsageResponse { results })),
                Err(End::Unreadable(status)) => {
                    Some(Err(codec::unreadable(status, max_message_bytes)))
                }
                Err(end) => stream_end(&end).map(|failure| Err(failure.into())),
            })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn void_usage(
        &self,
        request: Request<v1::VoidUsageRequest>,
    ) -> Result<Response<v1::VoidUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let voided = self
            .0
            .void(&caller, asked.request_id, asked.event_id, asked.reason)
            .await
            .map_err(Failure::from)?;
        let event = voided.event;
        let sums = event::sums(&event.event.lines, &event.quotes);
        Ok(Response::new(v1::VoidUsageResponse {
            event_id: event.event.event_id,
            already_voided: voided.already,
            voided_time: event.voided.map(|voided| time::from_micros(voided.at_us)),
            counts: Some(sums.counts),
            cost: sums.cost,
            adjusted_period_id: voided.adjusted_period.unwrap_or_default(),
            limits: limits(&caller.tenant, &voided.states),
        }))
    }

    async fn authorize(
        &self,
        request: Request<v1::AuthorizeRequest>,
    ) -> Result<Response<v1::AuthorizeResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = admission::authorize(request.into_inner()).map_err(Failure::from)?;
        let decided = self.0.admission().authorize(&caller, asked).await;
        let decided = decided.map_err(Failure::from)?;
        metrics::count_decision(decided.refusal.is_none());
        let mut answer = Response::new(v1::AuthorizeResponse::default());
        ratelimit::put(answer.metadata_mut(), &decided, (self.0.clock)());
        *answer.get_mut() = admission::authorization(&caller.tenant, decided);
        Ok(answer)
    }

    async fn extend_reservation(
        &self,
        request: Request<v1::ExtendReservationRequest>,
    ) -> Result<Response<v1::ExtendReservationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = admission::extend(request.into_inner()).map_err(Failure::from)?;
        let decided = self.0.admission().extend(&caller, asked).await;
        let decided = decided.map_err(Failure::from)?;
        Ok(Response::new(admission::extended(&caller.tenant, decided)))
    }

    async fn release_reservation(
        &self,
        request: Request<v1::ReleaseReservationRequest>,
    ) -> Result<Response<v1::ReleaseReservationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let (hold, states) = self
            .0
            .admission()
            .release(&caller, &asked.request_id, &asked.reservation_id)
            .await
            .map_err(Failure::from)?;
        Ok(Response::new(v1::ReleaseReservationResponse {
            hold: Some(admission::hold(&hold)),
            limits: limits(&caller.tenant, &states),
        }))
    }

    async fn get_token_budget(
        &self,
        request: Request<v1::GetTokenBudgetRequest>,
    ) -> Result<Response<v1::GetTokenBudgetResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let session_id = request.into_inner().session_id;
        let budget = self.0.admission().budget(&caller, &session_id).await;
        let budget = Some(token_budget(budget.map_err(Failure::from)?));
        Ok(Response::new(v1::GetTokenBudgetResponse { budget }))
    }

    async fn set_token_budget(
        &self,
        request: Request<v1::SetTokenBudgetRequest>,
    ) -> Result<Response<v1::SetTokenBudgetResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let change = BudgetChange::Set {
            budget_max: asked.budget_max,
            enforced: asked.enforced,
            summarize_below_percent: asked.summarize_below_percent,
        };
        let budget = self
            .0
            .admission()
            .change_budget(&caller, &asked.request_id, &asked.session_id, change)
            .await
            .map_err(Failure::from)?;
        let budget = Some(token_budget(budget));
        Ok(Response::new(v1::SetTokenBudgetResponse { budget }))
    }

    async fn reset_token_budget(
        &self,
        request: Request<v1::ResetTokenBudgetRequest>,
    ) -> Result<Response<v1::ResetTokenBudgetResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let change = BudgetChange::Reset {
            restore_default: asked.restore_default,
        };
        let budget = self
            .0
            .admission()
            .change_budget(&caller, &asked.request_id, &asked.session_id, change)
            .await
            .map_err(Failure::from)?;
        let budget = Some(token_budget(budget));
        Ok(Response::new(v1::ResetTokenBudgetResponse { budget }))
    }

    async fn record_tool_invocations(
        &self,
        request: Request<v1::RecordToolInvocationsRequest>,
    ) -> Result<Response<v1::RecordToolInvocationsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let items = request.into_inner().invocations;
        let items = items.into_iter().map(item::tool).collect();
        let results = self.record_items(&caller, "invocations", items).await?;
        Ok(Response::new(v1::RecordToolInvocationsResponse { results }))
    }

    async fn record_messages(
        &self,
        request: Request<v1::RecordMessagesRequest>,
    ) -> Result<Response<v1::RecordMessagesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let items = request.into_inner().messages;
        let items = items.into_iter().map(item::message).collect();
        let results = self.record_items(&caller, "messages", items).await?;
        Ok(Response::new(v1::RecordMessagesResponse { results }))
    }

    async fn record_champion_cases(
        &self,
        request: Request<v1::RecordChampionCasesRequest>,
    ) -> Result<Response<v1::RecordChampionCasesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let items = request.into_inner().reports;
        let items = items.into_iter().map(item::champion).collect();
        let results = self.record_items(&caller, "reports", items).await?;
        Ok(Response::new(v1::RecordChampionCasesResponse { results }))
    }
}

impl Grpc {
    async fn record_items(
        &self,
        caller: &Caller,
        field: &'static str,
        items: Vec<Result<Item, Vec<Violation>>>,
    ) -> Result<Vec<v1::ItemResult>, Failure> {
        let results = self.0.record_items(caller, field, items).await?;
        let results = results.into_iter().map(|result| v1::ItemResult {
            result: Some(match result {
                Ok(recorded) => v1::item_result::Result::Recorded(v1::ItemRecorded {
                    outcome: outcome(recorded.duplicate).into(),
                    id: recorded.id,
                    recorded_time: Some(time::from_micros(recorded.recorded_at_us)),
                }),
                Err(error) => v1::item_result::Result::Error(Failure::from(error).into()),
            }),
        });
        Ok(results.collect())
    }
}

/// Records a message of a stream: one result an event, whatever becomes of the message.
async fn streamed(
    metering: Metering,
    caller: Caller,
    events: Vec<(v1::StreamedEvent, bool)>,
    tally: Arc<Mutex<Tally>>,
) -> Vec<v1::StreamedResult> {
    let include_limits = events.first().is_some_and(|(_, limits)| *limits);
    let (sequences, drafts): (Vec<_>, Vec<_>) = events
        .into_iter()
        .map(|(one, _)| {
            let draft = one.event.map(event::draft);
            (one.sequence, stream::numbered(one.sequence, draft))
        })
        .unzip();
    let results = metering
        .record_streamed(&caller, drafts, include_limits)
        .await;
    let results: Vec<_> = match results {
        Ok(results) => {
            locked(&tally).add(&Tally::of(&results));
            results
                .into_iter()
                .map(|result| record_result(&caller.tenant, result))
                .collect()
        }
        Err(error) => {
            let error: v1::ItemError = Failure::from(error).into();
            let result = Some(v1::record_result::Result::Error(error));
            vec![v1::RecordResult { result }; sequences.len()]
        }
    };
    sequences
        .into_iter()
        .zip(results)
        .map(|(sequence, result)| v1::StreamedResult {
            sequence,
            result: Some(result),
        })
        .collect()
}

/// A tally is whole at any moment, so a panic elsewhere leaves it readable.
fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the name of the enclosing field before every field of a failure.
fn within(field: &str, mut failure: Failure) -> Status {
    for (path, _) in &mut failure.violations {
        *path = format!("{field}.{path}");
    }
    failure.into()
}
