//! Changing a hold, and giving it back.

use tokenmeter_identity::Caller;
use tokenmeter_model::bounds;
use tokenmeter_model::fingerprint::{Canonical, Fingerprint};
use tokenmeter_model::limit::{Amounts, Estimate};
use tokenmeter_model::tier::ServiceTier;
use tokenmeter_store::counters::{self, Change, Hold, HoldState};
use tokenmeter_store::rules::Effective;

use super::authorize::{amounts, check_life, life, take_estimate};
use super::notes::Refused;
use super::words::Asked;
use super::{Admission, Refusal, States};
use crate::error::Error;

/// Asks for another size or life of a hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extend {
    /// Names the request.
    pub request_id: String,
    /// The hold.
    pub reservation_id: String,
    /// The new absolute size; none leaves it.
    pub total: Option<Estimate>,
    /// How long it shall live from now, in microseconds; none leaves its end.
    pub hold_us: Option<i64>,
}

/// How a hold stands after it was to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    /// The hold.
    pub hold: Hold,
    /// Which limit refused; none if it was changed as asked.
    pub refusal: Option<Refusal>,
    /// How every rule that applies stands.
    pub states: States,
}

impl Admission {
    /// Sets a hold to another size or life.
    ///
    /// # Errors
    /// Why nothing was decided.
    pub async fn extend(&self, caller: &Caller, asked: Extend) -> Result<Extended, Error> {
        asked.check()?;
        let tenant = &caller.tenant;
        let hold = self.known_hold(caller, &asked.reservation_id).await?;
        let effective = self.rules.of(tenant, &hold.owner).await?;
        let rules = effective.covering(&hold.provider, std::iter::once(hold.model.as_str()));
        let now_us = (self.clock)();
        let amounts = match &asked.total {
            Some(total) => Some(self.size(caller, &effective, &hold, total).await?),
            None => None,
        };
        let extend = counters::Extend {
            request_id: asked.request_id.clone(),
            fingerprint: asked.fingerprint(),
            reservation_id: asked.reservation_id.clone(),
            amounts,
            life_us: asked.hold_us.map(|us| life(Some(us), &effective)),
            rules,
        };
        let place = self.place(tenant, &effective.tenant.zoned);
        let change = self
            .warm(place, || self.counters.extend(place, &extend))
            .await?;
        let rules = extend.rules;
        match change {
            Change::Changed { hold, standings } => Ok(Extended {
                hold,
                refusal: None,
                states: States { rules, standings },
            }),
            Change::Refused {
                hold,
                rule,
                standings,
            } => {
                let states = States { rules, standings };
                let whole = amounts.unwrap_or(hold.amounts);
                let words = Asked {
                    amounts: whole.minus(&hold.amounts),
                    whole,
                    unpriced: None,
                    now_us,
                };
                let refused = Refused {
                    owner: &hold.owner,
                    model: &hold.model,
                    asked: words.amounts,
                    now_us,
                };
                self.notes.hits(tenant, &states, &refused);
                Ok(Extended {
                    refusal: words.refusal(&states, rule),
                    hold,
                    states,
                })
            }
            Change::Ended(hold) => Err(ended(hold)),
            Change::NotFound => Err(Error::NoReservation(asked.reservation_id)),
            Change::RequestConflict => Err(Error::RequestConflict(asked.request_id)),
        }
    }

    /// Gives a hold back. One that was given back or has expired stays as it is.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn release(
        &self,
        caller: &Caller,
        request_id: &str,
        reservation_id: &str,
    ) -> Result<(Hold, States), Error> {
        check_ids(request_id, reservation_id, Vec::new())?;
        let tenant = &caller.tenant;
        let hold = self.known_hold(caller, reservation_id).await?;
        let effective = self.rules.of(tenant, &hold.owner).await?;
        let rules = effective.covering(&hold.provider, std::iter::once(hold.model.as_str()));
        let place = self.place(tenant, &effective.tenant.zoned);
        let step = || self.counters.release(place, reservation_id, &rules);
        match self.warm(place, step).await? {
            Change::Changed { hold, standings } => Ok((hold, States { rules, standings })),
            Change::Refused { hold, .. } | Change::Ended(hold) => Err(ended(hold)),
            Change::NotFound => Err(Error::NoReservation(reservation_id.to_owned())),
            Change::RequestConflict => Err(Error::RequestConflict(request_id.to_owned())),
        }
    }

    async fn known_hold(&self, caller: &Caller, reservation_id: &str) -> Result<Hold, Error> {
        let hold = self.hold(&caller.tenant, reservation_id).await?;
        hold.ok_or_else(|| Error::NoReservation(reservation_id.to_owned()))
    }

    /// The size that an estimate means for a hold, by the price that the hold pins.
    async fn size(
        &self,
        caller: &Caller,
        effective: &Effective,
        hold: &Hold,
        total: &Estimate,
    ) -> Result<Amounts, Error> {
        let book = self.books.of_or_kept(&caller.tenant).await?;
        let price = hold
            .price_version
            .and_then(|version| book.pinned(&hold.provider, &hold.model, hold.admit_us, version));
        // The hold does not say which tier was asked for: standard's rates.
        let sized = amounts(total, effective, price, ServiceTier::Standard);
        // What has no price holds the cost that was given with it before.
        Ok(sized.unwrap_or_else(|| {
            let cost = hold.amounts.cost_nano_usd;
            total.amounts(effective.tenant.max_output_tokens(), Some(cost))
        }))
    }
}

/// Why a hold that has ended cannot be changed.
fn ended(hold: Hold) -> Error {
    match hold.state {
        HoldState::Settled => Error::ReservationSettled(hold.event_id),
        HoldState::Released => Error::ReservationReleased(hold.reservation_id),
        HoldState::Expired | HoldState::Active => Error::ReservationExpired(hold.reservation_id),
    }
}

fn check_ids(
    request_id: &str,
    reservation_id: &str,
    mut out: Vec<bounds::Violation>,
) -> Result<(), Error> {
    bounds::required_text("request_id", request_id, &mut out);
    bounds::required_text("reservation_id", reservation_id, &mut out);
    match out.is_empty() {
        true => Ok(()),
        false => Err(Error::Invalid(out)),
    }
}

impl Extend {
    fn check(&self) -> Result<(), Error> {
        let mut out = Vec::new();
        if let Some(total) = &self.total {
            total.check("total", &mut out);
        }
        check_life(self.hold_us, &mut out);
        check_ids(&self.request_id, &self.reservation_id, out)
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut taken = Canonical::new();
        taken.text("ExtendReservation").text(&self.reservation_id);
        taken.length(usize::from(self.total.is_some()));
        if let Some(total) = &self.total {
            take_estimate(total, &mut taken);
        }
        taken.optional(self.hold_us).finish()
    }
}
