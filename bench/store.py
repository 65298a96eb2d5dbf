#!/usr/bin/env python3
"""The store alone: 64 writers of 10 KiB, each message delivered 100 ms later, in turn with bare segments on the same disk.

  ./dev bench store [--rounds 3] [--seconds 10] [--writers 64] [--octets 10240] [--write]

Bare segments are bodies one after another in files whose space is there already, with one sync for all that wait: no
envelope, no checksum, no index. Their rate is what the disk allows. Octets written are counted where they are handed to
the file system. `./dev bench store` builds what it needs.
"""
import argparse, os, re, shutil, statistics, subprocess, sys, tempfile, time

import relay

KINDS = {"bare": "bare segments", "store": "Postrider's store"}
COLUMNS = [("messages/s", "messages/s", ",.0f"), ("CPU ms/message", "CPU ms/message", ".4f"), ("commit ms, p50", "commit ms p50", ".2f"),
           ("p99", "commit ms p99", ".2f"), ("octets written per octet stored", "written/stored", ".3f"),
           ("syncs/message", "syncs/message", ".4f")]


def measure(options, kind):
    """One run in a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="postrider-store-", dir=options.work) as folder:
        command = [options.example, kind, folder + "/store", str(options.seconds), str(options.writers), str(options.octets)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds + 120)
    if done.returncode:
        raise SystemExit(f"bench: {kind}: {done.stderr.strip()}")
    return {name: float(value) for name, value in re.findall(r"(?m)^(\S.*?) {2,}([\d.]+)$", done.stdout)}


def table(medians):
    lines = [f"| | {' | '.join(head for head, _, _ in COLUMNS)} | ÷ bare |", "|---" * (len(COLUMNS) + 2) + "|"]
    for kind, name in KINDS.items():
        row = medians[kind]
        cells = [format(row[key], shape) for _, key, shape in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['messages/s'] / medians['bare']['messages/s']:.2f} |")
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(prog="./dev bench store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn (default: 3)")
    parser.add_argument("--seconds", type=int, default=10, help="how long a run takes (default: 10)")
    parser.add_argument("--writers", type=int, default=64, help="commits that wait at once (default: 64)")
    parser.add_argument("--octets", type=int, default=10 << 10, help="of each message (default: 10240)")
    parser.add_argument("--work", help="a folder on the disk to measure (default: that of temporary files)")
    parser.add_argument("--write", action="store_true", help="put the table into bench/")
    options = parser.parse_args()
    options.example = os.environ.get("POSTRIDER_THROUGHPUT", "target/release/examples/throughput")
    if min(options.rounds, options.seconds, options.writers, options.octets) < 1:
        parser.error("there must be something to measure")
    return options


def main():
    options = parse()
    runs = {kind: [] for kind in KINDS}
    for turn in range(options.rounds):
        for kind in KINDS:
            runs[kind].append(measure(options, kind))
            print(f"{turn + 1}/{options.rounds} {KINDS[kind]}: {runs[kind][-1]['messages/s']:,.0f}/s", flush=True)
    medians = {kind: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for kind, rows in runs.items()}
    print(table(medians))
    if options.write:
        command = f"./dev bench {' '.join(['store', *sys.argv[1:]])}"
        relay.replace_section("store", f"{time.strftime('%Y-%m-%d')}, `{command}`. {relay.machine(options.work)} Medians of {options.rounds} runs in turn, "
                              f"{options.writers} writers, {options.octets:,} octets each.\n\n{table(medians)}\n")


if __name__ == "__main__":
    main()
