//! The epochs of the tickets that connections were let in with: the broker tells of a client again once it is connected.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use protocol::Epoch;

/// One epoch for each connection that lives, by its serial.
#[derive(Debug, Default)]
pub struct Proofs(Mutex<HashMap<u64, Epoch>>);

/// Remembers one connection's epoch until dropped.
#[derive(Debug)]
pub struct Proof {
    proofs: Arc<Proofs>,
    serial: u64,
}

impl Proofs {
    /// Remembers an epoch for as long as the result lives.
    pub fn keep(self: &Arc<Self>, serial: u64, epoch: Epoch) -> Proof {
        self.0.lock().insert(serial, epoch);
        Proof {
            proofs: Arc::clone(self),
            serial,
        }
    }

    /// The epoch a connection was let in with.
    pub fn of(&self, serial: u64) -> Option<Epoch> {
        self.0.lock().get(&serial).copied()
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        self.proofs.0.lock().remove(&self.serial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_known_for_as_long_as_its_connection_lives() {
        let proofs = Arc::new(Proofs::default());
        let (one, two) = (proofs.keep(1, Epoch::new(7)), proofs.keep(2, Epoch::new(8)));
        assert_eq!(proofs.of(1), Some(Epoch::new(7)));
        drop(one);
        assert_eq!((proofs.of(1), proofs.of(2)), (None, Some(Epoch::new(8))));
        drop(two);
        assert!(proofs.0.lock().is_empty());
    }
}
