//! `tokenmeter import`: history from files into the store, with a report that compares the two.
//!
//! Rows become events (`plan`; `provider`, `events` and `csv` know one format each), batches of them are delivered, again after every lost connection
//! (`deliver`), what is acknowledged is noted (`state`), and at the end every event of the file is
//! read back from the store (`readback`) and compared with what the file itself says (`report`).

mod csv;
mod deliver;
mod events;
mod file;
#[cfg(test)]
mod net_tests;
mod plan;
mod provider;
mod readback;
mod report;
mod run;
mod state;
#[cfg(test)]
mod tests;

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use prost_types::Timestamp;
use sha2::{Digest as _, Sha256};
use tokenmeter_api::v1;

use super::connect::{Client, ClientArgs};
use super::error::Error;
use super::events::label;
use super::prices::hex;
use super::retry::Retry;
use super::{Output, render, time};
use deliver::Store;
use plan::{Defaults, RowsOfLines, Source};
use report::Report;
use state::StateFile;

/// What to import.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Recorded provider responses, one JSON object a line, plain or gzip.
    ///
    /// Example: tokenmeter import provider-jsonl responses.jsonl --user ada --label source=replay
    ProviderJsonl(Box<ImportArgs>),
    /// Usage events, one JSON object a line, plain or gzip; what `export` writes is read, too.
    ///
    /// Example: tokenmeter import events-jsonl usage.jsonl.gz --tenant acme
    EventsJsonl(Box<ImportArgs>),
    /// A table of comma-separated values, one event a record, plain or gzip.
    ///
    /// Example: tokenmeter import csv trace.csv --map request_time=TIMESTAMP --map
    /// prompt=ContextTokens --map output=GeneratedTokens --set provider=openai --set model=gpt-4o
    Csv(Box<csv::CsvArgs>),
}

/// A format of files, and how it is to be read.
#[derive(Debug)]
enum Format {
    Provider,
    Events,
    Csv(csv::Layout),
}

impl Format {
    /// What tells this way of reading a file from every other.
    fn identity(&self) -> Vec<String> {
        match self {
            Self::Provider => Vec::new(),
            Self::Events => vec!["events-jsonl".to_owned()],
            Self::Csv(layout) => layout.identity(),
        }
    }

    /// The rows of `reader`.
    fn rows(&self, reader: Box<dyn BufRead>, defaults: Defaults) -> Result<Box<dyn Source>, Error> {
        Ok(match self {
            Self::Provider => Box::new(RowsOfLines::new(reader, defaults, provider::plan)),
            Self::Events => Box::new(RowsOfLines::new(reader, defaults, events::plan)),
            Self::Csv(layout) => Box::new(layout.rows(reader, defaults)?),
        })
    }
}

/// Options of an import.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The file, plain or gzip.
    file: PathBuf,
    /// Whose usage rows without a user are; none means the caller.
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// The team of rows without one.
    #[arg(long, default_value = "", hide_default_value = true)]
    team: String,
    /// The session of rows without one.
    #[arg(long, default_value = "", hide_default_value = true)]
    session: String,
    /// A label for every event; repeat for several.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<v1::Label>,
    /// The time of rows without one. If absent, the provider's own, else when recorded.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    time: Option<Timestamp>,
    /// How to print the final report; as --output if absent.
    #[arg(long, value_enum)]
    report: Option<Output>,
    /// Fail if any row was refused.
    #[arg(long)]
    strict: bool,
    /// Where to note what is done. If absent, under the user's state folder.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Begin at the first row, whatever was done before.
    #[arg(long)]
    restart: bool,
    /// How long to go on trying while the server does not answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(..=86_400))]
    retry_for: u64,
}

/// Runs the command.
pub(crate) async fn run(
    command: ImportCommand,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let (args, format) = match command {
        ImportCommand::ProviderJsonl(args) => (*args, Format::Provider),
        ImportCommand::EventsJsonl(args) => (*args, Format::Events),
        ImportCommand::Csv(args) => {
            let (args, layout) = args.layout()?;
            (args, Format::Csv(layout))
        }
    };
    let content = file::content(&args.file)?;
    let key = key(&args, &format, client, &content.hash)?;
    let state = StateFile::open(args.state.clone(), &key, args.restart)?;
    let defaults = Defaults {
        user: args.user.clone(),
        team: args.team.clone(),
        session: args.session.clone(),
        labels: args.label.clone(),
        time: args.time,
        file_hash: content.hash,
    };
    let rows = || format.rows(file::open(&args.file)?, defaults.clone());
    let source = rows()?;
    let store = client.connect().await?;

    let bar = progress_bar(content.bytes);
    let retry = Retry {
        keep_trying: Duration::from_secs(args.retry_for),
        notice: Box::new({
            let bar = bar.clone();
            move |cause| bar.set_message(cause.to_owned())
        }),
    };
    let import = run::Import {
        store: &store,
        retry: &retry,
    };
    let progress = |end| bar.set_position(end);
    let done = import.run(source, &state, progress).await;
    let mut done = done.inspect_err(|_| bar.abandon())?;
    bar.set_message("reading back");
    let standing = readback::read_back(&store, &retry, &done.accepted).await;
    bar.finish_and_clear();
    let report = match standing {
        Ok(standing) => {
            if !standing.voided.is_empty() {
                run::leave_out(&mut done, rows()?, standing.voided.clone())?;
            }
            state.remove()?;
            Report::new(&done, Some(standing))
        }
        Err(error) => {
            render::note(&format!("error: the store could not be read back: {error}"));
            Report::new(&done, None)
        }
    };
    match args.report.unwrap_or(output) {
        Output::Json => render::json(&report)?,
        Output::Table => report.print()?,
    }
    if done.resumed && !report.equal() {
        render::note(
            "note: this run went on where an earlier one ended; run it with --restart to send every row again",
        );
    }
    if report.equal() && !(args.strict && report.any_refused()) {
        return Ok(());
    }
    Err(Error::Reported)
}

/// What tells this import from every other: where to, who, which file, and what rows become.
fn key(
    args: &ImportArgs,
    format: &Format,
    client: &ClientArgs,
    file_hash: &str,
) -> Result<String, Error> {
    let mut parts: Vec<String> = client.identity()?.into();
    parts.push(file_hash.to_owned());
    parts.extend([args.user.clone(), args.team.clone(), args.session.clone()]);
    parts.push(time::text(args.time.as_ref()));
    for label in &args.label {
        parts.extend([label.key.clone(), label.value.clone()]);
    }
    parts.extend(format.identity());
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Ok(hex(&hash.finalize()))
}

/// A bar on standard error; nothing where that is no terminal.
fn progress_bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let template = "{bar:40} {bytes}/{total_bytes} {elapsed}, {eta} left {msg}";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

impl Store for Client {
    async fn record(
        &self,
        events: Vec<v1::UsageEvent>,
    ) -> Result<Vec<v1::RecordResult>, tonic::Status> {
        let request = v1::BatchRecordUsageRequest {
            events,
            include_limits: false,
        };
        let answer = self.metering().batch_record_usage(request).await?;
        Ok(answer.into_inner().results)
    }

    async fn list(
        &self,
        request: v1::ListUsageEventsRequest,
    ) -> Result<v1::ListUsageEventsResponse, tonic::Status> {
        let answer = self.analytics().list_usage_events(request).await?;
        Ok(answer.into_inner())
    }

    async fn caller(&self) -> Result<String, tonic::Status> {
        let answer = self.admin().get_caller(v1::GetCallerRequest {}).await?;
        Ok(answer.into_inner().user_id)
    }
}
