//! Which limits apply to whom, as a node uses them: read once, kept in memory, stale for well under a
//! second.
//!
//! The ledger raises one version with every change of limits ([`Limits::limits_version`]).
//! [`Rules::follow`] asks for it; what was read under another version is read again when it is next
//! needed. While the ledger cannot be read, what is kept stands.
//!
//! [`Limits::limits_version`]: crate::ledger::limits::Limits::limits_version

mod effective;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokenmeter_model::id::TenantId;
use tokenmeter_model::limit::{Scope, Zoned};
use tokenmeter_model::zone::Zone;
use tokio::sync::Mutex;

use crate::counters::Owner;
use crate::ledger::limits::{StoredTenant, SubjectLimits};
use crate::ledger::{Error, Ledger};

pub use effective::{
    BUDGET_LIMIT, Effective, KeptProfile, MAX_HOLD_US, SESSION_BUDGET_TOKENS,
    SUMMARIZE_BELOW_PERCENT, SessionBudget, SessionFacts, TenantRules,
};

/// How often the ledger is asked whether anything changed.
const POLL: Duration = Duration::from_millis(300);
/// Entries of each kind that are kept; at the bound all of the kind are dropped and read again when
/// needed.
const MAX_KEPT: usize = 32_768;
/// Reads of what applies to callers that go on at once.
const READS: usize = 32;
/// The profile of users for whom nobody decided anything.
pub const DEFAULT_PROFILE: &str = "free";

/// The limits of all tenants.
pub struct Rules {
    ledger: Arc<dyn Ledger>,
    /// The zone of tenants that chose none.
    zone: Zone,
    kept: RwLock<Kept>,
    /// One reader of an owner at a time; the others find what it read.
    reading: [Mutex<()>; READS],
    hasher: RandomState,
}

#[derive(Default)]
struct Kept {
    /// The ledger's version when it was last asked; none before.
    version: Option<i64>,
    tenants: Shelf<TenantId, Arc<TenantRules>>,
    profiles: Shelf<(TenantId, String), Option<Arc<KeptProfile>>>,
    sessions: Shelf<(TenantId, String), Arc<SessionFacts>>,
    owners: Shelf<(TenantId, Owner), Arc<Effective>>,
}

/// What was read, each under the version of then.
struct Shelf<K, V>(HashMap<K, (i64, V)>);

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq, V: Clone> Shelf<K, V> {
    fn put(&mut self, key: K, version: i64, value: V) {
        if self.0.len() >= MAX_KEPT && !self.0.contains_key(&key) {
            self.0.clear();
        }
        self.0.insert(key, (version, value));
    }

    /// What is kept, and whether it is of this version.
    fn get(&self, key: &K, version: Option<i64>) -> Option<(V, bool)> {
        let (read, value) = self.0.get(key)?;
        Some((value.clone(), Some(*read) == version))
    }
}

impl Rules {
    /// Rules over a ledger; nothing is read yet. `zone` is that of tenants that chose none.
    pub fn new(ledger: Arc<dyn Ledger>, zone: Zone) -> Self {
        Self {
            ledger,
            zone,
            kept: RwLock::default(),
            reading: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Follows the ledger until it is dropped. Without it nothing that is kept grows old.
    pub async fn follow(&self) {
        let mut silent = false;
        loop {
            tokio::time::sleep(POLL).await;
            let answer = self.refresh().await;
            if let (Err(error), false) = (&answer, silent) {
                tracing::warn!(%error, "limits may have changed; those that are known go on");
            }
            silent = answer.is_err();
        }
    }

    /// Asks the ledger whether anything changed: whoever asks for rules after it gets those of now.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn refresh(&self) -> Result<(), Error> {
        let version = self.ledger.limits_version().await?;
        self.with(|kept| kept.version = Some(version));
        Ok(())
    }

    /// What applies to a call or event of an owner.
    ///
    /// # Errors
    /// Those of the ledger, when it has to be asked and nothing is kept.
    pub async fn of(&self, tenant: &TenantId, owner: &Owner) -> Result<Arc<Effective>, Error> {
        let key = (tenant.clone(), owner.clone());
        let find = |kept: &Kept| kept.owners.get(&key, kept.version);
        if let Some((found, true)) = self.look(find) {
            return Ok(found);
        }
        let place = self.hasher.hash_one(&key) % READS as u64;
        // Less than `READS`, which fits.
        let place = usize::try_from(place).unwrap_or_default();
        let _alone = self.reading[place].lock().await;
        let kept = self.look(find);
        if let Some((found, true)) = kept {
            return Ok(found);
        }
        match self.read(tenant, owner).await {
            Ok(effective) => Ok(effective),
            // Admission goes on from what is known.
            Err(error) => kept.map(|(found, _)| found).ok_or(error),
        }
    }

    /// What applies to an owner, if that is kept: for the user without the session if the session is
    /// not known. Never asks the ledger.
    pub fn known(&self, tenant: &TenantId, owner: &Owner) -> Option<Arc<Effective>> {
        let mut key = (tenant.clone(), owner.clone());
        self.look(|kept| {
            let version = kept.version;
            let found = kept.owners.get(&key, version);
            let found = found.or_else(|| {
                key.1.session_id.clear();
                kept.owners.get(&key, version)
            });
            found.map(|(found, _)| found)
        })
    }

    /// The facts of a session, if they are kept.
    pub fn session(&self, tenant: &TenantId, session_id: &str) -> Option<Arc<SessionFacts>> {
        let key = (tenant.clone(), session_id.to_owned());
        self.look(|kept| kept.sessions.get(&key, kept.version))
            .map(|(found, _)| found)
    }

    /// What a tenant's administrator decided, and its calendar.
    ///
    /// # Errors
    /// Those of the ledger, when it has to be asked and nothing is kept.
    pub async fn tenant(&self, tenant: &TenantId) -> Result<Arc<TenantRules>, Error> {
        let kept = self.look(|kept| kept.tenants.get(tenant, kept.version));
        if let Some((found, true)) = kept {
            return Ok(found);
        }
        let read = async {
            let version = self.version().await?;
            let stored = self.ledger.tenant_settings(tenant).await?;
            let read = Arc::new(self.tenant_rules(stored));
            self.with(|kept| kept.tenants.put(tenant.clone(), version, Arc::clone(&read)));
            Ok(read)
        };
        match read.await {
            Ok(read) => Ok(read),
            Err(error) => kept.map(|(found, _)| found).ok_or(error),
        }
    }

    /// The calendar of a tenant if it is kept, else that of the server.
    pub fn calendar(&self, tenant: &TenantId) -> Arc<Zoned> {
        let kept = self.look(|kept| kept.tenants.get(tenant, kept.version));
        match kept {
            Some((found, _)) => Arc::clone(&found.zoned),
            None => Arc::new(Zoned::always(self.zone.clone())),
        }
    }

    /// Reads everything that applies to an owner, and to its user without the session.
    async fn read(&self, tenant: &TenantId, owner: &Owner) -> Result<Arc<Effective>, Error> {
        // Before anything is read: what changes meanwhile has another version.
        let version = self.version().await?;
        let settings = self.tenant(tenant).await?;
        let subjects: Vec<(Scope, &str)> = Scope::ALL
            .iter()
            .filter_map(|scope| Some((*scope, owner.subject(*scope)?)))
            .collect();
        let own = self.ledger.subject_limits(tenant, &subjects).await?;
        let own: Vec<(Scope, SubjectLimits)> =
            subjects.iter().map(|(scope, _)| *scope).zip(own).collect();
        let profile = self
            .profile(tenant, version, effective::profile_id(&settings, &own))
            .await?;
        let facts = match owner.session_id.is_empty() {
            true => None,
            false => Some(
                self.read_session(tenant, version, &owner.session_id)
                    .await?,
            ),
        };
        let keep = |owner: Owner, facts: Option<Arc<SessionFacts>>| {
            let parts = effective::Parts {
                tenant: Arc::clone(&settings),
                profile: profile.clone(),
                own: &own,
                facts,
            };
            let effective = Arc::new(Effective::new(parts, &owner));
            let key = (tenant.clone(), owner);
            self.with(|kept| kept.owners.put(key, version, Arc::clone(&effective)));
            effective
        };
        if facts.is_some() {
            let without = Owner {
                session_id: String::new(),
                ..owner.clone()
            };
            keep(without, None);
        }
        Ok(keep(owner.clone(), facts))
    }

    async fn profile(
        &self,
        tenant: &TenantId,
        version: i64,
        profile_id: &str,
    ) -> Result<Option<Arc<KeptProfile>>, Error> {
        let key = (tenant.clone(), profile_id.to_owned());
        if let Some((found, true)) = self.look(|kept| kept.profiles.get(&key, kept.version)) {
            return Ok(found);
        }
        let stored = self.ledger.profile(tenant, profile_id).await?;
        let profile = stored.map(|stored| Arc::new(KeptProfile::new(stored.profile)));
        self.with(|kept| kept.profiles.put(key, version, profile.clone()));
        Ok(profile)
    }

    async fn read_session(
        &self,
        tenant: &TenantId,
        version: i64,
        session_id: &str,
    ) -> Result<Arc<SessionFacts>, Error> {
        let budget = self.ledger.budget(tenant, session_id).await?;
        let facts = Arc::new(SessionFacts::new(budget));
        let key = (tenant.clone(), session_id.to_owned());
        self.with(|kept| kept.sessions.put(key, version, Arc::clone(&facts)));
        Ok(facts)
    }

    fn tenant_rules(&self, stored: StoredTenant) -> TenantRules {
        TenantRules::new(stored.settings, &self.zone)
    }

    /// The version that is known, or the ledger's where none is yet.
    async fn version(&self) -> Result<i64, Error> {
        if let Some(version) = self.look(|kept| kept.version) {
            return Ok(version);
        }
        self.refresh().await?;
        Ok(self.look(|kept| kept.version).unwrap_or_default())
    }

    fn look<T>(&self, look: impl FnOnce(&Kept) -> T) -> T {
        // A poisoned lock holds whole values all the same: every change is one assignment.
        let kept = self.kept.read();
        look(&kept.unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        let kept = self.kept.write();
        change(&mut kept.unwrap_or_else(|poisoned| poisoned.into_inner()))
    }
}
