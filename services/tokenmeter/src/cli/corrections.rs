//! `tokenmeter void` and `tokenmeter reprice`: what stands in the ledger, put right.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IsTerminal as _, Write as _};

use prost_types::Timestamp;
use serde::Serialize;
use tokenmeter_api::v1;
use tokenmeter_model::counts::TokenCounts;
use tokenmeter_model::money::format_nano_usd;

use super::connect::{Client, ClientArgs};
use super::error::Error;
use super::prices::request_id;
use super::render::{self, count, nano_usd, usd_of};
use super::usage::range;
use super::{Output, time};

/// Which event to void, and why.
#[derive(Debug, clap::Args)]
pub(crate) struct VoidArgs {
    /// The event's id.
    event_id: String,
    /// Why, for the audit trail.
    #[arg(long)]
    reason: String,
    /// What makes the request safe to repeat. If absent, made from event and reason.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

#[derive(Serialize)]
struct VoidJson<'a> {
    event_id: &'a str,
    already_voided: bool,
    voided_time: Option<String>,
    total_tokens: i64,
    counts: TokenCounts,
    cost_nano_usd: Option<i64>,
    cost_usd: Option<String>,
}

/// Runs `tokenmeter void`.
pub(crate) async fn void(args: VoidArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let derived = || request_id("void", args.event_id.as_bytes(), &[args.reason.as_bytes()]);
    let request = v1::VoidUsageRequest {
        request_id: args.request_id.clone().unwrap_or_else(derived),
        event_id: args.event_id.clone(),
        reason: args.reason.clone(),
    };
    let mut service = client.connect().await?.metering();
    let answer = service.void_usage(request).await?.into_inner();
    if output == Output::Json {
        let counts: TokenCounts = answer.counts.map(Into::into).unwrap_or_default();
        let cost = nano_usd(answer.cost.as_ref());
        return render::json(&VoidJson {
            event_id: &answer.event_id,
            already_voided: answer.already_voided,
            voided_time: time::format(answer.voided_time.as_ref()),
            total_tokens: counts.total(),
            counts,
            cost_nano_usd: cost,
            cost_usd: cost.map(format_nano_usd),
        });
    }
    render::line(&voided(&answer))
}

/// What a void took out, for people.
fn voided(answer: &v1::VoidUsageResponse) -> String {
    let at = time::text(answer.voided_time.as_ref());
    let id = &answer.event_id;
    if answer.already_voided {
        return format!("{id} was voided before, at {at}; nothing changed");
    }
    let counts: TokenCounts = answer.counts.map(Into::into).unwrap_or_default();
    let cost = nano_usd(answer.cost.as_ref()).map_or_else(|| "no cost".to_owned(), usd_of);
    format!(
        "{id} was voided at {at}: {} tokens ({} input, {} cache read, {} cache write, {} output) \
         and {cost} were taken out of the totals",
        count(counts.total()),
        count(counts.input),
        count(counts.cache_read),
        count(counts.cache_write.total()),
        count(counts.output),
    )
}

/// What to price again, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct RepriceArgs {
    /// From this charge time on (RFC 3339, or a date in UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<Timestamp>,
    /// Before this charge time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Timestamp>,
    /// One provider only.
    #[arg(long, default_value = "", hide_default_value = true)]
    provider: String,
    /// One model only.
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
    /// Lines that have a price, too, not only those without one.
    #[arg(long)]
    include_priced: bool,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before anything is changed.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// What makes the run safe to repeat, and a run that was broken off go on. If absent, every run
    /// is its own.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// Runs `tokenmeter reprice`: a dry run, a question, the run.
pub(crate) async fn reprice(
    args: RepriceArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let client = client.connect().await?;
    let id = args.request_id.unwrap_or_else(|| fresh_id("reprice"));
    let mut request = v1::RepriceUsageRequest {
        request_id: format!("{id}:dry"),
        range: range(args.from, args.to),
        provider: args.provider,
        model: args.model,
        include_priced: args.include_priced,
        dry_run: true,
        expected_price_version: None,
    };
    let preview = run_to_end(&client, &request).await?;
    let changes = preview.lines_priced + preview.lines_changed;
    if output == Output::Table {
        show(&preview, true)?;
    }
    if args.dry_run || changes == 0 {
        return match output {
            Output::Json => render::json(&RepriceJson::new(&preview, true)),
            Output::Table => Ok(()),
        };
    }
    if !args.yes && !confirmed(changes)? {
        render::note("nothing was changed");
        return Err(Error::Reported);
    }
    request.request_id = id;
    request.dry_run = false;
    request.expected_price_version = Some(preview.price_version);
    let done = run_to_end(&client, &request).await?;
    match output {
        Output::Json => render::json(&RepriceJson::new(&done, false)),
        Output::Table => show(&done, false),
    }
}

/// An id that no other run has.
pub(super) fn fresh_id(kind: &str) -> String {
    let random = || RandomState::new().hash_one(std::time::SystemTime::now());
    format!("{kind}:{:016x}{:016x}", random(), random())
}

/// Sends the same request until the run is complete.
async fn run_to_end(
    client: &Client,
    request: &v1::RepriceUsageRequest,
) -> Result<v1::RepriceUsageResponse, Error> {
    let mut service = client.admin();
    let mut examined = -1;
    loop {
        // The server is told how long this waits, and stops in time with what it has done.
        let answer = service.reprice_usage(request.clone()).await?.into_inner();
        if answer.complete {
            return Ok(answer);
        }
        if answer.lines_examined <= examined {
            let text =
                "the run does not get on within one request; give it more time with --timeout";
            return Err(Error::Input(text.to_owned()));
        }
        examined = answer.lines_examined;
        render::note(&format!("{} lines examined so far", count(examined)));
    }
}

/// Asks on the terminal; without one, nobody can have agreed.
fn confirmed(changes: i64) -> Result<bool, Error> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        let text = "nobody can be asked where there is no terminal; look at --dry-run, then run \
                    again with --yes";
        return Err(Error::Input(text.to_owned()));
    }
    let mut out = io::stderr().lock();
    write!(out, "reprice {} lines? [y/N] ", count(changes))?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

#[derive(Serialize)]
struct RepriceJson<'a> {
    dry_run: bool,
    reprice_id: &'a str,
    lines_examined: i64,
    lines_priced: i64,
    lines_changed: i64,
    lines_unpriced: i64,
    cost_before_nano_usd: i64,
    cost_after_nano_usd: i64,
    price_version: i64,
    models: Vec<RepricedJson<'a>>,
}

#[derive(Serialize)]
struct RepricedJson<'a> {
    provider: &'a str,
    model: &'a str,
    lines: i64,
    cost_before_nano_usd: i64,
    cost_after_nano_usd: i64,
}

impl<'a> RepriceJson<'a> {
    fn new(answer: &'a v1::RepriceUsageResponse, dry_run: bool) -> Self {
        let cost = |amount: &Option<v1::Money>| nano_usd(amount.as_ref()).unwrap_or_default();
        Self {
            dry_run,
            reprice_id: &answer.reprice_id,
            lines_examined: answer.lines_examined,
            lines_priced: answer.lines_priced,
            lines_changed: answer.lines_changed,
            lines_unpriced: answer.lines_unpriced,
            cost_before_nano_usd: cost(&answer.cost_before),
            cost_after_nano_usd: cost(&answer.cost_after),
            price_version: answer.price_version,
            models: answer
                .models
                .iter()
                .map(|model| RepricedJson {
                    provider: &model.provider,
                    model: &model.model,
                    lines: model.lines,
                    cost_before_nano_usd: cost(&model.cost_before),
                    cost_after_nano_usd: cost(&model.cost_after),
                })
                .collect(),
        }
    }
}

fn show(answer: &v1::RepriceUsageResponse, dry_run: bool) -> Result<(), Error> {
    render::line(&repriced(answer, dry_run))
}

/// What a run did, or would do, for people.
fn repriced(answer: &v1::RepriceUsageResponse, dry_run: bool) -> String {
    let cost = |amount: &Option<v1::Money>| nano_usd(amount.as_ref()).unwrap_or_default();
    let mut text = String::new();
    if !answer.models.is_empty() {
        let mut table = render::table(&[
            "provider", "model", "#lines", "#before", "#after", "#change",
        ]);
        for model in &answer.models {
            let (before, after) = (cost(&model.cost_before), cost(&model.cost_after));
            table.add_row(vec![
                model.provider.clone(),
                model.model.clone(),
                count(model.lines),
                usd_of(before),
                usd_of(after),
                usd_of(after - before),
            ]);
        }
        text = format!("{table}\n");
    }
    let (before, after) = (cost(&answer.cost_before), cost(&answer.cost_after));
    text.push_str(&format!(
        "{} lines examined with version {} of the price book: {} {}, {} {}, {} have none; cost {} \
         before, {} after",
        count(answer.lines_examined),
        count(answer.price_version),
        count(answer.lines_priced),
        if dry_run {
            "would get a price"
        } else {
            "got a price"
        },
        count(answer.lines_changed),
        if dry_run { "another" } else { "got another" },
        count(answer.lines_unpriced),
        usd_of(before),
        usd_of(after),
    ));
    if dry_run {
        text.push_str("\ndry run: nothing was changed");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmeter_api::convert::money::from_nano_usd;

    #[test]
    fn a_void_says_what_it_took_out() {
        let mut answer = v1::VoidUsageResponse {
            event_id: "e".into(),
            voided_time: time::parse("2026-07-01").ok(),
            counts: Some(v1::TokenCounts {
                input: 1_000,
                output: 5,
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = voided(&answer);
        assert!(
            text.contains("1,005 tokens (1,000 input") && text.contains("no cost"),
            "{text}"
        );
        answer.cost = Some(from_nano_usd(1_500_000_000));
        assert!(voided(&answer).contains("and $1.5 were taken out"));
        answer.already_voided = true;
        assert!(voided(&answer).ends_with("nothing changed"));
    }

    #[test]
    fn a_reprice_shows_models_and_the_difference() {
        let answer = v1::RepriceUsageResponse {
            lines_examined: 1_200,
            lines_priced: 3,
            lines_unpriced: 7,
            cost_before: Some(from_nano_usd(2_000_000_000)),
            cost_after: Some(from_nano_usd(1_500_000_000)),
            models: vec![v1::RepricedModel {
                provider: "openai".into(),
                model: "m".into(),
                lines: 3,
                cost_before: Some(from_nano_usd(2_000_000_000)),
                cost_after: Some(from_nano_usd(1_500_000_000)),
            }],
            price_version: 12,
            complete: true,
            ..Default::default()
        };
        let text = repriced(&answer, true);
        assert!(
            text.contains("-$0.5") && text.contains("3 would get a price"),
            "{text}"
        );
        assert!(text.ends_with("dry run: nothing was changed"));
        let json = serde_json::to_value(RepriceJson::new(&answer, false)).unwrap();
        assert_eq!(json["models"][0]["cost_after_nano_usd"], 1_500_000_000);
        assert_eq!(json["dry_run"], false);
    }

    #[test]
    fn every_run_has_an_id_of_its_own() {
        let (one, other) = (fresh_id("reprice"), fresh_id("reprice"));
        assert!(
            one != other && one.len() == "reprice:".len() + 32,
            "{one} {other}"
        );
    }
}
