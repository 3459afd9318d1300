//! What the gateway sends to the application, and what the application is told.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rumqttc::v5::mqttbytes::{QoS, v5::Publish};
use tokio::sync::mpsc;

use crate::{
    agent::{Event, Incoming, Qos},
    core::Change,
};

/// The application's queue of events. When it is full, a QoS 1 message waits for room and its gateway with it; anything else
/// is dropped and counted.
#[derive(Clone)]
pub(super) struct Inbox {
    events: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

impl Inbox {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        Self {
            events,
            dropped: Arc::default(),
        }
    }

    pub(super) async fn deliver(&self, publish: Publish) {
        let qos = match publish.qos {
            QoS::AtMostOnce => Qos::AtMostOnce,
            _ => Qos::AtLeastOnce,
        };
        let event = Event::Message(Incoming {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            payload: publish.payload,
            qos,
            retain: publish.retain,
        });
        match qos {
            Qos::AtMostOnce => self.tell(event),
            // An application that has dropped its receiver wants no messages.
            Qos::AtLeastOnce => self.events.send(event).await.unwrap_or_default(),
        }
    }

    pub(super) fn change(&self, change: Change) {
        self.tell(Event::Changed(change));
    }

    pub(super) fn tell(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(event) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
