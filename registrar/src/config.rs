//! The configuration: defaults < file < environment < flags.

mod check;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::check::CheckError;
use crate::{
    bootstrap::{self, Template},
    control,
    enrolment::ThrottleLimits,
    gateways, import, moves,
    people::{self, password::Cost, roster, throttle},
    service, signers,
    store::{Retention, sled::SledConfig},
};
pub use daemon::config::LoadError;
use daemon::{auth::Auth, tls::TlsFiles};

/// A registrar's configuration in layers.
pub type Layers = daemon::config::Layers<Config>;

impl daemon::config::Configuration for Config {
    const PREFIX: &str = "REGISTRAR__";
}

/// Everything a registrar can be told. `configs/registrar.toml` explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether devices, gateways and people have to say who they are.
    pub auth: Auth,
    /// Accept listeners that are not on loopback and not encrypted or not authenticated.
    pub insecure: bool,
    /// How long a graceful shutdown may take.
    #[serde(with = "humantime_serde")]
    pub shutdown_timeout: Duration,
    /// The bootstrap broker.
    pub mqtt: Mqtt,
    /// API, health and metrics.
    pub http: Http,
    /// What survives a restart.
    pub store: Store,
    /// Moves of devices.
    pub moves: Moves,
    /// The gateways' links.
    pub gateways: Gateways,
    /// What devices are told beside their gateway.
    pub answers: Answers,
    /// When devices that got no gateway are to ask again.
    pub retry_after: RetryAfter,
    /// Tickets: what devices connect to their gateways with.
    pub tickets: Tickets,
    /// The keys that tickets are signed with.
    pub keys: Keys,
    /// Imports of many devices at once.
    pub import: Import,
    /// How devices prove who they are, and what they may do.
    pub devices: Devices,
    /// People who use the registrar.
    pub people: People,
}

/// The bootstrap broker.
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
    /// Connections at one time.
    pub max_connections: usize,
    /// The largest packet accepted, in bytes; gateways send the largest ones.
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
    /// Bytes queued for one client; instructions to gateways wait for room.
    pub max_queued_bytes: usize,
    /// Levels of a topic or filter.
    pub max_topic_levels: usize,
    /// Clients whose session outlives its connection.
    pub max_stored_sessions: usize,
    /// How long a refused or disconnected client is given to read why.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// What strangers, and clients that ask too much, are held to.
    pub limits: broker::Limits,
}

/// API, health and metrics.
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
    /// Requests that wait for a change at one time; one more is refused.
    pub max_waiting: usize,
    /// The largest JSON body, in bytes.
    pub max_body: usize,
}

/// Where everything is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// In files of the data folder.
    Sled,
    /// In memory: nothing survives a restart.
    Memory,
}

/// What survives a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// How it is kept.
    pub engine: Engine,
    /// The data folder; one process at a time.
    pub data_dir: PathBuf,
    /// Bytes of pages kept in memory.
    pub cache_bytes: u64,
    /// Bytes of disk that must stay free; with less, changes are refused.
    pub reserve_bytes: u64,
    /// Lines of the audit log that are kept.
    pub audit_lines: u64,
    /// Closed moves that are kept.
    pub closed_moves: usize,
    /// Changes that wait to be written; further ones wait at their callers.
    pub queue: usize,
    /// How long to wait before a failed write of a move's step is tried again.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
}

/// Moves of devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Moves {
    /// How long a moved device may stay on its old gateway once it was given the notice.
    #[serde(with = "humantime_serde")]
    pub move_grace: Duration,
    /// When an open move without a step counts as stuck.
    #[serde(with = "humantime_serde")]
    pub stuck_after: Duration,
    /// When an instruction that a gateway has not answered is sent again.
    #[serde(with = "humantime_serde")]
    pub resend_after: Duration,
    /// Moves open at one time; one more is refused.
    pub max_open: usize,
    /// Devices on wrong gateways, without a move, that are remembered.
    pub max_strays: usize,
    /// Devices disabled at one time; one more is refused.
    pub max_disabled: usize,
}

/// The gateways' links.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateways {
    /// How often gateways send their status; one that was not heard of for three intervals is offline.
    #[serde(with = "humantime_serde")]
    pub status_interval: Duration,
    /// Gateways known at most.
    pub max_gateways: usize,
    /// Devices and notices of one gateway's snapshot.
    pub max_snapshot: usize,
    /// Events of all gateways that wait; when full, their connections wait.
    pub queue: usize,
    /// Instructions that wait until one gateway takes more; one more is dropped, and sent again later.
    pub max_instructions: usize,
    /// CA certificates in PEM: a certificate of theirs with the URI `homeport:gateway:<id>` is that gateway's. Empty:
    /// gateways have keys only.
    pub client_ca: PathBuf,
    /// Revocation lists of these CAs, in PEM; empty: nothing is revoked.
    pub client_crl: PathBuf,
}

/// How devices prove who they are, and what they may do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Devices {
    /// How far their clocks may be off.
    #[serde(with = "humantime_serde")]
    pub clock_leeway: Duration,
    /// Failed attempts with one id within the window; with more, nobody is let in under that id for a while.
    pub max_failures_per_id: u32,
    /// Failed attempts of one address within the window; with more, nobody is let in from there for a while.
    pub max_failures_per_address: u32,
    /// The time over which failures are counted.
    #[serde(with = "humantime_serde")]
    pub failure_window: Duration,
    /// For how long nobody is let in then.
    #[serde(with = "humantime_serde")]
    pub hold_off: Duration,
    /// Ids, and addresses, whose failures are remembered.
    pub max_failing: usize,
    /// Topic filters devices may publish to beside their query's topic; `${id}` stands for the device's id.
    pub publish: Vec<String>,
    /// Topic filters devices may subscribe to beside their answer's topic.
    pub subscribe: Vec<String>,
}

/// What devices are told beside their gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// How long an answer may be used without asking again.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
}

/// Tickets: what devices connect to their gateways with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tickets {
    /// Put one into each answer although devices need not say who they are.
    pub always: bool,
    /// How long one lives.
    #[serde(with = "humantime_serde")]
    pub ttl: Duration,
    /// Tickets that are kept, to be given out again.
    pub cache: usize,
}

/// The keys that tickets are signed with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// For how long gateways are only shown a new key before it signs.
    #[serde(with = "humantime_serde")]
    pub overlap: Duration,
}

/// When devices that got no gateway are to ask again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryAfter {
    /// After a malformed query.
    #[serde(with = "humantime_serde")]
    pub bad_request: Duration,
    /// While the directory does not know the device.
    #[serde(with = "humantime_serde")]
    pub unknown_device: Duration,
    /// While the device is disabled.
    #[serde(with = "humantime_serde")]
    pub disabled: Duration,
    /// While it is not known where the device's gateway listens.
    #[serde(with = "humantime_serde")]
    pub no_gateway: Duration,
}

/// Imports of many devices at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Import {
    /// Rows of one import.
    pub max_rows: usize,
    /// Bytes of one import.
    pub max_bytes: u64,
}

/// People who use the registrar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct People {
    /// How long a login lasts.
    #[serde(with = "humantime_serde")]
    pub session_life: Duration,
    /// The longest an API token may last.
    #[serde(with = "humantime_serde")]
    pub max_token_life: Duration,
    /// People at most.
    pub max_users: usize,
    /// Tokens of one person, logins included; a login ends the oldest one for one more.
    pub max_tokens: usize,
    /// Passwords checked at one time, 19 MB each; one more is told to try again.
    pub max_checks: usize,
    /// Failed logins of one name, and of one address four times as many, before further ones have to wait.
    pub free_failures: u32,
    /// The longest such wait; it begins with a second and doubles.
    #[serde(with = "humantime_serde")]
    pub max_hold: Duration,
    /// Names, and addresses, whose failures are remembered; the one quiet longest is forgotten for one more.
    pub max_remembered: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            auth: Auth::Auto,
            insecure: false,
            shutdown_timeout: Duration::from_secs(10),
            mqtt: Mqtt::default(),
            http: Http::default(),
            store: Store::default(),
            moves: Moves::default(),
            gateways: Gateways::default(),
            answers: Answers::default(),
            retry_after: RetryAfter::default(),
            tickets: Tickets::default(),
            keys: Keys::default(),
            import: Import::default(),
            devices: Devices::default(),
            people: People::default(),
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        let broker = broker::Config::default();
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)),
            plain_listen: None,
            tls: None,
            max_connections: broker.max_connections,
            // A gateway's largest message, and its topic and properties.
            max_packet_size: 2 * broker.max_packet_size,
            max_connect_size: broker.max_connect_size,
            connect_timeout: broker.connect_timeout,
            idle_timeout: broker.idle_timeout,
            max_subscriptions: broker.max_subscriptions,
            max_inflight: broker.max_inflight,
            max_queued_messages: broker.max_queued_messages,
            max_queued_bytes: broker.max_queued_bytes,
            max_topic_levels: broker.max_topic_levels,
            max_stored_sessions: broker.max_stored_sessions,
            linger: broker.linger,
            limits: broker.limits,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            max_connections: 4_000,
            max_waiting: 1_000,
            max_body: 64 * 1024,
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        let (sled, retention) = (SledConfig::default(), Retention::default());
        Self {
            engine: Engine::Sled,
            data_dir: "homeport-data/registrar".into(),
            cache_bytes: sled.cache_bytes,
            reserve_bytes: sled.reserve_bytes,
            audit_lines: retention.audit,
            closed_moves: retention.closed_moves,
            queue: 1_000,
            retry: Duration::from_secs(1),
        }
    }
}

impl Default for Moves {
    fn default() -> Self {
        Self {
            move_grace: Duration::from_secs(30),
            stuck_after: Duration::from_secs(600),
            resend_after: Duration::from_secs(15),
            max_open: 100_000,
            max_strays: 100_000,
            max_disabled: 100_000,
        }
    }
}

impl Default for Gateways {
    fn default() -> Self {
        Self {
            status_interval: Duration::from_secs(10),
            max_gateways: 10_000,
            max_snapshot: 2_000_000,
            queue: 1_000,
            // A notice for each move and each stray that may be remembered.
            max_instructions: 200_000,
            client_ca: PathBuf::new(),
            client_crl: PathBuf::new(),
        }
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            clock_leeway: Duration::from_secs(60),
            max_failures_per_id: 10,
            max_failures_per_address: 100,
            failure_window: Duration::from_secs(60),
            hold_off: Duration::from_secs(60),
            max_failing: 10_000,
            publish: Vec::new(),
            subscribe: Vec::new(),
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 3600),
        }
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self {
            always: false,
            ttl: Duration::from_secs(7 * 24 * 3600),
            cache: 65_536,
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            overlap: Duration::from_secs(600),
        }
    }
}

impl Default for RetryAfter {
    fn default() -> Self {
        Self {
            bad_request: Duration::from_secs(3600),
            unknown_device: Duration::from_secs(30),
            disabled: Duration::from_secs(3600),
            no_gateway: Duration::from_secs(10),
        }
    }
}

impl Default for Import {
    fn default() -> Self {
        let limits = import::Limits::default();
        Self {
            max_rows: limits.rows,
            max_bytes: limits.bytes,
        }
    }
}

impl Default for People {
    fn default() -> Self {
        Self {
            session_life: Duration::from_secs(12 * 3600),
            max_token_life: Duration::from_secs(366 * 24 * 3600),
            max_users: 1_000,
            max_tokens: 50,
            max_checks: 4,
            free_failures: 5,
            max_hold: Duration::from_secs(15 * 60),
            max_remembered: 10_000,
        }
    }
}

impl Config {
    /// The broker's part.
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
            linger: self.mqtt.linger,
            limits: self.mqtt.limits.clone(),
            ..broker::Config::default()
        }
    }

    /// The hook's part.
    pub fn bootstrap(&self) -> bootstrap::Settings {
        bootstrap::Settings {
            answer_ttl: self.answers.ttl,
            retry_bad_request: self.retry_after.bad_request,
            retry_unknown_device: self.retry_after.unknown_device,
            retry_disabled: self.retry_after.disabled,
            retry_no_gateway: self.retry_after.no_gateway,
        }
    }

    /// The doorkeeper's part.
    ///
    /// # Errors
    /// A pattern of topics that is none, or reaches where devices may not write.
    pub fn doorkeeper(&self) -> Result<bootstrap::DoorkeeperSettings, bootstrap::TemplateError> {
        let devices = &self.devices;
        let limits = |failures| ThrottleLimits {
            failures,
            window: devices.failure_window,
            hold_off: devices.hold_off,
            entries: devices.max_failing,
            audit_every: Duration::from_secs(60),
        };
        let publish = devices.publish.iter().map(|text| Template::to_write(text));
        let subscribe = devices.subscribe.iter().map(|text| Template::to_read(text));
        Ok(bootstrap::DoorkeeperSettings {
            clock_leeway: devices.clock_leeway,
            addresses: limits(devices.max_failures_per_address),
            ids: limits(devices.max_failures_per_id),
            publish: publish.collect::<Result<_, _>>()?,
            subscribe: subscribe.collect::<Result<_, _>>()?,
        })
    }

    /// Whom gateways' certificates are checked against.
    pub fn gateway_authority(&self) -> bootstrap::GatewayAuthority {
        let file = |path: &PathBuf| Some(path.clone()).filter(|path| !path.as_os_str().is_empty());
        bootstrap::GatewayAuthority {
            ca: file(&self.gateways.client_ca),
            crl: file(&self.gateways.client_crl),
        }
    }

    /// The control loop's part.
    pub fn control(&self) -> control::Settings {
        control::Settings {
            gateways: gateways::Settings {
                status_interval: self.gateways.status_interval,
                max_gateways: self.gateways.max_gateways,
                max_snapshot: self.gateways.max_snapshot,
            },
            moves: moves::Settings {
                grace: self.moves.move_grace,
                resend_after: self.moves.resend_after,
                max_strays: self.moves.max_strays,
            },
            stuck_after: self.moves.stuck_after,
            store_retry: self.store.retry,
            max_waiting: self.gateways.max_instructions,
        }
    }

    /// The tickets' part; none where answers carry none.
    pub fn tickets(&self) -> Option<bootstrap::tickets::Settings> {
        let wanted = self.tickets.always || self.auth_required();
        wanted.then_some(bootstrap::tickets::Settings {
            ttl: self.tickets.ttl,
            kept: self.tickets.cache,
        })
    }

    /// The signing keys' part.
    pub fn signers(&self) -> signers::Settings {
        signers::Settings {
            overlap: self.keys.overlap,
            ttl: self.tickets.ttl,
        }
    }

    /// The service's part.
    pub fn service(&self) -> service::Settings {
        service::Settings {
            move_grace: self.moves.move_grace,
            max_open_moves: self.moves.max_open,
            max_disabled: self.moves.max_disabled,
            stuck_after: self.moves.stuck_after,
        }
    }

    /// The embedded store's part.
    pub fn sled(&self) -> SledConfig {
        SledConfig {
            retention: self.retention(),
            cache_bytes: self.store.cache_bytes,
            reserve_bytes: self.store.reserve_bytes,
        }
    }

    /// How much history is kept.
    pub fn retention(&self) -> Retention {
        Retention {
            audit: self.store.audit_lines,
            closed_moves: self.store.closed_moves,
        }
    }

    /// The people's part.
    pub fn people(&self) -> people::Settings {
        people::Settings {
            limits: roster::Limits {
                users: self.people.max_users,
                tokens: self.people.max_tokens,
            },
            throttle: throttle::Limits {
                free: self.people.free_failures,
                longest: self.people.max_hold,
                remembered: self.people.max_remembered,
            },
            at_once: self.people.max_checks,
            cost: Cost::default(),
            session_life: self.people.session_life,
            max_token_life: self.people.max_token_life,
        }
    }

    /// How much an import may hold.
    pub fn import(&self) -> import::Limits {
        import::Limits {
            rows: self.import.max_rows,
            bytes: self.import.max_bytes,
            ..import::Limits::default()
        }
    }
}
