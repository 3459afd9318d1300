//! Assigning many devices at once: a file is checked as a whole, then written as a whole.
//!
//! [`parse`] reads rows, [`Importer`] checks them against the store and writes them. The accepted changes are first
//! staged in a file of the data folder, each with the epoch it is based on. So an import cut short by a crash or a full
//! disk is finished by the next start, and never undoes what was changed meanwhile.

mod importer;
mod parse;
mod plan;
mod staged;

pub use importer::{Assignments, ImportError, ImportMetrics, Importer, Order, Written};
pub use parse::{Format, Limits, LineError, Parsed, Row, parse};
pub use plan::Summary;
