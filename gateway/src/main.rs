//! The `gateway` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    homeport_gateway::cli::Cli::parse().run()
}
