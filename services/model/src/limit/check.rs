//! The bounds of limits, alone and in the set that they are given in.

use crate::bounds::{self, Kind, Violation};

use super::{Limit, MAX_ALERT_PERCENT, MAX_ALERTS, MAX_AMOUNT, MAX_LIMITS, Metric, Scope, Window};

impl Limit {
    /// Checks every bound of the limit, and that scope, metric and window make sense together. `field`
    /// is its path in the contract. Violations are of [`Kind::Limit`].
    pub fn check(&self, field: &str, out: &mut Vec<Violation>) {
        let before = out.len();
        for (name, text) in [
            ("name", &self.name),
            ("provider", &self.provider),
            ("model", &self.model),
        ] {
            bounds::text(format_args!("{field}.{name}"), text, out);
        }
        if let Some(text) = nonsense(self.scope, self.metric, self.window) {
            out.push(Violation::new(format!("{field}.window"), text));
        }
        bounds::range(
            format_args!("{field}.amount"),
            self.amount,
            0,
            MAX_AMOUNT,
            out,
        );
        check_alerts(
            &format!("{field}.alert_percents"),
            &self.alert_percents,
            out,
        );
        for violation in &mut out[before..] {
            violation.kind = Kind::Limit;
        }
    }
}

/// Why a scope, a metric and a window do not go together.
fn nonsense(scope: Scope, metric: Metric, window: Window) -> Option<&'static str> {
    match window {
        Window::Session if scope != Scope::Session => Some(
            "is the life of a session, which only scope session has; send that scope, or day or month",
        ),
        Window::Request if metric == Metric::Requests => Some(
            "is a single request, which is always one request; send another window, or a metric of \
             tokens or cost",
        ),
        Window::Budget => Some(
            "is the session's token budget, which is no limit; set the budget itself, or send session",
        ),
        _ => None,
    }
}

fn check_alerts(field: &str, percents: &[i32], out: &mut Vec<Violation>) {
    if percents.len() > MAX_ALERTS {
        let text = format!(
            "{} shares is too many; send at most {MAX_ALERTS}",
            percents.len()
        );
        out.push(Violation::new(field, text));
        return;
    }
    for (n, percent) in percents.iter().enumerate() {
        let path = format!("{field}[{n}]");
        bounds::range(&path, i64::from(*percent), 1, MAX_ALERT_PERCENT, out);
        if n > 0 && *percent <= percents[n - 1] {
            let text = format!(
                "{percent} does not follow {}; send shares in rising order, each once",
                percents[n - 1]
            );
            out.push(Violation::new(path, text));
        }
    }
}

/// Checks limits that are set together: how many, each by itself, no rule and no name twice.
/// `field` is the path of the list in the contract.
pub fn check_set(field: &str, limits: &[Limit], out: &mut Vec<Violation>) {
    if limits.len() > MAX_LIMITS {
        let text = format!("too many limits; send at most {MAX_LIMITS}");
        out.push(Violation::new(field, text).kind(Kind::Limit));
        return;
    }
    for (n, limit) in limits.iter().enumerate() {
        let path = format!("{field}[{n}]");
        limit.check(&path, out);
        let same = |other: &Limit| other.key() == limit.key();
        if let Some(first) = limits[..n].iter().position(same) {
            let text = format!(
                "is the same rule as {field}[{first}]; send one limit for a scope, metric, window, \
                 provider and model"
            );
            out.push(Violation::new(path, text).kind(Kind::Limit));
            continue;
        }
        let named = |other: &Limit| other.called() == limit.called();
        if let Some(first) = limits[..n].iter().position(named) {
            let text = format!(
                "{:?} is also what {field}[{first}] is called; send a name of its own",
                limit.called()
            );
            out.push(Violation::new(format!("{path}.name"), text).kind(Kind::Limit));
        }
    }
}

/// Checks the own limits of a subject: as a set, and that each is of the subject's scope.
pub fn check_own(field: &str, scope: Scope, limits: &[Limit], out: &mut Vec<Violation>) {
    check_set(field, limits, out);
    for (n, limit) in limits.iter().take(MAX_LIMITS).enumerate() {
        if limit.scope != scope {
            let text = format!(
                "is {}, but the limits are of a subject of scope {}; send that scope",
                limit.scope.as_str(),
                scope.as_str()
            );
            out.push(Violation::new(format!("{field}[{n}].scope"), text).kind(Kind::Limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Enforcement;

    fn limit() -> Limit {
        Limit {
            name: String::new(),
            scope: Scope::User,
            metric: Metric::Requests,
            window: Window::Minute,
            amount: 10,
            enforcement: Enforcement::Block,
            hard: false,
            alert_percents: Vec::new(),
            provider: String::new(),
            model: String::new(),
        }
    }

    fn fields(check: impl Fn(&mut Vec<Violation>)) -> Vec<String> {
        let mut out = Vec::new();
        check(&mut out);
        assert!(out.iter().all(|v| v.kind == Kind::Limit), "{out:?}");
        out.into_iter().map(|v| v.field).collect()
    }

    #[test]
    fn bounds_themselves_pass_and_one_beyond_is_named() {
        let most = Limit {
            name: "n".repeat(255),
            amount: MAX_AMOUNT,
            alert_percents: vec![1, 2, 3, 4, 5, 6, 7, 1_000],
            provider: "p".repeat(255),
            model: "m".repeat(255),
            ..limit()
        };
        assert!(fields(|out| most.check("limit", out)).is_empty());
        let least = Limit {
            amount: 0,
            ..limit()
        };
        assert!(fields(|out| least.check("limit", out)).is_empty());
        let beyond = Limit {
            name: "n".repeat(256),
            amount: -1,
            alert_percents: vec![0, 80, 80, 1_001],
            provider: "p".repeat(256),
            model: "\0".into(),
            ..limit()
        };
        assert_eq!(
            fields(|out| beyond.check("limit", out)),
            [
                "limit.name",
                "limit.provider",
                "limit.model",
                "limit.amount",
                "limit.alert_percents[0]",
                "limit.alert_percents[2]",
                "limit.alert_percents[3]",
            ]
        );
        let too_much = Limit {
            amount: MAX_AMOUNT + 1,
            alert_percents: (1..=9).collect(),
            ..limit()
        };
        assert_eq!(
            fields(|out| too_much.check("limit", out)),
            ["limit.amount", "limit.alert_percents"]
        );
    }

    #[test]
    fn windows_go_with_their_scopes_and_metrics() {
        for scope in Scope::ALL {
            for metric in Metric::ALL {
                for window in Window::ALL {
                    let sense = match window {
                        Window::Request => *metric != Metric::Requests,
                        Window::Session => *scope == Scope::Session,
                        Window::Budget => false,
                        _ => true,
                    };
                    let limit = Limit {
                        scope: *scope,
                        metric: *metric,
                        window: *window,
                        ..limit()
                    };
                    let found = fields(|out| limit.check("limit", out));
                    assert_eq!(found.is_empty(), sense, "{:?}", limit.key());
                    assert!(sense || found == ["limit.window"]);
                }
            }
        }
    }

    #[test]
    fn no_rule_and_no_name_stands_twice() {
        let named = |name: &str, model: &str| Limit {
            name: name.into(),
            model: model.into(),
            ..limit()
        };
        let good = [named("", ""), named("of-a", "a"), named("of-b", "b")];
        assert!(fields(|out| check_set("limits", &good, out)).is_empty());
        let bad = [
            named("one", ""),
            // The same rule by another name.
            named("two", ""),
            named("one", "a"),
            // What the next is called without a name.
            named("user-requests-minute", "b"),
            named("", "c"),
        ];
        assert_eq!(
            fields(|out| check_set("limits", &bad, out)),
            ["limits[1]", "limits[2].name", "limits[4].name"]
        );
    }

    #[test]
    fn a_set_is_bounded() {
        let of = |count: usize| -> Vec<Limit> {
            let one = |n| Limit {
                name: format!("limit-{n}"),
                model: format!("model-{n}"),
                ..limit()
            };
            (0..count).map(one).collect()
        };
        assert!(fields(|out| check_set("limits", &of(MAX_LIMITS), out)).is_empty());
        let more = of(MAX_LIMITS + 1);
        assert_eq!(fields(|out| check_set("limits", &more, out)), ["limits"]);
    }

    #[test]
    fn own_limits_are_of_their_subjects_scope() {
        let limits = [
            limit(),
            Limit {
                scope: Scope::Team,
                ..limit()
            },
        ];
        let of = |scope| fields(move |out| check_own("limits", scope, &limits, out));
        assert_eq!(of(Scope::User), ["limits[1].scope"]);
    }
}
