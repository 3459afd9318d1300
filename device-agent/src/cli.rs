//! The command line.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use protocol::DeviceId;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Layers, Options},
    fleet, run,
};

/// Exit code of a usage or configuration error.
const USAGE: u8 = 2;

/// The device's side of Homeport: finds a device's gateway and follows it when it changes.
#[derive(Debug, Parser)]
#[command(name = "device-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Be one device until SIGTERM or SIGINT; a second one ends it at once.
    ///
    /// What arrives on cmd/ID/# is printed as "TOPIC PAYLOAD"; state changes are logged on stderr.
    Run {
        #[command(flatten)]
        common: Common,
        /// The device's id.
        #[arg(long)]
        id: Option<String>,
        /// Where the last answer is kept [default: ID.json in the configured folder].
        #[arg(long, value_name = "PATH")]
        state: Option<PathBuf>,
        /// Publish the lines of standard input to data/ID/line, then heartbeats.
        #[arg(long)]
        stdin: bool,
        /// How often to publish to data/ID/heartbeat.
        #[arg(long, value_name = "DURATION")]
        heartbeat: Option<String>,
    },
    /// Be many devices, with a summary every second on stderr and one at the end on stdout.
    ///
    /// Exits 0 when every device was online at the end, 3 when some were, 1 when none was.
    Fleet {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        fleet: Fleet,
        /// How to print the summary.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Look at the configuration without being a device.
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
        common: Common,
    },
    /// Print every value and where it came from.
    Show {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The registrar's bootstrap broker, as mqtt://HOST:PORT.
    #[arg(long, value_name = "URL")]
    registrar: Option<String>,
}

/// What a fleet is made of.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Fleet {
    /// How many devices.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub count: u32,
    /// What their ids start with; a number follows.
    #[arg(long, default_value = "dev-")]
    pub prefix: String,
    /// The number of the first one.
    #[arg(long, default_value_t = 1)]
    pub start: u64,
    /// How long to run; without it, until SIGTERM or SIGINT.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// How many devices to start in a second; without it, all at once.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub connect_rate: Option<u32>,
    /// Keep the answers in this folder; without it, they are not kept.
    #[arg(long, value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
    /// Every device publishes to data/ID/heartbeat this often; without it, never.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub heartbeat: Option<Duration>,
}

/// How a summary is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}

impl Cli {
    /// Does what was asked and returns the exit code.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run {
                common,
                id,
                state,
                stdin,
                heartbeat,
            } => {
                let flags = [("id", &id, "--id"), ("heartbeat", &heartbeat, "--heartbeat")];
                let (options, device) = match common.load(&flags).and_then(with_device) {
                    Ok(loaded) => loaded,
                    Err(error) => return failure(&error, USAGE),
                };
                log_to_stderr("info");
                let state = state.unwrap_or_else(|| options.state_path(&device));
                exit(block_on(|stop| run::run(options, device, state, stdin, stop)))
            }
            Command::Fleet {
                common,
                fleet,
                output,
            } => {
                let options = match common.load(&[]) {
                    Ok(layers) => layers.options(),
                    Err(error) => return failure(&error, USAGE),
                };
                let devices = match fleet.devices() {
                    Ok(devices) => devices,
                    Err(error) => return failure(&error, USAGE),
                };
                log_to_stderr("off");
                exit(block_on(|stop| fleet::run(options, fleet, devices, output, stop)))
            }
            Command::Config { verb } => match verb {
                ConfigVerb::Check { common } => look(&common, |_| "ok\n".into()),
                ConfigVerb::Show { common } => look(&common, Layers::show),
            },
        }
    }
}

impl Common {
    fn load(&self, flags: &[(&str, &Option<String>, &str)]) -> anyhow::Result<Layers> {
        let mut layers = Layers::default();
        if let Some(path) = &self.config {
            layers.file(path)?;
        }
        layers.environment(std::env::vars())?;
        let registrar = ("registrar", &self.registrar, "--registrar");
        for (key, value, flag) in flags.iter().chain([&registrar]) {
            if let Some(value) = value {
                layers.text(key, value, flag)?;
            }
        }
        layers.options().check()?;
        Ok(layers)
    }
}

impl Fleet {
    fn devices(&self) -> anyhow::Result<Vec<DeviceId>> {
        let last = self.start.checked_add(u64::from(self.count) - 1);
        let last = last.context("--start and --count are too large together")?;
        let id = |number| format!("{}{number}", self.prefix).parse::<DeviceId>();
        (self.start..=last)
            .map(|number| id(number).context("--prefix"))
            .collect()
    }
}

fn with_device(layers: Layers) -> anyhow::Result<(Options, DeviceId)> {
    let options = layers.options();
    let device = options
        .id
        .clone()
        .context("there is no device id: give --id, or id in the configuration")?;
    Ok((options, device))
}

fn look(common: &Common, show: impl FnOnce(&Layers) -> String) -> ExitCode {
    let text = match common.load(&[]) {
        Ok(layers) => show(&layers),
        Err(error) => return failure(&error, USAGE),
    };
    let written = io::stdout().write_all(text.as_bytes());
    exit(
        written
            .context("cannot write to standard output")
            .map(|()| ExitCode::SUCCESS),
    )
}

fn block_on<F>(work: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<ExitCode>
where
    F: Future<Output = anyhow::Result<ExitCode>>,
{
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async { work(stop_on_signal()?).await })
}

fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| failure(&error, 1))
}

fn failure(error: &anyhow::Error, code: u8) -> ExitCode {
    tell(format_args!("device-agent: {}", causes(error)));
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
pub(crate) fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Reads a duration of the command line.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 30s or 5m"))
}

fn log_to_stderr(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
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
                tell(format_args!("device-agent: ended at once"));
                std::process::exit(1);
            }
            token.cancel();
        }
    });
    Ok(stop)
}
