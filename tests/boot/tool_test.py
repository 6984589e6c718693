#!/usr/bin/env python3
"""usage: tool_test.py OPENWHP CASE

The command around tiny guests: what its user's terminal, files and descriptors see. Exit status 1 if a case fails.
"""
import os
import pty
import subprocess
import sys
import tempfile
import time

LIMIT_SECONDS = 60
# mov dx, 3f8h; mov al, 'A'; out dx, al ...
PRINT = b"\xba\xf8\x03\xb0\x41\xee"
FOREVER = PRINT + b"\xeb\xfd"                      # ... and again
RESET = PRINT + b"\xb0\xfe\xe6\x64\xf4\xeb\xfd"    # ... then a reset by the keyboard controller
HALT = PRINT + b"\xf4"


def guest(folder, code):
    path = os.path.join(folder, "guest.bin")
    with open(path, "wb") as file:
        file.write(code)
    return ["--engine", "soft", "--flat", path + "@0x7c00"]


def quit_key(openwhp, folder):
    """Ctrl-A x ends a guest whose output nobody reads, also after another key."""
    master, terminal = pty.openpty()

    def own_terminal():
        import fcntl
        import termios
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    process = subprocess.Popen([openwhp, "run", *guest(folder, FOREVER)], stdin=terminal, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, preexec_fn=own_terminal)
    try:
        time.sleep(2)  # the pipe is full by then; if not, the case is only easier
        os.write(master, b"a")
        time.sleep(0.3)
        os.write(master, b"\x01x")
        process.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return "Ctrl-A x did nothing"
    finally:
        process.kill()
    return None


def serial_file(openwhp, folder):
    """The file of the serial port has the output from before all resets."""
    path = os.path.join(folder, "serial")
    subprocess.run([openwhp, "run", *guest(folder, RESET), "--serial", "file:" + path, "--timeout", "1"], stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LIMIT_SECONDS)
    with open(path, "rb") as file:
        text = file.read()
    if len(text) < 2 or set(text) != {ord("A")}:
        return f"{len(text)} bytes in the file: {text[:20]}"
    subprocess.run([openwhp, "run", *guest(folder, HALT), "--serial", "file:" + path, "--timeout", "1"], stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LIMIT_SECONDS)
    size = os.path.getsize(path)
    return None if size == 1 else f"a new run left {size} bytes instead of 1"


def closed_descriptors(openwhp, folder):
    """With standard output closed the guest's console does not become its disk."""
    disk = os.path.join(folder, "disk")
    with open(disk, "wb") as file:
        file.write(bytes(65536))
    subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", openwhp, "run", *guest(folder, HALT), "--disk", disk, "--timeout", "1"],
                   stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=LIMIT_SECONDS)
    with open(disk, "rb") as file:
        content = file.read()
    return None if content == bytes(65536) else f"the disk has changed: {len(content)} bytes"


def smallest_timeout(openwhp, folder):
    """A time limit that rounds to nothing is still a limit."""
    result = subprocess.run([openwhp, "run", *guest(folder, b"\xeb\xfe"), "--timeout", "1e-10"], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=LIMIT_SECONDS)
    return None if b"did not end in time" in result.stderr else f"status {result.returncode}: {result.stderr}"


CASES = {"quit_key": quit_key, "serial_file": serial_file, "closed_descriptors": closed_descriptors,
         "smallest_timeout": smallest_timeout}


def main():
    openwhp, name = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        failure = CASES[name](os.path.abspath(openwhp), folder)
    if failure:
        print(f"{name}: {failure}")
    return 1 if failure else 0


sys.exit(main())
