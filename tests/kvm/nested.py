#!/usr/bin/env python3
"""Boots the guest of scripts/check-nested-kvm and brings out what the tests in it say; that script says the rest."""
import argparse
import ctypes
import json
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.realpath(f"{os.path.dirname(os.path.abspath(__file__))}/../..")
GUEST = f"{ROOT}/build/guest-kvm"
INSIDE = "/openwhp"  # the source tree's place in the guest
MODULES = ["irqbypass", "kvm", "kvm-amd"]

# Repetitions are divided by this, too: a virtual machine takes a fifth of a second to come and go, a memory slot milliseconds; and
# processors that wait for one another on one processor need a slice of time each time.
SHORTER = {"kvm leak": 5, "kvm memory limits": 10, "kvm faults": 4, "kvm threads code": 10, "kvm threads lock": 4, "kvm threads litmus": 10,
           "kvm threads ipi": 10, "kvm threads apic": 10}
# On one processor of the guest. QEMU's translator does not fetch code atomically against the stores of another processor, and may
# keep what it has made of the old; that is what this test looks at.
ONE_PROCESSOR = ["kvm threads code"]


def options():
    parser = argparse.ArgumentParser(add_help=False, usage="scripts/check-nested-kvm [OPTION...]; --help says more")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--limit", type=int, default=600)
    parser.add_argument("--total", type=int, default=3600)
    parser.add_argument("--shorter", type=int, default=10)
    parser.add_argument("--append", default="")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--cpu", default="max")
    parser.add_argument("--build", default="build")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


# ---- what goes in ----

def inside(path):
    return INSIDE + path[len(ROOT):] if path.startswith(ROOT + "/") or path == ROOT else path


def tests_of_suite(build):
    """Meson's suite kvm: names, commands and environments."""
    every = json.loads(subprocess.run(["meson", "introspect", build, "--tests"], check=True, stdout=subprocess.PIPE).stdout)
    return [test for test in every if "kvm" in (suite.split(":")[-1] for suite in test["suite"])]


def libraries(program):
    done = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return [os.path.normpath(path) for path in re.findall(r"(?:=> |^\s*)(/\S+) \(", done.stdout, re.M)]


def files_of(build, test, files):
    """Adds to `files` (path in the guest: file) what the test's command and environment name, and the libraries of programs."""
    for word in test["cmd"] + list(test["env"].values()):
        path = os.path.normpath(os.path.join(build, word))
        if not os.path.isfile(path) or inside(path) in files:
            continue
        files[inside(path)] = path
        for library in libraries(path):
            files.setdefault(inside(library), library)
            beside = f"{os.path.dirname(library)}/libgcc_s.so.1"  # pthread_cancel loads it
            if os.path.isfile(beside):
                files.setdefault(beside, beside)


def is_pinned(test, arguments):
    return arguments.cpus > 1 and test["name"] in ONE_PROCESSOR


def command_of(build, test, arguments):
    words = [f"{name}={inside(value)}" for name, value in test["env"].items() if name != "LD_LIBRARY_PATH"]
    words.append(f"OPENWHP_TEST_SHORTER={arguments.shorter * SHORTER.get(test['name'], 1)}")
    pinned = ["taskset", "1"] if is_pinned(test, arguments) else []
    return " ".join(shlex.quote(word) for word in ["env", *words, *pinned, *map(inside, test["cmd"])])


def boots(build, arguments):
    """As tests: Linux in the command, on the kvm engine."""
    def test(name, cpus, mode, init, *programs):
        initramfs = f"{GUEST}/{mode}"
        subprocess.run([f"{ROOT}/scripts/make-initramfs", initramfs, f"{GUEST}/busybox", f"{ROOT}/{init}",
                        *(f"{os.path.basename(program)}={program}" for program in programs)], check=True)
        return {"name": name, "env": {},
                "cmd": [f"{ROOT}/tests/kvm/nested-boot", f"{build}/tools/openwhp/openwhp", f"{GUEST}/vmlinuz", str(arguments.limit),
                        str(cpus), mode, initramfs, *programs]}

    all_of_them = [test("boot linux, 1 processor", 1, "greeting", "scripts/demo-init"),
                   test("boot linux, 2 processors", 2, "greeting", "scripts/demo-init")]
    if os.path.exists(f"{build}/tests/boot/workload"):  # the C library may have no static form
        all_of_them.append(test("boot linux, work", 1, "work", "tests/boot/workload-init", f"{ROOT}/tests/boot/workload.sh",
                                f"{build}/tests/boot/workload"))
    return all_of_them


def make_initramfs(build, tests, arguments, folder):
    files = {f"/modules/{name}.ko": f"{GUEST}/{name}.ko" for name in MODULES}
    for test in tests:
        files_of(build, test, files)
    lines = [f"{test['name']}\t{arguments.limit}\t{command_of(build, test, arguments)}\n" for test in tests]
    for name, text in [("build", inside(build) + "\n"), ("tests", "".join(lines))]:
        with open(f"{folder}/{name}", "w") as file:
            file.write(text)
        files[f"/{name}"] = f"{folder}/{name}"
    subprocess.run([f"{ROOT}/scripts/make-initramfs", f"{folder}/initramfs", f"{GUEST}/busybox", f"{ROOT}/tests/kvm/nested-init",
                    *(f"{name}={path}" for name, path in files.items())], check=True)


# ---- what comes out ----

class Progress:
    """A line that says what runs now, where there is a terminal."""

    def __init__(self):
        self.begin, self.now, self.terminal = time.time(), "the guest boots", sys.stdout.isatty()

    def show(self):
        if self.terminal:
            print(f"\r\033[K{time.time() - self.begin:5.0f} s  {self.now}", end="", flush=True)

    def say(self, text):
        print(("\r\033[K" if self.terminal else "") + text, flush=True)


class Report:
    def __init__(self, tests, arguments):
        self.count, self.verbose, self.progress = len(tests), arguments.verbose, Progress()
        self.pinned = [test["name"] for test in tests if is_pinned(test, arguments)]
        self.passed, self.failed, self.skipped, self.cases, self.cases_skipped = [], [], [], 0, 0
        self.name, self.begun, self.output, self.over, self.refusal = "", 0, [], False, None

    def line(self, line):
        word, _, rest = line.partition(" ")
        if word == "@ready":
            self.progress.say(f"the guest is up: Linux {rest}")
        elif word == "@no-kvm":
            self.refusal = rest or "no word from the kernel"
        elif word == "@begin":
            self.progress.now, self.name, self.begun, self.output = rest, rest, time.time(), []
        elif word == "@end":
            self.end(rest)
        elif word == "@over":
            self.over = True
        elif line:
            self.output.append(line)
            if self.verbose:
                self.progress.say("        " + line)
            case = re.match(r"\[ RUN      \] (\S+)", line)
            self.progress.now = f"{self.name}, {case.group(1)}" if case else self.progress.now

    def remarks(self):
        """What was not done, or less often: cases that were skipped with their reasons, and repetitions left out."""
        case, found = self.name, []
        for line in self.output:
            begun = re.match(r"\[ RUN      \] (\S+)", line)
            case = begun.group(1) if begun else case
            if line.startswith(("SKIPPED", "SHORTER")):
                found.append(f"{case}: {line}")
        return found

    def end(self, rest):
        name, status, limit = re.fullmatch(r"(.*) (\d+) ?(\w*)", rest).groups()
        results, verdict = {"0": (self.passed, "passed"), "77": (self.skipped, "skipped")}.get(status, (self.failed, "FAILED"))
        results.append(name)
        cases = sum(int(n) for n in re.findall(r"\[  PASSED  \] (\d+) test", "\n".join(self.output)))
        remarks = self.remarks()
        self.cases += cases
        self.cases_skipped += sum("SKIPPED" in remark for remark in remarks)
        reason = "" if verdict != "FAILED" else ": stopped, over its limit" if limit else f": exit status {status}"
        reason += ", on one processor" if name in self.pinned else ""
        done = len(self.passed) + len(self.failed) + len(self.skipped)
        self.progress.say(f"{done:3}/{self.count}  {verdict}  {name}  {time.time() - self.begun:.0f} s{reason}")
        shown = [] if self.verbose else self.output if verdict != "passed" else remarks
        if shown:
            print("\n".join("        " + text for text in shown), flush=True)
        self.progress.now = "the next test"

    def summary(self, why):
        """Exit status."""
        if why:
            print(f"check-nested-kvm: {why}")
            if not self.verbose:
                print("\n".join("        " + text for text in self.output[-50:]))
            missing = self.count - len(self.passed) - len(self.failed) - len(self.skipped)
            self.failed += [f"{missing} more not run"] * missing
        print(f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped, after "
              f"{time.time() - self.progress.begin:.0f} s ({self.cases} cases passed, {self.cases_skipped} skipped)")
        return 1 if self.failed or why else 0


def die_with_us():
    """In QEMU's process: whatever ends this program, SIGKILL too, ends QEMU (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def end_by_signal(number, _frame):
    """As an exception, so that the guest is ended and the folder removed."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(f"check-nested-kvm: ended by {signal.Signals(number).name}")


def boot(arguments, folder):
    memory = 2048
    command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", arguments.cpu, "-smp", str(arguments.cpus),
               "-m", str(memory), "-kernel", f"{GUEST}/vmlinuz", "-initrd", f"{folder}/initramfs",
               "-append", "console=ttyS0 panic=-1 loglevel=4 cryptomgr.notests mitigations=off rcupdate.rcu_expedited=1 " +
               arguments.append, "-no-reboot", "-nodefaults",
               "-display", "none", "-serial", f"file:{folder}/console", "-serial", "stdio"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            preexec_fn=die_with_us)


def lines_until_end(guest, report, limit):
    """Feeds the report. None, or why it did not come to the end."""
    end, rest = time.time() + limit, b""
    with selectors.DefaultSelector() as selector:
        selector.register(guest.stdout, selectors.EVENT_READ)
        while not report.over:
            if time.time() > end:
                return f"over the limit of {limit} s; {report.progress.now} was running"
            report.progress.show()
            if not selector.select(1):
                continue
            data = os.read(guest.stdout.fileno(), 65536)
            if not data:
                return "the guest ended before its time"
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                report.line(line.decode("latin1").rstrip("\r"))
            if report.refusal:
                return f"no KVM in the guest: {report.refusal}"
    return None


def main():
    arguments = options()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end_by_signal)
    build = os.path.realpath(f"{ROOT}/{arguments.build}")
    with tempfile.TemporaryDirectory() as folder:
        tests = [test for test in tests_of_suite(build) + boots(build, arguments)
                 if not arguments.only or any(text in test["name"] for text in arguments.only)] * arguments.repeat
        if not tests:
            sys.exit("check-nested-kvm: no such test")
        make_initramfs(build, tests, arguments, folder)
        report = Report(tests, arguments)
        guest = boot(arguments, folder)
        try:
            why = lines_until_end(guest, report, arguments.total)
            report.progress.say("")
        finally:
            guest.kill()
            guest.wait()
        if why and os.path.exists(f"{folder}/console"):
            with open(f"{folder}/console", encoding="latin1") as console:
                print("---- the end of the guest's console\n" + console.read()[-3000:])
    sys.exit(report.summary(why))


main()
