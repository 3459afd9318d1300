//! The program as a process.

use std::{fs, net::TcpListener, process::Command};

#[test]
fn the_address_file_of_an_earlier_run_is_removed_before_anything_can_fail() {
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join("addresses.json");
    fs::write(&stale, r#"{"mqtt":"127.0.0.1:1","http":"127.0.0.1:2"}"#).unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args([
            "serve",
            "--id",
            "gw-a",
            "--mqtt-listen",
            "127.0.0.1:0",
            "--http-listen",
        ])
        .arg(taken.local_addr().unwrap().to_string())
        .arg("--data-dir")
        .arg(folder.path().join("data"))
        .arg("--addr-file")
        .arg(&stale)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(!stale.exists(), "{ended:?}");
}
