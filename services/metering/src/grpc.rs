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

use crate::error::{Error, stream_end};
use crate::metrics::{self, Tally};
use crate::service::{Metering, Recorded};
use crate::stream::{self, End};

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
        let draft = event::draft(request.into_inner().event.unwrap_or_default());
        let result = self.0.record(&caller, draft).await;
        metrics::tell([&result]);
        let recorded = result.map_err(|error| within("event", error.into()))?;
        let recorded = Some(recorded_usage(recorded));
        Ok(Response::new(v1::RecordUsageResponse { recorded }))
    }

    async fn batch_record_usage(
        &self,
        request: Request<v1::BatchRecordUsageRequest>,
    ) -> Result<Response<v1::BatchRecordUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let drafts = request
            .into_inner()
            .events
            .into_iter()
            .map(event::draft)
            .collect();
        let results = self
            .0
            .record_batch(&caller, drafts)
            .await
            .map_err(Failure::from)?;
        metrics::tell(&results);
        let results = results.into_iter().map(record_result).collect();
        Ok(Response::new(v1::BatchRecordUsageResponse { results }))
    }

    async fn stream_usage(
        &self,
        request: Request<Streaming<v1::StreamUsageRequest>>,
    ) -> Result<Response<BoxStream<v1::StreamUsageResponse>>, Status> {
        let caller = Caller::of(request.extensions())?.clone();
        let place = self.1.streams.open()?;
        let max_message_bytes = self.1.max_message_bytes;
        let messages = request
            .into_inner()
            .map(|message| message.map(|message| message.events));
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
            ..Default::default()
        }))
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
    events: Vec<v1::StreamedEvent>,
    tally: Arc<Mutex<Tally>>,
) -> Vec<v1::StreamedResult> {
    let (sequences, drafts): (Vec<_>, Vec<_>) = events
        .into_iter()
        .map(|one| {
            let draft = one.event.map(event::draft);
            (one.sequence, stream::numbered(one.sequence, draft))
        })
        .unzip();
    let results: Vec<_> = match metering.record_streamed(&caller, drafts).await {
        Ok(results) => {
            locked(&tally).add(&Tally::of(&results));
            results.into_iter().map(record_result).collect()
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

fn record_result(result: Result<Recorded, Error>) -> v1::RecordResult {
    let result = match result {
        Ok(recorded) => v1::record_result::Result::Recorded(recorded_usage(recorded)),
        Err(error) => v1::record_result::Result::Error(Failure::from(error).into()),
    };
    v1::RecordResult {
        result: Some(result),
    }
}

/// Puts the name of the enclosing field before every field of a failure.
fn within(field: &str, mut failure: Failure) -> Status {
    for (path, _) in &mut failure.violations {
        *path = format!("{field}.{path}");
    }
    failure.into()
}

fn outcome(duplicate: bool) -> v1::RecordOutcome {
    match duplicate {
        true => v1::RecordOutcome::Duplicate,
        false => v1::RecordOutcome::Recorded,
    }
}

fn recorded_usage(recorded: Recorded) -> v1::RecordedUsage {
    let sums = event::sums(&recorded.event.lines, &recorded.quotes);
    // This version gives out no holds, so whatever is named is not known.
    let reservation_id = recorded.event.reservation_id;
    let settlement = (!reservation_id.is_empty()).then(|| v1::Settlement {
        reservation_id,
        state: v1::SettlementState::UnknownReservation.into(),
        ..Default::default()
    });
    v1::RecordedUsage {
        settlement,
        outcome: outcome(recorded.duplicate).into(),
        event_id: recorded.event.event_id,
        lines: sums.lines,
        counts: Some(sums.counts),
        prompt_tokens: sums.prompt_tokens,
        total_tokens: sums.total_tokens,
        cost: sums.cost,
        unpriced_lines: sums.unpriced_lines,
        recorded_time: Some(time::from_micros(recorded.recorded_at_us)),
        charge_time: Some(time::from_micros(recorded.charge_time_us)),
        ..Default::default()
    }
}
