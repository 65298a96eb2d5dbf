//! The part for machines: `message/delivery-status` (RFC 3464 §2), in UTF-8 `message/global-delivery-status`
//! (RFC 6533 §6).

use std::fmt::Write;

use mail::{EnhancedCode, FaultSource, ForwardPath, OriginalRecipient, Reply};

use crate::dsn::{Form, Happened, Notice, Report};
use crate::field::Fields;
use crate::returned::Part;

pub(crate) fn part(report: &Report<'_>, form: Form) -> Part {
    let body = body(report, form);
    let (media, encoding) = match body.is_ascii() {
        true => ("message/delivery-status", "7bit"),
        false => ("message/global-delivery-status", "8bit"),
    };
    Part::new(media, encoding, "Delivery report", body.into_bytes())
}

fn body(report: &Report<'_>, form: Form) -> String {
    let mut fields = Fields::new(form);
    if let Some(envid) = &report.original.envid {
        fields.add("Original-Envelope-Id", envid);
    }
    fields.add("Reporting-MTA", format_args!("dns; {}", report.reporting_mta));
    fields.add("Arrival-Date", report.original.received_at.rfc5322());
    for notice in &report.notices {
        fields.end_group();
        recipient(&mut fields, report, notice, form);
    }
    fields.into_text()
}

fn recipient(fields: &mut Fields, report: &Report<'_>, notice: &Notice<'_>, form: Form) {
    if let Some(original) = notice.recipient.orcpt.as_ref().and_then(|original| original_recipient(original, form)) {
        fields.add("Original-Recipient", original);
    }
    let happened = notice.happened;
    fields.add("Final-Recipient", final_recipient(&notice.recipient.path, report, form));
    fields.add("Action", happened.action().word());
    fields.add("Status", status(&happened));
    if let Some(host) = remote_mta(&happened) {
        fields.add("Remote-MTA", format_args!("dns; {host}"));
    }
    if let Some(diagnostic) = diagnostic(&happened) {
        fields.add("Diagnostic-Code", diagnostic);
    }
    if let Some(at) = notice.last_attempt {
        fields.add("Last-Attempt-Date", at.rfc5322());
    }
    fields.add("Final-Log-ID", report.original.id);
    if let Happened::Delayed { until, .. } = happened {
        fields.add("Will-Retry-Until", until.rfc5322());
    }
}

/// Not delivered within the time that the sender set (RFC 2852 §4.1.3).
pub(crate) const DELIVERY_TIME_EXPIRED: EnhancedCode = EnhancedCode::new(5, 4, 7);

/// The status of RFC 3463 for what happened.
pub(crate) fn status(happened: &Happened<'_>) -> EnhancedCode {
    match happened {
        Happened::Failed(fault) => derived(&fault.reply),
        // RFC 2852 §4.1.3: the sender's own limit of time is over.
        Happened::Expired(Some(fault)) if fault.reply.status() == DELIVERY_TIME_EXPIRED => DELIVERY_TIME_EXPIRED,
        // RFC 3463 §2 and §3.5: a transient condition persisted until time ran out.
        Happened::Expired(_) => EnhancedCode::new(4, 4, 7),
        Happened::Delayed { fault, .. } => {
            let status = fault.map(|fault| derived(&fault.reply)).filter(|status| status.class == 4);
            status.unwrap_or(EnhancedCode::new(4, 0, 0))
        }
        Happened::Relayed(delivered) | Happened::Delivered(delivered) => {
            let status = delivered.reply.status();
            if status.class == 2 { status } else { EnhancedCode::new(2, 0, 0) }
        }
    }
}

/// The enhanced code of a reply, or what its basic code says without doubt (RFC 5321 §4.2.3, RFC 7504, RFC 7505).
fn derived(reply: &Reply) -> EnhancedCode {
    let status = reply.status();
    if (status.subject, status.detail) != (0, 0) {
        return status;
    }
    let (subject, detail) = match reply.code() {
        421 => (3, 2),
        450 | 550 => (2, 0),
        452 => (3, 1),
        500 => (5, 2),
        501 | 504 | 555 => (5, 4),
        502 | 503 => (5, 1),
        521 => (3, 2),
        551 => (1, 6),
        552 => (2, 2),
        553 => (1, 3),
        556 => (1, 10),
        _ => (0, 0),
    };
    EnhancedCode::new(status.class, subject, detail)
}

fn remote_mta<'a>(happened: &Happened<'a>) -> Option<&'a str> {
    let host = match happened {
        Happened::Relayed(delivered) | Happened::Delivered(delivered) => &delivered.host,
        _ => match &happened.fault()?.by {
            FaultSource::Peer { host, .. } => host,
            FaultSource::Local => return None,
        },
    };
    (!host.is_empty()).then_some(host)
}

/// RFC 3464 §2.3.6: `smtp` marks words of a server; what we found ourselves has a type of our own (§2.1.2).
fn diagnostic(happened: &Happened<'_>) -> Option<String> {
    match happened {
        Happened::Relayed(delivered) | Happened::Delivered(delivered) => Some(format!("smtp; {}", delivered.reply)),
        _ => happened.fault().map(|fault| match fault.by {
            FaultSource::Peer { .. } => format!("smtp; {}", fault.reply),
            FaultSource::Local => format!("x-postrider; {}", fault.reply),
        }),
    }
}

fn final_recipient(path: &ForwardPath, report: &Report<'_>, form: Form) -> String {
    match path {
        ForwardPath::Mailbox(mailbox) => typed_address(&mailbox.to_string(), form),
        ForwardPath::Postmaster => format!("rfc822; postmaster@{}", report.reporting_mta),
    }
}

/// The ORCPT that the sender gave (RFC 3461 §4.2); `None` if its type is no type.
fn original_recipient(original: &OriginalRecipient, form: Form) -> Option<String> {
    let kind = original.kind.as_str();
    let is_atom = !kind.is_empty() && kind.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    match kind {
        "utf-8" | "rfc822" => Some(typed_address(&original.address, form)),
        _ => is_atom.then(|| format!("{kind}; {}", original.address)),
    }
}

/// `rfc822; …`, or `utf-8; …` where the address has UTF-8 (RFC 6533 §3).
fn typed_address(address: &str, form: Form) -> String {
    if address.is_ascii() { format!("rfc822; {address}") } else { format!("utf-8; {}", escaped(address, form)) }
}

/// `utf-8-addr-xtext` for seven bits, `utf-8-addr-unitext` for eight (RFC 6533 §3).
fn escaped(address: &str, form: Form) -> String {
    let mut out = String::with_capacity(address.len());
    for c in address.chars() {
        let stands = match c {
            '+' | '=' | '\\' => false,
            '!'..='~' => true,
            c => form == Form::Utf8 && !c.is_ascii() && !c.is_control(),
        };
        if stands {
            out.push(c);
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\x{{{:02X}}}", u32::from(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::{Delivered, Fault};

    fn code(reply: Reply) -> String {
        let fault = Fault { reply, by: FaultSource::Local };
        status(&Happened::Failed(&fault)).to_string()
    }

    #[test]
    fn status_comes_from_the_enhanced_code_else_from_the_basic_one() {
        assert_eq!(code(Reply::new(550, EnhancedCode::new(5, 1, 1), "")), "5.1.1");
        assert_eq!(code(Reply::new(550, None, "")), "5.2.0");
        assert_eq!(code(Reply::new(552, None, "")), "5.2.2");
        assert_eq!(code(Reply::new(421, None, "")), "4.3.2");
        assert_eq!(code(Reply::new(554, None, "")), "5.0.0");
        // An enhanced code of another class contradicts the reply and is not believed.
        assert_eq!(code(Reply::new(554, EnhancedCode::new(2, 1, 1), "")), "5.0.0");
        assert_eq!(status(&Happened::Expired(None)).to_string(), "4.4.7");
        let reply = Reply::new(250, None, "");
        let delivered =
            Delivered { host: String::new(), address: None, reply, dsn: false, deliver_by: false, tls: None };
        assert_eq!(status(&Happened::Relayed(&delivered)).to_string(), "2.0.0");
    }

    #[test]
    fn addresses_in_utf8_are_escaped_by_rfc_6533() {
        assert_eq!(typed_address("a+b@example.org", Form::Ascii), "rfc822; a+b@example.org");
        assert_eq!(typed_address("jörg+x@example.org", Form::Ascii), "utf-8; j\\x{F6}rg\\x{2B}x@example.org");
        assert_eq!(typed_address("jörg+x@example.org", Form::Utf8), "utf-8; jörg\\x{2B}x@example.org");
        assert_eq!(typed_address("\"ö =\"@e.org", Form::Utf8), "utf-8; \"ö\\x{20}\\x{3D}\"@e.org");
        assert_eq!(typed_address("😀@e.org", Form::Ascii), "utf-8; \\x{1F600}@e.org");
    }

    #[test]
    fn a_type_that_is_none_is_left_out() {
        let original = |kind: &str| OriginalRecipient { kind: kind.into(), address: "x".into() };
        assert_eq!(original_recipient(&original("x400"), Form::Ascii).as_deref(), Some("x400; x"));
        assert_eq!(original_recipient(&original("a;b"), Form::Ascii), None);
        assert_eq!(original_recipient(&original(""), Form::Ascii), None);
    }
}
