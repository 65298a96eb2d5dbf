use std::path::Path;

use super::listener::TlsUse;
use super::*;

fn problems(text: &str) -> String {
    match load_text("postrider.toml", text) {
        Ok(loaded) => loaded.warnings.render(false),
        Err(problems) => problems.render(false),
    }
}

fn good(text: &str) -> Configuration {
    load_text("postrider.toml", text).unwrap_or_else(|problems| panic!("{}", problems.render(false))).configuration
}

#[test]
fn an_unknown_key_gets_a_caret_and_a_suggestion() {
    assert_eq!(
        problems("hostname = \"mx.test\"\nnetwroks = []\n"),
        "  × there is no key `netwroks`
   ╭─[postrider.toml:2:1]
 1 │ hostname = \"mx.test\"
 2 │ netwroks = []
   · ────┬───
   ·     ╰── unknown key
   ╰────
  help: did you mean `networks`?
"
    );
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = problems(
        "hostname = \"mx.test\"\n[limits]\nmessage_size = \"50mb\"\nhops = \"many\"\n[log]\nformat = \"jsn\"\n[dns]\nattempts = 0\n",
    );
    let found: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("× ")).collect();
    assert_eq!(
        found,
        [
            "`limits.message_size` takes a size",
            "`limits.hops` takes a whole number",
            "`log.format` takes \"auto\", \"human\" or \"json\"",
            "`dns.attempts` is out of range",
        ]
    );
    assert!(text.contains("such as \"50MiB\"") && text.contains("did you mean \"json\"?"), "{text}");
}

#[test]
fn what_is_missing_is_told_with_an_example() {
    let text = problems("");
    assert!(text.contains("`hostname` is missing") && text.contains("hostname = \"mx.example.org\""), "{text}");
    let text = problems("hostname = \"mx.test\"\n[[route]]\nto = \"mx\"\n");
    assert!(text.contains("`route[0].domains` is missing") && text.contains("[postrider.toml:2:1]"), "{text}");
}

#[test]
fn a_broken_file_is_told_as_that_only() {
    let text = problems("hostnam = [\n");
    assert!(text.contains("this is not TOML") && !text.contains("hostnam`"), "{text}");
}

#[test]
fn contradictions_are_errors() {
    for (text, wanted) in [
        ("domains = [\"*\"]", "this would be an open relay"),
        ("networks = [\"0.0.0.0/0\"]", "this would be an open relay"),
        ("group = \"mail\"", "`group` means nothing without `user`"),
        ("user = \"root\"", "the server does not run as root"),
        ("[[listener]]\nname = \"a\"\naddress = \"[::1]:0\"", "a listener needs a port"),
        (
            "[[listener]]\nname = \"a\"\naddress = \"[::1]:25\"\nprotocol = \"lmtp\"",
            "LMTP must not be spoken on port 25",
        ),
        (
            "[[listener]]\nname = \"a\"\naddress = [\"[::1]:25\", \"[::1]:25\"]",
            "two listeners cannot both have [::1]:25",
        ),
        ("[[route]]\ndomains = \"a.test\"\nto = [\"mx\", \"b.test\"]", "only SMTP hosts can stand in a list"),
        ("[[route]]\ndomains = \"a.test\"\nto = \"listener:b\"", "there is no listener `b`"),
        ("[[route]]\ndomains = \"a.test\"\nto = \"mx\"\nsource = \"b\"", "there is no source `b`"),
        ("[[route]]\ndomains = []\nto = \"mx\"", "`route[0].domains` must not be empty"),
        (
            "[[route]]\ndomains = \"*\"\nto = \"mx\"\n[[route]]\ndomains = \"a.test\"\nto = \"b.test\"",
            "this route is never used",
        ),
        ("[[source]]\nname = \"a\"\nipv4 = \"::1\"", "`ipv4` takes an IPv4 address"),
        ("[retry]\nfirst = \"5h\"", "the first wait is longer than the longest"),
        ("[retry]\nfirst = \"5m\"\nintervals = [\"5m\"]", "`first` means nothing beside `intervals`"),
        ("[retry]\nexpire = \"1m\"", "mail would be given up before it is tried again"),
        ("[retry]\nintervals = []", "`intervals` takes at least one wait"),
        (
            "[dns]\nservers = \"192.0.2.53:53\"\ndnssec = \"trust\"",
            "what 192.0.2.53:53 says about DNSSEC cannot be trusted",
        ),
        (
            "domains = [\"a.test\"]\n[tls_reports]\naddress = \"Postmaster@a.test\"",
            "people write to Postmaster@a.test, and would not reach anybody",
        ),
        ("[dns]\nunsigned = \"corp.test\"", "this means nothing unless this server validates answers"),
        ("[[route]]\ndomains = \"*\"\nto = \"lmtp:/x\"\ntls = \"verify\"", "there is no TLS on a Unix socket"),
        (
            "[[route]]\ndomains = \"*\"\nto = [\"smtps://a\", \"b\"]",
            "smtps:// and other hosts cannot stand in one list",
        ),
        ("[[route]]\ndomains = \"*\"\nto = \"smtps://a\"\ntls = \"none\"", "smtps:// is TLS"),
        ("[delivery]\ntls = \"fingerprint\"", "there is no fingerprint that a certificate could have"),
        ("[delivery]\ntls = { level = \"verify\", names = [\"*\"] }", "a certificate for any name proves nothing"),
        ("[delivery]\ntls = { level = \"dane\", names = [\"a.example\"] }", "names mean nothing at this level"),
        ("[delivery]\nrest_first = \"1h\"", "the first rest is longer than the longest"),
        ("[delivery]\nconnect_time = \"0s\"", "`delivery.connect_time` must be longer than nothing"),
        ("[limits]\nheader_size = \"60MiB\"", "a header cannot be larger than its message"),
        ("[store]\nsegment = \"100kB\"", "a segment has 64 KiB to 4 GiB"),
        ("[connections]\nin_flight = \"17MiB\"", "content in flight gets more memory than there is for content"),
    ] {
        let found = problems(&format!("hostname = \"mx.test\"\n{text}\n"));
        assert!(found.contains(&format!("× {wanted}")), "{wanted} in {found}");
    }
}

#[test]
fn a_listener_that_contradicts_its_role_is_an_error() {
    for (keys, wanted) in [
        ("role = \"submission\"\nauth = \"off\"", "nobody submits mail without AUTH"),
        ("role = \"submission\"\nauth = \"offered\"", "nobody submits mail without AUTH"),
        ("role = \"submission\"\ntls = \"offered\"", "nobody submits mail without TLS"),
        ("role = \"submission\"\ntls = \"implicit\"", "a `submission` listener begins in clear"),
        ("role = \"submissions\"\ntls = \"required\"", "a `submissions` listener has TLS from the first octet"),
        ("role = \"submission\"\nprotocol = \"lmtp\"", "mail is submitted by SMTP"),
        ("tls = \"off\"\nauth = \"offered\"", "there is no AUTH without TLS"),
        ("role = \"internal\"\ntls = \"off\"\nauth = \"required\"", "there is no AUTH without TLS"),
    ] {
        let found =
            problems(&format!("hostname = \"mx.test\"\n[[listener]]\nname = \"a\"\naddress = \"[::1]:587\"\n{keys}\n"));
        assert!(found.contains(&format!("× {wanted}")), "{wanted} in {found}");
    }
    let found = problems(
        "hostname = \"mx.test\"\nnetworks = []\n[[listener]]\nname = \"a\"\naddress = \"[::1]:26\"\nrole = \"internal\"\n",
    );
    assert!(found.contains("× nobody could connect here"), "{found}");
    let found =
        problems("hostname = \"mx.test\"\n[[listener]]\nname = \"a\"\naddress = \"[::]:25\"\nendings = \"repair\"\n");
    assert!(found.contains("⚠ line ends are repaired for everybody"), "{found}");
}

#[test]
fn contradictions_about_tls_are_errors() {
    let sha = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let client = |keys: &str| format!("[[client_certificate]]\n{keys}");
    for (text, wanted) in [
        ("[tls]\nhandshake_time = \"0s\"".to_owned(), "`tls.handshake_time` must be longer than nothing"),
        ("[tls]\nminimum = \"1.1\"".to_owned(), "`tls.minimum` takes \"1.2\" or \"1.3\""),
        (
            "[[listener]]\nname = \"a\"\naddress = \"[::1]:26\"\ntls = \"off\"\ntls_minimum = \"1.3\"".to_owned(),
            "`tls_minimum` means nothing without TLS",
        ),
        ("[acme]\ncontact = [\"a@b.test\"]".to_owned(), "`acme.names` is missing"),
        (
            "[acme]\nnames = [\"mx.test\"]\ndirectory = \"http://ca.test\"".to_owned(),
            "`acme.directory` takes the address of a directory",
        ),
        (
            "[acme]\nnames = [\"mx.test\"]\ncontact = [\"mailto:a@b.test\"]".to_owned(),
            "`acme.contact` takes mail addresses",
        ),
        (
            "[acme]\nnames = [\"mx.test\"]\nexternal_account = \"a\"".to_owned(),
            "`external_account` and `external_account_key` belong together",
        ),
        (client("relay = true"), "a client is known by one of"),
        (client("name = \"a.test\"\nrelay = true"), "`name` and `authority` belong together"),
        (client(&format!("fingerprint = \"{sha}\"")), "this certificate is good for nothing"),
        (client("fingerprint = \"9f86\"\nrelay = true"), "`client_certificate[0].fingerprint` takes a SHA-256 digest"),
    ] {
        let found = problems(&format!("hostname = \"mx.test\"\n{text}\n"));
        assert!(found.contains(&format!("× {wanted}")), "{wanted} in {found}");
    }
    let configuration =
        good(&format!("hostname = \"mx.test\"\n{}", client(&format!("fingerprint = \"{sha}\"\nrelay = true"))));
    assert_eq!(configuration.client_certificate[0].fingerprint.map(|digest| digest.0[0]), Some(0x9f));
}

#[test]
fn a_role_decides_what_is_not_set() {
    let listener = |role: &str| {
        let text =
            format!("hostname = \"mx.test\"\n[[listener]]\nname = \"a\"\naddress = \"[::1]:26\"\nrole = \"{role}\"\n");
        good(&text).listeners().remove(0)
    };
    for (role, tls, auth, endings) in [
        ("relay", TlsUse::Offered, AuthUse::Off, Endings::Strict),
        ("submission", TlsUse::Required, AuthUse::Required, Endings::Strict),
        ("submissions", TlsUse::Implicit, AuthUse::Required, Endings::Strict),
        ("internal", TlsUse::Offered, AuthUse::Off, Endings::Repair),
    ] {
        let listener = listener(role);
        assert_eq!((listener.tls(), listener.auth(), listener.endings()), (tls, auth, endings), "{role}");
    }
}

#[test]
fn a_domain_of_ours_without_a_route_is_a_warning_with_its_cure() {
    let text = problems(
        "hostname = \"mx.test\"\ndomains = [\"a.test\", \"b.test\"]\n[[route]]\ndomains = \"b.test\"\nto = \"mx\"\n",
    );
    assert!(text.contains("⚠ no route leads mail for a.test anywhere") && text.contains("[[route]]"), "{text}");
    assert!(!text.contains("b.test anywhere"), "{text}");
}

#[test]
fn includes_are_joined() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("conf.d")).unwrap();
    write("main.toml", "include = [\"conf.d/*.toml\"]\nhostname = \"mx.test\"\n[limits]\nhops = 7\n");
    write("conf.d/2.toml", "[[route]]\ndomains = \"two.test\"\nto = \"mx\"\n");
    write("conf.d/1.toml", "[limits]\nerrors = 3\n[[route]]\ndomains = \"one.test\"\nto = \"mx\"\n");
    write("conf.d/not-this", "nonsense");
    let loaded = load(&folder.path().join("main.toml")).unwrap();
    let configuration = &loaded.configuration;
    let routes: Vec<String> = configuration.route.iter().map(Route::called).collect();
    assert_eq!(
        (configuration.limits.hops, configuration.limits.errors, routes),
        (7, 3, vec!["one.test".into(), "two.test".into()])
    );
    assert!(loaded.places.describe("route[1].domains").unwrap().ends_with("2.toml:2"));

    write("conf.d/3.toml", "[limits]\nhops = 8\n");
    let text = load(&folder.path().join("main.toml")).unwrap_err().render(false);
    assert!(text.contains("`limits.hops` is set twice") && text.contains("main.toml:4"), "{text}");
    write("conf.d/3.toml", "include = [\"1.toml\"]\n");
    let text = load(&folder.path().join("main.toml")).unwrap_err().render(false);
    assert!(text.contains("is included twice"), "{text}");
    write("conf.d/3.toml", "include = [\"none.toml\"]\n");
    let text = load(&folder.path().join("main.toml")).unwrap_err().render(false);
    assert!(text.contains("cannot read") && text.contains("included here"), "{text}");
}

#[test]
fn a_minimal_configuration_has_the_defaults_of_the_house() {
    let configuration = good("hostname = \"mx.test\"");
    let addresses: Vec<String> = configuration.listeners()[0].address.0.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["0.0.0.0:25", "[::]:25"]);
    assert_eq!(configuration.store.path, Path::new("/var/lib/postrider"));
    assert_eq!(configuration.limits.to_session(), smtp::server::Limits::default());
    assert_eq!(configuration.connections.to_limits(), reception::ConnectionLimits::default());
    assert_eq!(configuration.delivery.to_settings(), ::delivery::Settings::default());
    assert_eq!(configuration.dns.to_settings(), dns::Settings::default());
}

#[test]
fn a_route_takes_from_the_general_retry_what_it_leaves_out() {
    let configuration = good(
        "hostname = \"mx.test\"\n[retry]\nintervals = [\"1m\", \"2m\"]\nexpire = \"3d\"\n\
         [[route]]\ndomains = \"a.test\"\nto = \"mx\"\n[route.retry]\nexpire = \"1d\"\n\
         [[route]]\ndomains = \"b.test\"\nto = \"mx\"\n[route.retry]\nfirst = \"10m\"\n",
    );
    let first = configuration.route[0].retry.over(&configuration.retry);
    assert_eq!((first.intervals.map(|waits| waits.len()), first.expire.to_string().as_str()), (Some(2), "1d"));
    let second = configuration.route[1].retry.over(&configuration.retry);
    assert_eq!(
        (second.intervals, second.first.to_string().as_str(), second.expire.to_string().as_str()),
        (None, "10m", "3d")
    );
}

#[test]
fn the_reference_names_every_key_of_the_schema() {
    fn keys(schema: &serde_json::Value, into: &mut Vec<String>) {
        for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
            into.push(key.clone());
            keys(inner, into);
            keys(&inner["items"], into);
        }
    }
    let (page, mut all) = (reference(), Vec::new());
    keys(&schema(), &mut all);
    assert!(all.len() > 80, "{}", all.len());
    for key in all.iter().filter(|key| *key != "include") {
        assert!(page.contains(&format!("`{key}`")) || page.contains(&format!("{key}]")), "{key}");
    }
    assert!(!page.contains("|  |"), "every key has a meaning");
}

#[test]
fn accounts_are_judged_with_what_they_need() {
    let judge = |text: &str| problems(&format!("hostname = \"mx.test\"\n{text}\n"));
    let listener = "[[listener]]\nname = \"s\"\naddress = \"127.0.0.1:587\"\nrole = \"submission\"\n";
    assert!(judge(listener).contains("⚠ nobody can log in here: there are no accounts"));
    assert!(!judge(&format!("{listener}[accounts]")).contains("log in"));
    let oauth = |keys: &str| format!("[accounts.oauth]\nissuer = \"i\"\naudience = \"a\"\nkeys = \"{keys}\"");
    assert_eq!(judge(&format!("{listener}{}", oauth("https://id.example.org/keys"))), "");
    let clear = judge(&oauth("http://id.example.org/keys"));
    assert!(clear.contains("× these keys cannot be used") && clear.contains("in the clear"), "{clear}");
    let orphan = judge("[accounts]\nmechanisms = [\"PLAIN\", \"XOAUTH2\"]");
    assert!(orphan.contains("× nobody says whose tokens count"), "{orphan}");
    assert!(judge("[accounts]\nmechanisms = \"PLIAN\"").contains("× `accounts.mechanisms` takes"));
}

#[test]
fn mistakes_in_the_accounts_are_told_with_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("postrider.toml", "hostname = \"mx.test\"\n[accounts]\nfile = \"people.toml\"\n");
    load(&folder.path().join("postrider.toml")).unwrap();
    write("people.toml", "[[account]]\nname = \"a\"\npassword = \"plain\"\n");
    let text = load(&folder.path().join("postrider.toml")).unwrap_err().render(false);
    assert!(text.contains("× the accounts cannot be used") && text.contains("people.toml:3: "), "{text}");
    assert!(!text.contains("plain"), "{text}");
}

#[test]
fn accounts_are_in_one_place_and_reached_safely() {
    for (text, wanted) in [
        ("[accounts]\nfile = \"a.toml\"\n[accounts.dovecot]", "accounts are in one place"),
        ("[accounts.ldap]\nurl = \"ldaps://a.test\"", "how is an entry found?"),
        ("[accounts.ldap]\nurl = \"ldaps://a.test\"\ndn = \"uid=joe\"", "all accounts would have one entry"),
        ("[accounts.ldap]\nurl = \"ldap://a.test\"\ndn = \"uid={name}\"", "passwords would travel in the clear"),
        (
            "[accounts.ldap]\nurl = \"ldaps://a.test\"\nstarttls = true\ndn = \"uid={name}\"",
            "STARTTLS begins in the clear",
        ),
        ("[accounts.ldap]\nurl = \"http://a.test\"\ndn = \"uid={name}\"", "this is no URL of an LDAP server"),
        ("[accounts.ldap]\nurl = \"ldaps://a.test\"\ndn = \"uid={name}\"\nbind_dn = \"cn=x\"", "belong together"),
        ("[accounts.ldap]\nurl = \"ldaps://a.test\"\ndn = \"uid={local}\"", "what may these accounts send as?"),
        ("[accounts.ldap]\nurl = \"ldaps://a.test\"\ndn = \"uid={name}\"\nname = \"\"", "a name that none can have"),
        (
            "[accounts.ldap]\nurl = \"ldaps://a.test\"\ndn = \"uid={name}\"\nname = \"mail\"\npatterns = true",
            "there are no `addresses`",
        ),
        ("[accounts.sql]\nurl = \"sqlite:a.db\"\nquery = \"SELECT 1\"", "the query does not ask for one account"),
        ("[accounts.sql]\nurl = \"mysql://a\"\nquery = \"$1\"", "this is no data base that is known here"),
        ("[accounts.sql]\nurl = \"sqlite:a\"\nca = \"b\"\nquery = \"$1\"", "this means nothing for SQLite"),
    ] {
        let found = problems(&format!("hostname = \"mx.test\"\n{text}\n"));
        assert!(found.contains(wanted), "{wanted} in {found}");
    }
    for fine in [
        "[accounts.dovecot]",
        "[accounts.ldap]\nurl = \"ldap://127.0.0.1\"\nbase = \"\"\nfilter = \"(mail={name})\"\naddresses = [\"mail\"]",
        "[accounts.ldap]\nurl = \"ldap://127.0.0.1\"\ndn = \"uid={local}\"\nname = \"mail\"\nlimits.messages_per_day = \"quota\"",
        "[accounts.sql]\nurl = \"postgresql://a@b/c\"\nquery = \"SELECT hash FROM people WHERE name = $1\"",
    ] {
        let listener = "[[listener]]\nname = \"s\"\naddress = \"127.0.0.1:587\"\nrole = \"submission\"\n";
        assert_eq!(problems(&format!("hostname = \"mx.test\"\n{listener}{fine}\n")), "");
    }
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let acme = "[acme]\nnames = [\"mx.test\"]\n";
    let route = "[[route]]\ndomains = \"*\"\n";
    let oauth = "[accounts.oauth]\naudience = \"a\"\nkeys = \"https://id.test/keys\"\n";
    let long = "x".repeat(100);
    for (text, wanted) in [
        ("[accounts.dovecot]\ntimeout = \"0s\"", "`accounts.dovecot.timeout` must be longer than nothing"),
        (
            "[accounts.ldap]\nurl = \"ldaps://a\"\ndn = \"uid={name}\"\ntimeout = \"0s\"",
            "`accounts.ldap.timeout` must be longer than nothing",
        ),
        (
            "[accounts.sql]\nurl = \"sqlite:a\"\nquery = \"$1\"\ntimeout = \"0s\"",
            "`accounts.sql.timeout` must be longer than nothing",
        ),
        ("[accounts.sql]\nurl = \"sqlite:\"\nquery = \"$1\"", "there is no path behind `sqlite:`"),
        (
            "[accounts.ldap]\nurl = \"ldap://localhost\"\ndn = \"uid={name}\"\nca = \"ca.pem\"",
            "there is no certificate to verify",
        ),
        (&format!("{oauth}issuer = \"\""), "`accounts.oauth.issuer` must not be empty"),
        (&format!("{oauth}issuer = \"i\"\nclaim = \"\""), "`accounts.oauth.claim` must not be empty"),
        (&format!("{oauth}issuer = \"i\"\nclaim = \"upn\"\nverified_email = false"), "this is about the claim `email`"),
        (&format!("{oauth}issuer = \"i\"\nleeway = \"1d\""), "tokens would count long after their end"),
        (&format!("{oauth}issuer = \"i\"\n[accounts.dovecot]"), "no token would let anybody in"),
        ("[mta_sts]\nmax_age = \"0s\"", "`mta_sts.max_age` must be longer than nothing"),
        ("[tls_reports]\nkeep = \"0s\"", "`tls_reports.keep` must be longer than nothing"),
        ("[tls_reports]\norganization = \"a\\nb\"", "this is no name of an organisation"),
        ("[limits]\nmessage_size = \"0B\"\nheader_size = \"0B\"", "no message could come in"),
        ("[limits]\nerror_delay = \"10m\"", "the first delay is longer than the longest"),
        ("[retry]\nintervals = [\"6d\"]", "mail would be given up before it is tried again"),
        ("[retry]\nexpire_bounces = \"1m\"", "mail would be given up before it is tried again"),
        ("[dns]\nservers = \"127.0.0.1:0\"", "a name server needs a port"),
        ("[store]\npath = \"\"", "the queue needs a folder"),
        (&format!("[store]\npath = \"/{long}\""), "the control socket cannot be made in there"),
        (&format!("{route}to = \"lmtp:/{long}{long}\""), "there is no such socket"),
        ("[[source]]\nname = \"\"", "this cannot be a source's name"),
        (&format!("{route}to = \"192.0.2.1\"\ntls = \"dane-only\""), "mail would wait for ever"),
        ("[delivery]\ntls = \"dane-only\"\n[dns]\ndnssec = \"off\"", "mail would wait for ever"),
        ("[bans]\nallow = [\"::/0\"]", "nobody would ever be banned or delayed"),
        (
            "[[listener]]\nname = \"a\"\naddress = \"[::1]:25\"\nproxies = [\"0.0.0.0/0\"]",
            "everybody could say to be anybody",
        ),
        (
            "[[listener]]\nname = \"a\"\naddress = \"[::1]:25\"\nxclient = [\"::/0\"]",
            "everybody could say to be anybody",
        ),
        (&format!("{acme}directory = \"https://\""), "`acme.directory` takes the address of a directory"),
        (&format!("{acme}listen = \"127.0.0.1:0\""), "a listener needs a port"),
        (
            &format!("[[client_certificate]]\nfingerprint = \"{}\"\naccount = \"app\"", "9f".repeat(32)),
            "this account cannot be looked up",
        ),
    ] {
        let found = problems(&format!("hostname = \"mx.test\"\n{text}\n"));
        assert!(found.contains(&format!("× {wanted}")), "{text}: {wanted} in {found}");
    }
}

#[test]
fn two_sockets_never_want_the_same_place() {
    let listener = |name: &str, address: &str| format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    let acme = |keys: &str| format!("[acme]\nnames = [\"mx.test\"]\n{keys}\n");
    let sts = |keys: &str| format!("[mta_sts]\ndomains = [\"a.test\"]\n{keys}\n");
    let at = |address: &str| format!("listen = \"{address}\"");
    let judge = |parts: &[String]| problems(&format!("hostname = \"mx.test\"\n{}", parts.concat()));
    for (parts, wanted) in [
        ([listener("a", "[::1]:25"), listener("b", "[::1]:25")], "two listeners cannot both have [::1]:25"),
        (
            [listener("a", "0.0.0.0:25"), listener("b", "127.0.0.1:25")],
            "127.0.0.1:25 cannot be opened beside 0.0.0.0:25",
        ),
        ([listener("a", "127.0.0.1:80"), acme("")], "0.0.0.0:80 cannot be opened beside 127.0.0.1:80"),
        ([listener("a", "[::]:443"), sts("")], "two listeners cannot both have [::]:443"),
        ([acme(&at("127.0.0.1:443")), sts(&at("127.0.0.1:443"))], "two listeners cannot both have 127.0.0.1:443"),
        (
            [acme("challenge = \"tls-alpn-01\""), sts(&at("127.0.0.1:443"))],
            "127.0.0.1:443 cannot be opened beside 0.0.0.0:443",
        ),
        (
            [sts("listen = [\"127.0.0.1:443\", \"127.0.0.1:443\"]"), String::new()],
            "two listeners cannot both have 127.0.0.1:443",
        ),
    ] {
        let found = judge(&parts);
        assert!(found.contains(&format!("× {wanted}")), "{parts:?}: {found}");
    }
    for parts in [
        [listener("a", "0.0.0.0:25"), listener("b", "[::]:25")],
        [listener("a", "127.0.0.1:25"), listener("b", "127.0.0.2:25")],
        // The proofs of an authority and policies share sockets.
        [acme("challenge = \"tls-alpn-01\""), sts("")],
        [acme(""), sts("")],
    ] {
        assert_eq!(judge(&parts), "", "{parts:?}");
    }
}

#[test]
fn keys_that_do_nothing_are_told() {
    for (text, keys) in [
        (
            "[mta_sts]\nmode = \"enforce\"\nmax_age = \"30d\"\nmx = \"mx.test\"\nlisten = \"127.0.0.1:443\"",
            vec!["mta_sts.mode", "mta_sts.max_age", "mta_sts.mx", "mta_sts.listen"],
        ),
        (
            "[tls_reports]\nfrom = \"a@b.test\"\norganization = \"x\"\ncontact = \"a@b.test\"\nkeep = \"1d\"",
            vec!["tls_reports.from", "tls_reports.organization", "tls_reports.contact", "tls_reports.keep"],
        ),
        (
            "[submission.spikes]\nhold = false\nfloor = 5\nfactor = 5",
            vec!["submission.spikes.floor", "submission.spikes.factor"],
        ),
        ("[bans]\nenabled = false\nfirst = \"1h\"\nmost = \"2h\"", vec!["bans", "bans.first", "bans.most"]),
        ("[reports]\ndelay_after = \"6d\"", vec!["reports.delay_after"]),
        ("[delivery]\nconnections_at_first = 50", vec!["delivery.connections_at_first"]),
        ("[queue]\ndeliveries = 1000\ndeliveries_per_destination = 2000", vec!["queue.deliveries_per_destination"]),
        ("[accounts]\nparallel_checks = 3\n[accounts.dovecot]", vec!["accounts.parallel_checks"]),
    ] {
        let found = problems(&format!("hostname = \"mx.test\"\n{text}\n"));
        for key in keys {
            assert!(found.contains(&format!("⚠ `{key}` does nothing")), "{key} in {found}");
        }
        assert!(!found.contains('×'), "{found}");
    }
    for (text, wanted) in [
        ("[accounts]", "nobody can log in to an account"),
        ("[accounts]\nmechanisms = [\"PLAIN\", \"EXTERNAL\"]", "this mechanism is never offered"),
        (
            "[accounts]\nmechanisms = \"SCRAM-SHA-256\"\n[accounts.ldap]\nurl = \"ldaps://a\"\ndn = \"uid={name}\"",
            "this mechanism is never offered",
        ),
        ("[[source]]\nname = \"a\"\n[[source]]\nname = \"b\"", "nothing leaves from the source `b`"),
        ("[limits]\nmessage_size = \"10kB\"\nheader_size = \"1kB\"", "ordinary mail would be refused"),
    ] {
        let found = problems(&format!("hostname = \"mx.test\"\n{text}\n"));
        assert!(found.contains(&format!("⚠ {wanted}")), "{wanted} in {found}");
    }
}

#[test]
fn every_example_of_the_documentation_is_a_good_configuration() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![repository.join("README.md"), repository.join("ARCHITECTURE.md")];
    for folder in ["docs", "docs/internals"] {
        let entries = std::fs::read_dir(repository.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    let mut seen = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        let examples = text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
        // A file of accounts is no configuration.
        for example in examples.filter(|example| !example.contains("[[account]]")) {
            let named = if example.contains("hostname =") { "" } else { "hostname = \"mx.example.org\"\n" };
            let digits = "9f".repeat(32);
            let whole = format!("{named}{example}").replace("9F:86:D0:81:…", &digits).replace("3F:2A:…", &digits);
            if let Err(problems) = load_text("example", &whole) {
                panic!("{}: {}", page.display(), problems.render(false));
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn who_we_are_is_told_only_to_hosts_that_prove_who_they_are() {
    let route = |tls: &str, auth: &str| {
        problems(&format!(
            "hostname = \"mx.test\"\n[[route]]\ndomains = \"*\"\nto = \"relay.example.net:587\"\n{tls}auth = {{ user = \"us\", {auth} }}"
        ))
    };
    assert_eq!(route("", "password_file = \"/etc/postrider/relay\""), "");
    assert_eq!(route("tls = \"dane-only\"\n", "token_command = [\"/bin/token\"], mechanisms = [\"XOAUTH2\"]"), "");
    assert_eq!(route("tls = \"encrypt\"\n", "password_env = \"RELAY\", unverified = true"), "");
    for (tls, auth, problem) in [
        ("tls = \"encrypt\"\n", "password_env = \"RELAY\"", "the password could be told to somebody else"),
        (
            "tls = \"none\"\n",
            "password_env = \"RELAY\", unverified = true",
            "the password could be told to somebody else",
        ),
        ("", "mechanisms = []", "it must be said what proves who we are"),
        ("", "password_env = \"A\", token_file = \"/b\"", "it must be said what proves who we are"),
        ("", "password_env = \"A\", mechanisms = [\"XOAUTH2\"]", "`XOAUTH2` does not fit"),
        ("", "password_env = \"\"", "`password_env` must not be empty"),
    ] {
        let told = route(tls, auth);
        assert!(told.contains(problem), "{problem}: {told}");
    }
}
