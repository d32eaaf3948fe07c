//! Tables become events.

use clap::Parser as _;
use tokenmeter_api::v1;
use tokenmeter_model::counts::TokenCounts;

use super::*;

#[derive(Debug, clap::Parser)]
struct Command {
    #[command(flatten)]
    csv: CsvArgs,
}

fn layout(words: &[&str]) -> Result<Layout, String> {
    let words = ["csv", "file.csv"].iter().chain(words);
    let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
    let (_, layout) = command.csv.layout().map_err(|error| error.to_string())?;
    Ok(layout)
}

fn rows(words: &[&str], table: &str) -> Result<Vec<Item>, String> {
    let defaults = Defaults {
        user: "u".into(),
        file_hash: "a".repeat(64),
        ..Default::default()
    };
    let rows = layout(words)?.rows(table.as_bytes(), defaults);
    let mut rows = rows.map_err(|error| error.to_string())?;
    Ok(std::iter::from_fn(|| rows.next().unwrap()).collect())
}

fn refusal(item: &Item) -> String {
    match &item.planned {
        Err(refusal) => format!("{}: {}", refusal.reason, refusal.message),
        Ok(planned) => panic!("planned {planned:?}"),
    }
}

fn counts(item: &Item) -> TokenCounts {
    item.event().unwrap().used.unwrap().counts
}

const CONSTANTS: [&str; 4] = ["--set", "provider=openai", "--set", "model=gpt-4o"];

fn with_constants<'a>(words: &[&'a str]) -> Vec<&'a str> {
    CONSTANTS.iter().chain(words).copied().collect()
}

#[test]
fn a_trace_of_a_service_is_read_as_it_is() {
    let table = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
                 2023-11-16 18:17:03.9799600,4808,10\r\n\
                 2023-11-16 18:17:04.0319600,3180,8";
    let words = with_constants(&[
        "--map",
        "request_time=TIMESTAMP",
        "--map",
        "prompt=ContextTokens",
        "--map",
        "output=GeneratedTokens",
    ]);
    let items = rows(&words, table).unwrap();
    let lines: Vec<_> = items.iter().map(|item| item.line).collect();
    assert_eq!(lines, [1, 2]);
    assert_eq!(items[1].end, table.len() as u64);
    let event = &items[0].event().unwrap().event;
    assert_eq!(event.event_id, format!("file:{}:1", "a".repeat(32)));
    assert_eq!(
        (event.user_id.as_str(), event.provider.as_str()),
        ("u", "openai")
    );
    assert_eq!(event.request_time.unwrap().nanos, 979_960_000);
    assert_eq!(
        (counts(&items[0]).input, counts(&items[1]).total()),
        (4_808, 3_188)
    );
}

#[test]
fn a_constant_stands_where_a_column_is_empty() {
    let words = [
        "--map",
        "provider=p",
        "--set",
        "provider=openai",
        "--map",
        "model=m",
        "--map",
        "output=o",
        "--map",
        "label.run=r",
        "--set",
        "cache_read=4",
    ];
    let items = rows(&words, "p,m,o,r\nanthropic,a,1,x\n,b,2,\n,c,,\n").unwrap();
    let events: Vec<_> = items
        .iter()
        .map(|item| &item.event().unwrap().event)
        .collect();
    assert_eq!(
        (events[0].provider.as_str(), events[1].provider.as_str()),
        ("anthropic", "openai")
    );
    assert_eq!((events[0].labels.len(), events[1].labels.len()), (1, 0));
    assert_eq!(
        (counts(&items[0]).total(), counts(&items[2]).total()),
        (5, 4)
    );
}

#[test]
fn columns_have_numbers_where_there_is_no_header() {
    let words = with_constants(&[
        "--no-header",
        "--delimiter",
        ";",
        "--map",
        "input=2",
        "--map",
        "request_time=1",
        "--time-unit",
        "ms",
    ]);
    let items = rows(&words, "1700158623979;12\n1700158623980;13\n").unwrap();
    assert_eq!((items[0].line, items[1].line), (0, 1));
    assert_eq!(counts(&items[0]).input, 12);
    let event: &v1::UsageEvent = &items[0].event().unwrap().event;
    assert_eq!(event.request_time.unwrap().seconds, 1_700_158_623);
    let error = rows(
        &with_constants(&["--no-header", "--map", "input=3"]),
        "1,2\n",
    )
    .unwrap_err();
    assert!(
        error.contains("is not the number of a column, 1 to 2"),
        "{error}"
    );
}

#[test]
fn a_bad_row_is_refused_by_column_and_stops_no_other() {
    let words = with_constants(&["--map", "input=in", "--map", "user_id=who"]);
    let table = format!(
        "in,who\n-1,a\n2\n3,{}\n4,b\n\"5,c\n6,d\n",
        "secret".repeat(60)
    );
    let items = rows(&words, &table).unwrap();
    assert_eq!(items.len(), 5);
    assert_eq!(
        refusal(&items[0]),
        "ROW_INVALID: column 1 (\"in\"), input: is not a whole number from 0 to 1000000000"
    );
    assert_eq!(
        refusal(&items[1]),
        "ROW_INVALID: the record has 1 columns, the first has 2"
    );
    assert!(!refusal(&items[2]).contains("secret"));
    assert_eq!(counts(&items[3]).input, 4);
    assert_eq!(
        refusal(&items[4]),
        "ROW_INVALID: the file ends inside the quotes that open on line 5 (from 0); close them, \
         and write a quote inside a value twice"
    );

    let words = with_constants(&["--map", "prompt=p", "--map", "cache_read=c"]);
    let items = rows(&words, "p,c\n1,2\n").unwrap();
    assert!(refusal(&items[0]).starts_with("USAGE_CONTRADICTORY: the prompt has 1 tokens, and 2"));
}

#[test]
fn text_that_is_no_utf_8_is_refused_where_it_is_needed() {
    let layout = layout(&with_constants(&[
        "--map",
        "input=in",
        "--map",
        "user_id=who",
    ]))
    .unwrap();
    let table: &[u8] = b"in,who,other\n1,\xff,x\n2,a,\xff\n";
    let mut rows = layout.rows(table, Defaults::default()).unwrap();
    let mut next = || rows.next().unwrap().unwrap();
    assert!(refusal(&next()).contains("column 2 (\"who\"), user_id: is not UTF-8"));
    assert_eq!(counts(&next()).input, 2);
}

#[test]
fn what_would_make_every_row_wrong_is_said_at_once() {
    let table = "in,in,out\n1,2,3\n";
    for (words, text) in [
        (vec!["--map", "output=out"], "provider is required"),
        (
            vec!["--set", "provider=p", "--map", "output=out"],
            "model is required",
        ),
        (
            with_constants(&["--map", "turn=out"]),
            "no tokens are counted",
        ),
        (
            with_constants(&["--map", "tokens=out"]),
            "--map \"tokens\": is no field",
        ),
        (
            with_constants(&["--map", "output=o"]),
            "it has \"in\", \"in\", \"out\"",
        ),
        (
            with_constants(&["--map", "output=in"]),
            "has this name twice",
        ),
        (
            with_constants(&["--map", "output=out", "--map", "output=in"]),
            "is given twice",
        ),
        (
            with_constants(&["--map", "prompt=out", "--set", "input=1"]),
            "keep one of them",
        ),
        (
            with_constants(&["--set", "output=many"]),
            "--set output: is not a whole number",
        ),
        (with_constants(&["--map", "output"]), "is not NAME=VALUE"),
        (
            with_constants(&["--time-zone", "Mars"]),
            "is no IANA time zone",
        ),
        (
            with_constants(&["--delimiter", "::"]),
            "is not one ASCII character",
        ),
    ] {
        let error = rows(&words, table).unwrap_err();
        assert!(error.contains(text), "{words:?}: {error}");
    }
    for empty in ["", "\n\r\n"] {
        let error = rows(&with_constants(&["--map", "output=out"]), empty).unwrap_err();
        assert!(
            error.contains("--map output=\"out\": the file is empty"),
            "{error}"
        );
        let words = with_constants(&["--no-header", "--map", "output=1"]);
        assert!(rows(&words, empty).unwrap().is_empty());
    }
}

#[test]
fn no_two_rows_have_the_same_derived_id() {
    let words = with_constants(&["--map", "input=in", "--map", "output=out"]);
    let error = rows(&words, "in,out\r10,2\r10,2\r10,2\r10,2").unwrap_err();
    assert!(
        error.contains("the first record: line 0 (from 0) has a carriage return (CR)"),
        "{error}"
    );
    let table = "in,out\n10,2\n10,2\r10,2\r10,2\n\"10\",\"2\"\r\n10,2\r";
    let items = rows(&words, table).unwrap();
    let ids: Vec<_> = items
        .iter()
        .filter_map(Item::event)
        .map(|planned| planned.event.event_id.as_str())
        .collect();
    let id = |line| format!("file:{}:{line}", "a".repeat(32));
    assert_eq!(ids, [id(1), id(3)]);
    for item in [&items[1], &items[3]] {
        assert!(refusal(item).contains("end lines in LF or CRLF"));
    }
}
