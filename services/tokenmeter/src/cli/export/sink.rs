//! Where an export goes: standard output, or a file that a later run can go on with.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Sums;
use crate::cli::error::Error;
use crate::cli::files;

/// Version of the notes' format.
const VERSION: u32 = 1;

/// How far an export is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    version: u32,
    /// Which export this is.
    export: String,
    /// Goes on after what is written; empty at the begin.
    pub(super) token: String,
    /// How much is written.
    pub(super) bytes: u64,
    /// What is written.
    pub(super) sums: Sums,
}

/// Where an export goes.
#[derive(Debug)]
pub(super) enum Sink {
    /// Standard output.
    Stdout(Mark),
    /// A file.
    File(Part),
}

/// A file that is not whole yet.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    /// Its name when it is whole.
    path: PathBuf,
    part: PathBuf,
    notes: PathBuf,
    mark: Mark,
}

impl Sink {
    /// Standard output, which no later run can go on with.
    pub(super) fn stdout() -> Self {
        Self::Stdout(Mark::default())
    }

    /// A file, from where an earlier run of the same export left it, unless it is to begin anew.
    pub(super) fn file(path: &Path, export: String, restart: bool) -> Result<Self, Error> {
        if path.exists() {
            return Err(Error::Input(format!(
                "{} exists already; remove it, or name another file",
                path.display()
            )));
        }
        let (part, notes) = (
            files::beside(path, ".part"),
            files::beside(path, ".part.json"),
        );
        let mark = match restart {
            true => None,
            false => noted(&notes, &export)?,
        };
        let mark = mark.unwrap_or_else(|| Mark {
            version: VERSION,
            export,
            ..Default::default()
        });
        let failed = |error: io::Error| Error::file("write", &part, &error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&part)
            .map_err(failed)?;
        if file.metadata().map_err(failed)?.len() < mark.bytes {
            return Err(Error::Input(format!(
                "{} is shorter than was written; begin anew with --restart",
                part.display()
            )));
        }
        // What was written after the last note comes again.
        file.set_len(mark.bytes).map_err(failed)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(mark.bytes)).map_err(failed)?;
        Ok(Self::File(Part {
            file,
            path: path.to_owned(),
            part,
            notes,
            mark,
        }))
    }

    /// How far an earlier run had come.
    pub(super) fn mark(&self) -> &Mark {
        match self {
            Self::Stdout(mark) => mark,
            Self::File(part) => &part.mark,
        }
    }

    /// Writes a part, then notes how far that is.
    pub(super) fn write(&mut self, data: &[u8], mark: &Mark) -> Result<(), Error> {
        match self {
            Self::Stdout(_) => {
                // A reader that went away is no success here: it has a part of the export.
                let mut out = io::stdout().lock();
                out.write_all(data)
                    .and_then(|()| out.flush())
                    .map_err(|error| {
                        Error::Input(format!(
                            "cannot write to standard output: {error}; the export is not whole"
                        ))
                    })
            }
            Self::File(part) => {
                let failed = |error: io::Error| Error::file("write", &part.part, &error);
                part.file.write_all(data).map_err(failed)?;
                let notes = serde_json::to_vec(mark).map_err(|error| failed(error.into()))?;
                files::replace(&part.notes, &notes)
            }
        }
    }

    /// Gives the file its name: it is whole.
    pub(super) fn finish(self) -> Result<(), Error> {
        let Self::File(part) = self else {
            return Ok(());
        };
        let failed = |error: io::Error| Error::file("write", &part.path, &error);
        part.file.sync_all().map_err(failed)?;
        fs::rename(&part.part, &part.path).map_err(failed)?;
        files::remove(&part.notes)
    }
}

/// What an earlier run noted; none if there was none.
fn noted(notes: &Path, export: &str) -> Result<Option<Mark>, Error> {
    let Some(bytes) = files::read(notes)? else {
        return Ok(None);
    };
    let mark: Option<Mark> = serde_json::from_slice(&bytes).ok();
    match mark.filter(|mark| mark.version == VERSION && mark.export == export) {
        Some(mark) => Ok(Some(mark)),
        None => Err(Error::Input(format!(
            "{} belongs to another export; name another file, or begin anew with --restart",
            notes.display()
        ))),
    }
}
