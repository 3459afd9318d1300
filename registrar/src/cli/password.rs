//! Where passwords come from: a terminal that does not show them, stdin, or a file; never the command line, which everyone
//! on the machine can read.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Error;

/// The longest line taken for a password, in bytes.
const MAX_LINE: u64 = 4096;

/// Asks for a password that there is already.
pub fn ask(what: &str) -> Result<String, Error> {
    line(what)?.ok_or_else(|| Error::Usage(format!("{what}: nothing on stdin")))
}

/// Asks for a new one: twice, as nobody sees it; once from stdin, where there is none when it ends.
pub fn ask_new(what: &str) -> Result<Option<String>, Error> {
    let given = line(what)?;
    if given.is_some() && io::stdin().is_terminal() && line("The same again")? != given {
        return Err(Error::Failed("the two are not the same".into()));
    }
    Ok(given)
}

/// A new one from a file, or as [`ask_new`].
pub fn new_one(file: Option<&Path>, what: &str) -> Result<String, Error> {
    match file {
        Some(file) => from_file(file),
        None => ask_new(what)?.ok_or_else(|| Error::Usage(format!("{what}: nothing on stdin"))),
    }
}

/// The secret in a file that only its owner may read, without the newline at its end.
pub fn from_file(path: &Path) -> Result<String, Error> {
    let bytes = daemon::private::read(path).map_err(|error| Error::Failed(error.to_string()))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::Failed(format!("{} is not UTF-8 text", path.display())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Error::Failed(format!("{} is empty", path.display())));
    }
    Ok(text.to_owned())
}

fn line(what: &str) -> Result<Option<String>, Error> {
    let stdin = io::stdin();
    let hidden = stdin.is_terminal().then(|| Hidden::begin(what)).transpose();
    let hidden = hidden.map_err(|error| Error::Failed(format!("cannot ask for a password: {error}")))?;
    let mut text = String::new();
    let read = io::Read::take(stdin.lock(), MAX_LINE).read_line(&mut text);
    drop(hidden);
    match read.map_err(|error| Error::Failed(format!("cannot read the password: {error}")))? {
        0 => Ok(None),
        _ => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
    }
}

/// A terminal that shows nothing, until dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin(what: &str) -> io::Result<Self> {
        write!(io::stderr(), "{what}: ")?;
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.0) {
            super::tell(format_args!(
                "registrar: the terminal stays silent ({error}): run `stty echo`"
            ));
        }
    }
}
