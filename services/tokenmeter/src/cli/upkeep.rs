//! `tokenmeter reconcile` and `tokenmeter purge`: totals held against events, and old events dropped.

use std::time::{Duration, Instant};

use prost_types::Timestamp;
use serde::Serialize;
use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1::{self, ErrorReason};

use super::connect::{Client, ClientArgs};
use super::corrections::fresh_id;
use super::error::Error;
use super::render::{self, count, name, nano_usd, usd_of};
use super::{Output, time};

/// How long a run is waited for, whatever a single request may take.
const LONGEST_RUN: Duration = Duration::from_secs(3_600);
/// How long to wait before asking for the answer of a run that is under way again.
const PAUSE: Duration = Duration::from_secs(1);
/// Drifts that are shown to people.
const SHOWN: usize = 50;

/// What to reconcile, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct ReconcileArgs {
    /// Correct drift below 5 %; without it nothing is changed.
    #[arg(long)]
    fix: bool,
    /// The totals of one user only.
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// What makes the run safe to repeat. If absent, every run is its own.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

#[derive(Serialize)]
struct ReconcileJson<'a> {
    reconcile_id: &'a str,
    totals_checked: i64,
    counters_checked: i64,
    drift_count: i64,
    corrected: i64,
    flagged: i64,
    drifts: Vec<DriftJson<'a>>,
}

#[derive(Serialize)]
struct DriftJson<'a> {
    drift_id: &'a str,
    kind: &'a str,
    subject: &'a str,
    field: &'a str,
    recorded: i64,
    computed: i64,
    drift_ppm: Option<i64>,
    state: String,
}

impl<'a> DriftJson<'a> {
    fn new(drift: &'a v1::Drift) -> Self {
        Self {
            drift_id: &drift.drift_id,
            kind: &drift.kind,
            subject: drift.subject.as_ref().map_or("", |one| &one.id),
            field: &drift.field,
            recorded: drift.recorded,
            computed: drift.computed,
            drift_ppm: drift.drift_ppm,
            state: name("DRIFT_STATE_", drift.state().as_str_name()),
        }
    }
}

/// Runs `tokenmeter reconcile`. Fails if any drift stays.
pub(crate) async fn reconcile(
    args: ReconcileArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let client = client.connect().await?;
    let request = v1::ReconcileRequest {
        request_id: args.request_id.unwrap_or_else(|| fresh_id("reconcile")),
        fix: args.fix,
        user_id: args.user,
    };
    let answer = reconciled(&client, &request).await?;
    match output {
        Output::Json => render::json(&ReconcileJson {
            reconcile_id: &answer.reconcile_id,
            totals_checked: answer.totals_checked,
            counters_checked: answer.counters_checked,
            drift_count: answer.drift_count,
            corrected: answer.corrected,
            flagged: answer.flagged,
            drifts: answer.drifts.iter().map(DriftJson::new).collect(),
        })?,
        Output::Table => render::line(&found(&answer))?,
    }
    match answer.drift_count == answer.corrected {
        true => Ok(()),
        false => Err(Error::Reported),
    }
}

/// Sends the same request until the run has come to its end: it goes on when a request ends.
async fn reconciled(
    client: &Client,
    request: &v1::ReconcileRequest,
) -> Result<v1::ReconcileResponse, Error> {
    let mut service = client.admin();
    let started = Instant::now();
    loop {
        let status = match service.reconcile(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        let reason = failure_of(&status).map(|failure| failure.reason);
        if reason != Some(ErrorReason::JobRunning) || started.elapsed() > LONGEST_RUN {
            return Err(status.into());
        }
        render::note("a reconciliation is under way; waiting for its end");
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a run found, for people.
fn found(answer: &v1::ReconcileResponse) -> String {
    let mut text = String::new();
    if !answer.drifts.is_empty() {
        let mut table = render::table(&[
            "drift",
            "total",
            "subject",
            "field",
            "#recorded",
            "#computed",
            "#drift",
            "state",
        ]);
        for drift in answer.drifts.iter().take(SHOWN) {
            let json = DriftJson::new(drift);
            table.add_row(vec![
                json.drift_id.to_owned(),
                json.kind.to_owned(),
                json.subject.to_owned(),
                json.field.to_owned(),
                count(json.recorded),
                count(json.computed),
                json.drift_ppm.map_or_else(String::new, percent),
                json.state,
            ]);
        }
        text = format!("{table}\n");
    }
    text.push_str(&format!(
        "{} totals checked: {} fields differ, {} were corrected, {} wait for review",
        count(answer.totals_checked),
        count(answer.drift_count),
        count(answer.corrected),
        count(answer.flagged),
    ));
    text
}

/// Millionths as per cent, such as `1.25 %`.
fn percent(ppm: i64) -> String {
    let text = format!("{}.{:04}", ppm / 10_000, ppm % 10_000);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// What to drop.
#[derive(Debug, clap::Args)]
pub(crate) struct PurgeArgs {
    /// Events charged before this time (RFC 3339, or a date in UTC), as far as whole months of UTC
    /// are. If absent, as retention says, which it may not be later than.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    before: Option<Timestamp>,
    /// Say what would be dropped, and drop nothing.
    #[arg(long)]
    dry_run: bool,
    /// What makes the run safe to repeat. If absent, every run is its own.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// What a run dropped, all of its requests together.
#[derive(Debug, Default, Serialize)]
struct PurgeJson {
    dry_run: bool,
    events: i64,
    other_rows: i64,
    sealed_tokens: i64,
    sealed_cost_nano_usd: i64,
    oldest_kept_time: Option<String>,
}

impl PurgeJson {
    fn add(&mut self, answer: &v1::PurgeResponse) {
        let sealed = answer.sealed.as_ref();
        let cost = sealed.and_then(|sealed| nano_usd(sealed.cost.as_ref()));
        self.events += answer.events;
        self.other_rows += answer.other_rows;
        self.sealed_tokens += sealed.map_or(0, |sealed| sealed.total_tokens);
        self.sealed_cost_nano_usd += cost.unwrap_or_default();
        self.oldest_kept_time = time::format(answer.oldest_kept_time.as_ref());
    }
}

/// Runs `tokenmeter purge`: sends the same request until nothing is left to drop.
pub(crate) async fn purge(
    args: PurgeArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let mut service = client.connect().await?.admin();
    let request = v1::PurgeRequest {
        request_id: args.request_id.unwrap_or_else(|| fresh_id("purge")),
        before: args.before,
        dry_run: args.dry_run,
    };
    let mut sum = PurgeJson {
        dry_run: args.dry_run,
        ..PurgeJson::default()
    };
    loop {
        let answer = service.purge(request.clone()).await?.into_inner();
        sum.add(&answer);
        if answer.complete {
            break;
        }
        render::note(&format!("{} events dropped so far", count(sum.events)));
    }
    match output {
        Output::Json => render::json(&sum),
        Output::Table => render::line(&purged(&sum)),
    }
}

/// What a run dropped, for people.
fn purged(sum: &PurgeJson) -> String {
    let were = if sum.dry_run { "would be" } else { "were" };
    format!(
        "{} events and {} other rows {were} dropped; {} tokens and {} {were} sealed; {}",
        count(sum.events),
        count(sum.other_rows),
        count(sum.sealed_tokens),
        usd_of(sum.sealed_cost_nano_usd),
        match &sum.oldest_kept_time {
            Some(time) => format!("the oldest event kept is of {time}"),
            None => "no event is kept".to_owned(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmeter_api::convert::money::from_nano_usd;

    #[test]
    fn a_reconciliation_shows_what_differs() {
        let answer = v1::ReconcileResponse {
            totals_checked: 1_200,
            drift_count: 2,
            corrected: 1,
            flagged: 1,
            drifts: vec![v1::Drift {
                drift_id: "drift-7".into(),
                kind: "user_total".into(),
                subject: Some(v1::Subject {
                    scope: v1::LimitScope::User.into(),
                    id: "ada".into(),
                }),
                field: "output".into(),
                recorded: 1_125,
                computed: 1_000,
                drift_ppm: Some(125_000),
                state: v1::DriftState::Flagged.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = found(&answer);
        for part in [
            "drift-7",
            "ada",
            "1,125",
            "12.5 %",
            "flagged",
            "1,200 totals checked",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(percent(1), "0.0001 %");
        assert_eq!(percent(2_000_000), "200 %");
    }

    #[test]
    fn requests_of_one_purge_are_added_up() {
        let answer = v1::PurgeResponse {
            events: 700,
            other_rows: 3,
            sealed: Some(v1::UsageTotals {
                total_tokens: 50,
                cost: Some(from_nano_usd(1_500_000_000)),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut sum = PurgeJson::default();
        sum.add(&answer);
        sum.add(&answer);
        let text = purged(&sum);
        assert!(text.starts_with("1,400 events and 6 other rows were dropped"));
        assert!(text.contains("100 tokens and $3 were sealed"), "{text}");
        assert!(text.ends_with("no event is kept"));
    }
}
