//! One running registrar: binds, ties the parts together, and takes them down in order.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicUsize},
    time::Duration,
};

use broker::{BindError, Broker, Kick, Message};
use daemon::{
    auth,
    exit::tell,
    run::Hangups,
    tls::{SectionError, ServerTls},
};
use prometheus_client::registry::Registry;
use protocol::GatewayId;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore, mpsc},
    task::{JoinSet, spawn_blocking},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bootstrap::{
        Bootstrap, Doorkeeper, DoorkeeperParts, GatewayAuthority, GatewayAuthorityError, link_client,
        tickets::Tickets,
    },
    config::{CheckError, Config, Engine},
    control::{self, Control, Outlet, View, now},
    directory::Directory,
    enrolment::{self, IdentityError},
    http::{self, App, Loaded},
    import::{ImportMetrics, Importer},
    metrics::Metrics,
    people::{
        self, People, PeopleMetrics,
        first::{FirstError, PasswordFile},
    },
    service::{self, Service},
    signers::keeper::{Keeper, KeeperError},
    store::{
        Store, StoreError, Transaction,
        committer::{CommitError, CommitMetrics, Commits, Committer},
        folder::OpenError,
        memory::MemoryStore,
        record::AuditRecord,
        sled::SledStore,
    },
};

/// What a message takes beside its payload: the topic, and what the broker keeps of it, generously.
const MESSAGE_OVERHEAD: usize = 1024;

/// Lines about refused clients that wait to be written; further ones are counted and dropped.
const AUDIT_QUEUE: usize = 256;

/// Why a registrar does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configuration is wrong.
    #[error("configuration: {0}")]
    Config(#[from] CheckError),
    /// The data folder cannot be used.
    #[error("store.data_dir: {0}")]
    Open(#[from] OpenError),
    /// What is stored cannot be read.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// A group that is stored cannot be used.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The gateways' CA.
    #[error("gateways.client_ca: {0}")]
    GatewayAuthority(#[from] GatewayAuthorityError),
    /// What is stored cannot be taken up.
    #[error("store: {0}")]
    Commit(#[from] CommitError),
    /// The keys that tickets are signed with cannot be used.
    #[error("signing keys: {0}")]
    Keys(#[from] KeeperError),
    /// The broker cannot listen.
    #[error("mqtt.listen: {0}")]
    Mqtt(#[from] BindError),
    /// A certificate or its key cannot be used.
    #[error(transparent)]
    Tls(#[from] SectionError),
    /// Signals cannot be listened for.
    #[error("cannot listen for SIGHUP: {0}")]
    Signals(std::io::Error),
    /// HTTP cannot listen.
    #[error("http.listen: cannot listen on {address}: {source}")]
    Http {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// There is nowhere to keep uploads.
    #[error("no temporary folder: {0}")]
    Staging(std::io::Error),
    /// The people who are stored cannot be taken up.
    #[error("people: {0}")]
    People(#[from] people::LoadError),
    /// Nobody could log in.
    #[error("first start: {0}")]
    First(#[from] FirstError),
    /// A part that runs as long as the registrar ended by itself.
    #[error("the registrar's {0} ended unexpectedly")]
    Ended(String),
}

/// Where a registrar really listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Addresses {
    /// MQTT.
    pub mqtt: SocketAddr,
    /// MQTT in plain text, if that is beside MQTT with TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqtt_plain: Option<SocketAddr>,
    /// HTTP.
    pub http: SocketAddr,
}

/// A registrar that answers already; [`Server::run`] keeps it up.
pub struct Server {
    addresses: Addresses,
    app: Arc<App>,
    broker: Broker,
    committer: Committer,
    staging: Staging,
    /// The control loop and HTTP; each returns its name.
    tasks: JoinSet<&'static str>,
    /// Ends the tasks.
    last: CancellationToken,
    shutdown_timeout: Duration,
}

impl Server {
    /// Listens for HTTP, loads the directory, and listens for devices.
    ///
    /// # Errors
    /// The configuration, the data folder or an address cannot be used.
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        config.check()?;
        auth::warn(&config.listeners());
        let hangups = Hangups::listen().map_err(ServerError::Signals)?;
        let tls = ServerTls::load(config.mqtt.tls.clone(), config.http.tls.clone())?;
        let address = config.http.listen;
        let listener = TcpListener::bind(address)
            .await
            .and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (http, listener) = listener.map_err(|source| ServerError::Http { address, source })?;
        let last = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let auth = config.auth_required();
        let app = Arc::new(App {
            auth,
            loaded: OnceLock::new(),
            registry: OnceLock::new(),
            stopping: CancellationToken::new(),
            max_body: config.http.max_body,
            waiting: Semaphore::new(config.http.max_waiting),
        });
        let (served, stop, max_connections) = (Arc::clone(&app), last.clone(), config.http.max_connections);
        let accept = tls.http.as_ref().map(|tls| tls.accept(http::READ_TIMEOUT));
        tasks.spawn(async move {
            http::serve(listener, max_connections, accept, served, stop).await;
            "HTTP listener"
        });

        let (store, staging) = open(&config).await?;
        let started = Instant::now();
        let (directory, rest) = Directory::load(store.as_ref()).await?;
        let (groups, entrances) = enrolment::restore(&directory, &rest.items)?;
        let (groups, entrances) = (Arc::new(groups), Arc::new(entrances));
        let directory = Arc::new(directory);
        tracing::info!(
            devices = directory.len(),
            gateways = rest.gateways.len(),
            moves = rest.moves.len(),
            seconds = started.elapsed().as_secs_f64(),
            "directory loaded"
        );

        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let commit_metrics = CommitMetrics::default();
        commit_metrics.register(&mut registry);
        tls.register(registry.sub_registry_with_prefix("registrar"));
        let (committer, commits) = Committer::spawn(Arc::clone(&store), config.store.queue, commit_metrics);
        let keeper = Arc::new(Keeper::start(config.signers(), &rest.items, commits.clone()).await?);
        keeper.register(&mut registry);
        let people_metrics = PeopleMetrics::default();
        people_metrics.register(&mut registry);
        let password_file =
            (config.store.engine != Engine::Memory).then(|| PasswordFile::of(&config.store.data_dir));
        let people = People::load(
            config.people(),
            &rest.items,
            commits.clone(),
            password_file,
            people_metrics,
        )?;
        if auth && let Some(password) = people.first_admin().await? {
            tell_first_admin(&password);
        }
        let view = Arc::new(View::default());
        let (sender, events) = mpsc::channel(config.gateways.queue);

        // Everything is in place before the first device can ask, except for the broker to tell gateways with.
        let broker = Arc::new(OnceLock::<broker::Handle>::new());
        let parts = control::Parts {
            directory: Arc::clone(&directory),
            commits: commits.clone(),
            view: Arc::clone(&view),
            metrics: metrics.clone(),
            outlet: Arc::new(Connections(Arc::clone(&broker))),
            keys: keeper.published(),
        };
        let control = Control::restore(config.control(), rest.gateways, rest.moves, parts, now()).await?;
        let links = Arc::clone(&broker);
        let service = Service::new(service::Parts {
            settings: config.service(),
            directory: Arc::clone(&directory),
            store: Arc::clone(&store),
            commits: commits.clone(),
            view: Arc::clone(&view),
            control: sender.clone(),
            importing: AtomicUsize::new(0),
            groups: Arc::clone(&groups),
            entrances: Arc::clone(&entrances),
            identities: Mutex::default(),
            disconnect: Box::new(move |client| {
                if let Some(broker) = links.get() {
                    broker.disconnect(client, Kick::NotAuthorized);
                }
            }),
        });
        let hook = Bootstrap::new(
            config.bootstrap(),
            Arc::clone(&directory),
            Arc::clone(&view),
            sender,
            metrics.clone(),
        );
        let hook = match config.tickets() {
            Some(tickets) => hook.with_tickets(Tickets::new(tickets, Arc::clone(&keeper), &mut registry)),
            None => hook,
        };
        let hook = if auth {
            let (audit, lines) = mpsc::channel(AUDIT_QUEUE);
            tasks.spawn(write_audit(lines, commits, last.clone()));
            let parts = DoorkeeperParts {
                settings: config.doorkeeper().map_err(CheckError::from)?,
                directory,
                store,
                groups,
                entrances,
                gateways: config.gateway_authority().load()?,
                people: Some(Arc::new(people.clone())),
                metrics,
                audit,
            };
            let doorkeeper = Doorkeeper::new(parts);
            let hangups = Hangups::listen().map_err(ServerError::Signals)?;
            let (keeper, files) = (Arc::clone(&doorkeeper), config.gateway_authority());
            tasks.spawn(reload_authority(keeper, files, hangups, last.clone()));
            hook.guarded(doorkeeper, service.clone())
        } else {
            Arc::new(hook)
        };
        let mut listen = config.broker();
        if let (Some(certificates), Some(first)) = (&tls.mqtt, listen.listen.first_mut()) {
            first.tls = Some(certificates.subscribe());
        }
        let bound = Broker::bind(listen, hook).await?;
        let mqtt = *bound.addresses().first().ok_or(BindError::NoAddress)?;
        let mqtt_plain = bound.addresses().get(1).copied();
        broker.get_or_init(|| bound.handle());
        bound.register_metrics(&mut registry);

        let stop = last.clone();
        tasks.spawn(async move {
            tls.keep(hangups, stop).await;
            "certificates"
        });
        let (kept, stop) = (Arc::clone(&keeper), last.clone());
        tasks.spawn(async move {
            kept.run(stop).await;
            "signing keys"
        });
        let stop = last.clone();
        tasks.spawn(async move {
            if let Err(error) = control.run(events, stop).await {
                tracing::error!(%error, "the control loop failed");
            }
            "control loop"
        });
        let import_metrics = ImportMetrics::default();
        import_metrics.register(&mut registry);
        let importer = Arc::new(Importer {
            store: Arc::clone(service.store()),
            assignments: Arc::new(service.clone()),
            folder: staging.path().to_owned(),
            limits: config.import(),
            metrics: import_metrics,
            unfinished: Mutex::new(rest.import),
        });
        // Nobody is shown half an import, unless the rest of it cannot be written.
        if let Err(error) = importer.finish().await {
            tracing::error!(%error, "an import that broke off is still not finished, the next one tries again");
        }
        app.registry.get_or_init(|| registry);
        app.loaded.get_or_init(|| Loaded {
            service,
            importer,
            keeper,
            people,
        });
        let addresses = Addresses {
            mqtt,
            mqtt_plain,
            http,
        };
        tracing::info!(%mqtt, %http, data_dir = %config.store.data_dir.display(), "serving");
        Ok(Self {
            addresses,
            app,
            broker: bound,
            committer,
            staging,
            tasks,
            last,
            shutdown_timeout: config.shutdown_timeout,
        })
    }

    /// Where it really listens: port 0 is resolved.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Works until `stop` is cancelled, then shuts down: connections first, so that what they said last is still
    /// written.
    ///
    /// # Errors
    /// A part of it ended by itself; the rest is shut down.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), ServerError> {
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            part = self.tasks.join_next() => Some(part_name(part)),
        };
        tracing::info!("shutting down");
        self.app.stopping.cancel();
        let deadline = Instant::now() + self.shutdown_timeout;
        let shutdown = self.broker.shutdown(self.shutdown_timeout).await;
        tracing::info!(
            drained = shutdown.drained,
            cut = shutdown.cut,
            "connections closed"
        );
        self.last.cancel();
        let rest = async {
            while self.tasks.join_next().await.is_some() {}
            self.committer.close().await;
        };
        if timeout_at(deadline, rest).await.is_err() {
            tracing::warn!("not every part ended in time");
        }
        drop(self.staging);
        ended.map_or(Ok(()), |part| Err(ServerError::Ended(part)))
    }
}

/// The broker's connections, once it is there.
struct Connections(Arc<OnceLock<broker::Handle>>);

impl Outlet for Connections {
    fn publish(&self, message: Message) {
        if let Some(broker) = self.0.get() {
            broker.publish(message);
        }
    }

    fn has_room(&self, gateway: &GatewayId) -> bool {
        let client = link_client(gateway);
        let largest = protocol::message::MAX_GATEWAY_PAYLOAD + MESSAGE_OVERHEAD;
        self.0
            .get()
            .is_some_and(|broker| broker.has_room(&client, largest))
    }
}

/// Where imports are staged.
enum Staging {
    Folder(PathBuf),
    /// Gone with the registrar, as everything in memory is.
    Temporary(TempDir),
}

impl Staging {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

async fn open(config: &Config) -> Result<(Arc<dyn Store>, Staging), ServerError> {
    if config.store.engine == Engine::Memory {
        let staging = Staging::Temporary(tempfile::tempdir().map_err(ServerError::Staging)?);
        return Ok((Arc::new(MemoryStore::new(config.retention())), staging));
    }
    let (folder, sled) = (config.store.data_dir.clone(), config.sled());
    let opened = spawn_blocking(move || SledStore::open(&folder, sled)).await;
    let store = opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let staging = Staging::Folder(store.path());
    Ok((Arc::new(store), staging))
}

/// Reads the gateways' CA certificates and revocation lists again on SIGHUP; what fails leaves the old ones in place.
async fn reload_authority(
    doorkeeper: Arc<Doorkeeper>,
    files: GatewayAuthority,
    mut hangups: Hangups,
    stop: CancellationToken,
) -> &'static str {
    loop {
        tokio::select! {
            () = stop.cancelled() => return "gateways' CA",
            () = hangups.next() => {}
        }
        match files.load() {
            Ok(authority) => doorkeeper.set_gateway_authority(authority),
            Err(error) => tracing::error!(%error, "gateways.client_ca is not read again, the old one stays"),
        }
    }
}

/// Writes lines about refused clients, one after the other: whoever fails holds up nobody else.
async fn write_audit(
    mut lines: mpsc::Receiver<AuditRecord>,
    commits: Commits,
    stop: CancellationToken,
) -> &'static str {
    loop {
        let line = tokio::select! {
            () = stop.cancelled() => break,
            line = lines.recv() => line,
        };
        let Some(line) = line else {
            // Nobody is left to write about; the task ends with all others.
            stop.cancelled().await;
            break;
        };
        let transaction = Transaction {
            audit: Some(line),
            ..Transaction::default()
        };
        if let Err(error) = commits.commit(transaction).await {
            tracing::warn!(%error, "a refused client is not in the audit log");
        }
    }
    "audit of refused clients"
}

/// Not into the log, which is kept and shipped elsewhere.
fn tell_first_admin(password: &str) {
    tell(format_args!(
        "registrar: first start: log in as {} with the one-time password {password} (registrar login --user {}), and give it a new one",
        people::first::NAME,
        people::first::NAME,
    ));
}

fn part_name(part: Option<Result<&'static str, tokio::task::JoinError>>) -> String {
    match part {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) => format!("task ({error})"),
        None => "tasks".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        config.store.engine = Engine::Memory;
        config.mqtt.listen.set_port(0);
        config.http.listen.set_port(0);
        config
    }

    #[tokio::test]
    async fn it_tells_where_it_listens_and_stops_in_order() {
        let server = Server::bind(config()).await.unwrap();
        let Addresses { mqtt, http, .. } = server.addresses();
        assert!(mqtt.port() != 0 && http.port() != 0);
        let stop = CancellationToken::new();
        let running = tokio::spawn(server.run(stop.clone()));
        tokio::net::TcpStream::connect(mqtt).await.unwrap();
        stop.cancel();
        running.await.unwrap().unwrap();
        assert!(tokio::net::TcpStream::connect(http).await.is_err());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut http = config();
        http.http.listen = taken.local_addr().unwrap();
        let error = Server::bind(http).await.err().unwrap().to_string();
        assert!(
            error.starts_with("http.listen: cannot listen on 127.0.0.1:"),
            "{error}"
        );
        let mut mqtt = config();
        mqtt.mqtt.listen = taken.local_addr().unwrap();
        let error = Server::bind(mqtt).await.err().unwrap().to_string();
        assert!(
            error.starts_with("mqtt.listen: cannot listen on 127.0.0.1:"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_part_that_dies_takes_the_registrar_with_it() {
        let mut server = Server::bind(config()).await.unwrap();
        server.tasks.spawn(async { panic!("as a bug would") });
        let ended = server.run(CancellationToken::new()).await;
        assert!(matches!(ended, Err(ServerError::Ended(_))), "{ended:?}");
    }
}
