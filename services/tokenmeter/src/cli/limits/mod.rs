//! `tokenmeter limits`: profiles, who has which, own limits, how they stand, and what was refused.

mod hits;
mod profiles;
mod show;
mod spec;
mod subjects;

use clap::Subcommand;

use super::Output;
use super::connect::ClientArgs;
use super::error::Error;

pub(crate) use show::{StateJson, states};
pub(crate) use spec::nano_usd;

/// What to do with limits.
#[derive(Debug, Subcommand)]
pub(crate) enum LimitsCommand {
    /// List the profiles, which are named sets of limits.
    ///
    /// Example: tokenmeter limits profiles
    Profiles {
        /// List at most this many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a profile and its limits.
    ///
    /// Example: tokenmeter limits show free
    Show {
        /// The profile.
        profile: String,
    },
    /// Create a profile, or change one; what is not given stays.
    ///
    /// Example: tokenmeter limits set team-plan --limit requests/minute=30 --limit team:cost/month=250
    Set(profiles::SetArgs),
    /// Delete a profile that nobody has.
    ///
    /// Example: tokenmeter limits delete team-plan
    Delete {
        /// The profile.
        profile: String,
    },
    /// Give a user, a team or everyone a profile.
    ///
    /// Example: tokenmeter limits assign pro --user ada
    Assign(subjects::AssignArgs),
    /// Take the profile from a user, a team or everyone, so that the next one applies.
    ///
    /// Example: tokenmeter limits unassign --user ada
    Unassign(subjects::UnassignArgs),
    /// List who was given which profile.
    ///
    /// Example: tokenmeter limits assignments --profile pro
    Assignments(subjects::AssignmentsArgs),
    /// Set all limits that somebody has beside the profile.
    ///
    /// Example: tokenmeter limits own --team search --limit cost/month=250
    Own(subjects::OwnArgs),
    /// Show what applies to somebody, and how it stands.
    ///
    /// Example: tokenmeter limits effective --user ada
    Effective(subjects::EffectiveArgs),
    /// List refusals and hits, newest first.
    ///
    /// Example: tokenmeter limits hits --user ada --from 2026-07-01
    Hits(hits::HitsArgs),
}

/// Runs the command.
pub(crate) async fn run(
    command: LimitsCommand,
    client: &ClientArgs,
    output: Output,
) -> Result<(), Error> {
    match command {
        LimitsCommand::Profiles { limit } => profiles::list(limit, client, output).await,
        LimitsCommand::Show { profile } => profiles::show(profile, client, output).await,
        LimitsCommand::Set(args) => profiles::set(args, client, output).await,
        LimitsCommand::Delete { profile } => profiles::delete(profile, client, output).await,
        LimitsCommand::Assign(args) => subjects::assign(args, client, output).await,
        LimitsCommand::Unassign(args) => subjects::unassign(args, client, output).await,
        LimitsCommand::Assignments(args) => subjects::assignments(args, client, output).await,
        LimitsCommand::Own(args) => subjects::own(args, client, output).await,
        LimitsCommand::Effective(args) => subjects::effective(args, client, output).await,
        LimitsCommand::Hits(args) => hits::list(args, client, output).await,
    }
}
