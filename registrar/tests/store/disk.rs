//! A file system in a file, mounted through a loop device.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{program} {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// A mounted image, unmounted when dropped.
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    /// Makes and mounts an empty file system. Says why where the machine does not let us: it takes root.
    pub fn create(folder: &Path, name: &str, bytes: u64) -> Result<Self, String> {
        let image = folder.join(format!("{name}.img"));
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image.to_string_lossy()])?;
        Self::mount(image)
    }

    fn mount(image: PathBuf) -> Result<Self, String> {
        let mount = image.with_extension("mount");
        fs::create_dir_all(&mount).map_err(|error| error.to_string())?;
        // No periodic journal commit: what nobody synced is to be lost.
        run(
            "mount",
            &[
                "-o",
                "loop,commit=300",
                &image.to_string_lossy(),
                &mount.to_string_lossy(),
            ],
        )?;
        Ok(Self { image, mount })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// What the disk holds if the power goes now, mounted. Nobody may be writing.
    pub fn cut_power(&self, name: &str) -> Self {
        let copy = self.image.with_file_name(format!("{name}.img"));
        // The system may write back on its own while we copy: two equal reads make one moment.
        let mut bytes = fs::read(&self.image).unwrap();
        loop {
            let again = fs::read(&self.image).unwrap();
            if again == bytes {
                break;
            }
            bytes = again;
        }
        fs::write(&copy, bytes).unwrap();
        Self::mount(copy).unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &["-l", &self.mount.to_string_lossy()]) {
            eprintln!("{error}");
        }
    }
}
