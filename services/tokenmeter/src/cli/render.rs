//! What people see: tables, exact amounts, grouped digits.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use tokenmeter_api::convert::money;
use tokenmeter_api::v1;
use tokenmeter_model::money::format_nano_usd;

use super::error::Error;

/// Prints one line to standard output.
pub(crate) fn line(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", printable(text))?;
    Ok(())
}

/// Prints one JSON object on one line to standard output.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<(), Error> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::Input(format!("the answer cannot be written as JSON: {error}")))?;
    line(&text)
}

/// A colour of text on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// For what goes well.
    Green,
    /// For what was taken back.
    Red,
    /// For what changed.
    Yellow,
    /// For all else.
    Cyan,
}

/// Whether standard output is a terminal whose user wants colours (`NO_COLOR` says no).
pub(crate) fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
}

/// Prints one line whose first word has a colour, if there is one.
pub(crate) fn coloured(colour: Option<Colour>, word: &str, rest: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{} {}", paint(colour, word), printable(rest))?;
    Ok(())
}

fn paint(colour: Option<Colour>, word: &str) -> String {
    let word = printable(word);
    let code = match colour {
        None => return word.into_owned(),
        Some(Colour::Red) => 31,
        Some(Colour::Green) => 32,
        Some(Colour::Yellow) => 33,
        Some(Colour::Cyan) => 36,
    };
    format!("\u{1b}[{code}m{word}\u{1b}[0m")
}

/// Prints a text to the terminal in place of what is there.
pub(crate) fn screen(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    // To the first line, each line cleared as it is written over, then what is left below.
    write!(out, "\u{1b}[H")?;
    for line in printable(text).lines() {
        write!(out, "{line}\u{1b}[K\r\n")?;
    }
    write!(out, "\u{1b}[J")?;
    out.flush()?;
    Ok(())
}

/// Prints one line to standard error; that it may fail concerns nobody.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", printable(text));
}

/// The text without control characters, which ids and models may hold and a terminal may obey.
fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(harmful) {
        true => text.replace(harmful, "\u{fffd}").into(),
        false => text.into(),
    }
}

/// A table with these headings; those that begin with `#` head a column of numbers.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(
            headings
                .iter()
                .map(|h| Cell::new(h.trim_start_matches('#'))),
        );
    for (index, heading) in headings.iter().enumerate() {
        if let (true, Some(column)) = (heading.starts_with('#'), table.column_mut(index)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A count with its thousands set apart, such as `1,536`.
pub(crate) fn count(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The exact amount in nano-USD; none for none and for what is no amount in USD.
pub(crate) fn nano_usd(amount: Option<&v1::Money>) -> Option<i64> {
    money::to_nano_usd("amount", amount?).ok()
}

/// What `lines` cost of which `unpriced` have no price: never a zero for what has no price.
pub(crate) fn cost(amount: Option<&v1::Money>, lines: i64, unpriced: i64) -> String {
    let priced = usd_of(nano_usd(amount).unwrap_or_default());
    match unpriced {
        0 => priced,
        _ if unpriced >= lines => "unpriced".to_owned(),
        _ => format!("{priced} + unpriced"),
    }
}

/// An exact amount such as `-$1.5`.
pub(crate) fn usd_of(nano_usd: i64) -> String {
    let text = format_nano_usd(nano_usd);
    match text.strip_prefix('-') {
        Some(amount) => format!("-${amount}"),
        None => format!("${text}"),
    }
}

/// An enum's name as programs read it: without its prefix, in lower case.
pub(crate) fn name(prefix: &str, name: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmeter_api::convert::money::from_nano_usd;

    #[test]
    fn a_terminal_obeys_colours_and_no_text() {
        assert_eq!(paint(None, "a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(paint(Some(Colour::Red), "a"), "\u{1b}[31ma\u{1b}[0m");
        assert_eq!(printable("a\u{7}\u{9b}b\tc"), "a\u{fffd}\u{fffd}b\tc");
    }

    #[test]
    fn counts_are_grouped_and_amounts_exact() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1_536, "1,536"),
            (-1_234_567, "-1,234,567"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ] {
            assert_eq!(count(value), text);
        }
        assert_eq!(usd_of(4_800_000), "$0.0048");
        assert_eq!(usd_of(-1_500_000_000), "-$1.5");
        let money = Some(from_nano_usd(5_000_000_000));
        assert_eq!(cost(money.as_ref(), 2, 0), "$5");
        assert_eq!(cost(money.as_ref(), 2, 1), "$5 + unpriced");
        assert_eq!(cost(None, 2, 2), "unpriced");
        assert_eq!(cost(None, 0, 0), "$0");
        assert_eq!(name("EVENT_STATUS_", "EVENT_STATUS_FAILED"), "failed");
    }
}
