//! Which RPCs may be sent twice, and why. A test holds the list to the contracts.

/// What makes it safe to send a request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing.
    Read,
    /// Its items carry ids of their own; the server knows those that it has.
    ItemId,
    /// It carries a `request_id`, and the server remembers what it did for that.
    RequestId,
    /// It is a stream: not repeated by a call, but continued by what is made for it,
    /// [`UsageRecorder`](crate::UsageRecorder) and [`TokenEvents`](crate::TokenEvents).
    Never,
}

use Repeat::{ItemId, Never, Read, RequestId};

/// Every RPC of every contract, as `Service/Method`.
pub const RPCS: &[(&str, Repeat)] = &[
    ("MeteringService/Authorize", RequestId),
    ("MeteringService/ExtendReservation", RequestId),
    ("MeteringService/ReleaseReservation", RequestId),
    ("MeteringService/RecordUsage", ItemId),
    ("MeteringService/BatchRecordUsage", ItemId),
    ("MeteringService/StreamUsage", Never),
    ("MeteringService/MeterCall", Never),
    ("MeteringService/VoidUsage", RequestId),
    ("MeteringService/RecordToolInvocations", ItemId),
    ("MeteringService/RecordMessages", ItemId),
    ("MeteringService/RecordChampionCases", ItemId),
    ("MeteringService/PublishTokenEvents", Never),
    ("MeteringService/GetTokenBudget", Read),
    ("MeteringService/SetTokenBudget", RequestId),
    ("MeteringService/ResetTokenBudget", RequestId),
    ("AnalyticsService/GetUserUsage", Read),
    ("AnalyticsService/GetSessionUsage", Read),
    ("AnalyticsService/ListUsageEvents", Read),
    ("AnalyticsService/GetServiceUsage", Read),
    ("AnalyticsService/ListMonthlyUsage", Read),
    ("AnalyticsService/ListTopSessions", Read),
    ("AnalyticsService/GetCacheEfficiency", Read),
    ("AnalyticsService/GetConsumptionSummary", Read),
    ("AnalyticsService/GetCurrentUsage", Read),
    ("AnalyticsService/ListUsageHistory", Read),
    ("AnalyticsService/ListUserConsumption", Read),
    ("AnalyticsService/ListTurns", Read),
    ("AnalyticsService/ListMessages", Read),
    ("AnalyticsService/ListSessionSummaries", Read),
    ("AnalyticsService/ListToolUsage", Read),
    ("AnalyticsService/ListPeriods", Read),
    ("AnalyticsService/ListLimitHits", Read),
    ("AnalyticsService/ListLifecycleEvents", Read),
    ("AnalyticsService/QueryUsage", Read),
    ("AnalyticsService/StreamTokenEvents", Never),
    ("AnalyticsService/WatchUsage", Never),
    ("AnalyticsService/ExportUsage", Never),
    ("AdminService/SetPrices", RequestId),
    ("AdminService/ListPrices", Read),
    ("AdminService/ImportPrices", RequestId),
    ("AdminService/ListUnpricedModels", Read),
    ("AdminService/GetStatus", Read),
    ("AdminService/GetCaller", Read),
    ("AdminService/RepriceUsage", RequestId),
    ("AdminService/CreateProfile", RequestId),
    ("AdminService/GetProfile", Read),
    ("AdminService/ListProfiles", Read),
    ("AdminService/UpdateProfile", RequestId),
    ("AdminService/DeleteProfile", RequestId),
    ("AdminService/AssignProfile", RequestId),
    ("AdminService/UnassignProfile", RequestId),
    ("AdminService/ListAssignments", Read),
    ("AdminService/SetLimits", RequestId),
    ("AdminService/GetEffectiveLimits", Read),
    ("AdminService/CreateApiKey", RequestId),
    ("AdminService/ListApiKeys", Read),
    ("AdminService/RotateApiKey", RequestId),
    ("AdminService/RevokeApiKey", RequestId),
    ("AdminService/ListUsers", Read),
    ("AdminService/GetTenant", Read),
    ("AdminService/UpdateTenant", RequestId),
    ("AdminService/ListTenants", Read),
    ("AdminService/Reconcile", RequestId),
    ("AdminService/ListDrifts", Read),
    ("AdminService/ResolveDrift", RequestId),
    ("AdminService/Rollover", RequestId),
    ("AdminService/Purge", RequestId),
    ("AdminService/ListJobs", Read),
    ("AdminService/ListAuditEntries", Read),
];

/// What makes a call to this path, `/tokenmeter.v1.Service/Method`, safe to repeat. A path that is
/// not listed is never repeated.
pub(crate) fn repeat(path: &str) -> Repeat {
    path.strip_prefix("/tokenmeter.v1.")
        .and_then(|rpc| RPCS.iter().find(|(name, _)| *name == rpc))
        .map_or(Never, |(_, repeat)| *repeat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use prost_types::{FileDescriptorSet, MethodDescriptorProto};

    fn contracts() -> FileDescriptorSet {
        FileDescriptorSet::decode(tokenmeter_api::FILE_DESCRIPTOR_SET).unwrap()
    }

    fn asks_with_a_request_id(set: &FileDescriptorSet, method: &MethodDescriptorProto) -> bool {
        let name = method.input_type().rsplit('.').next().unwrap();
        let mut messages = set.file.iter().flat_map(|file| &file.message_type);
        let request = messages.find(|message| message.name() == name).unwrap();
        request
            .field
            .iter()
            .any(|field| field.name() == "request_id")
    }

    #[test]
    fn every_rpc_is_listed_and_as_its_contract_says() {
        let set = contracts();
        let mut seen = 0;
        for service in set.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                let rpc = format!("{}/{}", service.name(), method.name());
                let listed = RPCS.iter().filter(|(name, _)| *name == rpc);
                let listed: Vec<_> = listed.map(|(_, repeat)| *repeat).collect();
                let streams = method.client_streaming() || method.server_streaming();
                let reads = ["Get", "List", "Query"];
                let expected = if streams {
                    Never
                } else if asks_with_a_request_id(&set, method) {
                    RequestId
                } else if reads.iter().any(|verb| method.name().starts_with(verb)) {
                    Read
                } else {
                    ItemId
                };
                assert_eq!(listed, [expected], "{rpc}");
                seen += 1;
            }
        }
        assert_eq!(seen, RPCS.len(), "a listed RPC is in no contract");
    }

    #[test]
    fn what_is_not_listed_is_never_repeated() {
        assert_eq!(repeat("/tokenmeter.v1.MeteringService/RecordUsage"), ItemId);
        assert_eq!(repeat("/grpc.health.v1.Health/Check"), Never);
        assert_eq!(repeat("/tokenmeter.v1.MeteringService/Unheard"), Never);
    }
}
