//! The caller: tenant, user and roles.

use http::HeaderMap;
use tokenmeter_api::status::Failure;
use tokenmeter_api::v1::ErrorReason;
use tokenmeter_model::bounds::MAX_TEXT_BYTES;
use tokenmeter_model::id::TenantId;

/// What a caller may do (R52).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Record usage, hold budget, for any user of the tenant.
    Meter,
    /// Read the caller's own usage.
    ReadOwn,
    /// Read everything of the tenant.
    ReadTenant,
    /// Change prices, limits, keys and tenants.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Meter, Self::ReadOwn, Self::ReadTenant, Self::Admin];

    /// The name in credentials and contracts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::ReadOwn => "read_own",
            Self::ReadTenant => "read_tenant",
            Self::Admin => "admin",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of roles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Every role.
    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    /// Whether the role is in the set.
    pub fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Reads a comma list of names, such as `meter, read_own`.
    pub fn parse(list: &str) -> Option<Self> {
        list.split(',')
            .map(|name| {
                Role::ALL
                    .into_iter()
                    .find(|role| role.as_str() == name.trim())
            })
            .collect()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |set, role| set | role.bit()))
    }
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Whose data the call concerns; the only source of a tenant.
    pub tenant: TenantId,
    /// The caller's own user id.
    pub user: String,
    /// The team in its credentials; empty when there is none.
    pub team_id: String,
    /// The API key that it called with; empty for other credentials.
    pub api_key_id: String,
    /// What the caller may do.
    pub roles: Roles,
}

/// A user that the caller may not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied;

/// Metadata that names the tenant in anonymous mode.
const TENANT: &str = "tokenmeter-tenant";
/// Metadata that names the user in anonymous mode.
const USER: &str = "tokenmeter-user";
/// Metadata that names the caller's team in anonymous mode.
const TEAM: &str = "tokenmeter-team";
/// Metadata that names the caller's API key, by its id, in anonymous mode.
const API_KEY: &str = "tokenmeter-api-key-id";
/// Metadata that narrows the roles in anonymous mode.
const ROLES: &str = "tokenmeter-roles";

impl Caller {
    /// The caller of anonymous loopback mode (R53): tenant, user, team, API key and roles as the metadata
    /// says, by default `default`, `anonymous`, none, none and all roles.
    ///
    /// # Errors
    /// `FIELD_INVALID` naming the metadata entry, its bound and the mend.
    pub fn anonymous(metadata: &HeaderMap) -> Result<Self, Failure> {
        let tenant = match text(metadata, TENANT)? {
            Some(tenant) => TenantId::new(tenant)
                .map_err(|error| invalid(TENANT, format!("{error}; leave it out for 'default'")))?,
            None => TenantId::new("default").map_err(|error| invalid(TENANT, error.to_string()))?,
        };
        let user = text(metadata, USER)?.unwrap_or("anonymous");
        if user.is_empty() || user.len() > MAX_TEXT_BYTES {
            let bound = format!(
                "must be 1 to {MAX_TEXT_BYTES} bytes; shorten it or leave it out for 'anonymous'"
            );
            return Err(invalid(USER, bound));
        }
        let roles = match text(metadata, ROLES)? {
            Some(list) => Roles::parse(list).ok_or_else(|| {
                invalid(
                    ROLES,
                    "must be a comma list of meter, read_own, read_tenant, admin",
                )
            })?,
            None => Roles::all(),
        };
        let optional = |name| -> Result<String, Failure> {
            let value = text(metadata, name)?.unwrap_or_default();
            match value.len() > MAX_TEXT_BYTES {
                true => {
                    let bound = format!("must be at most {MAX_TEXT_BYTES} bytes; shorten it");
                    Err(invalid(name, bound))
                }
                false => Ok(value.to_owned()),
            }
        };
        Ok(Self {
            tenant,
            user: user.to_owned(),
            team_id: optional(TEAM)?,
            api_key_id: optional(API_KEY)?,
            roles,
        })
    }

    /// The caller that the layer put into a request.
    ///
    /// # Errors
    /// INTERNAL when the layer is missing, which is a fault of the wiring.
    pub fn of(extensions: &tonic::Extensions) -> Result<Self, Failure> {
        extensions
            .get()
            .cloned()
            .ok_or_else(|| Failure::new(ErrorReason::Internal, "the caller is not known"))
    }

    /// Whether the caller reads only its own usage.
    pub fn reads_only_itself(&self) -> bool {
        !self.roles.has(Role::ReadTenant) && !self.roles.has(Role::Admin)
    }

    /// The user that a read concerns: `wanted`, or the caller when that is empty.
    ///
    /// # Errors
    /// [`Denied`] when the caller reads only itself and wants another.
    pub fn readable_user<'a>(&'a self, wanted: &'a str) -> Result<&'a str, Denied> {
        if wanted.is_empty() || wanted == self.user {
            return Ok(&self.user);
        }
        if self.reads_only_itself() {
            Err(Denied)
        } else {
            Ok(wanted)
        }
    }
}

fn text<'a>(metadata: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Failure> {
    metadata
        .get(name)
        .map(|value| {
            value
                .to_str()
                .map_err(|_| invalid(name, "must be printable ASCII"))
        })
        .transpose()
}

fn invalid(name: &str, description: impl Into<String>) -> Failure {
    Failure::new(
        ErrorReason::FieldInvalid,
        format!("metadata {name} is invalid"),
    )
    .violation(format!("metadata.{name}"), description)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(entries: &[(&'static str, &str)]) -> HeaderMap {
        entries
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn nothing_said_is_the_default_caller() {
        let caller = Caller::anonymous(&HeaderMap::new()).unwrap();
        assert_eq!(
            (caller.tenant.as_str(), caller.user.as_str()),
            ("default", "anonymous")
        );
        assert_eq!(caller.roles, Roles::all());
    }

    #[test]
    fn metadata_names_tenant_user_and_roles() {
        let entries = [(TENANT, "acme"), (USER, "ann"), (ROLES, "meter, read_own")];
        let caller = Caller::anonymous(&metadata(&entries)).unwrap();
        assert_eq!(
            (caller.tenant.as_str(), caller.user.as_str()),
            ("acme", "ann")
        );
        assert!(caller.roles.has(Role::Meter) && !caller.roles.has(Role::Admin));
        assert_eq!(caller.readable_user(""), Ok("ann"));
        assert_eq!(caller.readable_user("bob"), Err(Denied));
    }

    #[test]
    fn bad_metadata_names_its_entry() {
        let long = "x".repeat(256);
        for (name, value) in [(TENANT, "Acme"), (USER, &long), (USER, ""), (ROLES, "root")] {
            let failure = Caller::anonymous(&metadata(&[(name, value)])).unwrap_err();
            assert_eq!(failure.reason, ErrorReason::FieldInvalid);
            assert_eq!(failure.violations[0].0, format!("metadata.{name}"));
        }
    }
}
