"""Clients that leave in the middle of a message: nothing of it is stored, tmp/ is empty, and their sessions end."""
import os

from client import Client, message
from peers import Server, read, wait_for

CLIENTS = 300


def check(checks, running, args, scratch, random):
    checks("%d clients that leave within a message" % CLIENTS, leave, running, args, scratch, random)


def leave(running, args, scratch, random):
    server = Server(running, args.binary, scratch, "--listen", "127.0.0.1:0", "--listen-lmtp", "unix:%s/lmtp" % scratch,
                    log=("--log-level", "info"))
    port = server.ports["smtp"]
    with Client(port) as client:
        assert client.deliver(message(0)) == 250
        client.bye()
    wait_for("the first session's line", lambda: sessions(server) == 1)
    descriptors = open_files(server)
    clients = []
    for number in range(CLIENTS):
        client = Client(port)
        content = message(number, 5000)
        cut = random.randrange(len(content))
        chunks = random.random() < 0.4
        client.begin(chunks)
        if chunks:
            client.send(b"BDAT %d LAST\r\n" % len(content))
        client.send(content[:cut])
        clients.append(client)
    assert open_files(server) >= descriptors + CLIENTS, "the clients are not there"
    for client in clients:
        # With a FIN or a RST.
        client.close() if random.random() < 0.5 else client.reset()
    wait_for("the end of the sessions", lambda: sessions(server) == 1 + CLIENTS)
    wait_for("the end of the connections", lambda: open_files(server) <= descriptors)
    assert len(server.stored()) == 1, "%d messages are stored in part" % (len(server.stored()) - 1)
    wait_for("an empty tmp/", lambda: not os.listdir(os.path.join(server.maildir, "tmp")))
    return "0 stored, 0 in tmp/, 0 sessions left"


def sessions(server):
    """How many sessions the log has ended."""
    return sum(" end=" in line for line in read(server.log).splitlines())


def open_files(server):
    return len(os.listdir("/proc/%d/fd" % server.process.pid))
