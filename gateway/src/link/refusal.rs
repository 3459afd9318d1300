use bytes::BytesMut;
use rumqttc::v5::{
    MqttOptions,
    mqttbytes::{
        Error,
        v5::{Connect, Packet},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The largest CONNACK read.
const MAX_PACKET: u32 = 64 * 1024;

/// Why the registrar refuses: the Reason String of its CONNACK.
///
/// The client library drops it, so this asks once more, without a will, only to read it.
pub(super) async fn reason(options: &MqttOptions) -> Option<String> {
    let (host, port) = options.broker_address();
    let connect = Connect {
        keep_alive: 0,
        client_id: options.client_id(),
        clean_start: true,
        properties: options.connect_properties(),
    };
    let mut buffer = BytesMut::new();
    Packet::Connect(connect, None, None)
        .write(&mut buffer, None)
        .ok()?;
    let mut stream = TcpStream::connect(format!("{host}:{port}")).await.ok()?;
    stream.write_all(&buffer).await.ok()?;
    buffer.clear();
    loop {
        match Packet::read(&mut buffer, Some(MAX_PACKET)) {
            Ok(Packet::ConnAck(connack)) => return connack.properties?.reason_string,
            Ok(_) => return None,
            Err(Error::InsufficientBytes(_)) if stream.read_buf(&mut buffer).await.ok()? > 0 => {}
            Err(_) => return None,
        }
    }
}
