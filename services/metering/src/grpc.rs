//! The contract `MeteringService`: convert, call, convert back. What this version does not answer
//! is refused before it gets here (`tokenmeter_identity::TABLE`).

use tokenmeter_api::convert::{event, item, time};
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_server::MeteringService;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::item::Item;
use tonic::{Request, Response, Status};

use crate::service::{Metering, Recorded};

/// [`Metering`] over gRPC.
pub struct Grpc(pub Metering);

#[tonic::async_trait]
impl MeteringService for Grpc {
    async fn record_usage(
        &self,
        request: Request<v1::RecordUsageRequest>,
    ) -> Result<Response<v1::RecordUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let draft = event::draft(request.into_inner().event.unwrap_or_default());
        let recorded = self
            .0
            .record(&caller, draft)
            .await
            .map_err(|error| within("event", error.into()))?;
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
        let results = results
            .into_iter()
            .map(|result| match result {
                Ok(recorded) => v1::record_result::Result::Recorded(recorded_usage(recorded)),
                Err(error) => v1::record_result::Result::Error(Failure::from(error).into()),
            })
            .map(|result| v1::RecordResult {
                result: Some(result),
            })
            .collect();
        Ok(Response::new(v1::BatchRecordUsageResponse { results }))
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
