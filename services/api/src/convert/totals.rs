//! Totals.

use tokenmeter_model::totals::Totals;

use super::money;
use crate::v1;

impl From<&Totals> for v1::UsageTotals {
    fn from(totals: &Totals) -> Self {
        Self {
            counts: Some(totals.counts().into()),
            prompt_tokens: totals.prompt(),
            completion_tokens: totals.output,
            total_tokens: totals.total(),
            uncached_total_tokens: totals.input + totals.output,
            cost: Some(money::from_nano_usd(totals.cost_nano_usd)),
            cache_saving: Some(money::from_nano_usd(totals.cache_saving_nano_usd)),
            cache_write_extra: Some(money::from_nano_usd(totals.cache_write_extra_nano_usd)),
            requests: totals.requests,
            succeeded_requests: totals.succeeded,
            failed_requests: totals.failed,
            interrupted_requests: totals.interrupted,
            lines: totals.lines,
            unpriced_lines: totals.unpriced_lines,
            tool_requests: totals.tool_requests,
        }
    }
}
