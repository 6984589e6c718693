#!/usr/bin/env python3
"""Boots Debian's cloud kernel to the demo's greeting on each engine, in turn, and prints medians and their ratios.

usage: measure.py [--engines soft,qemu-tcg] [--runs N] [--openwhp FILE] [--guest FOLDER] [--json FILE]

  boot    CPU and wall time of the process from its start to the line of the greeting
  memory  what the process holds resident at the greeting besides guest RAM (mappings of half its size and more)
  idle    CPU time that a guest whose only process sleeps costs over ten seconds, as a part of one core

soft and kvm run `openwhp run`; qemu-tcg needs qemu-system-x86_64. ./demo has to have run once: it fetches the kernel.
Times are only worth something as ratios of one call, on a machine that does nothing else.
"""
import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
GREETING = b"Hello from a Linux userland"
MEMORY_MIB = 512
SETTLE_SECONDS, IDLE_SECONDS, LIMIT_SECONDS = 5, 10, 300


def command(engine, options, mode):
    files = [f"{options.guest}/vmlinuz", options.initramfs, f"console=ttyS0 panic=-1 demo={mode}"]
    if engine == "qemu-tcg":
        kernel, initrd, append = files
        return ["qemu-system-x86_64", "-accel", "tcg", "-m", str(MEMORY_MIB), "-kernel", kernel, "-initrd", initrd, "-append",
                append, "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nodefaults"]
    kernel, initrd, append = files
    return [options.openwhp, "run", "--engine", engine, "--memory", f"{MEMORY_MIB}M", "--kernel", kernel, "--initrd", initrd,
            "--append", append, "--no-reboot"]


def cpu_seconds(process):
    """CPU time of all threads of a running process: the clock that its id stands for."""
    return time.clock_gettime(((~process.pid) << 3) | 2)


def resident_beyond_guest(process):
    """Resident bytes of all mappings that are too small to be guest RAM."""
    total, large = 0, False
    with open(f"/proc/{process.pid}/smaps", encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            first = line.split(None, 1)[0]
            if "-" in first and not first.endswith(":"):
                start, end = (int(part, 16) for part in first.split("-"))
                large = end - start >= MEMORY_MIB << 19
            elif first == "Rss:" and not large:
                total += int(line.split()[1]) << 10
    return total


class Boot:
    """A guest that boots; a context manager, so that none is left behind."""

    def __init__(self, engine, options, mode):
        self.start = time.monotonic()
        self.process = subprocess.Popen(command(engine, options, mode), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def reach_greeting(self):
        """(CPU seconds, wall seconds); ends the program with what the guest said if it does not get there."""
        text, descriptor = b"", self.process.stdout.fileno()
        while GREETING not in text:
            left = self.start + LIMIT_SECONDS - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                sys.exit(f"no greeting after {LIMIT_SECONDS} s; the end of what was said:\n{text[-800:].decode(errors='replace')}")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                sys.exit(f"ended before the greeting:\n{text[-800:].decode(errors='replace')}")
            text += chunk
        return cpu_seconds(self.process), time.monotonic() - self.start


def measure_boot(engine, options):
    with Boot(engine, options, "idle") as boot:
        cpu, wall = boot.reach_greeting()
        return {"cpu": cpu, "wall": wall, "memory": resident_beyond_guest(boot.process)}


def measure_idle(engine, options):
    with Boot(engine, options, "idle") as boot:
        boot.reach_greeting()
        time.sleep(SETTLE_SECONDS)
        before, start = cpu_seconds(boot.process), time.monotonic()
        time.sleep(IDLE_SECONDS)
        return (cpu_seconds(boot.process) - before) / (time.monotonic() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="soft,qemu-tcg")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--openwhp", default=f"{ROOT}/build/tools/openwhp/openwhp")
    parser.add_argument("--guest", default=f"{ROOT}/build/guest")
    parser.add_argument("--json")
    options = parser.parse_args()
    engines = options.engines.split(",")
    if not os.path.exists(f"{options.guest}/vmlinuz"):
        sys.exit("there is no kernel yet; run ./demo once")
    with tempfile.TemporaryDirectory() as folder:
        options.initramfs = f"{folder}/initramfs"
        subprocess.run([f"{ROOT}/scripts/make-initramfs", options.initramfs, f"{options.guest}/busybox",
                        f"{ROOT}/scripts/demo-init"], check=True)
        runs = {engine: [] for engine in engines}
        for _ in range(options.runs):
            for engine in engines:
                runs[engine].append(measure_boot(engine, options))
        idle = {engine: measure_idle(engine, options) for engine in engines}
    table = {}
    for engine in engines:
        row = {key: statistics.median(run[key] for run in runs[engine]) for key in ("cpu", "wall", "memory")}
        row["idle"] = idle[engine]
        table[engine] = row
        print(f"{engine:9} boot {row['cpu']:6.2f} s CPU, {row['wall']:6.2f} s wall   memory beyond guest RAM "
              f"{row['memory'] / (1 << 20):6.1f} MiB   idle {100 * row['idle']:5.2f} % of a core")
    if "qemu-tcg" in table:
        for engine in engines:
            if engine != "qemu-tcg":
                ratio = {key: table[engine][key] / table["qemu-tcg"][key] for key in ("cpu", "wall")}
                print(f"{engine} / qemu-tcg: {ratio['cpu']:.2f} CPU, {ratio['wall']:.2f} wall")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"medians": table, "runs": runs}, file, indent=1)


main()
