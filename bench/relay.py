#!/usr/bin/env python3
"""Side by side on this machine: smtp-source -> server under test -> smtp-sink, the servers in turn in every round.

  ./dev bench relay   from the first connection to the last message in the sink
  ./dev bench accept  the sink is down: durable accept-and-queue only

A cell is size/sessions/mode: 1k, 10k or 100k; mode conn opens a connection for each message, reuse keeps them. Every run
has a fresh server, which is warmed up first. CPU time is that of the server's control group, ended children included; the
generator and the sink are not counted, but share the machine. The ceiling of a cell is the generator straight into the
sink; smtp-source does not pipeline, so that with few sessions it is the generator that binds.

With --tls both ways go by STARTTLS, and generator and sink are our own (crates/tls/examples/load.rs), for those of Postfix
know no TLS; sessions are not resumed towards the server, and certificates are not checked.

Needs root (control groups, users of the servers). `./dev bench` fetches the servers and sets $POSTRIDER_TEST_POSTFIX.
"""
import argparse, os, platform, re, shutil, socket, statistics, subprocess, sys, tempfile, time

import others, plot, servers
from machine import Group, Memory, clock, flushes
from servers import OUT

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = {"1k": 1024, "10k": 10240, "100k": 102400}
ALL = [f"{size}/{sessions}/{mode}" for size in SIZES for sessions in (1, 20, 100) for mode in ("conn", "reuse")]
CELLS = {
    "core": ["1k/1/reuse", "10k/20/reuse", "10k/100/conn", "10k/100/reuse", "100k/20/conn"],
    "some": ["10k/20/conn", "10k/20/reuse"],
    "all": ALL,
}
SERVERS = {**servers.ALL, **others.ALL}
SETS = {"two": list(servers.ALL), "all": list(SERVERS)}
# The most messages of one run, and of one session: servers end a session that has too many.
MOST = {"1k": 60000, "10k": 60000, "100k": 8000}
MOST_OF_SESSION = 9000


class Tools:
    """The generator and the sink, in a control group of their own."""

    def __init__(self, work, group="postrider-bench-tools", tls=False):
        self.work, self.group, self.tls = work, Group(group), tls
        self.group.end()
        os.makedirs(work + "/etc")
        open(work + "/etc/main.cf", "w").write("myhostname = gen.test\nmydomain = test\n")
        open(work + "/etc/master.cf", "w").close()
        tree = os.environ["POSTRIDER_TEST_POSTFIX"]
        self.env = dict(os.environ, LD_LIBRARY_PATH=tree + "/usr/lib/postfix", MAIL_CONFIG=work + "/etc")
        self.programs = tree + "/usr/sbin/"
        self.load = os.path.abspath(os.environ.get("POSTRIDER_TLS_LOAD", "target/release/examples/load"))
        if tls:
            subprocess.run([self.load, "certificate", work], check=True)

    def spawn(self, name, *arguments, **more):
        command = [self.programs + name, *arguments]
        return subprocess.Popen(command, preexec_fn=self.group.join, env=self.env, **more)

    def spawn_other(self, command, **more):
        """A program that is not of Postfix."""
        return subprocess.Popen(command, preexec_fn=self.group.join, **more)

    def generate(self, cell, count, port, extra=()):
        """Sends `count` messages; gives an error text or an empty one."""
        size, sessions, mode = cell.split("/")
        if self.tls:
            command = [self.load, "source", str(port), str(min(int(sessions), count)), str(count), str(SIZES[size]), mode]
            return self.finish(self.spawn_other(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        keep = ["-d"] if mode == "reuse" else []
        process = self.spawn("smtp-source", "-C", "20", "-s", str(min(int(sessions), count)), "-m", str(count), "-l",
                             str(SIZES[size]), "-f", "from@bench.test", "-t", "to@bench.test", *keep, *extra,
                             f"127.0.0.1:{port}", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return self.finish(process)

    @staticmethod
    def finish(process):
        """Waits for a generator; gives an error text or an empty one."""
        try:
            text = process.communicate(timeout=180)[1].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return "the generator took too long"
        return (text.splitlines() or ["failed"])[-1] if process.returncode else ""


class Sink:
    """smtp-sink, or ours with TLS, and how many messages it has taken."""

    def __init__(self, tools):
        wait_for_nobody(OUT)
        self.path = tools.work + "/sink.out"
        with open(self.path, "w") as out:
            ours = [tools.load, "sink", str(OUT), tools.work]
            self.process = tools.spawn_other(ours, stdout=out, stderr=subprocess.DEVNULL) if tools.tls else tools.spawn("smtp-sink", "-c", "-u", "root", "-m", "1000", f"127.0.0.1:{OUT}", "4096", stdout=out, stderr=subprocess.DEVNULL)
        wait_for_port(OUT)

    def count(self):
        with open(self.path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 120))
            found = re.findall(rb"mesg=(\d+)", file.read())
        return int(found[-1]) if found else 0

    def stop(self):
        self.process.kill()
        self.process.wait()


def wait_for_port(port, host="127.0.0.1", seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port} of {host}")


def wait_for_nobody(port, host="127.0.0.1", seconds=5):
    """A server of somebody else must not be measured for ours."""
    end = time.time() + seconds
    while time.time() < end:
        try:
            socket.create_connection((host, port), 1).close()
            time.sleep(0.1)
        except OSError:
            return
    raise RuntimeError(f"somebody else listens on port {port} of {host}")


class Bench:
    """One invocation."""

    def __init__(self, options, work):
        self.options, self.work, self.tools = options, work, Tools(work, tls=options.tls)
        self.results, self.ceilings, self.rates = {}, {}, {}

    def run(self):
        for cell in self.options.cells:
            ceilings = []
            for turn in range(self.options.rounds):
                ceilings.append(self.ceiling(cell))
                self.ceilings[cell] = statistics.median(ceilings)
                for name in self.options.servers:
                    self.attempt(cell, turn, name)

    def attempt(self, cell, turn, name):
        """A server that fails in one run does not end the others'."""
        try:
            row = self.one(SERVERS[name], cell)
        except (LookupError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            print(f"{cell} round {turn + 1} {name}: failed: {error}", flush=True)
            return
        self.results.setdefault((cell, name), []).append(row)
        shown = " ".join(f"{key}={value:.2f}" if isinstance(value, float) else f"{key}={value}" for key, value in row.items())
        print(f"{cell} round {turn + 1} {name}: {shown}", flush=True)

    def one(self, kind, cell):
        """A fresh server: warm-up, then one measured run."""
        group = Group("postrider-bench")
        group.end()
        folder = f"{self.work}/{kind.__name__}"
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        server = kind(folder, lambda command, **more: subprocess.Popen(command, preexec_fn=group.join, **more))
        server.certificate = self.work if self.options.tls else None
        sink = None
        try:
            wait_for_nobody(server.port)
            server.prepare()
            sink = Sink(self.tools) if self.options.scenario == "relay" else None
            server.start()
            wait_for_port(server.port)
            count = self.warm_up(group, sink, server, cell)
            row = self.measure(group, sink, server, cell, count)
            self.rates[cell, kind] = row["rate"]
            return row
        finally:
            server.stop()
            group.end()
            server.clean()
            if sink:
                sink.stop()

    def warm_up(self, group, sink, server, cell):
        """Gives the number of messages that fill the time. The first run of a cell must find it out."""
        known = self.rates.get((cell, type(server)))
        count = max(40, 2 * int(cell.split("/")[1]))
        row = self.measure(group, sink, server, cell, count)
        if not known:
            row = self.measure(group, sink, server, cell, int(max(count, min(row["rate"], 4000))))
            known = row["rate"]
        size, sessions, mode = cell.split("/")
        most = min(MOST[size], MOST_OF_SESSION * int(sessions)) if mode == "reuse" else MOST[size]
        return int(max(count, min(most, known * self.options.seconds)))

    def measure(self, group, sink, server, cell, count):
        """One run of `count` messages."""
        base, memory = (sink.count() if sink else 0), Memory(group)
        cpu, tools, (busy, there), flushed = group.cpu(), self.tools.group.cpu(), clock(), flushes()
        start = time.time()
        error = self.tools.generate(cell, count, server.port, server.source_arguments)
        accepted, delivered, last = time.time(), 0, time.time()
        patience = 3 if server.may_reject or error else 30
        while sink and delivered < count and time.time() - last < patience:
            now = sink.count() - base
            if now != delivered:
                delivered, last = now, time.time()
            time.sleep(0.005)
        end = last if sink else accepted
        # What is settled behind the last message belongs to it.
        time.sleep(0.3)
        cpu, tools = group.cpu() - cpu, self.tools.group.cpu() - tools
        done = delivered if sink and (server.may_reject or error) else count
        if sink and delivered < count and not server.may_reject:
            error = error or f"{count - delivered} not delivered"
        busy, there = (now - before for now, before in zip(clock(), (busy, there)))
        rate = (delivered if sink else done) / max(end - start, 1e-3)
        return dict(n=count, rate=rate, accepted=done / (accepted - start), cpu=cpu * 1000 / max(done, 1),
                    tools=tools * 1000 / max(done, 1), memory=memory.stop() / 2**20, flushes=(flushes() - flushed) / max(done, 1),
                    foreign=100 * max(0.0, busy - cpu - tools) / max(there, 1e-3), error=error)

    def ceiling(self, cell):
        """The generator straight into the sink, in messages per second: what this machine can do at most."""
        sink, rate = Sink(self.tools), 0.0
        try:
            count = max(300, 4 * int(cell.split("/")[1]))
            for seconds in (self.options.seconds / 4, self.options.seconds / 2, 0):
                start = time.time()
                self.tools.generate(cell, count, OUT)
                rate = count / (time.time() - start)
                count = int(max(count, min(MOST[cell.split("/")[0]], rate * seconds)))
            print(f"{cell} generator straight into sink: {rate:.0f}/s", flush=True)
            return rate
        finally:
            sink.stop()

    def medians(self):
        """By cell and server, in the order of the servers."""
        found = {}
        for cell in self.options.cells:
            for name in self.options.servers:
                if rows := self.results.get((cell, name)):
                    row = {key: statistics.median(row[key] for row in rows) for key in rows[0] if key != "error"}
                    row["memory"] = max(each["memory"] for each in rows)
                    row["foreign"] = max(each["foreign"] for each in rows)
                    row["errors"] = sum(bool(each["error"]) for each in rows)
                    found[cell, name] = row
        return found

    def table(self):
        relay = self.options.scenario == "relay"
        heads = ["cell", "server", *(["accepted/s", "end to end/s"] if relay else ["accepted/s"]), "÷ Postfix", "÷ ceiling",
                 "CPU ms/message", "÷ Postfix", "flushes/message", "peak resident MiB"]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        medians = self.medians()
        for cell in self.options.cells:
            ceiling = self.ceilings[cell]
            blank = ["–"] * (len(heads) - (4 if relay else 3))
            lines.append("| " + " | ".join([cell, "generator straight into sink", *(["–"] if relay else []), f"{ceiling:.0f}", *blank]) + " |")
            base = medians.get((cell, "postfix"))
            for name in self.options.servers:
                row = medians.get((cell, name))
                if not row:
                    lines.append(f"| {cell} | {SERVERS[name].name} | " + " | ".join(["no result"] + ["–"] * (len(heads) - 3)) + " |")
                    continue
                rates = [f"{row['accepted']:.0f}", f"{row['rate']:.0f}"] if relay else [f"{row['accepted']:.0f}"]
                against = [f"{row['rate'] / base['rate']:.2f}", f"{row['cpu'] / base['cpu']:.2f}"] if base else ["–", "–"]
                note = " (some not delivered)" if row["errors"] else ""
                lines.append("| " + " | ".join([cell, SERVERS[name].name + note, *rates, against[0], f"{row['rate'] / ceiling:.2f}",
                             f"{row['cpu']:.2f}", against[1], f"{row['flushes']:.2f}", f"{row['memory']:.0f}"]) + " |")
        return "\n".join(lines)

    def write(self):
        """Puts table and drawing into this folder; a newer run of the same kind replaces the older one."""
        options, medians = self.options, self.medians()
        two = set(options.servers) <= set(servers.ALL)
        scenario = f"{options.scenario} with STARTTLS" if options.tls else options.scenario
        core = options.cells == CELLS["core"]
        title = scenario + (", core cells" if core else "") + ("" if two else ", more servers")
        picture = f"{options.scenario}{'-tls' if options.tls else ''}{'-core' if core else ''}{'' if two else '-servers'}.svg"
        names = {name: SERVERS[name].name for name in options.servers}
        with open(os.path.join(HERE, picture), "w") as file:
            file.write(plot.draw(options.scenario, options.cells, names, medians, self.ceilings))
        foreign = max((row["foreign"] for row in medians.values()), default=0.0)
        command = f"./dev bench {' '.join(sys.argv[1:])}"
        body = (f"{time.strftime('%Y-%m-%d')}, `{command}`. {machine()} Medians of {options.rounds} interleaved runs of about "
                f"{options.seconds:g} s, memory: the most of them. Other programs used at most {foreign:.0f} % of the CPU in any run.\n\n"
                f"![rate and CPU time by cell]({picture})\n\n{self.table()}\n")
        notes = [f"- {SERVERS[name].name}: {SERVERS[name].note}" for name in options.servers if SERVERS[name].note]
        body += "".join("\n" + note for note in notes) + ("\n" if notes else "")
        replace_section(title, body)


def replace_section(title, body):
    """Puts a section into RESULTS.md; a newer one replaces the older one of the same title."""
    path = os.path.join(HERE, "RESULTS.md")
    old = open(path).read() if os.path.exists(path) else "# Results\n\nEvery table names the command that repeats it.\n"
    kept = [part for part in re.split(r"(?m)^(?=## )", old) if part.split("\n")[0] != f"## {title}"]
    open(path, "w").write("".join(kept).rstrip() + f"\n\n## {title}\n\n{body}")


def machine(folder=None):
    """What it was measured on; `folder` lies on the disk that was."""
    model = re.search(r"(?m)^model name\s*:\s*(.+)$", open("/proc/cpuinfo").read())
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read())[1]) / 2**20
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder or tempfile.gettempdir()], capture_output=True, text=True).stdout.strip()
    return (f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}) shared by generator, server and sink, "
            f"{memory:.0f} GiB, Linux {platform.release()}, {kind or 'unknown file system'}.")


def parse():
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=["relay", "accept"])
    parser.add_argument("--cells", default="core", help="core, some, all, or cells with commas between (default: core)")
    parser.add_argument("--servers", default="two", help=f"two (postfix and postrider), all, or some of {', '.join(SERVERS)} (default: two)")
    parser.add_argument("--rounds", type=int, default=3, help="measured runs of each server in each cell (default: 3)")
    parser.add_argument("--seconds", type=float, default=10, help="about how long one run takes; below 5 Postfix is not at its full rate (default: 10)")
    parser.add_argument("--tls", action="store_true", help="STARTTLS both ways, for postfix and postrider")
    parser.add_argument("--write", action="store_true", help="put table and drawing into bench/")
    options = parser.parse_args()
    options.cells = list(dict.fromkeys(cell for part in options.cells.split(",") for cell in CELLS.get(part, [part])))
    options.servers = list(dict.fromkeys(name for part in options.servers.split(",") for name in SETS.get(part, [part])))
    if wrong := [cell for cell in options.cells if cell not in ALL]:
        parser.error(f"no such cell: {wrong[0]}; for example 10k/20/reuse")
    if wrong := [name for name in options.servers if name not in SERVERS]:
        parser.error(f"no such server: {wrong[0]}")
    if options.tls and (options.scenario != "relay" or not set(options.servers) <= set(servers.ALL)):
        parser.error("--tls is for relay, with postfix and postrider")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("there must be something to measure")
    options.servers = [name for name in options.servers if options.scenario in SERVERS[name].scenarios]
    return options


def main():
    options = parse()
    if os.getuid() != 0:
        raise SystemExit("bench: needs root, for control groups and the users of the servers")
    work = tempfile.mkdtemp(prefix="postrider-bench-")
    os.chmod(work, 0o755)
    bench = Bench(options, work)
    try:
        bench.run()
    finally:
        bench.tools.group.end()
        shutil.rmtree(work, ignore_errors=True)
    print(bench.table())
    if options.write:
        bench.write()


if __name__ == "__main__":
    main()
