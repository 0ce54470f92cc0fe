"""Clients use up all descriptors of the process: the server stays, does not spin, loses nothing that it acknowledges, and serves
again when they leave.
"""
import contextlib
import os
import resource
import time

from client import Client, message, number_of
from peers import Server, wait_for

DESCRIPTORS = 128
CLIENTS = 300


def check(checks, running, args, scratch, random):
    checks("%d descriptors for up to %d clients" % (DESCRIPTORS, CLIENTS), exhaust, running, args, scratch)


def exhaust(running, args, scratch):
    limit = (DESCRIPTORS, DESCRIPTORS)
    server = Server(running, args.binary, scratch, "--listen", "127.0.0.1:0", log=("--log-level", "error"),
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit))
    port = server.ports["smtp"]
    first = Client(port)
    # As many as the descriptors and the queue of the listener hold; further ones would wait for their connection.
    crowd = []
    with contextlib.suppress(TimeoutError):
        while len(crowd) < CLIENTS:
            crowd.append(Client(port, hello=False, timeout=1))
    assert len(crowd) > DESCRIPTORS, "only %d clients have come" % len(crowd)
    time.sleep(0.5)
    began = cpu(server)
    time.sleep(1)
    spent = cpu(server) - began
    assert spent < 0.25, "the server spins: %.2f s of CPU in 1 s" % spent
    used = len(os.listdir("/proc/%d/fd" % server.process.pid))
    code = first.deliver(message(0))
    assert code in (250, 451, 452), "a delivery is answered with %s" % code
    for client in crowd:
        client.close()
    wait_for("service", lambda: serves(port), 30)
    code_after = first.deliver(message(1))
    assert code_after == 250, code_after
    first.bye()
    stored = set()
    for name in server.stored():
        with open(os.path.join(server.maildir, "new", name), "rb") as file:
            stored.add(number_of(file.read()))
    assert stored - {2} == ({0, 1} if code == 250 else {1}), stored
    server.end()
    return "%d clients, %d descriptors used, %.2f s of CPU in a second, a delivery meanwhile %d" % (len(crowd), used, spent, code)


def serves(port):
    try:
        with Client(port, timeout=5) as client:
            return client.deliver(message(2)) == 250
    except (OSError, AssertionError):
        return False


def cpu(server):
    """The seconds of CPU that the process has used."""
    with open("/proc/%d/stat" % server.process.pid) as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
