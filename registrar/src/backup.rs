//! Backup and restore: everything the store holds as NDJSON, with a checksum.
//!
//! A backup is taken while the registrar runs. Every record in it is one that was stored while the backup was taken,
//! and rows carry their epochs. It is not one moment: of two changes made meanwhile it may hold only the later one, and of
//! one the row without its move. An open move whose device was changed again meanwhile is restored as superseded.
//! Everything acknowledged before the backup began is in it.
//!
//! What changed since a backup was taken is not in it, but gateways and devices know of it, and ignore what has a lower
//! epoch. So a restore raises every epoch by [`EPOCHS_AHEAD`].

mod format;
mod restore;
mod take;

pub use format::Counts;
pub use restore::{EPOCHS_AHEAD, RestoreError, restore};
pub use take::take;
