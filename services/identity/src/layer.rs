//! One tower layer for every RPC: finds the caller, checks the role table, hands the caller on.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1::ErrorReason;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::caller::{Caller, Role};
use crate::table::{self, Access, Credentials};

/// Adds [`IdentityService`].
#[derive(Debug, Clone, Copy, Default)]
pub struct IdentityLayer;

impl<S> Layer<S> for IdentityLayer {
    type Service = IdentityService<S>;

    fn layer(&self, inner: S) -> IdentityService<S> {
        IdentityService { inner }
    }
}

/// Finds the caller of each request; refuses what the role table does not allow.
#[derive(Debug, Clone)]
pub struct IdentityService<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for IdentityService<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match admit(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(failure) => Either::Right(ready(Ok(Status::from(failure).into_http()))),
        }
    }
}

/// Puts the caller into the request, or says why not. Paths outside the table (health,
/// reflection) need no caller.
fn admit<B>(request: &mut Request<B>) -> Result<(), Failure> {
    let path = request.uri().path();
    let Some(access) = table::access(path) else {
        return Ok(());
    };
    if !access.implemented {
        let rpc = access.rpc;
        let text = format!("{rpc} is in the contract but not in this version yet");
        return Err(Failure::new(ErrorReason::NotYetImplemented, text).metadata("rpc", rpc));
    }
    if access.credentials == Credentials::NotNeeded {
        return Ok(());
    }
    let caller = Caller::anonymous(request.headers())?;
    check_roles(access, &caller)?;
    request.extensions_mut().insert(caller);
    Ok(())
}

fn check_roles(access: &Access, caller: &Caller) -> Result<(), Failure> {
    if access.roles.is_empty() || access.roles.iter().any(|role| caller.roles.has(*role)) {
        return Ok(());
    }
    let wanted: Vec<_> = access.roles.iter().copied().map(Role::as_str).collect();
    let wanted = wanted.join(", ");
    Err(Failure::new(
        ErrorReason::PermissionDenied,
        format!("{} needs one of the roles {wanted}", access.rpc),
    )
    .metadata("roles", wanted))
}
