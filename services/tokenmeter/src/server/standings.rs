//! Administration asks admission how limits stand.

use std::sync::Arc;

use async_trait::async_trait;
use tokenmeter_admin::Standings;
use tokenmeter_api::status::Failure;
use tokenmeter_metering::admission::Admission;
use tokenmeter_model::id::TenantId;
use tokenmeter_store::counters::{Owner, Rule, Standing};

/// Admission, as administration knows it.
pub(super) struct OfAdmission(pub(super) Arc<Admission>);

#[async_trait]
impl Standings for OfAdmission {
    async fn standings(
        &self,
        tenant: &TenantId,
        owner: &Owner,
    ) -> Result<Vec<(Rule, Standing)>, Failure> {
        let (_, states) = self.0.states(tenant, owner).await?;
        let limits = states.limits();
        Ok(limits
            .map(|(rule, standing)| (rule.clone(), *standing))
            .collect())
    }
}
