//! Answers as the contract has them.

use tokenmeter_api::convert::time;
use tokenmeter_api::v1;

use crate::jobs::Job;
use crate::rollover::RolledOver;

pub(crate) fn rolled_over(done: RolledOver) -> v1::RolloverResponse {
    v1::RolloverResponse {
        period_id: done.period_id,
        users: done.users,
        already_closed: done.already_closed,
    }
}

pub(crate) fn job(job: Job) -> v1::Job {
    let next_start_time = Some(time::from_micros(job.next_us));
    let Some(state) = job.state else {
        return v1::Job {
            name: job.name,
            next_start_time,
            ..Default::default()
        };
    };
    v1::Job {
        name: job.name,
        running: state.running,
        node_id: state.node,
        last_start_time: Some(time::from_micros(state.last_start_us)),
        last_end_time: state.last_end_us.map(time::from_micros),
        last_succeeded: state.succeeded,
        next_start_time,
        last_detail: state.detail,
    }
}
