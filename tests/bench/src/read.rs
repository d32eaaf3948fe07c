//! `read`: what a user's totals cost to ask for, and whether that grows with the ledger.

use std::time::Duration;

use clap::Args;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokenmeter_api::v1;
use tokenmeter_model::id::TenantId;
use tokenmeter_store::ledger::{Ledger as _, Range, Subject};
use tokenmeter_store::postgres::{Config, Postgres};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::data::{Random, tenant_id, with_tenant};
use crate::figures::{Case, Cost};
use crate::place::{Made, Room};
use crate::record::{Common, WARM_UP, alternate, now_us, serve_on};

const FILL: &str = include_str!("../reference/fill.sql");
const SUM: &str = include_str!("../reference/sum.sql");
/// Events that one statement makes.
const CHUNK: i64 = 250_000;
/// Events of the small ledger.
const SMALL: i64 = 10_000;
const DAY_US: i64 = 86_400_000_000;
/// Over how long the events are spread.
const SPREAD_US: i64 = 80 * DAY_US;
/// The user whose reading is explained, with as many events in every ledger.
const PROBE: &str = "probe";
const PROBE_EVENTS: i64 = 192;
/// Users of a tenant: see `fill.sql`.
const USERS: f64 = 1_000.0;
/// Calls in flight.
const IN_FLIGHT: usize = 4;

/// What `read` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// Events in the ledger that is read
    #[arg(long, default_value = "10000000")]
    events: i64,
}

/// Fills two ledgers, then prints a line for the calls and one for the pages that one reads.
pub(crate) fn run(runtime: &Runtime, options: &Options) {
    let place = options.common.announce();
    assert_eq!(place.backend(), "postgres", "read measures postgres: only");
    let end_us = now_us();
    let mut room = place.room();
    let sides = [SMALL, options.events].map(|events| {
        let made = room.make("ledger");
        fill(runtime, &made, events, end_us);
        let pages = runtime.block_on(pages(&made, end_us));
        eprintln!("  {events} events: {pages} pages to read a user's totals");
        (made, pages)
    });
    let [(_, before), (large, after)] = sides;
    calls(runtime, options, &room, &large).print();
    Cost::new("read_user_usage_pages", before, after, "pages").print();
}

/// `GetUserUsage` of users as they are met, beside the empty call.
fn calls(runtime: &Runtime, options: &Options, room: &Room, made: &Made) -> Case {
    let server = serve_on(room, "reading", made);
    let client = runtime.block_on(Client::connect(&[server.address()]));
    let mut random = Random::new(options.common.seed);
    let mut ask = |slice: Duration| {
        let work = std::iter::repeat_with({
            let mut random = Random::new(random.next());
            move || request(&mut random)
        });
        runtime.block_on(client.user_usage(work, IN_FLIGHT, slice))
    };
    ask(WARM_UP);
    runtime.block_on(client.empty(IN_FLIGHT, WARM_UP));
    let (ours, floor) = alternate(options.common.seconds, ask, |slice| {
        runtime.block_on(client.empty(IN_FLIGHT, slice))
    });
    Case::new("read_user_usage", "postgres", "calls/s", ours, floor)
}

/// Asks for a user's lifetime and last 24 hours.
fn request(random: &mut Random) -> tonic::Request<v1::GetUserUsageRequest> {
    let tenant = if random.below(100) < 30 {
        0
    } else {
        1 + random.below(19)
    };
    let tenant = tenant_id(tenant);
    let rank = (random.unit() * USERS.ln()).exp().floor();
    let asked = v1::GetUserUsageRequest {
        user_id: format!("{tenant}-user-{rank}"),
        ..Default::default()
    };
    with_tenant(&tenant, asked)
}

/// Puts so many events into a ledger, and those of the user whose reading is explained.
fn fill(runtime: &Runtime, made: &Made, events: i64, end_us: i64) {
    let began = std::time::Instant::now();
    let Made::Postgres(url) = made else {
        panic!("only PostgreSQL is filled")
    };
    runtime.block_on(async {
        let ledger = Postgres::open(&Config::new(url)).await.expect("it opens");
        for month in 0..=4 {
            let at = end_us - month * 28 * DAY_US;
            ledger.make_partitions(at).await.expect("a partition");
        }
        let mut fillers = JoinSet::new();
        for half in 0..2 {
            let url = url.clone();
            fillers.spawn(async move {
                let mut connection = PgConnection::connect(&url).await.expect("it connects");
                let mut from = half * CHUNK;
                while from < events {
                    let to = (from + CHUNK).min(events);
                    make(&mut connection, (from, to, events), end_us, SPREAD_US, "").await;
                    from += 2 * CHUNK;
                }
            });
        }
        while let Some(done) = fillers.join_next().await {
            done.expect("a filler does not panic");
        }
        let mut connection = PgConnection::connect(url).await.expect("it connects");
        let probe = (0, PROBE_EVENTS, PROBE_EVENTS);
        make(&mut connection, probe, end_us, DAY_US, PROBE).await;
        for statement in [
            SUM,
            "VACUUM ANALYZE usage_lines",
            "VACUUM ANALYZE usage_totals",
        ] {
            sqlx::raw_sql(statement)
                .execute(&mut connection)
                .await
                .expect("sums are made");
        }
        ledger.close().await;
    });
    eprintln!("  {events} events made in {} s", began.elapsed().as_secs());
}

async fn make(
    connection: &mut PgConnection,
    (from, to, all): (i64, i64, i64),
    end_us: i64,
    spread_us: i64,
    user: &str,
) {
    sqlx::query(FILL)
        .bind(from)
        .bind(to)
        .bind(all)
        .bind(end_us)
        .bind(spread_us)
        .bind(user)
        .execute(connection)
        .await
        .expect("events are made");
}

/// Pages that the statement of `GetUserUsage` touches for the probe, in memory or not, once its plan
/// is made.
async fn pages(made: &Made, end_us: i64) -> i64 {
    let Made::Postgres(url) = made else {
        panic!("only PostgreSQL explains")
    };
    let ledger = Postgres::open(&Config::new(url)).await.expect("it opens");
    let tenant = TenantId::new(tenant_id(0)).expect("a tenant");
    let day = Range {
        from_us: end_us - DAY_US,
        to_us: end_us,
    };
    let mut text = String::new();
    for _ in 0..3 {
        text = ledger
            .explain_totals_of(&tenant, Subject::User(PROBE), &[None, Some(day)])
            .await
            .expect("it is explained");
    }
    ledger.close().await;
    // The first line of buffers is the whole plan's.
    let line = text
        .lines()
        .find(|line| line.trim().starts_with("Buffers:"));
    let line = line.unwrap_or_else(|| panic!("no buffers in {text}"));
    line.split([' ', ','])
        .filter_map(|word| word.split_once('='))
        .filter(|(name, _)| ["hit", "read"].contains(name))
        .map(|(_, pages)| pages.parse::<i64>().expect("a number"))
        .sum()
}
