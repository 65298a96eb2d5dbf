#!/usr/bin/env python3
"""Side by side on this machine: smtp-source -> server under test -> smtp-sink, servers in turn in every round.

  relay.py relay  [--cells 10k/100/conn,10k/20/reuse] [--rounds 3] [--seconds 10] [--write]
  relay.py accept [--cells ...]      the sink is down: durable accept-and-queue only

A cell is size/sessions/mode; mode conn opens a connection for each message, reuse keeps them. CPU time is that of the
server's control group, ended children included; the generator and the sink are not counted, but share the machine.
Needs root (control groups; Postfix's users) and Postfix's files in $POSTRIDER_TEST_POSTFIX (`./dev bench` sees to it).
--write puts the table into bench/RESULTS.md.
"""
import argparse, os, platform, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, threading, time

import servers
from servers import IN, OUT

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = {"1k": 1024, "10k": 10240, "100k": 102400}


class Group:
    """One control group: CPU time, ended children included, and the member processes. Versions 1 and 2."""

    def __init__(self, name):
        self.v2 = not os.path.isdir("/sys/fs/cgroup/cpuacct")
        self.folder = f"/sys/fs/cgroup/{name}" if self.v2 else f"/sys/fs/cgroup/cpuacct/{name}"
        os.makedirs(self.folder, exist_ok=True)

    def join(self):
        with open(self.folder + "/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))

    def cpu(self):
        if self.v2:
            return int(re.search(r"usage_usec (\d+)", open(self.folder + "/cpu.stat").read())[1]) / 1e6
        return int(open(self.folder + "/cpuacct.usage").read()) / 1e9

    def pids(self):
        return [int(pid) for pid in open(self.folder + "/cgroup.procs").read().split()]

    def rss(self):
        total = 0
        for pid in self.pids():
            try:
                total += int(open(f"/proc/{pid}/statm").read().split()[1]) * 4096
            except (OSError, IndexError):
                pass
        return total

    def end(self):
        """Ends what is left in the group: only what this run put there."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for _ in range(50):
                pids = self.pids()
                if not pids:
                    return
                for pid in pids:
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
                time.sleep(0.1)


class Memory(threading.Thread):
    """The peak of the group's resident memory."""

    def __init__(self, group):
        super().__init__(daemon=True)
        self.group, self.peak, self.on = group, 0, True

    def run(self):
        while self.on:
            self.peak = max(self.peak, self.group.rss())
            time.sleep(0.3)

    def stop(self):
        self.on = False
        self.join()
        return self.peak


class Sink:
    """smtp-sink, and how many messages it has taken."""

    def __init__(self, work, env):
        self.out = open(work + "/sink.out", "w")
        self.path = work + "/sink.out"
        self.process = subprocess.Popen([tool("smtp-sink"), "-c", "-u", "root", "-m", "1000", f"127.0.0.1:{OUT}", "4096"],
                                        stdout=self.out, stderr=subprocess.DEVNULL, env=env)
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


def tool(name):
    return os.environ["POSTRIDER_TEST_POSTFIX"] + "/usr/sbin/" + name


def wait_for_port(port, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def generate(cell, count, env, port=IN):
    """Sends `count` messages; gives an error text or an empty one."""
    size, sessions, mode = cell.split("/")
    command = [tool("smtp-source"), "-C", "20", "-s", str(min(int(sessions), count)), "-m", str(count),
               "-l", str(SIZES[size]), "-f", "from@bench.test", "-t", "to@bench.test"]
    command += (["-d"] if mode == "reuse" else []) + [f"127.0.0.1:{port}"]
    done = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=300)
    return done.stderr.decode(errors="replace").strip().splitlines()[-1] if done.returncode else ""


def flushes():
    """Cache flushes of all disks so far, where the kernel counts them."""
    return sum(int(f[18]) for f in (line.split() for line in open("/proc/diskstats")) if len(f) > 18)


def measure(group, sink, cell, count, env):
    """One measured run of `count` messages."""
    base, memory = (sink.count() if sink else 0), Memory(group)
    memory.start()
    cpu, flushed, start = group.cpu(), flushes(), time.time()
    error = generate(cell, count, env)
    accepted, delivered, last = time.time(), 0, time.time()
    while sink and delivered < count and time.time() - last < 30:
        now = sink.count() - base
        if now != delivered:
            delivered, last = now, time.time()
        time.sleep(0.005)
    end = last if sink else accepted
    time.sleep(0.3)
    return dict(n=count, accept=count / (accepted - start), e2e=delivered / (end - start) if sink else 0,
                cpu=(group.cpu() - cpu) * 1000 / count, rss=memory.stop() / 1e6, delivered=delivered,
                flushes=(flushes() - flushed) / count, error=error)


def one(kind, scenario, cell, seconds, work, env):
    """A fresh server: warm-up, then one measured run of about `seconds`."""
    group = Group("postrider-bench")
    group.end()
    folder = f"{work}/{kind.__name__}"
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    server = kind(folder, lambda command, **more: subprocess.Popen(command, preexec_fn=group.join, **more))
    sink = Sink(work, env) if scenario == "relay" else None
    try:
        server.prepare()
        server.start()
        wait_for_port(IN)
        rate, count = 0, max(200, 4 * int(cell.split("/")[1]))
        for _ in range(2):
            row = measure(group, sink, cell, count, env)
            rate = row["e2e"] or row["accept"]
            count = int(max(count, min(rate, 4000)))
        return measure(group, sink, cell, int(max(200, min(60000, rate * seconds))), env)
    finally:
        server.stop()
        group.end()
        if sink:
            sink.stop()


def ceiling(cell, seconds, work, env):
    """The generator straight into the sink: what this machine can do at most."""
    sink = Sink(work, env)
    try:
        start = time.time()
        generate(cell, 3000, env, OUT)
        count = int(3000 / (time.time() - start) * seconds)
        start = time.time()
        generate(cell, count, env, OUT)
        return count / (time.time() - start)
    finally:
        sink.stop()


def table(scenario, cells, results, limits):
    lines = ["| cell | server | accepted/s | end to end/s | CPU ms/message | flushes/message | peak resident MB | end to end ÷ Postfix | CPU ÷ Postfix |",
             "|---|---|---|---|---|---|---|---|---|"]
    for cell in cells:
        if cell in limits:
            lines.append(f"| {cell} | generator straight into sink | – | {limits[cell]:.0f} | – | – | – | – | – |")
        base = None
        for name, kind in servers.ALL.items():
            rows = results.get((cell, name))
            if not rows:
                continue
            median = {key: statistics.median(row[key] for row in rows) for key in ("accept", "e2e", "cpu", "rss", "flushes")}
            speed = median["e2e"] if scenario == "relay" else median["accept"]
            base = base or (speed, median["cpu"])
            lines.append(f"| {cell} | {kind.name} | {median['accept']:.0f} | {median['e2e']:.0f} | {median['cpu']:.2f} | "
                         f"{median['flushes']:.2f} | {median['rss']:.0f} | {speed / base[0]:.2f} | {median['cpu'] / base[1]:.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=["relay", "accept"])
    parser.add_argument("--cells", default="10k/100/conn,10k/20/reuse")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--servers", default=",".join(servers.ALL))
    parser.add_argument("--write", action="store_true", help="put the table into bench/RESULTS.md")
    options = parser.parse_args()
    if os.getuid() != 0:
        raise SystemExit("bench: needs root, for control groups and Postfix's users")
    work = tempfile.mkdtemp(prefix="postrider-bench-")
    os.chmod(work, 0o755)
    os.makedirs(work + "/etc")
    open(work + "/etc/main.cf", "w").write("myhostname = gen.test\nmydomain = test\n")
    open(work + "/etc/master.cf", "w").close()
    env = dict(os.environ, LD_LIBRARY_PATH=os.environ["POSTRIDER_TEST_POSTFIX"] + "/usr/lib/postfix", MAIL_CONFIG=work + "/etc")
    cells, results, limits = options.cells.split(","), {}, {}
    try:
        for cell in cells:
            if options.scenario == "relay":
                limits[cell] = ceiling(cell, options.seconds / 2, work, env)
            for turn in range(options.rounds):
                for name in options.servers.split(","):
                    row = one(servers.ALL[name], options.scenario, cell, options.seconds, work, env)
                    results.setdefault((cell, name), []).append(row)
                    print(f"{cell} round {turn + 1} {name}: " + " ".join(f"{k}={v:.2f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    text = table(options.scenario, cells, results, limits)
    print(text)
    if options.write:
        write(options, text)


def write(options, text):
    path = os.path.join(HERE, "RESULTS.md")
    head = f"## {options.scenario}, {time.strftime('%Y-%m-%d')}"
    body = (f"{head}\n\n{os.cpu_count()} cores shared by generator, server and sink; {platform.system()} {platform.release()}; medians of "
            f"{options.rounds} interleaved runs of about {options.seconds:g} s.\n`./dev bench {' '.join(sys.argv[1:])}`\n\n{text}\n")
    old = open(path).read() if os.path.exists(path) else "# Results\n\nEvery table names the command that repeats it.\n"
    # A newer run of the same scenario replaces the older one.
    kept = [part for part in re.split(r"(?m)^(?=## )", old) if not part.startswith(f"## {options.scenario},")]
    open(path, "w").write("".join(kept).rstrip() + "\n\n" + body)


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    main()
