//! Both versions of MQTT behind one face: packets in, packets out.

pub(crate) mod connect;
pub(crate) mod frame;

use std::{
    num::{NonZeroU16, NonZeroU32},
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::BytesMut;
use bytestring::ByteString;
use rmqtt_codec::{
    error::EncodeError,
    types::{self, Publish},
    v3,
    v5::{
        self, DisconnectReasonCode, PublishAck2Reason, PublishAckReason, SubscribeAckReason,
        UnsubscribeAckReason,
    },
};
use tokio::time::Instant;
use tokio_util::codec::{Decoder, Encoder};

use crate::{QoS, message::Delivery};

/// A packet of a connected client.
#[derive(Debug)]
pub(crate) enum Packet {
    Publish(Box<Publish>),
    /// PUBACK, or a PUBREC that says the message was not taken: the delivery is over.
    Acknowledged(NonZeroU16),
    /// PUBREC.
    Received(NonZeroU16),
    /// PUBREL.
    Release(NonZeroU16),
    /// PUBCOMP.
    Complete(NonZeroU16),
    Subscribe(Subscribe),
    Unsubscribe {
        id: NonZeroU16,
        filters: Vec<ByteString>,
    },
    Ping,
    Disconnect {
        reason: DisconnectReasonCode,
        expiry: Option<u32>,
    },
    /// A packet the codec knows and a client may not send now.
    Unexpected,
}

/// SUBSCRIBE.
#[derive(Debug)]
pub(crate) struct Subscribe {
    pub(crate) id: NonZeroU16,
    pub(crate) subscription: Option<NonZeroU32>,
    pub(crate) filters: Vec<(ByteString, v5::SubscriptionOptions)>,
}

/// What a PUBLISH to a client says besides its message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outgoing {
    pub(crate) id: Option<NonZeroU16>,
    pub(crate) dup: bool,
    pub(crate) alias: Alias,
}

/// How a PUBLISH to a client names its topic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Alias {
    /// By its name.
    #[default]
    None,
    /// By its name, which has this alias from now on.
    New(NonZeroU16),
    /// By its alias.
    Known(NonZeroU16),
}

/// Why a packet does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeFailure {
    /// It is malformed.
    Malformed,
    /// The codec panicked on it.
    Panicked,
}

/// The codec of one connection.
pub(crate) enum Wire {
    V3(v3::Codec),
    V5(v5::Codec),
}

impl Wire {
    pub(crate) fn is_v5(&self) -> bool {
        matches!(self, Self::V5(_))
    }

    /// Decodes one packet, which the input holds as a whole.
    ///
    /// # Errors
    /// The connection cannot go on after any.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Packet, DecodeFailure> {
        let decoded = catch_unwind(AssertUnwindSafe(|| match self {
            Self::V3(codec) => codec
                .decode(input)
                .map(|packet| packet.map(|(packet, _)| from_v3(packet))),
            Self::V5(codec) => codec
                .decode(input)
                .map(|packet| packet.map(|(packet, _)| from_v5(packet))),
        }));
        match decoded {
            Ok(Ok(Some(packet))) => Ok(packet),
            Ok(_) => Err(DecodeFailure::Malformed),
            Err(_) => Err(DecodeFailure::Panicked),
        }
    }

    /// # Errors
    /// The packet is larger than the client takes, or than MQTT can say.
    pub(crate) fn publish(
        &mut self,
        output: &mut BytesMut,
        delivery: &Delivery,
        outgoing: Outgoing,
        now: Instant,
    ) -> Result<(), EncodeError> {
        let message = &delivery.publication;
        let mut publish = Publish {
            dup: outgoing.dup,
            retain: delivery.retain,
            qos: delivery.qos.into(),
            topic: message.topic.clone(),
            packet_id: outgoing.id,
            payload: message.payload.clone(),
            properties: None,
        };
        match self {
            Self::V3(codec) => codec.encode(v3::Packet::Publish(Box::new(publish)), output),
            Self::V5(codec) => {
                publish.properties = v5_properties(delivery, now);
                match outgoing.alias {
                    Alias::None => {}
                    Alias::New(alias) => {
                        publish.properties.get_or_insert_default().topic_alias = Some(alias);
                    }
                    Alias::Known(alias) => {
                        publish.properties.get_or_insert_default().topic_alias = Some(alias);
                        publish.topic = ByteString::new();
                    }
                }
                codec.encode(v5::Packet::Publish(Box::new(publish)), output)
            }
        }
    }

    pub(crate) fn puback(
        &mut self,
        output: &mut BytesMut,
        packet_id: NonZeroU16,
        reason_code: PublishAckReason,
    ) {
        let v5 = v5::PublishAck {
            packet_id,
            reason_code,
            properties: Vec::new(),
            reason_string: None,
        };
        self.put(output, v3::Packet::PublishAck { packet_id }, || {
            v5::Packet::PublishAck(v5)
        });
    }

    pub(crate) fn pubrec(
        &mut self,
        output: &mut BytesMut,
        packet_id: NonZeroU16,
        reason_code: PublishAckReason,
    ) {
        let v5 = v5::PublishAck {
            packet_id,
            reason_code,
            properties: Vec::new(),
            reason_string: None,
        };
        self.put(output, v3::Packet::PublishReceived { packet_id }, || {
            v5::Packet::PublishReceived(v5)
        });
    }

    pub(crate) fn pubrel(&mut self, output: &mut BytesMut, packet_id: NonZeroU16, found: bool) {
        let v3 = v3::Packet::PublishRelease { packet_id };
        self.put(output, v3, || {
            v5::Packet::PublishRelease(second_ack(packet_id, found))
        });
    }

    pub(crate) fn pubcomp(&mut self, output: &mut BytesMut, packet_id: NonZeroU16, found: bool) {
        let v3 = v3::Packet::PublishComplete { packet_id };
        self.put(output, v3, || {
            v5::Packet::PublishComplete(second_ack(packet_id, found))
        });
    }

    pub(crate) fn suback(
        &mut self,
        output: &mut BytesMut,
        packet_id: NonZeroU16,
        status: Vec<SubscribeAckReason>,
        reason: Option<&'static str>,
    ) {
        let v3 = v3::Packet::SubscribeAck {
            packet_id,
            status: status.iter().map(v3_return_code).collect(),
        };
        let v5 = v5::SubscribeAck {
            packet_id,
            properties: Vec::new(),
            reason_string: reason.map(ByteString::from_static),
            status,
        };
        self.put(output, v3, || v5::Packet::SubscribeAck(v5));
    }

    pub(crate) fn unsuback(
        &mut self,
        output: &mut BytesMut,
        packet_id: NonZeroU16,
        status: Vec<UnsubscribeAckReason>,
    ) {
        let v5 = v5::UnsubscribeAck {
            packet_id,
            properties: Vec::new(),
            reason_string: None,
            status,
        };
        self.put(output, v3::Packet::UnsubscribeAck { packet_id }, || {
            v5::Packet::UnsubscribeAck(v5)
        });
    }

    pub(crate) fn pingresp(&mut self, output: &mut BytesMut) {
        self.put(output, v3::Packet::PingResponse, || v5::Packet::PingResponse);
    }

    /// Says why the connection ends; 3.1.1 has no words for it.
    pub(crate) fn disconnect(
        &mut self,
        output: &mut BytesMut,
        reason_code: DisconnectReasonCode,
        server: Option<String>,
    ) {
        if let Self::V5(codec) = self {
            let packet = v5::Disconnect {
                server_reference: server.map(ByteString::from),
                ..v5::Disconnect::new(reason_code)
            };
            // A client that takes no packet this small is told nothing.
            let _ = codec.encode(v5::Packet::Disconnect(packet), output);
        }
    }

    fn put(&mut self, output: &mut BytesMut, v3: v3::Packet, v5: impl FnOnce() -> v5::Packet) {
        let encoded = match self {
            Self::V3(codec) => codec.encode(v3, output),
            Self::V5(codec) => codec.encode(v5(), output),
        };
        if let Err(error) = encoded {
            tracing::debug!(%error, "a packet is larger than the client takes");
        }
    }
}

fn second_ack(packet_id: NonZeroU16, found: bool) -> v5::PublishAck2 {
    let reason_code = if found {
        PublishAck2Reason::Success
    } else {
        PublishAck2Reason::PacketIdNotFound
    };
    v5::PublishAck2 {
        packet_id,
        reason_code,
        properties: Vec::new(),
        reason_string: None,
    }
}

fn v3_return_code(reason: &SubscribeAckReason) -> v3::SubscribeReturnCode {
    match reason {
        SubscribeAckReason::GrantedQos0 => v3::SubscribeReturnCode::Success(types::QoS::AtMostOnce),
        SubscribeAckReason::GrantedQos1 => v3::SubscribeReturnCode::Success(types::QoS::AtLeastOnce),
        SubscribeAckReason::GrantedQos2 => v3::SubscribeReturnCode::Success(types::QoS::ExactlyOnce),
        _ => v3::SubscribeReturnCode::Failure,
    }
}

fn v5_properties(delivery: &Delivery, now: Instant) -> Option<v5::PublishProperties> {
    let properties = delivery.publication.properties.as_deref();
    if properties.is_none() && delivery.subscriptions.is_empty() {
        return None;
    }
    let mut wire = v5::PublishProperties {
        subscription_ids: delivery.subscriptions.clone(),
        ..Default::default()
    };
    if let Some(properties) = properties {
        wire.is_utf8_payload = properties.utf8;
        wire.content_type = properties.content_type.clone();
        wire.response_topic = properties.response_topic.clone();
        wire.correlation_data = properties.correlation_data.clone();
        wire.user_properties = properties.user.clone();
        wire.message_expiry_interval = properties.expires.and_then(|at| {
            // One sent again after its time is over still has to say that it has one.
            let left = at.saturating_duration_since(now).as_secs_f64().ceil();
            NonZeroU32::new((left as u32).max(1))
        });
    }
    Some(wire)
}

fn from_v3(packet: v3::Packet) -> Packet {
    match packet {
        v3::Packet::Publish(publish) => Packet::Publish(publish),
        v3::Packet::PublishAck { packet_id } => Packet::Acknowledged(packet_id),
        v3::Packet::PublishReceived { packet_id } => Packet::Received(packet_id),
        v3::Packet::PublishRelease { packet_id } => Packet::Release(packet_id),
        v3::Packet::PublishComplete { packet_id } => Packet::Complete(packet_id),
        v3::Packet::Subscribe {
            packet_id,
            topic_filters,
        } => {
            let options = |qos| v5::SubscriptionOptions {
                qos,
                ..Default::default()
            };
            let filters = topic_filters
                .into_iter()
                .map(|(filter, qos)| (filter, options(qos)))
                .collect();
            Packet::Subscribe(Subscribe {
                id: packet_id,
                subscription: None,
                filters,
            })
        }
        v3::Packet::Unsubscribe {
            packet_id,
            topic_filters,
        } => Packet::Unsubscribe {
            id: packet_id,
            filters: topic_filters,
        },
        v3::Packet::PingRequest => Packet::Ping,
        v3::Packet::Disconnect => Packet::Disconnect {
            reason: DisconnectReasonCode::NormalDisconnection,
            expiry: None,
        },
        _ => Packet::Unexpected,
    }
}

fn from_v5(packet: v5::Packet) -> Packet {
    match packet {
        v5::Packet::Publish(publish) => Packet::Publish(publish),
        v5::Packet::PublishAck(ack) => Packet::Acknowledged(ack.packet_id),
        v5::Packet::PublishReceived(ack) if u8::from(ack.reason_code) >= 0x80 => {
            Packet::Acknowledged(ack.packet_id)
        }
        v5::Packet::PublishReceived(ack) => Packet::Received(ack.packet_id),
        v5::Packet::PublishRelease(ack) => Packet::Release(ack.packet_id),
        v5::Packet::PublishComplete(ack) => Packet::Complete(ack.packet_id),
        v5::Packet::Subscribe(subscribe) => Packet::Subscribe(Subscribe {
            id: subscribe.packet_id,
            subscription: subscribe.id,
            filters: subscribe.topic_filters,
        }),
        v5::Packet::Unsubscribe(unsubscribe) => Packet::Unsubscribe {
            id: unsubscribe.packet_id,
            filters: unsubscribe.topic_filters,
        },
        v5::Packet::PingRequest => Packet::Ping,
        v5::Packet::Disconnect(disconnect) => Packet::Disconnect {
            reason: disconnect.reason_code,
            expiry: disconnect.session_expiry_interval_secs,
        },
        _ => Packet::Unexpected,
    }
}

impl From<types::QoS> for QoS {
    fn from(qos: types::QoS) -> Self {
        match qos {
            types::QoS::AtMostOnce => Self::AtMostOnce,
            types::QoS::AtLeastOnce => Self::AtLeastOnce,
            types::QoS::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

impl From<QoS> for types::QoS {
    fn from(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::AtMostOnce,
            QoS::AtLeastOnce => Self::AtLeastOnce,
            QoS::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::{
        frame::{Frame, Phase},
        *,
    };

    const MAX_SIZE: u32 = 4096;

    /// Packets of both versions that hold every field a client can send.
    const SEEDS: &[&[u8]] = &[
        b"\x32\x0e\0\x05data/\0\x01payload",
        b"\x34\x2b\0\x03a/b\0\x01\x1f\x01\x01\x02\0\0\0\x05\x03\0\x01t\x08\0\x01r\x09\0\x01c\x26\0\x01k\0\x01v\x23\0\x01hello",
        b"\x30\x0a\0\x03a/b\x02\x0b\x01xyz",
        b"\x40\x02\0\x01",
        b"\x40\x0f\0\x01\x10\x0b\x1f\0\x01x\x26\0\x01k\0\x01v",
        b"\x50\x04\0\x01\x87\0",
        b"\x62\x02\0\x01",
        b"\x70\x04\0\x01\x92\0",
        b"\x82\x0c\0\x01\0\x03a/#\x01\0\x01+\x02",
        b"\x82\x11\0\x01\x09\x0b\x07\x26\0\x01k\0\x01v\0\x01#\x2d",
        b"\xa2\x0a\0\x01\0\x03a/b\0\x01x",
        b"\xa2\x08\0\x01\0\0\x03a/b",
        b"\xc0\x00",
        b"\xe0\x00",
        b"\xe0\x07\x04\x05\x11\0\0\0\x05",
        b"\xf0\x08\x18\x06\x15\0\x03abc",
    ];

    #[test]
    fn no_panic_of_the_codec_escapes() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut decoded, mut malformed, mut panicked) = (0, 0, 0);
        for round in 0..200_000 {
            let mut packet = SEEDS[random.random_range(0..SEEDS.len())].to_vec();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..packet.len());
                match random.random_range(0..3) {
                    0 => packet[at] = random.random(),
                    1 => packet[at] ^= 1 << random.random_range(0..8),
                    _ => packet.insert(at, random.random()),
                }
            }
            let v5 = round % 2 == 0;
            let mut wire = if v5 {
                Wire::V5(v5::Codec::new(MAX_SIZE, 0))
            } else {
                Wire::V3(v3::Codec::new(MAX_SIZE))
            };
            if let Ok(Frame::Whole(_)) = frame::next(&packet, Phase::Connected, MAX_SIZE) {
                match wire.decode(&mut BytesMut::from(packet.as_slice())) {
                    Ok(_) => decoded += 1,
                    Err(DecodeFailure::Malformed) => malformed += 1,
                    Err(DecodeFailure::Panicked) => panicked += 1,
                }
            }
        }
        assert!(
            decoded > 10_000 && malformed > 10_000,
            "{decoded} {malformed} {panicked}"
        );
        assert_eq!(panicked, 0, "contained, but worth knowing");
    }

    #[test]
    fn no_panic_on_a_mutated_connect_escapes() {
        let seeds: [&[u8]; 2] = [
            b"\x10\x20\0\x04MQTT\x04\xf6\0\x3c\0\x01c\0\x03w/t\0\x01m\0\x02us\0\x02pw",
            b"\x10\x32\0\x04MQTT\x05\xf6\0\x3c\x0c\x11\0\0\0\x05\x21\0\x05\x27\0\0\xff\xff\0\x01c\x05\x18\0\0\0\x05\0\x03w/t\0\x01m\0\x02us\0\x02pw",
        ];
        let config = crate::Config::default();
        let mut random = StdRng::seed_from_u64(8);
        for round in 0..100_000 {
            let mut packet = seeds[round % 2].to_vec();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..packet.len());
                packet[at] = random.random();
            }
            if let Ok(Frame::Whole(_)) = frame::next(&packet, Phase::Connecting, MAX_SIZE) {
                let decoded = connect::decode(&mut BytesMut::from(packet.as_slice()), &config);
                assert!(
                    !matches!(decoded, Err(connect::ConnectError::Panicked)),
                    "{packet:x?}"
                );
            }
        }
    }
}
