//! Up to where the log is complete: what is before it was committed, or never will be.
//!
//! Positions are given out by transaction ids and become visible in another order. One task a node asks
//! the server which writers' transactions are open, and publishes the last commit before the first of
//! them (adr/0011). It is woken by this node's commits and by the notifications of others; it looks by
//! itself now and then, because a notification can be lost.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgListener};
use tokenmeter_model::id::TenantId;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

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
/// From when on a transaction that holds up the log is warned of.
const ALARM: Duration = Duration::from_secs(10);
/// Commits that one look goes through; of more at once it is not remembered whose they were.
const MAX_COMMITS: i64 = 8_192;

/// Follows the horizon.
pub(super) struct Horizon {
    committed: watch::Receiver<i64>,
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
        let watcher = Watcher {
            config: config.clone(),
            state,
            publish,
            acknowledged: nudge.0.subscribe(),
            touched: Arc::clone(&touched),
            wake: Arc::clone(&wake),
            node: node.clone(),
            told: first.committed,
            held: None,
        };
        let listener = listen(config.url.clone(), node, Arc::clone(&wake));
        Ok(Self {
            committed,
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
        let asked = sqlx::query_as(include_str!("queries/horizon.sql"))
            .bind(since)
            .bind(MAX_COMMITS)
            .bind(writers)
            .fetch_one(connection);
        in_time(asked).await
    }
}

/// The transaction that holds up the log, since when, and whether that was told.
struct Held {
    transaction: i64,
    since: Instant,
    warned: bool,
}

/// The task that looks.
struct Watcher {
    config: Config,
    state: Arc<State>,
    publish: watch::Sender<i64>,
    acknowledged: watch::Receiver<i64>,
    touched: Arc<Touched>,
    wake: Arc<Notify>,
    /// Names this node among those who listen.
    node: String,
    /// What the other nodes were told of.
    told: i64,
    held: Option<Held>,
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
                match connect::watcher(&self.config, &self.state).await {
                    Ok(made) => {
                        connection = made;
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "connecting to look for the log's end"),
                }
            }
        }
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
            self.advance(before, &look);
            self.tell(connection, wanted).await?;
            let further = look.committed > before;
            let behind = look.waiting || *self.publish.borrow() < wanted;
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

    /// Publishes how far the log is complete. It never goes back: what was there stays, and after a
    /// restore or a failover new positions are above all that were given out.
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
        let held = match (look.transaction, self.held.take()) {
            (None, before) => {
                metrics::log_held(Duration::ZERO);
                if before.is_some_and(|held| held.warned) {
                    tracing::info!("the log goes on");
                }
                return;
            }
            (Some(transaction), Some(held)) if held.transaction == transaction => held,
            (Some(transaction), _) => Held {
                transaction,
                since: Instant::now(),
                warned: false,
            },
        };
        let lasting = held.since.elapsed();
        metrics::log_held(lasting);
        let warn = lasting >= ALARM && !held.warned;
        if warn {
            let (pid, seconds) = (look.pid.unwrap_or_default(), lasting.as_secs());
            tracing::warn!(
                pid,
                seconds,
                "a writer's transaction holds up the log: see pg_stat_activity for its pid"
            );
        }
        self.held = Some(Held {
            warned: held.warned || warn,
            ..held
        });
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
