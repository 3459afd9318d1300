//! Our own servers, as an operator starts them.

use std::{
    env,
    fs::{self, File},
    io::{BufWriter, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{ids, process::Process};

/// The gateway every device of a run belongs to.
const GATEWAY: &str = "gw-a";

#[derive(Deserialize)]
struct Addresses {
    mqtt: SocketAddr,
    http: SocketAddr,
}

/// A running `registrar serve`.
pub struct Registrar {
    pub process: Process,
    pub mqtt: SocketAddr,
    http: SocketAddr,
    data: PathBuf,
}

impl Registrar {
    /// Starts one on `data`; returns it and how long it took to be ready.
    pub fn start(folder: &Path, name: &str, data: &Path) -> Result<(Self, Duration)> {
        let started = Instant::now();
        let mut command = Command::new(program("registrar")?);
        command.arg("serve").arg("--data-dir").arg(data);
        let (mut process, at) = serve(folder, name, &mut command)?;
        let ready = format!("http://{}/readyz", at.http);
        process.wait_for(|| ureq::get(&ready).call().ok())?;
        let this = Self {
            process,
            mqtt: at.mqtt,
            http: at.http,
            data: data.into(),
        };
        Ok((this, started.elapsed()))
    }

    /// Imports a file of devices; returns how long the operator waits.
    pub fn import(&self, csv: &Path) -> Result<Duration> {
        let started = Instant::now();
        let status = Command::new(program("registrar")?)
            .args(["device", "import", "--allow-unknown-gateway"])
            .args(["--server", &format!("http://{}", self.http)])
            .arg(csv)
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "registrar device import: {status}");
        Ok(started.elapsed())
    }

    /// Waits until a device would be given its gateway.
    pub fn wait_for_gateway(&mut self) -> Result<()> {
        let gateways = format!("http://{}/v1/gateways", self.http);
        self.process.wait_for(|| {
            let body = ureq::get(&gateways)
                .call()
                .ok()?
                .body_mut()
                .read_to_string()
                .ok()?;
            body.contains("\"online\"").then_some(())
        })
    }

    /// Ends it in good order and starts it again; returns how long the start took.
    pub fn restart(self, folder: &Path, name: &str) -> Result<(Self, Duration)> {
        self.process.terminate()?;
        Self::start(folder, name, &self.data)
    }

    /// Ends it in good order and copies its data.
    pub fn stop_and_copy(self, copy: &Path) -> Result<PathBuf> {
        self.process.terminate()?;
        let status = Command::new("cp").arg("-r").arg(&self.data).arg(copy).status()?;
        ensure!(status.success(), "cannot copy {}", self.data.display());
        Ok(self.data)
    }

    /// What its data takes on disk, in bytes.
    pub fn disk(&self) -> Result<u64> {
        folder_size(&self.data)
    }
}

/// A running `gateway serve`.
pub struct Gateway {
    pub process: Process,
    pub mqtt: SocketAddr,
}

impl Gateway {
    /// Starts one that reports to `registrar`, and waits until the registrar knows it.
    pub fn start(folder: &Path, name: &str, registrar: &mut Registrar) -> Result<Self> {
        let mut command = Command::new(program("gateway")?);
        command.args(["serve", "--id", GATEWAY]);
        command.args(["--registrar", &format!("mqtt://{}", registrar.mqtt)]);
        command.arg("--data-dir").arg(folder.join(format!("{name}-data")));
        let (process, at) = serve(folder, name, &mut command)?;
        registrar.wait_for_gateway()?;
        Ok(Self {
            process,
            mqtt: at.mqtt,
        })
    }
}

/// Writes the first `count` devices as an import file, in no order a store could profit from.
pub fn write_import(file: &Path, count: u64) -> Result<()> {
    /// Larger than any count and prime, so every device comes once.
    const STRIDE: u64 = 2_147_483_647;
    let mut out = BufWriter::new(File::create(file)?);
    writeln!(out, "device,gateway")?;
    for n in 0..count {
        writeln!(out, "{},{GATEWAY}", ids::device(n * STRIDE % count))?;
    }
    Ok(out.flush()?)
}

fn serve(folder: &Path, name: &str, command: &mut Command) -> Result<(Process, Addresses)> {
    let file = folder.join(format!("{name}.addr"));
    if file.exists() {
        fs::remove_file(&file)?;
    }
    command.args(["--mqtt-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    command.arg("--addr-file").arg(&file);
    let mut process = Process::spawn(name, command, folder)?;
    let at = process.wait_for(|| serde_json::from_slice(&fs::read(&file).ok()?).ok())?;
    Ok((process, at))
}

/// The program built beside the harness.
fn program(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    let program = own.parent().context("a program lies in a folder")?.join(name);
    ensure!(
        program.exists(),
        "{} is missing; scripts/bench builds it",
        program.display()
    );
    Ok(program)
}

fn folder_size(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        size += if meta.is_dir() {
            folder_size(&entry.path())?
        } else {
            meta.len()
        };
    }
    Ok(size)
}
