//! Delivery to the store: the same events again until each has an outcome, or patience ends.

use std::time::Duration;

use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_api::v1::record_result::Result as Outcome;
use tonic::Status;

use crate::cli::error::{Error, describe};
use crate::cli::retry::{Retry, is_too_large, may_pass};

/// What an import needs of a server.
pub(super) trait Store {
    /// Records events; one result each, in their order.
    async fn record(&self, events: Vec<v1::UsageEvent>) -> Result<Vec<v1::RecordResult>, Status>;
    /// Lists recorded events.
    async fn list(
        &self,
        request: v1::ListUsageEventsRequest,
    ) -> Result<v1::ListUsageEventsResponse, Status>;
    /// Which user an empty user means.
    async fn caller(&self) -> Result<String, Status>;
}

/// Delivers events: one outcome each, in their order. Outcomes that may change with a retry are
/// not among them.
pub(super) async fn deliver<S: Store>(
    store: &S,
    retry: &Retry,
    events: &[v1::UsageEvent],
) -> Result<Vec<Outcome>, Error> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; events.len()];
    let mut open: Vec<usize> = (0..events.len()).collect();
    let mut most = events.len();
    let mut patience = retry.patience();
    while !open.is_empty() {
        let part: Vec<usize> = open.iter().copied().take(most).collect();
        let request = part.iter().map(|n| events[*n].clone()).collect();
        match store.record(request).await {
            Ok(results) => {
                if results.len() != part.len() {
                    let text = "the server answered another number of results than it was asked";
                    return Err(Error::Input(text.into()));
                }
                let refused = take(&part, results, &mut outcomes)?;
                open.retain(|n| outcomes[*n].is_none());
                match refused {
                    Some((cause, asked)) => patience.pause(&cause, asked).await?,
                    None => patience.success(),
                }
            }
            Err(status) if is_too_large(&status) => {
                if most == 1 {
                    outcomes[part[0]] = Some(Outcome::Error(v1::ItemError {
                        reason: ErrorReason::MessageTooLarge.into(),
                        message: "the event is larger than the server takes".into(),
                        ..Default::default()
                    }));
                    open.remove(0);
                }
                most = (part.len() / 2).max(1);
            }
            Err(status) if may_pass(&status) => {
                let asked = failure_of(&status).and_then(|failure| failure.retry_after);
                patience.pause(&describe(&status), asked).await?;
            }
            Err(status) => return Err(status.into()),
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// Files the results of the events `part`. Answers why the first that may pass was refused, and
/// how long to wait.
fn take(
    part: &[usize],
    results: Vec<v1::RecordResult>,
    outcomes: &mut [Option<Outcome>],
) -> Result<Option<(String, Option<Duration>)>, Error> {
    let mut refused = None;
    for (n, result) in part.iter().zip(results) {
        match result.result {
            Some(Outcome::Error(error)) if error.retryable => {
                let after = error.retry_after_ms.and_then(|ms| u64::try_from(ms).ok());
                refused.get_or_insert((error.message, after.map(Duration::from_millis)));
            }
            Some(outcome) => outcomes[*n] = Some(outcome),
            None => {
                let text = "the server answered an outcome that this version does not know";
                return Err(Error::Input(text.into()));
            }
        }
    }
    Ok(refused)
}
