//! `tokenmeter limits hits`.

use prost_types::Timestamp;
use serde::Serialize;
use tokenmeter_api::v1;

use super::super::connect::ClientArgs;
use super::super::error::Error;
use super::super::events::page_size;
use super::super::render::{self, count, name};
use super::super::usage::range;
use super::super::{Output, time};
use super::show::{self, StateJson};
use super::spec;

/// Which hits to list.
#[derive(Debug, clap::Args)]
pub(crate) struct HitsArgs {
    /// Of one user's calls only.
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// Of limits of one scope only: tenant, team, user, session or api-key.
    #[arg(long, value_parser = spec::scope)]
    scope: Option<v1::LimitScope>,
    /// Of one subject only.
    #[arg(long, default_value = "", hide_default_value = true)]
    subject: String,
    /// Of limits of this name only.
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// From this time on (RFC 3339, or a date in UTC).
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<Timestamp>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    to: Option<Timestamp>,
    /// List at most this many.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

#[derive(Serialize)]
struct HitsJson<'a> {
    hits: Vec<HitJson<'a>>,
    more: bool,
}

#[derive(Serialize)]
struct HitJson<'a> {
    time: Option<String>,
    count: i64,
    cause: String,
    enforcement: String,
    user_id: &'a str,
    state: Option<StateJson<'a>>,
}

/// Runs `tokenmeter limits hits`.
pub(super) async fn list(args: HitsArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let mut request = v1::ListLimitHitsRequest {
        user_id: args.user,
        range: range(args.from, args.to),
        scope: args.scope.unwrap_or_default().into(),
        subject: args.subject,
        limit_name: args.name,
        page_size: page_size(args.limit),
        page_token: String::new(),
    };
    let mut service = client.connect().await?.analytics();
    let (mut hits, mut more) = (Vec::new(), true);
    while more && hits.len() < args.limit {
        let page = service.list_limit_hits(request.clone()).await?.into_inner();
        hits.extend(page.hits);
        more = !page.next_page_token.is_empty();
        request.page_token = page.next_page_token;
    }
    more |= hits.len() > args.limit;
    hits.truncate(args.limit);
    if output == Output::Json {
        let hits = hits.iter().map(|hit| HitJson {
            time: time::format(hit.time.as_ref()),
            count: hit.count,
            cause: name("REFUSAL_CAUSE_", hit.cause().as_str_name()),
            enforcement: show::enforcement(hit.enforcement()),
            user_id: &hit.user_id,
            state: hit.state.as_ref().map(Into::into),
        });
        return render::json(&HitsJson {
            hits: hits.collect(),
            more,
        });
    }
    let mut table = render::table(&[
        "time", "#calls", "limit", "of", "of what", "#limit", "#used", "#held", "did", "user",
    ]);
    for hit in &hits {
        let state = hit.state.clone().unwrap_or_default();
        table.add_row(vec![
            time::text(hit.time.as_ref()),
            count(hit.count),
            state.name.clone(),
            show::subject(state.scope(), &state.subject),
            spec::rule_words(state.metric(), state.window()),
            show::amount(state.metric(), state.limit),
            show::amount(state.metric(), state.used),
            show::amount(state.metric(), state.held),
            spec::enforcement_word(hit.enforcement()).to_owned(),
            hit.user_id.clone(),
        ]);
    }
    render::line(&table.to_string())?;
    match more {
        true => render::line("there are more; ask for them with --limit"),
        false => Ok(()),
    }
}
