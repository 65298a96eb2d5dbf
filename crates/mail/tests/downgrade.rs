//! Conversion to seven bits, judged by two parsers that are not ours: the crate `mail-parser` and Python's `email`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use mail::downgrade::{Unconvertible, downgrade, needs_downgrade};
use mail_parser::{Message, MessageParser, PartType};
use proptest::prelude::*;

fn converted(message: impl AsRef<[u8]>) -> Vec<u8> {
    let message = message.as_ref();
    let result = downgrade(message).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(message)));
    let bytes = result.to_bytes().to_vec();
    assert_eq!(bytes, result.pieces().collect::<Vec<_>>().concat());
    assert_eq!(bytes.len(), result.len());
    assert_is_seven_bit(&bytes);
    bytes
}

fn assert_is_seven_bit(bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.is_ascii() && !text.contains('\0'));
    for line in text.split("\r\n") {
        assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{line:?}");
    }
}

fn text(message: &str) -> String {
    String::from_utf8(converted(message)).unwrap()
}

#[test]
fn a_text_becomes_quoted_printable() {
    assert_eq!(
        text(
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\
              Subject: x\r\n\r\nGrüße\r\n"
        ),
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: quoted-printable\r\nSubject: x\r\n\r\nGr=C3=BC=C3=9Fe\r\n"
    );
}

#[test]
fn missing_mime_fields_are_added() {
    assert_eq!(
        text("Subject: x\r\n\r\n\u{e9}\r\n"),
        "Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9\r\n"
    );
}

#[test]
fn what_needs_nothing_stays() {
    let plain = "Content-Transfer-Encoding: 8bit\r\n\r\nhello\r\n";
    assert!(!needs_downgrade(plain.as_bytes()) && needs_downgrade("\u{e9}".as_bytes()));
    assert_eq!(text(plain), plain);
    assert_eq!(downgrade(plain.as_bytes()).unwrap().pieces().count(), 1);
}

#[test]
fn only_the_parts_that_need_it_change_and_labels_follow() {
    let before = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_a\"\r\n\
        Content-Transfer-Encoding: 8bit\r\n\r\n\
        pr\u{e9}ambule\r\n--=_a\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\nplain\r\n\
        --=_a\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: binary\r\n\r\n\u{e9}\r\n\
        --=_a\r\n\r\n\u{e9}\r\n--=_ab\r\n--=_a  \r\n--=_a--\r\n\u{e9}pilogue\r\n";
    let after = "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"=_a\"\r\n\
        Content-Transfer-Encoding: 7bit\r\n\r\n\
        \r\n--=_a\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 7bit\r\n\r\nplain\r\n\
        --=_a\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nw6k=\r\n\
        --=_a\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9\r\n=2D-=3D_ab\r\n--=_a  \r\n--=_a--\r\n";
    assert_eq!(text(before), after);
}

#[test]
fn messages_inside_messages_are_converted_inside() {
    let inner = "Subject: inner\r\n\r\n\u{e9}\r\n";
    let before = format!(
        "Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n{inner}\r\n--b\r\nContent-Type: \
         message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{inner}\r\n--b--\r\n"
    );
    let after = text(&before);
    assert_eq!(after.matches("Subject: inner\r\nMIME-Version: 1.0\r\n").count(), 2, "{after}");
    assert!(after.contains("message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n"), "{after}");
    let message = MessageParser::default().parse(after.as_bytes()).unwrap();
    assert_eq!(leaves(&message), vec!["\u{e9}\r\n".as_bytes(); 2]);
}

#[test]
fn a_line_that_would_read_as_a_boundary_after_a_soft_break_does_not() {
    let body = format!("{}--b\r\n\u{e9}", "x".repeat(75));
    let before = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n{body}\r\n--b--\r\n");
    let after = converted(&before);
    let message = MessageParser::default().parse(&after).unwrap();
    assert_eq!(leaves(&message), [body.as_bytes()]);
}

#[test]
fn parts_that_are_encoded_already_lose_their_stray_octets() {
    let qp = text("Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A9 \u{e9}=\r\n\r\n");
    assert!(qp.ends_with("\r\n\r\n=C3=A9 =C3=A9=\r\n\r\n"), "{qp}");
    let base64 = text("Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\naGVs\u{e9}bG8=\r\n");
    assert!(base64.ends_with("\r\n\r\naGVsbG8=\r\n"), "{base64}");
}

#[test]
fn content_of_binarymime_is_converted_too() {
    let mut before = b"Content-Type: image/png\r\nContent-Transfer-Encoding: BINARY (raw)\r\n\r\n".to_vec();
    let data = [b"\0\r\n\n\r".as_slice(), &[b'x'; 1200]].concat();
    before.extend_from_slice(&data);
    let after = converted(&before);
    let message = MessageParser::default().parse(&after).unwrap();
    assert_eq!(leaves(&message), [data]);
}

#[test]
fn what_cannot_be_converted_says_why() {
    let refused = |message: &str| {
        let error = downgrade(message.as_bytes()).unwrap_err();
        let fault = error.fault();
        assert!(fault.is_permanent() && fault.reply.text().is_ascii());
        (error, fault.reply.status().to_string())
    };
    let (header, status) = refused("Subject: \u{e9}\r\n\r\nx\r\n");
    assert_eq!((header, status.as_str()), (Unconvertible::Header, "5.6.9"));
    let (signed, status) = refused(
        "Content-Type: multipart/signed; boundary=b; micalg=x; protocol=\"y/z\"\r\n\r\n--b\r\n\r\n\u{e9}\r\n\
         --b\r\n\r\nsig\r\n--b--\r\n",
    );
    assert_eq!((signed, status.as_str()), (Unconvertible::Signed, "5.6.3"));
    assert_eq!(refused("Content-Transfer-Encoding: x-yencode\r\n\r\n\u{e9}").0, Unconvertible::Encoding);
    assert_eq!(refused("Content-Type: message/partial\r\n\r\n\u{e9}").0, Unconvertible::Encoding);
    let encoded =
        "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nA: b\r\n\r\n\u{e9}";
    assert_eq!(refused(encoded).0, Unconvertible::Encoding);
    for broken in [
        "no header\r\n\r\n\u{e9}",
        "Content-Type: multipart/mixed\r\n\r\n\u{e9}",
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n\u{e9}\r\n--bb\r\n",
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n\u{e9}\r\n--b--\r\n",
        "Content-Type: text/plain\r\ncontent-type: image/png\r\n\r\n\u{e9}",
        "Content-Type: multipart/mixed; boundary=\"a\r\n b\"\r\n\r\n--a b\r\n\r\n\u{e9}\r\n--a b--\r\n",
        "Content-Type : text/plain\r\n\r\n\u{e9}",
    ] {
        assert!(matches!(refused(broken).0, Unconvertible::Malformed(_)), "{broken}");
    }
}

#[test]
fn a_signed_part_that_needs_nothing_is_not_touched() {
    let signed = "Content-Type: multipart/signed; boundary=s\r\n\r\n--s\r\nContent-Transfer-Encoding: 8bit\r\n\r\nx\r\n\
                  --s\r\n\r\nsig\r\n--s--\r\n";
    let before =
        format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n{signed}\r\n--b\r\n\r\n\u{e9}\r\n--b--\r\n");
    assert!(text(&before).contains(signed));
}

#[test]
fn parts_that_cannot_be_understood_and_need_nothing_stay_as_they_are() {
    let odd = "Content-Type: multipart/mixed; boundary=x\r\nContent-Transfer-Encoding: 8bit\r\n\r\nno parts";
    let part = |inside: &str| format!("--b\r\n{inside}\r\n");
    let message = |text: &str, label: &str| {
        let text = format!("{label}\r\n{text}");
        let parts = [part(odd), "--b\r\n".to_owned(), part(&text), part("no header")].concat();
        format!("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{parts}--b--\r\n")
    };
    let expected = message("=C3=A9", "Content-Transfer-Encoding: quoted-printable\r\n");
    assert_eq!(text(&message("\u{e9}", "")), expected);
}

#[test]
fn nesting_and_number_of_parts_are_bounded() {
    let mut deep = "\u{e9}\r\n".to_owned();
    for level in 0..40 {
        deep =
            format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n{deep}\r\n--b{level}--\r\n");
    }
    assert_eq!(downgrade(deep.as_bytes()).unwrap_err(), Unconvertible::TooComplex);
    let many = "--b\r\n\r\n\u{e9}\r\n".repeat(10_001);
    let wide = format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{many}--b--\r\n");
    assert_eq!(downgrade(wide.as_bytes()).unwrap_err(), Unconvertible::TooComplex);
}

/// The decoded octets of all parts that hold no others, in order.
fn leaves<'a>(message: &'a Message<'_>) -> Vec<&'a [u8]> {
    let mut found = Vec::new();
    for part in &message.parts {
        match &part.body {
            PartType::Multipart(_) => {}
            PartType::Message(inner) => found.extend(leaves(inner)),
            _ => found.push(part.contents()),
        }
    }
    found
}

/// A generated entity and the octets of its leaves.
#[derive(Debug, Clone)]
struct Entity {
    header: String,
    body: Vec<u8>,
    leaves: Vec<Vec<u8>>,
}

impl Entity {
    fn leaf(media: &str, label: Option<&str>, data: Vec<u8>) -> Entity {
        let label = label.map(|label| format!("Content-Transfer-Encoding: {label}\r\n")).unwrap_or_default();
        Entity { header: format!("Content-Type: {media}\r\n{label}"), body: data.clone(), leaves: vec![data] }
    }

    fn bytes(&self) -> Vec<u8> {
        [self.header.as_bytes(), b"\r\n", &self.body].concat()
    }

    fn multipart(label: bool, parts: Vec<Entity>, level: u32) -> Entity {
        let boundary = format!("=_{level}_{}", parts.iter().map(|part| part.body.len()).sum::<usize>());
        let label = if label { "Content-Transfer-Encoding: 8bit\r\n" } else { "" };
        let header = format!("Content-Type: multipart/mixed;\r\n\tboundary=\"{boundary}\"\r\n{label}");
        let mut body = "pr\u{e9}ambule\r\n".as_bytes().to_vec();
        for part in &parts {
            body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
            body.extend_from_slice(&part.bytes());
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        Entity { header, body, leaves: parts.into_iter().flat_map(|part| part.leaves).collect() }
    }

    fn message(inner: Entity) -> Entity {
        let body = [b"Subject: inner\r\n".as_slice(), &inner.bytes()].concat();
        Entity { header: "Content-Type: message/rfc822\r\n".into(), body, leaves: inner.leaves }
    }
}

fn entity() -> impl Strategy<Value = Entity> {
    let label = prop::option::of(prop::sample::select(vec!["8bit", "binary", "7bit", "8BIT (comment)"]));
    let line = "[a-zéß😀=. -]{0,90}";
    let written = (prop::collection::vec(line, 0..6), label.clone())
        .prop_map(|(lines, label)| Entity::leaf("text/plain; charset=utf-8", label, lines.join("\r\n").into_bytes()));
    let binary = (prop::collection::vec(any::<u8>(), 0..300), label)
        .prop_map(|(data, label)| Entity::leaf("application/octet-stream", label, data));
    prop_oneof![written, binary].prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (any::<bool>(), prop::collection::vec(inner.clone(), 1..4), any::<u32>())
                .prop_map(|(label, parts, level)| Entity::multipart(label, parts, level)),
            // The crate that judges loses its place in a message directly inside a message.
            inner.prop_map(|inner| if inner.header.contains("rfc822") { inner } else { Entity::message(inner) }),
        ]
    })
}

proptest! {
    #[test]
    fn every_part_decodes_to_the_same_octets(entity in entity()) {
        let before = [b"MIME-Version: 1.0\r\n".as_slice(), &entity.bytes()].concat();
        let after = converted(&before);
        let message = MessageParser::default().parse(&after).unwrap();
        prop_assert_eq!(leaves(&message), entity.leaves, "{}", String::from_utf8_lossy(&after));
    }

    #[test]
    fn a_second_conversion_changes_nothing(entity in entity()) {
        let once = converted(entity.bytes());
        prop_assert_eq!(converted(&once), once);
    }

    #[test]
    fn arbitrary_octets_never_panic_and_never_leave_as_eight_bits(
        octets in prop::collection::vec(any::<u8>(), 0..300),
        soup in prop::collection::vec(prop::sample::select(SOUP.to_vec()), 0..40),
    ) {
        for message in [octets, soup.concat()] {
            if let Ok(result) = downgrade(&message) {
                assert_is_seven_bit(&result.to_bytes());
            }
        }
    }
}

const SOUP: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"--b",
    b"--",
    b"\xe9",
    b"x",
    b" ",
    b"Content-Type: ",
    b"multipart/mixed; boundary=",
    b"b",
    b"\"b\"",
    b"(c(",
    b"\\",
    b"message/rfc822",
    b"Content-Transfer-Encoding: 8bit",
    b"\r\n--b\r\n",
    b"\r\n--b--\r\n",
    b"\0",
    b":",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n",
    b"multipart/digest",
    b"base64",
    b"text/plain",
];

/// Real and hostile messages of others, as they are and with octets above 127 strewn into their bodies. Python's parser
/// must find the same parts before and after.
#[test]
fn real_messages_keep_their_parts() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/mime/mail-parser-crate");
    if !corpus.is_dir() {
        println!("skipped: corpus mime/mail-parser-crate is not there");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut pairs: Vec<OsString> = Vec::new();
    let (mut done, mut refused) = (0, 0);
    for path in files(&corpus) {
        let original = with_crlf(&std::fs::read(&path).unwrap());
        for (kind, message) in [("as-is", original.clone()), ("strewn", strewn(&original))] {
            let Ok(result) = downgrade(&message) else {
                refused += 1;
                continue;
            };
            assert_is_seven_bit(&result.to_bytes());
            let name = format!("{}-{kind}", path.strip_prefix(&corpus).unwrap().display()).replace('/', "_");
            for (end, bytes) in [("before", message.as_slice()), ("after", &result.to_bytes())] {
                let file = folder.path().join(format!("{name}.{end}"));
                std::fs::write(&file, bytes).unwrap();
                pairs.push(file.into());
            }
            done += 1;
        }
    }
    println!("{done} messages converted, {refused} refused");
    assert!(done > 200, "only {done} were converted");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts.py");
    let output = Command::new("python3").arg(script).args(pairs).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "eml") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn with_crlf(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        let end = line.iter().rposition(|octet| !matches!(octet, b'\r' | b'\n')).map_or(0, |at| at + 1);
        out.extend(line[..end].iter().filter(|octet| !matches!(octet, b'\r' | 0)));
        out.extend_from_slice(if line.ends_with(b"\n") { b"\r\n" } else { b"" });
    }
    out
}

/// The message with some letters of lines that look like text replaced by an octet above 127.
fn strewn(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len());
    let mut in_body = false;
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        in_body |= line == b"\r\n";
        let looks_like_text = in_body && line.contains(&b' ') && !line.contains(&b':') && !line.starts_with(b"--");
        let folded = line.starts_with(b" ") || line.starts_with(b"\t");
        let change = looks_like_text && !folded;
        out.extend(line.iter().map(|octet| if change && *octet == b'e' { 0xe9 } else { *octet }));
    }
    out
}
