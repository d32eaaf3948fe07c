//! Who is calling, and whether they may.
//!
//! The rule of this crate: every handler finds a [`Caller`] in its request, put there by one
//! layer; no handler reads credentials or metadata itself, and no request carries a tenant.

mod caller;
mod layer;
mod table;

pub use caller::{Caller, Denied, Role, Roles};
pub use layer::{IdentityLayer, IdentityService};
pub use table::{Access, Credentials, TABLE, access};
