//! The JWT a device signs with its key, so that the key never crosses the wire.

use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

use super::{Cause, Key};

/// Who such a token is for.
const AUDIENCE: &str = "registrar";

/// The longest time between `iat` and `exp`.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: i64,
    exp: i64,
}

/// How tokens are checked.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    validation: Validation,
    leeway: i64,
}

impl Tokens {
    /// `leeway` is how far a device's clock may be off.
    pub fn new(leeway: Duration) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["aud", "exp", "sub"]);
        // That would read the clock; done below.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let leeway = i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX);
        Self { validation, leeway }
    }

    /// Whether the token was signed with this key, for this device, and holds now. The algorithm is HS256, whatever its
    /// header says.
    pub fn check(&self, token: &[u8], key: &Key, device: &str, now: Timestamp) -> Result<(), Cause> {
        let key = DecodingKey::from_secret(key.bytes());
        let claims = decode::<Claims>(token, &key, &self.validation)
            .map_err(|_| Cause::WrongToken)?
            .claims;
        let now = now.as_second();
        let longest = i64::try_from(LONGEST_LIFE.as_secs()).unwrap_or(i64::MAX);
        let life = claims.exp.checked_sub(claims.iat);
        if claims.sub != device || !life.is_some_and(|life| (0..=longest).contains(&life)) {
            return Err(Cause::WrongToken);
        }
        let early = claims.iat.saturating_sub(self.leeway) > now;
        let late = claims.exp.saturating_add(self.leeway) <= now;
        if early || late {
            return Err(Cause::Expired);
        }
        Ok(())
    }
}

/// Whether a password is a JWT rather than a key: base64 has no dots.
pub(super) fn is_token(password: &[u8]) -> bool {
    password.iter().filter(|byte| **byte == b'.').count() == 2
}
