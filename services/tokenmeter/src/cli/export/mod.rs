//! `tokenmeter export`: recorded events as JSON Lines, complete or not at all.
//!
//! What arrives is written, then noted with its resume token, so that a broken export goes on, in
//! this run or in the next. A file has its name only when the export is whole; until then it is
//! `FILE.part`, and `FILE.part.json` beside it says how far it is.

mod sink;

use std::path::PathBuf;
use std::time::Duration;

use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokenmeter_api::json::{self, UnknownKeys};
use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1;
use tonic::{Status, Streaming};

use super::connect::{Client, ClientArgs};
use super::error::{Error, describe};
use super::prices::hex;
use super::render::{self, count, nano_usd, usd_of};
use super::retry::{Patience, Retry, may_pass};
use super::usage::range;
use super::{Output, time};
use sink::{Mark, Sink};

/// After how long without any part a stream counts as lost.
const SILENCE: Duration = Duration::from_secs(60);

/// Which events, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// From this charge time on (RFC 3339, or a date in UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<Timestamp>,
    /// Before this charge time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Timestamp>,
    /// One user only.
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// Voided events, too.
    #[arg(long)]
    include_voided: bool,
    /// The file to write; standard output if absent.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Begin anew, whatever an export to this file had done before.
    #[arg(long, requires = "out")]
    restart: bool,
    /// How long to go on trying while there is no server or it does not answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(..=86_400))]
    retry_for: u64,
}

/// Sums over exported events, made from what was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    events: i64,
    total_tokens: i64,
    cost_nano_usd: i64,
    unpriced_lines: i64,
}

impl Sums {
    /// Adds the events of a part, one a line. A voided one counts as an event and no more.
    fn add(&mut self, part: &[u8]) -> Result<(), Error> {
        for line in part.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let event: v1::RecordedEvent = std::str::from_utf8(line)
                .ok()
                .and_then(|line| json::decode(line, UnknownKeys::Ignored).ok())
                .ok_or_else(|| {
                    Error::Input("the server sent a line that is no event".to_owned())
                })?;
            self.events += 1;
            if event.voided {
                continue;
            }
            self.total_tokens += event.total_tokens;
            self.cost_nano_usd += nano_usd(event.cost.as_ref()).unwrap_or_default();
            self.unpriced_lines += i64::from(event.unpriced_lines);
        }
        Ok(())
    }
}

impl From<&v1::ExportSummary> for Sums {
    fn from(summary: &v1::ExportSummary) -> Self {
        Self {
            events: summary.events,
            total_tokens: summary.total_tokens,
            cost_nano_usd: nano_usd(summary.cost.as_ref()).unwrap_or_default(),
            unpriced_lines: summary.unpriced_lines,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(
    args: &ExportArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let mut sink = match &args.out {
        Some(path) => Sink::file(path, identity(args, client)?, args.restart)?,
        None => Sink::stdout(),
    };
    let retry = Retry::with_notes(Duration::from_secs(args.retry_for));
    let mut export = Export {
        client: connect(client, &retry).await?,
        request: v1::ExportUsageRequest {
            range: range(args.from, args.to),
            format: v1::ExportFormat::JsonLines.into(),
            user_id: args.user.clone(),
            resume_token: String::new(),
            include_voided: args.include_voided,
        },
        mark: sink.mark().clone(),
        kept: args.out.is_some(),
    };
    let resumed = !export.mark.token.is_empty();
    let summary = export.run(&mut sink, &retry).await?;
    let said = Sums::from(&summary);
    let written = export.mark.sums;
    let equal = said == written;
    if equal {
        sink.finish()?;
    }
    report(args, output, &said, &written, resumed);
    match equal {
        true => Ok(()),
        false => Err(Error::Reported),
    }
}

/// Connects, as often as patience allows while there is no server.
async fn connect(client: &ClientArgs, retry: &Retry) -> Result<Client, Error> {
    let mut patience = retry.patience();
    loop {
        match client.connect().await {
            Err(error @ Error::Unreachable { .. }) => {
                if !patience.wait(&error.to_string(), None).await {
                    return Err(error);
                }
            }
            connected => return connected,
        }
    }
}

/// What tells this export from every other: where from, who asks, and for what.
fn identity(args: &ExportArgs, client: &ClientArgs) -> Result<String, Error> {
    let mut parts: Vec<String> = client.identity()?.into();
    parts.push(time::text(args.from.as_ref()));
    parts.push(time::text(args.to.as_ref()));
    parts.push(args.user.clone());
    parts.push(args.include_voided.to_string());
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Ok(hex(&hash.finalize()))
}

/// An export over any number of connections.
struct Export {
    client: Client,
    request: v1::ExportUsageRequest,
    /// How far it is.
    mark: Mark,
    /// Whether a later run can go on with it, as with a file.
    kept: bool,
}

impl Export {
    /// Writes parts until the summary comes.
    async fn run(&mut self, sink: &mut Sink, retry: &Retry) -> Result<v1::ExportSummary, Error> {
        let mut patience = retry.patience();
        loop {
            self.request.resume_token.clone_from(&self.mark.token);
            let broken = match self
                .client
                .analytics()
                .export_usage(self.request.clone())
                .await
            {
                Ok(stream) => match self.parts(stream.into_inner(), sink, &mut patience).await? {
                    Ok(summary) => return Ok(summary),
                    Err(broken) => broken,
                },
                Err(status) => status,
            };
            if !may_pass(&broken) {
                return Err(self.hopeless(broken));
            }
            let asked = failure_of(&broken).and_then(|failure| failure.retry_after);
            let cause = describe(&broken);
            if self.kept {
                patience.pause(&cause, asked).await?;
            } else if !patience.wait(&cause, asked).await {
                return Err(lost(&cause));
            }
        }
    }

    /// Writes the parts of one connection; how that broke, or the summary.
    async fn parts(
        &mut self,
        mut stream: Streaming<v1::ExportUsageResponse>,
        sink: &mut Sink,
        patience: &mut Patience<'_>,
    ) -> Result<Result<v1::ExportSummary, Status>, Error> {
        loop {
            let part = match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(part))) => part,
                Ok(Ok(None)) => {
                    let text = "the server ended the export before its end";
                    return Ok(Err(Status::unavailable(text)));
                }
                Ok(Err(status)) => return Ok(Err(status)),
                Err(_) => {
                    let text = format!("no part came for {} s", SILENCE.as_secs());
                    return Ok(Err(Status::unavailable(text)));
                }
            };
            patience.success();
            self.mark.sums.add(&part.data)?;
            self.mark.bytes += part.data.len() as u64;
            self.mark.token = part.resume_token;
            sink.write(&part.data, &self.mark)?;
            if let Some(summary) = part.summary {
                return Ok(Ok(summary));
            }
        }
    }

    fn hopeless(&self, status: Status) -> Error {
        match (self.mark.token.is_empty(), self.kept) {
            (true, _) => status.into(),
            (false, true) => Error::Input(format!(
                "the export cannot go on where it was broken off: {}; begin anew with --restart",
                describe(&status)
            )),
            (false, false) => lost(&describe(&status)),
        }
    }
}

/// The end of an export to standard output, with which no later run can go on.
fn lost(cause: &str) -> Error {
    Error::Input(format!(
        "the export was broken off: {cause}; what was written is not all of it, and standard \
         output cannot be gone on with: discard it and export again, best with --out FILE"
    ))
}

#[derive(Serialize)]
struct ReportJson<'a> {
    #[serde(flatten)]
    written: &'a Sums,
    out: Option<&'a str>,
    resumed: bool,
    equal: bool,
}

/// Says on standard error what was written, and whether it is what the server says.
fn report(args: &ExportArgs, output: Output, said: &Sums, written: &Sums, resumed: bool) {
    let equal = said == written;
    let out = args.out.as_ref().and_then(|path| path.to_str());
    if output == Output::Json {
        let report = ReportJson {
            written,
            out,
            resumed,
            equal,
        };
        render::note(&serde_json::to_string(&report).unwrap_or_default());
        return;
    }
    let text = |sums: &Sums| {
        format!(
            "{} events, {} tokens, {}, {} lines without a price",
            count(sums.events),
            count(sums.total_tokens),
            usd_of(sums.cost_nano_usd),
            count(sums.unpriced_lines)
        )
    };
    render::note(&format!("exported {}", text(written)));
    if !equal {
        render::note(&format!("NOT EQUAL: the server says {}", text(said)));
    }
}

#[cfg(test)]
mod tests;
