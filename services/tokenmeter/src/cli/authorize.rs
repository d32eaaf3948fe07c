//! `tokenmeter authorize`: asks whether a call may run, and on request settles or gives back what it
//! holds. The exit code says the decision.

use serde::Serialize;
use tokenmeter_api::convert::money;
use tokenmeter_api::v1::{self, Decision};

use super::connect::{Client, ClientArgs};
use super::corrections::fresh_id;
use super::error::Error;
use super::limits::{self, StateJson};
use super::render::{self, count, name, usd_of};
use super::{Output, time};

/// Whose call, of which model, and what it may use.
#[derive(Debug, clap::Args)]
pub(crate) struct AuthorizeArgs {
    /// The user; the caller if absent.
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// The team.
    #[arg(long, default_value = "", hide_default_value = true)]
    team: String,
    /// The session.
    #[arg(long, default_value = "", hide_default_value = true)]
    session: String,
    /// Who serves the call.
    #[arg(long)]
    provider: String,
    /// The model.
    #[arg(long)]
    model: String,
    /// Prompt tokens, cached ones included.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    input: i64,
    /// The part of them that is expected from a cache.
    #[arg(long, value_name = "TOKENS", default_value_t = 0)]
    cache_read: i64,
    /// The most that the model may generate; the tenant's default if absent.
    #[arg(long, value_name = "TOKENS")]
    max_output: Option<i64>,
    /// The most that the call may cost, in USD; reckoned from the price book if absent.
    #[arg(long, value_name = "USD", value_parser = usd)]
    cost: Option<i64>,
    /// How long to hold it, in seconds; 10 minutes if absent.
    #[arg(long, value_name = "SECONDS")]
    hold: Option<i64>,
    /// What makes the question safe to repeat. If absent, every run is its own.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Decide only, and hold nothing.
    #[arg(long)]
    dry_run: bool,
    /// If allowed, record a call that used so many tokens, which settles what is held.
    #[arg(long, value_name = "INPUT,OUTPUT", value_parser = used, conflicts_with = "dry_run")]
    settle: Option<(i64, i64)>,
    /// If allowed, give back at once what is held.
    #[arg(long, conflicts_with_all = ["dry_run", "settle"])]
    release: bool,
}

/// Reads an amount in USD as nano-USD.
fn usd(text: &str) -> Result<i64, String> {
    limits::nano_usd(text).ok_or_else(|| "is no amount in USD such as 25 or 0.50".to_owned())
}

/// Reads `INPUT,OUTPUT`.
fn used(text: &str) -> Result<(i64, i64), String> {
    let tokens = |text: &str| text.parse::<i64>().ok().filter(|tokens| *tokens >= 0);
    text.split_once(',')
        .and_then(|(input, output)| Some((tokens(input)?, tokens(output)?)))
        .ok_or_else(|| "is not INPUT,OUTPUT such as 1200,300".to_owned())
}

#[derive(Serialize)]
struct AuthorizeJson<'a> {
    decision: String,
    dry_run: bool,
    replayed: bool,
    degraded: bool,
    price_found: bool,
    hold: Option<HoldJson<'a>>,
    refusal: Option<RefusalJson<'a>>,
    shadow_refusals: Vec<RefusalJson<'a>>,
    limits: Vec<StateJson<'a>>,
    session_budget: Option<BudgetJson<'a>>,
    settled: Option<SettledJson<'a>>,
    released: bool,
}

#[derive(Serialize)]
struct HoldJson<'a> {
    reservation_id: &'a str,
    state: String,
    input_tokens: i64,
    output_tokens: i64,
    cost_nano_usd: Option<i64>,
    price_version: Option<i64>,
    admit_time: Option<String>,
    expire_time: Option<String>,
}

impl<'a> From<&'a v1::Hold> for HoldJson<'a> {
    fn from(hold: &'a v1::Hold) -> Self {
        Self {
            reservation_id: &hold.reservation_id,
            state: name("HOLD_STATE_", hold.state().as_str_name()),
            input_tokens: hold.input_tokens,
            output_tokens: hold.output_tokens,
            cost_nano_usd: render::nano_usd(hold.cost.as_ref()),
            price_version: hold.price_version,
            admit_time: time::format(hold.admit_time.as_ref()),
            expire_time: time::format(hold.expire_time.as_ref()),
        }
    }
}

#[derive(Serialize)]
struct RefusalJson<'a> {
    cause: String,
    message: &'a str,
    limit: Option<StateJson<'a>>,
    asked: i64,
    retry_after_ms: Option<i64>,
}

impl<'a> From<&'a v1::Refusal> for RefusalJson<'a> {
    fn from(refusal: &'a v1::Refusal) -> Self {
        Self {
            cause: name("REFUSAL_CAUSE_", refusal.cause().as_str_name()),
            message: &refusal.message,
            limit: refusal.limit.as_ref().map(Into::into),
            asked: refusal.asked,
            retry_after_ms: refusal
                .retry_after
                .map(|after| after.seconds * 1_000 + i64::from(after.nanos / 1_000_000)),
        }
    }
}

#[derive(Serialize)]
struct BudgetJson<'a> {
    session_id: &'a str,
    total_tokens: i64,
    held_tokens: i64,
    remaining_tokens: i64,
    budget_max: i64,
    enforced: bool,
    should_summarize: bool,
}

impl<'a> From<&'a v1::TokenBudget> for BudgetJson<'a> {
    fn from(budget: &'a v1::TokenBudget) -> Self {
        Self {
            session_id: &budget.session_id,
            total_tokens: budget.total_tokens,
            held_tokens: budget.held_tokens,
            remaining_tokens: budget.remaining_tokens,
            budget_max: budget.budget_max,
            enforced: budget.enforced,
            should_summarize: budget.should_summarize,
        }
    }
}

#[derive(Serialize)]
struct SettledJson<'a> {
    event_id: &'a str,
    state: String,
    total_tokens: i64,
    cost_nano_usd: Option<i64>,
    held_tokens: i64,
    released_tokens: i64,
    limits: Vec<StateJson<'a>>,
}

impl<'a> From<&'a v1::RecordedUsage> for SettledJson<'a> {
    fn from(recorded: &'a v1::RecordedUsage) -> Self {
        let settlement = recorded.settlement.clone().unwrap_or_default();
        Self {
            event_id: &recorded.event_id,
            state: settlement_word(&settlement),
            total_tokens: recorded.total_tokens,
            cost_nano_usd: render::nano_usd(recorded.cost.as_ref()),
            held_tokens: settlement.held_tokens,
            released_tokens: settlement.released_tokens,
            limits: recorded.limits.iter().map(Into::into).collect(),
        }
    }
}

fn settlement_word(settlement: &v1::Settlement) -> String {
    name("SETTLEMENT_STATE_", settlement.state().as_str_name())
}

/// Runs `tokenmeter authorize`.
///
/// # Errors
/// [`Error::Denied`] after a refusal was printed.
pub(crate) async fn run(
    args: AuthorizeArgs,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    let client = client.connect().await?;
    let asked = client.metering().authorize(request(&args)).await?;
    let asked = asked.into_inner();
    let recorded = match (&args.settle, &asked.hold) {
        (Some(used), Some(hold)) => Some(settle(&client, &args, *used, hold).await?),
        _ => None,
    };
    let released = match &asked.hold {
        Some(hold) if args.release => release(&client, hold).await?,
        _ => false,
    };
    match output {
        Output::Json => render::json(&AuthorizeJson {
            decision: name("DECISION_", asked.decision().as_str_name()),
            dry_run: args.dry_run,
            replayed: asked.replayed,
            degraded: asked.degraded,
            price_found: asked.price_found,
            hold: asked.hold.as_ref().map(Into::into),
            refusal: asked.refusal.as_ref().map(Into::into),
            shadow_refusals: asked.shadow_refusals.iter().map(Into::into).collect(),
            limits: asked.limits.iter().map(Into::into).collect(),
            session_budget: asked.session_budget.as_ref().map(Into::into),
            settled: recorded.as_ref().map(Into::into),
            released,
        })?,
        Output::Table => show(&asked, recorded.as_ref(), released)?,
    }
    match asked.decision() {
        Decision::Allowed => Ok(()),
        Decision::Denied | Decision::Unspecified => Err(Error::Denied),
    }
}

fn request(args: &AuthorizeArgs) -> v1::AuthorizeRequest {
    v1::AuthorizeRequest {
        request_id: args
            .request_id
            .clone()
            .unwrap_or_else(|| fresh_id("authorize")),
        call: Some(v1::CallInfo {
            user_id: args.user.clone(),
            team_id: args.team.clone(),
            session_id: args.session.clone(),
            provider: args.provider.clone(),
            model: args.model.clone(),
            ..v1::CallInfo::default()
        }),
        estimate: Some(v1::Estimate {
            input_tokens: args.input,
            cache_read_tokens: args.cache_read,
            max_output_tokens: args.max_output,
            cost: args.cost.map(money::from_nano_usd),
        }),
        hold_duration: args
            .hold
            .map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        dry_run: args.dry_run,
    }
}

/// Records the call that was asked for, as it turned out.
async fn settle(
    client: &Client,
    args: &AuthorizeArgs,
    (input, output): (i64, i64),
    hold: &v1::Hold,
) -> Result<v1::RecordedUsage, Error> {
    let line = v1::UsageLine {
        model: args.model.clone(),
        counts: Some(v1::TokenCounts {
            input,
            output,
            ..v1::TokenCounts::default()
        }),
        ..v1::UsageLine::default()
    };
    let event = v1::UsageEvent {
        // One event of a reservation, however often the command is repeated.
        event_id: format!("authorize:{}", hold.reservation_id),
        user_id: args.user.clone(),
        team_id: args.team.clone(),
        session_id: args.session.clone(),
        provider: args.provider.clone(),
        reservation_id: Some(hold.reservation_id.clone()),
        usage: Some(v1::usage_event::Usage::Lines(v1::UsageLines {
            lines: vec![line],
        })),
        ..v1::UsageEvent::default()
    };
    let request = v1::RecordUsageRequest {
        event: Some(event),
        include_limits: true,
    };
    let answer = client.metering().record_usage(request).await?.into_inner();
    Ok(answer.recorded.unwrap_or_default())
}

/// Gives back what is held.
async fn release(client: &Client, hold: &v1::Hold) -> Result<bool, Error> {
    let request = v1::ReleaseReservationRequest {
        request_id: fresh_id("release"),
        reservation_id: hold.reservation_id.clone(),
    };
    client.metering().release_reservation(request).await?;
    Ok(true)
}

/// The decision, why, and how limits stand, for people.
fn show(
    asked: &v1::AuthorizeResponse,
    recorded: Option<&v1::RecordedUsage>,
    released: bool,
) -> Result<(), Error> {
    render::line(&headline(asked))?;
    for refusal in &asked.shadow_refusals {
        render::line(&format!("in shadow mode: {}", refusal.message))?;
    }
    if let Some(budget) = &asked.session_budget {
        render::line(&budget_line(budget))?;
    }
    if let Some(recorded) = recorded {
        render::line(&settled_line(recorded))?;
    }
    if released {
        render::line("what was held is given back")?;
    }
    // After the settlement, if there was one.
    let limits = recorded.map_or(&asked.limits, |recorded| &recorded.limits);
    match limits.is_empty() {
        true => render::line("no limit applies"),
        false => render::line(&limits::states(limits).to_string()),
    }
}

fn headline(asked: &v1::AuthorizeResponse) -> String {
    if asked.decision() != Decision::Allowed {
        let why = asked.refusal.as_ref().map(|refusal| &*refusal.message);
        return format!("denied: {}", why.unwrap_or("the server does not say why"));
    }
    let mut text = match &asked.hold {
        Some(hold) => format!(
            "allowed: reservation {} holds {} input and {} output tokens{} until {}",
            hold.reservation_id,
            count(hold.input_tokens),
            count(hold.output_tokens),
            match render::nano_usd(hold.cost.as_ref()) {
                Some(cost) => format!(", {},", usd_of(cost)),
                None => String::new(),
            },
            time::seconds(hold.expire_time.as_ref()),
        ),
        None => "allowed: nothing is held".to_owned(),
    };
    if asked.replayed {
        text.push_str(" (decided before)");
    }
    if asked.degraded {
        text.push_str(" (degraded: by this node's share alone)");
    }
    text
}

fn budget_line(budget: &v1::TokenBudget) -> String {
    format!(
        "session {}: {} of {} tokens are left{}{}",
        budget.session_id,
        count(budget.remaining_tokens),
        count(budget.budget_max),
        if budget.enforced {
            ""
        } else {
            " (it only informs)"
        },
        if budget.should_summarize {
            "; time to summarize"
        } else {
            ""
        },
    )
}

fn settled_line(recorded: &v1::RecordedUsage) -> String {
    let settlement = recorded.settlement.clone().unwrap_or_default();
    format!(
        "{}: event {} used {} of {} tokens held, {}",
        settlement_word(&settlement).replace('_', " "),
        recorded.event_id,
        count(recorded.total_tokens),
        count(settlement.held_tokens),
        match render::nano_usd(recorded.cost.as_ref()) {
            Some(cost) => usd_of(cost),
            None => "unpriced".to_owned(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_says_what_is_held_or_why_not() {
        let mut asked = v1::AuthorizeResponse {
            decision: Decision::Allowed.into(),
            hold: Some(v1::Hold {
                reservation_id: "r-1".into(),
                input_tokens: 1_200,
                output_tokens: 4_096,
                cost: Some(money::from_nano_usd(65_040_000)),
                expire_time: Some(prost_types::Timestamp {
                    seconds: 600,
                    nanos: 0,
                }),
                ..v1::Hold::default()
            }),
            ..v1::AuthorizeResponse::default()
        };
        assert_eq!(
            headline(&asked),
            "allowed: reservation r-1 holds 1,200 input and 4,096 output tokens, $0.06504, until \
             1970-01-01T00:10:00Z"
        );
        asked.hold = None;
        assert_eq!(headline(&asked), "allowed: nothing is held");
        asked.decision = Decision::Denied.into();
        asked.refusal = Some(v1::Refusal {
            message: "limit requests-per-minute of user ada: 10 of 10 used".into(),
            ..v1::Refusal::default()
        });
        assert_eq!(
            headline(&asked),
            "denied: limit requests-per-minute of user ada: 10 of 10 used"
        );
    }

    #[test]
    fn what_was_used_is_two_counts() {
        assert_eq!(used("1200,300"), Ok((1_200, 300)));
        for wrong in ["", "1200", "1,-2", "a,b", "1,2,3"] {
            assert!(used(wrong).is_err(), "{wrong}");
        }
    }
}
