//! `tokenmeter prices`: the price book.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use prost_types::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokenmeter_api::v1;
use tokenmeter_model::bounds::MIN_TIME_US;
use tokenmeter_model::money::format_usd_per_million;
use tokenmeter_model::price::{Component, Price, file};
use tokenmeter_model::tier::ServiceTier;

use super::connect::ClientArgs;
use super::corrections::fresh_id;
use super::error::Error;
use super::events::page_size;
use super::render::{self, count};
use super::{Output, time};

/// Problems of an import that are shown unless all are asked for.
const PROBLEMS_SHOWN: usize = 20;
/// Most prices of one request.
const MAX_PRICES: usize = 1_000;

/// What to do with prices.
#[derive(Debug, Subcommand)]
pub(crate) enum PricesCommand {
    /// List the price book, in USD per million tokens.
    ///
    /// Example: tokenmeter prices list --provider anthropic
    List(ListArgs),
    /// Import a model_prices_and_context_window.json, plain or gzip.
    ///
    /// Example: tokenmeter prices import model_prices_and_context_window.json --dry-run
    Import(ImportArgs),
    /// Set the prices of a price file.
    ///
    /// Example: tokenmeter prices set prices.toml --dry-run
    Set(SetArgs),
    /// List the models that were used and have no price.
    ///
    /// Example: tokenmeter prices unpriced
    Unpriced {
        /// List at most this many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
}

/// Which prices.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// One provider only.
    #[arg(long, default_value = "", hide_default_value = true)]
    provider: String,
    /// One model only.
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
    /// Every version, not only those in force.
    #[arg(long, conflicts_with = "at")]
    all_versions: bool,
    /// The prices in force at this time; now if absent.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    at: Option<Timestamp>,
    /// List at most this many.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// What to import.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// The file, JSON or gzip.
    file: PathBuf,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// One provider only; repeat for several.
    #[arg(long)]
    provider: Vec<String>,
    /// From when the prices hold. If absent, from now on, and for ever for models without a price.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    effective_from: Option<Timestamp>,
    /// What to note as the prices' source.
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,
    /// Show every entry that could not be mapped, not only the first 20.
    #[arg(long)]
    problems: bool,
}

/// What to set.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// The price file, TOML.
    file: PathBuf,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub(crate) async fn run(
    command: PricesCommand,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    match command {
        PricesCommand::List(args) => list(args, client, output).await,
        PricesCommand::Import(args) => import(args, client, output).await,
        PricesCommand::Set(args) => set(&args, client, output).await,
        PricesCommand::Unpriced { limit } => unpriced(limit, client, output).await,
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::file("read", path, &error))
}

/// The id of a request: the same for the same content and options, so that a retry is one.
pub(crate) fn request_id(kind: &str, content: &[u8], options: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(&content).chain(options) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("{kind}:{}", hex(&hash.finalize()))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Serialize)]
struct PriceJson {
    effective_from: Option<String>,
    created_time: Option<String>,
    #[serde(flatten)]
    price: Option<Price>,
}

#[derive(Serialize)]
struct PricesJson {
    prices: Vec<PriceJson>,
}

impl From<v1::Price> for PriceJson {
    fn from(price: v1::Price) -> Self {
        Self {
            effective_from: time::format(price.effective_from.as_ref()),
            created_time: time::format(price.created_time.as_ref()),
            price: model_price(price),
        }
    }
}

/// The model's price with the server's version; none if this version cannot read it.
fn model_price(price: v1::Price) -> Option<Price> {
    let version = price.version;
    let price = tokenmeter_api::convert::price::price("price", price).ok()?;
    Some(Price { version, ..price })
}

async fn list(args: ListArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let limit = args.limit.unwrap_or(usize::MAX);
    let mut request = v1::ListPricesRequest {
        provider: args.provider,
        model: args.model,
        effective_at: args.at,
        all_versions: args.all_versions,
        page_size: page_size(limit),
        page_token: String::new(),
    };
    let mut service = client.connect().await?.admin();
    let mut prices = Vec::new();
    while prices.len() < limit {
        let page = service.list_prices(request.clone()).await?.into_inner();
        prices.extend(page.prices);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    prices.truncate(limit);
    if output == Output::Json {
        let prices = prices.into_iter().map(Into::into).collect();
        return render::json(&PricesJson { prices });
    }
    render::line(&table(prices).to_string())
}

fn table(prices: Vec<v1::Price>) -> comfy_table::Table {
    let mut table = render::table(&[
        "provider",
        "model",
        "from",
        "#version",
        "#input",
        "#output",
        "#cache read",
        "#cache write",
        "other tiers",
        "source",
    ]);
    for price in prices {
        let (provider, name) = (price.provider.clone(), price.model.clone());
        let from = time::text(price.effective_from.as_ref());
        let Some(price) = model_price(price) else {
            table.add_row(vec![provider, name, from, "not readable".to_owned()]);
            continue;
        };
        let base = price
            .tiers
            .get(&ServiceTier::Standard)
            .map(|tier| tier.base);
        let rate = |component| {
            base.and_then(|base| base.get(component))
                .map_or_else(|| "-".to_owned(), format_usd_per_million)
        };
        let tiers: Vec<_> = price
            .tiers
            .keys()
            .filter(|tier| **tier != ServiceTier::Standard)
            .map(|tier| tier.as_str())
            .collect();
        let from = match price.effective_from_us {
            MIN_TIME_US => "always".to_owned(),
            _ => from,
        };
        let write = match rate(Component::CacheWrite5m).as_str() {
            "-" => rate(Component::CacheWriteUnspecified),
            rate => rate.to_owned(),
        };
        table.add_row(vec![
            provider,
            name,
            from,
            price.version.to_string(),
            rate(Component::Input),
            rate(Component::Output),
            rate(Component::CacheRead),
            write,
            tiers.join(", "),
            price.source.clone(),
        ]);
    }
    table
}

#[derive(Serialize)]
struct ImportJson<'a> {
    dry_run: bool,
    entries: i32,
    added: i32,
    changed: i32,
    unchanged: i32,
    skipped: i32,
    invalid: i32,
    version: i64,
    problems: Vec<ProblemJson<'a>>,
    changes: Vec<PriceJson>,
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    entry: &'a str,
    description: &'a str,
    imported: bool,
}

async fn import(args: ImportArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let content = read(&args.file)?;
    let request = v1::ImportPricesRequest {
        // Who runs it again wants these prices now, whatever was set since.
        request_id: fresh_id("prices-import"),
        content: content.into(),
        format: v1::PriceFileFormat::Unspecified.into(),
        effective_from: args.effective_from,
        source: args.source,
        providers: args.provider,
        dry_run: args.dry_run,
    };
    let mut service = client.connect().await?.admin();
    let answer = service.import_prices(request).await?.into_inner();
    if output == Output::Json {
        return render::json(&ImportJson {
            dry_run: args.dry_run,
            entries: answer.entries,
            added: answer.added,
            changed: answer.changed,
            unchanged: answer.unchanged,
            skipped: answer.skipped,
            invalid: answer.invalid,
            version: answer.version,
            problems: answer
                .problems
                .iter()
                .map(|problem| ProblemJson {
                    entry: &problem.entry,
                    description: &problem.description,
                    imported: problem.imported,
                })
                .collect(),
            changes: answer.changes.into_iter().map(Into::into).collect(),
        });
    }
    show_import(&answer, args.dry_run, args.problems)
}

fn show_import(answer: &v1::ImportPricesResponse, dry_run: bool, all: bool) -> Result<(), Error> {
    let mut table = render::table(&[
        "#entries",
        "#added",
        "#changed",
        "#unchanged",
        "#skipped",
        "#invalid",
        "#book version",
    ]);
    let counts = [
        answer.entries,
        answer.added,
        answer.changed,
        answer.unchanged,
        answer.skipped,
        answer.invalid,
    ];
    let mut row: Vec<_> = counts.into_iter().map(|n| count(n.into())).collect();
    row.push(count(answer.version));
    table.add_row(row);
    render::line(&table.to_string())?;
    if dry_run {
        render::line("dry run: nothing was changed")?;
    }
    let shown = if all {
        answer.problems.len()
    } else {
        PROBLEMS_SHOWN
    };
    if !answer.problems.is_empty() {
        let mut table = render::table(&["entry", "not mapped", "rest imported"]);
        for problem in answer.problems.iter().take(shown) {
            let imported = if problem.imported { "yes" } else { "no" };
            table.add_row(vec![&problem.entry, &problem.description, imported]);
        }
        render::line(&table.to_string())?;
    }
    let more = answer.problems.len().saturating_sub(shown);
    if more > 0 {
        render::line(&format!("and {more} more; list all with --problems"))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct SetJson {
    dry_run: bool,
    unchanged: i32,
    prices: Vec<PriceJson>,
}

async fn set(args: &SetArgs, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let content = read(&args.file)?;
    let text = std::str::from_utf8(&content)
        .map_err(|_| Error::Input(format!("{} is not UTF-8", args.file.display())))?;
    let prices = file::parse(text)
        .map_err(|error| Error::Input(format!("{}: {error}", args.file.display())))?;
    if prices.is_empty() {
        let path = args.file.display();
        return Err(Error::Input(format!("{path} has no [[price]] table")));
    }
    let mut service = client.connect().await?.admin();
    let (mut set, mut unchanged) = (Vec::new(), 0);
    for part in prices.chunks(MAX_PRICES) {
        let request = v1::SetPricesRequest {
            // Who runs it again wants these prices now, whatever was set since.
            request_id: fresh_id("prices-set"),
            prices: part
                .iter()
                .map(tokenmeter_api::convert::price::from_price)
                .collect(),
            dry_run: args.dry_run,
        };
        let answer = service.set_prices(request).await?.into_inner();
        set.extend(answer.prices);
        unchanged += answer.unchanged;
    }
    if output == Output::Json {
        return render::json(&SetJson {
            dry_run: args.dry_run,
            unchanged,
            prices: set.into_iter().map(Into::into).collect(),
        });
    }
    let verb = if args.dry_run { "would be set" } else { "set" };
    render::line(&format!(
        "{} prices {verb}, {unchanged} unchanged",
        set.len()
    ))?;
    if set.is_empty() {
        return Ok(());
    }
    render::line(&table(set).to_string())
}

#[derive(Serialize)]
struct UnpricedJson {
    models: Vec<UnpricedModelJson>,
    total_lines: i64,
}

#[derive(Serialize)]
struct UnpricedModelJson {
    provider: String,
    model: String,
    lines: i64,
    total_tokens: i64,
    first_charge_time: Option<String>,
    last_charge_time: Option<String>,
    priceable: bool,
}

async fn unpriced(limit: Option<usize>, client: &ClientArgs, output: Output) -> Result<(), Error> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut request = v1::ListUnpricedModelsRequest {
        page_size: page_size(limit),
        page_token: String::new(),
    };
    let mut service = client.connect().await?.admin();
    let (mut models, mut total_lines) = (Vec::new(), 0);
    while models.len() < limit {
        let page = service
            .list_unpriced_models(request.clone())
            .await?
            .into_inner();
        models.extend(page.models);
        total_lines = page.total_lines;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    models.truncate(limit);
    let models: Vec<_> = models
        .into_iter()
        .map(|model| UnpricedModelJson {
            first_charge_time: time::format(model.first_charge_time.as_ref()),
            last_charge_time: time::format(model.last_charge_time.as_ref()),
            provider: model.provider,
            model: model.model,
            lines: model.lines,
            total_tokens: model.total_tokens,
            priceable: model.priceable,
        })
        .collect();
    if output == Output::Json {
        return render::json(&UnpricedJson {
            models,
            total_lines,
        });
    }
    let mut table = render::table(&[
        "provider",
        "model",
        "#lines",
        "#tokens",
        "first",
        "last",
        "priceable",
    ]);
    for model in models {
        table.add_row(vec![
            model.provider,
            model.model,
            count(model.lines),
            count(model.total_tokens),
            model.first_charge_time.unwrap_or_default(),
            model.last_charge_time.unwrap_or_default(),
            if model.priceable {
                "by a reprice"
            } else {
                "no"
            }
            .to_owned(),
        ]);
    }
    render::line(&table.to_string())?;
    render::line(&format!("{} unpriced lines", count(total_lines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_depends_on_content_and_options_alone() {
        let id = request_id("k", b"content", &[b"a", b"b"]);
        assert_eq!(id, request_id("k", b"content", &[b"a", b"b"]));
        assert_eq!(id.len(), "k:".len() + 64);
        for other in [
            request_id("k", b"content", &[b"ab"]),
            request_id("k", b"content", &[b"ab", b""]),
            request_id("k", b"contenta", &[b"b"]),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn prices_keep_their_version_and_rates() {
        let shipped = tokenmeter_model::price::shipped().unwrap();
        let mut wire = tokenmeter_api::convert::price::from_price(&shipped[0]);
        wire.version = 7;
        let json = serde_json::to_value(PriceJson::from(wire.clone())).unwrap();
        assert_eq!(json["version"], 7);
        assert_eq!(json["model"], shipped[0].model.as_str());
        assert!(json["tiers"]["standard"]["base"].is_object());
        assert!(table(vec![wire]).to_string().contains(&shipped[0].model));
    }
}
