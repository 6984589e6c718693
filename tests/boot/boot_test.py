#!/usr/bin/env python3
"""usage: boot_test.py OPENWHP SOURCE_ROOT GUEST_FOLDER CASE [WORKLOAD]

Boots whole guests with the command openwhp. GUEST_FOLDER holds vmlinuz and busybox (scripts/fetch-guest makes it); WORKLOAD
is the program built from workload.c. Exit status 77, with the reason, when what a case needs is not on this machine.
"""
import json
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time

OPENWHP, ROOT, GUEST, CASE = sys.argv[1:5]
WORKLOAD = sys.argv[5] if len(sys.argv) > 5 else None
LIMIT = 240 * int(os.environ.get("OWHP_TIME_FACTOR", "1"))  # seconds; a hang, not a speed
SEABIOS = "/usr/share/seabios/bios-256k.bin"
GREETING = "Hello from a Linux userland."


def skip(why):
    print(f"SKIPPED: {why}")
    sys.exit(77)


def need(condition, what, output=""):
    if not condition:
        print(f"FAILED {CASE}: {what}\n---- the end of the output ----\n{output[-3000:]}")
        sys.exit(1)


def linux(mode, folder, init="scripts/demo-init", programs=()):
    for name in ("vmlinuz", "busybox"):
        if not os.path.exists(f"{GUEST}/{name}"):
            skip(f"no {GUEST}/{name}; scripts/fetch-guest {GUEST} fetches it")
    initramfs = f"{folder}/initramfs"
    subprocess.run([f"{ROOT}/scripts/make-initramfs", initramfs, f"{GUEST}/busybox", f"{ROOT}/{init}", *programs], check=True)
    return [OPENWHP, "run", "--kernel", f"{GUEST}/vmlinuz", "--initrd", initramfs, "--memory", "256M",
            "--append", f"console=ttyS0 panic=-1 loglevel=4 cryptomgr.notests demo={mode}"]


def run(command, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=LIMIT, **options)
    return done.returncode, done.stdout.decode("latin1")


def boots_to_power_off(folder, processors):
    code, output = run(linux("greeting", folder) + ["--cpus", str(processors), "--report", "map,exits,dirty,json"])
    need(GREETING in output, "the userland did not greet", output)
    need(f"virtual processor, {processors} of them" in output, f"not {processors} processors", output)
    need(code == 0, f"exit status {code}, not 0", output)
    report = output[output.rindex("\n{"):]
    need(isinstance(json.loads(report), dict), "the report is not JSON", output)


def works_like_the_host(folder, processors):
    """Compressors, hashes, floating point, processes, threads, signals: the guest prints what the host prints."""
    if not WORKLOAD:
        skip("no workload; the C library has no static form here (libc6-dev)")
    script = f"{ROOT}/tests/boot/workload.sh"
    command = linux("work", folder, "tests/boot/workload-init", [f"workload={WORKLOAD}", f"workload.sh={script}"])
    status, expected = run([f"{GUEST}/busybox", "sh", script, f"{GUEST}/busybox", WORKLOAD])
    need(status == 0 and len(expected.split("\n")) > 20, "the host could not do the work", expected)
    code, output = run(command + ["--cpus", str(processors)])
    output = output.replace("\r", "")
    need(code == 0, f"exit status {code}, not 0", output)
    need(f"processors {processors}\n" in output, f"not {processors} processors", output)
    need("---- work\n" in output and "---- done\n" in output, "the work was not finished", output)
    got = output.split("---- work\n")[1].split("---- done\n")[0]
    for mine, theirs in zip(expected.split("\n"), got.split("\n") + [""]):
        need(mine == theirs, f"the host says {mine!r}, the guest {theirs!r}", output)


def shell_on_a_terminal(folder):
    """Types commands like a person, asks for help, leaves the shell; the machine powers off."""
    command = linux("shell", folder)
    child, terminal = pty.fork()
    if child == 0:
        os.execv(command[0], command)
    steps = [("/ # ", b"echo $((6*7)) is the answer\n"), ("42 is the answer", b"\x01h"), ("Ctrl-A x", b"exit\n")]
    output, seen, end = "", 0, time.time() + LIMIT
    while time.time() < end:
        if select.select([terminal], [], [], 1)[0]:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            output += data.decode("latin1")
        if steps and steps[0][0] in output[seen:]:
            seen = len(output)
            os.write(terminal, steps.pop(0)[1])
    need(not steps, f"no answer with {steps[0][0]!r}" if steps else "", output)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    need(code == 0, f"exit status {code}, not 0", output)


def seabios(folder):
    """SeaBIOS finds a disk and boots it: the boot sector says so on the debug console and ends the machine."""
    if not os.path.exists(SEABIOS):
        skip(f"no {SEABIOS}; it is in the package seabios")
    text = b"booted from disk\n"
    # mov si, text / next: lodsb / test al, al / jz end / out 0xe9, al / jmp next / end: mov al, 0x21 / out 0xf4, al / hlt
    code = bytes.fromhex("31c08ed8fc") + b"\xbe\x00\x7d" + bytes.fromhex("ac84c07404e6e9ebf7b021e6f4f4")
    sector = code.ljust(0x100, b"\0") + text + b"\0"
    disk = f"{folder}/disk.img"
    with open(disk, "wb") as image:
        image.write(sector.ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    status, output = run([OPENWHP, "run", "--bios", SEABIOS, "--disk", disk, "--memory", "64M", "--serial", "none",
                          "--debugcon", "stdio", "--timeout", str(LIMIT // 2)])
    need("SeaBIOS (version" in output, "SeaBIOS does not say its version", output)
    need("booted from disk" in output, "the boot sector did not run", output)
    need(status == (0x21 << 1 | 1), f"exit status {status}, not {0x21 << 1 | 1}", output)


def run_until(pattern, command):
    """What it prints up to there, or until it ends by itself or by its time limit; then it is stopped."""
    machine = subprocess.Popen(command + ["--timeout", str(LIMIT)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    output = ""
    while not re.search(pattern, output):
        data = os.read(machine.stdout.fileno(), 4096)
        if not data:
            break
        output += data.decode("latin1")
    machine.terminate()
    machine.wait()
    return output


def memtest(image, processors):
    """memtest86+ goes through its first tests and finds nothing wrong. It never ends by itself."""
    kernel = f"{GUEST}/{image}"
    if not os.path.exists(kernel):
        skip(f"no {kernel}; scripts/fetch-guest fetches it into an empty folder where Debian has memtest86+")
    third_test = r"#[3-9]  "
    output = run_until(third_test, [OPENWHP, "run", "--kernel", kernel, "--append", "console=ttyS0,115200 smp",
                                    "--cpus", str(processors), "--memory", "24M"])
    need(re.search(third_test, output), "it did not come to its test #3", output)
    need(re.findall(r"Errors: +([0-9]+)", output) and not re.search(r"Errors: +[1-9]", output), "it found errors", output)
    need(f"{processors} Cores" in output, f"not {processors} processors", output)


def xen(folder):
    """The Xen hypervisor starts Linux as its first domain, in ring 3; its init halts the machine."""
    if not os.path.exists(f"{GUEST}/xen"):
        skip(f"no {GUEST}/xen; scripts/fetch-guest fetches it into an empty folder where Debian has Xen 4.17")
    initramfs = linux("greeting", folder)[5]
    output = run_until("halting machine", [
        OPENWHP, "run", "--kernel", f"{GUEST}/xen", "--append", "no-real-mode com1=115200,8n1 console=com1", "--memory", "512M",
        "--initrd", f"{GUEST}/vmlinuz console=hvc0 earlyprintk=xen cryptomgr.notests,{initramfs}"])
    need("(XEN) Brought up 1 CPUs" in output, "Xen did not come up", output)
    need("Run /init as init process" in output, "no userland", output)
    need("Dom0 halted: halting machine" in output, "Xen did not halt", output)


def bad_input(folder):
    """One line that says what, where and what to do; exit status 1."""
    empty, short = f"{folder}/empty", f"{folder}/short"
    open(empty, "wb").close()
    with open(short, "wb") as file:
        file.write(b"MZ" + bytes(600))
    good = ["--memory", "16M"]
    cases = [good, good + ["--kernel", "/nowhere"], good + ["--kernel", empty], good + ["--kernel", short], good + ["--kernel", folder],
             good + ["--bios", "/nowhere"], good + ["--bios", empty], good + ["--flat", empty], good + ["--flat", f"{short}@zz"],
             good + ["--flat", f"{short}@fffffffffffff000"], ["--memory", "0", "--bios", short], ["--memory", "lots", "--bios", short],
             ["--memory", "1E", "--bios", short], ["--cpus", "0", "--bios", short], ["--cpus", "1000", "--bios", short],
             ["--engine", "none", "--bios", short], good + ["--disk", "/nowhere", "--bios", short], ["--no-such-option"]]
    for arguments in cases:
        status, output = run([OPENWHP, "run"] + arguments + ["--timeout", "5"])
        lines = output.strip().split("\n")
        need(status == 1 and len(lines) == 1 and lines[0].startswith("openwhp: "), f"{arguments}: status {status}", output)
    status, output = run([OPENWHP, "run", "--help"])
    need(status == 0 and output.startswith("usage: "), f"--help: status {status}", output)


with tempfile.TemporaryDirectory() as temporary:
    {"linux": lambda f: boots_to_power_off(f, 1), "linux_smp": lambda f: boots_to_power_off(f, 2),
     "linux_4": lambda f: boots_to_power_off(f, 4), "work_1": lambda f: works_like_the_host(f, 1),
     "work_2": lambda f: works_like_the_host(f, 2), "work_4": lambda f: works_like_the_host(f, 4), "shell": shell_on_a_terminal,
     "memtest_64": lambda f: memtest("memtest64", 2), "memtest_32": lambda f: memtest("memtest32", 1),
     "xen": xen, "seabios": seabios, "bad_input": bad_input}[CASE](temporary)
print(f"{CASE}: as it should be")
