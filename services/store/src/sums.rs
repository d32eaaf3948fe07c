//! What events add to totals, gathered in memory before it is written: one sum for each distinct key.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tokenmeter_model::totals::{Totals, bucket};

use crate::ledger::correction::Adjustment;
use crate::ledger::{Error, Recorded, Submission};

/// Bucket of a lifetime total; no event is old enough to fall into it.
const LIFETIME: i64 = 0;

/// Who a line counts for.
pub(crate) struct Owner<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) user: &'a str,
    pub(crate) team: &'a str,
    pub(crate) session: &'a str,
    pub(crate) provider: &'a str,
    pub(crate) model: &'a str,
    pub(crate) charge_time_us: i64,
}

/// What a batch adds to each total. Ordered by key, so that upserts walk the tree once and any two
/// batches take rows in the same order.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    sums: BTreeMap<Key<'a>, Totals>,
    /// Whether a sum passed 64 bits, which the bounds of counts and costs keep a batch from.
    overflow: bool,
}

/// Tenant, scope, subject, bucket.
pub(crate) type Key<'a> = (&'a str, &'static str, Cow<'a, str>, i64);

impl<'a> Batch<'a> {
    /// Adds every line of an event.
    pub(crate) fn add_event(&mut self, submission: &'a Submission) {
        let event = &submission.event;
        for (index, line) in event.lines.iter().enumerate() {
            let owner = Owner {
                tenant: submission.tenant.as_str(),
                user: &event.user_id,
                team: &event.team_id,
                session: &event.session_id,
                provider: &event.provider,
                model: &line.model,
                charge_time_us: submission.charge_time_us,
            };
            let quote = submission.quotes.get(index).and_then(Option::as_ref);
            let now_us = submission.recorded_at_us;
            let sums = Totals::of_line(event, line, quote, index == 0, now_us);
            self.add(&owner, &sums);
        }
    }

    /// Takes an event out, with everything that it and its reprices added.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when a figure has no opposite in 64 bits.
    pub(crate) fn take_out(
        &mut self,
        tenant: &'a str,
        recorded: &'a Recorded,
        now_us: i64,
    ) -> Result<(), Error> {
        let event = &recorded.event;
        for (index, line) in event.lines.iter().enumerate() {
            let quote = recorded.quotes.get(index).and_then(Option::as_ref);
            let added = Totals::of_line(event, line, quote, index == 0, now_us);
            let sums = added
                .checked_neg()
                .ok_or_else(|| Error::OutOfRange("a line's figure has no opposite".into()))?;
            let owner = Owner {
                tenant,
                user: &event.user_id,
                team: &event.team_id,
                session: &event.session_id,
                provider: &event.provider,
                model: &line.model,
                charge_time_us: recorded.charge_time_us,
            };
            self.add(&owner, &sums);
        }
        Ok(())
    }

    /// Adds a line to every total that counts it.
    pub(crate) fn add(&mut self, owner: &Owner<'a>, sums: &Totals) {
        let now = bucket(owner.charge_time_us);
        let model: Cow<'a, str> = Cow::Owned(format!("{}/{}", owner.provider, owner.model));
        let user = Cow::Borrowed(owner.user);
        self.one(owner.tenant, "user", user.clone(), LIFETIME, sums);
        self.one(owner.tenant, "user", user, now, sums);
        self.one(owner.tenant, "model", model.clone(), LIFETIME, sums);
        self.one(owner.tenant, "model", model, now, sums);
        if !owner.team.is_empty() {
            let team = Cow::Borrowed(owner.team);
            self.one(owner.tenant, "team", team.clone(), LIFETIME, sums);
            self.one(owner.tenant, "team", team, now, sums);
        }
        if !owner.session.is_empty() {
            let session = Cow::Borrowed(owner.session);
            self.one(owner.tenant, "session", session, LIFETIME, sums);
        }
    }

    fn one(
        &mut self,
        tenant: &'a str,
        scope: &'static str,
        subject: Cow<'a, str>,
        bucket: i64,
        sums: &Totals,
    ) {
        let total = self
            .sums
            .entry((tenant, scope, subject, bucket))
            .or_default();
        match total.checked_add(sums) {
            Some(sum) => *total = sum,
            None => self.overflow = true,
        }
    }

    /// Everything, in order of key.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when a sum passes 64 bits.
    pub(crate) fn rows(self) -> Result<Vec<(Key<'a>, Totals)>, Error> {
        match self.overflow {
            true => Err(Error::OutOfRange("a batch's sum passes 64 bits".into())),
            false => Ok(self.sums.into_iter().collect()),
        }
    }
}

/// What a new price of a line adds to totals.
pub(crate) fn difference(adjustment: &Adjustment, now_us: i64) -> Totals {
    let before = adjustment.from.unwrap_or_default();
    let after = adjustment.to;
    Totals {
        cost_nano_usd: after.cost_nano_usd - before.cost_nano_usd,
        cache_saving_nano_usd: after.cache_saving_nano_usd - before.cache_saving_nano_usd,
        cache_write_extra_nano_usd: after.cache_write_extra_nano_usd
            - before.cache_write_extra_nano_usd,
        unpriced_lines: -i64::from(adjustment.from.is_none()),
        updated_at_us: now_us,
        ..Totals::default()
    }
}
