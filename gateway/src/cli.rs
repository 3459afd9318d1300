//! The command line.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Layers, LoadError},
    server::{Addresses, Server},
};

/// Exit code of a usage or configuration error.
const USAGE: u8 = 2;

/// A gateway of Homeport: the MQTT server its devices stay connected to.
#[derive(Debug, Parser)]
#[command(name = "gateway", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve devices until SIGTERM or SIGINT; a second one ends it at once.
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
    /// This gateway's name; the machine's host name when left out.
    #[arg(long)]
    id: Option<String>,
    /// The registrar's bootstrap broker, as mqtt://HOST:PORT.
    #[arg(long, value_name = "URL")]
    registrar: Option<String>,
    /// Where devices reach this gateway, as mqtt://HOST:PORT; may be repeated.
    #[arg(long, value_name = "URL")]
    advertise: Vec<String>,
    /// Where to listen for devices.
    #[arg(long, value_name = "ADDRESS")]
    mqtt_listen: Option<String>,
    /// Where to listen for HTTP.
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// Where to keep notices.
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
            ("id", &self.id, "--id"),
            ("registrar.url", &self.registrar, "--registrar"),
            ("mqtt.listen", &self.mqtt_listen, "--mqtt-listen"),
            ("http.listen", &self.http_listen, "--http-listen"),
            ("data_dir", &self.data_dir, "--data-dir"),
        ];
        for (key, value, flag) in flags {
            if let Some(value) = value {
                layers.text(key, value, flag)?;
            }
        }
        if !self.advertise.is_empty() {
            layers.list("advertise", &self.advertise, "--advertise")?;
        }
        Ok(layers)
    }
}

impl Cli {
    /// Does what was asked and returns the exit code.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve { options, addr_file } => {
                log_to_stderr();
                serve(&options, addr_file.as_deref())
            }
            Command::Config { verb } => match verb {
                ConfigVerb::Check { options } => look(&options, |_| "ok\n".to_owned()),
                ConfigVerb::Show { options } => look(&options, Layers::show),
            },
        }
    }
}

fn look(options: &Options, show: impl FnOnce(&Layers) -> String) -> ExitCode {
    let checked = options
        .layers()
        .map_err(anyhow::Error::from)
        .and_then(|layers| Ok((layers.config().check()?, layers).1));
    match checked {
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
    let config = match options.layers().map_err(anyhow::Error::from).and_then(|layers| {
        let config = layers.config();
        config.check()?;
        Ok(config)
    }) {
        Ok(config) => config,
        Err(error) => return failure(&error, USAGE),
    };
    let served = (|| {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(async {
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
            })
    })();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error, 1),
    }
}

fn failure(error: &anyhow::Error, code: u8) -> ExitCode {
    tell(format_args!("gateway: {}", causes(error)));
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

/// Writes a line to stderr. A reader that has gone away is its own affair.
fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,rumqttd=warn"));
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
                tell(format_args!("gateway: ended at once"));
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
