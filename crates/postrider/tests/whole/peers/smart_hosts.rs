//! Mail that leaves through a host that wants to know who we are: our own submission, and Postfix with Dovecot.

use std::path::Path;

use super::authority::Authority;
use super::dovecot::Dovecot;
use super::house::{ANNA, House, PASSWORD};
use super::postfix::{Postfix, Tree};
use super::proofs::Issuer;
use super::{SOON, folder_in, wait_for};
use crate::harness::{Postrider, Setup, open_to_everybody, own_address};

const MAIL: &str = "From: anna@example.org\r\nSubject: hi\r\n\r\nhello\r\n";
/// What a route demands of the host's certificate.
const VERIFY: &str = "tls = { level = \"verify\", names = [\"mx.test\"] }";

/// A table of the host for one domain, with who we are to it.
fn route(domain: &str, to: &str, auth: &str) -> String {
    format!("[[route]]\ndomains = \"{domain}\"\nto = \"{to}\"\n{VERIFY}\n[route.auth]\nuser = \"{ANNA}\"\n{auth}\n")
}

/// A file that holds this in its first line, readable for the server that runs as another user.
fn secret(folder: &Path, name: &str, text: &str) -> String {
    let file = folder.join(name);
    std::fs::write(&file, format!("{text}\n")).expect("our own file");
    open_to_everybody(&file, 0o644);
    file.display().to_string()
}

/// A server that trusts the authority, with these routes.
fn sender(setup: Setup, authority: &Authority, routes: &[String]) -> Postrider {
    let roots = format!("[tls]\nroots = \"{}\"\n", authority.file.display());
    Postrider::start(&setup.table(SOON).table(&roots).table(&routes.concat()))
}

/// Sends a mail to this domain.
fn send(server: &Postrider, domain: &str) -> String {
    server.client().send(ANNA, &[&format!("b@{domain}")], MAIL)
}

#[test]
fn our_own_submission_takes_mail_from_us_by_each_proof() {
    let issuer = Issuer::new();
    let mut authority = None;
    let house = House::furnished(|setup| {
        let made = authority.insert(Authority::new(&folder_in(setup, "certificates")));
        made.sign("mx.test").table() + &issuer.table(&folder_in(setup, "issuer"))
    });
    let setup = Setup::new();
    let folder = folder_in(&setup, "secrets");
    let password = format!("password_file = \"{}\"", secret(&folder, "password", PASSWORD));
    let token = secret(&folder, "token", &issuer.token(ANNA));
    let (smtp, smtps) = (house.starttls.to_string(), format!("smtps://{}", house.implicit));
    let routes = [
        route("plus.test", &smtps, &password),
        route("scram.test", &smtp, &format!("{password}\nmechanisms = [\"SCRAM-SHA-256\"]")),
        route("plain.test", &smtp, &format!("{password}\nmechanisms = [\"PLAIN\"]")),
        route("login.test", &smtps, &format!("{password}\nmechanisms = [\"LOGIN\"]")),
        route("bearer.test", &smtp, &format!("token_command = [\"/bin/cat\", \"{token}\"]")),
        route("xoauth2.test", &smtps, &format!("token_file = \"{token}\"\nmechanisms = [\"XOAUTH2\"]")),
    ];
    let server = sender(setup, &authority.expect("it was made"), &routes);
    for (domain, mechanism) in [
        ("plus.test", "SCRAM-SHA-256-PLUS"),
        ("scram.test", "SCRAM-SHA-256"),
        ("plain.test", "PLAIN"),
        ("login.test", "LOGIN"),
        ("bearer.test", "OAUTHBEARER"),
        ("xoauth2.test", "XOAUTH2"),
    ] {
        send(&server, domain);
        let mail = house.sink.next();
        assert_eq!((mail.from.as_str(), mail.to), (ANNA, vec![format!("b@{domain}")]));
        house.logged_in(mechanism);
    }
    server.stop();
}

#[test]
fn mail_waits_until_the_password_is_right() {
    let mut authority = None;
    let house = House::furnished(|setup| {
        let made = authority.insert(Authority::new(&folder_in(setup, "certificates")));
        made.sign("mx.test").table()
    });
    let setup = Setup::new();
    let folder = folder_in(&setup, "secrets");
    let password = secret(&folder, "password", "wrong horse");
    let routes = [
        route(
            "example.net",
            &house.starttls.to_string(),
            &format!("password_file = \"{password}\"\nmechanisms = [\"PLAIN\"]"),
        ),
        // A password that nobody has put there yet.
        route("early.test", &house.starttls.to_string(), &format!("password_file = \"{}/none\"", folder.display())),
    ];
    let server = sender(setup, &authority.expect("it was made"), &routes);
    let (id, early) = (send(&server, "example.net"), send(&server, "early.test"));
    let told = |id: &str, why: &str| {
        let waits = server.wait("that it waits", |line| line["event"] == "deferred" && line["message"] == id);
        assert!(
            waits["reply"].as_str().is_some_and(|reply| reply.starts_with("454 4.7.0") && reply.contains(why)),
            "{waits}"
        );
        server.wait("that it is said loudly", |line| {
            line["event"] == "not authenticated: mail waits"
                && line["level"] == "error"
                && line["reason"].as_str().is_some_and(|reason| reason.contains(why))
        });
    };
    told(&id, "does not accept our credentials: 535 5.7.8");
    told(&early, "cannot read");
    house.server.wait("the refusal", |line| {
        line["event"] == "login failed" && line["account"] == ANNA && line["mechanism"] == "PLAIN"
    });
    assert!(house.sink.is_empty());
    assert!(!server.command(&["queue", "list", "--json"]).good().contains("horse"));

    secret(&folder, "password", PASSWORD);
    assert_eq!(house.sink.next().to, ["b@example.net"]);
    server.wait("the delivery", |line| line["event"] == "delivered" && line["message"] == id.as_str());
    assert_eq!(server.command(&["queue", "list", "--json"]).json().len(), 1, "nothing bounced, the other one waits");
}

#[test]
fn postfix_takes_mail_from_us_as_dovecot_finds_our_password_right() {
    let Some(tree) = Tree::runnable() else { return };
    let setup = Setup::new();
    let Some(dovecot) = Dovecot::start(&folder_in(&setup, "dovecot"), ANNA, PASSWORD) else { return };
    let authority = Authority::new(&folder_in(&setup, "certificates"));
    let shown = authority.sign("mx.test");
    let (work, secure) = (setup.folder().join("postfix"), std::net::SocketAddr::new(own_address(), 4650));
    let settings = format!(
        "virtual_mailbox_domains = static:all\nvirtual_mailbox_base = {}/mail\nvirtual_mailbox_maps = static:all/\n\
         virtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n\
         smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n\
         smtpd_relay_restrictions = permit_sasl_authenticated, reject\n\
         smtpd_tls_security_level = encrypt\nsmtpd_tls_auth_only = yes\nsmtpd_tls_chain_files = {}, {}\n",
        work.display(),
        dovecot.socket.display(),
        shown.key.display(),
        shown.chain.display(),
    );
    let implicit = format!("{secure} inet n - n - - smtpd\n -o smtpd_tls_wrappermode=yes\n");
    let postfix = Postfix::with_services(&tree, &work, &settings, &implicit);
    let folder = folder_in(&setup, "secrets");
    let password = format!("password_file = \"{}\"", secret(&folder, "password", PASSWORD));
    let wrong = format!("password_file = \"{}\"", secret(&folder, "wrong", "wrong horse"));
    let (smtp, smtps) = (postfix.address.to_string(), format!("smtps://{secure}"));
    let routes = [
        route("scram.test", &smtp, &password),
        route("plain.test", &smtps, &format!("{password}\nmechanisms = [\"PLAIN\"]")),
        route("login.test", &smtp, &format!("{password}\nmechanisms = [\"LOGIN\"]")),
        route("wrong.test", &smtps, &wrong),
    ];
    let server = sender(setup, &authority, &routes);
    for (domain, mechanism) in [("scram.test", "SCRAM-SHA-256"), ("plain.test", "PLAIN"), ("login.test", "LOGIN")] {
        let id = send(&server, domain);
        server.wait("the delivery", |line| line["event"] == "delivered" && line["message"] == id.as_str());
        wait_for("the mail in the Maildir", || {
            postfix.delivered().into_iter().find(|mail| mail.contains(&id) && mail.contains("with ESMTPSA"))
        });
        let known = format!("sasl_method={mechanism}, sasl_username={ANNA}");
        wait_for("Postfix's word on who we are", || postfix.log().contains(&known).then_some(()));
    }
    let id = send(&server, "wrong.test");
    let waits = server.wait("that it waits", |line| line["event"] == "deferred" && line["message"] == id.as_str());
    let why = "does not accept our credentials: 535 5.7.8";
    assert!(waits["reply"].as_str().is_some_and(|reply| reply.contains(why)), "{waits}");
}
