//! `tokenmeter normalize`: provider responses in, canonical counts out; no server.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;

use serde::Serialize;
use tokenmeter_model::counts::{Line, TokenCounts};
use tokenmeter_model::provider::Normalized;

use super::error::Error;
use super::rows::{Lines, Refusal, Row};

/// Options of `tokenmeter normalize`.
#[derive(Debug, clap::Args)]
pub(crate) struct NormalizeArgs {
    /// The file of provider responses, one JSON object a line; - reads standard input.
    file: PathBuf,
}

/// One answer a row.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    line: u64,
    provider: Option<&'a str>,
    input: Option<i64>,
    cache_read: Option<i64>,
    cache_write: Option<i64>,
    output: Option<i64>,
    reasoning: Option<i64>,
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "<[Line]>::is_empty")]
    lines: &'a [Line],
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// Runs the command.
pub(crate) fn run(args: &NormalizeArgs) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    if args.file.as_os_str() == "-" {
        return normalize(io::stdin().lock(), &mut out);
    }
    let file = File::open(&args.file).map_err(|error| Error::file("open", &args.file, &error))?;
    normalize(BufReader::new(file), &mut out)
}

fn normalize(reader: impl BufRead, out: &mut impl Write) -> Result<(), Error> {
    let mut lines = Lines::new(reader);
    loop {
        let next = lines
            .next()
            .map_err(|error| Error::Input(format!("the file cannot be read: {error}")))?;
        let Some(next) = next else {
            out.flush()?;
            return Ok(());
        };
        let row = next
            .text
            .as_deref()
            .map_err(Clone::clone)
            .and_then(Row::parse);
        let (provider, counts) = match &row {
            Ok(row) => (Some(row.provider_name()), row.normalize()),
            Err(refusal) => (None, Err(refusal.clone())),
        };
        write(next.line, provider, &counts, out)?;
    }
}

fn write(
    line: u64,
    provider: Option<&str>,
    counts: &Result<Normalized, Refusal>,
    out: &mut impl Write,
) -> Result<(), Error> {
    let mut answer = Answer {
        line,
        provider,
        input: None,
        cache_read: None,
        cache_write: None,
        output: None,
        reasoning: None,
        error: None,
        model: None,
        lines: &[],
        message: None,
    };
    match counts {
        Ok(normalized) => {
            let sum = sum(&normalized.lines);
            answer.input = Some(sum.input);
            answer.cache_read = Some(sum.cache_read);
            answer.cache_write = Some(sum.cache_write.total());
            answer.output = Some(sum.output);
            answer.reasoning = Some(sum.reasoning);
            answer.model = normalized.lines.first().map(|line| line.model.as_str());
            answer.lines = &normalized.lines;
        }
        Err(refusal) => {
            answer.error = Some(&refusal.reason);
            answer.message = Some(&refusal.message);
        }
    }
    serde_json::to_writer(&mut *out, &answer).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// The counts of all lines together.
pub(crate) fn sum(lines: &[Line]) -> TokenCounts {
    let mut sum = TokenCounts::default();
    for line in lines {
        sum.add(&line.counts);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(rows: &str) -> Vec<String> {
        let mut out = Vec::new();
        normalize(rows.as_bytes(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn each_row_answers_in_the_documented_order_of_keys() {
        let got = output(concat!(
            r#"{"provider":"claude","api":"/v1/messages","request_model":"claude-x","usage":"#,
            r#"{"input_tokens":3,"cache_creation_input_tokens":7,"cache_creation":"#,
            r#"{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":2},"#,
            r#""cache_read_input_tokens":11,"output_tokens":13}}"#,
            "\n\nnot json\n",
            r#"{"provider":"nobody","usage":{}}"#,
        ));
        assert_eq!(got.len(), 3);
        let head = r#"{"line":0,"provider":"anthropic","input":3,"cache_read":11,"cache_write":7,"output":13,"reasoning":0,"error":null,"model":"claude-x","lines":[{"#;
        assert!(got[0].starts_with(head), "{}", got[0]);
        let head = r#"{"line":2,"provider":null,"input":null,"cache_read":null,"cache_write":null,"output":null,"reasoning":null,"error":"ROW_INVALID","message":""#;
        assert!(got[1].starts_with(head), "{}", got[1]);
        let head = r#"{"line":3,"provider":"nobody","input":null,"#;
        assert!(got[2].starts_with(head), "{}", got[2]);
        assert!(got[2].contains(r#""error":"UNKNOWN_PROVIDER""#));
    }
}
