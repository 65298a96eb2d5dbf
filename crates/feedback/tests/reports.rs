//! Reports as others read them: Python's `email` and the crate `mail-parser`.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use feedback::{Action, Dsn, Form, Happened, Notice, Refusal, Report, Returned, build, returns};
use mail::{
    BodyKind, Delivered, Domain, EnhancedCode, Envelope, Fault, FaultSource, MessageId, Notify, OriginalRecipient,
    Recipient, Reply, Ret, ReversePath, Timestamp,
};
use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;
use serde_json::Value;

const ORIGINAL: &str = "Received: by mx.example.org\r\nFrom: <a@example.org>\r\nSubject: hello\r\n\
    Message-ID: <original@example.org>\r\n\r\nThe body.\r\n";
const NOW: Timestamp = Timestamp::from_millis(1_795_253_400_000);

/// A message from one address to some, with what happened to each of them.
struct Case {
    us: Domain,
    original: Envelope,
    returned: Returned,
    limit: usize,
}

impl Case {
    fn new(from: &str, to: &[&str]) -> Case {
        let recipients = to.iter().map(|to| Recipient::from(to.parse::<mail::Mailbox>().unwrap()));
        let received_at = Timestamp::from_millis(1_795_250_000_000);
        let sender = ReversePath::Mailbox(from.parse().unwrap());
        let original = Envelope {
            body: BodyKind::EightBitMime,
            utf8: !from.is_ascii(),
            tenant: Some("tenant".into()),
            ..Envelope::new(MessageId::from_u128(7), received_at, sender, recipients)
        };
        let returned = Returned::Full(Bytes::from_static(ORIGINAL.as_bytes()));
        Case { us: Domain::parse("mx.example.org").unwrap(), original, returned, limit: 10_000 }
    }

    fn returning(self, content: impl Into<Vec<u8>>) -> Case {
        Case { returned: Returned::Full(Bytes::from(content.into())), ..self }
    }

    fn report<'a>(&'a self, happened: &[Happened<'a>]) -> Report<'a> {
        let notice = |(recipient, happened): (&'a Recipient, &Happened<'a>)| Notice {
            recipient,
            happened: *happened,
            last_attempt: Some(NOW),
        };
        Report {
            id: MessageId::from_u128(0xfeed),
            now: NOW,
            reporting_mta: &self.us,
            original: &self.original,
            notices: self.original.recipients.iter().zip(happened).map(notice).collect(),
            returned: self.returned.clone(),
            return_limit: self.limit,
        }
    }

    fn dsn(&self, happened: Happened<'_>, form: Form) -> Dsn {
        let all = vec![happened; self.original.recipients.len()];
        let dsn = build(&self.report(&all), form).unwrap();
        assert_lines(&dsn, form);
        dsn
    }
}

fn peer(code: u16, enhanced: &str, lines: &[&str]) -> Fault {
    let by = FaultSource::Peer { host: "mx.example.net".into(), address: Some("192.0.2.7".parse().unwrap()) };
    Fault { reply: Reply::with_lines(code, EnhancedCode::take(enhanced).map(|(code, _)| code), lines), by }
}

/// What any path takes, and no more eight-bit octets than the envelope says.
fn assert_lines(dsn: &Dsn, form: Form) {
    let ascii = dsn.content.is_ascii();
    assert!(ascii || form == Form::Utf8);
    assert_eq!(dsn.envelope.utf8, !ascii);
    assert!(dsn.envelope.body == BodyKind::EightBitMime || !form_has_eight_bit_body(dsn));
    assert!(dsn.content.ends_with(b"--\r\n") && mail::encoding::has_proper_lines(&dsn.content));
}

fn form_has_eight_bit_body(dsn: &Dsn) -> bool {
    !dsn.content[mail::header::header_length(&dsn.content)..].is_ascii()
}

/// What Python finds in reports.
fn read(reports: &[(String, Bytes)]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = (0..reports.len()).map(|number| folder.path().join(number.to_string())).collect();
    for (file, (_, content)) in files.iter().zip(reports) {
        std::fs::write(file, content).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report.py");
    let output = Command::new("python3").arg(script).args(&files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<Value> =
        output.stdout.split(|octet| *octet == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(found.len(), reports.len());
    for (value, (name, _)) in found.iter().zip(reports) {
        assert_eq!(value["type"], "multipart/report", "{name}");
        assert_eq!(value["report_type"], "delivery-status", "{name}");
        assert_eq!(value["defects"], Value::Array(vec![]), "{name}");
        assert_eq!(value["preamble"], Value::Null, "{name}");
        assert_eq!(value["epilogue"], "", "{name}");
    }
    found
}

fn read_one(dsn: &Dsn) -> Value {
    read(&[("report".into(), dsn.content.clone())]).remove(0)
}

fn field<'a>(fields: &'a Value, name: &str) -> Option<&'a str> {
    let mut values = fields.as_array().unwrap().iter().filter(|field| field[0] == name);
    let value = values.next()?[1].as_str();
    assert!(values.next().is_none(), "{name} twice");
    value
}

#[test]
fn a_failure_tells_people_and_machines() {
    let mut case = Case::new("a@example.org", &["bob+x@example.net"]);
    case.original.envid = Some("QQ+314 159".into());
    let orcpt = OriginalRecipient { kind: "rfc822".into(), address: "Bob@example.com".into() };
    case.original.recipients[0].orcpt = Some(orcpt);
    let fault = peer(550, "5.1.1", &["No such user here", "see https://example.net/help"]);
    let dsn = case.dsn(Happened::Failed(&fault), Form::Ascii);
    let found = read_one(&dsn);

    let header = &found["header"];
    for (name, value) in [
        ("From", "Mail Delivery System <MAILER-DAEMON@mx.example.org>"),
        ("To", "<a@example.org>"),
        ("Subject", "Your message could not be delivered"),
        ("Date", "Sat, 21 Nov 2026 09:30:00 +0000"),
        ("Message-ID", "<00000000000000000000001zqd@mx.example.org>"),
        ("In-Reply-To", "<original@example.org>"),
        ("References", "<original@example.org>"),
        ("Auto-Submitted", "auto-replied"),
        ("MIME-Version", "1.0"),
    ] {
        assert_eq!(field(header, name), Some(value));
    }
    assert_eq!(found["parts"], serde_json::json!(["text/plain", "message/delivery-status", "message/rfc822"]));
    let message = &found["groups"][0];
    assert_eq!(field(message, "Original-Envelope-Id"), Some("QQ+314 159"));
    assert_eq!(field(message, "Reporting-MTA"), Some("dns; mx.example.org"));
    assert_eq!(field(message, "Arrival-Date"), Some("Sat, 21 Nov 2026 08:33:20 +0000"));
    let recipient = &found["groups"][1];
    for (name, value) in [
        ("Original-Recipient", "rfc822; Bob@example.com"),
        ("Final-Recipient", "rfc822; bob+x@example.net"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx.example.net"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 No such user here see https://example.net/help"),
        ("Last-Attempt-Date", "Sat, 21 Nov 2026 09:30:00 +0000"),
    ] {
        assert_eq!(field(recipient, name), Some(value));
    }
    assert_eq!(field(recipient, "Will-Retry-Until"), None);
    let human = found["human"].as_str().unwrap();
    for words in
        ["bob+x@example.net", "mx.example.net [192.0.2.7] said:", "550 5.1.1 No such user here", "What you can do"]
    {
        assert!(human.contains(words), "{words} in {human}");
    }
    assert!(dsn.content.windows(ORIGINAL.len()).any(|window| window == ORIGINAL.as_bytes()));
    assert!(dsn.content.split(|octet| *octet == b'\n').all(|line| line.len() <= 79));
}

#[test]
fn a_report_travels_from_nobody_and_asks_for_no_report() {
    let fault = peer(550, "", &["no"]);
    let envelope = Case::new("a@example.org", &["b@example.net"]).dsn(Happened::Failed(&fault), Form::Ascii).envelope;
    assert_eq!(envelope.reverse_path, ReversePath::Null);
    assert_eq!(envelope.recipients.len(), 1);
    assert_eq!(envelope.recipients[0].path.to_string(), "<a@example.org>");
    assert_eq!(envelope.recipients[0].notify, Notify::Never);
    assert_eq!((envelope.body, envelope.utf8), (BodyKind::SevenBit, false));
    assert_eq!(envelope.tenant.as_deref(), Some("tenant"));
}

#[test]
fn nobody_is_told_about_mail_from_nobody() {
    let mut case = Case::new("a@example.org", &["b@example.net"]);
    let fault = peer(550, "", &["no"]);
    assert_eq!(build(&case.report(&[]), Form::Ascii).unwrap_err(), Refusal::NoRecipients);
    case.original.reverse_path = ReversePath::Null;
    assert_eq!(build(&case.report(&[Happened::Failed(&fault)]), Form::Ascii).unwrap_err(), Refusal::NullReversePath);
}

#[test]
fn every_kind_has_its_words() {
    let case = Case::new("a@example.org", &["b@example.net"]);
    let fault = peer(451, "4.7.1", &["greylisted"]);
    let reply = Reply::new(250, EnhancedCode::new(2, 6, 0), "ok");
    let delivered =
        Delivered { host: "mx.example.net".into(), address: None, reply, dsn: false, deliver_by: false, tls: None };
    let until = Timestamp::from_millis(NOW.as_millis() + 86_400_000);
    let kinds = [
        (Happened::Expired(Some(&fault)), "failed", "4.4.7", "could not be delivered"),
        (Happened::Delayed { fault: Some(&fault), until }, "delayed", "4.7.1", "delayed"),
        (Happened::Delayed { fault: None, until }, "delayed", "4.0.0", "delayed"),
        (Happened::Relayed(&delivered), "relayed", "2.6.0", "passed on"),
        (Happened::Delivered(&delivered), "delivered", "2.6.0", "delivered"),
    ];
    for (happened, action, status, words) in kinds {
        let found = read_one(&case.dsn(happened, Form::Ascii));
        let recipient = &found["groups"][1];
        assert_eq!(field(recipient, "Action"), Some(action));
        assert_eq!(field(recipient, "Status"), Some(status));
        assert!(field(&found["header"], "Subject").unwrap().contains(words));
        let retry = (action == "delayed").then_some("Sun, 22 Nov 2026 09:30:00 +0000");
        assert_eq!(field(recipient, "Will-Retry-Until"), retry);
        let whole = if action == "failed" { "message/rfc822" } else { "text/rfc822-headers" };
        assert_eq!(found["parts"][2], whole, "{action}");
    }
}

#[test]
fn our_own_findings_are_not_put_into_a_servers_mouth() {
    let fault = Fault::local(550, EnhancedCode::new(5, 4, 4), "the domain has no mail server");
    let found = read_one(&Case::new("a@example.org", &["b@example.net"]).dsn(Happened::Failed(&fault), Form::Ascii));
    let recipient = &found["groups"][1];
    assert_eq!(field(recipient, "Remote-MTA"), None);
    assert_eq!(field(recipient, "Diagnostic-Code"), Some("x-postrider; 550 5.4.4 the domain has no mail server"));
}

#[test]
fn several_recipients_share_a_report_and_the_worst_names_it() {
    let case = Case::new("a@example.org", &["b@example.net", "c@example.net"]);
    let fault = peer(550, "5.2.2", &["mailbox full"]);
    let reply = Reply::new(250, None, "ok");
    let delivered =
        Delivered { host: "mx.example.net".into(), address: None, reply, dsn: false, deliver_by: false, tls: None };
    let report = case.report(&[Happened::Relayed(&delivered), Happened::Failed(&fault)]);
    assert_eq!(report.action(), Some(Action::Failed));
    let found = read_one(&build(&report, Form::Ascii).unwrap());
    assert_eq!(field(&found["header"], "Subject"), Some("Your message could not be delivered"));
    assert_eq!(found["groups"].as_array().unwrap().len(), 3);
    assert_eq!(field(&found["groups"][1], "Action"), Some("relayed"));
    assert_eq!(field(&found["groups"][2], "Status"), Some("5.2.2"));
}

#[test]
fn an_internationalised_report_has_both_forms() {
    let mut case = Case::new("jörg@example.org", &["用户@example.net"])
        .returning("Message-ID: <x@example.org>\r\nSubject: Grüße\r\nContent-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n");
    let orcpt = OriginalRecipient { kind: "utf-8".into(), address: "用户@example.com".into() };
    case.original.recipients[0].orcpt = Some(orcpt);
    let fault = peer(550, "5.6.7", &["нет такого"]);
    assert_eq!(case.report(&[]).form(), Form::Utf8);

    let utf8 = case.dsn(Happened::Failed(&fault), Form::Utf8);
    assert!(utf8.envelope.utf8 && utf8.envelope.body == BodyKind::EightBitMime);
    let found = read_one(&utf8);
    assert_eq!(found["parts"], serde_json::json!(["text/plain", "message/global-delivery-status", "message/global"]));
    let recipient = &found["groups"][1];
    assert_eq!(field(recipient, "Final-Recipient"), Some("utf-8; 用户@example.net"));
    assert_eq!(field(recipient, "Diagnostic-Code"), Some("smtp; 550 5.6.7 нет такого"));

    let ascii = case.dsn(Happened::Failed(&fault), Form::Ascii);
    assert!(!ascii.envelope.utf8 && ascii.envelope.body == BodyKind::SevenBit);
    let found = read_one(&ascii);
    assert_eq!(found["parts"], serde_json::json!(["text/plain", "message/delivery-status", "message/global"]));
    let recipient = &found["groups"][1];
    assert_eq!(field(recipient, "Original-Recipient"), Some("utf-8; \\x{7528}\\x{6237}@example.com"));
    assert_eq!(field(recipient, "Final-Recipient"), Some("utf-8; \\x{7528}\\x{6237}@example.net"));
    assert_eq!(field(recipient, "Diagnostic-Code"), Some("smtp; 550 5.6.7 ??? ??????"));
    assert_eq!(field(&found["header"], "To"), Some("\"Internationalized address\":;"));
    for words in ["用户@example.net", "нет такого"] {
        assert!(found["human"].as_str().unwrap().contains(words));
    }
}

#[test]
fn an_ascii_sender_gets_a_report_that_goes_everywhere() {
    let case = Case::new("a@bücher.example", &["用户@example.net"]);
    let fault = peer(550, "5.6.7", &["no"]);
    let report = case.report(&[Happened::Failed(&fault)]);
    assert_eq!(report.form(), Form::Ascii);
    let found = read_one(&build(&report, report.form()).unwrap());
    assert_eq!(field(&found["header"], "To"), Some("<a@xn--bcher-kva.example>"));
}

#[test]
fn only_a_proper_message_id_is_referred_to() {
    let fault = peer(550, "", &["no"]);
    let reference = |id: &str, form| {
        let case = Case::new("a@example.org", &["b@example.net"]).returning(format!("Message-ID: {id}\r\n\r\n"));
        let content = case.dsn(Happened::Failed(&fault), form).content;
        mail::header::fields(&content).find(|field| field.is("In-Reply-To")).map(|field| field.unfolded())
    };
    assert_eq!(reference(" \r\n <a@b>", Form::Ascii).as_deref(), Some("<a@b>"));
    assert_eq!(reference("<\u{e9}@b>", Form::Utf8).as_deref(), Some("<\u{e9}@b>"));
    for bad in ["<a b@c>", "<a@b> <c@d>", "a@b", "<ab>", "", "<\u{e9}@b>"] {
        assert_eq!(reference(bad, Form::Ascii), None, "{bad}");
    }
}

#[test]
fn how_much_comes_back_depends_on_ret_size_and_kind() {
    let mut original = Case::new("a@example.org", &[]).original;
    let full = |original: &Envelope, action, size| returns(original, [action], size, 100) == Ret::Full;
    assert!(full(&original, Action::Failed, 100));
    assert!(!full(&original, Action::Failed, 101));
    assert!(!full(&original, Action::Delayed, 10) && !full(&original, Action::Delivered, 10));
    original.ret = Some(Ret::Headers);
    assert!(!full(&original, Action::Failed, 10));
    original.ret = Some(Ret::Full);
    assert!(full(&original, Action::Failed, 10) && !full(&original, Action::Failed, 101));
}

#[test]
fn a_header_longer_than_the_limit_is_cut_behind_a_field() {
    let mut case = Case::new("a@example.org", &["b@example.net"]);
    case.limit = "Received: by mx.example.org\r\nFrom: <a@example.org>\r\nSubject".len();
    let fault = peer(550, "", &["no"]);
    let found = read_one(&case.dsn(Happened::Failed(&fault), Form::Ascii));
    assert_eq!(found["parts"][2], "text/rfc822-headers");
    assert_eq!(found["returned"], "Received: by mx.example.org\r\nFrom: <a@example.org>\r\n");
    case.limit = 3;
    let found = read_one(&case.dsn(Happened::Failed(&fault), Form::Ascii));
    assert_eq!(found["parts"].as_array().unwrap().len(), 2);
    case.returned = Returned::Nothing;
    assert_eq!(read_one(&case.dsn(Happened::Failed(&fault), Form::Ascii))["parts"].as_array().unwrap().len(), 2);
}

#[test]
fn what_made_the_mail_undeliverable_does_not_make_the_report_so() {
    let fault = peer(550, "5.6.0", &["line too long"]);
    let long = format!("Subject: {}\r\n\r\nx\r\n", "x".repeat(1200));
    let raw = b"Subject: \xe9\xff\r\n\r\nbody \xe9\r\n".to_vec();
    let bare = b"Subject: x\r\n\r\na\nb\rc\0\r\n".to_vec();
    for form in [Form::Ascii, Form::Utf8] {
        let parts = |content: Vec<u8>| {
            let case = Case::new("a@example.org", &["b@example.net"]).returning(content);
            let found = read_one(&case.dsn(Happened::Failed(&fault), form));
            (found["parts"][2].as_str().unwrap().to_owned(), found["encodings"][2].as_str().unwrap().to_owned())
        };
        assert_eq!(parts(long.clone().into()), ("message/global".into(), "base64".into()));
        assert_eq!(parts(raw.clone()), ("text/rfc822-headers".into(), "quoted-printable".into()));
        assert_eq!(parts(bare.clone()), ("message/rfc822".into(), "7bit".into()));
    }
}

#[test]
fn mail_parser_reads_it_too() {
    let case = Case::new("a@example.org", &["b@example.net"]);
    let fault = peer(550, "5.1.1", &["no"]);
    let dsn = case.dsn(Happened::Failed(&fault), Form::Ascii);
    let message = MessageParser::default().parse(&dsn.content[..]).unwrap();
    assert!(message.is_content_type("multipart", "report"));
    let PartType::Multipart(children) = &message.parts[0].body else { panic!("{:?}", message.parts[0]) };
    assert_eq!(children.len(), 3);
    let [human, machine, returned] = [0, 1, 2].map(|at| &message.parts[children[at] as usize]);
    assert!(human.text_contents().unwrap().contains("b@example.net"));
    assert!(machine.text_contents().unwrap().contains("Final-Recipient: rfc822; b@example.net\r\n"));
    assert_eq!(returned.message().unwrap().message_id(), Some("original@example.org"));
}

proptest! {
    /// Nothing that others wrote becomes a header, a field or a part of the report.
    #[test]
    fn hostile_words_stay_words(
        words in prop::collection::vec(prop::sample::select(HOSTILE.to_vec()), 0..12),
        envid in any::<String>(),
        kind in "[a-z;: -]{0,8}",
    ) {
        let words = words.concat();
        let mut case = Case::new("a@example.org", &["b@example.net"])
            .returning(format!("Message-ID: <{words}@x>\r\n\r\nbody\r\n"));
        case.original.envid = Some(envid + &words);
        case.original.recipients[0].orcpt = Some(OriginalRecipient { kind, address: words.clone() });
        let by = FaultSource::Peer { host: words.clone(), address: None };
        let fault = Fault { reply: Reply::with_lines(550, None, [words.as_str(), "end"]), by };
        for form in [Form::Ascii, Form::Utf8] {
            let dsn = case.dsn(Happened::Failed(&fault), form);
            let names: Vec<_> = mail::header::fields(&dsn.content).map(|field| field.name.to_vec()).collect();
            let known: [&[u8]; 11] = [
                b"From", b"To", b"Subject", b"Date", b"Message-ID", b"In-Reply-To", b"References", b"Auto-Submitted",
                b"MIME-Version", b"Content-Type", b"Content-Transfer-Encoding",
            ];
            prop_assert!(names.iter().all(|name| known.contains(&name.as_slice())), "{names:?}");
            let status = b"Reporting-MTA: dns; mx.example.org\r\n";
            let at = dsn.content.windows(status.len()).position(|window| window == status).unwrap();
            let group = dsn.content[at..].windows(4).position(|window| window == b"\r\n\r\n").unwrap() + at + 4;
            let fields: Vec<_> = mail::header::fields(&dsn.content[group..]).map(|f| f.name.to_vec()).collect();
            let known: [&[u8]; 8] = [
                b"Original-Recipient", b"Final-Recipient", b"Action", b"Status", b"Remote-MTA", b"Diagnostic-Code",
                b"Last-Attempt-Date", b"Final-Log-ID",
            ];
            prop_assert!(fields.iter().all(|name| known.contains(&name.as_slice())), "{fields:?}");
        }
    }
}

const HOSTILE: &[&str] = &[
    "\r\nBcc: evil@example.org",
    "\r\n\r\n",
    "\n",
    "\0",
    "é",
    "--=_00000000000000000000001zqd",
    " ",
    "<",
    ">",
    "\"",
    "\u{2028}",
    "\u{85}",
    "word",
    ";",
    "\t",
    "Action: delivered",
];

/// Whatever message comes back in it, the report holds together and carries it.
#[test]
fn real_messages_come_back() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/mime/mail-parser-crate");
    if !corpus.is_dir() {
        println!("skipped: corpus mime/mail-parser-crate is not there");
        return;
    }
    let fault = peer(550, "5.1.1", &["no"]);
    let mut reports = Vec::new();
    for path in files(&corpus) {
        let content = std::fs::read(&path).unwrap();
        for form in [Form::Ascii, Form::Utf8] {
            for ret in [Ret::Full, Ret::Headers] {
                let mut case = Case::new("a@example.org", &["b@example.net"]).returning(content.clone());
                case.original.ret = Some(ret);
                case.limit = 1 << 20;
                let name = format!("{} {form:?} {ret:?}", path.display());
                reports.push((name, case.dsn(Happened::Failed(&fault), form).content));
            }
        }
    }
    assert!(reports.len() > 700, "only {} reports", reports.len());
    for ((name, _), found) in reports.iter().zip(read(&reports)) {
        let parts = found["parts"].as_array().unwrap();
        assert_eq!(parts[1], "message/delivery-status", "{name}");
        assert!(parts.len() <= 3, "{name}: {parts:?}");
        let returned = parts.get(2).map_or("", |part| part.as_str().unwrap());
        let headers = ["text/rfc822-headers", "message/global-headers", ""].contains(&returned);
        assert!(
            headers || (name.ends_with("Full") && ["message/rfc822", "message/global"].contains(&returned)),
            "{name}"
        );
    }
    println!("{} reports read", reports.len());
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
    found
}
