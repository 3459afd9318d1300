//! A gateway, its registrar and its devices, over real connections.

#![allow(clippy::unwrap_used)]

mod common;
mod killed;
mod moving;
mod program;
