//! Files that only their owner may read.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The largest such file, in bytes.
const MAX: u64 = 256 * 1024;

/// Others may not read it, nor may they or its group write it. A group may read, as system services share keys that way.
const FORBIDDEN: u32 = 0o027;

/// Why a private file is not used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// It is no secret.
    #[error("{path} is open to others (mode {mode:04o}); set its mode to 0600: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no key or password.
    #[error("{0} is larger than 256 KB, so it is no key or password")]
    Large(PathBuf),
}

/// Reads a file that holds a key or a password.
///
/// # Errors
/// It cannot be read, others can, or it is too large to be one.
pub fn read(path: &Path) -> Result<Vec<u8>, PrivateError> {
    let failed = |source| PrivateError::Read {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Of the open file, so that it is the one that is read.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & FORBIDDEN != 0 {
        return Err(PrivateError::Exposed {
            path: path.into(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX {
        return Err(PrivateError::Large(path.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_mode_to_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "k").unwrap();
        for (mode, open) in [
            (0o600, false),
            (0o400, false),
            (0o640, false),
            (0o644, true),
            (0o604, true),
            (0o660, true),
        ] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            match read(&path) {
                Ok(bytes) => assert!(!open && bytes == b"k", "{mode:o}"),
                Err(error) => {
                    let told = format!(
                        "(mode {mode:04o}); set its mode to 0600: chmod 600 {}",
                        path.display()
                    );
                    assert!(open && error.to_string().ends_with(&told), "{error}");
                }
            }
        }
        let none = read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(none.starts_with("cannot read "), "{none}");
    }
}
