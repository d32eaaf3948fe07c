//! What each RPC needs. The contracts say the same in each RPC's last comment line; a test holds
//! the two together.

use crate::caller::Role;
use Credentials::{Optional, Required};
use Role::{Admin, Meter, ReadOwn, ReadTenant};

/// Whether an RPC wants to know who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// Without valid credentials the call is refused.
    Required,
    /// Credentials are used where they are sent.
    Optional,
    /// Credentials are not looked at.
    NotNeeded,
}

/// What one RPC needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// `Service/Method`, without the package.
    pub rpc: &'static str,
    /// Whether it wants to know who calls.
    pub credentials: Credentials,
    /// One of these roles; empty means any.
    pub roles: &'static [Role],
    /// Whether this version answers it; others answer UNIMPLEMENTED with `NOT_YET_IMPLEMENTED`.
    pub implemented: bool,
}

const METER: &[Role] = &[Meter];
const METER_ADMIN: &[Role] = &[Meter, Admin];
const METER_TENANT: &[Role] = &[Meter, ReadTenant, Admin];
const EVERY: &[Role] = &[Meter, ReadOwn, ReadTenant, Admin];
const READ: &[Role] = &[ReadOwn, ReadTenant, Admin];
const TENANT: &[Role] = &[ReadTenant, Admin];
const ADMIN: &[Role] = &[Admin];
const ANY: &[Role] = &[];

const fn now(rpc: &'static str, credentials: Credentials, roles: &'static [Role]) -> Access {
    Access {
        rpc,
        credentials,
        roles,
        implemented: true,
    }
}

const fn later(rpc: &'static str, credentials: Credentials, roles: &'static [Role]) -> Access {
    Access {
        rpc,
        credentials,
        roles,
        implemented: false,
    }
}

/// Every RPC of every contract.
pub const TABLE: &[Access] = &[
    now("MeteringService/Authorize", Required, METER),
    now("MeteringService/ExtendReservation", Required, METER),
    now("MeteringService/ReleaseReservation", Required, METER),
    now("MeteringService/RecordUsage", Required, METER),
    now("MeteringService/BatchRecordUsage", Required, METER),
    now("MeteringService/StreamUsage", Required, METER),
    later("MeteringService/MeterCall", Required, METER),
    now("MeteringService/VoidUsage", Required, METER_ADMIN),
    now("MeteringService/RecordToolInvocations", Required, METER),
    now("MeteringService/RecordMessages", Required, METER),
    now("MeteringService/RecordChampionCases", Required, METER),
    later("MeteringService/PublishTokenEvents", Required, METER),
    now("MeteringService/GetTokenBudget", Required, EVERY),
    now("MeteringService/SetTokenBudget", Required, METER_ADMIN),
    now("MeteringService/ResetTokenBudget", Required, METER_ADMIN),
    now("AnalyticsService/GetUserUsage", Required, READ),
    now("AnalyticsService/GetSessionUsage", Required, READ),
    now("AnalyticsService/ListUsageEvents", Required, READ),
    now("AnalyticsService/GetServiceUsage", Required, TENANT),
    now("AnalyticsService/ListMonthlyUsage", Required, READ),
    now("AnalyticsService/ListTopSessions", Required, READ),
    now("AnalyticsService/GetCacheEfficiency", Required, READ),
    later("AnalyticsService/GetConsumptionSummary", Required, READ),
    now("AnalyticsService/GetCurrentUsage", Required, READ),
    now("AnalyticsService/ListUsageHistory", Required, READ),
    later("AnalyticsService/ListUserConsumption", Required, TENANT),
    later("AnalyticsService/ListTurns", Required, READ),
    now("AnalyticsService/ListMessages", Required, READ),
    now("AnalyticsService/ListSessionSummaries", Required, READ),
    now("AnalyticsService/ListToolUsage", Required, READ),
    now("AnalyticsService/ListPeriods", Required, READ),
    now("AnalyticsService/ListLimitHits", Required, READ),
    later("AnalyticsService/ListLifecycleEvents", Required, READ),
    later("AnalyticsService/QueryUsage", Required, READ),
    now("AnalyticsService/StreamTokenEvents", Required, READ),
    later("AnalyticsService/WatchUsage", Required, READ),
    now("AnalyticsService/ExportUsage", Required, TENANT),
    now("AdminService/SetPrices", Required, ADMIN),
    now("AdminService/ListPrices", Required, TENANT),
    now("AdminService/ImportPrices", Required, ADMIN),
    now("AdminService/ListUnpricedModels", Required, TENANT),
    now("AdminService/GetStatus", Optional, ANY),
    now("AdminService/GetCaller", Optional, ANY),
    now("AdminService/RepriceUsage", Required, ADMIN),
    now("AdminService/CreateProfile", Required, ADMIN),
    now("AdminService/GetProfile", Required, METER_TENANT),
    now("AdminService/ListProfiles", Required, METER_TENANT),
    now("AdminService/UpdateProfile", Required, ADMIN),
    now("AdminService/DeleteProfile", Required, ADMIN),
    now("AdminService/AssignProfile", Required, ADMIN),
    now("AdminService/UnassignProfile", Required, ADMIN),
    now("AdminService/ListAssignments", Required, TENANT),
    now("AdminService/SetLimits", Required, ADMIN),
    now("AdminService/GetEffectiveLimits", Required, EVERY),
    later("AdminService/CreateApiKey", Required, ADMIN),
    later("AdminService/ListApiKeys", Required, ADMIN),
    later("AdminService/RotateApiKey", Required, ADMIN),
    later("AdminService/RevokeApiKey", Required, ADMIN),
    later("AdminService/ListUsers", Required, TENANT),
    now("AdminService/GetTenant", Required, TENANT),
    now("AdminService/UpdateTenant", Required, ADMIN),
    later("AdminService/ListTenants", Required, ADMIN),
    now("AdminService/Reconcile", Required, ADMIN),
    now("AdminService/ListDrifts", Required, TENANT),
    now("AdminService/ResolveDrift", Required, ADMIN),
    now("AdminService/Rollover", Required, ADMIN),
    now("AdminService/Purge", Required, ADMIN),
    now("AdminService/ListJobs", Required, TENANT),
    later("AdminService/ListAuditEntries", Required, ADMIN),
];

/// The entry of a request path `/tokenmeter.v1.Service/Method`; none for other services.
pub fn access(path: &str) -> Option<&'static Access> {
    let rpc = path.strip_prefix("/tokenmeter.v1.")?;
    TABLE.iter().find(|access| access.rpc == rpc)
}
