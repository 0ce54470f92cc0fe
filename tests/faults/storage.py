"""A Maildir that cannot be written to: its disk is full or read-only, or it is removed. Each message is deferred, or stored as a
whole, and when the disk is well again, so is the server.
"""
import os
import shutil
import subprocess

from client import Client, message, number_of
from peers import Server, wait_for

MESSAGE = 5000
MEGABYTE = 1 << 20


def check(checks, running, args, scratch, random):
    # The log stays elsewhere.
    disk = os.path.join(scratch, "mail")
    os.mkdir(disk)
    if mounts(running, disk):
        server = start(running, args, scratch)
        checks("a full disk", full, server, disk)
        checks("a read-only disk", read_only, server, disk)
    else:
        checks.skip("a full disk and a read-only disk", "this system does not allow to mount")
    other = os.path.join(scratch, "other")
    os.mkdir(other)
    checks("a Maildir that is removed", removed, start(running, args, other), random)


def start(running, args, scratch):
    options = ("--listen", "127.0.0.1:0", "--max-size", str(MEGABYTE))
    return Server(running, args.binary, scratch, *options, log=("--log-level", "warn"))


def mounts(running, disk):
    # Larger than what any server wants to keep free.
    command = ("mount", "-t", "tmpfs", "-o", "size=192m", "none", disk)
    if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        return False
    running.callback(subprocess.run, ("umount", "--lazy", disk))
    return True


def delivered(server, number):
    """The code for a message."""
    with Client(server.ports["smtp"]) as client:
        return client.deliver(message(number, MESSAGE))


def is_well(server, number):
    """Delivers a message, within the time that a server needs to see that it can again."""
    wait_for("a delivery", lambda: delivered(server, number) == 250)


def contents(server):
    """The numbers of what is stored, and nothing half."""
    numbers = set()
    for name in server.stored():
        with open(os.path.join(server.maildir, "new", name), "rb") as file:
            numbers.add(number_of(file.read()))
    return numbers


def check_contents(server, acknowledged):
    stored = contents(server)
    assert stored == acknowledged, "acknowledged %s, stored %s" % (sorted(acknowledged), sorted(stored))
    left = os.listdir(os.path.join(server.maildir, "tmp"))
    assert not left, "%d files are left in tmp/" % len(left)


def full(server, disk):
    acknowledged = {0}
    is_well(server, 0)
    ballast = os.path.join(disk, "ballast")
    with open(ballast, "wb") as file:
        space = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - MEGABYTE)
    codes = {}
    for number in range(1, 31):
        codes[number] = delivered(server, number)
    acknowledged |= {number for number, code in codes.items() if code == 250}
    refused = {code for code in codes.values() if code != 250}
    assert refused == {452}, "a full disk is answered with %s" % refused
    server.logged("level=(error|warn)")
    check_contents(server, acknowledged)
    os.unlink(ballast)
    is_well(server, 31)
    check_contents(server, acknowledged | {31})
    return "%d stored, then %d refused with 452, 0 in part" % (len(acknowledged), 31 - len(acknowledged))


def read_only(server, disk):
    before = contents(server)
    subprocess.run(("mount", "-o", "remount,ro", disk), check=True)
    try:
        codes = {delivered(server, number) for number in range(100, 110)}
    finally:
        subprocess.run(("mount", "-o", "remount,rw", disk), check=True)
    assert all(400 <= code < 500 for code in codes), "refused with %s" % codes
    is_well(server, 110)
    check_contents(server, before | {110})
    return "10 refused with %s" % " or ".join(map(str, sorted(codes)))


def removed(server, random):
    """Whatever the server does, it acknowledges only what is there; with the folders back it delivers."""
    is_well(server, 200)
    with Client(server.ports["smtp"]) as client:
        client.begin()
        client.send(message(201, MESSAGE)[:random.randrange(1, 100_000)])
        shutil.rmtree(server.maildir)
        codes = {number: delivered(server, number) for number in range(202, 207)}
        stored = contents(server) if os.path.isdir(os.path.join(server.maildir, "new")) else set()
        for number, code in codes.items():
            assert (code == 250 and number in stored) or 400 <= code < 500, "%d: %d" % (number, code)
        for folder in ("tmp", "new", "cur"):
            os.makedirs(os.path.join(server.maildir, folder), exist_ok=True)
        is_well(server, 207)
    acknowledged = {number for number, code in codes.items() if code == 250} | {207}
    assert contents(server) == acknowledged, contents(server)
    return "%d refused, %d stored anew" % (len(codes) + 1 - len(acknowledged), len(acknowledged) - 1)
