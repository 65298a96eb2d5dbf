"""The servers under test. Each listens on 127.0.0.1:IN and relays every recipient to 127.0.0.1:OUT, durably."""
import os, pwd, re, shutil, subprocess

IN, OUT = 2525, 2526

# What Postfix's own documents recommend for a relay of this kind (TUNING_README); fsync stays on.
POSTFIX_TUNED = """default_process_limit = 200
initial_destination_concurrency = 20
smtp_destination_concurrency_limit = 50
default_destination_concurrency_limit = 50
in_flow_delay = 0
qmgr_message_active_limit = 40000
qmgr_message_recipient_limit = 40000
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
"""

# STARTTLS both ways, with what Postfix can keep between messages (TLS_README).
POSTFIX_TLS = """smtpd_tls_security_level = may
smtpd_tls_cert_file = {folder}/cert.pem
smtpd_tls_key_file = {folder}/key.pem
smtpd_tls_session_cache_database = btree:$data_directory/smtpd_scache
smtp_tls_security_level = encrypt
smtp_tls_session_cache_database = btree:$data_directory/smtp_scache
smtp_tls_connection_reuse = yes
"""


class Server:
    """One server in a folder of its own, started inside the measured group of processes."""

    name = ""
    # What a reader of its figures must know.
    note = ""
    scenarios = ("relay", "accept")
    # More arguments of smtp-source.
    source_arguments = ()
    # Whether 4yz under load is normal: then what was delivered counts.
    may_reject = False
    port = IN
    # The folder with cert.pem and key.pem where both ways go by STARTTLS.
    certificate = None

    def __init__(self, work, spawn):
        self.work, self.spawn, self.process = work, spawn, None

    def write(self, path, text):
        path = os.path.join(self.work, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)

    def log(self):
        return open(os.path.join(self.work, "server.log"), "ab")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def clean(self):
        """Takes back what was changed outside of the folder."""


class Postrider(Server):
    name = "Postrider"

    def prepare(self):
        # A user without rights, as in service: the sockets are opened before.
        user = pwd.getpwnam("nobody")
        os.makedirs(self.work + "/store")
        os.chown(self.work + "/store", user.pw_uid, user.pw_gid)
        os.chmod(self.work, 0o755)
        listener, route, more = "", "", ""
        if self.certificate:
            # Started as root, it reads the key before it becomes somebody else, and again when it changes.
            for file in ("cert.pem", "key.pem"):
                shutil.copy(f"{self.certificate}/{file}", self.work)
                os.chown(f"{self.work}/{file}", user.pw_uid, user.pw_gid)
            listener, route = 'tls = "offered"', 'tls = "encrypt"'
            more = f"""
[[certificate]]
chain = "{self.work}/cert.pem"
key = "{self.work}/key.pem"
"""
        self.write("postrider.toml", f"""hostname = "mx.bench.local"
user = "nobody"
networks = ["127.0.0.0/8"]

[store]
path = "{self.work}/store"

[connections]
per_address = 1000
per_ipv4_network = 1000

[[listener]]
name = "bench"
address = "127.0.0.1:{IN}"
{listener}

[[route]]
name = "sink"
domains = "*"
to = "127.0.0.1:{OUT}"
{route}
{more}""")

    def start(self):
        binary = os.environ.get("POSTRIDER", "target/release/postrider")
        self.process = self.spawn([os.path.abspath(binary), "serve", "--config", self.work + "/postrider.toml"],
                                  stdout=self.log(), stderr=subprocess.STDOUT, env=self.environment())

    @staticmethod
    def environment():
        """As the unit file sets it: packaging/postrider.service."""
        return dict(os.environ, MALLOC_ARENA_MAX="4")


class Postfix(Server):
    name = "Postfix (tuned)"

    def prepare(self):
        tree, work = os.environ["POSTRIDER_TEST_POSTFIX"], self.work
        for folder in ("etc", "data", "queue"):
            os.makedirs(f"{work}/{folder}", exist_ok=True)
        os.chmod(work, 0o755)
        user = pwd.getpwnam("postfix")
        os.chown(work + "/data", user.pw_uid, user.pw_gid)
        tls = "smtp_tls_security_level = none\nsmtpd_tls_security_level = none\n"
        if self.certificate:
            tls = POSTFIX_TLS.format(folder=self.certificate)
        self.write("etc/main.cf", f"""compatibility_level = 3.6
queue_directory = {work}/queue
data_directory = {work}/data
command_directory = {tree}/usr/sbin
daemon_directory = {tree}/usr/lib/postfix/sbin
shlib_directory = {tree}/usr/lib/postfix
meta_directory = {work}/etc
mail_owner = postfix
import_environment = MAIL_CONFIG TZ LANG=C LD_LIBRARY_PATH
setgid_group = postdrop
sendmail_path = {tree}/usr/sbin/sendmail
newaliases_path = /bin/true
mailq_path = /bin/true
html_directory = no
manpage_directory = no
sample_directory = no
readme_directory = no
myhostname = mx.bench.local
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
relayhost = [127.0.0.1]:{OUT}
smtp_host_lookup = native
{tls}maillog_file = {work}/maillog
maillog_file_prefixes = /tmp, /var, {work}
""" + POSTFIX_TUNED)
        master = open(tree + "/usr/share/postfix/master.cf.dist").read()
        master = re.sub(r"(?m)^smtp\s+inet.*$", f"127.0.0.1:{IN} inet n - n - - smtpd", master)
        master = re.sub(r"(?m)^(\S+\s+(?:inet|unix|fifo|pass|unix-dgram)\s+\S+\s+\S+\s+)y", r"\1n", master)
        if self.certificate:
            master = re.sub(r"(?m)^#(?=tlsproxy\s)", "", master)
        if "postlog " not in master:
            master += "\npostlog unix-dgram n - n - 1 postlogd\n"
        self.write("etc/master.cf", master)
        for file in ("postfix-files", "dynamicmaps.cf"):
            if os.path.exists(f"{tree}/etc/postfix/{file}"):
                shutil.copy(f"{tree}/etc/postfix/{file}", work + "/etc/")
        self.env = dict(os.environ, LD_LIBRARY_PATH=tree + "/usr/lib/postfix", MAIL_CONFIG=work + "/etc")
        owned = "active bounce corrupt defer deferred flush hold incoming private saved trace".split()
        for folder in owned + ["maildrop", "pid", "public"]:
            path = f"{work}/queue/{folder}"
            os.makedirs(path, exist_ok=True)
            if folder != "pid":
                shutil.chown(path, "postfix", "postdrop" if folder in ("maildrop", "public") else "root")
            os.chmod(path, {"maildrop": 0o730, "pid": 0o755, "public": 0o710}.get(folder, 0o700))

    def start(self):
        tree = os.environ["POSTRIDER_TEST_POSTFIX"]
        self.process = self.spawn([tree + "/usr/lib/postfix/sbin/master", "-c", self.work + "/etc", "-d"],
                                  env=self.env, stdout=self.log(), stderr=subprocess.STDOUT)


ALL = {"postfix": Postfix, "postrider": Postrider}
