//! The configuration.

/// What to do with the configuration.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration in force.
    Print(ConfigArgs),
    /// Check the configuration and report every error in it.
    Check(ConfigArgs),
}

/// Options of `tokenmeter config`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {}

/// Runs `tokenmeter config`.
pub(crate) fn run(command: ConfigCommand) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        ConfigCommand::Print(_) | ConfigCommand::Check(_) => Err("not wired yet".into()),
    }
}
