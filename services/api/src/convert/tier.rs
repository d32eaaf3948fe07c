//! Service tiers.

use tokenmeter_model::tier::ServiceTier;

use crate::v1;

impl From<ServiceTier> for v1::ServiceTier {
    fn from(tier: ServiceTier) -> Self {
        match tier {
            ServiceTier::Standard => Self::Standard,
            ServiceTier::Batch => Self::Batch,
            ServiceTier::Priority => Self::Priority,
            ServiceTier::Flex => Self::Flex,
            ServiceTier::Fast => Self::Fast,
            ServiceTier::Provisioned => Self::Provisioned,
            ServiceTier::Other => Self::Other,
        }
    }
}

/// The model's tier; `None` when it is not stated.
pub fn tier(tier: v1::ServiceTier) -> Option<ServiceTier> {
    Some(match tier {
        v1::ServiceTier::Unspecified => return None,
        v1::ServiceTier::Standard => ServiceTier::Standard,
        v1::ServiceTier::Batch => ServiceTier::Batch,
        v1::ServiceTier::Priority => ServiceTier::Priority,
        v1::ServiceTier::Flex => ServiceTier::Flex,
        v1::ServiceTier::Fast => ServiceTier::Fast,
        v1::ServiceTier::Provisioned => ServiceTier::Provisioned,
        v1::ServiceTier::Other => ServiceTier::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_survive_a_round_trip_and_keep_their_order() {
        for (index, model) in ServiceTier::ALL.into_iter().enumerate() {
            let wire = v1::ServiceTier::from(model);
            assert_eq!(tier(wire), Some(model));
            assert_eq!(i32::from(wire), i32::try_from(index).unwrap() + 1);
        }
        assert_eq!(tier(v1::ServiceTier::Unspecified), None);
    }
}
