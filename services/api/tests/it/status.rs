//! Failures survive the way over the wire.

use std::time::Duration;

use tokenmeter_api::status::{Failure, code_of, failure_of, name_of, reason_of};
use tokenmeter_api::v1::ErrorReason;
use tonic::{Code, Status};

#[test]
fn a_failure_survives_the_round_trip() {
    let failure = Failure::new(ErrorReason::FieldInvalid, "two fields are out of bounds")
        .violation("event.event_id", "is required; send 1 to 255 bytes")
        .violation("event.turn", "-1 is out of bounds")
        .retry_after(Duration::from_millis(1_500))
        .resource("event", "msg_01")
        .metadata("oldest_accepted_time", "2026-07-01T00:00:00Z");
    let status = Status::from(failure.clone());
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(failure_of(&status), Some(failure));
}

#[test]
fn a_status_of_others_is_none_of_ours() {
    assert_eq!(failure_of(&Status::internal("x")), None);
}

#[test]
fn every_reason_has_a_name_that_leads_back() {
    for number in 0..200 {
        let Ok(reason) = ErrorReason::try_from(number) else {
            continue;
        };
        assert!(!name_of(reason).starts_with("ERROR_REASON"));
        assert_eq!(reason_of(name_of(reason)), Some(reason));
        assert_ne!(code_of(reason), Code::Ok);
    }
    assert_eq!(reason_of("OF_TOMORROW"), None);
}
