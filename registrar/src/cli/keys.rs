use clap::Subcommand;

use super::{
    Client, Error,
    output::{Format, Record, name, or_dash, print_all, time},
    tell,
};
use crate::api::{Keys, Rotate, SignerKey};

/// What to do with the keys that tickets are signed with.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// List the keys: the one that signs, those before it, and the next one.
    List,
    /// Make a new key; gateways hear of it now, and it signs once they know it.
    Rotate {
        /// Have it sign at once: a gateway that has not heard of it yet refuses its tickets until it does.
        #[arg(long)]
        now: bool,
    },
    /// Have nobody believe a key any more: devices whose tickets it signed must ask again before they can connect.
    Revoke {
        /// The key, as `list` names it.
        kid: String,
    },
}

pub fn run(verb: Verb, client: &Client, format: Format) -> Result<(), Error> {
    let keys: Keys = match verb {
        Verb::List => client.get("/v1/signing-keys", &[])?,
        Verb::Rotate { now } => client.post("/v1/signing-keys/rotate", &Rotate { now })?,
        Verb::Revoke { kid } => {
            if kid.is_empty()
                || !kid
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            {
                return Err(Error::Usage(format!("{kid:?} is not the name of a key")));
            }
            let keys = client.delete_and_get(&format!("/v1/signing-keys/{kid}"))?;
            tell(format_args!("revoked {kid}"));
            keys
        }
    };
    print_all(format, &keys.keys)
}

impl Record for SignerKey {
    const COLUMNS: &'static [&'static str] = &["kid", "stage", "made", "signs", "until"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.kid.clone(),
            name(self.stage),
            time(self.made),
            time(self.signs),
            or_dash(self.until.map(time)),
        ]
    }
}
