//! The sandbox: one command, no configuration.

use std::process::{Command, Stdio};

use crate::harness::{Client, Postrider, Setup, postrider};

fn sandbox(setup: &Setup, port: u16) -> Command {
    let mut command = Command::new(crate::harness::binary());
    command.arg("sandbox").arg("--port").arg(port.to_string()).arg("--dir").arg(setup.folder().join("box"));
    command.stdout(Stdio::null());
    command
}

/// A port of 127.0.0.1 that is free now; the sandbox listens nowhere else.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

#[test]
fn a_message_is_captured() {
    let (setup, port) = (Setup::new(), free_port());
    let mut server = Postrider::run(sandbox(&setup, port), &setup);
    server.event("ready");
    let mut client = Client::connect(([127, 0, 0, 1], port).into());
    client.send("me@example.org", &["you@example.net"], "Subject: hi\r\n\r\nhello\r\n");
    server.event("finished");
    let captured: Vec<_> = std::fs::read_dir(setup.folder().join("box/captured")).expect("the folder").collect();
    assert_eq!(captured.len(), 1);
    let path = captured.into_iter().next().expect("one").expect("an entry").path();
    let text = std::fs::read_to_string(path).expect("the message");
    assert!(text.starts_with("Return-Path: <me@example.org>\r\nDelivered-To: you@example.net\r\nReceived: "), "{text}");
    assert!(text.ends_with("Subject: hi\r\n\r\nhello\r\n"), "{text}");
    assert_eq!(text.matches("Received:").count(), 2);
    server.signal("INT");
    assert!(server.wait_exit().success(), "{}", server.log_text());
}

#[test]
fn a_taken_port_is_told_in_clear_words() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port().to_string();
    let setup = Setup::new();
    let folder = setup.folder().join("box");
    let err = postrider(&["sandbox", "--port", &port, "--dir", folder.to_str().expect("text")]).bad(1);
    assert!(err.contains(&format!("port {port} is taken")) && err.contains("--port"), "{err}");
}
