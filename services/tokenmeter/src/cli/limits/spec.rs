//! One limit in one word: `[SCOPE:]METRIC/WINDOW=AMOUNT[,OPTION]…`, such as `requests/minute=10` or
//! `team:cost/month=250.50,overage`. What is written can be read again, unless a name has a comma in it.

use tokenmeter_api::v1;
use tokenmeter_model::money::format_nano_usd;

/// How limits are written, in `--help`.
pub(super) const FORM: &str = "[SCOPE:]METRIC/WINDOW=AMOUNT[,OPTION]...";

/// Words of the contract's enums, the first of each the one that is written.
const SCOPES: &[(&str, v1::LimitScope)] = &[
    ("tenant", v1::LimitScope::Tenant),
    ("team", v1::LimitScope::Team),
    ("user", v1::LimitScope::User),
    ("session", v1::LimitScope::Session),
    ("api-key", v1::LimitScope::ApiKey),
];
const METRICS: &[(&str, v1::LimitMetric)] = &[
    ("requests", v1::LimitMetric::Requests),
    ("input", v1::LimitMetric::InputTokens),
    ("uncached-input", v1::LimitMetric::UncachedInputTokens),
    ("output", v1::LimitMetric::OutputTokens),
    ("tokens", v1::LimitMetric::TotalTokens),
    ("cost", v1::LimitMetric::Cost),
];
const WINDOWS: &[(&str, v1::LimitWindow)] = &[
    ("request", v1::LimitWindow::Request),
    ("minute", v1::LimitWindow::Minute),
    ("hour", v1::LimitWindow::Hour),
    ("day", v1::LimitWindow::Day),
    ("month", v1::LimitWindow::Month),
    ("session", v1::LimitWindow::Session),
];
const ENFORCEMENTS: &[(&str, v1::Enforcement)] = &[
    ("block", v1::Enforcement::Block),
    ("overage", v1::Enforcement::RecordOverage),
    ("shadow", v1::Enforcement::Shadow),
];

/// A limit as it was given; the scope may be left to what it is given for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    scope: Option<v1::LimitScope>,
    limit: v1::Limit,
}

impl Spec {
    /// The limit, of this scope where it names none.
    pub(super) fn or_scope(self, scope: v1::LimitScope) -> v1::Limit {
        v1::Limit {
            scope: self.scope.unwrap_or(scope).into(),
            ..self.limit
        }
    }
}

/// Reads a limit.
pub(super) fn parse(text: &str) -> Result<Spec, String> {
    let form = || format!("is no limit; give {FORM}, such as requests/minute=10 or cost/month=25");
    let (rule, rest) = text.split_once('=').ok_or_else(form)?;
    let (scope, rule) = match rule.split_once(':') {
        Some((scope, rule)) => (Some(read(SCOPES, "scope", scope)?), rule),
        None => (None, rule),
    };
    let (metric, window) = rule.split_once('/').ok_or_else(form)?;
    let (metric, window) = (
        read(METRICS, "metric", metric)?,
        read(WINDOWS, "window", window)?,
    );
    let mut words = rest.split(',');
    let mut limit = v1::Limit {
        metric: metric.into(),
        window: window.into(),
        amount: amount(metric, words.next().unwrap_or_default())?,
        ..v1::Limit::default()
    };
    for word in words {
        option(&mut limit, word)?;
    }
    Ok(Spec { scope, limit })
}

/// Reads one option.
fn option(limit: &mut v1::Limit, word: &str) -> Result<(), String> {
    match word.split_once('=') {
        Some(("name", name)) => name.clone_into(&mut limit.name),
        Some(("provider", provider)) => provider.clone_into(&mut limit.provider),
        Some(("model", model)) => model.clone_into(&mut limit.model),
        None if word == "hard" => limit.hard = true,
        None => limit.enforcement = read(ENFORCEMENTS, "option", word)?.into(),
        Some(_) => {
            return Err(format!(
                "{word:?} is no option; give block, overage, shadow, hard, name=, provider= or model="
            ));
        }
    }
    Ok(())
}

/// Reads an amount: a whole number in which `_` may set digits apart, or for cost an amount in USD.
fn amount(metric: v1::LimitMetric, text: &str) -> Result<i64, String> {
    let digits = text.replace('_', "");
    if metric == v1::LimitMetric::Cost {
        return nano_usd(&digits)
            .ok_or_else(|| format!("{text:?} is no amount in USD such as 25 or 0.50"));
    }
    let whole = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    Some(&*digits)
        .filter(|digits| whole(digits))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("{text:?} is no whole number such as 1000 or 1_000_000"))
}

/// Reads USD with at most nine decimals, exactly.
pub(crate) fn nano_usd(text: &str) -> Option<i64> {
    let (units, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(units) || !digits(decimals) || decimals.len() > 9 {
        return None;
    }
    let nanos: i64 = format!("{decimals:0<9}").parse().ok()?;
    let units: i64 = units.parse().ok()?;
    units.checked_mul(1_000_000_000)?.checked_add(nanos)
}

/// Writes a limit as it is read.
pub(super) fn write(limit: &v1::Limit) -> String {
    let amount = match limit.metric() {
        v1::LimitMetric::Cost => format_nano_usd(limit.amount),
        _ => limit.amount.to_string(),
    };
    let mut text = format!(
        "{}:{}/{}={amount}",
        word(SCOPES, limit.scope()),
        word(METRICS, limit.metric()),
        word(WINDOWS, limit.window()),
    );
    if !matches!(
        limit.enforcement(),
        v1::Enforcement::Unspecified | v1::Enforcement::Block
    ) {
        text.push_str(&format!(",{}", word(ENFORCEMENTS, limit.enforcement())));
    }
    if limit.hard {
        text.push_str(",hard");
    }
    for (key, value) in [
        ("name", &limit.name),
        ("provider", &limit.provider),
        ("model", &limit.model),
    ] {
        if !value.is_empty() {
            text.push_str(&format!(",{key}={value}"));
        }
    }
    text
}

/// The scope of a word.
pub(super) fn scope(text: &str) -> Result<v1::LimitScope, String> {
    read(SCOPES, "scope", text)
}

/// What people call a scope.
pub(crate) fn scope_word(scope: v1::LimitScope) -> &'static str {
    word(SCOPES, scope)
}

/// What people call a metric over a window, such as `requests/minute`.
pub(crate) fn rule_words(metric: v1::LimitMetric, window: v1::LimitWindow) -> String {
    format!("{}/{}", word(METRICS, metric), word(WINDOWS, window))
}

/// What people call what happens at a limit.
pub(crate) fn enforcement_word(enforcement: v1::Enforcement) -> &'static str {
    word(ENFORCEMENTS, enforcement)
}

fn read<T: Copy>(words: &[(&str, T)], what: &str, text: &str) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        format!("{text:?} is no {what}; give one of {}", words.join(", "))
    })
}

/// `?` for what this version does not know.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    let found = words.iter().find(|(_, one)| *one == value);
    found.map_or("?", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in [
            "user:requests/minute=10",
            "team:cost/month=250.5,overage",
            "session:tokens/session=100000,hard",
            "user:output/request=8000,shadow,hard,name=long-answers,provider=openai,model=gpt-4o",
            "api-key:uncached-input/day=0",
            "tenant:input/hour=9000000000000000000",
        ] {
            let limit = parse(text).unwrap().or_scope(v1::LimitScope::Unspecified);
            assert_eq!(write(&limit), text);
        }
        let limit = parse("tokens/month=1_000_000,block").unwrap();
        let limit = limit.or_scope(v1::LimitScope::Team);
        assert_eq!(write(&limit), "team:tokens/month=1000000");
    }

    #[test]
    fn what_is_no_limit_says_how_one_is_written() {
        for (text, mend) in [
            ("", "requests/minute=10"),
            ("requests=10", "requests/minute=10"),
            ("request/minute=10", "uncached-input"),
            ("requests/second=10", "minute, hour"),
            ("group:requests/minute=10", "tenant, team"),
            ("requests/minute=", "whole number"),
            ("requests/minute=-1", "whole number"),
            ("requests/minute=+1", "whole number"),
            ("requests/minute=99999999999999999999", "whole number"),
            ("cost/month=1.0000000001", "USD"),
            ("cost/month=25usd", "USD"),
            ("requests/minute=10,soft", "block, overage"),
            ("requests/minute=10,colour=red", "provider="),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(mend), "{text}: {error}");
        }
    }

    #[test]
    fn amounts_in_usd_are_exact() {
        for (text, nano) in [
            ("0", 0),
            ("25", 25_000_000_000),
            ("0.000000001", 1),
            ("0.5", 500_000_000),
            ("9000000000", 9_000_000_000_000_000_000),
        ] {
            assert_eq!(nano_usd(text), Some(nano), "{text}");
        }
        for wrong in ["", ".5", "1.", "1,5", "-1", "1e3", "99999999999"] {
            assert_eq!(nano_usd(wrong), None, "{wrong}");
        }
    }
}
