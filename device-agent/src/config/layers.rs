use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::Options;

/// What every environment variable of ours starts with.
const PREFIX: &str = "DEVICE_AGENT__";

/// Why a configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The file is not TOML, or has an unknown key or a wrong value.
    #[error("{path}:{line}: {key}{problem}")]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key it is about, with a colon and a space, if it has one.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// An environment variable or a flag has an unknown key or a wrong value.
    #[error("{origin}: {problem}")]
    Value {
        /// The variable or flag.
        origin: String,
        /// What is wrong.
        problem: String,
    },
}

/// Values laid over the defaults, each remembering where it came from.
#[derive(Debug, Default)]
pub struct Layers {
    values: Table,
    origins: BTreeMap<String, String>,
}

impl Layers {
    /// Lays a file over what is there.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, or does not fit.
    pub fn file(&mut self, path: &Path) -> Result<(), LoadError> {
        let text = fs::read_to_string(path).map_err(|error| LoadError::Read {
            path: path.into(),
            error,
        })?;
        let checked = toml::from_str::<Options>(&text).and_then(|_| text.parse::<Table>());
        let table = checked.map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = text[..start].matches('\n').count() + 1;
            LoadError::File {
                path: path.into(),
                line,
                key: key_at(&text, line),
                problem: problem(&error),
            }
        })?;
        for (key, value) in leaves(&table) {
            self.set(&key, value.clone(), path.display().to_string());
        }
        Ok(())
    }

    /// Lays the environment over what is there: `DEVICE_AGENT__BACKOFF__MAX` is `backoff.max`.
    ///
    /// # Errors
    /// A variable names no key, or its value does not fit.
    pub fn environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), LoadError> {
        for (name, text) in variables {
            if let Some(path) = name.strip_prefix(PREFIX) {
                let key = path.to_lowercase().replace("__", ".");
                self.text(&key, &text, &format!("environment {name}"))?;
            }
        }
        Ok(())
    }

    /// Lays one value, written as text, over what is there. `origin` names it for people.
    ///
    /// # Errors
    /// There is no such key, or the value does not fit.
    pub fn text(&mut self, key: &str, text: &str, origin: &str) -> Result<(), LoadError> {
        let fits = |value: &Value| {
            let mut alone = Table::new();
            put(&mut alone, key, value.clone());
            alone.try_into::<Options>().map(|_| ())
        };
        let string = Value::String(text.to_owned());
        let number = || {
            text.parse()
                .map(Value::Integer)
                .ok()
                .filter(|number| fits(number).is_ok())
        };
        let value = match fits(&string) {
            Ok(()) => string,
            Err(error) => number().ok_or_else(|| LoadError::Value {
                origin: origin.to_owned(),
                problem: problem(&error),
            })?,
        };
        self.set(key, value, origin.to_owned());
        Ok(())
    }

    /// The options that result.
    ///
    /// # Panics
    /// Never: every value was checked as it was laid.
    pub fn options(&self) -> Options {
        let values = self.values.clone();
        values.try_into().expect("every value was checked on its own")
    }

    /// Every key with its value and where it came from, as TOML.
    pub fn show(&self) -> String {
        let all = Table::try_from(self.options()).expect("options are TOML");
        let line = |(key, value): (String, &Value)| {
            let origin = self.origins.get(&key).map_or("default", String::as_str);
            format!("{key} = {value}  # {origin}\n")
        };
        leaves(&all).into_iter().map(line).collect()
    }

    fn set(&mut self, key: &str, value: Value, origin: String) {
        put(&mut self.values, key, value);
        self.origins.insert(key.to_owned(), origin);
    }
}

/// What is wrong, on one line, with an example where the type has a form of its own.
fn problem(error: &toml::de::Error) -> String {
    let text = error.message().replace('\n', " ");
    let example = if text.contains("expected a duration") {
        " such as \"5s\""
    } else if text.contains("socket address") {
        ", write it as HOST:PORT such as \"127.0.0.1:8080\""
    } else {
        ""
    };
    text + example
}

fn put(table: &mut Table, key: &str, value: Value) {
    let Some((section, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        put(section, rest, value);
    }
}

/// All values that are no tables, with their dotted keys.
fn leaves(table: &Table) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(section) => {
                let below = leaves(section).into_iter();
                found.extend(below.map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            value => found.push((key.clone(), value)),
        }
    }
    found
}

/// The key a line sets, with its section, for an error message.
fn key_at(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().take(line).collect();
    let Some((key, _)) = lines.last().and_then(|line| line.split_once('=')) else {
        return String::new();
    };
    let section = |line: &&str| Some(line.trim().strip_prefix('[')?.split(']').next()?.to_owned());
    match lines.iter().rev().find_map(section) {
        Some(section) => format!("{section}.{}: ", key.trim()),
        None => format!("{}: ", key.trim()),
    }
}
