//! `tokenmeter top`: the sessions with most use, shown again and again.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use clap::ValueEnum;
use prost_types::Timestamp;
use serde::Serialize;
use tokenmeter_api::v1;
use tokio::time::{MissedTickBehavior, interval};

use super::connect::ClientArgs;
use super::error::Error;
use super::render::{self, cost, count};
use super::retry::Retry;
use super::usage::range;
use super::{Output, json, time};

/// Seconds between two looks, unless others are asked for.
const INTERVAL_SECONDS: u64 = 2;
/// How long a server that does not answer is waited for.
const KEEP_TRYING: Duration = Duration::from_secs(60);

/// Which sessions, and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// What most means.
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// One user only.
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// From this charge time on (RFC 3339, or a date in UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<Timestamp>,
    /// Before this charge time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Timestamp>,
    /// Show this many.
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(i32).range(1..=200))]
    limit: i32,
    /// Seconds between two looks, 2 if absent. If given, looks go on without a terminal, too.
    #[arg(long, value_name = "SECONDS", conflicts_with = "once",
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: Option<u64>,
    /// Look once, as is done anyway where standard output is no terminal.
    #[arg(long)]
    once: bool,
}

/// What sessions are ranked by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum By {
    /// All tokens.
    #[default]
    Tokens,
    /// Cost.
    Cost,
}

#[derive(Serialize)]
struct TopJson<'a> {
    sessions: Vec<SessionJson<'a>>,
}

#[derive(Serialize)]
struct SessionJson<'a> {
    session_id: &'a str,
    user_id: &'a str,
    models: &'a [String],
    turns: i64,
    first_event_time: Option<String>,
    last_event_time: Option<String>,
    active: bool,
    totals: json::Totals,
}

/// Runs the command.
pub(crate) async fn run(args: TopArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let order = match args.by {
        By::Tokens => v1::SessionOrder::TotalTokens,
        By::Cost => v1::SessionOrder::Cost,
    };
    let request = v1::ListTopSessionsRequest {
        user_id: args.user,
        range: range(args.from, args.to),
        order_by: order.into(),
        page_size: args.limit,
        page_token: String::new(),
    };
    let terminal = io::stdout().is_terminal() && output == Output::Table;
    let once = args.once || (!terminal && args.interval.is_none());
    let client = client.connect().await?;
    let look = || async { client.analytics().list_top_sessions(request.clone()).await };
    let retry = Retry::with_notes(KEEP_TRYING);
    let seconds = args.interval.unwrap_or(INTERVAL_SECONDS);
    let mut ticks = interval(Duration::from_secs(seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answer = match once {
            true => look().await?.into_inner(),
            false => retry.call(look).await?.into_inner(),
        };
        match output {
            Output::Json => render::json(&top(&answer))?,
            Output::Table if terminal && !once => render::screen(&table(&answer).to_string())?,
            Output::Table => render::line(&table(&answer).to_string())?,
        }
        if once {
            return Ok(());
        }
    }
}

fn top(answer: &v1::ListTopSessionsResponse) -> TopJson<'_> {
    let sessions = answer.sessions.iter().map(|session| SessionJson {
        session_id: &session.session_id,
        user_id: &session.user_id,
        models: &session.models,
        turns: session.turns,
        first_event_time: time::format(session.first_event_time.as_ref()),
        last_event_time: time::format(session.last_event_time.as_ref()),
        active: session.active,
        totals: json::totals(session.totals.as_ref()),
    });
    TopJson {
        sessions: sessions.collect(),
    }
}

fn table(answer: &v1::ListTopSessionsResponse) -> comfy_table::Table {
    let mut table = render::table(&[
        "session",
        "user",
        "models",
        "#turns",
        "#requests",
        "#prompt",
        "#output",
        "#total",
        "#cost",
        "last event",
        "active",
    ]);
    let none = v1::UsageTotals::default();
    for session in &answer.sessions {
        let totals = session.totals.as_ref().unwrap_or(&none);
        table.add_row(vec![
            session.session_id.clone(),
            session.user_id.clone(),
            session.models.join(", "),
            count(session.turns),
            count(totals.requests),
            count(totals.prompt_tokens),
            count(totals.completion_tokens),
            count(totals.total_tokens),
            cost(totals.cost.as_ref(), totals.lines, totals.unpriced_lines),
            time::text(session.last_event_time.as_ref()),
            if session.active { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_shown_with_what_they_used() {
        let answer = v1::ListTopSessionsResponse {
            sessions: vec![v1::SessionSummary {
                session_id: "s-1".into(),
                models: vec!["m".into(), "n".into()],
                totals: Some(v1::UsageTotals {
                    total_tokens: 12_345,
                    lines: 2,
                    unpriced_lines: 2,
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = table(&answer).to_string();
        for part in ["s-1", "m, n", "12,345", "unpriced"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let json = serde_json::to_value(top(&answer)).unwrap();
        assert_eq!(json["sessions"][0]["totals"]["total_tokens"], 12_345);
    }
}
