//! `tokenmeter events`: what is recorded, newest first.

use clap::Subcommand;
use prost_types::Timestamp;
use serde::Serialize;
use tokenmeter_api::v1;

use super::connect::ClientArgs;
use super::error::Error;
use super::render::{self, cost, count, name};
use super::usage::range;
use super::{Output, json, time};

/// Events of a page: few enough that a page of the largest stays below what a client reads.
pub(crate) const MAX_PAGE: usize = 250;

/// What to do with events.
#[derive(Debug, Subcommand)]
pub(crate) enum EventsCommand {
    /// List recorded events, newest first.
    ///
    /// Example: tokenmeter events list --user ada --unpriced --limit 10
    List(Box<ListArgs>),
}

/// Which events.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// One user only.
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// One team only.
    #[arg(long, default_value = "", hide_default_value = true)]
    team: String,
    /// One session only.
    #[arg(long, default_value = "", hide_default_value = true)]
    session: String,
    /// One turn of the session only.
    #[arg(long, requires = "session")]
    turn: Option<i64>,
    /// One provider only.
    #[arg(long, default_value = "", hide_default_value = true)]
    provider: String,
    /// Events with a line of this model only.
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
    /// Events with this label only; repeat for several.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<v1::Label>,
    /// The one event of this id.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    event_id: String,
    /// Events with an unpriced line only.
    #[arg(long)]
    unpriced: bool,
    /// From this charge time on (RFC 3339, or a date in UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<Timestamp>,
    /// Before this charge time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Timestamp>,
    /// List at most this many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Reads `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<v1::Label, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(v1::Label {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
        _ => Err("is not KEY=VALUE".to_owned()),
    }
}

/// How many entries the next page shall have.
pub(crate) fn page_size(wanted: usize) -> i32 {
    i32::try_from(wanted.min(MAX_PAGE)).unwrap_or_default()
}

#[derive(Serialize)]
struct ListJson<'a> {
    events: Vec<json::Event<'a>>,
    more: bool,
}

/// Runs the command.
pub(crate) async fn run(
    command: EventsCommand,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let EventsCommand::List(args) = command;
    let mut request = v1::ListUsageEventsRequest {
        user_id: args.user,
        team_id: args.team,
        session_id: args.session,
        turn: args.turn,
        provider: args.provider,
        model: args.model,
        labels: args.label,
        event_id: args.event_id,
        unpriced_only: args.unpriced,
        range: range(args.from, args.to),
        // The same on every page, as the contract asks.
        page_size: page_size(args.limit),
        ..Default::default()
    };
    let mut service = client.connect().await?.analytics();
    let mut events = Vec::new();
    let mut more = false;
    while events.len() < args.limit {
        let page = service
            .list_usage_events(request.clone())
            .await?
            .into_inner();
        events.extend(page.events);
        more = !page.next_page_token.is_empty();
        if !more {
            break;
        }
        request.page_token = page.next_page_token;
    }
    more |= events.len() > args.limit;
    events.truncate(args.limit);
    if output == Output::Json {
        return render::json(&ListJson {
            events: events.iter().map(Into::into).collect(),
            more,
        });
    }
    render::line(&table(&events).to_string())?;
    if more {
        render::note(&format!(
            "there are more than {} events; ask for them with --limit",
            count(i64::try_from(args.limit).unwrap_or(i64::MAX))
        ));
    }
    Ok(())
}

fn table(events: &[v1::RecordedEvent]) -> comfy_table::Table {
    let mut table = render::table(&[
        "time",
        "event",
        "user",
        "session",
        "provider",
        "model",
        "#input",
        "#cache read",
        "#cache write",
        "#output",
        "#cost",
        "status",
    ]);
    for event in events {
        let counts: tokenmeter_model::counts::TokenCounts =
            event.counts.map(Into::into).unwrap_or_default();
        let models: Vec<_> = event.lines.iter().map(|line| line.model.as_str()).collect();
        let mut status = name("EVENT_STATUS_", event.status().as_str_name());
        if event.voided {
            status.push_str(", voided");
        }
        let lines = i64::try_from(event.lines.len()).unwrap_or(i64::MAX);
        table.add_row(vec![
            time::text(event.charge_time.as_ref()),
            event.event_id.clone(),
            event.user_id.clone(),
            event.session_id.clone(),
            event.provider.clone(),
            models.join(", "),
            count(counts.input),
            count(counts.cache_read),
            count(counts.cache_write.total()),
            count(counts.output),
            cost(event.cost.as_ref(), lines, event.unpriced_lines.into()),
            status,
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_need_a_key() {
        let read = label("a=b=c").unwrap();
        assert_eq!((read.key.as_str(), read.value.as_str()), ("a", "b=c"));
        assert_eq!(label("a=").unwrap().value, "");
        assert!(label("=b").is_err() && label("a").is_err());
    }

    #[test]
    fn an_unpriced_event_is_never_shown_as_free() {
        let text = table(&[v1::RecordedEvent {
            unpriced_lines: 1,
            lines: vec![v1::RecordedLine::default()],
            ..Default::default()
        }])
        .to_string();
        assert!(text.contains("unpriced") && !text.contains('$'));
    }
}
