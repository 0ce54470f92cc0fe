"""SIGSTOP for longer than all timeouts, as when a machine is suspended or moved: a client that has sent something meanwhile is
answered and not timed out, one that was silent is told 421, and messages go on.
"""
import os
import signal
import time

from client import Client, message, number_of
from peers import Server

CLIENTS = 40
TIMEOUT = 2


def check(checks, running, args, scratch, random):
    checks("SIGSTOP for twice the timeout", pause, running, args, scratch)


def pause(running, args, scratch):
    options = ("--listen", "127.0.0.1:0", "--timeout", str(TIMEOUT))
    server = Server(running, args.binary, scratch, *options, log=("--log-level", "error"))
    port, content = server.ports["smtp"], [message(number) for number in range(CLIENTS)]
    silent, busy, sending = ([Client(port) for _ in range(CLIENTS)] for _ in range(3))
    for number, client in enumerate(sending):
        client.begin()
        client.send(content[number][:100])
    server.process.send_signal(signal.SIGSTOP)
    new = [Client(port, hello=False) for _ in range(CLIENTS)]
    for client in busy:
        client.send(b"NOOP\r\n")
    for number, client in enumerate(sending):
        client.send(content[number][100:] + b".\r\n")
    time.sleep(2 * TIMEOUT)
    server.process.send_signal(signal.SIGCONT)
    began = time.monotonic()
    for client in busy + sending:
        client.expect(250)
    for client in new:
        client.expect(220)
    for client in silent:
        client.expect(421)
        client.ends()
    took = time.monotonic() - began
    for client in busy + sending + new:
        client.close()
    stored = set()
    for name in server.stored():
        with open(os.path.join(server.maildir, "new", name), "rb") as file:
            stored.add(number_of(file.read()))
    assert stored == set(range(CLIENTS)), "%d of %d stored" % (len(stored), CLIENTS)
    server.end()
    return "%d answered, %d messages stored, %d greeted, %d silent ones told 421, within %.2f s" % (
        CLIENTS, CLIENTS, CLIENTS, CLIENTS, took)
