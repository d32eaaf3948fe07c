//! Exports: all events of one moment, at the client's pace.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokenmeter_api::streams::Permit;
use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, Violation};
use tokenmeter_model::id::TenantId;
use tokenmeter_store::ledger::log::ExportQuery;
use tokenmeter_store::ledger::{self, Ledger, Range, Recorded};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Live;
use super::token::{Kind, Sealer, TokenError};
use crate::error::Error;

/// Events that one read takes: what an export that stands still keeps in memory.
const READ_EVENTS: usize = 250;
/// Reads of exports at once; more wait in line.
pub(super) const READS: usize = 2;

/// What to export.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The form, by its number in the contract: a token continues in the form that it began in.
    pub format: i32,
    /// Only events of this user; empty means all.
    pub user_id: String,
    /// Only events charged in this range.
    pub range: Option<Range>,
    /// Voided events too.
    pub include_voided: bool,
}

/// Sums over an export so far. Voided events are counted and not summed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Events, voided ones too if they were asked for.
    pub events: i64,
    /// Their tokens.
    pub tokens: i64,
    /// Their cost, in nano-USD.
    pub cost_nano_usd: i64,
    /// Their lines without a price.
    pub unpriced_lines: i64,
}

impl Sums {
    fn add(&mut self, event: &Recorded) -> Option<()> {
        self.events = self.events.checked_add(1)?;
        if event.voided.is_some() {
            return Some(());
        }
        for (line, quote) in event.event.lines.iter().zip(&event.quotes) {
            self.tokens = self.tokens.checked_add(line.counts.total())?;
            match quote {
                Some(quote) => {
                    self.cost_nano_usd = self.cost_nano_usd.checked_add(quote.cost_nano_usd)?;
                }
                None => self.unpriced_lines += 1,
            }
        }
        Some(())
    }
}

/// Where an export stands: the moment that it is of, the event sent last, and the sums up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    as_of: i64,
    after: Option<(i64, i64)>,
    sums: Sums,
}

impl Place {
    fn write(&self) -> String {
        let (time, position) = self.after.unwrap_or_default();
        let Sums {
            events,
            tokens,
            cost_nano_usd,
            unpriced_lines,
        } = self.sums;
        let as_of = self.as_of;
        format!("{as_of}_{time}_{position}_{events}_{tokens}_{cost_nano_usd}_{unpriced_lines}")
    }

    fn read(place: &str) -> Option<Self> {
        let numbers: Vec<i64> = place
            .split('_')
            .map(|number| number.parse().ok())
            .collect::<Option<_>>()?;
        let [as_of, time, position, events, tokens, cost, unpriced] = numbers[..] else {
            return None;
        };
        Some(Self {
            as_of,
            // Positions begin at 1.
            after: (position > 0).then_some((time, position)),
            sums: Sums {
                events,
                tokens,
                cost_nano_usd: cost,
                unpriced_lines: unpriced,
            },
        })
    }
}

/// A step of an export.
#[derive(Debug)]
enum Step {
    /// The next event, and where the export stands when it is sent.
    Event(Box<Recorded>, Place),
    /// There are no more.
    End(Sums),
}

/// One export under way.
pub struct Export {
    ledger: Arc<dyn Ledger>,
    tenant: TenantId,
    asked: Asked,
    sealer: Sealer,
    place: Place,
    ready: VecDeque<Recorded>,
    last_read: bool,
    reads: Arc<Semaphore>,
    draining: CancellationToken,
    _permit: Permit,
}

impl Live {
    /// Begins an export of this moment, or continues one.
    ///
    /// # Errors
    /// Fields out of bounds, a token that cannot be used, too many streams, or a server that shuts
    /// down.
    pub async fn export(
        &self,
        caller: &Caller,
        asked: Asked,
        resume_token: &str,
    ) -> Result<Export, Error> {
        let mut out: Vec<Violation> = Vec::new();
        bounds::text("user_id", &asked.user_id, &mut out);
        if !out.is_empty() {
            return Err(Error::Invalid(out));
        }
        crate::service::check_range(asked.range)?;
        if self.draining.is_cancelled() {
            return Err(Error::ShuttingDown);
        }
        let opening = self.ledger.opening();
        let end = self.tail.end().await?;
        let sealer = Sealer::new(
            Kind::Export,
            self.ledger.secret(),
            &opening,
            &format!("{}\u{0}{asked:?}", caller.tenant),
        );
        let begin = Place {
            as_of: end,
            after: None,
            sums: Sums::default(),
        };
        let place = match resume_token {
            "" => begin,
            token => {
                let (opening, place) = sealer.open(token)?;
                let place = Place::read(place).ok_or(TokenError::Invalid)?;
                if !self.ledger.holds(opening, place.as_of).await? {
                    return Err(sealer.expired(&begin.write()).into());
                }
                place
            }
        };
        Ok(Export {
            ledger: Arc::clone(&self.ledger),
            tenant: caller.tenant.clone(),
            asked,
            sealer,
            place,
            ready: VecDeque::new(),
            last_read: false,
            reads: Arc::clone(&self.export_reads),
            draining: self.draining.clone(),
            _permit: self.streams.open()?,
        })
    }
}

impl Export {
    /// Continues after the event that was sent last.
    fn resume_token(&self) -> String {
        self.sealer.seal(&self.place.write())
    }

    /// Takes the next step. The place moves when the event is put to a part. Whoever drops this
    /// future loses nothing.
    ///
    /// # Errors
    /// The ledger's, or that the server shuts down; the last token continues.
    async fn next(&mut self) -> Result<Step, Error> {
        if self.ready.is_empty() && !self.last_read {
            self.check_opening().await?;
            // It runs by itself: a client that does not come back for it holds up no other.
            let read = AbortOnDropHandle::new(tokio::spawn(self.read()));
            let events = tokio::select! {
                biased;
                () = self.draining.cancelled() => return Err(Error::ShuttingDown),
                read = read => read.map_err(|error| {
                    ledger::Error::Unavailable(error.to_string())
                })??,
            };
            self.last_read = events.len() < READ_EVENTS;
            self.ready = events.into();
        }
        let Some(event) = self.ready.pop_front() else {
            return Ok(Step::End(self.place.sums));
        };
        let past = || ledger::Error::OutOfRange("the sums of an export".into());
        let mut place = self.place;
        place.sums.add(&event).ok_or_else(past)?;
        place.after = Some((event.charge_time_us, event.position));
        Ok(Step::Event(Box::new(event), place))
    }

    /// That the moment is still one of the ledger, should it have been opened anew since.
    async fn check_opening(&self) -> Result<(), Error> {
        let begun = self.sealer.opening();
        if *self.ledger.opening() == *begun || self.ledger.holds(begun, self.place.as_of).await? {
            return Ok(());
        }
        let begin = Place {
            as_of: self.ledger.last_position().await?,
            after: None,
            sums: Sums::default(),
        };
        Err(self.sealer.expired(&begin.write()).into())
    }

    /// Whether the next step is in memory.
    fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    fn read(&self) -> impl Future<Output = Result<Vec<Recorded>, ledger::Error>> + use<> {
        let (ledger, reads) = (Arc::clone(&self.ledger), Arc::clone(&self.reads));
        let tenant = self.tenant.clone();
        let query = ExportQuery {
            as_of: self.place.as_of,
            user_id: self.asked.user_id.clone(),
            range: self.asked.range,
            include_voided: self.asked.include_voided,
            after: self.place.after,
            limit: i64::try_from(READ_EVENTS).unwrap_or(i64::MAX),
        };
        async move {
            let closed =
                |error: tokio::sync::AcquireError| ledger::Error::Unavailable(error.to_string());
            let _turn = reads.acquire().await.map_err(closed)?;
            ledger.export(&tenant, &query).await
        }
    }
}

/// A part, before it becomes the contract's.
#[derive(Debug, Clone, Default)]
pub struct Part<T> {
    /// What became of the part's events, in order.
    pub rows: Vec<T>,
    /// Continues after it.
    pub resume_token: String,
    /// In the last part only.
    pub summary: Option<Sums>,
}

/// The parts of an export. `encode` writes an event and answers how many bytes it takes in a part;
/// a part ends before the event that would take it past `max_bytes`, or when nothing is ready. An
/// event that is larger by itself would be a part alone; the bounds of events allow none.
pub fn parts<T: Send>(
    export: Export,
    max_bytes: usize,
    encode: impl Fn(Recorded) -> (T, usize) + Clone + Send,
) -> impl Stream<Item = Result<Part<T>, Error>> + Send {
    stream::unfold(Some((export, None, encode)), move |state| async move {
        let (mut export, mut held, encode) = state?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let summary = loop {
            let (row, size, place) = match held.take() {
                Some(first) => first,
                None => match export.next().await {
                    Ok(Step::Event(event, place)) => {
                        let (row, size) = encode(*event);
                        (row, size, place)
                    }
                    Ok(Step::End(sums)) => break Some(sums),
                    Err(error) => return Some((Err(error), None)),
                },
            };
            if bytes + size > max_bytes && !rows.is_empty() {
                held = Some((row, size, place));
                break None;
            }
            rows.push(row);
            bytes += size;
            export.place = place;
            if !export.is_ready() && !export.last_read {
                break None;
            }
        };
        let part = Part {
            rows,
            resume_token: export.resume_token(),
            summary,
        };
        let rest = summary.is_none().then_some((export, held, encode));
        Some((Ok(part), rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_a_round_trip() {
        let place = Place {
            as_of: 7,
            after: Some((1_790_000_000_000_000, 3)),
            sums: Sums {
                events: 2,
                tokens: 30,
                cost_nano_usd: -4,
                unpriced_lines: 1,
            },
        };
        assert_eq!(Place::read(&place.write()), Some(place));
        let begin = Place {
            after: None,
            ..place
        };
        assert_eq!(Place::read(&begin.write()), Some(begin));
        for bad in ["", "1", "1_2_3_4_5_6_x", "1_2_3_4_5_6_7_8"] {
            assert_eq!(Place::read(bad), None, "{bad}");
        }
    }
}
