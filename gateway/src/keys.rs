//! The registrar's keys that tickets are checked with, as they are kept: admission needs them while the registrar is away.

use jiff::Timestamp;
use protocol::{
    message::{Command, Instruction},
    ticket::KeySet,
};
use serde::{Deserialize, Serialize};

/// All the keys that are believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// When the registrar named them last.
    pub at: Timestamp,
    /// The keys.
    pub set: KeySet,
}

impl Keys {
    /// What the last of these commands that names keys says.
    pub fn named(commands: &[Command], now: Timestamp) -> Option<Self> {
        commands
            .iter()
            .rev()
            .find_map(|command| match &command.instruction {
                Instruction::Keys { keys } => Some(Self {
                    at: now,
                    set: KeySet::new(keys.iter().cloned()),
                }),
                _ => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use protocol::{CommandId, ticket::SigningKey};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_last_set_counts_and_replaces_all_of_those_before() {
        let key = |seed| SigningKey::from_seed(&[seed; 32]).public().clone();
        let command = |instruction| Command {
            command: CommandId::new(Uuid::now_v7()),
            instruction,
        };
        let named = |keys: Vec<_>| command(Instruction::Keys { keys });
        let commands = [
            named(vec![key(1), key(2)]),
            named(vec![key(3)]),
            command(Instruction::Resync),
        ];
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let expected = Keys {
            at: now,
            set: KeySet::new([key(3)]),
        };
        assert_eq!(Keys::named(&commands, now), Some(expected));
        assert_eq!(Keys::named(&commands[2..], now), None);
    }
}
