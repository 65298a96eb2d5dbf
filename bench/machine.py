"""What the machine tells: CPU time and memory of control groups, flushes of the disks, who else was at work."""
import os, re, signal, threading, time


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
        """Seconds."""
        if self.v2:
            return int(re.search(r"usage_usec (\d+)", open(self.folder + "/cpu.stat").read())[1]) / 1e6
        return int(open(self.folder + "/cpuacct.usage").read()) / 1e9

    def pids(self):
        return [int(pid) for pid in open(self.folder + "/cgroup.procs").read().split()]

    def memory(self):
        """Resident octets. Pages that several processes share count once; of a lone process the kernel knows the peak."""
        pids, total = self.pids(), 0
        for pid in pids:
            try:
                if len(pids) == 1:
                    found = re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{pid}/status").read())
                else:
                    found = re.search(r"(?m)^Pss:\s+(\d+)", open(f"/proc/{pid}/smaps_rollup").read())
                total += int(found[1]) * 1024 if found else 0
            except OSError:
                pass
        return total

    def end(self):
        """Ends what is left in the group: only what this run put there."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for _ in range(100):
                pids = self.pids()
                if not pids:
                    return
                for pid in pids:
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
                time.sleep(0.05)


class Memory(threading.Thread):
    """The peak of a group's resident memory while it runs."""

    def __init__(self, group):
        super().__init__(daemon=True)
        self.group, self.peak, self.over = group, 0, threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.7):
            self.peak = max(self.peak, self.group.memory())

    def stop(self):
        self.over.set()
        self.join()
        return max(self.peak, self.group.memory())


def flushes():
    """Cache flushes of all disks so far, where the kernel counts them."""
    return sum(int(f[18]) for f in (line.split() for line in open("/proc/diskstats")) if len(f) > 18)


def clock():
    """Seconds of CPU time so far: used by anybody (stolen time included), and there in all."""
    ticks = [int(field) for field in open("/proc/stat").readline().split()[1:9]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), sum(ticks) / os.sysconf("SC_CLK_TCK")
