//! Deliveries of QoS 1 and 2 under way.

use std::{
    collections::{HashSet, VecDeque},
    num::NonZeroU16,
};

use crate::message::Delivery;

/// Deliveries of QoS 1 and 2 that are under way, in both directions.
#[derive(Default)]
pub(crate) struct Flow {
    last_id: u16,
    outgoing: VecDeque<Outgoing>,
    /// QoS 2 messages received and not yet released.
    received: HashSet<NonZeroU16>,
}

struct Outgoing {
    id: NonZeroU16,
    /// None once the client has it and only the release is open.
    delivery: Option<Delivery>,
}

/// What is to be sent again to a client that is back.
pub(crate) enum Again {
    /// PUBLISH, marked as a duplicate.
    Publish(Delivery),
    /// PUBREL.
    Release,
}

impl Flow {
    /// How many are on their way to the client.
    pub(crate) fn outgoing(&self) -> usize {
        self.outgoing.len()
    }

    /// Begins a delivery. There are always fewer under way than there are ids.
    pub(crate) fn begin(&mut self, delivery: Delivery) -> NonZeroU16 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let Some(id) = NonZeroU16::new(self.last_id) else {
                continue;
            };
            if !self.outgoing.iter().any(|outgoing| outgoing.id == id) {
                self.outgoing.push_back(Outgoing {
                    id,
                    delivery: Some(delivery),
                });
                return id;
            }
        }
    }

    /// PUBACK or PUBCOMP, or a delivery given up: it is over. False when there was none.
    pub(crate) fn finish(&mut self, id: NonZeroU16) -> bool {
        let at = self.outgoing.iter().position(|outgoing| outgoing.id == id);
        at.and_then(|at| self.outgoing.remove(at)).is_some()
    }

    /// PUBREC: the message is there, its release is open. False when there was none.
    pub(crate) fn release(&mut self, id: NonZeroU16) -> bool {
        match self.outgoing.iter_mut().find(|outgoing| outgoing.id == id) {
            Some(outgoing) => {
                outgoing.delivery = None;
                true
            }
            None => false,
        }
    }

    /// Everything under way to the client, in its order.
    pub(crate) fn again(&self) -> Vec<(NonZeroU16, Again)> {
        let again = |outgoing: &Outgoing| match &outgoing.delivery {
            Some(delivery) => (outgoing.id, Again::Publish(delivery.clone())),
            None => (outgoing.id, Again::Release),
        };
        self.outgoing.iter().map(again).collect()
    }

    /// A QoS 2 message came; false when it is one already received.
    pub(crate) fn receive(&mut self, id: NonZeroU16) -> bool {
        self.received.insert(id)
    }

    /// PUBREL: the id is free again. False when it was.
    pub(crate) fn released(&mut self, id: NonZeroU16) -> bool {
        self.received.remove(&id)
    }

    /// How many QoS 2 messages are received and not yet released.
    pub(crate) fn received(&self) -> usize {
        self.received.len()
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.outgoing.is_empty() && self.received.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{QoS, message::Publication};

    fn delivery() -> Delivery {
        let publication = Arc::new(Publication::default());
        Delivery {
            publication,
            qos: QoS::ExactlyOnce,
            retain: false,
            subscriptions: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn an_id_is_never_used_twice_at_one_time(steps in vec((0..3_u8, any::<proptest::sample::Index>()), 1..300)) {
            let mut flow = Flow { last_id: u16::MAX - 5, ..Flow::default() };
            let mut model: Vec<(NonZeroU16, bool)> = Vec::new();
            for (step, at) in steps {
                let chosen = (!model.is_empty()).then(|| at.index(model.len()));
                match (step, chosen) {
                    (0, _) | (_, None) => {
                        let id = flow.begin(delivery());
                        prop_assert!(model.iter().all(|(known, _)| *known != id));
                        model.push((id, false));
                    }
                    (1, Some(at)) => {
                        prop_assert!(flow.release(model[at].0));
                        model[at].1 = true;
                    }
                    (_, Some(at)) => {
                        let (id, _) = model.remove(at);
                        prop_assert!(flow.finish(id) && !flow.finish(id) && !flow.release(id));
                    }
                }
                let again: Vec<_> =
                    flow.again().into_iter().map(|(id, what)| (id, matches!(what, Again::Release))).collect();
                prop_assert_eq!(&again, &model);
                prop_assert_eq!(flow.is_idle(), model.is_empty());
            }
        }
    }

    #[test]
    fn a_message_is_received_once_until_it_is_released() {
        let mut flow = Flow::default();
        let id = NonZeroU16::MIN;
        assert!(flow.receive(id) && !flow.receive(id) && flow.received() == 1);
        assert!(flow.released(id) && !flow.released(id) && flow.is_idle());
        assert!(flow.receive(id));
    }
}
