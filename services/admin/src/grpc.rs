//! The contract `AdminService`: convert, call, convert back. What this version does not answer is
//! refused before it gets here (`tokenmeter_identity::TABLE`).

use std::time::Duration;

use tokenmeter_api::convert::{money, price, time};
use tokenmeter_api::page::{self, WrongToken};
use tokenmeter_api::v1;
use tokenmeter_api::v1::admin_service_server::AdminService;
use tokenmeter_identity::{Caller, Role};
use tokenmeter_model::bounds::Violation;
use tokenmeter_store::ledger::Range;
use tokenmeter_store::ledger::correction::RepriceQuery;
use tonic::{Request, Response, Status};

use crate::deadline;
use crate::error::Error;
use crate::jobs::JobAdmin;
use crate::limits::{self, LimitAdmin};
use crate::prices::{Import, PriceAdmin, PriceQuery};
use crate::reconcile::{Decision, Reconcile, ReconcileAdmin};
use crate::reprice::{Report, Reprice, RepriceAdmin};
use crate::retention::RetentionAdmin;
use crate::rollover::RolloverAdmin;
use crate::status::StatusAdmin;
use crate::wire;

/// Most models in the answer to a reprice run.
const MAX_MODELS: usize = 1_000;

/// Administration over gRPC.
pub struct Grpc {
    prices: PriceAdmin,
    reprice: RepriceAdmin,
    limits: LimitAdmin,
    status: StatusAdmin,
    upkeep: Upkeep,
    request_timeout: Duration,
}

/// What keeps the ledger in order.
pub struct Upkeep {
    /// Closes months.
    pub rollover: RolloverAdmin,
    /// Drops what is old.
    pub retention: RetentionAdmin,
    /// Compares totals with events.
    pub reconcile: ReconcileAdmin,
    /// Tells of the periodic jobs.
    pub jobs: JobAdmin,
}

impl Grpc {
    /// The service; the server answers no call after `request_timeout`.
    pub fn new(
        prices: PriceAdmin,
        reprice: RepriceAdmin,
        limits: LimitAdmin,
        status: StatusAdmin,
        upkeep: Upkeep,
        request_timeout: Duration,
    ) -> Self {
        Self {
            prices,
            reprice,
            limits,
            status,
            upkeep,
            request_timeout,
        }
    }
}

#[tonic::async_trait]
impl AdminService for Grpc {
    async fn set_prices(
        &self,
        request: Request<v1::SetPricesRequest>,
    ) -> Result<Response<v1::SetPricesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let prices = asked
            .prices
            .into_iter()
            .enumerate()
            .map(|(n, one)| price::price(&format!("prices[{n}]"), one))
            .collect::<Result<_, _>>()
            .map_err(|violation| Error::Price(vec![violation]))?;
        let changes = self
            .prices
            .set(&caller, &asked.request_id, prices, asked.dry_run)
            .await?;
        Ok(Response::new(v1::SetPricesResponse {
            prices: changes.added.iter().map(price::from_price).collect(),
            unchanged: count(changes.unchanged),
        }))
    }

    async fn list_prices(
        &self,
        request: Request<v1::ListPricesRequest>,
    ) -> Result<Response<v1::ListPricesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let at = match (&asked.effective_at, asked.all_versions) {
            (Some(_), true) => {
                let text = "has to be absent with all_versions, which lists all times";
                return Err(Error::from(Violation::new("effective_at", text)).into());
            }
            (Some(at), false) => Some(time::to_micros("effective_at", at).map_err(Error::from)?),
            (None, true) => None,
            (None, false) => Some((self.prices.clock)()),
        };
        // Without a time of its own, "now" moves from page to page and is no filter.
        let filters = format!(
            "{}\u{0}{}\u{0}{}\u{0}{:?}",
            asked.provider, asked.model, asked.all_versions, asked.effective_at
        );
        let query = PriceQuery {
            provider: asked.provider,
            model: asked.model,
            at_us: at,
        };
        let size = page::size(asked.page_size).map_err(Error::from)?;
        let filters = format!("prices\u{0}{}\u{0}{filters}", caller.tenant);
        let start = match page::read(&filters, &asked.page_token).map_err(Error::from)? {
            Some(end) => end.parse().map_err(|_| Error::from(WrongToken))?,
            None => 0_usize,
        };
        let prices = self.prices.list(&caller, &query).await?;
        let next = start.saturating_add(size);
        Ok(Response::new(v1::ListPricesResponse {
            prices: prices
                .iter()
                .skip(start)
                .take(size)
                .map(price::from_price)
                .collect(),
            next_page_token: if prices.len() > next {
                page::token(&filters, &next.to_string())
            } else {
                String::new()
            },
        }))
    }

    async fn import_prices(
        &self,
        request: Request<v1::ImportPricesRequest>,
    ) -> Result<Response<v1::ImportPricesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        if v1::PriceFileFormat::try_from(asked.format).is_err() {
            let text = "is no format; send one of PriceFileFormat";
            return Err(Error::from(Violation::new("format", text)).into());
        }
        let effective_from_us = asked
            .effective_from
            .as_ref()
            .map(|at| time::to_micros("effective_from", at))
            .transpose()
            .map_err(Error::from)?;
        let import = Import {
            request_id: &asked.request_id,
            content: &asked.content,
            effective_from_us,
            source: &asked.source,
            providers: &asked.providers,
            dry_run: asked.dry_run,
        };
        let imported = self.prices.import(&caller, &import).await?;
        Ok(Response::new(v1::ImportPricesResponse {
            entries: count(imported.entries),
            added: count(imported.added),
            changed: count(imported.changed),
            unchanged: count(imported.unchanged),
            skipped: count(imported.skipped),
            invalid: count(imported.invalid),
            problems: imported
                .problems
                .into_iter()
                .map(|problem| v1::ImportProblem {
                    entry: problem.entry,
                    description: problem.description,
                    imported: problem.imported,
                })
                .collect(),
            changes: imported.changes.iter().map(price::from_price).collect(),
            version: imported.version,
        }))
    }

    async fn list_unpriced_models(
        &self,
        request: Request<v1::ListUnpricedModelsRequest>,
    ) -> Result<Response<v1::ListUnpricedModelsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let size = page::size(asked.page_size).map_err(Error::from)?;
        let filters = format!("unpriced\u{0}{}", caller.tenant);
        let after = page::read(&filters, &asked.page_token)
            .map_err(Error::from)?
            .map(|end| end.split_once('/').ok_or(WrongToken))
            .transpose()
            .map_err(Error::from)?;
        let limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
        let (mut found, book) = self.prices.unpriced(&caller, after, limit).await?;
        let more = found.models.len() > size;
        found.models.truncate(size);
        let next_page_token = found
            .models
            .last()
            .filter(|_| more)
            .map(|last| page::token(&filters, &format!("{}/{}", last.provider, last.model)))
            .unwrap_or_default();
        let models = found
            .models
            .into_iter()
            .map(|one| v1::UnpricedModel {
                priceable: book.find(&one.provider, &one.model, one.last_us).is_some(),
                lines: one.lines,
                total_tokens: one.tokens,
                first_charge_time: Some(time::from_micros(one.first_us)),
                last_charge_time: Some(time::from_micros(one.last_us)),
                provider: one.provider,
                model: one.model,
            })
            .collect();
        Ok(Response::new(v1::ListUnpricedModelsResponse {
            models,
            next_page_token,
            total_lines: found.total_lines,
        }))
    }

    async fn reprice_usage(
        &self,
        request: Request<v1::RepriceUsageRequest>,
    ) -> Result<Response<v1::RepriceUsageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let budget = deadline::budget(request.metadata(), self.request_timeout);
        let asked = request.into_inner();
        if asked
            .expected_price_version
            .is_some_and(|version| version < 0)
        {
            let text = "is negative; send price_version of a dry run, or leave it away";
            return Err(Error::from(Violation::new("expected_price_version", text)).into());
        }
        let asked = Reprice {
            request_id: asked.request_id,
            query: RepriceQuery {
                provider: asked.provider,
                model: asked.model,
                range: asked.range.as_ref().map(range).transpose()?,
                include_priced: asked.include_priced,
            },
            dry_run: asked.dry_run,
            expected_price_version: asked.expected_price_version,
        };
        let report = self.reprice.reprice(&caller, &asked, budget).await?;
        Ok(Response::new(repriced(report)))
    }

    async fn rollover(
        &self,
        request: Request<v1::RolloverRequest>,
    ) -> Result<Response<v1::RolloverResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let v1::RolloverRequest {
            request_id,
            period_id,
            dry_run,
        } = request.into_inner();
        let rollover = &self.upkeep.rollover;
        let done = rollover
            .rollover(&caller, &request_id, &period_id, dry_run)
            .await?;
        Ok(Response::new(wire::rolled_over(done)))
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        Caller::of(request.extensions())?;
        let jobs = self.upkeep.jobs.list().await?;
        Ok(Response::new(v1::ListJobsResponse {
            jobs: jobs.into_iter().map(wire::job).collect(),
        }))
    }

    async fn purge(
        &self,
        request: Request<v1::PurgeRequest>,
    ) -> Result<Response<v1::PurgeResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let budget = deadline::budget(request.metadata(), self.request_timeout);
        let asked = wire::purge(request.into_inner())?;
        let report = self.upkeep.retention.purge(&caller, &asked, budget).await?;
        Ok(Response::new(wire::purged(&report)))
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let budget = deadline::budget(request.metadata(), self.request_timeout);
        let asked = request.into_inner();
        let asked = Reconcile {
            request_id: asked.request_id,
            user_id: asked.user_id,
            fix: asked.fix,
        };
        let report = self
            .upkeep
            .reconcile
            .reconcile(&caller, &asked, budget)
            .await?;
        Ok(Response::new(wire::reconciled(report)))
    }

    async fn list_drifts(
        &self,
        request: Request<v1::ListDriftsRequest>,
    ) -> Result<Response<v1::ListDriftsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let state = wire::drift_state(asked.state)?;
        let (size, token) = (asked.page_size, &asked.page_token);
        let (drifts, next_page_token) = self
            .upkeep
            .reconcile
            .drifts(&caller, state, asked.reconcile_id, size, token)
            .await?;
        Ok(Response::new(v1::ListDriftsResponse {
            drifts: drifts.iter().map(wire::drift).collect(),
            next_page_token,
        }))
    }

    async fn resolve_drift(
        &self,
        request: Request<v1::ResolveDriftRequest>,
    ) -> Result<Response<v1::ResolveDriftResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let asked = request.into_inner();
        let decision = Decision {
            request_id: asked.request_id,
            drift_id: asked.drift_id,
            correct: asked.correct,
            reason: asked.reason,
        };
        let drift = self.upkeep.reconcile.resolve(&caller, decision).await?;
        Ok(Response::new(v1::ResolveDriftResponse {
            drift: Some(wire::drift(&drift)),
        }))
    }

    async fn create_profile(
        &self,
        request: Request<v1::CreateProfileRequest>,
    ) -> Result<Response<v1::CreateProfileResponse>, Status> {
        limits::grpc::create_profile(&self.limits, request).await
    }

    async fn get_profile(
        &self,
        request: Request<v1::GetProfileRequest>,
    ) -> Result<Response<v1::GetProfileResponse>, Status> {
        limits::grpc::get_profile(&self.limits, request).await
    }

    async fn list_profiles(
        &self,
        request: Request<v1::ListProfilesRequest>,
    ) -> Result<Response<v1::ListProfilesResponse>, Status> {
        limits::grpc::list_profiles(&self.limits, request).await
    }

    async fn update_profile(
        &self,
        request: Request<v1::UpdateProfileRequest>,
    ) -> Result<Response<v1::UpdateProfileResponse>, Status> {
        limits::grpc::update_profile(&self.limits, request).await
    }

    async fn delete_profile(
        &self,
        request: Request<v1::DeleteProfileRequest>,
    ) -> Result<Response<v1::DeleteProfileResponse>, Status> {
        limits::grpc::delete_profile(&self.limits, request).await
    }

    async fn assign_profile(
        &self,
        request: Request<v1::AssignProfileRequest>,
    ) -> Result<Response<v1::AssignProfileResponse>, Status> {
        limits::grpc::assign_profile(&self.limits, request).await
    }

    async fn unassign_profile(
        &self,
        request: Request<v1::UnassignProfileRequest>,
    ) -> Result<Response<v1::UnassignProfileResponse>, Status> {
        limits::grpc::unassign_profile(&self.limits, request).await
    }

    async fn list_assignments(
        &self,
        request: Request<v1::ListAssignmentsRequest>,
    ) -> Result<Response<v1::ListAssignmentsResponse>, Status> {
        limits::grpc::list_assignments(&self.limits, request).await
    }

    async fn set_limits(
        &self,
        request: Request<v1::SetLimitsRequest>,
    ) -> Result<Response<v1::SetLimitsResponse>, Status> {
        limits::grpc::set_limits(&self.limits, request).await
    }

    async fn get_effective_limits(
        &self,
        request: Request<v1::GetEffectiveLimitsRequest>,
    ) -> Result<Response<v1::GetEffectiveLimitsResponse>, Status> {
        limits::grpc::get_effective_limits(&self.limits, request).await
    }

    async fn get_tenant(
        &self,
        request: Request<v1::GetTenantRequest>,
    ) -> Result<Response<v1::GetTenantResponse>, Status> {
        limits::grpc::get_tenant(&self.limits, request).await
    }

    async fn update_tenant(
        &self,
        request: Request<v1::UpdateTenantRequest>,
    ) -> Result<Response<v1::UpdateTenantResponse>, Status> {
        limits::grpc::update_tenant(&self.limits, request).await
    }

    async fn get_status(
        &self,
        request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let admin = caller.roles.has(Role::Admin);
        let status = self.status.status().await;
        let now = time::from_micros((self.prices.clock)());
        let faulty = status.dependencies.iter().any(|one| one.fault.is_some());
        let state = match (status.draining, faulty) {
            (true, _) => v1::ServingState::Draining,
            (false, true) => v1::ServingState::Down,
            (false, false) => v1::ServingState::Ok,
        };
        let dependencies = status
            .dependencies
            .into_iter()
            .map(|one| v1::DependencyStatus {
                name: one.name.to_owned(),
                backend: one.backend.to_owned(),
                state: match one.fault {
                    None => v1::ServingState::Ok.into(),
                    Some(_) => v1::ServingState::Down.into(),
                },
                latency: one.latency.map(duration),
                checked_time: Some(now),
                detail: one.fault.filter(|_| admin).unwrap_or_default(),
            })
            .collect();
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("TOKENMETER_REVISION")
                .unwrap_or_default()
                .to_owned(),
            state: state.into(),
            dependencies,
            uptime: Some(duration(status.uptime)),
            server_time: Some(now),
            roles: self.status.roles.clone(),
            node_id: if admin {
                self.status.node_id.clone()
            } else {
                String::new()
            },
            schema_version: self.status.schema_version,
        }))
    }

    async fn get_caller(
        &self,
        request: Request<v1::GetCallerRequest>,
    ) -> Result<Response<v1::GetCallerResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let roles = Role::ALL
            .into_iter()
            .filter(|role| caller.roles.has(*role))
            .map(|role| match role {
                Role::Meter => v1::Role::Meter.into(),
                Role::ReadOwn => v1::Role::ReadOwn.into(),
                Role::ReadTenant => v1::Role::ReadTenant.into(),
                Role::Admin => v1::Role::Admin.into(),
            })
            .collect();
        Ok(Response::new(v1::GetCallerResponse {
            tenant_id: caller.tenant.to_string(),
            user_id: caller.user,
            roles,
            method: v1::AuthMethod::Anonymous.into(),
            ..Default::default()
        }))
    }
}

/// A range of times; an open end is open.
fn range(range: &v1::TimeRange) -> Result<Range, Error> {
    let read = |field: &str, at: &Option<_>, open: i64| match at {
        Some(at) => time::to_micros(field, at),
        None => Ok(open),
    };
    Ok(Range {
        from_us: read("range.start_time", &range.start_time, i64::MIN)?,
        to_us: read("range.end_time", &range.end_time, i64::MAX)?,
    })
}

fn repriced(report: Report) -> v1::RepriceUsageResponse {
    let mut models: Vec<_> = report.models.into_iter().collect();
    models.sort_by_key(|(_, model)| std::cmp::Reverse(model.change()));
    models.truncate(MAX_MODELS);
    let models = models.into_iter().map(|(name, model)| {
        let (provider, name) = name.split_once('/').unwrap_or(("", &name));
        v1::RepricedModel {
            provider: provider.to_owned(),
            model: name.to_owned(),
            lines: model.lines,
            cost_before: Some(money::from_nano_usd(model.cost_before)),
            cost_after: Some(money::from_nano_usd(model.cost_after)),
        }
    });
    v1::RepriceUsageResponse {
        reprice_id: report.reprice_id,
        lines_examined: report.examined,
        lines_priced: report.priced,
        lines_changed: report.changed,
        lines_unpriced: report.unpriced,
        cost_before: Some(money::from_nano_usd(report.cost_before)),
        cost_after: Some(money::from_nano_usd(report.cost_after)),
        models: models.collect(),
        price_version: report.price_version,
        complete: report.complete,
    }
}

fn count(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}
