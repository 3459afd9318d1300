//! Opening one MQTT connection, whatever it is for.

use std::{net::SocketAddr, time::Duration};

use protocol::{Endpoint, Scheme};
use rumqttc::v5::{
    AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError,
    mqttbytes::v5::{ConnAck, ConnectReturnCode, DisconnectReasonCode, Packet},
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::core::Loss;

/// Room for everything a packet carries beside a payload of the largest size.
const HEADROOM: u32 = 1024;

/// What a CONNECT says, wherever it goes.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub client_id: String,
    pub password: Option<String>,
    pub user_properties: Vec<(String, String)>,
    pub keep_alive: Duration,
    pub max_packet_size: u32,
    /// QoS 1 messages on their way at one time.
    pub inflight: u16,
}

impl Identity {
    /// A client that is not connected yet, with room for `requests` packets.
    pub(super) fn client(&self, requests: usize) -> (AsyncClient, EventLoop) {
        AsyncClient::new(self.options(String::new(), 0), requests)
    }

    fn options(&self, host: String, port: u16) -> MqttOptions {
        let mut options = MqttOptions::new(&self.client_id, host, port);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options
            .set_network_options(network)
            .set_keep_alive(self.keep_alive)
            .set_max_packet_size(Some(self.max_packet_size.saturating_add(HEADROOM)))
            .set_user_properties(self.user_properties.clone())
            .set_outgoing_inflight_upper_limit(self.inflight);
        if let Some(password) = &self.password {
            options.set_credentials(&self.client_id, password);
        }
        options
    }
}

/// Connects to the first address of `endpoint` that works; each has an equal share of what is left of `budget`.
///
/// # Errors
/// What the last address said, or the first that turned the device away.
pub(super) async fn connect(
    eventloop: &mut EventLoop,
    identity: &Identity,
    endpoint: &Endpoint,
    budget: Duration,
) -> Result<ConnAck, Loss> {
    if endpoint.scheme() == Scheme::Mqtts {
        tracing::warn!(%endpoint, "endpoint skipped: this build does not speak TLS");
        return Err(Loss::Failed(format!("{endpoint}: this build does not speak TLS")));
    }
    let end = Instant::now() + budget;
    let resolved = timeout_at(end, tokio::net::lookup_host((endpoint.host(), endpoint.port()))).await;
    let addresses: Vec<SocketAddr> = match resolved {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(Loss::Failed(format!("{endpoint}: {error}"))),
        Err(_) => return Err(Loss::Failed(format!("{endpoint}: name resolution timed out"))),
    };
    let mut last = Loss::Failed(format!("{endpoint}: the name has no address"));
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = end.saturating_duration_since(Instant::now()) / left;
        last = match attempt(eventloop, identity, address, share).await {
            Ok(connack) => return Ok(connack),
            Err(rejected @ Loss::Rejected(_)) => return Err(rejected),
            Err(loss) => loss,
        };
    }
    Err(last)
}

async fn attempt(
    eventloop: &mut EventLoop,
    identity: &Identity,
    address: &SocketAddr,
    limit: Duration,
) -> Result<ConnAck, Loss> {
    let host = match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    eventloop.options = identity.options(host, address.port());
    // rumqttc's own limit is in whole seconds; ours is the one that counts.
    eventloop.options.set_connection_timeout(limit.as_secs() + 1);
    match timeout(limit, eventloop.poll()).await {
        Ok(Ok(Event::Incoming(Packet::ConnAck(connack)))) => Ok(connack),
        Ok(Ok(other)) => Err(Loss::Failed(format!("{address}: {other:?} before CONNACK"))),
        Ok(Err(error)) => Err(match loss(error) {
            Loss::Failed(error) => Loss::Failed(format!("{address}: {error}")),
            other => other,
        }),
        Err(_) => Err(Loss::Failed(format!("{address}: no connection within {limit:?}"))),
    }
}

/// What the end of a connection means.
pub(super) fn loss(error: ConnectionError) -> Loss {
    match error {
        ConnectionError::ConnectionRefused(code) => {
            let text = format!("CONNACK {code:?}");
            match code {
                ConnectReturnCode::NotAuthorized
                | ConnectReturnCode::BadUserNamePassword
                | ConnectReturnCode::Banned
                | ConnectReturnCode::ServerMoved
                | ConnectReturnCode::UseAnotherServer => Loss::Rejected(text),
                _ => Loss::Failed(text),
            }
        }
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => {
            let text = match reason_string {
                Some(reason) => format!("DISCONNECT {reason_code:?}: {reason}"),
                None => format!("DISCONNECT {reason_code:?}"),
            };
            match reason_code {
                DisconnectReasonCode::ServerMoved
                | DisconnectReasonCode::UseAnotherServer
                | DisconnectReasonCode::NotAuthorized => Loss::Rejected(text),
                DisconnectReasonCode::SessionTakenOver => Loss::TakenOver,
                _ => Loss::Failed(text),
            }
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => {
            Loss::Failed("no answer to a ping within the keep-alive".into())
        }
        ConnectionError::MqttState(StateError::Io(error)) | ConnectionError::Io(error) => {
            Loss::Failed(error.to_string())
        }
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            Loss::Failed("closed by the other side".into())
        }
        other => Loss::Failed(other.to_string()),
    }
}
