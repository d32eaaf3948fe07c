//! How limits stand, for those who administer them: admission knows, and the service asks through a
//! trait, because services do not call each other.

use std::sync::Arc;

use async_trait::async_trait;
use tokenmeter_admin::Standings;
use tokenmeter_api::status::Failure;
use tokenmeter_metering::admission::Admission;
use tokenmeter_model::id::TenantId;
use tokenmeter_store::counters::{Owner, Rule, Standing};

/// What admission of this process says.
pub(super) struct OfAdmission(pub(super) Arc<Admission>);

#[async_trait]
impl Standings for OfAdmission {
    async fn standings(
        &self,
        tenant: &TenantId,
        owner: &Owner,
    ) -> Result<Vec<(Rule, Standing)>, Failure> {
        let (_, states) = self.0.states(tenant, owner).await?;
        Ok(states
            .limits()
            .map(|(rule, standing)| (rule.clone(), *standing))
            .collect())
    }
}
