//! Real data beside the repository; it is never part of it.

use std::io::Read as _;
use std::path::PathBuf;

/// Where the price file of litellm is, or `None`, with a line that says so, when it is absent.
pub(crate) fn litellm_path() -> Option<PathBuf> {
    let folder = std::env::var_os("TOKENMETER_SHARED_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let path = folder.join("litellm_model_prices.json.gz");
    if path.is_file() {
        return Some(path);
    }
    println!(
        "not tested: {} is absent; put ../shared/data beside the repository or name its folder in \
         TOKENMETER_SHARED_DATA",
        path.display()
    );
    None
}

/// The text of the price file.
pub(crate) fn read_gz(path: &PathBuf) -> String {
    let mut text = String::new();
    let file = std::fs::File::open(path).expect("the file can be opened");
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .expect("the file is gzip and UTF-8");
    text
}
