//! The contract `MeteringService`: convert, call, convert back. What this version does not answer
//! is refused before it gets here (`tokenmeter_identity::TABLE`).

use tokenmeter_api::convert::{event, time};
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1;
use tokenmeter_api::v1::metering_service_server::MeteringService;
use tokenmeter_identity::Caller;
use tonic::{Request, Response, Status};

use crate::metrics;
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
}

/// Puts the name of the enclosing field before every field of a failure.
fn within(field: &str, mut failure: Failure) -> Status {
    for (path, _) in &mut failure.violations {
        *path = format!("{field}.{path}");
    }
    failure.into()
}

fn recorded_usage(recorded: Recorded) -> v1::RecordedUsage {
    let outcome = if recorded.duplicate {
        v1::RecordOutcome::Duplicate
    } else {
        v1::RecordOutcome::Recorded
    };
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
        outcome: outcome.into(),
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
