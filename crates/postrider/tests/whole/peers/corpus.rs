//! Real and hostile messages of others pass through octet for octet, but for the trace field in front.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{behind_trace, skipped, workspace};
use crate::harness::{Postrider, Setup, Sink};

/// Where the corpus lies, beside the workspace.
const CORPUS: &str = "../shared/data/mime";

#[test]
fn nothing_but_a_trace_field_changes() {
    let folder = workspace().join(CORPUS);
    if !folder.is_dir() {
        return skipped("../shared/data/mime is not installed");
    }
    let sink = Sink::start();
    // Some lines are longer than mail allows; here they may pass.
    let setup = Setup::to(&sink).table("[limits]\nline_length = 1000000\nheader_size = \"8MiB\"");
    let server = Postrider::start(&setup);
    let mut client = server.client();
    let (mut sent, mut refused) = (HashMap::new(), 0);
    for (at, path) in messages(&folder).into_iter().enumerate() {
        let content = as_clients_send(&fs::read(&path).expect("a message"));
        let recipient = format!("m{at}@example.net");
        if is_clean(&content) {
            client.deliver("a@example.org", &[&recipient], &content);
            sent.insert(recipient, (path, content));
        } else {
            client.transmit("a@example.org", &[&recipient], &content);
            assert!(client.expect(550).contains("5.6.0"), "{}", path.display());
            // The session is over.
            client = server.client();
            refused += 1;
        }
    }
    for _ in 0..sent.len() {
        let mail = sink.next();
        let (path, content) = sent.remove(&mail.to[0]).expect("a message arrives once");
        assert!(behind_trace(&mail.raw) == content, "{} has changed on its way", path.display());
    }
    println!("all unchanged; {refused} with a bare CR or a NUL were refused");
    server.stop();
    assert!(sink.is_empty());
}

fn messages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => found.extend(messages(&path)),
            Some("eml" | "txt") => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

/// With proper line ends, also the last.
fn as_clients_send(file: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(file.len());
    for line in file.split_inclusive(|octet| *octet == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        content.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
        content.extend_from_slice(b"\r\n");
    }
    content
}

fn is_clean(content: &[u8]) -> bool {
    let bare = |at: usize| content[at] == b'\r' && content.get(at + 1) != Some(&b'\n');
    !content.contains(&0) && !(0..content.len()).any(bare)
}
