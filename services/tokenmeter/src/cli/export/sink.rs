//! Where an export goes: standard output, or a file that a later run can go on with.
//!
//! Whoever writes a part holds a lock on it, and its notes are there before its first byte: a part
//! without notes is somebody else's file, and stays as it is.

use std::fs::{self, File, OpenOptions, TryLockError};
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
        absent(path)?;
        let (part, notes) = (
            files::beside(path, ".part"),
            files::beside(path, ".part.json"),
        );
        let failed = |error: io::Error| Error::file("write", &part, &error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&part)
            .map_err(failed)?;
        lock(&file, path, &part)?;
        // Another export may have ended since: what is locked is its whole file then.
        absent(path)?;
        let found = found(&notes)?;
        if matches!(found, Found::Nothing) && file.metadata().map_err(failed)?.len() > 0 {
            return Err(Error::Input(format!(
                "{} exists, and without {} it is no part of an export; move it away, or name \
                 another file with --out",
                part.display(),
                notes.display()
            )));
        }
        let mark = match (found, restart) {
            (Found::Foreign, _) => return Err(foreign(&notes)),
            (Found::Nothing, _) | (Found::Notes(_), true) => None,
            (Found::Notes(mark), false) if mark.is_of(&export) => Some(mark),
            (Found::Notes(_), false) => return Err(other(&notes)),
        };
        let mark = mark.unwrap_or_else(|| Mark {
            version: VERSION,
            export,
            ..Default::default()
        });
        if file.metadata().map_err(failed)?.len() < mark.bytes {
            return Err(Error::Input(format!(
                "{} is shorter than was written; begin anew with --restart",
                part.display()
            )));
        }
        // What was written after the last note comes again.
        file.set_len(mark.bytes).map_err(failed)?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(mark.bytes)).map_err(failed)?;
        let part = Part {
            file,
            path: path.to_owned(),
            part,
            notes,
            mark,
        };
        part.note(&part.mark)?;
        Ok(Self::File(part))
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
                part.note(mark)
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

impl Part {
    /// Notes how far it is.
    fn note(&self, mark: &Mark) -> Result<(), Error> {
        let notes = serde_json::to_vec(mark)
            .map_err(|error| Error::file("write", &self.notes, &error.into()))?;
        files::replace(&self.notes, &notes)
    }
}

impl Mark {
    /// Whether this export can go on from here.
    fn is_of(&self, export: &str) -> bool {
        self.version == VERSION && self.export == export
    }
}

/// What is there in the place of the notes.
enum Found {
    Nothing,
    /// Notes of this or another export.
    Notes(Mark),
    /// What no export wrote.
    Foreign,
}

fn found(notes: &Path) -> Result<Found, Error> {
    Ok(match files::read(notes)? {
        None => Found::Nothing,
        Some(bytes) => match serde_json::from_slice(&bytes) {
            Ok(mark) => Found::Notes(mark),
            Err(_) => Found::Foreign,
        },
    })
}

/// Nothing that exists is written over.
fn absent(path: &Path) -> Result<(), Error> {
    match path.exists() {
        false => Ok(()),
        true => Err(Error::Input(format!(
            "{} exists already; remove it, or name another file",
            path.display()
        ))),
    }
}

/// Keeps every other export out of this part, until the file is closed or the process ends.
fn lock(file: &File, path: &Path, part: &Path) -> Result<(), Error> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Input(format!(
            "another export to {} runs; wait for its end, or name another file with --out",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Error::file("lock", part, &error)),
    }
}

fn other(notes: &Path) -> Error {
    Error::Input(format!(
        "{} belongs to another export; name another file, or begin anew with --restart",
        notes.display()
    ))
}

fn foreign(notes: &Path) -> Error {
    Error::Input(format!(
        "{} holds no notes of an export; move it and the part beside it away, or name another \
         file with --out",
        notes.display()
    ))
}
