//! The `registrar` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    homeport_registrar::program::Program::parse().run()
}
