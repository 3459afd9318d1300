use std::sync::Arc;

use bytes::BytesMut;
use rumqttc::v5::{
    MqttOptions,
    mqttbytes::{
        Error,
        v5::{Connect, Packet},
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// The largest CONNACK read.
const MAX_PACKET: u32 = 64 * 1024;

/// Why the registrar refuses: the Reason String of its CONNACK.
///
/// The client library drops it, so this asks once more, without a will, only to read it.
pub(super) async fn reason(options: &MqttOptions, tls: Option<Arc<ClientConfig>>) -> Option<String> {
    let (host, port) = options.broker_address();
    let stream = TcpStream::connect(format!("{host}:{port}")).await.ok()?;
    match tls {
        None => ask(options, stream).await,
        Some(tls) => {
            let name = ServerName::try_from(host).ok()?;
            let stream = TlsConnector::from(tls).connect(name, stream).await.ok()?;
            ask(options, stream).await
        }
    }
}

async fn ask(options: &MqttOptions, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<String> {
    let connect = Connect {
        keep_alive: 0,
        client_id: options.client_id(),
        clean_start: true,
        properties: options.connect_properties(),
    };
    let mut buffer = BytesMut::new();
    Packet::Connect(connect, None, options.credentials())
        .write(&mut buffer, None)
        .ok()?;
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
