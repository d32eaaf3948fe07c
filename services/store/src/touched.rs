//! Which tenants the last commits touched, so that who follows an idle one need not read the log
//! to find nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokenmeter_model::id::TenantId;

/// Tenants that are remembered at most: about 2 MiB.
const MAX_TENANTS: usize = 16_384;

/// The positions `(after, last]`, which one transaction gave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) after: i64,
    pub(crate) last: i64,
}

/// The last position of each tenant that is remembered.
pub(crate) struct Touched(Mutex<Known>);

struct Known {
    tenants: HashMap<TenantId, i64>,
    /// Of what is up to here nothing is known but `tenants`.
    floor: i64,
    /// The last position that was told of.
    last: i64,
}

impl Touched {
    /// Of a ledger whose last position is this; of what came before nothing is known.
    pub(crate) fn new(last: i64) -> Self {
        Self(Mutex::new(Known {
            tenants: HashMap::new(),
            floor: last,
            last,
        }))
    }

    /// Begins anew, as [`Touched::new`] does.
    pub(crate) fn restart(&self, last: i64) {
        let mut known = self.lock();
        known.tenants.clear();
        known.floor = last;
        known.last = last;
    }

    /// Remembers a commit, with every tenant that has a row in it. Has to be told before the commit
    /// is published.
    pub(crate) fn add<'a>(&self, given: Given, tenants: impl IntoIterator<Item = &'a TenantId>) {
        let mut known = self.lock();
        // Another process wrote between, and for whom is not known.
        if given.after != known.last {
            known.floor = given.after;
        }
        for tenant in tenants {
            if let Some(last) = known.tenants.get_mut(tenant) {
                *last = given.last;
                continue;
            }
            if known.tenants.len() >= MAX_TENANTS {
                known.tenants.clear();
                known.floor = given.last;
            }
            known.tenants.insert(tenant.clone(), given.last);
        }
        known.last = given.last;
    }

    /// Whether anything of the tenant may have been committed after a position.
    pub(crate) fn since(&self, tenant: &TenantId, position: i64) -> bool {
        let known = self.lock();
        let last = known.tenants.get(tenant);
        position < known.floor || last.is_some_and(|last| *last > position)
    }

    /// A poisoned lock guards no half-done change that matters: a commit that was not remembered to
    /// its end is below the floor with the next one.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn add(touched: &Touched, after: i64, last: i64, name: &str) {
        touched.add(Given { after, last }, [&tenant(name)]);
    }

    #[test]
    fn what_was_before_the_start_or_written_by_others_may_be_anybodys() {
        let touched = Touched::new(10);
        assert!(touched.since(&tenant("a"), 9));
        assert!(!touched.since(&tenant("a"), 10));
        add(&touched, 10, 12, "a");
        assert!(touched.since(&tenant("a"), 11) && !touched.since(&tenant("a"), 12));
        assert!(!touched.since(&tenant("b"), 10));
        // Positions 13 to 15 were given out elsewhere.
        add(&touched, 15, 16, "a");
        assert!(touched.since(&tenant("b"), 14) && !touched.since(&tenant("b"), 15));
        assert!(touched.since(&tenant("a"), 15));
    }

    #[test]
    fn a_full_memory_is_let_go_of_and_says_so() {
        let touched = Touched::new(0);
        let mut at = 0;
        for n in 0..=MAX_TENANTS {
            add(&touched, at, at + 1, &format!("t{n}"));
            at += 1;
        }
        assert_eq!(touched.lock().tenants.len(), 1);
        let idle = tenant("idle");
        assert!(touched.since(&tenant("t0"), 0) && touched.since(&idle, at - 1));
        assert!(!touched.since(&idle, at));
        add(&touched, at, at + 1, "t0");
        assert!(touched.since(&tenant("t0"), at) && !touched.since(&idle, at));
    }
}
