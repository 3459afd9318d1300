//! People on the bootstrap broker: they watch, and touch nothing.

use std::sync::Arc;

use broker::{Action, Admission, Client, Grant, Permissions, Refusal};

use super::{LoginError, People, roster::Caller};
use crate::{bootstrap, control::now};

/// The one text of every failed login.
const DENIED: &str = "not authorized";

/// What a person's client may do: subscribe to everything, publish nothing. Asked of them as they are now, not as they
/// were when they were let in.
pub struct Ops {
    people: People,
    caller: Caller,
}

impl Permissions for Ops {
    fn allow(&self, _: &Client, action: Action<'_>) -> bool {
        matches!(action, Action::Subscribe(_)) && self.people.current(&self.caller, now()).is_some()
    }
}

impl bootstrap::People for People {
    /// Whether a client that comes with a user name and a password is a person's. The password may be an API token.
    fn admit(&self, client: &Client) -> Admission {
        let Some(password) = client.password.clone() else {
            return refused();
        };
        let (people, peer) = (self.clone(), client.peer.ip());
        let name = client.username.clone().unwrap_or_default();
        Admission::Wait(Box::pin(async move {
            match people.login(peer, &name, &password).await {
                Ok(caller) if !caller.must_change => {
                    let namespace = Some(format!("user/{}", caller.user));
                    tracing::info!(actor = caller.actor(), %peer, "a person watches");
                    let permissions = Arc::new(Ops { people, caller });
                    Admission::Accept(Grant {
                        permissions,
                        namespace,
                    })
                }
                Ok(_) | Err(LoginError::Denied) => refused(),
                Err(LoginError::TooOften(_)) => {
                    Admission::Refuse(Refusal::TooOften("too many failed logins".into()))
                }
                Err(LoginError::Unavailable(reason)) => Admission::Refuse(Refusal::Unavailable(reason)),
            }
        }))
    }
}

fn refused() -> Admission {
    Admission::Refuse(Refusal::NotAuthorized(DENIED.into()))
}
