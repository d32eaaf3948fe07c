//! The server's wiring.

/// Options of `tokenmeter serve`.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {}

/// Runs the server until it is told to stop.
pub(crate) async fn serve(_args: ServeArgs) -> Result<(), Box<dyn std::error::Error>> {
    Err("not wired yet".into())
}
