//! `tokenmeter rollover` and `tokenmeter jobs`.

use serde::Serialize;
use tokenmeter_api::v1;

use super::connect::ClientArgs;
use super::corrections::fresh_id;
use super::error::Error;
use super::render::{self, count};
use super::{Output, time};

/// Which month to close.
#[derive(Debug, clap::Args)]
pub(crate) struct RolloverArgs {
    /// The month, as 2026-07; without it the last one.
    #[arg(
        long,
        value_name = "MONTH",
        default_value = "",
        hide_default_value = true
    )]
    period: String,
    /// Say what would be closed, and close nothing.
    #[arg(long)]
    dry_run: bool,
    /// What makes the command safe to repeat. If absent, every run is its own; a month that is closed
    /// stays as it is either way.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

#[derive(Serialize)]
struct RolloverJson<'a> {
    dry_run: bool,
    period_id: &'a str,
    users: i64,
    already_closed: i64,
}

/// Runs `tokenmeter rollover`.
pub(crate) async fn rollover(
    args: RolloverArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let request = v1::RolloverRequest {
        request_id: args.request_id.unwrap_or_else(|| fresh_id("rollover")),
        period_id: args.period,
        dry_run: args.dry_run,
    };
    let mut service = client.connect().await?.admin();
    let answer = service.rollover(request).await?.into_inner();
    match output {
        Output::Json => render::json(&RolloverJson {
            dry_run: args.dry_run,
            period_id: &answer.period_id,
            users: answer.users,
            already_closed: answer.already_closed,
        }),
        Output::Table => render::line(&rolled_over(&answer, args.dry_run)),
    }
}

/// What was closed, for people.
fn rolled_over(answer: &v1::RolloverResponse, dry_run: bool) -> String {
    format!(
        "{}: periods of {} users {}, {} were closed before",
        answer.period_id,
        count(answer.users),
        if dry_run {
            "would be closed"
        } else {
            "were closed"
        },
        count(answer.already_closed),
    )
}

#[derive(Serialize)]
struct JobsJson<'a> {
    jobs: Vec<JobJson<'a>>,
}

#[derive(Serialize)]
struct JobJson<'a> {
    name: &'a str,
    running: bool,
    node_id: &'a str,
    last_start_time: Option<String>,
    last_end_time: Option<String>,
    last_succeeded: Option<bool>,
    next_start_time: Option<String>,
    last_detail: &'a str,
}

/// Runs `tokenmeter jobs`.
pub(crate) async fn list(client: &ClientArgs, output: Output) -> Result<(), Error> {
    let mut service = client.connect().await?.admin();
    let request = v1::ListJobsRequest {};
    let jobs = service.list_jobs(request).await?.into_inner().jobs;
    if output == Output::Json {
        let jobs = jobs.iter().map(|job| JobJson {
            name: &job.name,
            running: job.running,
            node_id: &job.node_id,
            last_start_time: time::format(job.last_start_time.as_ref()),
            last_end_time: time::format(job.last_end_time.as_ref()),
            last_succeeded: job.last_succeeded,
            next_start_time: time::format(job.next_start_time.as_ref()),
            last_detail: &job.last_detail,
        });
        return render::json(&JobsJson {
            jobs: jobs.collect(),
        });
    }
    let mut table = render::table(&["job", "state", "node", "began", "ended", "next", "detail"]);
    for job in &jobs {
        table.add_row(vec![
            job.name.clone(),
            state(job).to_owned(),
            job.node_id.clone(),
            time::text(job.last_start_time.as_ref()),
            time::text(job.last_end_time.as_ref()),
            time::text(job.next_start_time.as_ref()),
            job.last_detail.clone(),
        ]);
    }
    render::line(&table.to_string())
}

/// How a job is, in a word.
fn state(job: &v1::Job) -> &'static str {
    match (job.running, job.last_succeeded) {
        (true, _) => "running",
        (false, Some(true)) => "done",
        (false, Some(false)) => "failed",
        (false, None) => "never ended",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollover_says_what_it_closed() {
        let answer = v1::RolloverResponse {
            period_id: "2026-07".into(),
            users: 1_200,
            already_closed: 3,
        };
        assert_eq!(
            rolled_over(&answer, false),
            "2026-07: periods of 1,200 users were closed, 3 were closed before"
        );
        assert!(rolled_over(&answer, true).contains("users would be closed"));
    }
}
