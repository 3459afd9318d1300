//! What one batch of events led to, gathered so that all of it is durable before any of it shows.

use std::collections::{BTreeMap, BTreeSet};

use broker::{Message, QoS};
use protocol::{
    CommandId, GatewayId, Topic,
    message::{Command, Commands, GatewayStatus, MAX_GATEWAY_PAYLOAD, Message as _, VERSION},
};
use tokio::sync::oneshot;

use crate::store::{
    MAX_BATCH, MoveChange, Transaction,
    record::{GatewayRecord, MoveRecord},
};

/// What encloses the instructions in a payload, generously.
const ENVELOPE: usize = 64;

#[derive(Default)]
pub(super) struct Outcome {
    /// Moves to show, in their last form.
    pub moves: BTreeMap<CommandId, MoveRecord>,
    /// Those of them to write.
    pub changed: BTreeSet<CommandId>,
    /// Gateways to write.
    pub gateways: BTreeMap<GatewayId, GatewayRecord>,
    /// Gateways to show.
    pub touched: BTreeSet<GatewayId>,
    /// Statuses no gateway sent.
    pub published: Vec<GatewayStatus>,
    /// Who waits for what to be durable, and what to answer.
    pub verdicts: Vec<(oneshot::Sender<bool>, bool)>,
    sends: BTreeMap<GatewayId, Vec<Command>>,
}

impl Outcome {
    /// Tells a gateway, in order.
    pub fn send(&mut self, gateway: GatewayId, command: Command) {
        self.sends.entry(gateway).or_default().push(command);
    }

    /// What is to be written; none when nothing is.
    pub fn transactions(&self) -> Vec<Transaction> {
        let records: Vec<_> = self.changed.iter().filter_map(|id| self.moves.get(id)).collect();
        let moves = records.chunks(MAX_BATCH).map(|records| Transaction {
            moves: records
                .iter()
                .map(|record| MoveChange::Put((*record).clone()))
                .collect(),
            ..Transaction::default()
        });
        let gateways: Vec<_> = self
            .gateways
            .iter()
            .map(|(id, record)| (id.clone(), record.clone()))
            .collect();
        let gateways = gateways.chunks(MAX_BATCH).map(|gateways| Transaction {
            gateways: gateways.to_vec(),
            ..Transaction::default()
        });
        moves.chain(gateways).collect()
    }

    /// The messages to gateways, each as large as one may be.
    pub fn commands(&self) -> Vec<Message> {
        let mut messages = Vec::new();
        for (gateway, commands) in &self.sends {
            let topic = Topic::GatewayCommands(gateway.clone()).to_string();
            let mut batch = Vec::new();
            let mut size = ENVELOPE;
            for command in commands {
                let len = serde_json::to_vec(command).map_or(0, |json| json.len() + 1);
                if size + len > MAX_GATEWAY_PAYLOAD {
                    messages.push(message(&topic, std::mem::take(&mut batch)));
                    size = ENVELOPE;
                }
                size += len;
                batch.push(command.clone());
            }
            messages.push(message(&topic, batch));
        }
        messages
    }
}

fn message(topic: &str, commands: Vec<Command>) -> Message {
    Message {
        topic: topic.to_owned(),
        payload: Commands { v: VERSION, commands }.to_payload().into(),
        qos: QoS::AtLeastOnce,
        ..Message::default()
    }
}

#[cfg(test)]
mod tests {
    use protocol::message::Instruction;

    use super::*;

    #[test]
    fn batches_fit_into_a_payload_and_keep_their_order() {
        let mut outcome = Outcome::default();
        let gateway: GatewayId = "gw-a".parse().unwrap();
        let commands: Vec<Command> = (1..=3000)
            .map(|n: u64| Command {
                command: protocol::CommandId::new(uuid::Uuid::from_u128(n.into())),
                instruction: Instruction::Clear {
                    device: format!("{n:0100}").parse().unwrap(),
                    epoch: protocol::Epoch::new(n),
                },
            })
            .collect();
        for command in &commands {
            outcome.send(gateway.clone(), command.clone());
        }
        let messages = outcome.commands();
        assert!(messages.len() > 1);
        assert!(
            messages
                .iter()
                .all(|message| message.payload.len() <= MAX_GATEWAY_PAYLOAD)
        );
        let sent: Vec<Command> = messages
            .iter()
            .flat_map(|message| Commands::from_payload(&message.payload).unwrap().commands)
            .collect();
        assert_eq!(sent, commands);
    }
}
