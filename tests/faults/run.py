#!/usr/bin/env python3
"""What real faults do to the reference server: signals, full disks, lost clients, wrong clocks.

    tests/faults/run.py target/release/smtpd [--seed N] [--kills N] [NAME...]

Each name is a script beside this one; without names all are run. Each prints a line with its figures, and the seed that repeats
it. The status is 1 if a check has failed, and 77 if none has but some could not be run, for example without the right to mount.
Where a program is missing, it is skipped, or fails where REQUIRE_PEERS is set. Python's standard library only.
"""
import argparse
import contextlib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "interop"))

from peers import Checks, Server  # noqa: E402 - the path has to be known

NAMES = ("kill", "stop", "storage", "descriptors", "logs", "clock", "reload", "pause", "disconnect")
# The run ends after so many seconds, with a failure.
LIMIT = 290


class Faults(Checks):
    """Measures how long each check takes, and counts what could not be run."""

    def __init__(self):
        super().__init__()
        self.not_run = []

    def __call__(self, what, function, *args):
        def timed():
            began = time.monotonic()
            note = function(*args)
            return "%s%.1f s" % (note + ", " if note else "", time.monotonic() - began)

        super().__call__(what, timed)

    def skip(self, what, why):
        self.not_run.append(what)
        print("not run %s: %s" % (what, why), flush=True)

    def need(self, file, what):
        """Whether a program or a library is there. Where it must be, its absence is a failure."""
        if shutil.which(file) or os.path.exists(file):
            return True
        if os.environ.get("REQUIRE_PEERS"):
            self.failed += 1
            print("FAILED  %s: %s is not installed" % (what, file), flush=True)
        else:
            self.skip(what, "%s is not installed" % file)
        return False


def over(*_):
    print("FAILED  not over after %d seconds" % LIMIT, flush=True)
    sys.exit(1)


def run(name, checks, args):
    """Runs a script in a folder of its own."""
    with contextlib.ExitStack() as running:
        scratch = tempfile.mkdtemp(prefix="smtpd-%s-" % name, dir="/tmp")
        running.callback(shutil.rmtree, scratch, ignore_errors=True)
        Server.started.clear()
        importlib.import_module(name).check(checks, running, args, scratch, random.Random("%s %s" % (name, args.seed)))
        for server in Server.started:
            if server.process.poll() is None:
                checks("%s: the end of the server" % name, server.end)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of " + ", ".join(NAMES))
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--kills", type=int, default=200)
    args = parser.parse_intermixed_args()
    args.binary = os.path.abspath(args.binary)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGALRM, over)
    signal.alarm(LIMIT)
    print("seed %d" % args.seed)
    checks = Faults()
    for name in args.names or NAMES:
        run(name, checks, args)
    status = checks.end()
    if checks.not_run:
        print("not run: %s" % ", ".join(checks.not_run))
    return status or (77 if checks.not_run else 0)


if __name__ == "__main__":
    sys.exit(main())
