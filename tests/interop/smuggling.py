#!/usr/bin/env python3
"""The published corpus of smuggling attempts against the reference server, over TCP: what it says, and what it stores.

    tests/interop/smuggling.py target/release/smtpd

One string of each nine is sent in two writes, under three pairs of policies. Python's standard library only.
"""
import os
import subprocess
import sys

from peers import Server, main

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, os.pardir)
RUN = os.path.join(ROOT, "smtpd-core", "tests", "corpus", "run.py")
POLICIES = (("reject", "reject"), ("normalize", "strip"), ("pass", "pass"))


def check_all(checks, running, binary, scratch):
    for newline, nul in POLICIES:
        folder = os.path.join(scratch, newline)
        os.mkdir(folder)
        server = Server(running, binary, folder, "--listen", "127.0.0.1:0", "--bare-lf", newline, "--nul", nul,
                        log=("--log-level", "error"))
        checks("bare newlines: %s, NUL: %s" % (newline, nul), play, server, newline, nul)


def play(server, newline, nul):
    """Returns how many sessions there were; an error has the first faults."""
    address = "127.0.0.1:%d" % server.ports["smtp"]
    command = (sys.executable, RUN, address, "--newline", newline, "--nul", nul, "--maildir", server.maildir, "--every", "9")
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[:3000] + ended.stderr[-1000:]
    return ended.stdout.splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main(["python3"], check_all))
