//! How a device proves to the registrar who it is.

use std::{fmt, str::FromStr};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use protocol::DeviceId;
use serde::{Deserialize, Serialize};

/// Who a device's JWT is for.
const AUDIENCE: &str = "registrar";
/// How long a JWT holds.
const LIFE: SignedDuration = SignedDuration::from_mins(5);

/// Why a text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64.
    #[error("a key is written in base64, with its padding")]
    Encoding,
    /// Too short to be a secret, or longer than any is.
    #[error("a key has {least} to {most} bytes, this one has {0}", least = Key::MIN_LEN, most = Key::MAX_LEN)]
    Length(usize),
}

/// A key that the device, or its group, shares with the registrar; read from base64 and never shown.
///
/// ```
/// use homeport_device_agent::Key;
/// let group: Key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".parse()?;
/// let device: Key = "49wuYnHJT68eSXvwaLwuxJ7M0B66uFDgW1m+bZBWiQs=".parse()?;
/// assert!(group.derive(&"meter-0001".parse().unwrap()) == device);
/// # Ok::<(), homeport_device_agent::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The shortest key, in bytes.
    pub const MIN_LEN: usize = 16;
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The key of one device, derived from this one of its group: HMAC-SHA256(group key, device id). A real device is given
    /// its own key when it is made, and never its group's.
    pub fn derive(&self, device: &DeviceId) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        Self(hmac::sign(&key, device.as_str().as_bytes()).as_ref().into())
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| KeyError::Encoding)?;
        match bytes.len() {
            Self::MIN_LEN..=Self::MAX_LEN => Ok(Self(bytes.into())),
            len => Err(KeyError::Length(len)),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How a key is shown to the registrar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// By a JWT (HS256) that is signed with it and holds for five minutes. The key stays here; the device's clock has to be right.
    #[default]
    Jwt,
    /// As it is: for devices that do not know the time.
    Key,
}

/// What a device says to the registrar to be believed that it is who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// The MQTT user name; without it, the device's id.
    pub user: Option<String>,
    /// The device's key.
    pub key: Key,
    /// How it is shown.
    pub method: Method,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

impl Auth {
    /// The default method.
    pub fn new(key: Key) -> Self {
        Self {
            user: None,
            key,
            method: Method::default(),
        }
    }

    /// The MQTT password at the registrar.
    pub(crate) fn password(&self, device: &DeviceId, now: Timestamp) -> String {
        match self.method {
            Method::Key => BASE64_STANDARD.encode(&self.key.0),
            Method::Jwt => {
                let iat = now.as_second();
                let claims = Claims {
                    sub: device.as_str(),
                    aud: AUDIENCE,
                    iat,
                    exp: iat.saturating_add(LIFE.as_secs()),
                };
                let header = Header::new(Algorithm::HS256);
                jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&self.key.0))
                    .expect("claims are JSON and any bytes are a key of HMAC")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};
    use serde_json::Value;

    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn password(method: Method) -> String {
        let auth = Auth {
            method,
            ..Auth::new(KEY.parse().unwrap())
        };
        auth.password(&"d".parse().unwrap(), Timestamp::constant(1_800_000_000, 0))
    }

    #[test]
    fn a_jwt_says_who_for_whom_and_how_long_and_hides_the_key() {
        let token = password(Method::Jwt);
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_audience(&["registrar"]);
        validation.validate_exp = false;
        let read =
            |key: &Key| jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_secret(&key.0), &validation);
        let claims = read(&KEY.parse().unwrap()).unwrap().claims;
        let expected = serde_json::json!({
            "sub": "d", "aud": "registrar", "iat": 1_800_000_000, "exp": 1_800_000_300
        });
        assert_eq!(claims, expected);
        assert!(read(&Key([7; 32].into())).is_err());
        assert!(!token.contains(KEY));
    }

    #[test]
    fn a_key_is_sent_as_it_is_written_when_asked_to() {
        assert_eq!(password(Method::Key), KEY);
    }

    #[test]
    fn keys_that_are_none_are_refused_and_no_key_is_shown() {
        assert_eq!("AAEC".parse::<Key>(), Err(KeyError::Length(3)));
        assert_eq!("AAEC*".parse::<Key>(), Err(KeyError::Encoding));
        let auth = Auth::new(KEY.parse().unwrap());
        assert!(!format!("{auth:?}").contains("AAEC"));
    }
}
