//! The keys that tickets are signed with: which one signs when, and which ones gateways are to believe.
//!
//! A pure core: [`Signers::plan`] takes an [`Input`] and the time, and returns the [`Change`]s to write; once they are
//! durable, [`Signers::apply`] takes them over. Random bytes come in as seeds.
//!
//! A key is *pending* first: it is published, so that gateways know it before the first ticket that it signs. Then it is
//! the one that *signs*. Once another one does, it is *retired*: published for as long as a ticket of it may live.

pub mod keeper;
pub mod record;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use protocol::ticket::{KeySet, SigningKey};

pub use record::SignerRecord;

/// Keys there are at most; one more is not made until one is over.
pub const MAX_KEYS: usize = 16;

/// What a key is made from.
pub type Seed = [u8; 32];

/// The figures of the core.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// For how long a new key is only published before it signs.
    pub overlap: Duration,
    /// How long tickets live.
    pub ttl: Duration,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<'a> {
    /// The registrar starts; the seed is for the first key, should there be none.
    Started(Seed),
    /// A new key is wanted.
    Rotate {
        /// What to make it from.
        seed: Seed,
        /// Whether it signs at once, although gateways may not know it yet. A key that is pending is not waited for, either.
        at_once: bool,
    },
    /// A key is not to be believed any more; the seed is for the one in its place, should it have signed.
    Revoke {
        /// The key.
        kid: &'a str,
        /// What to make another one from.
        seed: Seed,
    },
    /// Time passed.
    Tick,
}

/// Why a change of the keys is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no such key.
    #[error("key {0} is not known")]
    Unknown(String),
    /// A new key is about to sign.
    #[error("key {kid} is new already, and signs from {signs}; --now has it sign at once")]
    Pending {
        /// The key.
        kid: String,
        /// When it begins.
        signs: Timestamp,
    },
    /// [`MAX_KEYS`] are there.
    #[error(
        "there are {MAX_KEYS} keys, which is as many as may be, until the tickets of the oldest one are over"
    )]
    TooMany,
}

/// One key to write, or to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub kid: String,
    /// What is stored of it.
    pub before: Option<SignerRecord>,
    /// What is to be stored.
    pub after: Option<SignerRecord>,
}

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is published, and will sign.
    Pending,
    /// It signs.
    Signing,
    /// It is published until its last ticket is over.
    Retired,
}

/// One key.
#[derive(Clone, Debug)]
pub struct Signer {
    /// What is stored of it.
    pub record: SignerRecord,
    /// The key.
    pub key: Arc<SigningKey>,
}

/// The core; see the module.
#[derive(Clone, Debug)]
pub struct Signers {
    settings: Settings,
    /// In the order in which they sign.
    keys: Vec<Signer>,
}

impl Signers {
    /// Takes up what is stored.
    pub fn restore(settings: Settings, records: impl IntoIterator<Item = SignerRecord>) -> Self {
        let mut keys: Vec<_> = records.into_iter().map(Signer::new).collect();
        keys.sort_by(order);
        Self { settings, keys }
    }

    /// What is to be written. Nothing of it is so before [`apply`](Self::apply).
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn plan(&self, input: &Input<'_>, now: Timestamp) -> Result<Vec<Change>, Refused> {
        match input {
            Input::Started(seed) => Ok(self.start(seed, now)),
            Input::Rotate { seed, at_once } => self.rotate(seed, *at_once, now).map(|change| vec![change]),
            Input::Revoke { kid, seed } => self.revoke(kid, seed, now),
            Input::Tick => Ok(self.over(now)),
        }
    }

    /// Takes over what is durable now.
    pub fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.keys.retain(|signer| signer.key.public().kid() != change.kid);
            self.keys.extend(change.after.map(Signer::new));
        }
        self.keys.sort_by(order);
    }

    /// The key that signs.
    pub fn signing(&self, now: Timestamp) -> Option<&Arc<SigningKey>> {
        self.signs(now).map(|at| &self.keys[at].key)
    }

    /// All keys, what they are for, and until when they are published, in the order in which they sign.
    pub fn iter(&self, now: Timestamp) -> impl Iterator<Item = (&Signer, Stage, Option<Timestamp>)> {
        let signs = self.signs(now);
        self.keys.iter().enumerate().map(move |(at, signer)| {
            let stage = match signs {
                Some(signs) if at < signs => Stage::Retired,
                Some(signs) if at == signs => Stage::Signing,
                _ => Stage::Pending,
            };
            let ends = self.ends(at).filter(|_| stage == Stage::Retired);
            (signer, stage, ends)
        })
    }

    /// The keys to check tickets with.
    pub fn published(&self) -> KeySet {
        KeySet::new(self.keys.iter().map(|signer| signer.key.public().clone()))
    }

    /// The first key is there before it is needed; and keys that signed longer tickets than now are kept as long as those.
    fn start(&self, seed: &Seed, now: Timestamp) -> Vec<Change> {
        if self.keys.is_empty() {
            return vec![self.made(seed, now, now)];
        }
        let ttl_s = self.settings.ttl.as_secs();
        let longer = self.keys.iter().skip(self.signs(now).unwrap_or(0));
        longer
            .filter(|signer| signer.record.ttl_s < ttl_s)
            .map(|signer| signer.becomes(|record| record.ttl_s = ttl_s))
            .collect()
    }

    fn rotate(&self, seed: &Seed, at_once: bool, now: Timestamp) -> Result<Change, Refused> {
        if let Some(pending) = self.pending(now) {
            return match at_once {
                true => Ok(pending.becomes(|record| record.signs = now)),
                false => Err(Refused::Pending {
                    kid: pending.key.public().kid().to_owned(),
                    signs: pending.record.signs,
                }),
            };
        }
        if self.keys.len() >= MAX_KEYS {
            return Err(Refused::TooMany);
        }
        let wait = if at_once {
            Duration::ZERO
        } else {
            self.settings.overlap
        };
        Ok(self.made(seed, now, later(now, wait)))
    }

    fn revoke(&self, kid: &str, seed: &Seed, now: Timestamp) -> Result<Vec<Change>, Refused> {
        let known = self
            .keys
            .iter()
            .position(|signer| signer.key.public().kid() == kid);
        let at = known.ok_or_else(|| Refused::Unknown(kid.to_owned()))?;
        let mut changes = vec![self.keys[at].ends()];
        if self.signs(now) == Some(at) {
            changes.push(match self.pending(now) {
                Some(pending) => pending.becomes(|record| record.signs = now),
                None => self.made(seed, now, now),
            });
        }
        Ok(changes)
    }

    /// Keys of which no ticket is left.
    fn over(&self, now: Timestamp) -> Vec<Change> {
        let over = |at: &usize| self.ends(*at).is_some_and(|ends| ends <= now);
        let retired = 0..self.signs(now).unwrap_or(0);
        retired.filter(over).map(|at| self.keys[at].ends()).collect()
    }

    /// The place of the key that signs: the last one that has begun. A clock that was put back does not leave us without.
    fn signs(&self, now: Timestamp) -> Option<usize> {
        let begun = self.keys.iter().rposition(|signer| signer.record.signs <= now);
        begun.or_else(|| (!self.keys.is_empty()).then_some(0))
    }

    fn pending(&self, now: Timestamp) -> Option<&Signer> {
        self.keys.get(self.signs(now)? + 1)
    }

    /// When the last ticket of a key is over: one signed just before the next key began.
    fn ends(&self, at: usize) -> Option<Timestamp> {
        let next = self.keys.get(at + 1)?;
        let ttl = Duration::from_secs(self.keys[at].record.ttl_s);
        Some(later(next.record.signs, ttl))
    }

    fn made(&self, seed: &Seed, now: Timestamp, signs: Timestamp) -> Change {
        let record = SignerRecord::new(seed, now, signs, self.settings.ttl);
        Change {
            kid: record.key().public().kid().to_owned(),
            before: None,
            after: Some(record),
        }
    }
}

impl Signer {
    fn new(record: SignerRecord) -> Self {
        let key = Arc::new(record.key());
        Self { record, key }
    }

    fn becomes(&self, change: impl FnOnce(&mut SignerRecord)) -> Change {
        let mut after = self.record.clone();
        change(&mut after);
        Change {
            after: Some(after),
            ..self.ends()
        }
    }

    fn ends(&self) -> Change {
        Change {
            kid: self.key.public().kid().to_owned(),
            before: Some(self.record.clone()),
            after: None,
        }
    }
}

fn order(a: &Signer, b: &Signer) -> std::cmp::Ordering {
    let place = |signer: &Signer| (signer.record.signs, signer.record.made);
    place(a)
        .cmp(&place(b))
        .then_with(|| a.key.public().kid().cmp(b.key.public().kid()))
}

/// A time so much later, or the last there is.
fn later(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}
