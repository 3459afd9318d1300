//! The floor: what accepting, framing and answering from a constant costs on tokio. No server that understands the
//! question can be cheaper on the same runtime.

use std::{io, net::SocketAddr};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};

use crate::{ids, wire, wire::kind};

/// Serves on a free port of loopback until killed; prints the address.
#[tokio::main]
pub async fn serve() -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    println!("{}", listener.local_addr()?);
    let answer: &'static str = ids::answer(&ids::device(0)).leak();
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // A broken connection is the client's business; the harness sees it there.
            if let Err(error) = connection(stream, answer.as_bytes()).await {
                eprintln!("connection: {error:#}");
            }
        });
    }
}

async fn connection(stream: TcpStream, answer: &[u8]) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut partial = Vec::new();
    loop {
        stream.readable().await?;
        let Some(replies) = step(&stream, &mut partial, answer)? else {
            return Ok(());
        };
        let mut rest = &replies[..];
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Reads what is there and returns the replies to it, or none once the client is gone. The read buffer lives on this
/// function's stack, so an idle connection holds none.
fn step(stream: &TcpStream, partial: &mut Vec<u8>, answer: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut buffer = [0; 2048];
    let read = match stream.try_read(&mut buffer) {
        Ok(0) => return Ok(None),
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Vec::new())),
        Err(error) => return Err(error.into()),
    };
    let whole;
    let mut bytes = if partial.is_empty() {
        &buffer[..read]
    } else {
        partial.extend_from_slice(&buffer[..read]);
        whole = std::mem::take(partial);
        &whole
    };
    let mut replies = Vec::new();
    while let Some((packet, len)) = wire::split(bytes)? {
        match packet.kind() {
            kind::CONNECT => replies.extend_from_slice(&wire::CONNACK),
            kind::SUBSCRIBE => {
                replies.extend_from_slice(&[kind::SUBACK << 4, 3, packet.body[0], packet.body[1], 0]);
            }
            kind::PUBLISH => {
                let (topic, _) = packet.publish()?;
                if let Some(device) = topic.strip_prefix("reg/query/") {
                    let topic = format!("reg/resp/{device}");
                    replies.extend_from_slice(&wire::publish(&topic, answer, false));
                }
            }
            kind::PINGREQ => replies.extend_from_slice(&wire::PINGRESP),
            _ => return Ok(None),
        }
        bytes = &bytes[len..];
    }
    *partial = bytes.to_vec();
    Ok(Some(replies))
}
