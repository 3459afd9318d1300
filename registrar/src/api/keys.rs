//! The keys that tickets are signed with.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyStage {
    /// It is published, and will sign.
    Pending,
    /// It signs.
    Signing,
    /// It is published until its last ticket is over.
    Retired,
}

/// One key that tickets are signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignerKey {
    /// Its name: its thumbprint (RFC 7638).
    pub kid: String,
    /// What it is used for.
    pub stage: KeyStage,
    /// When it was made.
    pub made: Timestamp,
    /// From when on it signs.
    pub signs: Timestamp,
    /// Until when a retired one is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// `GET /v1/signing-keys`, `POST /v1/signing-keys/rotate`, `DELETE /v1/signing-keys/{kid}`: all keys, in the order in which they sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// All of them.
    pub keys: Vec<SignerKey>,
}

/// `POST /v1/signing-keys/rotate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// The new key signs at once, although gateways may not know it yet.
    #[serde(default)]
    pub now: bool,
}
