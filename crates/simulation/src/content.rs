//! The content of messages, which follows from their number, and the reading of reports.

/// The content of a transaction.
pub fn content(token: usize, size: usize, eight_bit: bool) -> Vec<u8> {
    let mut content = format!("From: t{token}@sender.example\r\nSubject: t{token}\r\n").into_bytes();
    if eight_bit {
        content.extend(b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n");
        content.extend(b"Content-Transfer-Encoding: 8bit\r\n");
    }
    content.extend(b"\r\n");
    let mut state = token as u64;
    let end = content.len() + size;
    while content.len() < end {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Dots where they hurt.
        content.extend(match state >> 62 {
            0 => b".".as_slice(),
            1 => b"..x",
            _ => b"",
        });
        content.extend(format!("{state:x}").bytes());
        if eight_bit && state >> 63 == 1 {
            content.extend("\u{e4}".bytes());
        }
        content.extend(b"\r\n");
    }
    content
}

/// Content as DATA carries it, with its end.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(content.len() + 64);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            stuffed.push(b'.');
        }
        stuffed.extend(line);
    }
    stuffed.extend(b".\r\n");
    stuffed
}

/// What a report says: its own name, and each recipient with its action.
pub fn report(content: &[u8]) -> Option<(String, Vec<(String, String)>)> {
    let text = String::from_utf8_lossy(content);
    let mut name = None;
    let mut about = Vec::new();
    let mut recipient = None;
    let mut in_status = false;
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        match field.to_ascii_lowercase().as_str() {
            "message-id" if name.is_none() => name = Some(value.to_owned()),
            "content-type" => in_status |= value.contains("delivery-status") && !value.contains("multipart"),
            "final-recipient" if in_status => recipient = value.split_once(';').map(|(_, it)| it.trim().to_owned()),
            "action" if in_status => about.extend(recipient.take().map(|it| (it, value.to_owned()))),
            _ => {}
        }
    }
    (!about.is_empty()).then(|| (name.unwrap_or_default(), about))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ends_and_no_line_is_an_end() {
        let content = content(7, 3000, true);
        assert!(content.ends_with(b"\r\n"));
        let stuffed = stuffed(&content);
        let ends = stuffed.windows(5).filter(|window| window == b"\r\n.\r\n").count();
        assert_eq!(ends, 1);
        assert!(stuffed.windows(4).any(|window| window == b"\r\n.."), "there are dots to be stuffed");
    }
}
