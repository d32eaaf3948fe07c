//! The journal: a file that has every hold, each change of it and its end, so that holds outlive the
//! process.
//!
//! A step appends its record to a buffer under its tenant's lock, so that the records of a hold are in
//! the order of what happened to it. Whoever waits for a record writes all that has gathered by then.
//! What was written outlives the process; the machine's own death may cost the last second, because
//! the file is synced in the background. Expiry is not recorded: the time tells it.
//!
//! A file that has grown is written anew: from a moment on every record goes to the old file and to
//! the new one, and each hold that is still known is recorded once more as it stands. Then the new file
//! takes the place of the old one.

use std::borrow::Cow;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::holds::{Extension, Held};
use super::lock;
use crate::counters::{Error, HoldState};

/// What a journal begins with: what it is, and the version of its records.
const MAGIC: &[u8] = b"tokenmeter holds 1\n";
/// The largest record that is read, in bytes; a hold with all its extensions is far below.
const MAX_RECORD: usize = 4 << 20;
/// A journal of this size is written anew once it is twice as large as when it was begun.
const LARGE: u64 = 64 << 20;

/// One entry of a journal.
#[derive(Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // read one at a time, and written by reference
pub(super) enum Record<'a> {
    /// The tenant's log is counted up to a position, and all holds that it settles are settled.
    Swept { tenant: Cow<'a, str>, position: i64 },
    /// A hold as it stands.
    Held {
        tenant: Cow<'a, str>,
        held: Cow<'a, Held>,
    },
    /// A hold was changed.
    Extended {
        tenant: Cow<'a, str>,
        reservation_id: Cow<'a, str>,
        extension: Cow<'a, Extension>,
    },
    /// A hold was settled or released.
    Ended {
        tenant: Cow<'a, str>,
        reservation_id: Cow<'a, str>,
        state: HoldState,
        event_id: Cow<'a, str>,
        ended_us: i64,
    },
}

/// A journal that is written.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    pending: Mutex<Pending>,
    files: Mutex<Files>,
    /// Bytes that are in the file, since it was opened.
    written: AtomicU64,
    failed: AtomicBool,
}

/// Records that are not in the file yet.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Bytes that were appended, since the journal was opened.
    appended: u64,
}

#[derive(Debug)]
struct Files {
    current: Written,
    /// What takes its place, while that is being made.
    next: Option<Written>,
    /// The size at which to make the next one.
    large: u64,
    spare: Vec<u8>,
}

#[derive(Debug)]
struct Written {
    file: File,
    length: u64,
}

impl Written {
    /// Writes at the end, all or nothing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        if written.is_err() {
            self.file.set_len(self.length)?;
            self.file.seek(SeekFrom::Start(self.length))?;
        } else {
            self.length += bytes.len() as u64;
        }
        written
    }
}

impl Journal {
    /// Opens a journal, or begins one, and answers the records that it has.
    ///
    /// # Errors
    /// When the file cannot be used, is no journal, or another process has it open.
    pub(super) fn open(path: &Path, mut each: impl FnMut(Record<'_>)) -> Result<Self, Error> {
        let failed = |error: io::Error| unavailable(path, &error);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                let text = format!("journal {} is open in another process", path.display());
                Error::Unavailable(text)
            }
            TryLockError::Error(error) => failed(error),
        })?;
        let length = file.metadata().map_err(failed)?.len();
        let mut kept = MAGIC.len() as u64;
        if length < kept {
            file.set_len(0).map_err(failed)?;
            file.write_all(MAGIC).map_err(failed)?;
        } else {
            let mut reader = BufReader::with_capacity(1 << 20, &mut file);
            let mut magic = [0; MAGIC.len()];
            reader.read_exact(&mut magic).map_err(failed)?;
            if magic != MAGIC {
                let text = format!("{} is no journal of holds", path.display());
                return Err(Error::Unavailable(text));
            }
            while let Some((record, size)) = read(&mut reader).map_err(failed)? {
                let Ok(record) = postcard::from_bytes(&record) else {
                    break;
                };
                each(record);
                kept += size;
            }
            if kept < length {
                tracing::warn!(
                    path = %path.display(),
                    bytes = length - kept,
                    "the journal of holds ends in what cannot be read; it is cut there"
                );
                file.set_len(kept).map_err(failed)?;
            }
            file.seek(SeekFrom::Start(kept)).map_err(failed)?;
        }
        Ok(Self {
            path: path.to_owned(),
            pending: Mutex::default(),
            files: Mutex::new(Files {
                current: Written { file, length: kept },
                next: None,
                large: LARGE,
                spare: Vec::new(),
            }),
            written: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        })
    }

    /// Appends a record, to be written with the next ones.
    pub(super) fn append(&self, record: &Record<'_>) {
        let mut pending = lock(&self.pending);
        let start = pending.bytes.len();
        pending.bytes.extend([0; 8]);
        // Writing to a buffer does not fail.
        if postcard::to_io(record, &mut pending.bytes).is_err() {
            pending.bytes.truncate(start);
            return;
        }
        let Ok(length) = u32::try_from(pending.bytes.len() - start - 8) else {
            pending.bytes.truncate(start);
            return;
        };
        let sum = crc32fast::hash(&pending.bytes[start + 8..]);
        pending.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        pending.bytes[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
        pending.appended += (pending.bytes.len() - start) as u64;
    }

    /// Waits until all that was appended until now is in the file.
    ///
    /// # Errors
    /// When it cannot be written; it is tried again with what comes next.
    pub(super) async fn kept(&self) -> Result<(), Error> {
        let until = lock(&self.pending).appended;
        if self.written.load(Ordering::Acquire) < until {
            // Others who are about to decide get to append first, and one write does for all.
            tokio::task::yield_now().await;
            self.write(until)?;
        }
        Ok(())
    }

    /// Answers when the journal can be written, after trying what could not be written before.
    ///
    /// # Errors
    /// When it can not.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.failed.load(Ordering::Relaxed) {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes all that was appended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn flush(&self) -> Result<(), Error> {
        let until = lock(&self.pending).appended;
        self.write(until)
    }

    /// Writes what was appended up to here, and what came after, unless another did.
    fn write(&self, until: u64) -> Result<(), Error> {
        if self.written.load(Ordering::Acquire) >= until {
            return Ok(());
        }
        let files = &mut *lock(&self.files);
        if self.written.load(Ordering::Acquire) >= until {
            return Ok(());
        }
        let spare = std::mem::take(&mut files.spare);
        let (mut bytes, appended) = {
            let mut pending = lock(&self.pending);
            (
                std::mem::replace(&mut pending.bytes, spare),
                pending.appended,
            )
        };
        if let Err(error) = files.current.write(&bytes) {
            self.failed.store(true, Ordering::Relaxed);
            let mut pending = lock(&self.pending);
            bytes.append(&mut pending.bytes);
            pending.bytes = bytes;
            return Err(unavailable(&self.path, &error));
        }
        // The old file is good as long as the new one has not taken its place.
        if let Some(next) = &mut files.next
            && let Err(error) = next.write(&bytes)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot write the journal anew");
            files.next = None;
        }
        bytes.clear();
        bytes.shrink_to(1 << 20);
        files.spare = bytes;
        self.failed.store(false, Ordering::Relaxed);
        self.written.store(appended, Ordering::Release);
        Ok(())
    }

    /// Writes all, and waits until it is on disk.
    ///
    /// # Errors
    /// When that fails.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.flush()?;
        let failed = |error: io::Error| unavailable(&self.path, &error);
        // Not under the lock: who writes meanwhile does not wait for the disk.
        let file = lock(&self.files).current.file.try_clone().map_err(failed)?;
        file.sync_data().map_err(failed)
    }

    /// Gives up the next file; the old one stays.
    pub(super) fn drop_next(&self) {
        lock(&self.files).next = None;
    }

    /// Whether it has to be written anew.
    pub(super) fn is_large(&self) -> bool {
        let files = lock(&self.files);
        files.current.length >= files.large && files.next.is_none()
    }

    /// Begins the file that takes the place of this one: all records from now on go to both. Answers
    /// false if another did.
    ///
    /// # Errors
    /// When it cannot be begun.
    pub(super) fn begin_next(&self) -> Result<bool, Error> {
        // What is appended now goes to the old one only: every hold is recorded again after this.
        self.flush()?;
        let files = &mut *lock(&self.files);
        if files.next.is_some() {
            return Ok(false);
        }
        let begun = File::create(self.next_path()).and_then(|mut file| {
            file.write_all(MAGIC)?;
            Ok(file)
        });
        files.next = Some(Written {
            file: begun.map_err(|error| unavailable(&self.path, &error))?,
            length: MAGIC.len() as u64,
        });
        Ok(true)
    }

    /// Puts the next file in the place of this one, unless it was given up. Every hold has to be in it.
    ///
    /// # Errors
    /// When it cannot; the old one stays.
    pub(super) fn take_next(&self) -> Result<(), Error> {
        self.flush()?;
        self.exchange()
            .map_err(|error| unavailable(&self.path, &error))
    }

    fn exchange(&self) -> io::Result<()> {
        let next = match &lock(&self.files).next {
            Some(next) => next.file.try_clone()?,
            None => return Ok(()),
        };
        // Most of it gets to disk while the others write on.
        next.sync_all()?;
        next.try_lock()?;
        let files = &mut *lock(&self.files);
        if let Some(next) = files.next.take() {
            std::fs::rename(self.next_path(), &self.path)?;
            files.large = LARGE.max(next.length.saturating_mul(2));
            files.current = next;
        }
        Ok(())
    }

    fn next_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".next");
        path.into()
    }
}

/// The next whole record and the bytes that it takes; none at the end, or where what follows is broken.
fn read(reader: &mut impl Read) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut head = [0; 8];
    let Some(()) = fill(reader, &mut head)? else {
        return Ok(None);
    };
    let [a, b, c, d, sum @ ..] = head;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_RECORD {
        return Ok(None);
    }
    let mut record = vec![0; length];
    let whole = fill(reader, &mut record)?;
    let sound = whole.is_some() && crc32fast::hash(&record) == u32::from_le_bytes(sum);
    let size = (head.len() + length) as u64;
    Ok(sound.then_some((record, size)))
}

/// Fills a buffer; none if the file ends before.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<()>> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn unavailable(path: &Path, error: &io::Error) -> Error {
    Error::Unavailable(format!("journal {}: {error}", path.display()))
}
