//! The runner on a paused clock, with leases in memory.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use tokenmeter_model::id::TenantId;
use tokenmeter_store::ledger::Error;

use super::*;

/// 2026-08-01T00:00:00Z.
const AUGUST: i64 = 1_785_542_400_000_000;
const MINUTE_US: i64 = 60_000_000;

/// Jobs by name, each with the generation of its lease.
type States = HashMap<String, (JobState, i64)>;

/// Leases by tokio's clock, which tests pause and the runner's clock is too.
struct Leases {
    began: Instant,
    jobs: Mutex<States>,
    /// Nobody can reach the ledger.
    down: Mutex<bool>,
}

impl Leases {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            jobs: Mutex::default(),
            down: Mutex::new(false),
        })
    }

    fn now_us(&self) -> i64 {
        AUGUST + i64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    fn jobs(&self) -> Result<MutexGuard<'_, States>, Error> {
        match *self.down.lock().unwrap() {
            true => Err(Error::Unavailable("down".into())),
            false => Ok(self.jobs.lock().unwrap()),
        }
    }

    fn state(&self, job: &str) -> JobState {
        self.jobs.lock().unwrap()[job].0.clone()
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap()
}

#[async_trait]
impl Jobs for Leases {
    async fn take_job(
        &self,
        job: &str,
        node: &str,
        key: &str,
        lease: Duration,
    ) -> Result<Option<Lease>, Error> {
        let now_us = self.now_us();
        let mut jobs = self.jobs()?;
        let (state, generation) = jobs.entry(job.to_owned()).or_default();
        if state.lease_until_us > now_us || &*state.last_key >= key {
            return Ok(None);
        }
        *generation += 1;
        state.node = node.to_owned();
        state.lease_until_us = now_us + micros(lease);
        state.running = true;
        Ok(Some(Lease {
            job: job.to_owned(),
            generation: *generation,
        }))
    }

    async fn renew_job(&self, held: &Lease, lease: Duration) -> Result<bool, Error> {
        let now_us = self.now_us();
        let mut jobs = self.jobs()?;
        let (state, generation) = jobs.get_mut(&held.job).unwrap();
        state.lease_until_us = now_us + micros(lease);
        Ok(*generation == held.generation)
    }

    async fn end_job(&self, held: &Lease, ending: Ending<'_>, detail: &str) -> Result<bool, Error> {
        let now_us = self.now_us();
        let mut jobs = self.jobs()?;
        let (state, generation) = jobs.get_mut(&held.job).unwrap();
        if *generation != held.generation {
            return Ok(false);
        }
        state.running = false;
        state.detail = detail.to_owned();
        state.lease_until_us = now_us;
        match ending {
            Ending::Done { key } => {
                state.last_key = key.to_owned();
                state.failures = 0;
            }
            Ending::Failed { retry_after } => {
                state.failures += 1;
                state.lease_until_us += micros(retry_after);
            }
            Ending::Released => {}
        }
        Ok(true)
    }

    async fn jobs(&self) -> Result<Vec<JobState>, Error> {
        let now_us = self.now_us();
        let jobs = self.jobs()?;
        let states = jobs.iter().map(|(name, (state, _))| JobState {
            job: name.clone(),
            free: state.lease_until_us <= now_us,
            ..state.clone()
        });
        Ok(states.collect())
    }

    async fn make_room(&self, _: i64) -> Result<(), Error> {
        Ok(())
    }

    async fn tenants(&self, _: Option<&TenantId>, _: i64) -> Result<Vec<TenantId>, Error> {
        Ok(Vec::new())
    }
}

/// Counts its runs; fails the first so many, and takes its time.
struct Counted {
    begun: AtomicUsize,
    done: AtomicUsize,
    failures: usize,
    takes: Duration,
}

impl Counted {
    fn new(failures: usize, takes: Duration) -> Arc<Self> {
        Arc::new(Self {
            begun: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            failures,
            takes,
        })
    }

    fn counts(&self) -> (usize, usize) {
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        (count(&self.begun), count(&self.done))
    }
}

#[async_trait]
impl Work for Counted {
    async fn run(&self) -> Result<String, String> {
        let before = self.begun.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        if before < self.failures {
            return Err("no disk".into());
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        Ok(format!("run {}", before + 1))
    }
}

/// A node that begins at a time, with one job.
fn node(name: &str, leases: &Arc<Leases>, work: &Arc<Counted>) -> Node {
    let clock = Arc::clone(leases);
    let offset = Arc::new(AtomicI64::new(0));
    let ahead = Arc::clone(&offset);
    let runner = Runner {
        ledger: Arc::clone(leases) as Arc<dyn Jobs>,
        clock: Arc::new(move || clock.now_us() + ahead.load(Ordering::SeqCst)),
        zone: Zone::utc(),
        node: name.to_owned(),
        tasks: vec![Task {
            plan: Plan::ROLLOVER,
            work: Arc::clone(work) as Arc<dyn Work>,
        }],
    };
    let stop = CancellationToken::new();
    Node {
        run: tokio::spawn(runner.run(stop.clone())),
        stop,
        offset,
    }
}

struct Node {
    run: JoinHandle<()>,
    stop: CancellationToken,
    /// By how much its clock is ahead, in microseconds.
    offset: Arc<AtomicI64>,
}

impl Node {
    async fn stop(self) {
        self.stop.cancel();
        self.run.await.unwrap();
    }
}

async fn minutes(minutes: u64) {
    tokio::time::sleep(Duration::from_secs(minutes * 60)).await;
}

#[tokio::test(start_paused = true)]
async fn two_nodes_do_each_month_once() {
    let (leases, work) = (Leases::new(), Counted::new(0, Duration::from_secs(300)));
    let nodes = [node("a", &leases, &work), node("b", &leases, &work)];
    // A month before was never closed: it is caught up at once.
    minutes(9).await;
    assert_eq!(work.counts(), (1, 1));
    assert_eq!(leases.state("rollover").last_key, "2026-06");
    minutes(2).await;
    assert_eq!(work.counts(), (2, 1), "ten minutes past midnight");
    minutes(24 * 60).await;
    assert_eq!(work.counts(), (2, 2));
    let state = leases.state("rollover");
    assert_eq!((&*state.last_key, &*state.detail), ("2026-07", "run 2"));
    minutes(31 * 24 * 60).await;
    assert_eq!(work.counts(), (3, 3));
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_retried_after_ever_longer_times() {
    let (leases, work) = (Leases::new(), Counted::new(2, Duration::ZERO));
    let node = node("a", &leases, &work);
    minutes(0).await;
    for (wait, begun) in [(0, 1), (2, 2), (3, 3)] {
        minutes(wait).await;
        tokio::task::yield_now().await;
        assert_eq!(work.counts().0, begun, "after {wait} more minutes");
    }
    let state = leases.state("rollover");
    assert_eq!((work.counts().1, state.failures), (1, 0));
    assert_eq!(
        [0, 1, 5, 6, 99].map(|n| backoff(n).as_secs()),
        [60, 120, 1_920, 3_600, 3_600]
    );
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_node_takes_over_from_one_that_died() {
    let (leases, work) = (Leases::new(), Counted::new(0, Duration::from_secs(300)));
    let dead = node("a", &leases, &work);
    minutes(1).await;
    dead.run.abort();
    // Its run was a task of its own, as its process had; it ends with the lease.
    *leases.down.lock().unwrap() = true;
    minutes(2).await;
    *leases.down.lock().unwrap() = false;
    assert_eq!(work.counts(), (1, 0), "it stopped when it could not renew");
    let alive = node("b", &leases, &work);
    minutes(6).await;
    assert_eq!(work.counts(), (2, 1));
    assert_eq!(leases.state("rollover").node, "b");
    alive.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_lost_the_lease_stops() {
    let (leases, work) = (Leases::new(), Counted::new(0, Duration::from_secs(300)));
    let one = node("a", &leases, &work);
    minutes(1).await;
    // As if the node had slept: another took the lease, and ended.
    if let Some((state, generation)) = leases.jobs.lock().unwrap().get_mut("rollover") {
        *generation += 1;
        state.last_key = "2026-07".into();
    }
    minutes(10).await;
    assert_eq!(work.counts(), (1, 0));
    one.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_breaks_off_and_lets_go() {
    let (leases, work) = (Leases::new(), Counted::new(0, Duration::from_secs(300)));
    let one = node("a", &leases, &work);
    minutes(1).await;
    let asked = Instant::now();
    one.stop().await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(work.counts(), (1, 0));
    let state = leases.state("rollover");
    assert!(!state.running && state.lease_until_us <= leases.now_us());
    assert_eq!((&*state.last_key, state.failures), ("", 0));
    // The next node does it at once.
    let other = node("b", &leases, &work);
    minutes(6).await;
    assert_eq!(work.counts(), (2, 1));
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_behind_repeats_nothing() {
    let (leases, work) = (Leases::new(), Counted::new(0, Duration::ZERO));
    let one = node("a", &leases, &work);
    minutes(15).await;
    assert_eq!(leases.state("rollover").last_key, "2026-07");
    let behind = node("b", &leases, &work);
    behind.offset.store(-20 * MINUTE_US, Ordering::SeqCst);
    minutes(60).await;
    assert_eq!(leases.state("rollover").last_key, "2026-07");
    assert_eq!(work.counts(), (2, 2));
    one.stop().await;
    behind.stop().await;
}
