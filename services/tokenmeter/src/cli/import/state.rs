//! What an import has done, in a file, so that it can go on where it was broken off.
//!
//! Only what cannot be learnt from the imported file again is noted: how far the server has
//! acknowledged, and what it refused. Sums are made anew from the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::error::Error;
use crate::cli::files;

/// Version of the file's format.
const VERSION: u32 = 1;
/// Most refused rows that are listed with their message; all are counted.
pub(super) const MAX_LISTED: usize = 1_000;

/// A row that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RefusedRow {
    /// Its number, from 0.
    pub(super) line: u64,
    /// For programs.
    pub(super) reason: String,
    /// For people.
    pub(super) message: String,
}

/// What an import has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    version: u32,
    /// Which import this is.
    import: String,
    /// The first line that is not done.
    pub(super) next_line: u64,
    /// Where it begins, in bytes.
    pub(super) offset: u64,
    /// Rows read, blank ones left out.
    pub(super) read: u64,
    /// Events that the server recorded now.
    pub(super) recorded: u64,
    /// Events that stood there already.
    pub(super) duplicates: u64,
    /// Rows left out, as voided events are.
    #[serde(default)]
    pub(super) skipped: u64,
    /// Rows refused, by reason.
    pub(super) refused: BTreeMap<String, u64>,
    /// The first [`MAX_LISTED`] of them.
    pub(super) refused_rows: Vec<RefusedRow>,
    /// All of them, as ascending ranges of lines, last line included.
    refused_lines: Vec<(u64, u64)>,
    /// Rows that the server turned into other counts than this program.
    pub(super) mismatches: u64,
}

impl Progress {
    /// Notes a refused row; rows come in ascending order.
    pub(super) fn refuse(&mut self, line: u64, reason: &str, message: String) {
        *self.refused.entry(reason.to_owned()).or_default() += 1;
        if self.refused_rows.len() < MAX_LISTED {
            self.refused_rows.push(RefusedRow {
                line,
                reason: reason.to_owned(),
                message,
            });
        }
        match self.refused_lines.last_mut() {
            Some((_, last)) if *last + 1 == line => *last = line,
            _ => self.refused_lines.push((line, line)),
        }
    }

    /// Whether a row that is done was refused.
    pub(super) fn is_refused(&self, line: u64) -> bool {
        let after = self
            .refused_lines
            .partition_point(|(first, _)| *first <= line);
        after > 0 && line <= self.refused_lines[after - 1].1
    }
}

/// Where progress is kept.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    import: String,
    restart: bool,
}

impl StateFile {
    /// The state of the import `key`, at `path` or else under the user's state folder.
    pub(super) fn open(path: Option<PathBuf>, key: &str, restart: bool) -> Result<Self, Error> {
        let path = match path {
            Some(path) => path,
            None => folder(
                std::env::var_os("XDG_STATE_HOME").map(PathBuf::from),
                std::env::var_os("HOME").map(PathBuf::from),
            )
            .ok_or_else(|| {
                Error::Input(
                    "no folder for the state of the import: neither XDG_STATE_HOME nor HOME is \
                     set; name a file with --state"
                        .into(),
                )
            })?
            .join(format!("{key}.json")),
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::create_dir_all(folder).map_err(|error| Error::file("create", folder, &error))?;
        }
        Ok(Self {
            path,
            import: key.to_owned(),
            restart,
        })
    }

    /// What was done before; nothing if there is no file, or if the import is to begin anew.
    pub(super) fn load(&self) -> Result<Progress, Error> {
        let fresh = Progress {
            version: VERSION,
            import: self.import.clone(),
            ..Default::default()
        };
        if self.restart {
            return Ok(fresh);
        }
        let Some(bytes) = files::read(&self.path)? else {
            return Ok(fresh);
        };
        match serde_json::from_slice::<Progress>(&bytes) {
            Ok(progress) if progress.version == VERSION && progress.import == self.import => {
                Ok(progress)
            }
            _ => Err(Error::Input(format!(
                "{} is not the state of this import; name another file with --state, or begin \
                 anew with --restart",
                self.path.display()
            ))),
        }
    }

    /// Replaces the file in one step.
    pub(super) fn save(&self, progress: &Progress) -> Result<(), Error> {
        let bytes = serde_json::to_vec(progress)
            .map_err(|error| Error::file("write", &self.path, &error.into()))?;
        files::replace(&self.path, &bytes)
    }

    /// Removes the file: the import is complete, and another run reads every row again.
    pub(super) fn remove(&self) -> Result<(), Error> {
        files::remove(&self.path)
    }
}

/// The folder of all states. A relative `XDG_STATE_HOME` is to be ignored.
fn folder(state_home: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    state_home
        .filter(|path| path.is_absolute())
        .or_else(|| {
            home.filter(|path| !path.as_os_str().is_empty())
                .map(|home| home.join(".local/state"))
        })
        .map(|base: PathBuf| base.join(Path::new("tokenmeter/imports")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_lines_are_found_again() {
        let mut progress = Progress::default();
        for line in [0, 1, 2, 5, 9, 10] {
            progress.refuse(line, "R", String::new());
        }
        assert_eq!(progress.refused_lines, [(0, 2), (5, 5), (9, 10)]);
        let found: Vec<_> = (0..12).filter(|line| progress.is_refused(*line)).collect();
        assert_eq!(found, [0, 1, 2, 5, 9, 10]);
        assert_eq!(progress.refused["R"], 6);
    }

    #[test]
    fn many_refused_rows_are_counted_but_not_all_listed() {
        let mut progress = Progress::default();
        for line in 0..2_000 {
            progress.refuse(line, "R", String::new());
        }
        assert_eq!(progress.refused["R"], 2_000);
        assert_eq!(progress.refused_rows.len(), MAX_LISTED);
        assert_eq!(progress.refused_lines, [(0, 1_999)]);
    }

    #[test]
    fn progress_survives_in_its_file_and_belongs_to_one_import() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/state.json");
        let open = |key, restart| StateFile::open(Some(path.clone()), key, restart).unwrap();
        let mut progress = open("a", false).load().unwrap();
        assert_eq!(progress.next_line, 0);
        progress.next_line = 7;
        progress.refuse(3, "R", "m".into());
        open("a", false).save(&progress).unwrap();
        assert_eq!(open("a", false).load().unwrap(), progress);
        assert_eq!(open("a", true).load().unwrap().next_line, 0);
        assert!(matches!(open("b", false).load(), Err(Error::Input(_))));
        fs::write(&path, "{").unwrap();
        assert!(matches!(open("a", false).load(), Err(Error::Input(_))));
        open("a", false).remove().unwrap();
        open("a", false).remove().unwrap();
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn states_stand_in_the_users_state_folder() {
        let path = |text: &str| Some(PathBuf::from(text));
        let imports = |base: &str| path(&format!("{base}/tokenmeter/imports"));
        assert_eq!(folder(path("/s"), path("/h")), imports("/s"));
        assert_eq!(folder(path("s"), path("/h")), imports("/h/.local/state"));
        assert_eq!(folder(None, path("/h")), imports("/h/.local/state"));
        assert_eq!(folder(None, None), None);
    }
}
