//! `tokenmeter usage`: totals of a user, of a session, and of the whole service by model.

use clap::{Subcommand, ValueEnum};
use prost_types::Timestamp;
use serde::Serialize;
use tokenmeter_api::v1;

use super::connect::ClientArgs;
use super::error::Error;
use super::render::{self, cost, count, name};
use super::{Output, json, time};

/// Whose totals.
#[derive(Debug, Subcommand)]
pub(crate) enum UsageCommand {
    /// Totals of one user over one or several intervals.
    ///
    /// Example: tokenmeter usage user ada --interval day --interval month
    User {
        /// The user; none means the caller.
        #[arg(default_value = "")]
        user: String,
        /// An interval; repeat for several. Lifetime and the last 24 hours if none is given.
        #[arg(long, value_enum)]
        interval: Vec<Interval>,
    },
    /// Totals of one session, by model.
    ///
    /// Example: tokenmeter usage session s-1
    Session {
        /// The session.
        session: String,
    },
    /// Totals of the whole tenant by provider and model.
    ///
    /// Example: tokenmeter usage models --from 2026-07-01 --provider openai
    Models(ModelsArgs),
}

/// Which part of the tenant's usage.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelsArgs {
    /// From this time on (RFC 3339, or a date in UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<Timestamp>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Timestamp>,
    /// One provider only.
    #[arg(long, default_value = "", hide_default_value = true)]
    provider: String,
    /// One model only.
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
}

/// A span of time that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Interval {
    /// The last 60 minutes.
    #[value(name = "last-hour", alias = "hourly")]
    LastHour,
    /// The last 24 hours.
    #[value(name = "last-24h", alias = "daily")]
    Last24Hours,
    /// Today, in the tenant's time zone.
    Day,
    /// This month, in the tenant's time zone.
    Month,
    /// All time.
    Lifetime,
}

impl Interval {
    fn wire(self) -> v1::Interval {
        match self {
            Self::LastHour => v1::Interval::LastHour,
            Self::Last24Hours => v1::Interval::Last24Hours,
            Self::Day => v1::Interval::Day,
            Self::Month => v1::Interval::Month,
            Self::Lifetime => v1::Interval::Lifetime,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(
    command: UsageCommand,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    match command {
        UsageCommand::User { user, interval } => user_usage(user, &interval, client, output).await,
        UsageCommand::Session { session } => session_usage(session, client, output).await,
        UsageCommand::Models(args) => models(args, client, output).await,
    }
}

#[derive(Serialize)]
struct UserJson<'a> {
    user_id: &'a str,
    intervals: Vec<IntervalJson>,
    last_updated: Option<String>,
}

#[derive(Serialize)]
struct IntervalJson {
    interval: String,
    start_time: Option<String>,
    end_time: Option<String>,
    totals: json::Totals,
}

async fn user_usage(
    user: String,
    intervals: &[Interval],
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let request = v1::GetUserUsageRequest {
        user_id: user,
        intervals: intervals.iter().map(|i| i.wire().into()).collect(),
    };
    let answer = client
        .connect()
        .await?
        .analytics()
        .get_user_usage(request)
        .await?
        .into_inner();
    let interval_name =
        |usage: &v1::IntervalUsage| name("INTERVAL_", usage.interval().as_str_name());
    if output == Output::Json {
        return render::json(&UserJson {
            user_id: &answer.user_id,
            intervals: answer
                .intervals
                .iter()
                .map(|usage| IntervalJson {
                    interval: interval_name(usage),
                    start_time: time::format(usage.start_time.as_ref()),
                    end_time: time::format(usage.end_time.as_ref()),
                    totals: json::totals(usage.totals.as_ref()),
                })
                .collect(),
            last_updated: time::format(answer.last_updated.as_ref()),
        });
    }
    let mut table = render::table(&with_totals(&["interval"]));
    for usage in &answer.intervals {
        let head = vec![interval_name(usage).replace('_', " ")];
        table.add_row(totals_row(head, usage.totals.as_ref()));
    }
    let updated = time::format(answer.last_updated.as_ref());
    render::line(&format!(
        "user {}, last updated {}",
        answer.user_id,
        updated.as_deref().unwrap_or("never")
    ))?;
    render::line(&table.to_string())
}

/// Headings of totals.
const TOTALS: [&str; 10] = [
    "#requests",
    "#input",
    "#cache read",
    "#cache write",
    "#output",
    "#reasoning",
    "#total",
    "#cost",
    "#unpriced",
    "#failed",
];

fn with_totals<'a>(head: &[&'a str]) -> Vec<&'a str> {
    head.iter().copied().chain(TOTALS).collect()
}

/// A row of totals after what it begins with.
fn totals_row(mut row: Vec<String>, totals: Option<&v1::UsageTotals>) -> Vec<String> {
    let none = v1::UsageTotals::default();
    let totals = totals.unwrap_or(&none);
    let counts: tokenmeter_model::counts::TokenCounts =
        totals.counts.map(Into::into).unwrap_or_default();
    row.extend([
        count(totals.requests),
        count(counts.input),
        count(counts.cache_read),
        count(counts.cache_write.total()),
        count(counts.output),
        count(counts.reasoning),
        count(totals.total_tokens),
        cost(totals.cost.as_ref(), totals.lines, totals.unpriced_lines),
        count(totals.unpriced_lines),
        count(totals.failed_requests),
    ]);
    row
}

#[derive(Serialize)]
struct SessionJson<'a> {
    session_id: &'a str,
    user_id: &'a str,
    totals: json::Totals,
    models: Vec<json::Model<'a>>,
    turns: i64,
    first_event_time: Option<String>,
    last_event_time: Option<String>,
    last_updated: Option<String>,
}

async fn session_usage(
    session_id: String,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let request = v1::GetSessionUsageRequest { session_id };
    let mut service = client.connect().await?.analytics();
    let answer = service.get_session_usage(request).await?.into_inner();
    if output == Output::Json {
        return render::json(&SessionJson {
            session_id: &answer.session_id,
            user_id: &answer.user_id,
            totals: json::totals(answer.totals.as_ref()),
            models: answer.models.iter().map(Into::into).collect(),
            turns: answer.turns,
            first_event_time: time::format(answer.first_event_time.as_ref()),
            last_event_time: time::format(answer.last_event_time.as_ref()),
            last_updated: time::format(answer.last_updated.as_ref()),
        });
    }
    render::line(&format!(
        "session {} of user {}: {} turns, {} to {}",
        answer.session_id,
        answer.user_id,
        count(answer.turns),
        time::text(answer.first_event_time.as_ref()),
        time::text(answer.last_event_time.as_ref()),
    ))?;
    let mut table = render::table(&with_totals(&["provider", "model"]));
    for usage in &answer.models {
        let head = vec![usage.provider.clone(), usage.model.clone()];
        table.add_row(totals_row(head, usage.totals.as_ref()));
    }
    let head = vec!["all".to_owned(), String::new()];
    table.add_row(totals_row(head, answer.totals.as_ref()));
    render::line(&table.to_string())
}

#[derive(Serialize)]
struct ServiceJson<'a> {
    start_time: Option<String>,
    end_time: Option<String>,
    totals: json::Totals,
    models: Vec<json::Model<'a>>,
    models_truncated: bool,
    response_time: Option<json::Latency>,
    time_to_first_token: Option<json::Latency>,
    users: i64,
    sessions: i64,
}

async fn models(args: ModelsArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let request = v1::GetServiceUsageRequest {
        range: range(args.from, args.to),
        provider: args.provider,
        model: args.model,
    };
    let mut service = client.connect().await?.analytics();
    let answer = service.get_service_usage(request).await?.into_inner();
    let range = answer.range.unwrap_or_default();
    if output == Output::Json {
        return render::json(&ServiceJson {
            start_time: time::format(range.start_time.as_ref()),
            end_time: time::format(range.end_time.as_ref()),
            totals: json::totals(answer.totals.as_ref()),
            models: answer
                .models
                .iter()
                .filter_map(json::Model::of_service)
                .collect(),
            models_truncated: answer.models_truncated,
            response_time: answer.response_time.as_ref().map(Into::into),
            time_to_first_token: answer.time_to_first_token.as_ref().map(Into::into),
            users: answer.users,
            sessions: answer.sessions,
        });
    }
    let mut headings = with_totals(&["provider", "model"]);
    headings.extend(["#mean ms", "#p95 ms"]);
    let mut table = render::table(&headings);
    let latency = |row: &mut Vec<String>, latency: Option<&v1::Latency>| {
        let shown = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), count);
        row.push(shown(latency.and_then(|l| l.mean_ms)));
        row.push(shown(latency.and_then(|l| l.p95_ms)));
    };
    for model in &answer.models {
        let Some(usage) = &model.usage else { continue };
        let head = vec![usage.provider.clone(), usage.model.clone()];
        let mut row = totals_row(head, usage.totals.as_ref());
        latency(&mut row, model.response_time.as_ref());
        table.add_row(row);
    }
    let head = vec!["all".to_owned(), String::new()];
    let mut row = totals_row(head, answer.totals.as_ref());
    latency(&mut row, answer.response_time.as_ref());
    table.add_row(row);
    render::line(&table.to_string())?;
    let more = if answer.models_truncated {
        "; there are more models than are listed"
    } else {
        ""
    };
    render::line(&format!(
        "{} users, {} sessions{more}",
        count(answer.users),
        count(answer.sessions)
    ))
}

/// A range of time; none if it has no end at all.
pub(crate) fn range(from: Option<Timestamp>, to: Option<Timestamp>) -> Option<v1::TimeRange> {
    (from.is_some() || to.is_some()).then_some(v1::TimeRange {
        start_time: from,
        end_time: to,
    })
}
