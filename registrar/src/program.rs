//! The command line of the `registrar` program.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, CommandFactory, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{self, ClientCommand, tell},
    config::{Layers, LoadError},
    server::{Addresses, Server},
};

/// Exit code of a usage or configuration error.
const USAGE: u8 = 2;

/// The registrar of Homeport: it knows which gateway each device belongs to, and moves devices between them.
#[derive(Debug, Parser)]
#[command(name = "registrar", version, after_help = cli::EXIT_CODES)]
pub struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve devices, gateways and the API until SIGTERM or SIGINT; a second one ends it at once.
    Serve {
        #[command(flatten)]
        options: Options,
        /// Write the real addresses here once ready, as {"mqtt":"…","http":"…"}.
        #[arg(long, value_name = "PATH")]
        addr_file: Option<PathBuf>,
    },
    /// Look at the configuration without serving.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    #[command(flatten)]
    Client(ClientCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say whether it is right.
    Check {
        #[command(flatten)]
        options: Options,
    },
    /// Print every value and where it came from.
    Show {
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen for devices and gateways.
    #[arg(long, value_name = "ADDRESS")]
    mqtt_listen: Option<String>,
    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// Where to keep the directory.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<String>,
}

impl Options {
    fn layers(&self) -> Result<Layers, LoadError> {
        let mut layers = Layers::default();
        if let Some(path) = &self.config {
            layers.file(path)?;
        }
        layers.environment(std::env::vars())?;
        let flags = [
            ("mqtt.listen", &self.mqtt_listen, "--mqtt-listen"),
            ("http.listen", &self.http_listen, "--http-listen"),
            ("store.data_dir", &self.data_dir, "--data-dir"),
        ];
        for (key, value, flag) in flags {
            if let Some(value) = value {
                layers.text(key, value, flag)?;
            }
        }
        Ok(layers)
    }

    /// The values, once they are one to run on.
    fn checked(&self) -> anyhow::Result<Layers> {
        let layers = self.layers()?;
        layers.config().check()?;
        Ok(layers)
    }
}

impl Program {
    /// Does what was asked and returns the exit code.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve { options, addr_file } => {
                log_to_stderr();
                serve(&options, addr_file.as_deref())
            }
            Command::Config {
                verb: ConfigVerb::Check { options },
            } => look(&options, |_| "ok\n".to_owned()),
            Command::Config {
                verb: ConfigVerb::Show { options },
            } => look(&options, Layers::show),
            Command::Client(command) => cli::run(command, Self::command()),
        }
    }
}

fn look(options: &Options, show: impl FnOnce(&Layers) -> String) -> ExitCode {
    match options.checked() {
        Ok(layers) => match io::stdout().write_all(show(&layers).as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failure(
                &anyhow::Error::from(error).context("cannot write to standard output"),
                1,
            ),
            _ => ExitCode::SUCCESS,
        },
        Err(error) => failure(&error, USAGE),
    }
}

fn serve(options: &Options, addr_file: Option<&Path>) -> ExitCode {
    let config = match options.checked() {
        Ok(layers) => layers.config(),
        Err(error) => return failure(&error, USAGE),
    };
    let served = async {
        let stop = stop_on_signal()?;
        if let Some(path) = addr_file {
            forget_addresses(path)?;
        }
        let server = tokio::select! {
            server = Server::bind(config) => server?,
            () = stop.cancelled() => return Ok(()),
        };
        if let Some(path) = addr_file {
            write_addresses(path, server.addresses())?;
        }
        server.run(stop).await.map_err(anyhow::Error::from)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(served))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error, 1),
    }
}

fn failure(error: &anyhow::Error, code: u8) -> ExitCode {
    tell(format_args!("registrar: {}", causes(error)));
    ExitCode::from(code)
}

/// An error with what led to it, each once: many of our errors name their cause themselves.
fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would tell them on stderr, and panic where that is closed.
        .log_internal_errors(false);
    if io::stderr().is_terminal() {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// A token that the first SIGTERM or SIGINT cancels; the second ends the process.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if token.is_cancelled() {
                tell(format_args!("registrar: ended at once"));
                std::process::exit(1);
            }
            token.cancel();
        }
    });
    Ok(stop)
}

/// Whoever waits for the file must not find that of an earlier run.
fn forget_addresses(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot replace --addr-file {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Written beside and renamed, so that a reader sees nothing or all of it.
fn write_addresses(path: &Path, addresses: Addresses) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let text = serde_json::to_string(&addresses)? + "\n";
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("cannot write --addr-file {}", path.display()))
}
