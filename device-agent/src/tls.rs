//! How a device speaks TLS.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use daemon::tls::{ClientTls, TlsError};
use rustls::ClientConfig;

/// Whom a device trusts over TLS, and the certificate it shows. Devices that are alike may share one: its files are read when
/// it is first needed, and again when they have changed.
#[derive(Debug, Default)]
pub struct Tls {
    files: ClientTls,
    required: Option<bool>,
    loaded: Mutex<Option<Loaded>>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ClientConfig>,
    versions: [Option<SystemTime>; 3],
}

impl Tls {
    /// Trusts the authorities in this PEM file only, rather than those the machine trusts.
    #[must_use]
    pub fn ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.ca = Some(path.into());
        self
    }

    /// Shows this certificate; both are PEM files, and only their owner may read the key's.
    #[must_use]
    pub fn identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.files.cert, self.files.key) = (Some(cert.into()), Some(key.into()));
        self
    }

    /// Whether endpoints without TLS are passed over. Unless told, they are when the registrar speaks TLS.
    #[must_use]
    pub fn required(mut self, required: bool) -> Self {
        self.required = Some(required);
        self
    }

    /// Whether plaintext is out of the question for a device whose registrar is spoken to so.
    pub(crate) fn is_required(&self, registrar: &protocol::Endpoint) -> bool {
        self.required
            .unwrap_or(registrar.scheme() == protocol::Scheme::Mqtts)
    }

    /// Whether there are files to be read.
    pub(crate) fn has_files(&self) -> bool {
        self.files != ClientTls::default()
    }

    /// What a connection is made with. Changed files that cannot be used leave it as it was.
    ///
    /// # Errors
    /// The files cannot be used, and never could.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let versions = self.versions();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = &*loaded
            && loaded.versions == versions
        {
            return Ok(Arc::clone(&loaded.config));
        }
        match (self.files.load(), &mut *loaded) {
            (Ok(config), loaded) => {
                *loaded = Some(Loaded {
                    config: Arc::clone(&config),
                    versions,
                });
                Ok(config)
            }
            (Err(error), Some(old)) => {
                tracing::error!(%error, "changed TLS files cannot be used; the earlier ones are kept");
                old.versions = versions;
                Ok(Arc::clone(&old.config))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn versions(&self) -> [Option<SystemTime>; 3] {
        let ClientTls { ca, cert, key } = &self.files;
        [ca, cert, key].map(|path| fs::metadata(path.as_ref()?).ok()?.modified().ok())
    }
}
