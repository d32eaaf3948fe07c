//! `tokenmeter status` and `tokenmeter version`.

use serde::Serialize;
use tokenmeter_api::v1;

use super::connect::ClientArgs;
use super::error::Error;
use super::render::{self, name};
use super::{Output, time};

#[derive(Serialize)]
struct StatusJson<'a> {
    version: &'a str,
    revision: &'a str,
    state: String,
    dependencies: Vec<DependencyJson<'a>>,
    uptime_seconds: i64,
    server_time: Option<String>,
    roles: &'a [String],
    node_id: &'a str,
    schema_version: i64,
}

#[derive(Serialize)]
struct DependencyJson<'a> {
    name: &'a str,
    backend: &'a str,
    state: String,
    latency_us: Option<i64>,
    checked_time: Option<String>,
    detail: &'a str,
}

fn state(state: v1::ServingState) -> String {
    name("SERVING_STATE_", state.as_str_name())
}

fn latency_us(dependency: &v1::DependencyStatus) -> Option<i64> {
    let latency = dependency.latency.as_ref()?;
    let whole = latency.seconds.checked_mul(1_000_000)?;
    whole.checked_add(i64::from(latency.nanos / 1_000))
}

/// Runs `tokenmeter status`. Fails if the server is down.
pub(crate) async fn run(client: &ClientArgs, output: Output) -> Result<(), Error> {
    let mut service = client.connect().await?.admin();
    let answer = service
        .get_status(v1::GetStatusRequest {})
        .await?
        .into_inner();
    if output == Output::Json {
        render::json(&StatusJson {
            version: &answer.version,
            revision: &answer.revision,
            state: state(answer.state()),
            dependencies: answer
                .dependencies
                .iter()
                .map(|dependency| DependencyJson {
                    name: &dependency.name,
                    backend: &dependency.backend,
                    state: state(dependency.state()),
                    latency_us: latency_us(dependency),
                    checked_time: time::format(dependency.checked_time.as_ref()),
                    detail: &dependency.detail,
                })
                .collect(),
            uptime_seconds: answer.uptime.as_ref().map_or(0, |uptime| uptime.seconds),
            server_time: time::format(answer.server_time.as_ref()),
            roles: &answer.roles,
            node_id: &answer.node_id,
            schema_version: answer.schema_version,
        })?;
    } else {
        show(&answer)?;
    }
    match answer.state() {
        v1::ServingState::Down => Err(Error::Reported),
        _ => Ok(()),
    }
}

fn show(answer: &v1::GetStatusResponse) -> Result<(), Error> {
    render::line(&format!(
        "tokenmeter {}{}: {}, up {} s, schema {}, roles {}",
        answer.version,
        match answer.revision.as_str() {
            "" => String::new(),
            revision => format!(" ({revision})"),
        },
        state(answer.state()),
        answer.uptime.as_ref().map_or(0, |uptime| uptime.seconds),
        answer.schema_version,
        answer.roles.join(", "),
    ))?;
    let mut table = render::table(&[
        "dependency",
        "backend",
        "state",
        "#latency µs",
        "checked",
        "detail",
    ]);
    for dependency in &answer.dependencies {
        table.add_row(vec![
            dependency.name.clone(),
            dependency.backend.clone(),
            state(dependency.state()),
            latency_us(dependency).map_or_else(|| "-".to_owned(), render::count),
            time::text(dependency.checked_time.as_ref()),
            dependency.detail.clone(),
        ]);
    }
    render::line(&table.to_string())
}

#[derive(Serialize)]
struct VersionJson {
    version: &'static str,
}

/// Runs `tokenmeter version`.
pub(crate) fn version(output: Output) -> Result<(), Error> {
    let version = env!("CARGO_PKG_VERSION");
    match output {
        Output::Table => render::line(&format!("tokenmeter {version}")),
        Output::Json => render::json(&VersionJson { version }),
    }
}
