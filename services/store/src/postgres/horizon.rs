//! Up to where the log is complete: what is before it was committed, or never will be.
//!
//! Positions are given out by transaction ids and become visible in another order. One task a node asks
//! the server which writers' transactions are open, and publishes the last commit before the first of
//! them (adr/0011). It is woken by this node's commits and by the notifications of others; it looks by
//! itself now and then, because a notification can be lost.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgListener};
use tokenmeter_model::id::TenantId;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::alarm::{Alarm, Tell};
use super::connect::{self, State};
use super::{Config, unavailable};
use crate::fault::{Planted, is_planted};
use crate::ledger::Error;
use crate::metrics;
use crate::touched::{Given, Touched};

/// Bits of a position that number the rows of one transaction.
pub(super) const ROW_BITS: u32 = 15;
/// Where nodes tell each other that they have committed.
const CHANNEL: &str = "tokenmeter_commits";
/// The shortest time from one look to the next, in which commits gather; notifications are no more
/// frequent either.
const GAP: Duration = Duration::from_millis(5);
/// How often it looks when nothing wakes it.
const POLL: Duration = Duration::from_secs(1);
/// How often, at first and at last, while something waits for a transaction to end.
const STEPS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// How long the server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a connection was lost, at first and at last.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a caller waits for the position of now, and for one that another node has told of.
const PATIENCE: Duration = Duration::from_secs(5);
/// Commits that one look goes through; of more at once it is not remembered whose they were.
const MAX_COMMITS: i64 = 8_192;

/// Follows the horizon.
pub(super) struct Horizon {
    committed: watch::Receiver<i64>,
    opening: Arc<RwLock<Arc<str>>>,
    nudge: Nudge,
    touched: Arc<Touched>,
    wake: Arc<Notify>,
    tasks: [AbortOnDropHandle<()>; 2],
}

/// Tells the horizon that this node has committed a position.
#[derive(Clone)]
pub(super) struct Nudge(Arc<watch::Sender<i64>>);

impl Nudge {
    /// Everything of a transaction of this node up to the position is on disk.
    pub(super) fn acknowledged(&self, position: i64) {
        self.0.send_if_modified(|last| {
            let further = position > *last;
            *last = position.max(*last);
            further
        });
    }

    /// A position that was acknowledged before the look and is not there, though nothing holds the
    /// look up, was lost with the server that gave it out: nobody waits for it any more.
    fn forget(&self, acknowledged: i64, look: &Look) {
        if acknowledged > look.committed && look.transaction.is_none() {
            self.0.send_modify(|last| {
                if *last == acknowledged {
                    *last = look.committed;
                }
            });
        }
    }
}

impl Horizon {
    /// Begins to follow it.
    pub(super) async fn start(config: &Config, state: Arc<State>) -> Result<Self, Error> {
        let mut connection = connect::watcher(config, &state).await?;
        let first = Look::take(&mut connection, i64::MAX).await?;
        let (publish, committed) = watch::channel(first.committed);
        let nudge = Nudge(Arc::new(watch::Sender::new(first.committed)));
        let touched = Arc::new(Touched::new(first.committed));
        let wake = Arc::new(Notify::new());
        let node = format!("{:016x}", spread());
        let opening = Arc::new(RwLock::new(state.opening()));
        let watcher = Watcher {
            config: config.clone(),
            state,
            publish,
            opening: Arc::clone(&opening),
            nudge: nudge.clone(),
            acknowledged: nudge.0.subscribe(),
            touched: Arc::clone(&touched),
            wake: Arc::clone(&wake),
            node: node.clone(),
            told: first.committed,
            alarm: Alarm::default(),
        };
        let listener = listen(config.url.clone(), node, Arc::clone(&wake));
        Ok(Self {
            committed,
            opening,
            nudge,
            touched,
            wake,
            tasks: [
                AbortOnDropHandle::new(tokio::spawn(watcher.run(connection))),
                AbortOnDropHandle::new(listener),
            ],
        })
    }

    pub(super) fn nudge(&self) -> Nudge {
        self.nudge.clone()
    }

    pub(super) fn committed(&self) -> watch::Receiver<i64> {
        self.committed.clone()
    }

    /// The last position that this node has acknowledged.
    pub(super) fn written(&self) -> i64 {
        *self.nudge.0.borrow()
    }

    /// The opening of which the horizon is: who reads it first finds a horizon of this opening, or of
    /// a later one.
    pub(super) fn opening(&self) -> Arc<str> {
        let opening = self.opening.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&opening)
    }

    /// Waits until the horizon covers what this node has acknowledged.
    pub(super) async fn last_position(&self) -> Result<i64, Error> {
        let acknowledged = *self.nudge.0.borrow();
        self.reach(acknowledged).await?.ok_or_else(|| {
            Error::Unavailable(
                "the position of now is held up by the open transaction of a writer".into(),
            )
        })
    }

    /// Waits until the horizon covers a position that was told of in this run of the server; answers
    /// the horizon, or none if it does not in good time.
    pub(super) async fn reach(&self, position: i64) -> Result<Option<i64>, Error> {
        let mut committed = self.committed();
        if *committed.borrow() < position {
            self.wake.notify_one();
        }
        let covered = committed.wait_for(|at| *at >= position);
        match tokio::time::timeout(PATIENCE, covered).await {
            Ok(Ok(at)) => Ok(Some(*at)),
            Ok(Err(_)) => Err(Error::Unavailable("the ledger is closed".into())),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn touched(&self, tenant: &TenantId, since: i64) -> bool {
        self.touched.since(tenant, since)
    }

    pub(super) async fn close(&self) {
        self.tasks.iter().for_each(AbortOnDropHandle::abort);
    }
}

/// What the server answers.
#[derive(Debug, sqlx::FromRow)]
struct Look {
    /// The first open transaction of a writer, and its session if it still has one.
    transaction: Option<i64>,
    pid: Option<i32>,
    /// The last commit before it.
    committed: i64,
    /// Whether there are commits after it.
    waiting: bool,
    /// How many commits of these tenants there were since the last look.
    commits: i64,
    tenants: Vec<String>,
}

impl Look {
    async fn take(connection: &mut PgConnection, since: i64) -> Result<Self, Error> {
        let writers = match is_planted(Planted::PassOpenTransactions) {
            true => 0,
            false => connect::WRITERS,
        };
        let sql = include_str!("queries/horizon.sql");
        let asked = match is_planted(Planted::WaitForAnybody) {
            true => sqlx::query_as(AssertSqlSafe(
                sql.replace("l.transactionid IS NULL", "TRUE"),
            )),
            false => sqlx::query_as(sql),
        };
        let asked = asked
            .bind(since)
            .bind(MAX_COMMITS)
            .bind(writers)
            .fetch_one(connection);
        in_time(asked).await
    }
}

/// The task that looks.
struct Watcher {
    config: Config,
    state: Arc<State>,
    publish: watch::Sender<i64>,
    opening: Arc<RwLock<Arc<str>>>,
    nudge: Nudge,
    acknowledged: watch::Receiver<i64>,
    touched: Arc<Touched>,
    wake: Arc<Notify>,
    /// Names this node among those who listen.
    node: String,
    /// What the other nodes were told of.
    told: i64,
    alarm: Alarm,
}

impl Watcher {
    /// Looks as long as the ledger is open. The connection is made again when it is lost; until then
    /// the horizon stays where it is.
    async fn run(mut self, mut connection: PgConnection) {
        let mut pause = RECONNECT.0;
        loop {
            let Err(error) = self.follow(&mut connection, &mut pause).await;
            tracing::error!(%error, "looking for the end of the log");
            let lost = Instant::now();
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RECONNECT.1);
                metrics::log_held(lost.elapsed());
                match self.connect().await {
                    Ok(made) => {
                        connection = made;
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "connecting to look for the log's end"),
                }
            }
        }
    }

    /// Connects again. Where the server was started in between, what this node knew may be gone: it
    /// begins with what is there, under the new opening.
    async fn connect(&mut self) -> Result<PgConnection, Error> {
        let mut connection = connect::watcher(&self.config, &self.state).await?;
        let now = self.state.opening();
        let known = self.opening.read().map(|known| Arc::clone(&known));
        if known.is_ok_and(|known| known == now) {
            return Ok(connection);
        }
        let acknowledged = *self.acknowledged.borrow();
        let first = Look::take(&mut connection, i64::MAX).await?;
        self.nudge.forget(acknowledged, &first);
        self.touched.restart(first.committed);
        self.publish.send_replace(first.committed);
        *self.opening.write().unwrap_or_else(PoisonError::into_inner) = now;
        // Once more, for those who look at the opening.
        self.publish.send_replace(first.committed);
        Ok(connection)
    }

    async fn follow(
        &mut self,
        connection: &mut PgConnection,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, Error> {
        let mut step = STEPS.0;
        loop {
            let begun = Instant::now();
            let wanted = *self.acknowledged.borrow_and_update();
            let before = *self.publish.borrow();
            let look = Look::take(connection, before).await?;
            *pause = RECONNECT.0;
            self.watch(&look);
            self.nudge.forget(wanted, &look);
            self.advance(before, &look);
            self.tell(connection, wanted).await?;
            let further = look.committed > before;
            let behind = look.waiting || look.committed < *self.acknowledged.borrow();
            step = match (further, behind) {
                (_, false) => POLL,
                (true, true) => STEPS.0,
                (false, true) => (step * 2).clamp(STEPS.0, STEPS.1),
            };
            self.woken(begun, step).await;
        }
    }

    /// Waits for something to look for.
    async fn woken(&mut self, begun: Instant, step: Duration) {
        let poll = async {
            match is_planted(Planted::DeafToOthers) {
                true => std::future::pending().await,
                false => tokio::time::sleep(step).await,
            }
        };
        tokio::select! {
            _ = self.acknowledged.changed() => {}
            () = self.wake.notified() => {}
            () = poll => {}
        }
        tokio::time::sleep_until(begun + GAP).await;
    }

    /// Publishes how far the log is complete. It never goes back while the server runs.
    fn advance(&self, before: i64, look: &Look) {
        if look.committed <= before {
            return;
        }
        let names = look.tenants.iter().map(TenantId::new);
        let tenants: Result<Vec<_>, _> = names.collect();
        let all = look.commits < MAX_COMMITS;
        match tenants {
            Ok(tenants) if all => {
                let given = Given {
                    after: before,
                    last: look.committed,
                };
                self.touched.add(given, &tenants);
            }
            // Too many to remember: it may be anybody's.
            _ => {
                let given = Given {
                    after: look.committed,
                    last: look.committed,
                };
                self.touched.add(given, []);
            }
        }
        self.publish.send_replace(look.committed);
    }

    /// Tells the other nodes that this one has committed; in a transaction of its own, because
    /// notifying ones commit one after the other.
    async fn tell(&mut self, connection: &mut PgConnection, upto: i64) -> Result<(), Error> {
        if upto <= self.told {
            return Ok(());
        }
        let tell = sqlx::query("SELECT pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(&self.node)
            .execute(connection);
        in_time(tell).await?;
        self.told = upto;
        Ok(())
    }

    /// Measures how long the same transaction has held up the log, and warns once of each.
    fn watch(&mut self, look: &Look) {
        let (lasting, tell) = self.alarm.see(look.transaction, Instant::now());
        metrics::log_held(lasting);
        match tell {
            Tell::Nothing => {}
            Tell::Over => tracing::info!("the log goes on"),
            Tell::Held => tracing::warn!(
                pid = look.pid,
                seconds = lasting.as_secs(),
                "a writer's transaction holds up the log: look its pid up in pg_stat_activity"
            ),
        }
    }
}

/// Wakes the watcher when another node has committed, and whenever something may have been missed.
fn listen(url: String, node: String, wake: Arc<Notify>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            if let Err(error) = heed(&url, &node, &wake).await {
                tracing::debug!(%error, "listening to other nodes");
            }
            tokio::time::sleep(RECONNECT.1).await;
        }
    })
}

async fn heed(url: &str, node: &str, wake: &Notify) -> Result<(), Error> {
    let pool = connect::pool(url, 1).await?;
    let mut listener = PgListener::connect_with(&pool).await.map_err(unavailable)?;
    listener.listen(CHANNEL).await.map_err(unavailable)?;
    loop {
        let heard = listener.try_recv().await.map_err(unavailable)?;
        let own = heard.is_some_and(|heard| heard.payload() == node);
        if !own && !is_planted(Planted::DeafToOthers) {
            wake.notify_one();
        }
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(answered) => answered.map_err(unavailable),
        Err(_) => Err(Error::Unavailable("the server does not answer".into())),
    }
}

/// A number that no other node has.
fn spread() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(committed: i64, transaction: Option<i64>) -> Look {
        Look {
            transaction,
            pid: None,
            committed,
            waiting: false,
            commits: 0,
            tenants: Vec::new(),
        }
    }

    /// A standby that lacked the last commit took the server's place: everything that it gives out lies
    /// above what was lost, so that it is not told by its position alone.
    #[test]
    fn what_was_acknowledged_and_is_lost_is_not_waited_for() {
        let nudge = Nudge(Arc::new(watch::Sender::new(0)));
        nudge.acknowledged(70);
        // It may be behind the transaction that is open.
        nudge.forget(70, &look(60, Some(1)));
        assert_eq!(*nudge.0.borrow(), 70);
        nudge.forget(70, &look(60, None));
        assert_eq!(*nudge.0.borrow(), 60);
        // What is there stays, and so does what was acknowledged after the look.
        nudge.acknowledged(80);
        nudge.forget(80, &look(80, None));
        nudge.forget(60, &look(59, None));
        assert_eq!(*nudge.0.borrow(), 80);
    }
}
