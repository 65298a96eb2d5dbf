#!/usr/bin/env python3
"""What a long queue costs: deferred deliveries over many domains, made through the store's face, and a server that starts.

  ./dev bench backlog [--sizes 0,1000000,10000000] [--write]

For each size, with one process from start to end: seconds from the start of the process to its first 250 (and once more
with the store's files not in the page cache); resident memory after ten seconds of rest and at most; `postrider queue
summary`; hold, release and remove of one domain with --act messages, whose host takes connections and says nothing; and
octets on the disk per message. Then all the rest falls due in the same second and goes to one fast sink: all of it up to a
million, otherwise the first --drain-seconds.

Each domain is a destination of its own, found by the DNS; all share one mail exchange, hence one lane and its connections,
or with --sites so many exchanges and lanes (at one address).
The rate is compared with the same server's with an empty queue: mail of the same size, by smtp-source with 20 sessions
that stay open, from the first connection to the last message in the sink; and with the drain of a backlog of 100,000 in
which each domain has as many messages as in one of a million. That is the fairer of the two: live mail shares the machine
with its generator.

Needs root (port 25 of a loopback address, control groups, the server's user). `./dev bench backlog` builds what it needs.
"""
import argparse, glob, json, os, pwd, re, shutil, signal, socket, subprocess, sys, tempfile, time

import plot_backlog, relay, servers
from machine import Group

HERE = os.path.dirname(os.path.abspath(__file__))
# Addresses of our own, beside those of other benches and tests.
SERVER, SINK, STALLED = "127.77.0.1", "127.77.0.25", "127.77.0.26"
PORT, SMALL, REST, ACTED_ON = 2525, 100_000, 10, "d0.example"
# From here on only the beginning of the drain is measured.
WHOLE = 1_000_000
MESSAGE = b"Subject: first\r\n\r\nHello.\r\n.\r\n"


class Server(servers.Postrider):
    """Asks the bench's name server, so that every domain is a destination of its own."""

    def prepare(self):
        shutil.copy(os.environ.get("POSTRIDER", "target/release/postrider"), self.work + "/postrider")
        self.binary, self.config = self.work + "/postrider", self.work + "/postrider.toml"
        self.write("postrider.toml", f"""hostname = "mx.bench.local"
user = "nobody"
networks = ["127.0.0.0/8"]

[store]
path = "{self.work}/store"

[connections]
per_address = 1000
per_ipv4_network = 1000

[dns]
servers = ["{SERVER}:53"]

[[listener]]
name = "bench"
address = "{SERVER}:{PORT}"
""")

    def own_store(self):
        """The generator runs as root, the server does not."""
        user = pwd.getpwnam("nobody")
        os.makedirs(self.work + "/store", exist_ok=True)
        for folder, _, files in os.walk(self.work + "/store"):
            for path in [folder, *(os.path.join(folder, file) for file in files)]:
                os.chown(path, user.pw_uid, user.pw_gid)

    def start(self):
        """Seconds until the first message is accepted."""
        begun = time.monotonic()
        self.process = self.spawn([self.binary, "serve", "--config", self.config], stdout=self.log(), stderr=subprocess.STDOUT, env=self.environment())
        while time.monotonic() - begun < 120:
            if self.process.poll() is not None:
                raise RuntimeError("the server ended: " + last_line(self.work + "/server.log"))
            try:
                send("first@first.example")
                return time.monotonic() - begun
            except OSError:
                time.sleep(0.001)
        raise RuntimeError("no 250 within two minutes")

    def end(self):
        """A proper end, as long as it takes; gives the seconds."""
        begun = time.monotonic()
        self.process.terminate()
        self.process.wait(120)
        return time.monotonic() - begun

    def memory(self, what="VmRSS"):
        """MiB, now or (`VmHWM`) at most."""
        return int(re.search(what + r":\s+(\d+)", open(f"/proc/{self.process.pid}/status").read())[1]) / 1024

    def ask(self, *arguments):
        """What a command says as JSON lines, and the seconds that it took."""
        begun = time.monotonic()
        command = [self.binary, *arguments, "--config", self.config, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return [json.loads(line) for line in done.stdout.splitlines()], time.monotonic() - begun

    def total(self):
        lines, seconds = self.ask("queue", "summary", "--limit", "1")
        return next(line["total"] for line in lines if "total" in line), seconds


class Sink(relay.Sink):
    """The mail exchange of all domains but one."""

    def __init__(self, tools):
        relay.wait_for_nobody(25, SINK)
        self.path = tools.work + "/sink.out"
        with open(self.path, "w") as out:
            self.process = tools.spawn("smtp-sink", "-c", "-u", "root", "-m", "1000", f"{SINK}:25", "4096", stdout=out, stderr=subprocess.DEVNULL)
        relay.wait_for_port(25, SINK)


class Bench:
    """One invocation."""

    def __init__(self, options, work):
        self.options, self.work = options, work
        self.tools = relay.Tools(work, "postrider-backlog-tools")
        self.group = Group("postrider-backlog")
        self.group.end()
        # Messages a second that the generator makes.
        self.pace = 10_000.0
        self.stalled = socket.create_server((STALLED, 25), backlog=1000)
        names = [sys.executable, HERE + "/names.py", SERVER, SINK, f"{ACTED_ON}={STALLED}", str(options.sites)]
        self.tools.spawn_other(names)

    def run(self):
        """The rate with an empty queue, that of a small backlog, and the row of each size."""
        base, rows = self.live(), []
        say(0, f"live, empty queue: {base['rate']:.0f}/s, {base['cpu']:.3f} ms CPU each")
        small = self.one(SMALL, max(1, self.options.domains * SMALL // WHOLE), 0)
        for size in self.options.sizes:
            rows.append(self.one(size, self.options.domains, self.options.act) if size else base)
            say(size, " ".join(f"{key}={value:.4g}" for key, value in rows[-1].items() if isinstance(value, (int, float))))
        return base, small, rows

    def fresh(self, size):
        folder = f"{self.work}/{size}"
        os.makedirs(folder)
        os.chmod(folder, 0o755)
        server = Server(folder, lambda command, **more: subprocess.Popen(command, preexec_fn=self.group.join, **more))
        server.prepare()
        return server

    def live(self):
        """The same server with an empty queue."""
        server, sink = self.fresh("live"), None
        try:
            server.own_store()
            sink = Sink(self.tools)
            row = dict(size=0, first=server.start())
            row["stop"] = server.end()
            row["cold"] = server.start()
            time.sleep(REST)
            row["rest"], row["summary"] = server.memory(), server.total()[1]
            self.inject(server, sink, 5000)
            row["rate"], row["cpu"] = self.inject(server, sink, self.options.live)
            row["peak"] = server.memory("VmHWM")
            return row
        finally:
            self.over(server, sink)

    def inject(self, server, sink, count):
        """Live mail: its rate and the server's CPU milliseconds each."""
        base, cpu, begun = sink.count(), self.group.cpu(), time.monotonic()
        # Headers of smtp-source are about 250 octets: as long in all as the backlog's.
        source = self.tools.spawn("smtp-source", "-C", "20", "-s", "20", "-d", "-m", str(count), "-l", "450", "-f", "from@bench.test",
                                  "-t", "to@bench.test", f"{SERVER}:{PORT}", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        reached, seconds = arrive(0, sink, base + count, 120, begun)
        source.kill()
        source.wait()
        if reached < base + count:
            raise RuntimeError(f"{base + count - reached} of {count} live messages did not arrive")
        return count / seconds, (self.group.cpu() - cpu) * 1000 / count

    def one(self, size, domains, act):
        """A fresh store of that size, from its generation to its drain."""
        server, sink = self.fresh(size), None
        try:
            act = min(act, size // 2)
            due = self.make(server, size, domains, act)
            row = dict(size=size, disk=disk(server.work + "/store") / size)
            sink = Sink(self.tools)
            row["first"] = server.start()
            row["stop"] = server.end()
            forget_pages(server.work + "/store")
            row["cold"] = server.start()
            say(size, f"first 250 after {row['first']:.3f} s, from cold files after {row['cold']:.3f} s")
            time.sleep(REST)
            row["rest"] = server.memory()
            total, row["summary"] = server.total()
            if total["queued"] + total["held"] < size - 1:
                raise RuntimeError(f"of {size} messages there are {total}")
            say(size, f"{row['rest']:.0f} MiB at rest; summary in {row['summary']:.2f} s")
            removed = self.act_on_domain(server, row)
            row["peak_before"] = server.memory("VmHWM")
            self.drain(server, sink, row, size - removed, due)
            row["peak"] = server.memory("VmHWM")
            return row
        finally:
            self.over(server, sink)

    def make(self, server, size, domains, act):
        """Generates the backlog; gives when it falls due: a while after all that is measured before."""
        for patience in (1.4, 2.0):
            large = min(size, WHOLE) / WHOLE
            due = int(time.time() + patience * size / self.pace + 20 + 40 * large)
            begun, store = time.monotonic(), server.work + "/store"
            shutil.rmtree(store, ignore_errors=True)
            with open(server.work + "/maker.log", "w") as log:
                maker = self.tools.spawn_other([self.options.maker, store, str(size), str(domains), str(due), str(act)], stderr=log)
                while (code := poll(maker, 10)) is None:
                    say(size, last_line(log.name))
            if code:
                raise RuntimeError("the generator failed: " + last_line(server.work + "/maker.log"))
            self.pace = size / (time.monotonic() - begun)
            say(size, f"generated at {self.pace:.0f}/s, due in {due - time.time():.0f} s")
            if due - time.time() > 16 + 30 * large:
                server.own_store()
                return due
        raise RuntimeError("the generator became slower and slower")

    def act_on_domain(self, server, row):
        for action, more in (("hold", []), ("release", []), ("remove", ["--yes"])):
            said, row[action] = server.ask("queue", action, "--domain", ACTED_ON, "--reason", "bench", *more)
            row["acted"] = said[-1]["recipients"]
            say(row["size"], f"{action} of {row['acted']:,}: {row[action]:.2f} s")
        return row["acted"]

    def drain(self, server, sink, row, count, due):
        """All is due at once."""
        size, early = row["size"], due - time.time()
        if early < 0:
            raise RuntimeError(f"everything was due {-early:.0f} s before the drain could be measured")
        say(size, f"due in {early:.0f} s")
        time.sleep(early)
        base, cpu, begun = sink.count(), self.group.cpu(), time.monotonic()
        limit = self.options.drain_seconds if size > WHOLE else 900
        reached, seconds = arrive(size, sink, base + count, limit, begun)
        row["drained"], row["seconds"], row["rate"] = reached - base, seconds, (reached - base) / seconds
        row["cpu"] = (self.group.cpu() - cpu) * 1000 / max(reached - base, 1)
        if size <= WHOLE and reached < base + count:
            raise RuntimeError(f"{base + count - reached} of {count} did not arrive")
        time.sleep(1)
        if reached >= base + count and (sink.count() != base + count or any(server.total()[0].values())):
            raise RuntimeError(f"{sink.count() - base} arrived of {count}; left: {server.total()[0]}")

    def over(self, server, sink):
        if sink:
            sink.stop()
        self.group.end()
        shutil.rmtree(server.work, ignore_errors=True)

    def end(self):
        self.group.end()
        self.tools.group.end()
        self.stalled.close()


def arrive(size, sink, wanted, limit, begun):
    """How many the sink has once it has the wanted number, the limit is over, or nothing comes; and the seconds."""
    first = seen = told_of = sink.count()
    last, told = begun, begun
    while seen < wanted and (now := time.monotonic()) - begun < limit and now - last < 30:
        if (count := sink.count()) != seen:
            seen, last = count, now
        if now - told > 5:
            say(size, f"{seen - first:,} delivered, {(seen - told_of) / (now - told):.0f}/s")
            told, told_of = now, seen
        time.sleep(0.01)
    return seen, max(last - begun, 1e-3)


def send(recipient):
    """One message to the server under test."""
    with socket.create_connection((SERVER, PORT), 10) as peer:
        talk = peer.makefile("rwb")
        for line in (b"", b"EHLO x\r\n", b"MAIL FROM:<>\r\n", f"RCPT TO:<{recipient}>\r\n".encode(), b"DATA\r\n", MESSAGE):
            talk.write(line)
            talk.flush()
            reply = talk.readline()
            while reply[3:4] == b"-":
                reply = talk.readline()
            if reply[:1] not in (b"2", b"3"):
                raise OSError(reply)


def poll(process, seconds):
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def last_line(path):
    lines = open(path, errors="replace").read().splitlines()
    return lines[-1] if lines else "nothing said"


def disk(folder):
    return sum(os.stat(path).st_blocks * 512 for path in glob.glob(folder + "/**", recursive=True))


def forget_pages(folder):
    """Takes the files out of the page cache."""
    for path in glob.glob(folder + "/**", recursive=True):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def say(size, words):
    print(f"{size:>10,}  {words}", flush=True)


def table(base, small, rows):
    columns = [("first 250 s", "first", ".3f"), ("from cold files s", "cold", ".3f"), ("resident MiB at rest", "rest", ".0f"),
               ("at most", "peak", ".0f"), ("summary s", "summary", ".2f"), ("hold s", "hold", ".1f"), ("release s", "release", ".1f"),
               ("remove s", "remove", ".1f"), ("of messages", "acted", ",.0f"), ("octets on disk each", "disk", ".0f"),
               ("delivered", "drained", ",.0f"), ("in s", "seconds", ".0f"), ("delivered/s", "rate", ".0f"), ("÷ live, empty queue", "ratio", ".2f"),
               (f"÷ drain of {SMALL:,}", "drain", ".2f"), ("CPU ms each", "cpu", ".3f")]
    lines = [f"| messages | {' | '.join(head for head, _, _ in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        row = dict(row, ratio=row["rate"] / base["rate"])
        if row["size"]:
            row["drain"] = row["rate"] / small["rate"]
        cells = [format(row[key], shape) if key in row else "–" for _, key, shape in columns]
        name = f"{row['size']:,}" if row["size"] else "0 (live mail)"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write(options, base, small, rows):
    kind = "backlog, many exchanges" if options.sites > 1 else "backlog"
    picture = "backlog-sites.svg" if options.sites > 1 else "backlog.svg"
    with open(os.path.join(HERE, picture), "w") as file:
        file.write(plot_backlog.draw(sorted(rows, key=lambda row: row["size"]), base["rate"]))
    command = f"./dev bench {' '.join(['backlog', *sys.argv[1:]])}"
    relay.replace_section(kind, f"""{time.strftime('%Y-%m-%d')}, `{command}`. {relay.machine(options.work)} Deferred messages of about 500 octets
over {options.domains:,} domains with {options.sites:,} mail exchange{"s" if options.sites > 1 else ""}; live mail of the same size by 20 sessions that stay open. All falls due in
the same second; {WHOLE:,} and less are delivered to the last, of more the first {options.drain_seconds} s are measured.

![rate and resident memory by messages in the queue]({picture})

{table(base, small, rows)}
""")


def parse():
    parser = argparse.ArgumentParser(prog="./dev bench backlog", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="0,1000000,10000000", help="messages in the queue, with commas between (default: 0,1000000,10000000)")
    parser.add_argument("--domains", type=int, default=100_000, help="domains that they are for (default: 100000)")
    parser.add_argument("--sites", type=int, default=1, help="mail exchanges that the domains share (default: 1)")
    parser.add_argument("--live", type=int, default=100_000, help="live messages with an empty queue (default: 100000)")
    parser.add_argument("--act", type=int, default=100_000, help="messages of the domain that is acted on, at most half of all (default: 100000)")
    parser.add_argument("--drain-seconds", type=int, default=60, help=f"how long the drain of more than {WHOLE:,} is measured (default: 60)")
    parser.add_argument("--work", help="a folder on the disk to measure (default: that of temporary files)")
    parser.add_argument("--write", action="store_true", help="put table and drawing into bench/")
    options = parser.parse_args()
    options.maker = os.environ.get("POSTRIDER_BACKLOG", "target/release/examples/backlog")
    try:
        options.sizes = [int(size) for size in options.sizes.split(",")]
    except ValueError:
        parser.error("--sizes takes whole numbers with commas between")
    if min(options.sizes) < 0 or min(options.domains, options.sites, options.live, options.drain_seconds) < 1 or options.act < 0:
        parser.error("there must be something to measure")
    return options


def main():
    options = parse()
    if os.getuid() != 0:
        raise SystemExit("bench: needs root, for port 25 of a loopback address, control groups and the server's user")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    work, bench = tempfile.mkdtemp(prefix="postrider-backlog-", dir=options.work), None
    os.chmod(work, 0o755)
    try:
        bench = Bench(options, work)
        base, small, rows = bench.run()
    except RuntimeError as error:
        raise SystemExit(f"bench: {error}")
    finally:
        if bench:
            bench.end()
        shutil.rmtree(work, ignore_errors=True)
    rows += [] if SMALL in options.sizes else [small]
    print(table(base, small, rows))
    if options.write:
        write(options, base, small, rows)


if __name__ == "__main__":
    main()
