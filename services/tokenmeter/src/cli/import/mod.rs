//! `tokenmeter import`: history from files into the store, with a report that compares the two.
//!
//! Rows become events (`plan`), batches of them are delivered, again after every lost connection
//! (`deliver`), what is acknowledged is noted (`state`), and at the end every event of the file is
//! read back from the store (`readback`) and compared with what the file itself says (`report`).

mod deliver;
#[cfg(test)]
mod net_tests;
mod plan;
mod readback;
mod report;
mod run;
mod state;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};
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
use super::{Output, render, time};
use deliver::{Retry, Store};
use plan::Defaults;
use report::Report;
use state::StateFile;

/// What to import.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Recorded provider responses, one JSON object a line.
    ProviderJsonl(Box<ImportArgs>),
}

/// Options of an import.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The file.
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
    let ImportCommand::ProviderJsonl(args) = command;
    let (hash, bytes) = hash(&args.file)?;
    let key = key(&args, client, &hash)?;
    let state = StateFile::open(args.state.clone(), &key, args.restart)?;
    let store = client.connect().await?;

    let bar = progress_bar(bytes);
    let retry = Retry {
        keep_trying: Duration::from_secs(args.retry_for),
        notice: Box::new({
            let bar = bar.clone();
            move |cause| bar.set_message(cause.to_owned())
        }),
    };
    let file = File::open(&args.file).map_err(|error| Error::file("open", &args.file, &error))?;
    let import = run::Import {
        store: &store,
        retry: &retry,
        defaults: Defaults {
            user: args.user.clone(),
            team: args.team.clone(),
            session: args.session.clone(),
            labels: args.label.clone(),
            time: args.time,
            file_hash: hash,
        },
    };
    let progress = |end| bar.set_position(end);
    let done = import.run(BufReader::new(file), &state, progress).await;
    let done = done.inspect_err(|_| bar.abandon())?;
    bar.set_message("reading back");
    let standing = readback::read_back(&store, &retry, &done.accepted).await;
    bar.finish_and_clear();
    let report = match standing {
        Ok(standing) => {
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

/// The file's SHA-256 in hexadecimal digits, and its length.
fn hash(path: &Path) -> Result<(String, u64), Error> {
    let failed = |error| Error::file("read", path, &error);
    let mut file = File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), bytes));
        }
        bytes += read as u64;
        hash.update(&buffer[..read]);
    }
}

/// What tells this import from every other: where to, who, which file, and what rows become.
fn key(args: &ImportArgs, client: &ClientArgs, file_hash: &str) -> Result<String, Error> {
    let mut parts: Vec<String> = client.identity()?.into();
    parts.push(file_hash.to_owned());
    parts.extend([args.user.clone(), args.team.clone(), args.session.clone()]);
    parts.push(time::text(args.time.as_ref()));
    for label in &args.label {
        parts.extend([label.key.clone(), label.value.clone()]);
    }
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
