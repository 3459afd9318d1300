mod model;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use jiff::ToSpan;
use protocol::message::{HeldState, MoveState};
use uuid::Uuid;

use super::*;
use crate::{api::Step, store::record::MoveSource};

/// A directory and gateways that are on or off.
#[derive(Default)]
pub(super) struct Place {
    rows: BTreeMap<DeviceId, Assignment>,
    online: BTreeSet<GatewayId>,
    ids: Cell<u128>,
}

impl World for Place {
    fn assignment(&self, device: &DeviceId) -> Option<Assignment> {
        self.rows.get(device).cloned()
    }

    fn connected_on(&self, gateway: &GatewayId) -> Vec<DeviceId> {
        let rows = self
            .rows
            .iter()
            .filter(|(_, row)| row.connected.as_ref() == Some(gateway));
        rows.map(|(device, _)| device.clone()).collect()
    }

    fn is_online(&self, gateway: &GatewayId) -> bool {
        self.online.contains(gateway)
    }

    fn endpoint(&self, gateway: &GatewayId) -> Option<Endpoint> {
        format!("mqtt://{gateway}.example:1883").parse().ok()
    }

    fn new_id(&self) -> CommandId {
        self.ids.set(self.ids.get() + 1);
        CommandId::new(Uuid::from_u128(self.ids.get()))
    }
}

impl Place {
    fn seen(&mut self, device: &DeviceId, gateway: &GatewayId) {
        let row = self.rows.entry(device.clone()).or_insert(Assignment {
            gateway: None,
            epoch: Epoch::new(0),
            connected: None,
        });
        row.connected = Some(gateway.clone());
    }

    fn left(&mut self, device: &DeviceId, gateway: &GatewayId) {
        let row = self.rows.get_mut(device);
        if let Some(row) = row.filter(|row| row.connected.as_ref() == Some(gateway)) {
            row.connected = None;
        }
    }

    /// Changes a row as the service does, and returns what it tells.
    fn assign(&mut self, device: &DeviceId, to: &GatewayId, now: Timestamp) -> Input {
        let before = self.rows.get(device).cloned();
        let epoch = before.as_ref().map_or(Epoch::FIRST, |row| row.epoch.next());
        let connected = before.as_ref().and_then(|row| row.connected.clone());
        let old = before.and_then(|row| row.gateway);
        let mut from: Vec<_> = old
            .into_iter()
            .chain(connected.clone())
            .filter(|gateway| gateway != to)
            .collect();
        from.dedup();
        let row = Assignment {
            gateway: Some(to.clone()),
            epoch,
            connected,
        };
        self.rows.insert(device.clone(), row);
        if from.is_empty() {
            return Input::Assigned(device.clone());
        }
        Input::Moved(MoveRecord {
            id: self.new_id(),
            device: device.clone(),
            from: from.into_iter().map(pursuit::source).collect(),
            to: to.clone(),
            epoch,
            reason: MoveReason::Operator,
            actor: "test".into(),
            grace_ms: 7,
            spread_ms: 0,
            state: MigrationState::Planned,
            steps: vec![Step {
                state: MigrationState::Planned,
                at: now,
            }],
            detail: None,
            revision: 1,
        })
    }

    fn remove(&mut self, device: &DeviceId) -> Option<Input> {
        let row = self.rows.get_mut(device).filter(|row| row.gateway.is_some())?;
        row.gateway = None;
        row.epoch = row.epoch.next();
        Some(Input::Removed(device.clone()))
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        grace: Duration::from_secs(5),
        resend_after: Duration::from_secs(10),
        max_strays: 100,
    }
}

/// The core with its surroundings and a clock.
struct Bench {
    moves: Moves,
    world: Place,
    now: Timestamp,
}

fn d(id: &str) -> DeviceId {
    id.parse().unwrap()
}

fn g(id: &str) -> GatewayId {
    id.parse().unwrap()
}

impl Bench {
    fn new() -> Self {
        let world = Place {
            online: [g("a"), g("b"), g("c")].into(),
            ..Place::default()
        };
        Self {
            moves: Moves::new(settings()),
            world,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn handle(&mut self, input: Input) -> Vec<Command> {
        self.now = self.now.checked_add(1.second()).unwrap();
        let commands = self.moves.handle(input, &self.world, self.now);
        for command in &commands {
            match command {
                Command::Seen(device, gateway) => self.world.seen(device, gateway),
                Command::Left(device, gateway) => self.world.left(device, gateway),
                _ => {}
            }
        }
        commands
    }

    fn assign(&mut self, device: &str, to: &str) -> Vec<Command> {
        let input = self.world.assign(&d(device), &g(to), self.now);
        self.handle(input)
    }

    fn connected(&mut self, gateway: &str, device: &str) -> Vec<Command> {
        self.handle(Input::Heard(
            g(gateway),
            Event::Connected {
                device: d(device),
                epoch: None,
            },
        ))
    }

    fn disconnected(&mut self, gateway: &str, device: &str) -> Vec<Command> {
        self.handle(Input::Heard(
            g(gateway),
            Event::Disconnected { device: d(device) },
        ))
    }

    fn noticed(&mut self, gateway: &str, device: &str, epoch: u64) -> Vec<Command> {
        let (epoch, command) = (Epoch::new(epoch), self.world.new_id());
        self.handle(Input::Heard(
            g(gateway),
            Event::Noticed {
                device: d(device),
                epoch,
                command,
            },
        ))
    }

    fn cleared(&mut self, gateway: &str, device: &str, epoch: u64) -> Vec<Command> {
        let (epoch, command) = (Epoch::new(epoch), self.world.new_id());
        self.handle(Input::Heard(
            g(gateway),
            Event::Cleared {
                device: d(device),
                epoch,
                command,
            },
        ))
    }

    fn snapshot(
        &mut self,
        gateway: &str,
        connected: &[&str],
        held: &[(&str, u64, HeldState)],
    ) -> Vec<Command> {
        let notice = |(device, epoch, state): &(&str, u64, HeldState)| HeldNotice {
            device: d(device),
            epoch: Epoch::new(*epoch),
            command: self.world.new_id(),
            state: *state,
        };
        let held = held.iter().map(notice).collect();
        let connected = connected.iter().map(|device| d(device)).collect();
        self.handle(Input::Snapshot {
            gateway: g(gateway),
            connected,
            held,
        })
    }

    /// The only open move.
    fn open(&self) -> &MoveRecord {
        let mut open = self.moves.open();
        let only = open.next().expect("a move is open");
        assert!(open.next().is_none());
        only
    }
}

/// What gateways are told, briefly: `a notify d1 2 operator`.
fn told(commands: &[Command]) -> Vec<String> {
    let told = commands.iter().filter_map(|command| match command {
        Command::Send(gateway, command) => Some(match &command.instruction {
            Instruction::Notify {
                device,
                epoch,
                reason,
                grace_ms,
                ..
            } => {
                format!("{gateway} notify {device} {epoch} {reason:?} {grace_ms}")
            }
            Instruction::Clear { device, epoch } => format!("{gateway} clear {device} {epoch}"),
            Instruction::Admit { device, epoch } => format!("{gateway} admit {device} {epoch}"),
            Instruction::Resync => format!("{gateway} resync"),
        }),
        _ => None,
    });
    told.collect()
}

fn states(commands: &[Command]) -> Vec<MigrationState> {
    let states = commands.iter().filter_map(|command| match command {
        Command::Persist(record) => Some(record.state),
        _ => None,
    });
    states.collect()
}

fn counted(commands: &[Command]) -> Vec<Counted> {
    let counted = commands.iter().filter_map(|command| match command {
        Command::Count(counted) => Some(*counted),
        _ => None,
    });
    counted.collect()
}

use MigrationState::{Asked, Done, Notified, Planned, Seen, Superseded};

#[test]
fn a_move_takes_every_step() {
    let mut bench = Bench::new();
    assert!(bench.assign("d1", "a").is_empty());
    bench.connected("a", "d1");
    assert_eq!(
        told(&bench.assign("d1", "b")),
        ["b admit d1 2", "a notify d1 2 Operator 7"]
    );
    assert_eq!(states(&bench.noticed("a", "d1", 2)), [Notified]);
    assert_eq!(
        states(&bench.handle(Input::Asked(d("d1"), Epoch::new(2)))),
        [Asked]
    );
    let seen = bench.connected("b", "d1");
    assert_eq!(
        (states(&seen), told(&seen)),
        (vec![Seen], vec!["a clear d1 2".to_owned()])
    );
    let done = bench.cleared("a", "d1", 2);
    let Some(Command::Persist(record)) = done.first() else {
        panic!("{done:?}")
    };
    let steps: Vec<_> = record.steps.iter().map(|step| step.state).collect();
    assert_eq!(steps, [Planned, Notified, Asked, Seen, Done]);
    assert_eq!(
        record.from,
        [MoveSource {
            gateway: g("a"),
            noticed: true,
            cleared: true
        }]
    );
    assert_eq!(bench.moves.open().count(), 0);
}

#[test]
fn a_device_that_is_there_already_is_seen_at_once() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.connected("b", "d1");
    let moved = bench.assign("d1", "b");
    assert_eq!(states(&moved), [Seen]);
    assert_eq!(told(&moved), ["b admit d1 2", "a clear d1 2"]);
}

#[test]
fn a_later_move_takes_over_the_places_of_the_one_it_supersedes() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.assign("d1", "b");
    let moved = bench.assign("d1", "c");
    assert_eq!(states(&moved), [Superseded, Planned]);
    assert_eq!(
        told(&moved),
        [
            "c admit d1 3",
            "a notify d1 3 Operator 7",
            "b notify d1 3 Operator 7"
        ]
    );
    // And back: the old gateway is a place no more.
    let back = bench.assign("d1", "a");
    assert_eq!(
        told(&back),
        [
            "a admit d1 4",
            "b notify d1 4 Operator 7",
            "c notify d1 4 Operator 7"
        ]
    );
    assert_eq!(bench.open().epoch, Epoch::new(4));
}

#[test]
fn moves_that_arrive_in_the_wrong_order_end_as_in_the_right_one() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    let first = bench.world.assign(&d("d1"), &g("b"), bench.now);
    let second = bench.world.assign(&d("d1"), &g("c"), bench.now);
    bench.handle(second);
    let late = bench.handle(first);
    assert_eq!(
        told(&late),
        ["a notify d1 3 Operator 7", "b notify d1 3 Operator 7"]
    );
    assert!(states(&late).contains(&Superseded));
    let from: Vec<_> = bench
        .open()
        .from
        .iter()
        .map(|source| source.gateway.as_str())
        .collect();
    assert_eq!(from, ["b", "a"]);
}

#[test]
fn what_is_over_is_counted_and_ignored() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.assign("d1", "b");
    bench.assign("d1", "c");
    assert_eq!(counted(&bench.noticed("a", "d1", 2)), [Counted::Stale]);
    assert_eq!(counted(&bench.cleared("a", "d1", 2)), [Counted::Stale]);
    assert!(bench.handle(Input::Asked(d("d1"), Epoch::new(2))).is_empty());
    assert_eq!(bench.open().state, Planned);
}

#[test]
fn a_stray_is_told_and_cleared_once_it_is_home() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    let stray = bench.connected("b", "d1");
    assert_eq!(told(&stray), ["b notify d1 1 Policy 5000"]);
    assert_eq!(counted(&stray), [Counted::Stray]);
    bench.noticed("b", "d1", 1);
    assert_eq!(bench.moves.wanted_on(&g("b")), [(d("d1"), Epoch::FIRST)].into());
    assert_eq!(told(&bench.connected("a", "d1")), ["b clear d1 1"]);
    bench.cleared("b", "d1", 1);
    assert_eq!(bench.moves.strays(), 0);
}

#[test]
fn an_unknown_device_is_counted_and_followed_once_it_is_assigned() {
    let mut bench = Bench::new();
    let unknown = bench.connected("b", "d1");
    assert_eq!(
        (counted(&unknown), told(&unknown)),
        (vec![Counted::Unknown], vec![])
    );
    assert_eq!(
        told(&bench.assign("d1", "a")),
        ["a admit d1 1", "b notify d1 1 Operator 7"]
    );
}

#[test]
fn strays_that_cannot_be_remembered_are_told_all_the_same() {
    let mut bench = Bench::new();
    bench.moves.settings.max_strays = 1;
    bench.assign("d1", "a");
    bench.assign("d2", "a");
    bench.connected("b", "d1");
    let second = bench.connected("b", "d2");
    assert_eq!(told(&second), ["b notify d2 1 Policy 5000"]);
    assert_eq!(counted(&second), [Counted::Stray, Counted::Forgotten]);
    assert_eq!(bench.moves.strays(), 1);
}

#[test]
fn a_late_word_of_an_old_gateway_does_not_take_a_device_from_home() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.assign("d1", "b");
    bench.connected("b", "d1");
    bench.cleared("a", "d1", 2);
    assert_eq!(told(&bench.connected("a", "d1")), ["a notify d1 2 Policy 5000"]);
    assert_eq!(told(&bench.disconnected("a", "d1")), ["a clear d1 2"]);
    assert_eq!(bench.world.rows[&d("d1")].connected, Some(g("b")));
}

#[test]
fn an_offline_gateway_holds_up_nothing_and_hears_of_it_when_it_returns() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.connected("a", "d1");
    bench.world.online.remove(&g("a"));
    bench.handle(Input::Offline(g("a")));
    assert_eq!(bench.world.rows[&d("d1")].connected, None);
    assert_eq!(told(&bench.assign("d1", "b")), ["b admit d1 2"]);
    assert_eq!(states(&bench.connected("b", "d1")), [Seen, Done]);
    bench.world.online.insert(g("a"));
    let back = bench.snapshot("a", &[], &[("d1", 2, HeldState::Published)]);
    assert_eq!(told(&back), ["a clear d1 2"]);
}

#[test]
fn a_move_asked_of_a_gateway_that_is_down_is_delivered_when_it_returns() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.world.online.remove(&g("a"));
    assert_eq!(told(&bench.assign("d1", "b")), ["b admit d1 2"]);
    bench.world.online.insert(g("a"));
    assert_eq!(
        told(&bench.snapshot("a", &["d1"], &[])),
        ["a notify d1 2 Operator 7", "a notify d1 2 Operator 7"]
    );
}

#[test]
fn reconciliation_sends_the_difference() {
    let mut bench = Bench::new();
    for device in ["d1", "d2", "d3", "d4", "d5"] {
        bench.assign(device, "a");
    }
    bench.assign("d1", "b"); // a lower epoch is held
    bench.assign("d2", "b"); // the right one is
    let difference = bench.snapshot(
        "a",
        &["d4"],
        &[
            ("d1", 1, HeldState::Moved),
            ("d2", 2, HeldState::Published),
            ("d3", 0, HeldState::Published), // belongs there
            ("d9", 3, HeldState::Published), // nobody knows it
        ],
    );
    let mut told = told(&difference);
    told.sort();
    assert_eq!(told, ["a admit d3 1", "a clear d9 3", "a notify d1 2 Operator 7"]);
    assert_eq!(bench.world.rows[&d("d4")].connected, Some(g("a")));
}

#[test]
fn a_rejected_device_that_belongs_there_is_let_in() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.assign("d1", "b");
    bench.assign("d1", "a");
    let rejected = Event::Rejected {
        device: d("d1"),
        epoch: Epoch::new(2),
    };
    assert_eq!(
        told(&bench.handle(Input::Heard(g("a"), rejected))),
        ["a admit d1 3"]
    );
}

#[test]
fn what_is_not_answered_is_sent_again() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.assign("d1", "b");
    assert!(bench.handle(Input::Tick).is_empty());
    bench.now = bench.now.checked_add(10.seconds()).unwrap();
    let again = bench.handle(Input::Tick);
    assert_eq!(told(&again), ["a notify d1 2 Operator 7"]);
    assert_eq!(counted(&again), [Counted::Resent]);
    bench.noticed("a", "d1", 2);
    bench.now = bench.now.checked_add(10.seconds()).unwrap();
    assert!(bench.handle(Input::Tick).is_empty());
}

#[test]
fn a_failed_report_shows_until_the_device_is_seen() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.assign("d1", "b");
    let command = bench.open().id;
    let report = |state, error: Option<&str>| {
        let error = error.map(str::to_owned);
        let reported = Event::Reported {
            device: d("d1"),
            epoch: Epoch::new(2),
            command,
            state,
            error,
        };
        Input::Heard(g("a"), reported)
    };
    bench.handle(report(MoveState::Failed, Some("connection refused")));
    assert!(
        bench
            .open()
            .detail
            .as_ref()
            .unwrap()
            .ends_with("connection refused")
    );
    assert!(
        bench
            .handle(report(MoveState::Failed, Some("connection refused")))
            .is_empty()
    );
    bench.connected("b", "d1");
    assert_eq!(bench.open().detail, None);
}

#[test]
fn removing_a_device_ends_its_move_and_clears_its_notices() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.assign("d1", "b");
    let input = bench.world.remove(&d("d1")).unwrap();
    let removed = bench.handle(input);
    assert_eq!(
        (states(&removed), told(&removed)),
        (vec![Superseded], vec!["a clear d1 3".to_owned()])
    );
    bench.cleared("a", "d1", 3);
    assert_eq!(bench.moves.strays(), 0);
}

#[test]
fn a_restored_move_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.assign("d1", "a");
    bench.assign("d1", "b");
    bench.noticed("a", "d1", 2);
    let stored: Vec<_> = bench.moves.open().cloned().collect();
    bench.moves = Moves::new(settings());
    assert!(
        bench
            .moves
            .restore(stored.clone(), &bench.world, bench.now)
            .is_empty()
    );
    assert_eq!(bench.open(), &stored[0]);
    assert_eq!(states(&bench.connected("b", "d1")), [Seen]);
}
