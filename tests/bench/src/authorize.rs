//! `authorize`: what asking before a call costs beside an empty call, and what the pair of asking and
//! settling does.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use prost_types::Duration as Span;
use tokenmeter_api::v1;
use tokenmeter_api::v1::admin_service_client::AdminServiceClient;
use tokenmeter_tests::{Server, Start};
use tokio::runtime::Runtime;
use tonic::Request;

use crate::client::Client;
use crate::data::{Random, tenant_id, with_tenant};
use crate::figures::{Case, Cost};
use crate::place::Room;
use crate::record::{Common, WARM_UP, alternate};

/// Calls in flight.
const IN_FLIGHT: usize = 128;
/// Calls a second at which the time of one call is measured.
const PACE: u32 = 5_000;
/// Users that the calls are of.
const USERS: u64 = 20_000;
/// More than a run can use: no call is refused.
const PLENTY: i64 = 1_000_000_000_000_000;

/// What `authorize` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    common: Common,
    /// The counters, as serve --counters takes them
    #[arg(long, default_value = "memory:")]
    counters: String,
    /// Only this case
    #[arg(long)]
    case: Option<String>,
}

/// Runs the cases and prints a line for each.
pub(crate) fn run(runtime: &Runtime, options: &Options) {
    let mut room = options.common.announce().room();
    let server = serve(&mut room, options);
    runtime.block_on(set_limits(&server));
    let client = runtime.block_on(Client::connect(&[server.address()]));
    let asking = Asking::new(options.common.seed);
    let wanted = |name: &str| options.case.as_deref().is_none_or(|only| only == name);
    if wanted("authorize") {
        eprintln!("authorize");
        closed(runtime, options, &client, &asking).print();
    }
    if wanted("authorize_settle") {
        eprintln!("authorize_settle");
        pairs(runtime, options, &client, &asking).print();
    }
    if wanted("authorize_5000") {
        eprintln!("authorize_5000");
        paced(runtime, options, &client, &asking);
    }
}

fn closed(runtime: &Runtime, options: &Options, client: &Client, asking: &Asking) -> Case {
    let ours = |slice| runtime.block_on(client.authorize(asking.requests(), IN_FLIGHT, slice));
    let floor = |slice| runtime.block_on(client.empty(IN_FLIGHT, slice));
    ours(WARM_UP);
    floor(WARM_UP);
    let (ours, floor) = alternate(options.common.seconds, ours, floor);
    Case::new("authorize", options.backend(), "calls/s", ours, floor)
}

/// A call and what settles it, which is recorded durably, counted as one.
fn pairs(runtime: &Runtime, options: &Options, client: &Client, asking: &Asking) -> Case {
    let ours =
        |slice| runtime.block_on(client.authorize_settle(asking.requests(), IN_FLIGHT, slice));
    let floor = |slice| runtime.block_on(client.empty(IN_FLIGHT, slice));
    ours(WARM_UP);
    let (ours, floor) = alternate(options.common.seconds, ours, floor);
    Case::new(
        "authorize_settle",
        options.backend(),
        "pairs/s",
        ours,
        floor,
    )
}

/// Calls that begin at a steady pace, whatever became of those before: how long each takes from the
/// moment at which it was due.
fn paced(runtime: &Runtime, options: &Options, client: &Client, asking: &Asking) {
    let ours = |slice| runtime.block_on(client.paced_authorize(asking.requests(), PACE, slice));
    let floor = |slice| runtime.block_on(client.paced_empty(PACE, slice));
    ours(WARM_UP);
    floor(WARM_UP);
    let (mut ours, mut floor) = alternate(options.common.seconds, ours, floor);
    let (p99, floor_p99) = (ours.percentile(99), floor.percentile(99));
    Case::new("authorize_5000", options.backend(), "calls/s", ours, floor).print();
    let bench = "authorize_5000_p99";
    Cost::of(bench, options.backend(), floor_p99.into(), p99.into(), "us").print();
}

impl Options {
    fn backend(&self) -> &'static str {
        match self.counters.split(':').next() {
            Some("redis") => "redis",
            _ => "memory",
        }
    }
}

fn serve(room: &mut Room, options: &Options) -> Server {
    let made = room.make("ledger");
    Start::new(room.folder("server"))
        .program(tokenmeter_tests::release_binary())
        .argument("--ledger")
        .argument(made.url())
        .argument("--counters")
        .argument(&options.counters)
        .serve()
}

/// Four limits for every call: two of its user's requests, its user's tokens, its tenant's cost.
async fn set_limits(server: &Server) {
    let mut admin = AdminServiceClient::new(server.channel().await);
    let limit =
        |scope: v1::LimitScope, metric: v1::LimitMetric, window: v1::LimitWindow| v1::Limit {
            scope: scope.into(),
            metric: metric.into(),
            window: window.into(),
            amount: PLENTY,
            ..Default::default()
        };
    let (user, tenant) = (v1::LimitScope::User, v1::LimitScope::Tenant);
    let profile = v1::Profile {
        profile_id: "bench".to_owned(),
        limits: vec![
            limit(tenant, v1::LimitMetric::Cost, v1::LimitWindow::Month),
            limit(user, v1::LimitMetric::Requests, v1::LimitWindow::Minute),
            limit(user, v1::LimitMetric::Requests, v1::LimitWindow::Hour),
            limit(user, v1::LimitMetric::TotalTokens, v1::LimitWindow::Month),
        ],
        ..Default::default()
    };
    for number in 0..20 {
        let tenant = tenant_id(number);
        let create = v1::CreateProfileRequest {
            request_id: "bench-create".to_owned(),
            profile: Some(profile.clone()),
        };
        admin
            .create_profile(with_tenant(&tenant, create))
            .await
            .expect("a profile is made");
        let assign = v1::AssignProfileRequest {
            request_id: "bench-assign".to_owned(),
            subject: Some(v1::Subject {
                scope: v1::LimitScope::Tenant.into(),
                ..Default::default()
            }),
            profile_id: "bench".to_owned(),
        };
        admin
            .assign_profile(with_tenant(&tenant, assign))
            .await
            .expect("a profile is assigned");
    }
    // Changes apply within a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Makes requests, none twice.
pub(crate) struct Asking {
    seed: u64,
    slices: AtomicU64,
}

impl Asking {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            slices: AtomicU64::new(0),
        }
    }

    /// Requests of one slice, without end.
    fn requests(&self) -> impl Iterator<Item = Request<v1::AuthorizeRequest>> + Send + use<> {
        let slice = self.slices.fetch_add(1, Ordering::Relaxed);
        let mut random = Random::new(self.seed ^ (slice << 32));
        (0_u64..).map(move |n| {
            let tenant = match random.below(100) < 30 {
                true => 0,
                false => 1 + random.below(19),
            };
            let tenant = tenant_id(tenant);
            let asked = v1::AuthorizeRequest {
                request_id: format!("{slice}-{n}"),
                call: Some(v1::CallInfo {
                    user_id: format!("{tenant}-user-{}", random.below(USERS)),
                    provider: "anthropic".to_owned(),
                    model: "claude-sonnet-4-5".to_owned(),
                    ..Default::default()
                }),
                estimate: Some(v1::Estimate {
                    input_tokens: 2_000,
                    max_output_tokens: Some(1_000),
                    ..Default::default()
                }),
                // So that what is not settled does not pile up.
                hold_duration: Some(Span {
                    seconds: 1,
                    nanos: 0,
                }),
                ..Default::default()
            };
            with_tenant(&tenant, asked)
        })
    }
}
