//! The README's way to a server of one's own, as it is written there: its block is run, and mail goes through what it made.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::harness::{Line, PATIENCE, Postrider, Setup, Sink, binary, is_root, open_to_everybody, own_address, tool};

const ANNA: &str = "anna@example.org";
/// What the README builds.
const BUILD: &str = "build --release -p postrider";

/// The commands that try a server out, each on a line of its own.
fn block() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = fs::read_to_string(readme).expect("the README");
    let section = readme.split("\n## ").find(|section| section.starts_with("A server of your own\n"));
    let section = section.expect("the section");
    let mut blocks = section.split("\n```").skip(1).step_by(2);
    let block = blocks.find(|block| block.contains("--listen 127.0.0.1")).expect("the block");
    let (_, commands) = block.split_once('\n').expect("the fence is a line");
    commands.replace("\\\n", "").lines().map(str::to_owned).collect()
}

/// An empty machine: where the source lies, and where new folders are made.
struct Machine {
    setup: Setup,
    address: IpAddr,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { setup: Setup::new(), address: own_address() };
        for (name, mode) in [("", 0o755), ("source", 0o777), ("tmp", 0o1777), ("tools", 0o755)] {
            let _ = fs::create_dir(machine.path(name));
            open_to_everybody(&machine.path(name), mode);
        }
        // Whoever tries it is not root, and must reach the binary.
        let built = machine.path("tools/built");
        fs::copy(binary(), &built).expect("the binary");
        let cargo = machine.path("tools/cargo");
        let script = format!(
            "#!/bin/sh\n[ \"$*\" = '{BUILD}' ] && mkdir -p target/release && ln -s {} target/release/postrider\n",
            built.display()
        );
        fs::write(&cargo, script).expect("a program");
        open_to_everybody(&cargo, 0o755);
        open_to_everybody(&built, 0o755);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.setup.folder().join(name)
    }

    /// A shell in the folder, for somebody who is not root, with our `cargo` before all others.
    fn shell(&self, folder: &Path, script: &str) -> Command {
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh"]);
                command
            }
            false => Command::new("sh"),
        };
        // What listens listens where no other test does.
        command.args(["-e", "-c", &script.replace("127.0.0.1", &self.address.to_string())]);
        let path = std::env::var("PATH").expect("a path");
        command.current_dir(folder).env("PATH", format!("{}:{path}", self.path("tools").display()));
        command.env("TMPDIR", self.path("tmp")).stdin(Stdio::null());
        command
    }
}

#[test]
fn its_block_makes_a_server_that_its_account_can_use() {
    let machine = Machine::new();
    let mut commands = block();
    let serve = commands.pop().filter(|line| line.starts_with("postrider serve "));
    let serve = serve.expect("the block ends with the start of the server");

    let output = machine.shell(&machine.path("source"), &commands.join("\n")).output().expect("a shell");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{out}{}", commands.join("\n"), String::from_utf8_lossy(&output.stderr));
    let password = out.lines().find_map(|line| line.split_once("told only now: ")).expect("the password").1;

    // The folder that it went to, and there a sink for all mail.
    let folder = fs::read_dir(machine.path("tmp")).expect("a folder").next().expect("a new one").expect("it").path();
    let sink = Sink::start();
    let mut config = fs::OpenOptions::new().append(true).open(folder.join("etc/postrider.toml")).expect("its file");
    write!(config, "\n[[route]]\ndomains = \"*\"\nto = \"{}\"\n", sink.address()).expect("its file");

    let on_path = format!("PATH={}:$PATH\nexec {serve}", machine.path("source/target/release").display());
    let server = Postrider::run(machine.shell(&folder, &on_path), &machine.setup);
    server.wait("ready", |line| line["event"] == "ready");

    let submissions = SocketAddr::new(machine.address, 2465);
    submit(submissions, password, &folder.join("store/tls/self-signed.pem"));
    let mail = sink.next();
    assert_eq!((mail.from.as_str(), mail.to.as_slice()), (ANNA, &["bob@example.net".to_owned()][..]));
    assert!(mail.content.contains("Subject: first") && mail.content.contains("with ESMTPSA"), "{}", mail.content);
    if let Some(swaks) = tool("swaks") {
        let output = Command::new(swaks)
            .args(["--server", &machine.address.to_string(), "--port", "2587", "--tls"])
            .args(["--auth", "PLAIN", "--auth-user", ANNA, "--auth-password", password])
            .args(["--from", ANNA, "--to", "bob@example.net", "--header", "Subject: second"])
            .output()
            .expect("swaks runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(sink.next().content.contains("Subject: second"));
    }
    server.stop();
}

/// Sends a message over TLS from the first octet; the server shows the certificate of that file.
fn submit(server: SocketAddr, password: &str, certificate: &Path) {
    let socket = TcpStream::connect(server).expect("it listens");
    let mut line = Line::Clear(socket).secure("mail.example.org", PATIENCE).expect("TLS");
    let Line::Secure(stream) = &line else { panic!("it is secure") };
    // Of root or of the same user, who may both read it.
    let made = CertificateDer::from_pem_file(certificate).expect("the certificate that quickstart made");
    assert_eq!(stream.conn.peer_certificates().and_then(<[_]>::first), Some(&made));
    let login = BASE64_STANDARD.encode(format!("\0{ANNA}\0{password}"));
    let mut say = |text: &str, code: &str| {
        line.write(text.as_bytes()).expect("the connection stands");
        let reply = reply(&mut line);
        assert!(reply.starts_with(code), "{reply}");
    };
    say("", "220");
    say("EHLO client.test\r\n", "250");
    say(&format!("MAIL FROM:<{ANNA}>\r\n"), "530");
    say(&format!("AUTH PLAIN {login}\r\n"), "235");
    say(&format!("MAIL FROM:<{ANNA}>\r\n"), "250");
    say("RCPT TO:<bob@example.net>\r\n", "250");
    say("DATA\r\n", "354");
    say(&format!("From: <{ANNA}>\r\nSubject: first\r\n\r\nhello\r\n.\r\n"), "250");
    say("QUIT\r\n", "221");
}

/// A whole reply: its last line has no hyphen behind the code.
fn reply(line: &mut Line) -> String {
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = line.read(&mut buffer).expect("a reply in time");
        text.extend_from_slice(&buffer[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let last = whole.strip_suffix("\r\n").and_then(|lines| lines.rsplit("\r\n").next());
        if read == 0 || last.is_some_and(|last| last.as_bytes().get(3) != Some(&b'-')) {
            return whole;
        }
    }
}
