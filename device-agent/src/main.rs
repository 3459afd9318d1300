//! The `device-agent` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    homeport_device_agent::cli::Cli::parse().run()
}
