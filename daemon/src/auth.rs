//! What a listener that others reach must have.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Whether clients have to say who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Unless every listener is on loopback.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Auth {
    /// What it comes to for a program that listens there.
    pub fn required(self, listeners: impl IntoIterator<Item = SocketAddr>) -> bool {
        match self {
            Self::Auto => !listeners.into_iter().all(|address| address.ip().is_loopback()),
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// A listener, as a configuration has it.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// Its key.
    pub key: &'static str,
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub encrypted: bool,
    /// Whether clients have to say who they are, as far as what it serves needs that.
    pub authenticated: bool,
}

impl Listener {
    /// Why others must not reach it, if that is so.
    pub fn danger(&self) -> Option<String> {
        let missing = match (self.encrypted, self.authenticated) {
            (true, true) => return None,
            (false, true) => "not encrypted",
            (true, false) => "not authenticated",
            (false, false) => "neither encrypted nor authenticated",
        };
        let address = self.address;
        (!address.ip().is_loopback()).then(|| format!("{address} is not on loopback, and it is {missing}"))
    }

    /// The same, with its key.
    pub fn warning(&self) -> Option<String> {
        self.danger().map(|danger| format!("{}: {danger}", self.key))
    }
}

/// Says at a start what is unsafe about the listeners that others can reach.
pub fn warn(listeners: &[Listener]) {
    for danger in listeners.iter().filter_map(Listener::warning) {
        tracing::warn!(danger, "insecure = true accepts a listener that is not safe");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_that_others_reach_needs_both() {
        let danger = |address: &str, encrypted, authenticated| {
            let address = address.parse().unwrap();
            let key = "mqtt.listen";
            Listener {
                key,
                address,
                encrypted,
                authenticated,
            }
            .warning()
        };
        for (encrypted, authenticated, missing) in [
            (true, true, None),
            (false, true, Some("not encrypted")),
            (true, false, Some("not authenticated")),
            (false, false, Some("neither encrypted nor authenticated")),
        ] {
            assert_eq!(danger("127.0.0.1:1", encrypted, authenticated), None);
            assert_eq!(danger("[::1]:1", encrypted, authenticated), None);
            let told = missing
                .map(|missing| format!("mqtt.listen: 0.0.0.0:1 is not on loopback, and it is {missing}"));
            assert_eq!(danger("0.0.0.0:1", encrypted, authenticated), told);
        }
    }

    #[test]
    fn auto_is_off_only_when_all_listeners_are_on_loopback() {
        let (home, world) = ("127.0.0.1:1".parse().unwrap(), "10.0.0.1:1".parse().unwrap());
        assert!(!Auth::Auto.required([home, home]));
        assert!(Auth::Auto.required([home, world]));
        assert!(Auth::On.required([home]) && !Auth::Off.required([world]));
    }
}
