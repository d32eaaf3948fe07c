//! `tokenmeter watch`: events as they happen, over every loss of the connection.
//!
//! The resume token of an event is kept only after the event was printed: what is printed twice
//! after a crash is better than what is never printed.

mod show;

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use futures_util::FutureExt as _;
use tokenmeter_api::status::failure_of;
use tokenmeter_api::v1;
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_api::v1::stream_token_events_response::Event;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::connect::{Client, ClientArgs};
use super::error::{Error, describe};
use super::events::label;
use super::retry::{Patience, Retry, may_pass};
use super::{Output, files, render};

/// After how long without any response a stream counts as lost; a server that lives says so every
/// 15 seconds.
const SILENCE: Duration = Duration::from_secs(45);
/// Longest wait that a server may ask for before the next connection.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Longest token that is sent, in bytes.
const MAX_TOKEN_BYTES: usize = 1_024;
/// Most events that are printed before the token is written to its file; fewer where the stream
/// pauses.
const MAX_UNSAVED: u32 = 1_000;

/// Which events, from where on.
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {
    /// One user only.
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// One team only.
    #[arg(long, default_value = "", hide_default_value = true)]
    team: String,
    /// One session only.
    #[arg(long, default_value = "", hide_default_value = true)]
    session: String,
    /// This model only; repeat for several.
    #[arg(long)]
    model: Vec<String>,
    /// This type of event only; repeat for several.
    #[arg(long = "type", value_name = "TYPE", value_enum)]
    types: Vec<Type>,
    /// Events with this label only; repeat for several, all of which have to be there.
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<v1::Label>,
    /// Go on after the event that carried this token. If absent, from now on.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    resume: Option<String>,
    /// Go on where the last watch with this file ended, and keep the token in it. If there is no
    /// such file, from now on.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// End after this many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// A type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Type {
    /// Usage was recorded.
    Recorded,
    /// Usage was voided.
    Voided,
    /// Usage was priced again.
    Repriced,
    /// Tokens of a running call.
    TokenCount,
    /// A step in the life of a session or answer.
    Lifecycle,
    /// A share of a limit was crossed.
    LimitAlert,
}

impl Type {
    fn wire(self) -> v1::TokenEventType {
        match self {
            Self::Recorded => v1::TokenEventType::UsageRecorded,
            Self::Voided => v1::TokenEventType::UsageVoided,
            Self::Repriced => v1::TokenEventType::UsageRepriced,
            Self::TokenCount => v1::TokenEventType::TokenCount,
            Self::Lifecycle => v1::TokenEventType::Lifecycle,
            Self::LimitAlert => v1::TokenEventType::LimitAlert,
        }
    }
}

/// Runs the command until it is interrupted.
pub(crate) async fn run(args: WatchArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let token = match &args.token_file {
        None => args.resume.unwrap_or_default(),
        Some(path) => kept_token(path)?,
    };
    let mut watch = Watch {
        client: client.connect().await?,
        filter: v1::EventFilter {
            user_id: args.user,
            team_id: args.team,
            session_id: args.session,
            models: args.model,
            types: args.types.iter().map(|one| one.wire().into()).collect(),
            labels: args.label,
            ..Default::default()
        },
        saved: token.clone(),
        token,
        token_file: args.token_file,
        left: args.count,
        output,
        colours: output == Output::Table && render::colours(),
    };
    let interrupted = interrupted()?;
    let ended = tokio::select! {
        ended = watch.follow() => ended,
        () = interrupted => Ok(()),
    };
    watch.save()?;
    if !watch.token.is_empty() {
        render::note(&format!("resume token: {}", watch.token));
    }
    ended
}

fn kept_token(path: &std::path::Path) -> Result<String, Error> {
    // No file is a first watch, which begins from now; an empty one is a token that was lost.
    let Some(bytes) = files::read(path)? else {
        return Ok(String::new());
    };
    if bytes.trim_ascii().is_empty() {
        return Err(Error::Input(format!(
            "{} is empty, so that where to go on is not known; put the last token in it, or remove \
             it to watch from now on",
            path.display()
        )));
    }
    let token = String::from_utf8(bytes)
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|token| token.len() <= MAX_TOKEN_BYTES);
    token.ok_or_else(|| {
        Error::Input(format!(
            "{} holds no resume token; name another file",
            path.display()
        ))
    })
}

/// Comes when the user or the system asks this program to end.
fn interrupted() -> Result<impl Future<Output = ()>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| Error::Input(format!("signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// A watch over any number of connections.
struct Watch {
    client: Client,
    filter: v1::EventFilter,
    /// The token of the last response that was done with.
    token: String,
    /// What the token file holds.
    saved: String,
    token_file: Option<PathBuf>,
    /// How many events are still wanted; none means all.
    left: Option<u64>,
    output: Output,
    colours: bool,
}

/// Why a stream ended.
enum End {
    /// As many events were printed as were wanted.
    Enough,
    /// The server asks to connect again, after so long.
    Reconnect(Duration),
    /// The stream broke.
    Broken(Status),
}

impl Watch {
    /// Prints events until there were enough.
    async fn follow(&mut self) -> Result<(), Error> {
        let retry = Retry::with_notes(Duration::MAX);
        let mut patience = retry.patience();
        loop {
            match self.stream(&mut patience).await? {
                End::Enough => return Ok(()),
                End::Reconnect(after) => sleep(after.min(LONGEST_WAIT)).await,
                End::Broken(status) => {
                    if self.start_over(&status) {
                        continue;
                    }
                    if !may_pass(&status) {
                        return Err(status.into());
                    }
                    let asked = failure_of(&status).and_then(|failure| failure.retry_after);
                    patience.pause(&describe(&status), asked).await?;
                }
            }
        }
    }

    /// Takes the oldest token that works, if the own one is too old. True if it did.
    fn start_over(&mut self, status: &Status) -> bool {
        let expired = failure_of(status)
            .filter(|failure| failure.reason == ErrorReason::ResumeTokenExpired)
            .and_then(|failure| failure.metadata.get("oldest_resume_token").cloned())
            .filter(|oldest| *oldest != self.token);
        let Some(oldest) = expired else {
            return false;
        };
        render::note(
            "warning: the resume token is too old; what was recorded in between is in `tokenmeter \
             events list`, and the watch goes on with the oldest event that is kept",
        );
        self.token = oldest;
        true
    }

    /// Prints the events of one connection.
    async fn stream(&mut self, patience: &mut Patience<'_>) -> Result<End, Error> {
        let request = v1::StreamTokenEventsRequest {
            filter: Some(self.filter.clone()),
            resume_token: self.token.clone(),
            heartbeat_interval: None,
        };
        let mut stream = match self.client.analytics().stream_token_events(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return Ok(End::Broken(status)),
        };
        let mut unsaved = 0;
        loop {
            unsaved += 1;
            if unsaved > MAX_UNSAVED {
                self.save()?;
                unsaved = 0;
            }
            let next = match stream.message().now_or_never() {
                Some(next) => next,
                None => {
                    // Nothing waits to be printed: time to note how far it is.
                    self.save()?;
                    match timeout(SILENCE, stream.message()).await {
                        Ok(next) => next,
                        Err(_) => return Ok(End::Broken(silent())),
                    }
                }
            };
            let response = match next {
                Ok(Some(response)) => response,
                Ok(None) => {
                    let closed = Status::unavailable("the server ended the stream");
                    return Ok(End::Broken(closed));
                }
                Err(status) => return Ok(End::Broken(status)),
            };
            patience.success();
            if let Some(end) = self.take(response)? {
                return Ok(end);
            }
        }
    }

    /// Prints one response and keeps its token.
    fn take(&mut self, response: v1::StreamTokenEventsResponse) -> Result<Option<End>, Error> {
        let printed = show::print(&response, self.output, self.colours)?;
        if !response.resume_token.is_empty() {
            self.token = response.resume_token;
        }
        if let Some(Event::Reconnect(reconnect)) = response.event {
            let after = u64::try_from(reconnect.after_ms).unwrap_or_default();
            return Ok(Some(End::Reconnect(Duration::from_millis(after))));
        }
        if let (true, Some(left)) = (printed, &mut self.left) {
            *left -= 1;
            if *left == 0 {
                return Ok(Some(End::Enough));
            }
        }
        Ok(None)
    }

    /// Writes the token to its file, if there is one and it changed.
    fn save(&mut self) -> Result<(), Error> {
        let Some(path) = self
            .token_file
            .as_ref()
            .filter(|_| self.token != self.saved)
        else {
            return Ok(());
        };
        files::replace_on_disk(path, format!("{}\n", self.token).as_bytes())?;
        self.saved.clone_from(&self.token);
        Ok(())
    }
}

fn silent() -> Status {
    Status::unavailable(format!("no sign of life for {} s", SILENCE.as_secs()))
}

#[cfg(test)]
mod tests;
