//! The events that both sides record: 20 tenants, the largest with 30 % of them, users by Zipf.

use std::sync::Arc;

use tokenmeter_api::v1;
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

/// Tenants; the first has the largest share, the others equal parts of the rest.
const TENANTS: u64 = 20;
/// Percent of all events that are the first tenant's.
const LARGEST_PERCENT: u64 = 30;
/// Users of all tenants, shared out as the events are.
const USERS: u64 = 20_000;
/// How steeply use falls from a tenant's busiest user to the next.
const ZIPF: f64 = 1.1;
/// Turns of a user's session before the next begins.
const TURNS: u32 = 24;
/// Users of one team; every other user is in none.
const TEAM: usize = 50;
/// Time from one event to the next in microseconds: about the pace at which they are recorded.
const PACE_US: i64 = 25;

/// A model with a shipped price.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) provider: &'static str,
    pub(crate) name: &'static str,
    stop_reason: &'static str,
    /// Whether its provider counts cache writes.
    writes_cache: bool,
}

const fn anthropic(name: &'static str) -> Model {
    Model {
        provider: "anthropic",
        name,
        stop_reason: "end_turn",
        writes_cache: true,
    }
}

const fn openai(name: &'static str) -> Model {
    Model {
        provider: "openai",
        name,
        stop_reason: "stop",
        writes_cache: false,
    }
}

const fn gemini(name: &'static str) -> Model {
    Model {
        provider: "gcp.gemini",
        name,
        stop_reason: "STOP",
        writes_cache: false,
    }
}

static MODELS: [Model; 12] = [
    anthropic("claude-opus-4-8"),
    anthropic("claude-opus-5"),
    anthropic("claude-sonnet-4-6"),
    anthropic("claude-sonnet-5"),
    anthropic("claude-haiku-4-5"),
    openai("gpt-5"),
    openai("gpt-5-mini"),
    openai("gpt-5.1"),
    openai("gpt-4.1"),
    gemini("gemini-2.5-pro"),
    gemini("gemini-2.5-flash"),
    gemini("gemini-2.5-flash-lite"),
];
const FEATURES: [&str; 4] = ["chat", "search", "summary", "agent"];

/// One call of a model.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: Arc<str>,
    pub(crate) user: Arc<str>,
    /// Empty for every other user.
    pub(crate) team: Arc<str>,
    pub(crate) session: Arc<str>,
    pub(crate) turn: i64,
    pub(crate) model: &'static Model,
    pub(crate) time_us: i64,
    pub(crate) input: i64,
    pub(crate) cache_read: i64,
    pub(crate) cache_write_5m: i64,
    pub(crate) output: i64,
    pub(crate) reasoning: i64,
    pub(crate) latency_ms: i64,
    pub(crate) first_token_ms: i64,
    pub(crate) labels: [(&'static str, &'static str); 2],
}

/// Events that one call records, all of one tenant.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) tenant: Arc<str>,
    pub(crate) events: Vec<Event>,
}

struct Tenant {
    id: Arc<str>,
    /// The share of the users up to each, of 1.
    cumulated: Vec<f64>,
    users: Vec<User>,
}

struct User {
    id: Arc<str>,
    team: Arc<str>,
    session: Arc<str>,
    events: u32,
}

/// Makes the same batches for the same seed and start.
pub(crate) struct Generator {
    random: Random,
    tenants: Vec<Tenant>,
    made: u64,
    start_us: i64,
}

impl Generator {
    /// `start_us` is the time of the first event, in microseconds since the Unix epoch.
    pub(crate) fn new(seed: u64, start_us: i64) -> Self {
        Self {
            random: Random::new(seed),
            tenants: (0..TENANTS).map(tenant).collect(),
            made: 0,
            start_us,
        }
    }

    /// All events are of one user.
    pub(crate) fn one_user(seed: u64, start_us: i64) -> Self {
        let mut only = tenant(0);
        only.users.truncate(1);
        only.cumulated = vec![1.0];
        Self {
            random: Random::new(seed),
            tenants: vec![only],
            made: 0,
            start_us,
        }
    }

    /// The next `events` events of a tenant.
    pub(crate) fn batch(&mut self, events: usize) -> Batch {
        let tenant = if self.random.below(100) < LARGEST_PERCENT {
            0
        } else {
            1 + self.random.below(TENANTS - 1)
        };
        let tenant = usize::try_from(tenant).expect("twenty fit");
        let tenant = tenant.min(self.tenants.len() - 1);
        Batch {
            tenant: Arc::clone(&self.tenants[tenant].id),
            events: (0..events).map(|_| self.event(tenant)).collect(),
        }
    }

    fn event(&mut self, tenant: usize) -> Event {
        let random = &mut self.random;
        let Tenant {
            id,
            cumulated,
            users,
        } = &mut self.tenants[tenant];
        let at = random.unit();
        let user = cumulated
            .partition_point(|share| *share < at)
            .min(users.len() - 1);
        let user = &mut users[user];
        if user.events.is_multiple_of(TURNS) {
            user.session = format!("sess_{id}_{:016x}", random.next()).into();
        }
        user.events += 1;
        self.made += 1;
        let model = &MODELS[random.index(MODELS.len())];
        let output = random.between(20, 2_000);
        let first_token_ms = random.between(150, 900);
        Event {
            // Ids of one provider sort by time, as UUIDv7 and the like do.
            id: format!("msg_{:012x}{:012x}", self.made, random.below(1 << 48)).into(),
            user: Arc::clone(&user.id),
            team: Arc::clone(&user.team),
            session: Arc::clone(&user.session),
            turn: i64::from(user.events),
            model,
            time_us: self.start_us + PACE_US * i64::try_from(self.made).expect("few events"),
            input: random.between(50, 8_000),
            cache_read: random.between(0, 30_000),
            cache_write_5m: if model.writes_cache {
                random.between(0, 4_000)
            } else {
                0
            },
            output,
            reasoning: output / 3,
            latency_ms: first_token_ms + output * 12,
            first_token_ms,
            labels: [
                ("environment", "production"),
                ("feature", FEATURES[random.index(FEATURES.len())]),
            ],
        }
    }
}

fn tenant(number: u64) -> Tenant {
    let largest = USERS * LARGEST_PERCENT / 100;
    let users = if number == 0 {
        largest
    } else {
        (USERS - largest) / (TENANTS - 1)
    };
    let weights = (1..=u32::try_from(users).expect("few users"))
        .map(|rank| f64::from(rank).powf(-ZIPF))
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
    let mut cumulated: Vec<f64> = weights.collect();
    let sum = cumulated.last().copied().unwrap_or(1.0);
    for share in &mut cumulated {
        *share /= sum;
    }
    let user = |rank: usize| User {
        id: format!("user-{number:02}-{rank:05}").into(),
        team: if rank.is_multiple_of(2) {
            format!("team-{number:02}-{:03}", rank / TEAM).into()
        } else {
            "".into()
        },
        session: "".into(),
        events: 0,
    };
    Tenant {
        id: tenant_id(number).into(),
        users: (0..cumulated.len()).map(user).collect(),
        cumulated,
    }
}

impl Batch {
    /// The batch as one request.
    pub(crate) fn request(self) -> Request<v1::BatchRecordUsageRequest> {
        let events = self.events.into_iter().map(Event::message).collect();
        with_tenant(
            &self.tenant,
            v1::BatchRecordUsageRequest {
                events,
                ..Default::default()
            },
        )
    }

    /// A batch of one event as a unary request.
    pub(crate) fn unary(self) -> Request<v1::RecordUsageRequest> {
        let event = self.events.into_iter().next().map(Event::message);
        with_tenant(
            &self.tenant,
            v1::RecordUsageRequest {
                event,
                ..Default::default()
            },
        )
    }
}

impl Event {
    fn message(self) -> v1::UsageEvent {
        let counts = v1::TokenCounts {
            input: self.input,
            cache_read: self.cache_read,
            cache_write: self.model.writes_cache.then(|| v1::CacheWrites {
                ttl_5m: self.cache_write_5m,
                ..Default::default()
            }),
            output: self.output,
            reasoning: self.reasoning,
            ..Default::default()
        };
        let line = v1::UsageLine {
            model: self.model.name.to_owned(),
            counts: Some(counts),
            tool_requests: Vec::new(),
        };
        let label = |(key, value): (&str, &str)| v1::Label {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        v1::UsageEvent {
            event_id: self.id.to_string(),
            user_id: self.user.to_string(),
            team_id: self.team.to_string(),
            session_id: self.session.to_string(),
            turn: Some(self.turn),
            provider: self.model.provider.to_owned(),
            request_time: Some(tokenmeter_api::convert::time::from_micros(self.time_us)),
            usage: Some(v1::usage_event::Usage::Lines(v1::UsageLines {
                lines: vec![line],
            })),
            latency_ms: Some(self.latency_ms),
            time_to_first_token_ms: Some(self.first_token_ms),
            labels: self.labels.into_iter().map(label).collect(),
            service_tier: "standard".to_owned(),
            stop_reason: self.stop_reason().to_owned(),
            ..Default::default()
        }
    }

    pub(crate) fn stop_reason(&self) -> &'static str {
        self.model.stop_reason
    }
}

/// A message with the metadata that names its tenant.
pub(crate) fn with_tenant<T>(tenant: &str, message: T) -> Request<T> {
    let tenant: MetadataValue<Ascii> = tenant.parse().expect("tenant ids are ASCII");
    let mut request = Request::new(message);
    request.metadata_mut().insert("tokenmeter-tenant", tenant);
    request
}

/// The id of a tenant.
pub(crate) fn tenant_id(number: u64) -> String {
    format!("tenant-{number:02}")
}

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `0..end`, with a bias that does not matter here.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, length: usize) -> usize {
        let length = u64::try_from(length).expect("lengths fit");
        usize::try_from(self.below(length)).expect("below a length")
    }

    fn between(&mut self, from: i64, to: i64) -> i64 {
        let span = u64::try_from(to - from).expect("a range");
        from + i64::try_from(self.below(span)).expect("below a range")
    }

    /// Uniform in `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        let bits = u32::try_from(self.next() >> 32).expect("the upper half");
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_largest_tenant_has_its_share_and_its_first_user_most() {
        let mut generator = Generator::new(7, 1_700_000_000_000_000);
        let mut tenants = HashMap::new();
        let mut users = HashMap::new();
        for _ in 0..20_000 {
            let batch = generator.batch(1);
            *tenants.entry(batch.tenant.to_string()).or_insert(0) += 1;
            *users.entry(batch.events[0].user.to_string()).or_insert(0) += 1;
        }
        assert_eq!(tenants.len(), 20);
        let largest = tenants["tenant-00"];
        assert!((5_700..6_300).contains(&largest), "{largest}");
        assert!(users["user-00-00000"] > users["user-00-00010"]);
    }

    #[test]
    fn ids_rise_with_time_and_a_seed_repeats_itself() {
        let two = || Generator::new(3, 0).batch(50);
        let (first, second) = (two(), two());
        assert!(
            first
                .events
                .windows(2)
                .all(|pair| pair[0].id < pair[1].id && pair[0].time_us < pair[1].time_us)
        );
        assert_eq!(
            format!("{:?}", first.events),
            format!("{:?}", second.events)
        );
    }
}
