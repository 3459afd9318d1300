use std::{path::PathBuf, process::Command};

use tempfile::TempDir;

use super::{Process, Registrar, binary, root};

/// A device agent and the folder of its stored answer.
pub struct Agent {
    process: Option<Process>,
    id: String,
    registrar: String,
    folder: TempDir,
}

impl Agent {
    /// Starts one that knows only the registrar.
    pub fn start(registrar: &Registrar, id: &str) -> Self {
        Self::start_at(&registrar.url(), id)
    }

    /// Starts one that knows the registrar by this URL.
    pub fn start_at(registrar: &str, id: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut agent = Self {
            id: id.into(),
            registrar: registrar.into(),
            folder,
            process: None,
        };
        agent.restart();
        agent
    }

    /// Starts it again with its stored answer.
    pub fn restart(&mut self) {
        let mut command = Command::new(binary("device-agent"));
        command
            .current_dir(self.folder.path())
            .args([
                "run",
                "--stdin",
                "--id",
                &self.id,
                "--registrar",
                &self.registrar,
                "--state",
            ])
            .arg(self.state())
            .arg("--config")
            .arg(root().join("configs/dev/device.toml"));
        self.process = Some(Process::spawn(
            &self.id,
            &mut command,
            self.folder.path().join("log"),
        ));
    }

    /// The running process.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the agent is running")
    }

    /// Its stored answer.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state.json")
    }

    /// Kills it as `kill -9` does.
    pub fn kill9(&mut self) {
        self.process().kill9();
        self.process = None;
    }
}
