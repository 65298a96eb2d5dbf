//! Every reason for which the session by itself refuses or closes, with its reply and its label in logs and metrics.

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $line:literal;)*) => {
        /// Why the session refused something by itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// All of them.
            pub const ALL: &[Refusal] = &[$(Refusal::$name,)*];

            /// The name in logs and metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(Refusal::$name => $label,)*
                }
            }

            /// The reply, as one line without its line end.
            pub fn line(self) -> &'static str {
                match self {
                    $(Refusal::$name => $line,)*
                }
            }
        }
    };
}

refusals! {
    /// No such command.
    UnknownCommand = "unknown_command", "500 5.5.2 command not recognised";
    /// A command line over its limit (RFC 5321 §4.5.3.1.9).
    CommandLine = "command_line", "500 5.5.2 command line too long";
    /// A command of the other protocol's greeting (RFC 2033 §4.1).
    HelloOfLmtp = "hello_of_lmtp", "500 5.5.1 this is LMTP: say LHLO";
    /// LHLO to an SMTP listener.
    HelloOfSmtp = "hello_of_smtp", "500 5.5.1 this is SMTP: say EHLO";
    /// The command takes no argument, or needs one, or it breaks the grammar.
    Argument = "argument", "501 5.5.4 syntax error in the argument";
    /// The name in EHLO, HELO or LHLO.
    HelloName = "hello_name", "501 5.5.4 a host name or an address literal belongs here";
    /// The path of MAIL.
    ReversePath = "reverse_path", "501 5.1.7 bad syntax of the sender address";
    /// The path of RCPT.
    ForwardPath = "forward_path", "501 5.1.3 bad syntax of the recipient address";
    /// The value of a parameter of MAIL or RCPT.
    Parameter = "parameter", "501 5.5.4 malformed parameter";
    /// The argument of BDAT; where the next command begins is not known any more.
    ChunkSize = "chunk_size", "501 5.5.4 BDAT takes a size and perhaps LAST";
    /// An attribute of XCLIENT.
    XclientAttribute = "xclient_attribute", "501 5.5.4 bad XCLIENT attribute";
    /// A command that we know and do not offer.
    NotImplemented = "not_implemented", "502 5.5.1 command not implemented";
    /// Mail before EHLO, HELO or LHLO.
    HelloFirst = "hello_first", "503 5.5.1 introduce yourself first";
    /// MAIL in an open transaction.
    NestedMail = "nested_mail", "503 5.5.1 a transaction is open already";
    /// RCPT, DATA or BDAT without a transaction.
    MailFirst = "mail_first", "503 5.5.1 no transaction is open: MAIL first";
    /// Something else between the chunks of a message (RFC 3030 §2).
    ChunksBegun = "chunks_begun", "503 5.5.1 BDAT has begun: only BDAT and RSET continue";
    /// DATA for BINARYMIME (RFC 3030 §3).
    BinaryByData = "binary_by_data", "503 5.5.1 BINARYMIME content comes by BDAT";
    /// BDAT without EHLO.
    ChunkWithoutEhlo = "chunk_without_ehlo", "503 5.5.1 BDAT needs EHLO";
    /// XCLIENT in an open transaction.
    XclientInTransaction = "xclient_in_transaction", "503 5.5.1 a transaction is open";
    /// STARTTLS or AUTH in an open transaction (RFC 4954 §4).
    InTransaction = "in_transaction", "503 5.5.1 not in a transaction";
    /// STARTTLS inside TLS (RFC 3207 §4.2).
    TlsActive = "tls_active", "503 5.5.1 TLS is on already";
    /// STARTTLS after XCLIENT: the other end of the line is not the client that was spoken for.
    TlsAfterXclient = "tls_after_xclient", "503 5.5.1 no STARTTLS behind XCLIENT";
    /// Anything of weight before STARTTLS, where TLS is required (RFC 3207 §4).
    TlsFirst = "tls_first", "530 5.7.0 STARTTLS first";
    /// The driver cannot do TLS now (RFC 3207 §4).
    TlsUnavailable = "tls_unavailable", "454 4.7.0 TLS is not available for now";
    /// Input that came along with STARTTLS, in clear, to be taken for input that came inside TLS.
    InjectedBeforeTls = "injected_before_tls", "554 5.5.0 input behind STARTTLS";
    /// AUTH in clear (RFC 4954 §6).
    AuthNeedsTls = "auth_needs_tls", "538 5.7.11 authentication needs encryption: STARTTLS first";
    /// Mail before AUTH, where AUTH is required (RFC 4954 §6).
    AuthFirst = "auth_first", "530 5.7.0 authenticate first";
    /// AUTH after AUTH (RFC 4954 §4).
    AuthTwice = "auth_twice", "503 5.5.1 authenticated already";
    /// A mechanism that is not offered (RFC 4954 §4).
    AuthMechanism = "auth_mechanism", "504 5.5.4 this mechanism is not offered";
    /// A message of the client that is no base64 (RFC 4954 §4).
    AuthBase64 = "auth_base64", "501 5.5.2 not base64";
    /// The client cancelled the exchange by `*` (RFC 4954 §4).
    AuthCancelled = "auth_cancelled", "501 5.7.0 authentication cancelled";
    /// A line of the exchange over its limit (RFC 4954 §4).
    AuthLine = "auth_line", "500 5.5.6 line of the authentication too long";
    /// Something else than an empty line behind the server's last message.
    AuthSurplus = "auth_surplus", "501 5.5.2 an empty line was due";
    /// The driver has no verdict.
    AuthUnavailable = "auth_unavailable", "454 4.7.0 authentication is not available for now";
    /// `BY` with less time than is offered (RFC 2852 §4).
    DeliverByTime = "deliver_by_time", "555 5.5.4 BY leaves less time than is offered";
    /// `HOLDFOR` or `HOLDUNTIL` beyond what is offered (RFC 4865 §4).
    HoldTime = "hold_time", "501 5.5.4 held for longer than is offered";
    /// Content without a recipient, under LMTP (RFC 2033 §4.2).
    NoRecipientsLmtp = "no_recipients_lmtp", "503 5.5.1 no valid recipients";
    /// Content without a recipient (RFC 5321 §3.3).
    NoRecipients = "no_recipients", "554 5.5.1 no valid recipients";
    /// A UTF-8 sender without SMTPUTF8 (RFC 6531 §3.5).
    SenderNeedsUtf8 = "sender_needs_utf8", "550 5.6.7 a non-ASCII sender address needs SMTPUTF8";
    /// A UTF-8 recipient without SMTPUTF8 (RFC 6531 §3.5).
    RecipientNeedsUtf8 = "recipient_needs_utf8", "553 5.6.7 a non-ASCII recipient address needs SMTPUTF8";
    /// A parameter that we do not know (RFC 5321 §4.1.1.11).
    UnknownParameter = "unknown_parameter", "555 5.5.4 parameter not recognised";
    /// Parameters after HELO, which offers none.
    ParameterWithoutEhlo = "parameter_without_ehlo", "555 5.5.4 parameters need EHLO";
    /// XCLIENT from a peer that may not use it.
    Xclient = "xclient", "550 5.7.0 XCLIENT is not permitted from here";
    /// A PROXY header where none is expected.
    Proxy = "proxy", "554 5.7.0 a PROXY header is not permitted from here";
    /// Over the limit of recipients.
    TooManyRecipients = "too_many_recipients", "452 4.5.3 too many recipients";
    /// Over the limit of size, declared or real.
    MessageSize = "message_size", "552 5.3.4 the message is too big";
    /// Over the limit of the header section.
    HeaderSize = "header_size", "552 5.3.4 the header section of the message is too big";
    /// Over the limit of a line.
    ContentLine = "content_line", "550 5.6.0 a line of the message is too long";
    /// Over the limit of Received fields: a loop.
    Hops = "hops", "554 5.4.6 too many Received fields: this mail loops";
    /// A carriage return without a line feed.
    BareCr = "bare_cr", "550 5.6.0 a CR without LF is not accepted";
    /// A line feed without a carriage return.
    BareLf = "bare_lf", "550 5.6.0 a LF without CR is not accepted";
    /// A NUL octet.
    Nul = "nul", "550 5.6.0 a NUL octet is not accepted";
    /// Input ahead of the reply that it must wait for (RFC 2920 §3.1).
    Pipelining = "pipelining", "554 5.5.0 input ahead of its turn";
    /// Input before the greeting.
    EarlyTalk = "early_talk", "554 5.5.0 input before the greeting";
    /// Over the limit of errors.
    Errors = "errors", "421 4.7.0 too many errors";
    /// Over the limit of junk commands.
    Junk = "junk", "421 4.7.0 too many commands that bring no mail";
    /// Over the limit of commands.
    Commands = "commands", "421 4.7.0 too many commands in one session";
    /// Over the limit of transactions (RFC 9422 §4.1).
    Transactions = "transactions", "421 4.7.0 too many transactions in one session";
    /// Too slow.
    Timeout = "timeout", "421 4.4.2 waited too long for input";
    /// The server shuts down.
    Shutdown = "shutdown", "421 4.3.2 the server shuts down, come back later";
}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal;)*) => {
        /// Why the session ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CloseReason {
            $($(#[$doc])* $name,)*
        }

        impl CloseReason {
            /// All of them.
            pub const ALL: &[CloseReason] = &[$(CloseReason::$name,)*];

            /// The name in logs and metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $(CloseReason::$name => $label,)*
                }
            }
        }
    };
}

close_reasons! {
    /// QUIT.
    Quit = "quit";
    /// The peer went without QUIT, or the network did.
    Disconnected = "disconnected";
    /// The driver refused the connection or answered 421.
    Refused = "refused";
    /// The server shuts down.
    Shutdown = "shutdown";
    /// A command line did not come in time.
    CommandTime = "command_time";
    /// Content stalled.
    ContentIdle = "content_idle";
    /// Content took too long.
    ContentTime = "content_time";
    /// Content came too slowly.
    Rate = "rate";
    /// The session lasted too long.
    SessionTime = "session_time";
    /// A carriage return without a line feed.
    BareCr = "bare_cr";
    /// A line feed without a carriage return.
    BareLf = "bare_lf";
    /// A NUL octet.
    Nul = "nul";
    /// Unauthorised pipelining.
    Pipelining = "pipelining";
    /// Input before the greeting.
    EarlyTalk = "early_talk";
    /// An HTTP request; no reply is sent.
    Http = "http";
    /// A TLS ClientHello; no reply is sent.
    Tls = "tls";
    /// A PROXY header where none is expected.
    Proxy = "proxy";
    /// Input in clear that came along with STARTTLS.
    InjectedBeforeTls = "injected_before_tls";
    /// The TLS handshake failed.
    Handshake = "tls_handshake";
    /// A malformed BDAT.
    ChunkSize = "chunk_size";
    /// Too much input that is only thrown away.
    Discard = "discard";
    /// Too many errors.
    Errors = "errors";
    /// Too many junk commands.
    Junk = "junk";
    /// Too many commands.
    Commands = "commands";
    /// Too many transactions.
    Transactions = "transactions";
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail::EnhancedCode;
    use std::collections::HashSet;

    #[test]
    fn every_refusal_has_a_negative_reply_with_a_matching_enhanced_code() {
        for refusal in Refusal::ALL {
            let (code, text) = refusal.line().split_once(' ').unwrap();
            let (enhanced, words) = EnhancedCode::take(text).unwrap();
            assert_eq!(code.as_bytes()[0], b'0' + enhanced.class, "{refusal:?}");
            assert!(matches!(enhanced.class, 4 | 5) && !words.is_empty() && words.is_ascii(), "{refusal:?}");
        }
    }

    #[test]
    fn labels_are_unique() {
        assert_eq!(Refusal::ALL.iter().map(|r| r.label()).collect::<HashSet<_>>().len(), Refusal::ALL.len());
        assert_eq!(CloseReason::ALL.iter().map(|r| r.label()).collect::<HashSet<_>>().len(), CloseReason::ALL.len());
    }
}
