//! Snapshots, put together from their parts.

use protocol::{
    CommandId, DeviceId,
    message::{Event, HeldNotice, Snapshot},
};

/// How far a gateway's snapshot is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Assembly {
    /// There is none to wait for.
    #[default]
    Idle,
    /// Some parts of it are there.
    Open(Parts),
    /// It was refused; the parts of it that are still to come are, too.
    Refused(CommandId),
}

/// A snapshot some parts of which are there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parts {
    sync: CommandId,
    next: u32,
    connected: Vec<DeviceId>,
    held: Vec<HeldNotice>,
    /// What happened since the snapshot was taken; it counts after it.
    since: Vec<Event>,
}

/// What became of an event.
pub(super) enum Assembled {
    /// It is no part of a snapshot, and there is none to wait for.
    Event(Event),
    /// More parts are to come.
    Waiting,
    /// That was the last part.
    Whole {
        connected: Vec<DeviceId>,
        held: Vec<HeldNotice>,
        since: Vec<Event>,
    },
    /// A part is missing.
    Broken,
    /// It has more devices and notices than allowed.
    TooLarge,
}

/// Takes one event in; `max` bounds what is kept.
pub(super) fn take(assembly: &mut Assembly, event: Event, max: usize) -> Assembled {
    match event {
        Event::Snapshot(part) => take_part(assembly, part, max),
        event => match assembly {
            Assembly::Open(open) if open.len() < max => {
                open.since.push(event);
                Assembled::Waiting
            }
            Assembly::Open(open) => {
                *assembly = Assembly::Refused(open.sync);
                Assembled::TooLarge
            }
            Assembly::Idle | Assembly::Refused(_) => Assembled::Event(event),
        },
    }
}

fn take_part(assembly: &mut Assembly, part: Snapshot, max: usize) -> Assembled {
    let mut open = match std::mem::take(assembly) {
        // Asking for another one would bring the same again.
        Assembly::Refused(sync) if sync == part.sync => {
            *assembly = Assembly::Refused(sync);
            return Assembled::Waiting;
        }
        // The first part throws away what was there: the gateway has started anew.
        _ if part.part == 0 => Parts {
            sync: part.sync,
            next: 0,
            connected: Vec::new(),
            held: Vec::new(),
            since: Vec::new(),
        },
        Assembly::Open(open) if open.sync == part.sync && open.next == part.part => open,
        // A part delivered twice.
        Assembly::Open(open) if open.sync == part.sync && open.next > part.part => {
            *assembly = Assembly::Open(open);
            return Assembled::Waiting;
        }
        _ => return Assembled::Broken,
    };
    open.next += 1;
    open.connected.extend(part.connected);
    open.held.extend(part.held);
    if open.len() > max {
        *assembly = Assembly::Refused(open.sync);
        Assembled::TooLarge
    } else if part.last {
        Assembled::Whole {
            connected: open.connected,
            held: open.held,
            since: open.since,
        }
    } else {
        *assembly = Assembly::Open(open);
        Assembled::Waiting
    }
}

impl Parts {
    fn len(&self) -> usize {
        self.connected.len() + self.held.len() + self.since.len()
    }
}
