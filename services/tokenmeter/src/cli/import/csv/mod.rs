//! `tokenmeter import csv`: one event a record; which column is what, the caller says.

mod fields;
mod records;
mod times;

use std::io::{self, BufRead};

use jiff::tz::TimeZone;

use self::fields::{Draft, Field, TOKENS};
use self::records::{Fields, Record, Records};
use self::times::{TimeUnit, Times};
use super::ImportArgs;
use super::plan::{Defaults, Item, Planned, Source, Used};
use crate::cli::error::Error;
use crate::cli::rows::{ROW_INVALID, Refusal, is_id};
use tokenmeter_api::v1::usage_event::Usage;

/// Most bytes of a name that an error repeats.
const MAX_NAME_BYTES: usize = 64;
/// Most columns that an error lists.
const MAX_LISTED: usize = 32;

/// Options of an import of comma-separated values.
#[derive(Debug, clap::Args)]
pub(crate) struct CsvArgs {
    #[command(flatten)]
    import: ImportArgs,
    /// Which column gives a field: its name in the first line, or its number from 1; repeat for
    /// several.
    #[arg(long, value_name = "FIELD=COLUMN", value_parser = pair)]
    map: Vec<(String, String)>,
    /// The value of a field where no column gives one; repeat for several.
    #[arg(long, value_name = "FIELD=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// The first line is a record, not the names of the columns.
    #[arg(long)]
    no_header: bool,
    /// What parts the columns, one character; \t for tabs.
    #[arg(long, value_name = "CHAR", default_value = ",", value_parser = delimiter)]
    delimiter: u8,
    /// What times count since 1970, where they are numbers.
    #[arg(long, value_enum)]
    time_unit: Option<TimeUnit>,
    /// The IANA zone of times that name none.
    #[arg(long, value_name = "ZONE", default_value = "UTC", value_parser = zone,
          conflicts_with = "time_unit")]
    time_zone: TimeZone,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("is not NAME=VALUE".to_owned()),
    }
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err("is not one ASCII character, and none of quote and line break".to_owned()),
    }
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| "is no IANA time zone such as Asia/Kolkata".to_owned())
}

impl CsvArgs {
    /// The options that every import has, and how the table is to be read.
    pub(super) fn layout(self) -> Result<(ImportArgs, Layout), Error> {
        let mut sources: Vec<FieldSource> = Vec::new();
        let mut identity = vec!["csv".to_owned()];
        for (flag, pairs) in [("--map", &self.map), ("--set", &self.set)] {
            for (name, value) in pairs {
                let wrong = |why: &str| Error::Input(format!("{flag} {}: {why}", cut(name)));
                identity.extend([flag.to_owned(), name.clone(), value.clone()]);
                let field = Field::parse(name).map_err(|why| wrong(&why))?;
                let place = sources.iter().position(|source| source.field == field);
                let source = match place {
                    Some(place) => &mut sources[place],
                    None => {
                        sources.push(FieldSource {
                            field,
                            column: None,
                            constant: None,
                        });
                        let last = sources.len() - 1;
                        &mut sources[last]
                    }
                };
                let side = match flag {
                    "--map" => &mut source.column,
                    _ => &mut source.constant,
                };
                if side.replace(value.clone()).is_some() {
                    return Err(wrong("is given twice"));
                }
            }
        }
        let zone = self.time_zone.iana_name().unwrap_or("UTC");
        identity.extend([
            format!("{:?}", self.time_unit),
            zone.to_owned(),
            format!("{} {}", self.no_header, self.delimiter),
        ]);
        let layout = Layout {
            sources,
            header: !self.no_header,
            delimiter: self.delimiter,
            times: Times {
                unit: self.time_unit,
                zone: self.time_zone,
            },
            identity,
        };
        layout.check()?;
        Ok((self.import, layout))
    }
}

/// Where the value of a field comes from: a column, and a constant where the column is empty.
#[derive(Debug, Clone)]
struct FieldSource {
    field: Field,
    column: Option<String>,
    constant: Option<String>,
}

/// How a table is read.
#[derive(Debug)]
pub(super) struct Layout {
    sources: Vec<FieldSource>,
    header: bool,
    delimiter: u8,
    times: Times,
    identity: Vec<String>,
}

impl Layout {
    /// What tells this way of reading a table from every other.
    pub(super) fn identity(&self) -> Vec<String> {
        self.identity.clone()
    }

    fn has(&self, name: &str) -> bool {
        self.sources
            .iter()
            .any(|source| source.field.name() == name)
    }

    /// Finds what would make every row wrong, before any is read.
    fn check(&self) -> Result<(), Error> {
        for name in ["provider", "model"] {
            if !self.has(name) {
                return Err(Error::Input(format!(
                    "{name} is required; name its column with --map {name}=COLUMN, or give it with \
                     --set {name}=VALUE"
                )));
            }
        }
        if !TOKENS.iter().any(|name| self.has(name)) {
            return Err(Error::Input(format!(
                "no tokens are counted; map at least one of {}",
                TOKENS.join(", ")
            )));
        }
        if self.has("prompt") && self.has("input") {
            let text = "prompt and input are both given; prompt counts cache reads and writes, \
                        input does not: keep one of them";
            return Err(Error::Input(text.to_owned()));
        }
        for source in &self.sources {
            let Some(constant) = &source.constant else {
                continue;
            };
            Draft::default()
                .put(&source.field, constant, &self.times)
                .map_err(|why| Error::Input(format!("--set {}: {why}", source.field.name())))?;
        }
        Ok(())
    }

    /// The events of a table.
    pub(super) fn rows<R: BufRead>(&self, reader: R, defaults: Defaults) -> Result<Rows<R>, Error> {
        let unreadable = |error| Error::Input(format!("the file cannot be read: {error}"));
        let mut records = Records::new(reader, self.delimiter);
        let first = records.next().map_err(unreadable)?;
        let names = match &first {
            Some(Record {
                fields: Ok(fields), ..
            }) => names(fields),
            Some(Record {
                fields: Err(fault), ..
            }) => return Err(Error::Input(format!("the first record: {fault}"))),
            None => Vec::new(),
        };
        let mut cells = Vec::new();
        for source in &self.sources {
            let column = match &source.column {
                // Without a line of names, an empty file is a table of no rows.
                Some(_) if first.is_none() && !self.header => None,
                Some(column) if first.is_none() => {
                    return Err(Error::Input(format!(
                        "--map {}={}: the file is empty, and has no first line that names its \
                         columns; with --no-header it needs none",
                        source.field.name(),
                        cut(column)
                    )));
                }
                Some(column) => Some(self.column(&source.field, column, &names)?),
                None => None,
            };
            cells.push(Cell {
                field: source.field.clone(),
                column,
                constant: source.constant.clone(),
            });
        }
        Ok(Rows {
            records,
            held: first.filter(|_| !self.header),
            width: names.len(),
            names: if self.header { names } else { Vec::new() },
            cells,
            times: self.times.clone(),
            defaults,
        })
    }

    /// Which column is meant, from 0.
    fn column(&self, field: &Field, column: &str, names: &[String]) -> Result<usize, Error> {
        let wrong =
            |why: String| Error::Input(format!("--map {}={}: {why}", field.name(), cut(column)));
        if !self.header {
            let width = names.len();
            let number = column.parse::<usize>().ok();
            return number
                .filter(|number| (1..=width).contains(number))
                .map(|number| number - 1)
                .ok_or_else(|| wrong(format!("is not the number of a column, 1 to {width}")));
        }
        let mut found = (0..names.len()).filter(|index| names[*index] == column);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (Some(_), Some(_)) => Err(wrong("the first line has this name twice".to_owned())),
            (None, _) => {
                let listed: Vec<_> = names
                    .iter()
                    .take(MAX_LISTED)
                    .map(|name| cut(name))
                    .collect();
                Err(wrong(format!(
                    "the first line has no such column; it has {}",
                    listed.join(", ")
                )))
            }
        }
    }
}

/// The texts of a record, whatever is no UTF-8 replaced.
fn names(fields: &Fields) -> Vec<String> {
    let name = |index| String::from_utf8_lossy(fields.get(index).unwrap_or_default());
    (0..fields.len())
        .map(|index| name(index).trim().to_owned())
        .collect()
}

/// A name in quotes, cut to what an error may repeat.
fn cut(name: &str) -> String {
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{:?}", &name[..end])
}

/// Where a field's value stands in every record.
#[derive(Debug)]
struct Cell {
    field: Field,
    column: Option<usize>,
    constant: Option<String>,
}

/// The events of a table.
pub(super) struct Rows<R> {
    records: Records<R>,
    held: Option<Record>,
    width: usize,
    /// Names of the columns; none without a header.
    names: Vec<String>,
    cells: Vec<Cell>,
    times: Times,
    defaults: Defaults,
}

impl<R: BufRead> Source for Rows<R> {
    fn next(&mut self) -> io::Result<Option<Item>> {
        let record = match self.held.take() {
            Some(record) => Some(record),
            None => self.records.next()?,
        };
        Ok(record.map(|record| Item {
            line: record.line,
            end: record.end,
            planned: self.plan(&record).map(Some),
        }))
    }
}

impl<R> Rows<R> {
    fn plan(&self, record: &Record) -> Result<Planned, Refusal> {
        let invalid = |why: String| Refusal::new(ROW_INVALID, why);
        let fields = record
            .fields
            .as_ref()
            .map_err(|fault| invalid(fault.to_string()))?;
        if fields.len() != self.width {
            let (got, width) = (fields.len(), self.width);
            return Err(invalid(format!(
                "the record has {got} columns, the first has {width}"
            )));
        }
        let mut draft = Draft::default();
        for cell in &self.cells {
            let wrong = |why: String| {
                let place = cell
                    .column
                    .map_or_else(String::new, |column| self.place(column));
                invalid(format!("{place}{}: {why}", cell.field.name()))
            };
            let bytes = cell.column.and_then(|column| fields.get(column));
            let text = std::str::from_utf8(bytes.unwrap_or_default())
                .map_err(|_| wrong("is not UTF-8".to_owned()))?;
            let value = match (text.trim(), &cell.constant) {
                ("", None) => continue,
                ("", Some(constant)) => constant,
                _ => text,
            };
            draft.put(&cell.field, value, &self.times).map_err(wrong)?;
        }
        let contradictory = |why| Refusal::new("USAGE_CONTRADICTORY", why);
        let mut event = draft.finish().map_err(contradictory)?;
        self.defaults.fill(&mut event);
        if !is_id(&event.event_id) {
            event.event_id = self.defaults.id_of(record.line);
        }
        let used = match &event.usage {
            Some(Usage::Lines(lines)) => Used::of_lines(&event, &lines.lines),
            _ => None,
        };
        Planned::new(event, used)
    }

    /// How an error names a column.
    fn place(&self, column: usize) -> String {
        let number = column + 1;
        match self.names.get(column) {
            Some(name) => format!("column {number} ({}), ", cut(name)),
            None => format!("column {number}, "),
        }
    }
}

#[cfg(test)]
mod tests;
