//! The command line: a client of the server's own contracts, and `normalize`, which needs none.

mod authorize;
mod connect;
mod corrections;
mod error;
mod events;
mod export;
mod files;
mod import;
mod jobs;
mod json;
mod limits;
mod migrate;
mod normalize;
mod prices;
mod render;
mod retry;
mod rows;
mod status;
mod time;
mod top;
mod upkeep;
mod usage;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::{config, server};
use error::Error;

/// Meters LLM tokens: records usage, prices it, limits it.
#[derive(Debug, Parser)]
#[command(name = "tokenmeter", version, propagate_version = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) client: connect::ClientArgs,

    /// Tables for people or JSON, on one line, for programs.
    #[arg(long, global = true, value_enum, default_value_t, help_heading = connect::HEADING)]
    output: Output,

    #[command(subcommand)]
    command: Command,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table.
    #[default]
    Table,
    /// One JSON object on one line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    ///
    /// Example: tokenmeter serve --listen 127.0.0.1:50051
    Serve(config::ServeArgs),
    /// Print or check the server's configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Bring the ledger to the newest schema; needs no server.
    ///
    /// Example: tokenmeter migrate --dry-run
    Migrate(migrate::MigrateArgs),
    /// Record usage from files.
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// Write recorded events to a file, one JSON object a line.
    ///
    /// Example: tokenmeter export --from 2026-07-01 --to 2026-08-01 --out july.jsonl
    Export(Box<export::ExportArgs>),
    /// Show events as they happen.
    ///
    /// Example: tokenmeter watch --user ada --type recorded --token-file ada.token
    Watch(Box<watch::WatchArgs>),
    /// Show the sessions with most use, again and again.
    ///
    /// Example: tokenmeter top --by cost --interval 5
    Top(top::TopArgs),
    /// Take an event out of all totals.
    ///
    /// Example: tokenmeter void msg_01 --reason "recorded for the wrong user"
    Void(corrections::VoidArgs),
    /// Price recorded usage again with the price book as it is now.
    ///
    /// Example: tokenmeter reprice --provider openai --from 2026-07-01
    Reprice(corrections::RepriceArgs),
    /// Hold totals against the events that they are sums of; exit code 1 if any drift stays.
    ///
    /// Example: tokenmeter reconcile --fix
    Reconcile(upkeep::ReconcileArgs),
    /// Drop events older than retention, as the daily job does; no total changes.
    ///
    /// Example: tokenmeter purge --before 2026-05-01 --dry-run
    Purge(upkeep::PurgeArgs),
    /// Close a month of every user with usage in it, as the monthly job does.
    ///
    /// Example: tokenmeter rollover --period 2026-07 --dry-run
    Rollover(jobs::RolloverArgs),
    /// The periodic jobs: how each ran last, and when it runs next.
    ///
    /// Example: tokenmeter jobs --output json
    Jobs,
    /// Totals of a user, a session, or all models.
    #[command(subcommand)]
    Usage(usage::UsageCommand),
    /// Recorded events.
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// The price book.
    #[command(subcommand)]
    Prices(prices::PricesCommand),
    /// Profiles, own limits, how they stand, and what was refused.
    #[command(subcommand)]
    Limits(limits::LimitsCommand),
    /// Ask whether a call may run; exit code 3 if it may not.
    ///
    /// Example: tokenmeter authorize --user ada --provider openai --model gpt-4o --max-output 1000
    Authorize(Box<authorize::AuthorizeArgs>),
    /// Turn recorded provider responses into disjoint counts; needs no server.
    ///
    /// Example: tokenmeter normalize responses.jsonl
    Normalize(normalize::NormalizeArgs),
    /// How the server is.
    ///
    /// Example: tokenmeter status --server meter.example:50051
    Status,
    /// This program's version.
    ///
    /// Example: tokenmeter version --output json
    Version,
}

/// The exit code of a call that may not run.
const DENIED: u8 = 3;

/// Runs the command and says how it ended.
pub(crate) async fn run(cli: Cli) -> ExitCode {
    match dispatch(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(Error::Reported) => ExitCode::FAILURE,
        Err(Error::Denied) => ExitCode::from(DENIED),
        Err(error) => {
            for line in error.to_string().lines() {
                render::note(&format!("error: {line}"));
            }
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(cli: Cli) -> Result<(), Error> {
    let Cli {
        client,
        output,
        command,
    } = cli;
    match command {
        Command::Serve(args) => server::serve(args).await.map_err(Error::other),
        Command::Config(command) => config::run(command).map_err(Error::other),
        Command::Migrate(args) => migrate::run(args, output).await,
        Command::Import(command) => import::run(command, &client, output).await,
        Command::Export(args) => export::run(&args, &client, output).await,
        Command::Watch(args) => watch::run(*args, &client, output).await,
        Command::Top(args) => top::run(args, &client, output).await,
        Command::Void(args) => corrections::void(args, &client, output).await,
        Command::Reprice(args) => corrections::reprice(args, &client, output).await,
        Command::Reconcile(args) => upkeep::reconcile(args, &client, output).await,
        Command::Purge(args) => upkeep::purge(args, &client, output).await,
        Command::Rollover(args) => jobs::rollover(args, &client, output).await,
        Command::Jobs => jobs::list(&client, output).await,
        Command::Usage(command) => usage::run(command, &client, output).await,
        Command::Events(command) => events::run(command, &client, output).await,
        Command::Prices(command) => prices::run(command, &client, output).await,
        Command::Limits(command) => limits::run(command, &client, output).await,
        Command::Authorize(args) => authorize::run(*args, &client, output).await,
        Command::Normalize(args) => normalize::run(&args),
        Command::Status => status::run(&client, output).await,
        Command::Version => status::version(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command that does something, by its words.
    fn leaves(command: &clap::Command, words: &str, found: &mut Vec<(String, clap::Command)>) {
        for sub in command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
        {
            let words = format!("{words} {}", sub.get_name());
            match sub.has_subcommands() {
                true => leaves(sub, &words, found),
                false => found.push((words, sub.clone())),
            }
        }
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "tokenmeter", &mut found);
        assert!(found.len() > 20, "{}", found.len());
        for (words, mut command) in found {
            let help = command.render_long_help().to_string().replace('\n', " ");
            let example = format!("Example: {words}");
            assert!(help.contains(&example), "{words}: {help}");
        }
    }

    #[test]
    fn every_command_is_read() {
        for line in [
            "tokenmeter serve",
            "tokenmeter config print",
            "tokenmeter config check",
            "tokenmeter migrate --dry-run --ledger sqlite:t.db --output json",
            "tokenmeter --server h:1 import provider-jsonl f --user u --label a=b --label c=d",
            "tokenmeter import provider-jsonl f --server h:1 --report json --strict --restart",
            "tokenmeter import events-jsonl f.gz --team t --strict",
            "tokenmeter import csv f --map input=a --map label.k=b --set model=m --time-unit ms",
            "tokenmeter import csv f --no-header --map input=1 --time-zone Asia/Kolkata",
            "tokenmeter usage user",
            "tokenmeter usage user u --interval day --interval lifetime --output json",
            "tokenmeter usage session s",
            "tokenmeter usage models --from 2026-01-01 --to 2026-02-01T00:00:00Z --model m",
            "tokenmeter export",
            "tokenmeter export --from 2026-01-01 --to 2026-02-01 --user u --include-voided --out f",
            "tokenmeter watch",
            "tokenmeter watch --user u --session s --model m --model n --type voided --label a=b",
            "tokenmeter watch --team t --resume T --count 3 --output json",
            "tokenmeter top --by cost --interval 5 --limit 3 --user u --from 2026-01-01",
            "tokenmeter top --once",
            "tokenmeter void e --reason r --request-id i",
            "tokenmeter reprice --from 2026-01-01 --provider p --model m --include-priced --dry-run",
            "tokenmeter reprice --yes --request-id i",
            "tokenmeter reconcile --fix --user u --request-id i --output json",
            "tokenmeter purge --before 2026-05-01 --dry-run",
            "tokenmeter rollover --period 2026-07 --dry-run --request-id i",
            "tokenmeter jobs",
            "tokenmeter events list --user u --session s --model m --limit 3",
            "tokenmeter prices list --provider p --all-versions",
            "tokenmeter prices import f --dry-run --provider p --provider q --problems",
            "tokenmeter prices set f --dry-run",
            "tokenmeter prices unpriced",
            "tokenmeter limits profiles --limit 3",
            "tokenmeter limits show free",
            "tokenmeter limits set p --limit requests/minute=10 --limit team:cost/month=2.5,overage",
            "tokenmeter limits set p --unlimited --name n --failure-mode closed --max-hold 60",
            "tokenmeter limits set p --session-budget 5 --enforce-session-budget true",
            "tokenmeter limits delete p",
            "tokenmeter limits assign pro --user u",
            "tokenmeter limits assign pro --everyone",
            "tokenmeter limits unassign --team t",
            "tokenmeter limits assignments --profile pro --scope user --limit 3",
            "tokenmeter limits own --api-key k --limit tokens/day=1_000",
            "tokenmeter limits own --session s --none",
            "tokenmeter limits effective",
            "tokenmeter limits effective --user u --session s --output json",
            "tokenmeter limits hits --user u --scope team --subject t --name n --from 2026-01-01",
            "tokenmeter authorize --provider p --model m",
            "tokenmeter authorize --user u --provider p --model m --max-output 9 --settle 1,2",
            "tokenmeter authorize --provider p --model m --input 5 --cost 0.5 --hold 9 --release",
            "tokenmeter normalize -",
            "tokenmeter status --tenant t --as-user u --timeout 5",
            "tokenmeter version --output json",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_contradicts_or_is_malformed_is_refused() {
        for line in [
            "tokenmeter",
            "tokenmeter import provider-jsonl",
            "tokenmeter import provider-jsonl f --label nokey",
            "tokenmeter import csv f --map input",
            "tokenmeter import csv f --map input=1 --time-unit s --time-zone UTC",
            "tokenmeter import provider-jsonl f --time yesterday",
            "tokenmeter void e",
            "tokenmeter reprice --dry-run --yes",
            "tokenmeter purge --before yesterday",
            "tokenmeter watch --type nothing",
            "tokenmeter watch --count 0",
            "tokenmeter watch --resume T --token-file f",
            "tokenmeter top --interval 0",
            "tokenmeter usage session",
            "tokenmeter usage user --interval year",
            "tokenmeter prices list --all-versions --at 2026-01-01T00:00:00Z",
            "tokenmeter limits set p --limit requests",
            "tokenmeter limits set p --limit requests/minute=1 --unlimited",
            "tokenmeter limits assign pro",
            "tokenmeter limits assign pro --user u --team t",
            "tokenmeter limits assign pro --session s",
            "tokenmeter limits own --user u",
            "tokenmeter limits own --limit requests/minute=1",
            "tokenmeter limits own --user u --limit requests/minute=1 --none",
            "tokenmeter limits effective --user u --team t",
            "tokenmeter limits hits --scope group",
            "tokenmeter authorize --model m",
            "tokenmeter authorize --provider p --model m --settle 1",
            "tokenmeter authorize --provider p --model m --settle 1,2 --dry-run",
            "tokenmeter status --output yaml",
            "tokenmeter status --timeout 0",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
