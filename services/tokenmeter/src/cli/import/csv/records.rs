//! Records of comma-separated values, each of bounded size, with the line on which it begins.
//!
//! `csv-core` does the quoting. What it does not do is bound a record: an open quote would have it
//! read the rest of the file into memory.

use std::io::{self, BufRead};

use csv_core::ReadRecordResult as Step;

/// Longest record that is read, in bytes.
const MAX_RECORD_BYTES: usize = 4 * 1024 * 1024;
/// Most fields of a record.
const MAX_FIELDS: usize = 4_096;
/// The mark that some programs begin UTF-8 files with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// The line on which it begins, from 0.
    pub(super) line: u64,
    /// Where the next one begins, in bytes.
    pub(super) end: u64,
    /// Its fields; none for a record that is too large.
    pub(super) fields: Option<Fields>,
}

/// The fields of a record, unquoted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// One of them, from 0.
    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = match index {
            0 => 0,
            _ => *self.ends.get(index - 1)?,
        };
        self.bytes.get(start..end)
    }
}

/// The records of a file. Empty lines are passed over, and counted.
pub(super) struct Records<R> {
    reader: R,
    core: csv_core::Reader,
    /// Line breaks consumed.
    line: u64,
    /// Bytes consumed.
    at: u64,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl<R: BufRead> Records<R> {
    /// The records of `reader`, whose fields `delimiter` parts.
    pub(super) fn new(reader: R, delimiter: u8) -> Self {
        Self {
            reader,
            core: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            line: 0,
            at: 0,
            bytes: vec![0; 64 * 1024],
            ends: vec![0; MAX_FIELDS],
        }
    }

    /// The next record; none at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        if !self.skip_to_record()? {
            return Ok(None);
        }
        let line = self.line;
        let (mut bytes, mut ends, mut fits) = (0, 0, true);
        loop {
            let input = self.reader.fill_buf()?;
            let (step, read, written, ended) =
                self.core
                    .read_record(input, &mut self.bytes[bytes..], &mut self.ends[ends..]);
            let breaks = input[..read].iter().filter(|byte| **byte == b'\n');
            self.line += breaks.count() as u64;
            self.at += read as u64;
            self.reader.consume(read);
            (bytes, ends) = (bytes + written, ends + ended);
            match step {
                Step::Record | Step::End => break,
                Step::InputEmpty => {}
                Step::OutputFull if self.bytes.len() < MAX_RECORD_BYTES => {
                    self.bytes.resize(self.bytes.len() * 2, 0);
                }
                // The rest of the record is read over what was read of it.
                Step::OutputFull | Step::OutputEndsFull => (bytes, ends, fits) = (0, 0, false),
            }
        }
        let fields = fits.then(|| Fields {
            bytes: self.bytes[..bytes].to_vec(),
            ends: self.ends[..ends].to_vec(),
        });
        let end = self.at;
        Ok(Some(Record { line, end, fields }))
    }

    /// Passes over the mark at the begin, and over line breaks. False at the end of the file.
    fn skip_to_record(&mut self) -> io::Result<bool> {
        loop {
            let input = self.reader.fill_buf()?;
            let skipped = match input {
                [] => return Ok(false),
                _ if self.at == 0 && input.starts_with(BYTE_ORDER_MARK) => BYTE_ORDER_MARK.len(),
                _ => {
                    let record = |byte: &u8| !matches!(byte, b'\n' | b'\r');
                    input.iter().position(record).unwrap_or(input.len())
                }
            };
            if skipped == 0 {
                return Ok(true);
            }
            let breaks = input[..skipped].iter().filter(|byte| **byte == b'\n');
            self.line += breaks.count() as u64;
            self.at += skipped as u64;
            self.reader.consume(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    /// Line, end and fields of every record, read through a buffer of this size.
    fn read(text: &[u8], buffer: usize) -> Vec<(u64, u64, Vec<String>)> {
        let mut records = Records::new(BufReader::with_capacity(buffer, text), b',');
        let next = || records.next().unwrap();
        std::iter::from_fn(next)
            .map(|record| {
                let fields = record.fields.unwrap();
                let text = |n| String::from_utf8(fields.get(n).unwrap().to_vec()).unwrap();
                let texts = (0..fields.len()).map(text).collect();
                (record.line, record.end, texts)
            })
            .collect()
    }

    #[test]
    fn lines_are_right_whatever_ends_them_and_wherever_buffers_end() {
        let plain = "a,b\n1,\"x\ny\"\n\n\"say \"\"hi\"\"\",2\n3,";
        let texts = |fields: [&str; 2]| fields.map(str::to_owned).to_vec();
        let fields = [
            texts(["a", "b"]),
            texts(["1", "x\ny"]),
            texts(["say \"hi\"", "2"]),
            texts(["3", ""]),
        ];
        for buffer in [3, 4, 5, 1_000] {
            let got = read(plain.as_bytes(), buffer);
            let lines: Vec<_> = got.iter().map(|record| record.0).collect();
            assert_eq!(lines, [0, 1, 4, 5], "{buffer}");
            assert_eq!(got.last().unwrap().1, plain.len() as u64);
            assert!(got.iter().map(|record| &record.2).eq(fields.iter()));
        }
        let windows = format!("\u{feff}{}", plain.replace('\n', "\r\n"));
        let got = read(windows.as_bytes(), 1_000);
        let lines: Vec<_> = got.iter().map(|record| record.0).collect();
        assert_eq!(lines, [0, 1, 4, 5]);
        assert_eq!(got[0].2, fields[0]);
        assert_eq!(got[3].1, windows.len() as u64);
    }

    #[test]
    fn an_open_quote_costs_one_record_and_no_memory() {
        let mut file = b"a,b\n\"".to_vec();
        file.resize(MAX_RECORD_BYTES * 2, b'x');
        file.extend(b"\"\n1,2\n");
        let mut records = Records::new(file.as_slice(), b',');
        let next = |records: &mut Records<&[u8]>| records.next().unwrap().unwrap();
        assert_eq!(next(&mut records).fields.unwrap().len(), 2);
        let large = next(&mut records);
        assert_eq!((large.line, large.fields), (1, None));
        let after = next(&mut records);
        assert_eq!(
            (after.line, after.fields.unwrap().get(1)),
            (2, Some(&b"2"[..]))
        );
        assert!(records.bytes.len() <= MAX_RECORD_BYTES);
        assert_eq!(records.next().unwrap(), None);

        let many = format!("{}\n1,2\n", ",".repeat(MAX_FIELDS + 1));
        let mut records = Records::new(many.as_bytes(), b',');
        assert_eq!(next_fields(&mut records), None);
        assert_eq!(next_fields(&mut records), Some(2));
    }

    fn next_fields(records: &mut Records<&[u8]>) -> Option<usize> {
        let record = records.next().unwrap().unwrap();
        record.fields.map(|fields| fields.len())
    }
}
