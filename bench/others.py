"""More servers to compare with, where Debian or npm have them: `./dev bench --servers all` unpacks them into target/peers.

What a server must find at a fixed place (a file of /etc, its spool) is put there for it alone, in a mount namespace."""
import os, shutil, subprocess, sys

from servers import IN, OUT, Server

HERE = os.path.dirname(os.path.abspath(__file__))
# Where the name server of those listens that cannot do without one.
NAMES = "127.0.53.1"


def tree(name):
    return os.path.join(os.path.dirname(os.environ["POSTRIDER_TEST_POSTFIX"]), name)


class Other(Server):
    """A server with a private view of some files."""

    def __init__(self, work, spawn):
        super().__init__(work, spawn)
        self.made, self.names = [], None

    def run(self, command, mounts=(), **more):
        """Starts it with files and folders of ours in place of others: (ours, theirs)."""
        script, arguments = [], []
        for ours, theirs in mounts:
            self.make_way(ours, theirs)
            script.append(f'mount --bind "$1" "$2" && shift 2 || exit 1')
            arguments += [ours, theirs]
        command = ["unshare", "-m", "sh", "-c", "\n".join(script + ['exec "$@"']), "sh", *arguments, *command]
        self.process = self.spawn(command, stdout=self.log(), stderr=subprocess.STDOUT, **more)

    def make_way(self, ours, theirs):
        """What is mounted upon must be there."""
        if os.path.exists(theirs):
            return
        if os.path.isdir(ours):
            os.makedirs(theirs)
        else:
            open(theirs, "w").close()
        self.made.append(theirs)

    def name_server(self):
        """A name server that leads all mail to the sink. Gives the file that names it to the resolver."""
        self.names = subprocess.Popen([sys.executable, HERE + "/names.py", NAMES])
        self.write("resolv.conf", f"nameserver {NAMES}\n")
        return (self.work + "/resolv.conf", "/etc/resolv.conf")

    def clean(self):
        if self.names:
            self.names.kill()
            self.names.wait()
        for path in reversed(self.made):
            os.rmdir(path) if os.path.isdir(path) else os.remove(path)
        self.made = []


class Exim(Other):
    name = "Exim (limits lifted)"
    note = "Exim waits up to 200 ms at QUIT for the client to close first: with a connection for each message that bounds its rate."

    def prepare(self):
        for folder in ("spool", "log", "etc"):
            os.makedirs(f"{self.work}/{folder}")
        for folder in ("spool", "log"):
            shutil.chown(f"{self.work}/{folder}", "Debian-exim", "Debian-exim")
        self.write("exim.conf", f"""primary_hostname = mx.bench.local
spool_directory = {self.work}/spool
log_file_path = {self.work}/log/%slog
pid_file_path = {self.work}/spool/exim.pid
exim_path = {tree("exim")}/usr/sbin/exim4
exim_user = Debian-exim
exim_group = Debian-exim
local_interfaces = 127.0.0.1
daemon_smtp_ports = {IN}
tls_advertise_hosts =
acl_smtp_rcpt = ok
host_lookup =
rfc1413_hosts =
keep_environment = LD_LIBRARY_PATH
smtp_accept_max = 400
smtp_accept_queue_per_connection = 0
smtp_connect_backlog = 1000
smtp_accept_max_per_connection = 0
split_spool_directory = true
queue_run_max = 5
message_size_limit = 50M
never_users = root
deliver_drop_privilege = true
begin acl
ok:
  accept
begin routers
smarthost:
  driver = manualroute
  transport = remote_smtp
  route_list = * 127.0.0.1::{OUT} byname
  self = send
  host_find_failed = defer
  no_more
begin transports
remote_smtp:
  driver = smtp
  hosts_avoid_tls = *
begin retry
* * F,4d,30m
""")
        self.write("etc/trusted_configs", self.work + "/exim.conf\n")

    def start(self):
        program = tree("exim") + "/usr/sbin/exim4"
        libraries = dict(os.environ, LD_LIBRARY_PATH=tree("exim") + "/usr/lib/x86_64-linux-gnu")
        self.run([program, "-C", self.work + "/exim.conf", "-bdf", "-q30m"], [(self.work + "/etc", "/etc/exim4")], env=libraries)


class Haraka(Other):
    name = "Haraka"

    def prepare(self):
        package = tree("haraka") + "/node_modules/Haraka"
        shutil.copytree(package + "/config", self.work + "/config")
        self.write("config/smtp.ini", f"listen=127.0.0.1:{IN}\n")
        self.write("config/plugins", "bench\n")
        self.write("config/loglevel", "NOTICE\n")
        self.write("config/log.ini", "[main]\nlevel=notice\n")
        self.write("config/me", "mx.bench.local\n")
        with open(self.work + "/config/outbound.ini", "a") as file:
            file.write("\nlocal_mx_ok=true\n")
        self.write("config/host_list", "nothing.invalid\n")
        self.write("config/queue_dir", self.work + "/queue\n")
        os.makedirs(self.work + "/queue")
        self.write("package.json", "{}")
        self.write("plugins/bench.js", f"""exports.register = function () {{
  this.register_hook('rcpt', 'ok');
  this.register_hook('get_mx', 'mx');
}};
exports.ok = (next, connection) => {{
  connection.relaying = true;
  next(OK);
}};
exports.mx = (next, hmail, domain) => next(OK, {{ exchange: '127.0.0.1', port: {OUT}, priority: 0 }});
""")

    def start(self):
        program = tree("haraka") + "/node_modules/Haraka/bin/haraka"
        self.run(["node", program, "-c", self.work], [self.name_server()], cwd=self.work)


class Chasquid(Other):
    name = "chasquid"
    note = ("chasquid relays for nobody without authentication: an alias leads to the sink. It does not sync before 250, and answers "
            "4yz above 200 queued messages; what was delivered counts.")
    scenarios = ("relay",)
    source_arguments = ("-A",)
    may_reject = True

    def prepare(self):
        self.write("etc/chasquid.conf", f"""hostname: "mx.bench.local"
smtp_address: "127.0.0.1:{IN}"
submission_address: "127.0.0.1:{IN + 62}"
submission_over_tls_address: "127.0.0.1:{IN + 63}"
max_data_size_mb: 50
data_dir: "{self.work}/data"
mail_log_path: "{self.work}/mail.log"
mail_delivery_agent_bin: "/bin/true"
""")
        self.write("etc/domains/bench.test/aliases", "to: to@sink.test\n")
        folder = self.work + "/etc/certs/mx.bench.local"
        os.makedirs(folder)
        os.makedirs(self.work + "/data")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=mx.bench.local",
                        "-keyout", folder + "/privkey.pem", "-out", folder + "/fullchain.pem"], check=True, stderr=subprocess.DEVNULL)

    def start(self):
        command = [tree("chasquid") + "/usr/bin/chasquid", "-config_dir", self.work + "/etc", "-testing__outgoing_smtp_port", str(OUT)]
        self.run(command, [self.name_server()])


class OpenSmtpd(Other):
    name = "OpenSMTPD (limits lifted)"
    note = "OpenSMTPD's socket has a short line for new connections: with many at once, some come a second later. It does not sync before 250."
    SPOOL, EMPTY = "/var/spool/smtpd", "/var/lib/opensmtpd/empty"

    def prepare(self):
        spool = self.work + "/spool"
        for folder, user, group, mode in (("", "root", "root", 0o711), ("corrupt", "opensmtpq", "root", 0o700),
                                          ("incoming", "opensmtpq", "root", 0o700), ("offline", "root", "opensmtpq", 0o770),
                                          ("purge", "opensmtpq", "root", 0o700), ("queue", "opensmtpq", "root", 0o700),
                                          ("temporary", "opensmtpq", "root", 0o700)):
            path = os.path.join(spool, folder)
            os.makedirs(path)
            shutil.chown(path, user, group)
            os.chmod(path, mode)
        os.makedirs(self.work + "/empty", mode=0o755)
        self.write("smtpd.conf", f"""mta limit max-conn-per-host 50 max-conn-per-route 50 max-conn-per-connector 100 conn-delay-host 0 conn-delay-source 0 conn-delay-connector 0 conn-delay-relay 0 conn-delay-domain 0 reconn-delay-route 0
scheduler limit max-inflight 50000
smtp limit max-mails 1000000
listen on 127.0.0.1 port {IN}
action "r" relay host "smtp://127.0.0.1:{OUT}"
match from any for any action "r"
""")

    def start(self):
        command = [tree("opensmtpd") + "/usr/sbin/smtpd", "-d", "-f", self.work + "/smtpd.conf"]
        self.run(command, [self.name_server(), (self.work + "/spool", self.SPOOL), (self.work + "/empty", self.EMPTY)])


ALL = {"exim": Exim, "haraka": Haraka, "chasquid": Chasquid, "opensmtpd": OpenSmtpd}
