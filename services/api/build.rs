//! Compiles `proto/tokenmeter/v1` without `protoc`: protox parses, tonic-prost-build generates.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

/// Every contract file, in a stable order.
fn contracts(root: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("tokenmeter/v1"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let root = manifest.join("../../proto");
    println!(
        "cargo::rerun-if-changed={}",
        root.join("tokenmeter").display()
    );

    let mut compiler = protox::Compiler::new([&root])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files(contracts(&root)?)?;
    let files = compiler.file_descriptor_set();
    fs::write(out.join("tokenmeter.v1.binpb"), files.encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .bytes(".tokenmeter.v1")
        .generate_default_stubs(true)
        .compile_fds_with_config(files, config)?;
    Ok(())
}
