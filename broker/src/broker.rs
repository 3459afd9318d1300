use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;

use crate::{Config, Hook, Kick, Message};

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be listened on: in use, not ours, not allowed.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The configuration names no address.
    #[error("no address to listen on")]
    NoAddress,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shutdown {
    /// Connections that left in order, their queued output written.
    pub drained: usize,
    /// Connections cut at the deadline.
    pub cut: usize,
}

/// A running broker.
pub struct Broker {
    addresses: Vec<SocketAddr>,
    handle: Handle,
}

impl Broker {
    /// Listens on the configured addresses and starts to accept.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub async fn bind(config: Config, _hook: Arc<dyn Hook>) -> Result<Self, BindError> {
        if config.listen.is_empty() {
            return Err(BindError::NoAddress);
        }
        Ok(Self { addresses: config.listen, handle: Handle {} })
    }

    /// Where it really listens: port 0 is resolved.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle to publish, disconnect and ask with.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Registers the metrics, named `broker_…`.
    pub fn register_metrics(&self, _registry: &mut Registry) {}

    /// Stops accepting, tells MQTT 5 clients (0x8B), writes out what is queued and, after the deadline, cuts the rest.
    pub async fn shutdown(self, _deadline: Duration) -> Shutdown {
        Shutdown::default()
    }
}

/// What the embedding server does with a running broker; clones are cheap and outlive it harmlessly.
#[derive(Clone)]
pub struct Handle {}

impl Handle {
    /// Shows a control-plane message to every connection with a matching subscription, as a live one (retain flag 0).
    pub fn publish(&self, _message: Message) {}

    /// Disconnects a client; false when it is not connected.
    pub fn disconnect(&self, _client_id: &str, _kick: Kick) -> bool {
        false
    }

    /// How many clients are connected.
    pub fn connected(&self) -> usize {
        0
    }

    /// Whether this client is connected.
    pub fn is_connected(&self, _client_id: &str) -> bool {
        false
    }

    /// The ids of all connected clients, in no order.
    pub fn client_ids(&self) -> Vec<String> {
        Vec::new()
    }
}
