//! A writer's connection, made anew when it is lost.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, timeout};

use super::connect::{self, State};
use super::records::Types;
use super::{Config, unavailable};
use crate::ledger::Error;

/// How long the first failure to connect is remembered: calls until then fail at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How long any is.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a connection that failed at something may take to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// An open connection, and how its database numbers the types that a write takes.
pub(super) struct Open {
    pub(super) connection: PgConnection,
    pub(super) types: Types,
}

/// A connection that may be lost.
pub(super) struct Link {
    config: Config,
    state: Arc<State>,
    open: Option<Open>,
    /// Why there is none, and until when it is not tried again.
    down: Option<(String, Instant)>,
    pause: Duration,
}

impl Link {
    /// Connects.
    pub(super) async fn open(config: &Config, state: Arc<State>) -> Result<Self, Error> {
        let mut link = Self {
            config: config.clone(),
            state,
            open: None,
            down: None,
            pause: FIRST_PAUSE,
        };
        link.get().await?;
        Ok(link)
    }

    /// The connection, made anew if it was lost; fails at once when that failed a moment ago.
    pub(super) async fn get(&mut self) -> Result<&mut Open, Error> {
        if self.open.is_none() {
            if let Some((why, until)) = &self.down
                && Instant::now() < *until
            {
                return Err(Error::Unavailable(why.clone()));
            }
            match connect(&self.config, &self.state).await {
                Ok(open) => {
                    self.open = Some(open);
                    self.down = None;
                    self.pause = FIRST_PAUSE;
                }
                Err(error) => {
                    self.down = Some((error.to_string(), Instant::now() + self.pause));
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                    return Err(error);
                }
            }
        }
        let none = || Error::Unavailable("the connection to the ledger is lost".into());
        self.open.as_mut().ok_or_else(none)
    }

    /// Gives the connection up, whatever it is at.
    pub(super) fn lose(&mut self) {
        self.open = None;
    }

    /// After something failed: gives the connection up unless it still answers.
    pub(super) async fn examine(&mut self) {
        let Some(open) = &mut self.open else { return };
        let ping = timeout(PING_TIMEOUT, open.connection.ping()).await;
        if !matches!(ping, Ok(Ok(()))) {
            self.lose();
        }
    }

    /// Ends the session.
    pub(super) async fn close(self) {
        if let Some(open) = self.open
            && let Err(error) = open.connection.close().await
        {
            tracing::warn!(%error, "closing a connection of the ledger");
        }
    }
}

async fn connect(config: &Config, state: &State) -> Result<Open, Error> {
    let mut connection = connect::writer(config, state).await?;
    // One plan for each statement: planning anew for every group costs more than it could win.
    sqlx::query("SET plan_cache_mode = force_generic_plan")
        .execute(&mut connection)
        .await
        .map_err(unavailable)?;
    let types = Types::read(&mut connection).await?;
    Ok(Open { connection, types })
}
