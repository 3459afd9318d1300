//! The one loop that owns the cores `moves` and `gateways`.
//!
//! It takes what waits on its channel, hands it to the cores, writes the steps they take, and only then tells
//! gateways and whoever waits. While the store fails it tries again and takes nothing more in: gateways feel that as
//! back-pressure, devices do not, as their queries never come here.

mod outbox;
mod outcome;
mod seen;
#[cfg(test)]
mod tests;
mod view;
mod world;

use std::{sync::Arc, time::Duration};

use broker::{Message, QoS};
use jiff::Timestamp;
use protocol::{
    CommandId, DeviceId, Epoch, GatewayId, Topic,
    message::{self, Events, GatewayState, GatewayStatus, Instruction, Message as _},
    ticket::KeySet,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    api::MigrationState,
    denials::{self, Denials},
    directory::Directory,
    gateways::{self, Gateways, Refused},
    metrics::Metrics,
    moves::{self, Moves},
    store::{
        Transaction,
        committer::{CommitError, Commits},
        record::{GatewayRecord, MoveRecord},
    },
};
use outbox::Outbox;
pub use outbox::Outlet;
use outcome::Outcome;
use seen::Seen;
pub use view::{Advertised, KnownGateway, View};
use world::Surroundings;

/// Events taken in one go; what they lead to is written together.
const BATCH: usize = 64;

/// How soon to look again whether a gateway's queue has room for what waits.
const FLUSH_AFTER: Duration = Duration::from_millis(20);

/// What reaches the loop.
#[derive(Debug)]
pub enum Event {
    /// A row was committed and applied to the directory.
    Changed(Change),
    /// A device with an open move asked, and was answered with this epoch.
    Asked(DeviceId, Epoch),
    /// A gateway's status over a link; answered, once it is durable, with whether it was accepted.
    Status(u64, GatewayStatus, oneshot::Sender<bool>),
    /// A gateway's events over a link; answered likewise.
    Events(u64, GatewayId, Events, oneshot::Sender<bool>),
}

/// What was committed of one device.
#[derive(Clone, Debug)]
pub enum Change {
    /// A row and a move.
    Moved(MoveRecord),
    /// A row that needs no move.
    Assigned(DeviceId),
    /// The removal of a row.
    Removed(DeviceId),
}

/// The figures of the loop.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Those of the gateways' core; their status interval is the clock of the loop, too.
    pub gateways: gateways::Settings,
    /// Those of the moves' core.
    pub moves: moves::Settings,
    /// When an open move without a step counts as stuck.
    pub stuck_after: Duration,
    /// How long to wait before a failed write is tried again.
    pub store_retry: Duration,
    /// Instructions that wait for one gateway; one more is dropped, and sent again later.
    pub max_waiting: usize,
}

/// The loop; see the module.
pub struct Control {
    settings: Settings,
    gateways: Gateways,
    moves: Moves,
    denials: Denials,
    directory: Arc<Directory>,
    commits: Commits,
    view: Arc<View>,
    metrics: Metrics,
    outlet: Arc<dyn Outlet>,
    keys: watch::Receiver<Arc<KeySet>>,
    outbox: Outbox,
    seen: Seen,
}

/// What the loop works on.
pub struct Parts {
    /// The directory, to note in it where devices are.
    pub directory: Arc<Directory>,
    /// Where steps are written.
    pub commits: Commits,
    /// What it shows.
    pub view: Arc<View>,
    /// What it counts.
    pub metrics: Metrics,
    /// Whom it tells.
    pub outlet: Arc<dyn Outlet>,
    /// The keys gateways are to check tickets with.
    pub keys: watch::Receiver<Arc<KeySet>>,
}

impl Control {
    /// Takes up what the store holds, and shows it.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn restore(
        settings: Settings,
        gateways: Vec<(GatewayId, GatewayRecord)>,
        open: Vec<MoveRecord>,
        parts: Parts,
        now: Timestamp,
    ) -> Result<Self, CommitError> {
        let Parts {
            directory,
            commits,
            view,
            metrics,
            outlet,
            keys,
        } = parts;
        let gateways = Gateways::restore(settings.gateways.clone(), gateways, now);
        let moves = Moves::new(settings.moves.clone());
        let denials = Denials::new(settings.moves.resend_after);
        let outbox = Outbox::new(settings.max_waiting);
        let mut control = Self {
            settings,
            gateways,
            moves,
            denials,
            directory,
            commits,
            view,
            metrics,
            outlet,
            keys,
            outbox,
            seen: Seen::default(),
        };
        for (id, gateway) in control.gateways.iter() {
            control.view.show_gateway(&control.directory, id, gateway);
        }
        for record in &open {
            control
                .directory
                .set_moving(record.device.as_str(), record.state < MigrationState::Asked);
        }
        control.view.show_moves(open.iter());
        let world = Surroundings {
            directory: &control.directory,
            gateways: &control.gateways,
            seen: &control.seen,
        };
        let mut disabled = Vec::new();
        control.directory.for_each(|id, row| {
            if row.is_disabled() {
                disabled.extend(id.parse());
            }
        });
        for device in disabled {
            control.denials.restore(device, &world, now);
        }
        let commands = control.moves.restore(open, &world, now);
        let mut outcome = Outcome::default();
        control.carry_out(commands, &mut outcome);
        control.commit(&outcome).await?;
        control.finish(outcome);
        control.measure(now);
        Ok(control)
    }

    /// Runs until it is cancelled.
    ///
    /// # Errors
    /// The store is closed.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        cancel: CancellationToken,
    ) -> Result<(), CommitError> {
        let mut ticks = tokio::time::interval(self.settings.gateways.status_interval / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // Ticks come first: whoever is silent must be noticed however much the others say.
            let (mut ticked, mut rekeyed) = (false, false);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                _ = ticks.tick() => ticked = true,
                Ok(()) = self.keys.changed() => rekeyed = true,
                received = events.recv_many(&mut batch, BATCH) => if received == 0 {
                    return Ok(());
                },
                () = tokio::time::sleep(FLUSH_AFTER), if !self.outbox.is_empty() => {}
            }
            let now = now();
            let mut outcome = Outcome::default();
            if rekeyed {
                let online = self.gateways.iter().filter(|(_, gateway)| gateway.is_online());
                let online: Vec<_> = online.map(|(id, _)| id.clone()).collect();
                for gateway in online {
                    self.show_keys(gateway, &mut outcome);
                }
            }
            for event in batch.drain(..) {
                self.take(event, now, &mut outcome);
            }
            if ticked {
                self.tick(now, &mut outcome);
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                written = self.write(&outcome) => written?,
            }
            self.finish(outcome);
            if ticked {
                self.probe().await;
                self.measure(now);
            }
        }
    }

    fn take(&mut self, event: Event, now: Timestamp, outcome: &mut Outcome) {
        match event {
            Event::Changed(Change::Moved(record)) => {
                let from = record.from.iter().map(|source| source.gateway.clone());
                self.deny_or_not(&record.device, from.collect(), now, outcome);
                outcome.moves.entry(record.id).or_insert_with(|| record.clone());
                self.advance(moves::Input::Moved(record), now, outcome);
            }
            Event::Changed(Change::Assigned(device)) => {
                self.deny_or_not(&device, Vec::new(), now, outcome);
                self.advance(moves::Input::Assigned(device), now, outcome);
            }
            Event::Changed(Change::Removed(device)) => {
                self.deny_or_not(&device, Vec::new(), now, outcome);
                self.advance(moves::Input::Removed(device), now, outcome);
            }
            Event::Asked(device, epoch) => self.advance(moves::Input::Asked(device, epoch), now, outcome),
            Event::Status(link, status, verdict) => {
                let id = status.gateway.clone();
                let accepted = self.hear(gateways::Input::Status(link, status), now, outcome);
                if accepted {
                    outcome.touched.insert(id);
                }
                outcome.verdicts.push((verdict, accepted));
            }
            Event::Events(link, gateway, events, verdict) => {
                let accepted = self.hear(gateways::Input::Events(link, gateway, events), now, outcome);
                outcome.verdicts.push((verdict, accepted));
            }
        }
    }

    fn tick(&mut self, now: Timestamp, outcome: &mut Outcome) {
        self.hear(gateways::Input::Tick, now, outcome);
        self.advance(moves::Input::Tick, now, outcome);
        self.deny(denials::Input::Tick, now, outcome);
    }

    /// Feeds the gateways' core; false when it refused the message.
    fn hear(&mut self, input: gateways::Input, now: Timestamp, outcome: &mut Outcome) -> bool {
        let mut accepted = true;
        for command in self.gateways.handle(input, now) {
            match command {
                gateways::Command::Persist(id, record) => {
                    if let Some(status) = record
                        .status
                        .as_ref()
                        .filter(|status| status.endpoints.is_empty())
                    {
                        tracing::warn!(gateway = %id, state = ?status.state, "the gateway advertises no endpoint, its devices are told no_gateway");
                    }
                    outcome.gateways.insert(id, record);
                }
                gateways::Command::Publish(status) => {
                    outcome.touched.insert(status.gateway.clone());
                    outcome.published.push(status);
                }
                gateways::Command::Online(gateway) => tracing::info!(%gateway, "online"),
                gateways::Command::Offline(gateway) => {
                    tracing::warn!(%gateway, "offline");
                    self.outbox.forget(&gateway);
                    self.advance(moves::Input::Offline(gateway), now, outcome);
                }
                gateways::Command::Heard(gateway, event) => {
                    self.deny(denials::Input::Heard(&gateway, &event), now, outcome);
                    self.advance(moves::Input::Heard(gateway, event), now, outcome);
                }
                gateways::Command::Snapshot {
                    gateway,
                    connected,
                    held,
                } => {
                    tracing::info!(%gateway, connected = connected.len(), held = held.len(), "snapshot");
                    self.show_keys(gateway.clone(), outcome);
                    let input = denials::Input::Snapshot {
                        gateway: &gateway,
                        connected: &connected,
                        held: &held,
                    };
                    self.deny(input, now, outcome);
                    self.advance(
                        moves::Input::Snapshot {
                            gateway,
                            connected,
                            held,
                        },
                        now,
                        outcome,
                    );
                }
                gateways::Command::Resync(gateway) => {
                    let command = message::Command {
                        command: new_id(),
                        instruction: Instruction::Resync,
                    };
                    outcome.send(gateway, command);
                }
                gateways::Command::Refuse(refused) => {
                    self.metrics.refused(refused);
                    accepted &= refused == Refused::TooLarge;
                }
            }
        }
        accepted
    }

    /// Feeds the denials' core, before the moves' core is: what that says of a device then, takes the place of what this did.
    fn deny(&mut self, input: denials::Input<'_>, now: Timestamp, outcome: &mut Outcome) {
        let world = Surroundings {
            directory: &self.directory,
            gateways: &self.gateways,
            seen: &self.seen,
        };
        for command in self.denials.handle(input, &world, now) {
            match command {
                denials::Command::Send(gateway, command) => outcome.send(gateway, command),
                denials::Command::Intruder => {
                    self.metrics.intruders.inc();
                }
                denials::Command::Resent => self.metrics.counted(moves::Counted::Resent),
            }
        }
    }

    /// A row was changed: the device may be disabled now, or not any more.
    fn deny_or_not(
        &mut self,
        device: &DeviceId,
        mut places: Vec<GatewayId>,
        now: Timestamp,
        outcome: &mut Outcome,
    ) {
        places.extend(self.moves.places_of(device));
        self.deny(denials::Input::Changed { device, places }, now, outcome);
    }

    /// Has a gateway told all keys that tickets are to be checked with.
    fn show_keys(&self, gateway: GatewayId, outcome: &mut Outcome) {
        let keys: Vec<_> = self.keys.borrow().iter().cloned().collect();
        let command = message::Command {
            command: new_id(),
            instruction: Instruction::Keys { keys },
        };
        outcome.send(gateway, command);
    }

    /// Feeds the moves' core.
    fn advance(&mut self, input: moves::Input, now: Timestamp, outcome: &mut Outcome) {
        let world = Surroundings {
            directory: &self.directory,
            gateways: &self.gateways,
            seen: &self.seen,
        };
        let commands = self.moves.handle(input, &world, now);
        self.carry_out(commands, outcome);
    }

    fn carry_out(&mut self, commands: Vec<moves::Command>, outcome: &mut Outcome) {
        for command in commands {
            match command {
                moves::Command::Persist(record) => {
                    outcome.changed.insert(record.id);
                    outcome.moves.insert(record.id, record);
                }
                moves::Command::Seen(device, gateway) => {
                    self.seen.arrived(&self.directory, device, &gateway);
                }
                moves::Command::Left(device, gateway) => {
                    self.seen.left(&self.directory, &device, &gateway);
                }
                moves::Command::Send(gateway, command) => outcome.send(gateway, command),
                moves::Command::Count(counted) => self.metrics.counted(counted),
            }
        }
    }

    /// Writes what is to be written, however often it takes.
    async fn write(&self, outcome: &Outcome) -> Result<(), CommitError> {
        if outcome.transactions().is_empty() {
            return Ok(());
        }
        loop {
            match self.commit(outcome).await {
                Err(CommitError::Failed(error)) => {
                    if self.view.set_storing(false) {
                        tracing::error!(%error, "steps of moves cannot be stored, trying again");
                    }
                    tokio::time::sleep(self.settings.store_retry).await;
                }
                written => {
                    if !self.view.set_storing(true) {
                        tracing::info!("steps of moves are stored again");
                    }
                    return written;
                }
            }
        }
    }

    /// Finds out whether a store that failed can be written again, when nobody else writes.
    async fn probe(&self) {
        if self.view.is_storing() {
            return;
        }
        if self.commits.commit(Transaction::default()).await.is_ok() {
            self.view.set_storing(true);
            tracing::info!("the store can be written again");
        }
    }

    async fn commit(&self, outcome: &Outcome) -> Result<(), CommitError> {
        let commits = outcome
            .transactions()
            .into_iter()
            .map(|transaction| self.commits.commit(transaction));
        futures_util::future::join_all(commits)
            .await
            .into_iter()
            .try_for_each(|written| written.map(drop))
    }

    /// Shows what is durable now: to those who wait, to gateways, to subscribers.
    fn finish(&mut self, outcome: Outcome) {
        for record in outcome.moves.values() {
            let asks = !record.is_closed() && record.state < MigrationState::Asked;
            if !asks {
                self.directory.end_moving(record.device.as_str(), record.epoch);
            }
            if outcome.changed.contains(&record.id) {
                tracing::info!(device = %record.device, command = %record.id, state = ?record.state, to = %record.to, "move");
            }
        }
        self.view.show_moves(outcome.moves.values());
        for id in outcome.gateways.keys().chain(&outcome.touched) {
            if let Some(gateway) = self.gateways.get(id) {
                self.view.show_gateway(&self.directory, id, gateway);
            }
        }
        for status in &outcome.published {
            self.outlet.publish(Message {
                topic: Topic::GatewayStatus(status.gateway.clone()).to_string(),
                payload: status.to_payload().into(),
                qos: QoS::AtLeastOnce,
                ..Message::default()
            });
        }
        for (gateway, command) in outcome.sends {
            if !self.outbox.push(gateway, command) {
                self.metrics.dropped_commands.inc();
            }
        }
        self.outbox.flush(self.outlet.as_ref(), &self.metrics);
        for (verdict, accepted) in outcome.verdicts {
            // Nobody waits any more when the connection is gone.
            let _ = verdict.send(accepted);
        }
    }

    fn measure(&self, now: Timestamp) {
        let metrics = &self.metrics;
        metrics
            .devices
            .set(i64::try_from(self.directory.len()).unwrap_or(i64::MAX));
        metrics
            .strays
            .set(i64::try_from(self.moves.strays()).unwrap_or(i64::MAX));
        let world = Surroundings {
            directory: &self.directory,
            gateways: &self.gateways,
            seen: &self.seen,
        };
        metrics
            .disabled
            .set(i64::try_from(self.directory.disabled()).unwrap_or(i64::MAX));
        metrics
            .denials_waiting
            .set(crate::metrics::gauge(self.denials.unanswered(&world)));
        let stuck = |record: &&MoveRecord| is_stuck(record, self.settings.stuck_after, now);
        metrics.stuck.set(self.moves.open().filter(stuck).count() as i64);
        metrics.count_moves(self.moves.open().map(|record| record.state));
        let states = self
            .gateways
            .iter()
            .map(|(_, gateway)| match gateway.status().state {
                GatewayState::Online => "online",
                GatewayState::Draining => "draining",
                GatewayState::Offline => "offline",
            });
        metrics.count_gateways(states);
    }
}

/// Whether an open move took no step for too long.
pub fn is_stuck(record: &MoveRecord, after: Duration, now: Timestamp) -> bool {
    let last = record.steps.last().map_or(now, |step| step.at);
    !record.is_closed() && Duration::try_from(now.duration_since(last)).is_ok_and(|waited| waited > after)
}

/// The time, for the cores.
#[allow(
    clippy::disallowed_methods,
    reason = "the loop drives the cores and hands them their time"
)]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A fresh id for a command or a move.
pub fn new_id() -> CommandId {
    CommandId::new(Uuid::now_v7())
}
