//! Which devices are connected to each gateway: the directory's `seen`, the other way round.
//!
//! Only the loop notes where devices are, so this and the directory never differ; and what a gateway that is gone takes
//! with it is found without looking at every device there is.

use std::collections::{HashMap, HashSet};

use protocol::{DeviceId, GatewayId};

use crate::directory::{Directory, GatewayNumber};

#[derive(Default)]
pub(super) struct Seen {
    devices: HashMap<GatewayNumber, HashSet<DeviceId>>,
}

impl Seen {
    /// Notes that a device is connected to a gateway, and to no other.
    pub fn arrived(&mut self, directory: &Directory, device: DeviceId, gateway: &GatewayId) {
        let number = directory.number(gateway);
        let before = directory.row(device.as_str()).and_then(|row| row.seen());
        if let Some(before) = before.filter(|before| *before != number) {
            self.remove(&device, before);
        }
        directory.set_seen(&device, number);
        self.devices.entry(number).or_default().insert(device);
    }

    /// Notes that a device left a gateway, unless it was last seen on another one.
    pub fn left(&mut self, directory: &Directory, device: &DeviceId, gateway: &GatewayId) {
        let number = directory.number(gateway);
        if directory.clear_seen(device.as_str(), number) {
            self.remove(device, number);
        }
    }

    /// The devices connected to a gateway.
    pub fn on(&self, gateway: GatewayNumber) -> Vec<DeviceId> {
        self.devices
            .get(&gateway)
            .map(|devices| devices.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn remove(&mut self, device: &DeviceId, gateway: GatewayNumber) {
        if let Some(devices) = self.devices.get_mut(&gateway) {
            devices.remove(device);
            if devices.is_empty() {
                self.devices.remove(&gateway);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(id: &str) -> DeviceId {
        id.parse().unwrap()
    }

    #[test]
    fn a_device_is_on_one_gateway_at_a_time() {
        let (mut seen, directory) = (Seen::default(), Directory::default());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        seen.arrived(&directory, d("d1"), &a);
        seen.arrived(&directory, d("d1"), &a);
        assert_eq!(seen.on(directory.number(&a)), [d("d1")]);
        seen.arrived(&directory, d("d1"), &b);
        assert!(seen.on(directory.number(&a)).is_empty());
        seen.left(&directory, &d("d1"), &a);
        assert_eq!(seen.on(directory.number(&b)), [d("d1")]);
        seen.left(&directory, &d("d1"), &b);
        assert!(seen.devices.is_empty() && directory.row("d1").is_none());
    }
}
