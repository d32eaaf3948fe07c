//! What the reference decides: about calls, and about holds.

use tokenmeter_model::limit::{Enforcement, Window, Zoned};
use tokenmeter_store::counters::{
    Admission, Ask, Change, Extend, Hold, HoldState, Known, MAX_EXTENSIONS, Rule, Standing,
};

use super::{Reserved, Tenant};

/// The first blocking rule that does not fit.
fn refusing(rules: &[Rule], standings: &[Standing]) -> Option<usize> {
    rules.iter().zip(standings).position(|(rule, standing)| {
        standing.exceeded && rule.limit.enforcement == Enforcement::Block
    })
}

/// Decides about a call.
pub(super) fn admit(
    tenant: &mut Tenant,
    zoned: &Zoned,
    ask: &Ask,
    now_us: i64,
) -> Known<Admission> {
    let mut earlier = tenant.holds.iter();
    let earlier = earlier.find(|one| one.request_id == ask.request_id && !ask.dry_run);
    let earlier = earlier.map(|one| (one.fingerprint, one.hold.clone()));
    if let Some((fingerprint, _)) = &earlier
        && *fingerprint != ask.fingerprint
    {
        return Known::Answer(Admission::RequestConflict);
    }
    let cold = tenant.cold(zoned, &ask.rules);
    if !cold.is_empty() {
        return Known::Cold(cold);
    }
    if let Some((_, hold)) = earlier {
        return Known::Answer(Admission::Admitted {
            hold,
            replayed: true,
            standings: tenant.standings(zoned, &ask.rules, now_us, None),
        });
    }
    let before = tenant.standings(zoned, &ask.rules, now_us, Some(&ask.amounts));
    if let Some(rule) = refusing(&ask.rules, &before) {
        return Known::Answer(Admission::Refused {
            rule,
            standings: before,
        });
    }
    let hold = Hold {
        reservation_id: ask.reservation_id.clone(),
        owner: ask.owner.clone(),
        provider: ask.provider.clone(),
        model: ask.model.clone(),
        price_version: ask.price_version,
        amounts: ask.amounts,
        state: HoldState::Active,
        admit_us: now_us,
        expire_us: now_us + ask.life_us,
        event_id: String::new(),
    };
    if !ask.dry_run {
        tenant.holds.push(Reserved {
            request_id: ask.request_id.clone(),
            fingerprint: ask.fingerprint,
            hold: hold.clone(),
            ended_us: None,
            extensions: Vec::new(),
        });
    }
    Known::Answer(Admission::Admitted {
        hold,
        replayed: false,
        standings: after(tenant, zoned, &ask.rules, now_us, before),
    })
}

/// How rules stand after a grant, with what was found before it: whether it fitted, and when it can.
fn after(
    tenant: &Tenant,
    zoned: &Zoned,
    rules: &[Rule],
    now_us: i64,
    before: Vec<Standing>,
) -> Vec<Standing> {
    let now = tenant.standings(zoned, rules, now_us, None);
    let both = now.into_iter().zip(before);
    both.map(|(now, before)| Standing {
        exceeded: before.exceeded,
        retry_us: before.retry_us,
        ..now
    })
    .collect()
}

/// Sets a hold to another size or life.
pub(super) fn extend(
    tenant: &mut Tenant,
    zoned: &Zoned,
    ask: &Extend,
    now_us: i64,
) -> Known<Change> {
    let Some(one) = tenant.find(&ask.reservation_id) else {
        return Known::Answer(Change::NotFound);
    };
    let hold = one.hold.clone();
    let mut granted = one.extensions.iter();
    let granted = granted.find(|(request_id, ..)| *request_id == ask.request_id);
    let granted = granted.map(|(_, fingerprint, hold)| (*fingerprint, hold.clone()));
    match &granted {
        Some((fingerprint, _)) if *fingerprint != ask.fingerprint => {
            return Known::Answer(Change::RequestConflict);
        }
        None if hold.state != HoldState::Active => return Known::Answer(Change::Ended(hold)),
        _ => {}
    }
    let cold = tenant.cold(zoned, &ask.rules);
    if !cold.is_empty() {
        return Known::Cold(cold);
    }
    if let Some((_, hold)) = granted {
        return Known::Answer(Change::Changed {
            hold,
            standings: tenant.standings(zoned, &ask.rules, now_us, None),
        });
    }
    let wanted = ask.amounts.unwrap_or(hold.amounts);
    let more = |rule: &Rule| {
        let metric = rule.limit.metric;
        let more = wanted.of(metric) - hold.amounts.of(metric);
        // A single request is as large as it is then, and not by how much it grew.
        let asked = match rule.limit.window {
            Window::Request => wanted.of(metric),
            _ => more,
        };
        let asked = (more > 0).then_some(asked);
        tenant.standing(zoned, rule, now_us, asked)
    };
    let before: Vec<_> = ask.rules.iter().map(more).collect();
    if let Some(rule) = refusing(&ask.rules, &before) {
        return Known::Answer(Change::Refused {
            hold,
            rule,
            standings: before,
        });
    }
    let one = tenant.find(&ask.reservation_id).expect("found above");
    one.hold.amounts = wanted;
    one.hold.expire_us = ask.life_us.map_or(hold.expire_us, |life| now_us + life);
    let hold = one.hold.clone();
    let granted = (ask.request_id.clone(), ask.fingerprint, hold.clone());
    one.extensions.push(granted);
    let forgotten = one.extensions.len().saturating_sub(MAX_EXTENSIONS);
    one.extensions.drain(..forgotten);
    Known::Answer(Change::Changed {
        hold,
        standings: after(tenant, zoned, &ask.rules, now_us, before),
    })
}

/// Ends a hold whose call did not run.
pub(super) fn release(
    tenant: &mut Tenant,
    zoned: &Zoned,
    reservation_id: &str,
    rules: &[Rule],
    now_us: i64,
) -> Known<Change> {
    match tenant.find(reservation_id).map(|one| one.hold.clone()) {
        None => return Known::Answer(Change::NotFound),
        Some(hold) if hold.state == HoldState::Settled => {
            return Known::Answer(Change::Ended(hold));
        }
        Some(_) => {}
    }
    let cold = tenant.cold(zoned, rules);
    if !cold.is_empty() {
        return Known::Cold(cold);
    }
    let one = tenant.find(reservation_id).expect("found above");
    if one.hold.state == HoldState::Active {
        one.hold.state = HoldState::Released;
        one.ended_us = Some(now_us);
    }
    Known::Answer(Change::Changed {
        hold: one.hold.clone(),
        standings: tenant.standings(zoned, rules, now_us, None),
    })
}
