//! Records of comma-separated values as RFC 4180 has them, each of bounded size, with the line on
//! which it begins.
//!
//! What RFC 4180 does not allow is not guessed at: it is the fault of its record. A record ends in
//! LF or CRLF and in nothing else, so that no two of them begin on one line: ids are made of lines.

use std::fmt;
use std::io::{self, BufRead};

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
    /// Its fields, or why it has none.
    pub(super) fields: Result<Fields, Fault>,
}

/// Why a record has no fields. Lines are those of the file, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is longer than is read.
    TooLong,
    /// The file ends inside the quotes that open on this line.
    Unclosed(u64),
    /// Text follows the quotes that open on this line.
    AfterQuotes(u64),
    /// A value on this line has a quote, and is not in quotes.
    BareQuote(u64),
    /// This line has a CR that no LF follows.
    LoneReturn(u64),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => {
                f.write_str("the record is too long; is a quote missing that closes a value?")
            }
            Self::Unclosed(line) => write!(
                f,
                "the file ends inside the quotes that open on line {line} (from 0); close them, \
                 and write a quote inside a value twice"
            ),
            Self::AfterQuotes(line) => write!(
                f,
                "text follows the closing quote of a value that opens on line {line} (from 0); \
                 write a quote inside a value twice"
            ),
            Self::BareQuote(line) => write!(
                f,
                "line {line} (from 0) has a quote in a value that is not in quotes; put the value \
                 in quotes and write the quote twice"
            ),
            Self::LoneReturn(line) => write!(
                f,
                "line {line} (from 0) has a carriage return (CR) that no line feed (LF) follows; \
                 end lines in LF or CRLF, and put a value that has a CR in quotes"
            ),
        }
    }
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
    delimiter: u8,
    /// Line feeds consumed.
    line: u64,
    /// Bytes consumed.
    at: u64,
}

impl<R: BufRead> Records<R> {
    /// The records of `reader`, whose fields `delimiter` parts.
    pub(super) fn new(reader: R, delimiter: u8) -> Self {
        Self {
            reader,
            delimiter,
            line: 0,
            at: 0,
        }
    }

    /// The next record; none at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        if self.at == 0 && self.reader.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            self.reader.consume(BYTE_ORDER_MARK.len());
            self.at = BYTE_ORDER_MARK.len() as u64;
        }
        loop {
            let (line, start) = (self.line, self.at);
            let draft = self.read()?;
            if draft.blank && self.at == start {
                return Ok(None);
            }
            if !draft.blank {
                return Ok(Some(Record {
                    line,
                    end: self.at,
                    fields: draft.fault.map_or(Ok(draft.fields), Err),
                }));
            }
        }
    }

    /// Reads to the end of a record, of an empty line, or of the file.
    fn read(&mut self) -> io::Result<Draft> {
        let mut draft = Draft::default();
        loop {
            let input = self.reader.fill_buf()?;
            if input.is_empty() {
                draft.end_of_file(self.line);
                return Ok(draft);
            }
            let (mut read, mut ended) = (0, false);
            for byte in input {
                ended = draft.step(*byte, self.delimiter, self.line);
                read += 1;
                self.line += u64::from(*byte == b'\n');
                if ended {
                    break;
                }
            }
            self.reader.consume(read);
            self.at += read as u64;
            if ended {
                return Ok(draft);
            }
        }
    }
}

/// Where in a record a byte stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// At the begin of a value.
    #[default]
    Begin,
    /// In a value without quotes.
    Bare,
    /// In a value in quotes.
    Quoted,
    /// After a quote in quotes: the closing one, or the first of two.
    Quote,
    /// After a CR.
    Return,
    /// After a fault, in what is left of its line.
    Rest,
}

/// A record as its bytes come together.
#[derive(Debug)]
struct Draft {
    place: Place,
    /// Whether nothing but a line break was read.
    blank: bool,
    /// The line on which the last value in quotes begins.
    opened: u64,
    fields: Fields,
    fault: Option<Fault>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            place: Place::Begin,
            blank: true,
            opened: 0,
            fields: Fields::default(),
            fault: None,
        }
    }
}

impl Draft {
    /// Takes a byte of line `line`. True if the record ends with it.
    fn step(&mut self, byte: u8, delimiter: u8, line: u64) -> bool {
        self.blank &= matches!(byte, b'\n' | b'\r');
        match (self.place, byte) {
            (Place::Quoted, b'"') => self.place = Place::Quote,
            (Place::Quoted, _) => self.push(byte),
            (Place::Quote, b'"') => {
                self.push(byte);
                self.place = Place::Quoted;
            }
            (_, b'\n') => {
                self.end_field();
                return true;
            }
            (Place::Rest, _) => {}
            (Place::Return, _) => self.fail(Fault::LoneReturn(line)),
            (_, b'\r') => self.place = Place::Return,
            (_, byte) if byte == delimiter => {
                self.end_field();
                self.place = Place::Begin;
            }
            (Place::Begin, b'"') => (self.place, self.opened) = (Place::Quoted, line),
            (Place::Quote, _) => self.fail(Fault::AfterQuotes(self.opened)),
            (Place::Bare, b'"') => self.fail(Fault::BareQuote(line)),
            (Place::Begin | Place::Bare, _) => {
                self.push(byte);
                self.place = Place::Bare;
            }
        }
        false
    }

    /// The file ends on line `line`, and with it the record.
    fn end_of_file(&mut self, line: u64) {
        match self.place {
            Place::Quoted => self.fail(Fault::Unclosed(self.opened)),
            Place::Return => self.fail(Fault::LoneReturn(line)),
            _ => self.end_field(),
        }
    }

    fn push(&mut self, byte: u8) {
        match self.fields.bytes.len() {
            _ if self.fault.is_some() => {}
            MAX_RECORD_BYTES => self.too_long(),
            _ => self.fields.bytes.push(byte),
        }
    }

    fn end_field(&mut self) {
        match self.fields.ends.len() {
            _ if self.fault.is_some() => {}
            MAX_FIELDS => self.too_long(),
            _ => self.fields.ends.push(self.fields.bytes.len()),
        }
    }

    /// What is left of the record is read over, by the same rules, to find its end.
    fn too_long(&mut self) {
        self.fault = Some(Fault::TooLong);
        self.fields = Fields::default();
    }

    /// What is left of the line is read over: what a quote means there is anyone's guess.
    fn fail(&mut self, fault: Fault) {
        self.fault = Some(fault);
        self.place = Place::Rest;
        self.blank = false;
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
        assert_eq!((large.line, large.fields), (1, Err(Fault::TooLong)));
        let after = next(&mut records);
        assert_eq!(
            (after.line, after.fields.unwrap().get(1)),
            (2, Some(&b"2"[..]))
        );
        assert_eq!(records.next().unwrap(), None);

        let many = format!("{}\n1,2\n", ",".repeat(MAX_FIELDS + 1));
        let mut records = Records::new(many.as_bytes(), b',');
        assert_eq!(next(&mut records).fields, Err(Fault::TooLong));
        assert_eq!(next(&mut records).fields.unwrap().len(), 2);
    }

    #[test]
    fn what_is_against_rfc_4180_is_a_fault_of_its_record_alone() {
        for (text, fault, after) in [
            ("a\rb\n1,2\n", Fault::LoneReturn(0), Some(1)),
            ("\n\ra\n1,2\n", Fault::LoneReturn(1), Some(2)),
            ("a\r\r\n1,2\n", Fault::LoneReturn(0), Some(1)),
            ("\"a\"\rb\n1,2\n", Fault::LoneReturn(0), Some(1)),
            ("a\rb\rc\r", Fault::LoneReturn(0), None),
            ("a,b\r", Fault::LoneReturn(0), None),
            ("\r", Fault::LoneReturn(0), None),
            ("\"x\ny\"z,\"\n1,2\n", Fault::AfterQuotes(0), Some(2)),
            ("\"x\" ,1\n1,2\n", Fault::AfterQuotes(0), Some(1)),
            ("a\"b\"c,1\n1,2\n", Fault::BareQuote(0), Some(1)),
            (" \"b\",1\n1,2\n", Fault::BareQuote(0), Some(1)),
            ("\n1,\"b\n4,c\n5,d\n", Fault::Unclosed(1), None),
            ("\"x\ny\",\"", Fault::Unclosed(1), None),
        ] {
            for buffer in [3, 1_000] {
                let mut records =
                    Records::new(BufReader::with_capacity(buffer, text.as_bytes()), b',');
                let first = records.next().unwrap().unwrap();
                assert_eq!(first.fields, Err(fault), "{text:?}");
                let next = records.next().unwrap();
                assert_eq!(next.as_ref().map(|next| next.line), after, "{text:?}");
                assert!(next.is_none_or(|next| next.fields.unwrap().len() == 2));
                assert_eq!(records.next().unwrap(), None, "{text:?}");
            }
        }
        // Inside quotes a CR is text.
        let got = read(b"\"a\rb\",\"\"\r\n\r\n1,2", 3);
        assert_eq!(got[0].2, ["a\rb", ""]);
        assert_eq!((got[1].0, got.len()), (2, 2));
    }
}
