//! Two production traces, through `import csv` and through StreamUsage: every total and every answer
//! equals what a few lines of Python add up over the raw rows (tests/traces).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tokenmeter_api::v1;
use tokenmeter_tests::{Server, Start, repository, shared_data};
use tokio_stream::StreamExt as _;
use v1::admin_service_client::AdminServiceClient;
use v1::analytics_service_client::AnalyticsServiceClient;
use v1::metering_service_client::MeteringServiceClient;

use crate::support::{As, Metadata, nano_usd};

/// The zone of months and days: half of a trace's rows lie behind a change of its clock.
const ZONE: &str = "America/New_York";
/// Events in one message of StreamUsage.
const MESSAGE_EVENTS: usize = 100;

#[tokio::test]
async fn azure_trace_adds_up() {
    adds_up("azure", "azure_llm_code_2023.csv", 8_819).await;
}

#[tokio::test]
async fn mooncake_trace_adds_up() {
    adds_up("mooncake", "mooncake_conversation.jsonl.gz", 12_031).await;
}

async fn adds_up(trace: &str, file: &str, rows: i64) {
    let Some(file) = shared_data(file) else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let csv = home.path().join("rows.csv");
    python("assign.py", &[trace, file.to_str().unwrap()], &csv);
    let expected = home.path().join("expected.json");
    python("expect.py", &[csv.to_str().unwrap(), ZONE], &expected);
    let expected: Value = serde_json::from_str(&fs::read_to_string(expected).unwrap()).unwrap();
    assert_eq!(expected["tenant"]["requests"], rows);

    let server = Start::new(home.path())
        .argument("--time-zone")
        .argument(ZONE)
        .serve();
    let (mut imported, mut streamed) = (
        Tenant::of(&server, "imported").await,
        Tenant::of(&server, "streamed").await,
    );
    imported.set_prices().await;
    streamed.set_prices().await;
    import(&server, &csv, rows);
    streamed.stream(&csv).await;
    for tenant in [&mut imported, &mut streamed] {
        let answers = tenant.answers(&expected).await;
        for (question, answer) in &answers {
            same(question, answer, &expected[question]);
        }
    }
}

/// Both sides of a large answer, entry by entry, so that a difference is named.
fn same(at: &str, ours: &Value, expected: &Value) {
    match (ours, expected) {
        (Value::Object(ours), Value::Object(expected)) => {
            let keys = |map: &serde_json::Map<String, Value>| -> Vec<String> {
                let mut keys: Vec<_> = map.keys().cloned().collect();
                keys.sort();
                keys
            };
            assert_eq!(keys(ours), keys(expected), "{at}");
            for (key, value) in ours {
                same(&format!("{at}.{key}"), value, &expected[key]);
            }
        }
        _ => assert_eq!(ours, expected, "{at}"),
    }
}

fn python(script: &str, arguments: &[&str], output: &Path) {
    let script = repository("tests/traces").join(script);
    let status = Command::new("python3")
        .arg(&script)
        .args(arguments)
        .stdout(File::create(output).unwrap())
        .status()
        .unwrap_or_else(|error| panic!("python3 is missing: {error}"));
    assert!(status.success(), "{}: {status}", script.display());
}

fn import(server: &Server, csv: &Path, rows: i64) {
    let mut words = vec!["import", "csv", csv.to_str().unwrap()];
    for map in [
        "request_time=time",
        "user_id=user",
        "session_id=session",
        "turn=turn",
        "model=model",
        "prompt=prompt",
        "cache_read=cache_read",
        "output=output",
        "status=status",
        "latency_ms=latency_ms",
    ] {
        words.extend(["--map", map]);
    }
    words.extend(["--set", "provider=acme", "--report", "json"]);
    words.extend(["--tenant", "imported"]);
    let report = server.run(words).success().json();
    assert_eq!(report["equal"], true, "{report}");
    assert_eq!(report["store"]["events"], rows, "{report}");
}

/// The clients of one tenant.
struct Tenant {
    metering: MeteringServiceClient<As>,
    analytics: AnalyticsServiceClient<As>,
    admin: AdminServiceClient<As>,
}

impl Tenant {
    async fn of(server: &Server, tenant: &'static str) -> Self {
        let channel = server.channel().await;
        let caller = Metadata::new(&[("tokenmeter-tenant", tenant)]);
        Self {
            metering: MeteringServiceClient::with_interceptor(channel.clone(), caller.clone()),
            analytics: AnalyticsServiceClient::with_interceptor(channel.clone(), caller.clone())
                .max_decoding_message_size(16 * 1024 * 1024),
            admin: AdminServiceClient::with_interceptor(channel, caller),
        }
    }

    /// The prices of tests/traces/expect.py, in pico-USD a token.
    async fn set_prices(&mut self) {
        let price = |model: &str, input, cache_read, output| {
            let rate = |component: v1::PriceComponent, pico_usd_per_token| v1::Rate {
                component: component.into(),
                pico_usd_per_token,
            };
            v1::Price {
                provider: "acme".into(),
                model: model.into(),
                tiers: vec![v1::TierRates {
                    tier: v1::ServiceTier::Standard.into(),
                    rates: vec![
                        rate(v1::PriceComponent::Input, input),
                        rate(v1::PriceComponent::CacheRead, cache_read),
                        rate(v1::PriceComponent::Output, output),
                    ],
                    ..Default::default()
                }],
                ..Default::default()
            }
        };
        let request = v1::SetPricesRequest {
            request_id: "traces".into(),
            dry_run: false,
            prices: vec![
                price("acme-large", 3_000_000, 300_000, 15_000_000),
                price("acme-small", 123_457, 12_349, 1_234_567),
            ],
        };
        self.admin.set_prices(request).await.unwrap();
    }

    /// Sends every row on one stream, and reads a result for each.
    async fn stream(&mut self, csv: &Path) {
        let events = events(csv);
        let mut open: Vec<bool> = vec![true; events.len()];
        let messages: Vec<_> = (0..)
            .zip(events)
            .map(|(sequence, event)| v1::StreamedEvent {
                sequence,
                event: Some(event),
            })
            .collect::<Vec<_>>()
            .chunks(MESSAGE_EVENTS)
            .map(|events| v1::StreamUsageRequest {
                events: events.to_vec(),
                ..Default::default()
            })
            .collect();
        let answer = self.metering.stream_usage(tokio_stream::iter(messages));
        let mut results = answer.await.unwrap().into_inner();
        while let Some(message) = results.next().await {
            for one in message.unwrap().results {
                let recorded = match one.result.unwrap().result.unwrap() {
                    v1::record_result::Result::Recorded(recorded) => recorded,
                    v1::record_result::Result::Error(error) => panic!("{error:?}"),
                };
                assert_eq!(recorded.outcome(), v1::RecordOutcome::Recorded);
                let sequence = usize::try_from(one.sequence).unwrap();
                assert!(open[sequence], "{sequence} has two results");
                open[sequence] = false;
            }
        }
        assert_eq!(open.iter().filter(|open| **open).count(), 0);
    }

    /// Asks everything that expect.py answers.
    async fn answers(&mut self, expected: &Value) -> BTreeMap<&'static str, Value> {
        let users: Vec<String> = expected["users"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        let mut answers = BTreeMap::new();
        self.service(&mut answers).await;
        let (mut totals, mut months, mut days) = (json!({}), json!({}), json!({}));
        for user in &users {
            totals[user] = self.lifetime(user).await;
            months[user] = self.months(user).await;
            days[user] = self.days(user).await;
        }
        answers.insert("users", totals);
        answers.insert("months", months);
        answers.insert("days", days);
        answers.insert("sessions", self.sessions().await);
        self.top_sessions(&expected["sessions"]).await;
        self.cache(expected).await;
        answers
    }

    async fn service(&mut self, answers: &mut BTreeMap<&'static str, Value>) {
        let request = v1::GetServiceUsageRequest::default();
        let service = self.analytics.get_service_usage(request).await;
        let service = service.unwrap().into_inner();
        answers.insert("tenant", figures(&service.totals.unwrap()));
        answers.insert(
            "models",
            service
                .models
                .iter()
                .map(|one| model(one.usage.as_ref().unwrap()))
                .collect(),
        );
        answers.insert(
            "reach",
            json!({"users": service.users, "sessions": service.sessions}),
        );
        let time = service.response_time.unwrap();
        answers.insert(
            "latency",
            json!({
                "p50_ms": time.p50_ms, "p90_ms": time.p90_ms, "p95_ms": time.p95_ms,
                "p99_ms": time.p99_ms, "max_ms": time.max_ms, "measured": time.measured,
            }),
        );
    }

    async fn lifetime(&mut self, user: &str) -> Value {
        let request = v1::GetUserUsageRequest {
            user_id: user.into(),
            intervals: vec![v1::Interval::Lifetime.into()],
        };
        let answer = self.analytics.get_user_usage(request).await.unwrap();
        figures(&answer.into_inner().intervals.remove(0).totals.unwrap())
    }

    async fn months(&mut self, user: &str) -> Value {
        let request = v1::ListMonthlyUsageRequest {
            user_id: user.into(),
            range: Some(v1::TimeRange::default()),
            ..Default::default()
        };
        let answer = self.analytics.list_monthly_usage(request).await.unwrap();
        let months = answer.into_inner().months.into_iter();
        months
            .map(|month| {
                let models: Value = month.models.iter().map(model).collect();
                let totals = figures(&month.totals.unwrap());
                (month.month, json!({"totals": totals, "models": models}))
            })
            .collect()
    }

    async fn days(&mut self, user: &str) -> Value {
        let request = v1::ListUsageHistoryRequest {
            user_id: user.into(),
            page_size: 1_000,
            ..Default::default()
        };
        let answer = self.analytics.list_usage_history(request).await.unwrap();
        let days = answer.into_inner().days.into_iter();
        days.map(|day| (day.date, figures(&day.totals.unwrap())))
            .collect()
    }

    /// Every session's summary, and its totals by model from GetSessionUsage.
    async fn sessions(&mut self) -> Value {
        let mut request = v1::ListSessionSummariesRequest {
            page_size: 700,
            ..Default::default()
        };
        let mut sessions = json!({});
        let mut last_active = i64::MAX;
        loop {
            let page = self.analytics.list_session_summaries(request.clone()).await;
            let page = page.unwrap().into_inner();
            for summary in page.sessions {
                let last_us = micros(summary.last_event_time);
                assert!(last_us <= last_active, "the last active first");
                last_active = last_us;
                let session = v1::GetSessionUsageRequest {
                    session_id: summary.session_id.clone(),
                };
                let session = self.analytics.get_session_usage(session).await.unwrap();
                let session = session.into_inner();
                assert_eq!(session.totals, summary.totals);
                assert_eq!(session.turns, summary.turns);
                let models: Value = session.models.iter().map(model).collect();
                let id = summary.session_id;
                assert!(sessions[&id].is_null(), "{id} is listed twice");
                sessions[&id] = json!({
                    "user": summary.user_id,
                    "turns": summary.turns,
                    "first_us": micros(summary.first_event_time),
                    "last_us": last_us,
                    "duration_ms": summary.duration_ms,
                    "totals": figures(&summary.totals.unwrap()),
                    "models": models,
                });
            }
            if page.next_page_token.is_empty() {
                return sessions;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The order of the top sessions is that of their sums.
    async fn top_sessions(&mut self, expected: &Value) {
        for (order, of) in [
            (v1::SessionOrder::TotalTokens, tokens as fn(&Value) -> i64),
            (v1::SessionOrder::Cost, cost),
        ] {
            let mut sums: Vec<i64> = expected
                .as_object()
                .unwrap()
                .values()
                .map(|session| of(&session["totals"]))
                .collect();
            sums.sort_unstable_by(|a, b| b.cmp(a));
            let request = v1::ListTopSessionsRequest {
                order_by: order.into(),
                page_size: 1_000,
                ..Default::default()
            };
            let answer = self.analytics.list_top_sessions(request).await.unwrap();
            let top = answer.into_inner().sessions;
            assert_eq!(top.len(), sums.len().min(1_000));
            for (session, sum) in top.iter().zip(sums) {
                let totals = figures(session.totals.as_ref().unwrap());
                assert_eq!(of(&totals), sum, "{}", session.session_id);
                same(
                    &session.session_id,
                    &totals,
                    &expected[&session.session_id]["totals"],
                );
            }
        }
    }

    async fn cache(&mut self, expected: &Value) {
        let request = v1::GetCacheEfficiencyRequest::default();
        let answer = self.analytics.get_cache_efficiency(request).await.unwrap();
        let answer = answer.into_inner();
        let check = |efficiency: &v1::CacheEfficiency, expected: &Value| {
            let read = expected["cache_read"].as_i64().unwrap();
            let prompt = read + expected["input"].as_i64().unwrap();
            assert_eq!(
                (efficiency.read_tokens, efficiency.prompt_tokens),
                (read, prompt)
            );
            // Half to even, in integers.
            let (whole, rest) = (read * 1_000_000 / prompt, read * 1_000_000 % prompt);
            let up = 2 * rest > prompt || (2 * rest == prompt && whole % 2 == 1);
            assert_eq!(efficiency.hit_rate_ppm, Some(whole + i64::from(up)));
            let saving = nano_usd(efficiency.net_saving.as_ref());
            assert_eq!(saving, expected["cache_saving_nano_usd"]);
            assert_eq!(efficiency.unpriced_lines, expected["unpriced_lines"]);
        };
        check(answer.efficiency.as_ref().unwrap(), &expected["tenant"]);
        assert_eq!(answer.models.len(), 3);
        for one in &answer.models {
            check(
                one.efficiency.as_ref().unwrap(),
                &expected["models"][&one.model],
            );
        }
    }
}

/// The rows as events. The columns are those of tests/traces/assign.py.
fn events(csv: &Path) -> Vec<v1::UsageEvent> {
    let text = fs::read_to_string(csv).unwrap();
    let rows = text.lines().skip(1).enumerate();
    rows.map(|(n, row)| {
        let cells: Vec<&str> = row.split(',').collect();
        let number = |column: usize| cells[column].parse::<i64>().unwrap();
        let status = match cells[9] {
            "succeeded" => v1::EventStatus::Succeeded,
            "failed" => v1::EventStatus::Failed,
            _ => v1::EventStatus::Interrupted,
        };
        let (time_us, prompt, cache_read) = (number(1), number(6), number(7));
        v1::UsageEvent {
            event_id: format!("row-{n}"),
            user_id: cells[2].into(),
            session_id: cells[3].into(),
            turn: Some(number(4)),
            provider: "acme".into(),
            request_time: Some(prost_types::Timestamp {
                seconds: time_us / 1_000_000,
                nanos: i32::try_from(time_us % 1_000_000).unwrap() * 1_000,
            }),
            usage: Some(v1::usage_event::Usage::Lines(v1::UsageLines {
                lines: vec![v1::UsageLine {
                    model: cells[5].into(),
                    counts: Some(v1::TokenCounts {
                        input: prompt - cache_read,
                        cache_read,
                        output: number(8),
                        ..Default::default()
                    }),
                    tool_requests: Vec::new(),
                }],
            })),
            status: status.into(),
            latency_ms: Some(number(10)),
            ..Default::default()
        }
    })
    .collect()
}

fn micros(time: Option<prost_types::Timestamp>) -> i64 {
    let time = time.unwrap();
    time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000
}

fn model(usage: &v1::ModelUsage) -> (String, Value) {
    assert_eq!(usage.provider, "acme");
    let totals = figures(usage.totals.as_ref().unwrap());
    (usage.model.clone(), totals)
}

fn figures(totals: &v1::UsageTotals) -> Value {
    let counts = totals.counts.unwrap();
    json!({
        "requests": totals.requests,
        "succeeded": totals.succeeded_requests,
        "failed": totals.failed_requests,
        "interrupted": totals.interrupted_requests,
        "input": counts.input,
        "cache_read": counts.cache_read,
        "output": counts.output,
        "cost_nano_usd": nano_usd(totals.cost.as_ref()),
        "cache_saving_nano_usd": nano_usd(totals.cache_saving.as_ref()),
        "unpriced_lines": totals.unpriced_lines,
    })
}

fn tokens(figures: &Value) -> i64 {
    let kinds = ["input", "cache_read", "output"];
    kinds
        .iter()
        .map(|kind| figures[kind].as_i64().unwrap())
        .sum()
}

fn cost(figures: &Value) -> i64 {
    figures["cost_nano_usd"].as_i64().unwrap()
}
