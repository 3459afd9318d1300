use std::net::SocketAddr;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::{
    Error, QoS,
    v5::{ConnAck, Connect, ConnectProperties, Disconnect, Filter, Packet, Publish, Subscribe},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

/// An MQTT 5 client that shows every packet.
pub struct Client {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Client {
    /// Connects and returns what the server answers.
    pub async fn knock(address: SocketAddr, id: &str, epoch: Option<u64>) -> (Self, ConnAck) {
        let mut client = Self {
            stream: TcpStream::connect(address).await.unwrap(),
            buffer: BytesMut::new(),
        };
        let mut properties = ConnectProperties::new();
        properties.user_properties = epoch
            .map(|epoch| ("epoch".to_owned(), epoch.to_string()))
            .into_iter()
            .collect();
        let connect = Connect {
            keep_alive: 0,
            client_id: id.to_owned(),
            clean_start: true,
            properties: Some(properties),
        };
        client.send(Packet::Connect(connect, None, None)).await;
        match client.read().await {
            Some(Packet::ConnAck(connack)) => (client, connack),
            other => panic!("no CONNACK but {other:?}"),
        }
    }

    /// Connects as a client that must be let in.
    pub async fn connect(address: SocketAddr, id: &str) -> Self {
        let (client, connack) = Self::knock(address, id, None).await;
        assert_eq!(
            connack.code,
            rumqttc::v5::mqttbytes::v5::ConnectReturnCode::Success
        );
        client
    }

    pub async fn subscribe(&mut self, filter: &str) {
        let filter = Filter::new(filter, QoS::AtLeastOnce);
        let mut subscribe = Subscribe::new(filter, None);
        subscribe.pkid = 1;
        self.send(Packet::Subscribe(subscribe)).await;
        let suback = self.read().await;
        assert!(matches!(suback, Some(Packet::SubAck(_))), "{suback:?}");
    }

    pub async fn publish(&mut self, topic: &str, payload: &[u8]) {
        let publish = Publish::new(topic, QoS::AtMostOnce, payload.to_vec(), None);
        self.send(Packet::Publish(publish)).await;
    }

    /// The next message: topic, payload and retain flag.
    pub async fn message(&mut self) -> (String, Vec<u8>, bool) {
        match self.read().await {
            Some(Packet::Publish(publish)) => {
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                (topic, publish.payload.to_vec(), publish.retain)
            }
            other => panic!("no message but {other:?}"),
        }
    }

    /// What the server says as it disconnects this client.
    pub async fn disconnected(&mut self) -> Disconnect {
        loop {
            match self.read().await {
                Some(Packet::Disconnect(disconnect)) => return disconnect,
                Some(_) => {}
                None => panic!("closed without DISCONNECT"),
            }
        }
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            if within(self.stream.read_buf(&mut self.buffer)).await.unwrap() == 0 {
                return None;
            }
        }
    }
}
