//! The stored answer: one JSON file, replaced as a whole.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use protocol::message::Assigned;
use serde::{Deserialize, Serialize};

use crate::core::Stored;

/// The version of the file.
const FORMAT: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    format: u8,
    stored_at: Timestamp,
    #[serde(flatten)]
    assigned: Assigned,
}

/// Reads the answer kept at `path`, if there is one. One that cannot be used is renamed to `<path>.corrupt`, logged, and
/// treated as none.
///
/// # Errors
/// The file is there but cannot be read or renamed.
pub(crate) fn load(path: &Path, now: Timestamp) -> io::Result<Option<Stored>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let problem = match serde_json::from_slice::<Record>(&bytes) {
        Ok(record) if record.format == FORMAT => {
            // A wall clock that was set back makes the answer new, not invalid.
            let age = now
                .duration_since(record.stored_at)
                .try_into()
                .unwrap_or_default();
            let assigned = record.assigned;
            return Ok(Some(Stored {
                assigned,
                age,
                at: now,
            }));
        }
        Ok(record) => format!("format {} is not known", record.format),
        Err(error) => error.to_string(),
    };
    let aside = beside(path, "corrupt");
    fs::rename(path, &aside)?;
    tracing::warn!(path = %path.display(), kept = %aside.display(), problem, "stored answer cannot be used");
    Ok(None)
}

/// Replaces the answer at `path`; durable when it returns, and never half written.
///
/// # Errors
/// The file system refused a step; the old file is then still there, whole.
pub(crate) fn save(path: &Path, assigned: &Assigned, now: Timestamp) -> io::Result<()> {
    let record = Record {
        format: FORMAT,
        stored_at: now,
        assigned: assigned.clone(),
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let new = beside(path, "new");
    let mut file = create_private(&new)?;
    file.write_all(&serde_json::to_vec(&record)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

/// The file may hold a ticket, which is a password.
fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(extension);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::{Epoch, message::GatewayRef};

    use super::*;

    fn assigned(epoch: u64) -> Assigned {
        Assigned {
            device: "d".parse().unwrap(),
            gateway: GatewayRef {
                id: "gw-a".parse().unwrap(),
                endpoints: vec!["mqtt://[::1]:1".parse().unwrap()],
            },
            epoch: Epoch::new(epoch),
            ttl_s: 60,
            ticket: Some("secret".into()),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_is_saved_is_loaded_with_its_age() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/d.json");
        assert_eq!(load(&path, at(0)).unwrap(), None);
        save(&path, &assigned(1), at(100)).unwrap();
        save(&path, &assigned(2), at(100)).unwrap();
        let stored = load(&path, at(130)).unwrap().unwrap();
        assert_eq!(
            (stored.assigned, stored.age),
            (assigned(2), Duration::from_secs(30))
        );
        let set_back = load(&path, at(50)).unwrap().unwrap();
        assert_eq!(set_back.age, Duration::ZERO);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.json");
        save(&path, &assigned(1), at(0)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_kept_aside() {
        let whole = {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("d.json");
            save(&path, &assigned(1), at(0)).unwrap();
            fs::read(&path).unwrap()
        };
        let newer = String::from_utf8(whole.clone())
            .unwrap()
            .replace("\"format\":1", "\"format\":2");
        let mut bad = vec![b"".to_vec(), b"{}".to_vec(), vec![0xff; 64], newer.into_bytes()];
        bad.extend((1..whole.len()).map(|len| whole[..len].to_vec()));
        for bytes in bad {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("d.json");
            fs::write(&path, &bytes).unwrap();
            assert_eq!(load(&path, at(0)).unwrap(), None);
            assert_eq!(fs::read(folder.path().join("d.json.corrupt")).unwrap(), bytes);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.json");
        save(&path, &assigned(1), at(0)).unwrap();
        fs::write(beside(&path, "new"), b"{\"form").unwrap();
        assert_eq!(load(&path, at(0)).unwrap().unwrap().assigned, assigned(1));
        save(&path, &assigned(2), at(0)).unwrap();
        assert_eq!(load(&path, at(0)).unwrap().unwrap().assigned, assigned(2));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(save(&file.join("d.json"), &assigned(1), at(0)).is_err());
    }
}
