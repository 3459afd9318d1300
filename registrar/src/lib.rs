//! The registrar: directory, moves, bootstrap broker, HTTP API and operator's CLI.

pub mod api;
pub mod cli;
pub mod directory;
pub mod gateways;
pub mod moves;
pub mod store;
