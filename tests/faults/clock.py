"""The clock of the system jumps, within sessions too: they go on, and every message is stored."""
import os
import time

from client import Client, message, number_of
from peers import Server

LIBRARY = "/usr/lib/%s-linux-gnu/faketime/libfaketimeMT.so.1" % os.uname().machine
# A jump, and the year of the Received field afterwards, if it is fixed. Before the epoch, a time is negative.
JUMPS = (("+0", None), ("+400d", None), ("-400d", None), ("@2039-06-01 00:00:00", "2039"), ("@1999-06-01 00:00:00", "1999"),
         ("@1970-01-01 12:00:00", "1970"), ("@1969-06-01 00:00:00", None), ("+0", None))
ROUNDS = 5


def check(checks, running, args, scratch, random):
    if checks.need(LIBRARY, "a clock that jumps"):
        checks("a clock that jumps", jump, running, args, scratch, random)


def jump(running, args, scratch, random):
    clock = os.path.join(scratch, "clock")
    set_to(clock, "+0")
    # Timers are not to jump: the monotonic clock does not.
    environment = dict(os.environ, LD_PRELOAD=LIBRARY, FAKETIME_TIMESTAMP_FILE=clock, FAKETIME_NO_CACHE="1",
                       FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1")
    server = Server(running, args.binary, scratch, "--listen", "127.0.0.1:0", log=("--log-level", "info"), env=environment)
    port, number, years = server.ports["smtp"], 0, {}
    idle = Client(port)
    for jump, year in JUMPS + tuple(random.choices(JUMPS, k=ROUNDS)):
        with Client(port) as within:
            content = message(number)
            within.begin()
            within.send(content[:200])
            set_to(clock, jump)
            within.send(content[200:] + b".\r\n")
            within.expect(250)
            code = within.deliver(message(number + 1), chunks=True)
            assert code == 250, "after a jump to %s, the reply is %s" % (jump, code)
            within.bye()
        idle.command("NOOP", 250)
        years[number + 1] = year
        number += 2
    idle.bye()
    stored = {}
    for name in server.stored():
        with open(os.path.join(server.maildir, "new", name), "rb") as file:
            content = file.read()
        stored[number_of(content)] = content
    assert sorted(stored) == list(range(number)), "stored: %s" % sorted(stored)
    for at, year in years.items():
        # Otherwise the clock has not jumped at all.
        assert year is None or b" %s " % year.encode() in stored[at].split(b"\n\n")[0], (year, stored[at][:500])
    server.end()
    return "%d jumps, %d messages stored" % (len(years), number)


def set_to(clock, jump):
    with open(clock + ".new", "w") as file:
        file.write(jump + "\n")
    os.rename(clock + ".new", clock)
    time.sleep(0.01)
