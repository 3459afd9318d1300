//! People: who may use the registrar, how they show who they are, and what they may do.
//!
//! The cores are [`roster`], who there is, and [`throttle`], who failed too often. Here they meet the clock, the store and the
//! threads that check passwords. A change is stored first and applied then; one is made at a time, as there are few.

mod admit;
pub mod first;
mod metrics;
pub mod offline;
pub mod password;
pub mod record;
pub mod roster;
pub mod secret;
#[cfg(test)]
mod tests;
pub mod throttle;

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};

use self::{
    first::PasswordFile,
    password::{Cost, HashError, Passwords},
    record::{Role, TokenRecord, UserName, UserRecord},
    roster::{Caller, Change, Problem, Roster},
    secret::{NoRandom, Token},
    throttle::{Alarm, Throttle},
};
pub use admit::Ops;
pub use metrics::PeopleMetrics;

use crate::{
    control::now,
    store::{
        Transaction,
        committer::{CommitError, Commits},
        item::Item,
        record::{AuditRecord, DecodeError},
    },
};

/// The figures.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How much there may be.
    pub limits: roster::Limits,
    /// When logins are held.
    pub throttle: throttle::Limits,
    /// Passwords checked at one time.
    pub at_once: usize,
    /// What a password's hash costs.
    pub cost: Cost,
    /// How long a login lasts.
    pub session_life: Duration,
    /// The longest a token may last.
    pub max_token_life: Duration,
}

/// Why someone is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The name, the password or the token is wrong, or they are not to be let in. Nobody is told which.
    #[error("not authorized")]
    Denied,
    /// Too many failures.
    #[error("too many failed logins, try again in {} s", .0.as_secs().max(1))]
    TooOften(Duration),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    /// It may not be.
    #[error("{0}")]
    Problem(#[from] Problem),
    /// A field is not what it may be.
    #[error("{0}")]
    Invalid(String),
    /// Someone else changed the same.
    #[error("{0}; try again")]
    Conflict(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
}

impl From<HashError> for PeopleError {
    fn from(error: HashError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<NoRandom> for PeopleError {
    fn from(error: NoRandom) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Whose.
    pub owner: UserName,
    /// What it may do.
    pub role: Role,
    /// How long it lasts.
    pub life: Duration,
    /// What it is for.
    pub note: String,
}

/// See the module; clones are cheap.
#[derive(Clone)]
pub struct People {
    parts: Arc<Parts>,
}

struct Parts {
    settings: Settings,
    roster: RwLock<Roster>,
    throttle: Mutex<Throttle>,
    passwords: Passwords,
    /// Held while a change is planned and stored.
    changing: tokio::sync::Mutex<()>,
    commits: Commits,
    password_file: Option<PasswordFile>,
    metrics: PeopleMetrics,
}

/// Why the people that are stored cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A record is damaged.
    #[error(transparent)]
    Record(#[from] DecodeError),
    /// Passwords cannot be checked.
    #[error(transparent)]
    Passwords(#[from] HashError),
}

impl People {
    /// Those that are stored.
    ///
    /// # Errors
    /// A record is damaged, or passwords cannot be checked at this cost.
    pub fn load(
        settings: Settings,
        items: &[Item],
        commits: Commits,
        password_file: Option<PasswordFile>,
        metrics: PeopleMetrics,
    ) -> Result<Self, LoadError> {
        let parts = Parts {
            roster: RwLock::new(Roster::load(items)?),
            throttle: Mutex::new(Throttle::new(settings.throttle)),
            passwords: Passwords::new(settings.cost, settings.at_once)?,
            settings,
            changing: tokio::sync::Mutex::default(),
            commits,
            password_file,
            metrics,
        };
        let people = Self {
            parts: Arc::new(parts),
        };
        people.count();
        Ok(people)
    }

    /// The figures.
    pub fn settings(&self) -> &Settings {
        &self.parts.settings
    }

    /// What is counted.
    pub fn metrics(&self) -> &PeopleMetrics {
        &self.parts.metrics
    }

    /// Looks at everyone.
    pub fn read<T>(&self, look: impl FnOnce(&Roster) -> T) -> T {
        look(&self.parts.roster.read())
    }

    /// Who a token speaks for.
    ///
    /// # Errors
    /// It does not, or no longer.
    pub fn bearer(&self, token: &str) -> Result<Caller, LoginError> {
        let caller = token
            .parse::<Token>()
            .ok()
            .and_then(|token| self.read(|roster| roster.bearer(&token, now())));
        caller.ok_or_else(|| {
            self.parts.metrics.login("bad_token");
            LoginError::Denied
        })
    }

    /// Who comes with this name and password. An API token may stand for the password; the name does not matter then.
    ///
    /// # Errors
    /// They are wrong, come too often, or cannot be checked now.
    pub async fn login(&self, address: IpAddr, name: &str, password: &[u8]) -> Result<Caller, LoginError> {
        if let Some(token) = std::str::from_utf8(password)
            .ok()
            .filter(|text| text.starts_with(secret::PREFIX))
        {
            return self.bearer(token);
        }
        let name = name.parse::<UserName>().ok();
        // All names that nobody can have share one entry.
        let key = name.as_ref().map_or("", UserName::as_str).to_owned();
        let key = key.as_str();
        self.attempt(key, address)?;
        let user = name.filter(|name| self.read(|roster| roster.user(name).is_ok()));
        let hash = user.as_ref().and_then(|name| self.hash_of(name));
        let verified = self.parts.passwords.verify(password.to_vec(), hash.clone()).await;
        let metrics = &self.parts.metrics;
        let right = verified.map_err(|error| {
            self.parts.throttle.lock().unseen(key, address);
            metrics.login(if error == HashError::Busy {
                "busy"
            } else {
                "failed"
            });
            LoginError::Unavailable(error.to_string())
        })?;
        // The person may have changed while the password was looked at.
        let user = user.filter(|name| right && self.hash_of(name) == hash);
        let caller = user.and_then(|user| {
            self.read(|roster| {
                let record = roster.user(&user).ok().filter(|record| !record.disabled)?;
                Some(Caller {
                    role: record.role,
                    must_change: record.must_change,
                    token: None,
                    user: user.clone(),
                })
            })
        });
        let Some(caller) = caller else {
            metrics.login("denied");
            tracing::warn!(user = key, %address, "login refused");
            return Err(LoginError::Denied);
        };
        self.parts.throttle.lock().succeeded(key, address);
        metrics.login("ok");
        if let Some(file) = self.parts.password_file.as_ref().filter(|_| caller.must_change) {
            file.used(&caller.user);
        }
        Ok(caller)
    }

    fn hash_of(&self, name: &UserName) -> Option<String> {
        self.read(|roster| roster.user(name).ok().map(|record| record.hash.clone()))
    }

    fn attempt(&self, key: &str, address: IpAddr) -> Result<(), LoginError> {
        let (held, alarm) = {
            let mut throttle = self.parts.throttle.lock();
            let held = throttle.attempt(now(), key, address);
            let alarm = throttle.alarm(now());
            self.parts.metrics.remembered(throttle.remembered());
            (held, alarm)
        };
        if let Some(Alarm { refused }) = alarm {
            tracing::warn!(user = key, %address, refused, "logins are held: too many failed");
            let line = audit(
                address.to_string(),
                "login_held",
                key,
                Some(format!("{refused} attempts refused, too many failed")),
            );
            let commits = self.parts.commits.clone();
            // At most one in ten seconds, and nobody waits for it.
            tokio::spawn(async move {
                let transaction = Transaction {
                    audit: Some(line),
                    ..Transaction::default()
                };
                if let Err(error) = commits.commit(transaction).await {
                    tracing::warn!(%error, "held logins are not in the audit log");
                }
            });
        }
        held.map_err(|held| {
            self.parts.metrics.login("held");
            LoginError::TooOften(held.wait)
        })
    }

    /// Lets someone in for a while.
    ///
    /// # Errors
    /// As [`issue`](Self::issue).
    pub async fn open_session(&self, caller: &Caller) -> Result<(Token, TokenRecord), PeopleError> {
        let new = NewToken {
            owner: caller.user.clone(),
            role: caller.role,
            life: self.parts.settings.session_life,
            note: String::new(),
        };
        self.make_token(new, true, caller.actor()).await
    }

    /// Makes an API token.
    ///
    /// # Errors
    /// Its owner is not there, may less, or has too many; it would last too long; the store fails.
    pub async fn issue(&self, new: NewToken, actor: String) -> Result<(Token, TokenRecord), PeopleError> {
        let most = self.parts.settings.max_token_life;
        if new.life.is_zero() || new.life > most {
            let most = humantime::format_duration(most);
            return Err(PeopleError::Invalid(format!(
                "life: at least 1 s and at most {most}"
            )));
        }
        crate::store::record::check_text("note", &new.note).map_err(PeopleError::Invalid)?;
        self.make_token(new, false, actor).await
    }

    async fn make_token(
        &self,
        new: NewToken,
        session: bool,
        actor: String,
    ) -> Result<(Token, TokenRecord), PeopleError> {
        let token = Token::random()?;
        let created = now();
        let expires = created.checked_add(new.life);
        let record = TokenRecord {
            digest: token.digest(),
            owner: new.owner,
            role: new.role,
            created,
            expires: expires.map_err(|error| PeopleError::Invalid(format!("life: {error}")))?,
            session,
            note: new.note,
        };
        let action = if session { "login" } else { "token_create" };
        let detail =
            (!session).then(|| format!("{} as {} until {:.0}", token.id, record.role, record.expires));
        let (limits, id, put) = (self.parts.settings.limits, token.id.clone(), record.clone());
        let line = audit(actor, action, record.owner.as_str(), detail);
        self.change(line, move |roster| roster.issue(id, put, limits))
            .await?;
        Ok((token, record))
    }

    /// Takes a token back.
    ///
    /// # Errors
    /// There is none, or the store fails.
    pub async fn revoke(&self, id: &str, actor: String) -> Result<(), PeopleError> {
        let record = self.read(|roster| roster.token(id).cloned())?;
        let action = if record.session { "logout" } else { "token_revoke" };
        let line = audit(actor, action, record.owner.as_str(), Some(id.to_owned()));
        let id = id.to_owned();
        self.change(line, move |roster| roster.revoke(&id)).await
    }

    /// Adds a person.
    ///
    /// # Errors
    /// The name is taken, the password is none, there are too many, or the store fails.
    pub async fn add(
        &self,
        name: UserName,
        password: &str,
        role: Role,
        must_change: bool,
        actor: String,
    ) -> Result<(), PeopleError> {
        password::check(password).map_err(PeopleError::Invalid)?;
        let record = UserRecord {
            hash: self.parts.passwords.hash(password).await?,
            role,
            disabled: false,
            must_change,
            created: now(),
        };
        let line = audit(actor, "user_add", name.as_str(), Some(format!("role {role}")));
        let limits = self.parts.settings.limits;
        self.change(line, move |roster| roster.add(name, record, limits))
            .await
    }

    /// Gives a person another role, disables or enables them.
    ///
    /// # Errors
    /// There is no such person, they are the last enabled admin, or the store fails.
    pub async fn alter(
        &self,
        name: UserName,
        role: Option<Role>,
        disabled: Option<bool>,
        actor: String,
    ) -> Result<(), PeopleError> {
        let action = match disabled {
            Some(true) => "user_disable",
            Some(false) => "user_enable",
            None => "user_role",
        };
        let line = audit(
            actor,
            action,
            name.as_str(),
            role.map(|role| format!("role {role}")),
        );
        self.change(line, move |roster| roster.alter(&name, role, disabled))
            .await
    }

    /// Removes a person and their tokens.
    ///
    /// # Errors
    /// As [`alter`](Self::alter).
    pub async fn remove(&self, name: UserName, actor: String) -> Result<(), PeopleError> {
        let line = audit(actor, "user_remove", name.as_str(), None);
        self.change(line, move |roster| roster.remove(&name)).await
    }

    /// Gives a person another password; `keep` is the session that stays.
    ///
    /// # Errors
    /// There is no such person, the password is none, or the store fails.
    pub async fn set_password(
        &self,
        name: UserName,
        password: &str,
        must_change: bool,
        keep: Option<String>,
        actor: String,
    ) -> Result<(), PeopleError> {
        password::check(password).map_err(PeopleError::Invalid)?;
        self.read(|roster| roster.user(&name).map(drop))?;
        let hash = self.parts.passwords.hash(password).await?;
        let line = audit(actor, "user_passwd", name.as_str(), None);
        let user = name.clone();
        self.change(line, move |roster| {
            roster.set_password(&user, hash, must_change, keep.as_deref())
        })
        .await?;
        if let Some(file) = &self.parts.password_file {
            file.used(&name);
        }
        Ok(())
    }

    /// Plans, stores and applies. Goes on to its end even when the caller no longer waits: what is stored must be applied.
    async fn change<F>(&self, line: AuditRecord, plan: F) -> Result<(), PeopleError>
    where
        F: FnOnce(&Roster) -> Result<Vec<Change>, Problem> + Send + 'static,
    {
        let people = self.clone();
        let change = tokio::spawn(async move {
            let _changing = people.parts.changing.lock().await;
            let (changes, items) = people.read(|roster| {
                let changes = plan(roster)?;
                let items = roster.stored(&changes);
                Ok::<_, Problem>((changes, items))
            })?;
            if changes.is_empty() {
                return Ok(());
            }
            let transaction = Transaction {
                items,
                audit: Some(line),
                ..Transaction::default()
            };
            people
                .parts
                .commits
                .commit(transaction)
                .await
                .map_err(|error| match error {
                    CommitError::Conflict(conflict) => PeopleError::Conflict(conflict.to_string()),
                    error => PeopleError::Unavailable(error.to_string()),
                })?;
            people.parts.roster.write().apply(changes);
            people.count();
            Ok(())
        });
        change
            .await
            .unwrap_or_else(|error| Err(PeopleError::Unavailable(format!("the change broke off: {error}"))))
    }

    fn count(&self) {
        let (users, tokens) = self.read(|roster| (roster.users().count(), roster.tokens().count()));
        self.parts.metrics.count(users, tokens);
    }

    /// Whether someone who was let in still may be, and as who.
    pub fn current(&self, caller: &Caller, at: Timestamp) -> Option<Caller> {
        self.read(|roster| roster.current(caller, at))
    }
}

fn audit(actor: String, action: &str, subject: &str, detail: Option<String>) -> AuditRecord {
    AuditRecord {
        at: now(),
        actor,
        action: action.into(),
        device: None,
        subject: (!subject.is_empty()).then(|| subject.to_owned()),
        detail,
        before: None,
        after: None,
        labels: None,
        note: None,
    }
}
