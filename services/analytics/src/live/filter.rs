//! Which of a tenant's events a subscriber gets.

use std::collections::BTreeSet;

use tokenmeter_identity::Caller;
use tokenmeter_model::bounds::{self, Violation};
use tokenmeter_model::event::Event;
use tokenmeter_store::ledger::log::{Change, Entry};

use crate::error::Error;

/// Most models, types, phases, labels and lifecycle kinds in a filter.
const MAX_MODELS: usize = 64;
const MAX_TYPES: usize = 16;
const MAX_PHASES: usize = 16;
const MAX_LABELS: usize = 8;
const MAX_LIFECYCLE_KINDS: usize = 32;

/// A type of event on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    /// Usage was recorded.
    Recorded,
    /// Usage was voided.
    Voided,
    /// Usage was repriced.
    Repriced,
    /// A type that this version never sends.
    Other(i32),
    /// None in particular: it is counted, and filters nothing.
    Unspecified,
}

/// What was asked for, as it came.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Only this user; empty means all that the caller may read.
    pub user_id: String,
    /// Only this session; empty means all.
    pub session_id: String,
    /// Only this team; empty means all.
    pub team_id: String,
    /// Only events with a line of one of these models; none means all.
    pub models: Vec<String>,
    /// Only these types; none means all.
    pub types: Vec<EventType>,
    /// Phases of token counts, which this version does not send, by their numbers.
    pub phases: Vec<i32>,
    /// Kinds of lifecycle events, which this version does not send, by their numbers.
    pub lifecycle_kinds: Vec<i32>,
    /// Only events with all of these labels.
    pub labels: Vec<(String, String)>,
}

/// What was asked for, within bounds and within what the caller may read. Lists are sets, so that
/// one filter written in two ways is one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    user_id: String,
    session_id: String,
    team_id: String,
    models: BTreeSet<String>,
    types: BTreeSet<EventType>,
    phases: BTreeSet<i32>,
    lifecycle_kinds: BTreeSet<i32>,
    labels: BTreeSet<(String, String)>,
}

impl Filter {
    /// The filter of a caller.
    ///
    /// # Errors
    /// Fields out of bounds; [`Error::Denied`] for another user than the caller without the role
    /// for it.
    pub fn of(caller: &Caller, asked: Asked) -> Result<Self, Error> {
        check(&asked)?;
        let user_id = match caller.reads_only_itself() {
            true => caller.readable_user(&asked.user_id)?.to_owned(),
            false => asked.user_id,
        };
        Ok(Self {
            user_id,
            session_id: asked.session_id,
            team_id: asked.team_id,
            models: asked.models.into_iter().collect(),
            types: asked
                .types
                .into_iter()
                .filter(|kind| *kind != EventType::Unspecified)
                .collect(),
            phases: asked.phases.into_iter().collect(),
            lifecycle_kinds: asked.lifecycle_kinds.into_iter().collect(),
            labels: asked.labels.into_iter().collect(),
        })
    }

    /// Whether it lets an entry of the log pass.
    pub fn passes(&self, entry: &Entry) -> bool {
        let (kind, event) = match &entry.change {
            Change::Recorded(event) => (EventType::Recorded, event),
            Change::Voided(event) => (EventType::Voided, event),
            Change::Repriced { event, .. } => (EventType::Repriced, event),
        };
        (self.types.is_empty() || self.types.contains(&kind)) && self.passes_event(&event.event)
    }

    fn passes_event(&self, event: &Event) -> bool {
        let is = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
        is(&self.user_id, &event.user_id)
            && is(&self.session_id, &event.session_id)
            && is(&self.team_id, &event.team_id)
            && (self.models.is_empty()
                || event
                    .lines
                    .iter()
                    .any(|line| self.models.contains(&line.model)))
            && self
                .labels
                .iter()
                .all(|wanted| event.labels.contains(wanted))
    }
}

fn check(asked: &Asked) -> Result<(), Error> {
    let mut out = Vec::new();
    bounds::text("filter.user_id", &asked.user_id, &mut out);
    bounds::text("filter.session_id", &asked.session_id, &mut out);
    bounds::text("filter.team_id", &asked.team_id, &mut out);
    for (field, count, max) in [
        ("filter.models", asked.models.len(), MAX_MODELS),
        ("filter.types", asked.types.len(), MAX_TYPES),
        ("filter.phases", asked.phases.len(), MAX_PHASES),
        ("filter.labels", asked.labels.len(), MAX_LABELS),
        (
            "filter.lifecycle_kinds",
            asked.lifecycle_kinds.len(),
            MAX_LIFECYCLE_KINDS,
        ),
    ] {
        if count > max {
            let text = format!("{count} entries is too many; send at most {max}");
            out.push(Violation::new(field, text));
        }
    }
    for (n, model) in asked.models.iter().take(MAX_MODELS).enumerate() {
        bounds::required_text(format_args!("filter.models[{n}]"), model, &mut out);
    }
    for (n, (key, value)) in asked.labels.iter().take(MAX_LABELS).enumerate() {
        bounds::required_text(format_args!("filter.labels[{n}].key"), key, &mut out);
        bounds::text(format_args!("filter.labels[{n}].value"), value, &mut out);
    }
    match out.is_empty() {
        true => Ok(()),
        false => Err(Error::Invalid(out)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenmeter_identity::Caller;
    use tokenmeter_model::counts::Line;
    use tokenmeter_model::event::Recorded;

    fn caller(roles: &str) -> Caller {
        let mut caller = Caller::anonymous(&Default::default()).unwrap();
        caller.user = "ann".into();
        caller.roles = tokenmeter_identity::Roles::parse(roles).unwrap();
        caller
    }

    fn entry(change: fn(Recorded) -> Change) -> Entry {
        let event = Event {
            user_id: "ann".into(),
            session_id: "s".into(),
            team_id: "t".into(),
            labels: vec![("a".into(), "1".into()), ("b".into(), "2".into())],
            lines: ["m", "n"]
                .map(|model| Line {
                    model: model.into(),
                    counts: Default::default(),
                    tool_requests: Default::default(),
                })
                .into(),
            ..Event::default()
        };
        Entry {
            position: 1,
            change: change(Recorded {
                position: 1,
                event,
                quotes: Vec::new(),
                charge_time_us: 0,
                recorded_at_us: 0,
                api_key_id: String::new(),
                voided: None,
            }),
        }
    }

    #[test]
    fn every_condition_has_to_hold_and_any_entry_of_a_list() {
        let passes = |asked: Asked| {
            let filter = Filter::of(&caller("read_tenant"), asked).unwrap();
            filter.passes(&entry(Change::Recorded))
        };
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let of = |set: fn(&mut Asked)| {
            let mut asked = Asked::default();
            set(&mut asked);
            asked
        };
        assert!(passes(Asked::default()));
        assert!(passes(of(|asked| asked.user_id = "ann".into())));
        assert!(!passes(of(|asked| asked.user_id = "bob".into())));
        assert!(!passes(of(|asked| asked.session_id = "other".into())));
        assert!(!passes(of(|asked| asked.team_id = "other".into())));
        assert!(passes(of(
            |asked| asked.models = vec!["x".into(), "n".into()]
        )));
        assert!(!passes(of(|asked| asked.models = vec!["x".into()])));
        assert!(passes(of(|asked| asked.types = vec![EventType::Recorded])));
        assert!(!passes(of(|asked| asked.types = vec![EventType::Voided])));
        let with = |labels| Asked {
            labels,
            ..Asked::default()
        };
        assert!(passes(with(vec![label("a", "1"), label("b", "2")])));
        assert!(!passes(with(vec![label("a", "1"), label("b", "1")])));
        let voids = of(|asked| asked.types = vec![EventType::Voided]);
        let filter = Filter::of(&caller("read_tenant"), voids).unwrap();
        assert!(filter.passes(&entry(Change::Voided)));
    }

    #[test]
    fn who_reads_only_itself_is_filtered_to_itself() {
        let own = Filter::of(&caller("read_own"), Asked::default()).unwrap();
        assert_eq!(own.user_id, "ann");
        let other = Asked {
            user_id: "bob".into(),
            ..Asked::default()
        };
        let denied = Filter::of(&caller("read_own"), other.clone());
        assert!(matches!(denied, Err(Error::Denied)), "{denied:?}");
        assert!(Filter::of(&caller("read_tenant"), other).is_ok());
    }

    #[test]
    fn lists_are_bounded_and_their_order_does_not_matter() {
        let bad = Asked {
            models: vec![String::new(); 65],
            labels: vec![("k".into(), "v".into()); 9],
            ..Asked::default()
        };
        match Filter::of(&caller("admin"), bad) {
            Err(Error::Invalid(violations)) => {
                let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
                assert!(fields.starts_with(&["filter.models", "filter.labels"]));
                assert!(fields.contains(&"filter.models[0]"));
            }
            other => panic!("{other:?}"),
        }
        // A list of values that filter nothing is as long as any other.
        let of_unspecified = |count| Asked {
            types: vec![EventType::Unspecified; count],
            ..Asked::default()
        };
        let none = Filter::of(&caller("admin"), of_unspecified(MAX_TYPES)).unwrap();
        assert_eq!(
            none,
            Filter::of(&caller("admin"), Asked::default()).unwrap()
        );
        match Filter::of(&caller("admin"), of_unspecified(MAX_TYPES + 1)) {
            Err(Error::Invalid(violations)) => assert_eq!(violations[0].field, "filter.types"),
            other => panic!("{other:?}"),
        }
        let models = |models: [&str; 2]| Asked {
            models: models.map(Into::into).into(),
            ..Asked::default()
        };
        let [one, two] = [["m", "n"], ["n", "m"]]
            .map(|order| Filter::of(&caller("admin"), models(order)).unwrap());
        assert_eq!(one, two);
    }
}
