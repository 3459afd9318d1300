//! What this gateway holds against devices that belong elsewhere: the core of a move on its old gateway.
//!
//! Pure: it knows no clock, no disk and no broker. Changing it takes two steps, so that nothing is published or
//! acknowledged before it is durable:
//!
//! 1. [`Notices::plan`] turns commands (and devices that came or left, see [`Notices::touch`]) into a [`Plan`]. The
//!    caller writes [`Plan::changes`] to its store.
//! 2. [`Notices::commit`] makes the plan visible and returns the [`Effect`]s to carry out, in order; or
//!    [`Notices::rollback`] drops it because the store failed.
//!
//! At most one plan is open at a time. [`Notices::admit`] and [`Notices::retained`] only read.

mod entry;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use jiff::Timestamp;
use protocol::{
    DeviceId, Endpoint, Epoch,
    message::{Event, HeldNotice, Migrate},
};

pub use self::{
    entry::{Clear, Entry, Notice, Standing},
    plan::Plan,
};

/// How much is remembered. Beyond it, a new notice is refused, and the oldest memory is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Published notices.
    pub published: usize,
    /// Devices moved away; one that is forgotten is let in again, and the registrar hears of it.
    pub moved: usize,
    /// Devices admitted, remembered so that an older notice is not obeyed.
    pub admitted: usize,
}

/// What is to be done, in order, once a plan is durable or a deadline has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Show the retained notice to the live subscribers of `ctrl/<id>/migrate`.
    Publish(DeviceId, Migrate),
    /// Show its removal (an empty payload) to them.
    Unpublish(DeviceId),
    /// Disconnect the device if it is connected, naming its server where known.
    Kick(DeviceId, Option<Endpoint>),
    /// Tell the registrar.
    Emit(Event),
    /// Tell the registrar that the device is connected, if it still is: it may have come before it belonged here.
    Confirm(DeviceId),
    /// Send the registrar a snapshot of everything.
    Resync,
    /// A command of a lower epoch than one acted on was ignored.
    Stale(DeviceId, Epoch),
    /// A notice was refused because [`Limits::published`] is reached; the registrar asks again when it reconciles.
    Full(DeviceId),
    /// [`Limits::moved`] or [`Limits::admitted`] was reached and this device was the oldest.
    Forgot(DeviceId),
}

/// Why a device may not connect: it belongs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The epoch of its assignment elsewhere.
    pub epoch: Epoch,
    /// Where it belongs, if known.
    pub server: Option<Endpoint>,
}

/// How many devices stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// With a published notice.
    pub published: usize,
    /// Moved away.
    pub moved: usize,
    /// Admitted.
    pub admitted: usize,
}

/// The core; see the module's documentation.
#[derive(Debug)]
pub struct Notices {
    limits: Limits,
    entries: BTreeMap<DeviceId, Entry>,
    published: BTreeSet<DeviceId>,
    moved: BTreeSet<(Timestamp, DeviceId)>,
    admitted: BTreeSet<(Timestamp, DeviceId)>,
    deadlines: BTreeSet<(Timestamp, DeviceId)>,
    touched: BTreeSet<DeviceId>,
}

impl Notices {
    /// Starts with what the store holds. Nobody is connected yet, so every clear that waited for a device to leave is
    /// due.
    pub fn new(limits: Limits, stored: impl IntoIterator<Item = (DeviceId, Entry)>) -> Self {
        let mut notices = Self {
            limits,
            entries: BTreeMap::new(),
            published: BTreeSet::new(),
            moved: BTreeSet::new(),
            admitted: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            touched: BTreeSet::new(),
        };
        for (device, entry) in stored {
            if entry.clear().is_some() {
                notices.touched.insert(device.clone());
            }
            notices.set(device, Some(entry));
        }
        notices
    }

    /// Whether the device may connect now.
    ///
    /// # Errors
    /// It belongs elsewhere, and its grace is over or it was seen there.
    pub fn admit(&self, device: &str, now: Timestamp) -> Result<(), Rejection> {
        match self.entries.get(device) {
            Some(entry) if entry.bars(now) => Err(Rejection {
                epoch: entry.epoch,
                server: entry.server().cloned(),
            }),
            _ => Ok(()),
        }
    }

    /// Notes that a device has connected or left. Returns whether that concerns this core; the caller then makes a
    /// plan soon.
    pub fn touch(&mut self, device: &DeviceId) -> bool {
        let concerned = self.concerned(device);
        if concerned {
            self.touched.insert(device.clone());
        }
        concerned
    }

    /// Whether [`Self::touch`] would note it.
    pub fn concerned(&self, device: &DeviceId) -> bool {
        self.entries
            .get(device)
            .is_some_and(|entry| entry.standing != Standing::Admitted)
    }

    /// The retained notice of one device.
    pub fn retained(&self, device: &str) -> Option<Migrate> {
        self.entries.get(device).and_then(Entry::migrate)
    }

    /// All retained notices after one device, in the order of their devices.
    pub fn all_retained<'a>(
        &'a self,
        after: Option<&DeviceId>,
    ) -> impl Iterator<Item = (&'a DeviceId, Migrate)> {
        let from = after.map_or(Bound::Unbounded, |device| Bound::Excluded(device.clone()));
        self.published
            .range((from, Bound::Unbounded))
            .filter_map(|device| Some((device, self.retained(device.as_str())?)))
    }

    /// Everything held against devices, for a snapshot.
    pub fn held(&self) -> impl Iterator<Item = HeldNotice> {
        self.entries
            .iter()
            .filter_map(|(device, entry)| entry.held(device))
    }

    /// How many devices stand how.
    pub fn counts(&self) -> Counts {
        Counts {
            published: self.published.len(),
            moved: self.moved.len(),
            admitted: self.admitted.len(),
        }
    }

    /// When [`Self::tick`] has something to do.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends every grace that is over: those devices are disconnected, and no longer admitted.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some((at, device)) = self.deadlines.pop_first() {
            if at > now {
                self.deadlines.insert((at, device));
                break;
            }
            let server = self
                .entries
                .get(&device)
                .and_then(|entry| entry.server().cloned());
            effects.push(Effect::Kick(device, server));
        }
        effects
    }

    /// Makes a plan durable elsewhere visible. `connected` tells who is connected now.
    pub fn commit(&mut self, plan: Plan, connected: &dyn Fn(&DeviceId) -> bool) -> Vec<Effect> {
        for (device, entry) in plan.changes {
            // A device that left while the plan was being written had nothing to be noted against then.
            if entry.as_ref().is_some_and(|entry| entry.clear().is_some()) && !connected(&device) {
                self.touched.insert(device.clone());
            }
            self.set(device, entry);
        }
        plan.effects
    }

    /// Drops a plan that could not be made durable; what it was to do for devices that came or left is planned again.
    pub fn rollback(&mut self, plan: Plan) {
        self.touched.extend(plan.touched);
    }

    /// Whether devices came or left that no plan has looked at yet.
    pub fn has_work(&self) -> bool {
        !self.touched.is_empty()
    }

    fn set(&mut self, device: DeviceId, entry: Option<Entry>) {
        if let Some(old) = self.entries.remove(&device) {
            match &old.standing {
                Standing::Published(notice) => {
                    self.published.remove(&device);
                    self.deadlines.remove(&(notice.deadline, device.clone()));
                }
                Standing::Moved { .. } => {
                    self.moved.remove(&(old.at, device.clone()));
                }
                Standing::Admitted => {
                    self.admitted.remove(&(old.at, device.clone()));
                }
            }
        }
        let Some(entry) = entry else { return };
        match &entry.standing {
            Standing::Published(notice) => {
                self.published.insert(device.clone());
                self.deadlines.insert((notice.deadline, device.clone()));
            }
            Standing::Moved { .. } => {
                self.moved.insert((entry.at, device.clone()));
            }
            Standing::Admitted => {
                self.admitted.insert((entry.at, device.clone()));
            }
        }
        self.entries.insert(device, entry);
    }
}

#[cfg(test)]
mod tests;
