//! The configuration: defaults < file < environment < flags.

mod access;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use protocol::{Endpoint, GatewayId, Scheme};
use serde::{Deserialize, Serialize};

pub use self::access::{Access, Role, User};
use crate::{access::attempts, events, notices};
pub use daemon::config::LoadError;
use daemon::{
    auth::Listener,
    secret::Secret,
    tls::{ClientTls, TlsFiles},
};

/// The levels of `ctrl/<id>/migrate`.
const NOTICE_LEVELS: usize = 3;

/// A gateway's configuration in layers.
pub type Layers = daemon::config::Layers<Config>;

impl daemon::config::Configuration for Config {
    const PREFIX: &str = "GATEWAY__";
}

/// Everything a gateway can be told. `configs/gateway.toml` explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This gateway's name; the machine's host name by default, where that is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<GatewayId>,
    /// Where devices reach it; left out, where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<Vec<Endpoint>>,
    /// Where it keeps its notices.
    pub data_dir: PathBuf,
    /// What a device needs to be let in.
    pub admission: Admission,
    /// Accept listeners that are not on loopback and not encrypted, or not closed to those without a ticket.
    pub insecure: bool,
    /// How long a graceful shutdown may take.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// People and applications.
    pub users: Vec<User>,
    /// What clients may do where they have to say who they are.
    pub access: Access,
    /// The broker for devices.
    pub mqtt: Mqtt,
    /// Health and metrics.
    pub http: Http,
    /// The link to the registrar.
    pub registrar: Registrar,
    /// What is remembered of devices.
    pub notices: Notices,
    /// What waits to be told to the registrar.
    pub events: Events,
}

/// What a device needs to be let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// A ticket, unless every listener is on loopback.
    #[default]
    Auto,
    /// A ticket of the registrar's.
    Ticket,
    /// Nothing.
    Open,
}

/// The broker for devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mqtt {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where to listen in plain text as well, beside `listen` with TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_listen: Option<SocketAddr>,
    /// Makes `listen` speak TLS only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Connections at one time, and the capacity told to the registrar.
    pub max_connections: usize,
    /// The largest packet accepted, in bytes.
    pub max_packet_size: u32,
    /// The largest CONNECT accepted, in bytes.
    pub max_connect_size: u32,
    /// From accept to a whole CONNECT.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Silence allowed to a client with keep-alive 0.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// Subscriptions of one connection.
    pub max_subscriptions: usize,
    /// Messages of QoS 1 and 2 on their way to one client at one time.
    pub max_inflight: u16,
    /// Messages queued for one client.
    pub max_queued_messages: usize,
    /// Bytes queued for one client.
    pub max_queued_bytes: usize,
    /// Levels of a topic or filter.
    pub max_topic_levels: usize,
    /// Sessions kept for clients that are away.
    pub max_stored_sessions: usize,
    /// Application messages retained.
    pub max_retained_messages: usize,
    /// Bytes of application messages retained.
    pub max_retained_bytes: usize,
    /// Bytes of application messages kept for each filter.
    pub max_log_bytes: usize,
    /// Groups of shared subscriptions.
    pub max_shared_groups: usize,
    /// Topic aliases of one connection, each way.
    pub max_topic_aliases: u16,
    /// The longest keep-alive of an MQTT 5 client; left out, it is the client's own.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub max_keep_alive: Option<Duration>,
    /// Filters that may not be subscribed to.
    pub refused_filters: Vec<String>,
    /// What a client that asks for Response Information is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_information: Option<String>,
    /// How long a refused or disconnected client is given to read why.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// What strangers, and clients that ask too much, are held to.
    pub limits: broker::Limits,
}

/// Health and metrics.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where to listen; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Makes `listen` speak TLS only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFiles>,
    /// Connections at one time; one more waits until another one ends.
    pub max_connections: usize,
}

/// The link to the registrar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registrar {
    /// The registrar's bootstrap broker.
    pub url: Endpoint,
    /// The authorities that the registrar's certificate may come from, as PEM; those of the machine where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// This gateway's key, as the registrar gave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// The same, in a file of the owner's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// This gateway's certificate, as PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<PathBuf>,
    /// The certificate's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// How often the status is repeated.
    #[serde(with = "humantime_serde")]
    pub status_interval: Duration,
    /// The least time between two statuses, however much changes.
    #[serde(with = "humantime_serde")]
    pub status_pause: Duration,
    /// MQTT keep-alive on the link.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long connecting may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The shortest wait between attempts.
    #[serde(with = "humantime_serde")]
    pub retry_min: Duration,
    /// The longest wait between attempts.
    #[serde(with = "humantime_serde")]
    pub retry_max: Duration,
}

/// What is remembered of devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notices {
    /// Published notices.
    pub max_published: usize,
    /// Devices moved away.
    pub max_moved: usize,
    /// Devices admitted.
    pub max_admitted: usize,
    /// Devices disabled.
    pub max_denied: usize,
}

/// What waits to be told to the registrar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Events {
    /// Events that may wait.
    pub queue: usize,
    /// Events in one message.
    pub batch: usize,
    /// The least time between two messages that are not full.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// The least time between two snapshots that an overflow causes.
    #[serde(with = "humantime_serde")]
    pub resync_pause: Duration,
}

impl Registrar {
    /// The TLS of the link.
    pub fn tls(&self) -> ClientTls {
        ClientTls {
            ca: self.ca.clone(),
            cert: self.client_cert.clone(),
            key: self.client_key.clone(),
        }
    }

    /// Whether it is on this machine.
    fn is_here(&self) -> bool {
        let host = self.url.host();
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: rustix::system::uname()
                .nodename()
                .to_str()
                .ok()
                .and_then(|name| name.parse().ok()),
            advertise: None,
            data_dir: "homeport-data/gateway".into(),
            admission: Admission::Auto,
            insecure: false,
            users: Vec::new(),
            access: Access::default(),
            shutdown_timeout: Duration::from_secs(10),
            mqtt: Mqtt::default(),
            http: Http::default(),
            registrar: Registrar::default(),
            notices: Notices::default(),
            events: Events::default(),
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        let broker = broker::Config::default();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 1884)),
            plain_listen: None,
            tls: None,
            max_connections: broker.max_connections,
            max_packet_size: broker.max_packet_size,
            max_connect_size: broker.max_connect_size,
            connect_timeout: broker.connect_timeout,
            idle_timeout: broker.idle_timeout,
            max_subscriptions: broker.max_subscriptions,
            max_inflight: broker.max_inflight,
            max_queued_messages: broker.max_queued_messages,
            max_queued_bytes: broker.max_queued_bytes,
            max_topic_levels: broker.max_topic_levels,
            max_stored_sessions: broker.max_stored_sessions,
            max_retained_messages: broker.max_retained_messages,
            max_retained_bytes: broker.max_retained_bytes,
            max_log_bytes: broker.max_log_bytes,
            max_shared_groups: broker.max_shared_groups,
            max_topic_aliases: broker.max_topic_aliases,
            max_keep_alive: None,
            refused_filters: broker.refused_filters,
            response_information: broker.response_information,
            linger: broker.linger,
            limits: broker.limits,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8084)),
            tls: None,
            max_connections: 1_000,
        }
    }
}

impl Default for Registrar {
    fn default() -> Self {
        Self {
            url: "mqtt://127.0.0.1:1883"
                .parse()
                .expect("the default is an endpoint"),
            ca: None,
            key: None,
            key_file: None,
            client_cert: None,
            client_key: None,
            status_interval: Duration::from_secs(10),
            status_pause: Duration::from_secs(1),
            keep_alive: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(5),
        }
    }
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            max_published: 1_000_000,
            max_moved: 100_000,
            max_admitted: 100_000,
            max_denied: 100_000,
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            queue: 10_000,
            batch: 500,
            linger: Duration::from_millis(50),
            resync_pause: Duration::from_secs(1),
        }
    }
}

/// What is wrong with a configuration that can be read: the key, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct CheckError {
    /// The key, as written in the file.
    pub key: &'static str,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl Config {
    /// Checks what types cannot say, and returns this gateway's id.
    ///
    /// # Errors
    /// The first key that is wrong.
    pub fn check(&self) -> Result<GatewayId, CheckError> {
        let wrong = |key, problem: &str| {
            Err(CheckError {
                key,
                problem: problem.to_owned(),
            })
        };
        let Some(id) = &self.id else {
            return wrong(
                "id",
                "this gateway has no name: pass --id ID, or set id in the file or GATEWAY__ID",
            );
        };
        for (key, tls) in [
            (["mqtt.tls.cert", "mqtt.tls.key"], &self.mqtt.tls),
            (["http.tls.cert", "http.tls.key"], &self.http.tls),
        ] {
            if let Some(missing) = tls.as_ref().and_then(TlsFiles::missing) {
                let key = if missing == "cert" { key[0] } else { key[1] };
                return wrong(key, "is needed, TLS takes a certificate and its key");
            }
        }
        if self.mqtt.plain_listen.is_some() && self.mqtt.tls.is_none() {
            return wrong(
                "mqtt.plain_listen",
                "is for tools beside a listener with TLS: set up mqtt.tls, or leave it out",
            );
        }
        if !self.insecure {
            let danger = |listener: &Listener| Some((listener.key, listener.danger()?));
            if let Some((key, danger)) = self.listeners().iter().find_map(danger) {
                let problem = format!(
                    "{danger}: set up TLS and admission by ticket, or set insecure = true to accept that"
                );
                return Err(CheckError { key, problem });
            }
        }
        match &self.advertise {
            Some(endpoints) if endpoints.is_empty() => {
                return wrong(
                    "advertise",
                    "is empty, so no device could find this gateway: list mqtt://HOST:PORT, or leave it out to advertise where it listens",
                );
            }
            None if self.mqtt.listen.ip().is_unspecified() => {
                return wrong(
                    "advertise",
                    "is needed, because mqtt.listen is the unspecified address, which no device can connect to: list mqtt://HOST:PORT",
                );
            }
            _ => {}
        }
        self.check_link()?;
        self.check_access()?;
        let second = Duration::from_secs(1);
        if self.registrar.keep_alive < second || self.registrar.keep_alive > second * u32::from(u16::MAX) {
            return wrong("registrar.keep_alive", "is between 1s and 65535s");
        }
        if self.registrar.timeout.is_zero() {
            return wrong("registrar.timeout", "is more than 0");
        }
        if self.registrar.status_interval.is_zero() {
            return wrong("registrar.status_interval", "is more than 0");
        }
        if self.registrar.status_pause.is_zero() {
            return wrong("registrar.status_pause", "is more than 0");
        }
        if self.registrar.retry_min.is_zero() || self.registrar.retry_min > self.registrar.retry_max {
            return wrong(
                "registrar.retry_min",
                "is more than 0 and at most registrar.retry_max",
            );
        }
        if let Err((key, allowed)) = self.mqtt.limits.check() {
            return wrong(key, &format!("is {allowed}"));
        }
        if self.mqtt.max_topic_levels < NOTICE_LEVELS {
            let problem = format!("is at least {NOTICE_LEVELS}, so that notices are within it");
            return wrong("mqtt.max_topic_levels", &problem);
        }
        if self
            .mqtt
            .max_keep_alive
            .is_some_and(|limit| limit < second || limit > second * u32::from(u16::MAX))
        {
            return wrong("mqtt.max_keep_alive", "is between 1s and 65535s, or left out");
        }
        for filter in &self.mqtt.refused_filters {
            if !broker::is_topic_filter(filter, self.mqtt.max_topic_levels) {
                let problem = format!("{filter:?} is no topic filter");
                return wrong("mqtt.refused_filters", &problem);
            }
        }
        for (key, value) in [
            ("mqtt.max_connections", self.mqtt.max_connections),
            ("mqtt.max_subscriptions", self.mqtt.max_subscriptions),
            ("mqtt.max_inflight", self.mqtt.max_inflight.into()),
            ("mqtt.max_queued_messages", self.mqtt.max_queued_messages),
            ("mqtt.max_connect_size", self.mqtt.max_connect_size as usize),
            ("http.max_connections", self.http.max_connections),
            ("notices.max_published", self.notices.max_published),
            ("notices.max_moved", self.notices.max_moved),
            ("notices.max_admitted", self.notices.max_admitted),
            ("notices.max_denied", self.notices.max_denied),
            ("access.max_failures", self.access.max_failures as usize),
            ("access.max_remembered", self.access.max_remembered),
            ("events.queue", self.events.queue),
            ("events.batch", self.events.batch),
        ] {
            if value == 0 {
                return wrong(key, "is at least 1");
            }
        }
        Ok(id.clone())
    }

    fn check_link(&self) -> Result<(), CheckError> {
        let wrong = |key, problem: &str| {
            Err(CheckError {
                key,
                problem: problem.to_owned(),
            })
        };
        let registrar = &self.registrar;
        match registrar.tls().missing() {
            Some("key") => return wrong("registrar.client_key", "is needed beside registrar.client_cert"),
            Some(_) => return wrong("registrar.client_cert", "is needed beside registrar.client_key"),
            None => {}
        }
        if registrar.key.is_some() && registrar.key_file.is_some() {
            return wrong("registrar.key", "is set beside registrar.key_file; keep one");
        }
        let encrypted = registrar.url.scheme() == Scheme::Mqtts;
        // The client library would look for a certificate of "[…]".
        if encrypted && registrar.url.host().contains(':') {
            return wrong(
                "registrar.url",
                "mqtts:// takes a host name or an IPv4 address, not an IPv6 one",
            );
        }
        let files = [
            ("registrar.ca", &registrar.ca),
            ("registrar.client_cert", &registrar.client_cert),
        ];
        if let Some((key, _)) = files.into_iter().find(|(_, file)| file.is_some() && !encrypted) {
            return wrong(key, "is for an encrypted link: begin registrar.url with mqtts://");
        }
        let secret = registrar.key.is_some() || registrar.key_file.is_some();
        if secret && !encrypted && !registrar.is_here() && !self.insecure {
            return wrong(
                "registrar.url",
                "would carry this gateway's key in plain text to another machine: use mqtts://, or set insecure = true to accept that",
            );
        }
        Ok(())
    }

    /// Whether a device needs a ticket to be let in.
    pub fn ticket_required(&self) -> bool {
        match self.admission {
            Admission::Auto => {
                let mqtt = [
                    Some(self.mqtt.listen),
                    self.mqtt.plain_listen,
                    Some(self.http.listen),
                ];
                !mqtt
                    .into_iter()
                    .flatten()
                    .all(|address| address.ip().is_loopback())
            }
            Admission::Ticket => true,
            Admission::Open => false,
        }
    }

    /// Where it listens, and how safe that is.
    pub fn listeners(&self) -> Vec<Listener> {
        let authenticated = self.ticket_required();
        let mqtt = |key, address, encrypted| Listener {
            key,
            address,
            encrypted,
            authenticated,
        };
        let mut listeners = vec![
            mqtt("mqtt.listen", self.mqtt.listen, self.mqtt.tls.is_some()),
            Listener {
                key: "http.listen",
                address: self.http.listen,
                encrypted: self.http.tls.is_some(),
                // Health and metrics are for everyone who reaches them.
                authenticated: true,
            },
        ];
        let plain = self.mqtt.plain_listen;
        listeners.extend(plain.map(|address| mqtt("mqtt.plain_listen", address, false)));
        listeners
    }

    /// The broker's share.
    pub fn broker(&self) -> broker::Config {
        broker::Config {
            listen: [Some(self.mqtt.listen), self.mqtt.plain_listen]
                .into_iter()
                .flatten()
                .map(Into::into)
                .collect(),
            max_connections: self.mqtt.max_connections,
            max_packet_size: self.mqtt.max_packet_size,
            max_connect_size: self.mqtt.max_connect_size,
            connect_timeout: self.mqtt.connect_timeout,
            idle_timeout: self.mqtt.idle_timeout,
            max_subscriptions: self.mqtt.max_subscriptions,
            max_inflight: self.mqtt.max_inflight,
            max_queued_messages: self.mqtt.max_queued_messages,
            max_queued_bytes: self.mqtt.max_queued_bytes,
            max_topic_levels: self.mqtt.max_topic_levels,
            max_stored_sessions: self.mqtt.max_stored_sessions,
            max_retained_messages: self.mqtt.max_retained_messages,
            max_retained_bytes: self.mqtt.max_retained_bytes,
            max_log_bytes: self.mqtt.max_log_bytes,
            max_shared_groups: self.mqtt.max_shared_groups,
            max_topic_aliases: self.mqtt.max_topic_aliases,
            max_keep_alive: self
                .mqtt
                .max_keep_alive
                .and_then(|limit| u16::try_from(limit.as_secs()).ok()),
            refused_filters: self.mqtt.refused_filters.clone(),
            response_information: self.mqtt.response_information.clone(),
            linger: self.mqtt.linger,
            limits: self.mqtt.limits.clone(),
        }
    }

    /// The share of [`crate::access`] that needs no file.
    pub fn attempts(&self) -> attempts::Limits {
        attempts::Limits {
            failures: self.access.max_failures,
            window: self.access.failure_window,
            remembered: self.access.max_remembered,
        }
    }

    /// The share of [`crate::notices`].
    pub fn notices(&self) -> notices::Limits {
        notices::Limits {
            published: self.notices.max_published,
            moved: self.notices.max_moved,
            admitted: self.notices.max_admitted,
            denied: self.notices.max_denied,
        }
    }

    /// The share of [`crate::events`].
    pub fn events(&self) -> events::Limits {
        events::Limits {
            queue: self.events.queue,
            batch: self.events.batch,
            linger: self.events.linger,
            resync_pause: self.events.resync_pause,
        }
    }
}

#[cfg(test)]
mod tests;
