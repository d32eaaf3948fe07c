//! Subscriptions in the contract's words.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokenmeter_api::convert::{event, money, time};
use tokenmeter_api::json;
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_api::v1::stream_token_events_response::Event;
use tokenmeter_model::bounds::Violation;
use tokenmeter_model::price::Quote;
use tokenmeter_store::ledger::log::Change;
use tonic::codegen::BoxStream;

use super::filter::{Asked, EventType};
use super::{Happened, Item, export};
use crate::error::Error;

/// Nanoseconds of a second.
const NANOS: i32 = 1_000_000_000;

/// Reads a filter. How long its lists may be is checked with the rest.
pub(crate) fn asked(filter: Option<v1::EventFilter>) -> Result<Asked, Error> {
    let filter = filter.unwrap_or_default();
    let mut types = Vec::new();
    for (n, number) in filter.types.iter().enumerate() {
        match v1::TokenEventType::try_from(*number) {
            Ok(v1::TokenEventType::Unspecified) => types.push(EventType::Unspecified),
            Ok(v1::TokenEventType::UsageRecorded) => types.push(EventType::Recorded),
            Ok(v1::TokenEventType::UsageVoided) => types.push(EventType::Voided),
            Ok(v1::TokenEventType::UsageRepriced) => types.push(EventType::Repriced),
            Ok(_) => types.push(EventType::Other(*number)),
            Err(_) => return Err(unknown("types", n, "TokenEventType")),
        }
    }
    for (n, number) in filter.phases.iter().enumerate() {
        v1::TokenPhase::try_from(*number).map_err(|_| unknown("phases", n, "TokenPhase"))?;
    }
    for (n, number) in filter.lifecycle_kinds.iter().enumerate() {
        v1::LifecycleKind::try_from(*number)
            .map_err(|_| unknown("lifecycle_kinds", n, "LifecycleKind"))?;
    }
    Ok(Asked {
        user_id: filter.user_id,
        session_id: filter.session_id,
        team_id: filter.team_id,
        models: filter.models,
        types,
        phases: filter.phases,
        lifecycle_kinds: filter.lifecycle_kinds,
        labels: filter
            .labels
            .into_iter()
            .map(|label| (label.key, label.value))
            .collect(),
    })
}

fn unknown(list: &str, n: usize, name: &str) -> Error {
    let text = format!("is not known; send a value of {name}");
    Violation::new(format!("filter.{list}[{n}]"), text).into()
}

/// Reads an interval; a negative one is the shortest there is.
pub(crate) fn interval(asked: Option<prost_types::Duration>) -> Result<Option<Duration>, Error> {
    let Some(asked) = asked else { return Ok(None) };
    let signs_differ =
        (asked.seconds < 0 && asked.nanos > 0) || (asked.seconds > 0 && asked.nanos < 0);
    if asked.nanos <= -NANOS || asked.nanos >= NANOS || signs_differ {
        let text = "is no duration; send nanos of less than a second, with the sign of seconds";
        return Err(Violation::new("heartbeat_interval", text).into());
    }
    let seconds = u64::try_from(asked.seconds).unwrap_or_default();
    let nanos = u32::try_from(asked.nanos).unwrap_or_default();
    Ok(Some(Duration::new(seconds, nanos)))
}

/// Writes one response.
pub(crate) fn response(item: Item, epoch: &str) -> v1::StreamTokenEventsResponse {
    let event = match item.what {
        Happened::Entry(entry) => change(&entry.change, epoch),
        Happened::Heartbeat(at_us) => Event::Heartbeat(v1::Heartbeat {
            server_time: Some(time::from_micros(at_us)),
        }),
        Happened::Reconnect(after_ms) => Event::Reconnect(v1::Reconnect { after_ms }),
    };
    v1::StreamTokenEventsResponse {
        resume_token: item.resume_token,
        event: Some(event),
    }
}

fn change(change: &Change, epoch: &str) -> Event {
    match change {
        Change::Recorded(recorded) => {
            Event::UsageRecorded(event::recorded_event(recorded.clone(), epoch))
        }
        Change::Voided(voided) => Event::UsageVoided(v1::UsageVoided {
            event: Some(event::recorded_event(voided.clone(), epoch)),
        }),
        Change::Repriced {
            event,
            previous,
            reprice_id,
        } => {
            let before = cost(previous);
            let now = cost(&event.quotes).unwrap_or_default();
            Event::UsageRepriced(v1::UsageRepriced {
                previous_cost: before.map(money::from_nano_usd),
                cost_change: Some(money::from_nano_usd(now - before.unwrap_or_default())),
                event: Some(event::recorded_event(event.clone(), epoch)),
                reprice_id: reprice_id.clone(),
            })
        }
    }
}

/// The sum of what is priced, in nano-USD; none if nothing is.
fn cost(quotes: &[Option<Quote>]) -> Option<i64> {
    let priced = quotes.iter().flatten().map(|quote| quote.cost_nano_usd);
    priced.reduce(i64::saturating_add)
}

/// Most bytes of a part's data, and of its events: far from the 4 MiB that clients take by default.
/// The largest event that the bounds allow takes less than two thirds of it as a line.
const MAX_PART_BYTES: usize = 1_048_576;

/// The form of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Events,
    JsonLines,
}

/// Reads the form.
pub(crate) fn export_format(asked: &v1::ExportUsageRequest) -> Result<Format, Error> {
    match v1::ExportFormat::try_from(asked.format) {
        Ok(v1::ExportFormat::Unspecified | v1::ExportFormat::Events) => Ok(Format::Events),
        Ok(v1::ExportFormat::JsonLines) => Ok(Format::JsonLines),
        Ok(v1::ExportFormat::FocusParquet) if !asked.resume_token.is_empty() => {
            let text = "continues no Parquet file; export it from the start, without a token";
            Err(Violation::new("resume_token", text).into())
        }
        Ok(v1::ExportFormat::FocusCsv | v1::ExportFormat::FocusParquet) => {
            Err(Error::Refused(Box::new(Failure::new(
                ErrorReason::NotYetImplemented,
                "exports in the FOCUS formats come with a later version; send EVENTS or JSON_LINES",
            ))))
        }
        Err(_) => {
            let text = "is not known; send a value of ExportFormat";
            Err(Violation::new("format", text).into())
        }
    }
}

/// Reads what to export.
pub(crate) fn export_asked(
    asked: &v1::ExportUsageRequest,
    format: Format,
) -> Result<export::Asked, Error> {
    Ok(export::Asked {
        format: match format {
            Format::Events => v1::ExportFormat::Events.into(),
            Format::JsonLines => v1::ExportFormat::JsonLines.into(),
        },
        user_id: asked.user_id.clone(),
        range: asked.range.as_ref().map(crate::grpc::range).transpose()?,
        include_voided: asked.include_voided,
    })
}

/// Writes the parts of an export.
pub(crate) fn export(
    export: export::Export,
    format: Format,
    epoch: String,
) -> BoxStream<v1::ExportUsageResponse> {
    match format {
        Format::Events => {
            let encode = move |event| {
                let event = event::recorded_event(event, &epoch);
                let size = prost::encoding::message::encoded_len(1, &event);
                (event, size)
            };
            let parts = export::parts(export, MAX_PART_BYTES, encode);
            Box::pin(parts.map(|part| {
                let part = part?;
                Ok(v1::ExportUsageResponse {
                    events: part.rows,
                    ..closing(part.resume_token, part.summary)
                })
            }))
        }
        Format::JsonLines => {
            let encode = move |event| {
                let mut line = json::encode(&event::recorded_event(event, &epoch));
                line.push('\n');
                let size = line.len();
                (line, size)
            };
            let parts = export::parts(export, MAX_PART_BYTES, encode);
            Box::pin(parts.map(|part| {
                let part = part?;
                Ok(v1::ExportUsageResponse {
                    data: part.rows.concat().into(),
                    ..closing(part.resume_token, part.summary)
                })
            }))
        }
    }
}

fn closing(resume_token: String, summary: Option<export::Sums>) -> v1::ExportUsageResponse {
    v1::ExportUsageResponse {
        resume_token,
        summary: summary.map(|sums| v1::ExportSummary {
            events: sums.events,
            total_tokens: sums.tokens,
            cost: Some(money::from_nano_usd(sums.cost_nano_usd)),
            unpriced_lines: sums.unpriced_lines,
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_and_nonsense_is_refused() {
        let read = |seconds, nanos| interval(Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(interval(None).unwrap(), None);
        assert_eq!(read(2, 5).unwrap(), Some(Duration::new(2, 5)));
        assert_eq!(read(-2, -5).unwrap(), Some(Duration::ZERO));
        for (seconds, nanos) in [(1, -1), (-1, 1), (0, NANOS), (0, i32::MIN)] {
            assert!(read(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }

    #[test]
    fn a_parquet_file_is_not_continued() {
        let refused = |resume_token: &str| {
            let asked = v1::ExportUsageRequest {
                format: v1::ExportFormat::FocusParquet.into(),
                resume_token: resume_token.into(),
                ..Default::default()
            };
            export_format(&asked).unwrap_err()
        };
        match refused("token") {
            Error::Invalid(violations) => assert_eq!(violations[0].field, "resume_token"),
            other => panic!("{other:?}"),
        }
        assert!(matches!(refused(""), Error::Refused(_)));
    }

    #[test]
    fn types_are_counted_as_sent() {
        let filter = |count| v1::EventFilter {
            types: vec![0; count],
            ..Default::default()
        };
        assert_eq!(asked(Some(filter(500))).unwrap().types.len(), 500);
    }

    #[test]
    fn unknown_numbers_in_a_filter_are_named() {
        for (filter, field) in [
            (
                v1::EventFilter {
                    types: vec![1, 99],
                    ..Default::default()
                },
                "filter.types[1]",
            ),
            (
                v1::EventFilter {
                    phases: vec![99],
                    ..Default::default()
                },
                "filter.phases[0]",
            ),
            (
                v1::EventFilter {
                    lifecycle_kinds: vec![99],
                    ..Default::default()
                },
                "filter.lifecycle_kinds[0]",
            ),
        ] {
            match asked(Some(filter)) {
                Err(Error::Invalid(violations)) => assert_eq!(violations[0].field, field),
                other => panic!("{other:?}"),
            }
        }
    }
}
