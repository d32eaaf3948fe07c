//! The file that is imported, plain or gzip: what counts is what it holds.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::cli::error::Error;
use crate::cli::prices::hex;

/// The first bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// How much is read at once, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// What a file holds. A file and its compressed copy hold the same.
pub(super) struct Content {
    /// The SHA-256 in hexadecimal digits.
    pub(super) hash: String,
    /// How much it is, in bytes.
    pub(super) bytes: u64,
}

/// Opens a file at its begin.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>, Error> {
    let file = File::open(path).map_err(|error| Error::file("open", path, &error))?;
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    let begin = file
        .fill_buf()
        .map_err(|error| Error::file("read", path, &error))?;
    Ok(match begin.starts_with(&GZIP) {
        true => Box::new(BufReader::with_capacity(
            BUFFER_BYTES,
            MultiGzDecoder::new(file),
        )),
        false => Box::new(file),
    })
}

/// Reads a file to its end.
pub(super) fn content(path: &Path) -> Result<Content, Error> {
    let mut reader = open(path)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    loop {
        let part = reader
            .fill_buf()
            .map_err(|error| Error::file("read", path, &error))?;
        let read = part.len();
        if read == 0 {
            let hash = hex(&hash.finalize());
            return Ok(Content { hash, bytes });
        }
        hash.update(part);
        bytes += read as u64;
        reader.consume(read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_compressed_copy_holds_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, packed) = (folder.path().join("a"), folder.path().join("b"));
        let text = b"one\ntwo\n".repeat(20_000);
        std::fs::write(&plain, &text).unwrap();
        let mut file = Vec::new();
        // Two members, as appending to a compressed file makes them.
        for half in text.chunks(text.len() / 2) {
            let mut writer = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
            writer.write_all(half).unwrap();
            writer.finish().unwrap();
        }
        std::fs::write(&packed, &file).unwrap();
        let (plain, packed) = (content(&plain).unwrap(), content(&packed).unwrap());
        assert_eq!(plain.hash, packed.hash);
        assert_eq!((plain.bytes, packed.bytes), (160_000, 160_000));
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.gz");
        std::fs::write(&path, GZIP).unwrap();
        let error = content(&path).err().unwrap().to_string();
        assert!(error.contains("broken.gz"), "{error}");
        assert!(open(&folder.path().join("absent")).is_err());
    }
}
