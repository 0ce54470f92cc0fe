"""SIGTERM with 1,000 sessions, in each state: every client is told 421 or may end its message, what was acknowledged is stored,
and the status is 0.
"""
import collections
import signal

from client import GROUP, Client, message, number_of
from peers import Server

SESSIONS = 1000


def check(checks, running, args, scratch, random):
    checks("SIGTERM with %d sessions" % SESSIONS, stop, running, args, scratch, random)


def stop(running, args, scratch, random):
    server = Server(running, args.binary, scratch, "--listen", "127.0.0.1:0", log=("--log-level", "error"))
    kinds = [random.choice((idle, in_a_transaction, in_data, in_chunks, sent)) for _ in range(SESSIONS)]
    sessions = [kind(server.ports["smtp"], number) for number, kind in enumerate(kinds)]
    states = [next(session) for session in sessions]
    server.process.send_signal(signal.SIGTERM)
    for session in sessions:
        for _ in session:
            raise AssertionError("a session goes on")
    server.end()
    stored = collections.Counter()
    for name in server.stored():
        with open("%s/new/%s" % (server.maildir, name), "rb") as file:
            stored[number_of(file.read())] += 1
    expected = collections.Counter(at for at, state in enumerate(states) if state not in ("idle", "transaction"))
    assert stored == expected, "%d stored of %d" % (stored.total(), expected.total())
    counts = collections.Counter(states)
    kinds = ", ".join("%d %s" % (counts[kind], kind) for kind in sorted(counts))
    return "%s; %d acknowledged, 0 lost" % (kinds, stored.total())


# Each yields once, before the signal, and goes on after it.

def idle(port, _):
    client = Client(port)
    yield "idle"
    client.expect(421)
    client.ends()


def in_a_transaction(port, _):
    client = Client(port)
    client.send(GROUP)
    client.expect(250)
    client.expect(250)
    yield "transaction"
    client.command("RSET", 250)
    client.expect(421)
    client.ends()


def in_data(port, number):
    client, content = Client(port), message(number)
    client.begin()
    client.send(content[:100])
    yield "data"
    client.send(content[100:] + b".\r\n")
    client.expect(250)
    client.expect(421)
    client.ends()


def in_chunks(port, number):
    client, content = Client(port), message(number)
    client.begin(chunks=True)
    client.send(b"BDAT 100\r\n" + content[:100])
    client.expect(250)
    yield "chunks"
    client.send(b"BDAT %d LAST\r\n" % len(content[100:]) + content[100:])
    client.expect(250)
    client.expect(421)
    client.ends()


def sent(port, number):
    """The whole message may not even be read when the signal comes, but DATA was answered."""
    client = Client(port)
    client.begin()
    client.send(message(number) + b".\r\n")
    yield "sent"
    client.expect(250)
    client.expect(421)
    client.ends()
