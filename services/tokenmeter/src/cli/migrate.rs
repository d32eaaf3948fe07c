//! `migrate`: brings a ledger to the newest schema, or prints what that would do. It needs no
//! server: it goes to the ledger that the settings name.

use serde::Serialize;
use tokenmeter_store::address::Address;
use tokenmeter_store::migrate::{self, Missing};

use super::Output;
use super::error::Error;
use super::render;
use crate::config::{Config, Raw, ServeArgs};
use crate::server;

/// What `migrate` is given.
#[derive(Debug, clap::Args)]
pub(crate) struct MigrateArgs {
    /// Print the SQL of what is missing and change nothing.
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    settings: ServeArgs,
}

/// The answer for programs.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    /// Without its password.
    ledger: String,
    backend: &'a str,
    dry_run: bool,
    /// What was applied, or in a dry run would be.
    migrations: Vec<One<'a>>,
}

#[derive(Debug, Serialize)]
struct One<'a> {
    version: i64,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sql: Option<&'a str>,
}

/// Runs `migrate`.
///
/// # Errors
/// Every error in the configuration; a ledger that cannot be reached; one that was migrated by a
/// newer version or with another content.
pub(crate) async fn run(args: MigrateArgs, output: Output) -> Result<(), Error> {
    let raw = Raw::gather(&args.settings, |name| std::env::var(name).ok());
    let config = Config::read(&raw).map_err(|errors| Error::Input(errors.join("\n")))?;
    let address = &config.ledger;
    let migrations = if args.dry_run {
        let missing = migrate::missing(address).await;
        missing.map_err(|error| Error::Input(format!("ledger: {address}: {error}")))?
    } else {
        let done = server::ledger::migrate(address).await;
        done.map_err(Error::Input)?
    };
    match output {
        Output::Json => json(address, args.dry_run, &migrations),
        Output::Table if args.dry_run => print_sql(address, &migrations),
        Output::Table => told(address, &migrations),
    }
}

fn json(address: &Address, dry_run: bool, migrations: &[Missing]) -> Result<(), Error> {
    render::json(&Answer {
        ledger: address.to_string(),
        backend: address.backend(),
        dry_run,
        migrations: migrations
            .iter()
            .map(|one| One {
                version: one.version,
                description: &one.description,
                sql: dry_run.then_some(&*one.sql),
            })
            .collect(),
    })
}

/// The statements, which a database could be given as they are, with what they are as comments.
fn print_sql(address: &Address, migrations: &[Missing]) -> Result<(), Error> {
    let many = migrations.len();
    render::line(&match many {
        0 => format!("-- {address} has the newest schema; nothing would be done."),
        1 => format!("-- 1 migration would be applied to {address}; nothing was changed."),
        _ => format!("-- {many} migrations would be applied to {address}; nothing was changed."),
    })?;
    for one in migrations {
        let (version, description) = (one.version, &one.description);
        render::line(&format!("\n-- Migration {version}: {description}"))?;
        for line in one.sql.lines() {
            render::line(line)?;
        }
    }
    Ok(())
}

fn told(address: &Address, migrations: &[Missing]) -> Result<(), Error> {
    for one in migrations {
        let (version, description) = (one.version, &one.description);
        render::line(&format!("migration {version}: {description}: applied"))?;
    }
    render::line(&format!("{address} has the newest schema"))
}
