//! Servers that are told to stop, and told again.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use homeport_tests::kit::{Addresses, Process, binary, eventually, until};

/// Half of a request: its server waits for the rest.
fn half_a_request(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: half").unwrap();
    stream
}

/// A whole request, answered: whoever connected before is being served too.
fn whole_request(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: whole\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn second_signal_ends_at_once(program: &str, args: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    fs::write(&config, "shutdown_timeout = \"1h\"\n").unwrap();
    let ready = folder.path().join("addresses.json");
    let mut command = Command::new(binary(program));
    command
        .args(["serve", "--mqtt-listen", "127.0.0.1:0", "--http-listen"])
        .args(["127.0.0.1:0", "--config"])
        .arg(&config)
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .arg("--addr-file")
        .arg(&ready)
        .args(args);
    let mut process = Process::spawn(program, &mut command, folder.path().join("log"));
    let addresses: Addresses = eventually("it is ready", || {
        serde_json::from_slice(&fs::read(&ready).ok()?).ok()
    });
    let _open = half_a_request(addresses.http);
    for _ in 0..3 {
        whole_request(addresses.http);
    }
    process.signal("TERM");
    until("it shuts down", || {
        process.stderr().contains("shutting down") && TcpStream::connect(addresses.mqtt).is_err()
    });
    assert!(process.ended().is_none(), "{program} waits for the open request");
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(1));
    assert!(process.stderr().contains("ended at once"));
}

#[test]
fn a_second_signal_ends_a_registrar_at_once() {
    second_signal_ends_at_once("registrar", &[]);
}

#[test]
fn a_second_signal_ends_a_gateway_at_once() {
    second_signal_ends_at_once("gateway", &["--id", "gw-a", "--registrar", "mqtt://127.0.0.1:9"]);
}
