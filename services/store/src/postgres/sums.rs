//! Sums as SQL: of `usage_totals`, and of lines as totals count them.

use crate::rows::totals::sum_columns;

/// Sums of rows of `usage_totals`. A sum of BIGINT is NUMERIC: one past 64 bits is an error here.
pub(super) fn of_totals() -> String {
    sum_columns(|name| format!("sum({name})::BIGINT AS {name}"))
}

/// Sums of rows of `usage_lines`.
pub(super) fn of_lines() -> String {
    sum_columns(|name| format!("sum({})::BIGINT AS {name}", of_line(name)))
}

/// A figure of a row of `usage_lines`.
pub(super) fn of_line(name: &str) -> String {
    match name {
        "succeeded" | "failed" | "interrupted" => {
            format!("CASE status WHEN '{name}' THEN requests ELSE 0 END")
        }
        "latency_ms" => "requests * coalesce(latency_ms, 0)".to_owned(),
        "latency_events" => "CASE WHEN latency_ms IS NULL THEN 0 ELSE requests END".to_owned(),
        "lines" => "CASE kind WHEN 'usage' THEN 1 WHEN 'void' THEN -1 ELSE 0 END".to_owned(),
        "tool_requests" => "CASE WHEN tool_requests IS NOT NULL THEN \
             (SELECT sum(value::BIGINT) FROM json_each_text(tool_requests::JSON)) END"
            .to_owned(),
        other => other.to_owned(),
    }
}
