//! Snapshots, put together from their parts.

use protocol::{
    CommandId, DeviceId,
    message::{Event, HeldNotice, Snapshot},
};

/// A snapshot some parts of which are there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assembly {
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
pub(super) fn take(assembly: &mut Option<Assembly>, event: Event, max: usize) -> Assembled {
    match event {
        Event::Snapshot(part) => take_part(assembly, part, max),
        event => match assembly {
            Some(open) if open.len() < max => {
                open.since.push(event);
                Assembled::Waiting
            }
            Some(_) => {
                *assembly = None;
                Assembled::TooLarge
            }
            None => Assembled::Event(event),
        },
    }
}

fn take_part(assembly: &mut Option<Assembly>, part: Snapshot, max: usize) -> Assembled {
    let mut open = match assembly.take() {
        // The first part throws away what was there: the gateway has started anew.
        _ if part.part == 0 => Assembly {
            sync: part.sync,
            next: 0,
            connected: Vec::new(),
            held: Vec::new(),
            since: Vec::new(),
        },
        Some(open) if open.sync == part.sync && open.next == part.part => open,
        // A part delivered twice.
        Some(open) if open.sync == part.sync && open.next > part.part => {
            *assembly = Some(open);
            return Assembled::Waiting;
        }
        _ => return Assembled::Broken,
    };
    open.next += 1;
    open.connected.extend(part.connected);
    open.held.extend(part.held);
    if open.len() > max {
        Assembled::TooLarge
    } else if part.last {
        Assembled::Whole {
            connected: open.connected,
            held: open.held,
            since: open.since,
        }
    } else {
        *assembly = Some(open);
        Assembled::Waiting
    }
}

impl Assembly {
    fn len(&self) -> usize {
        self.connected.len() + self.held.len() + self.since.len()
    }
}
