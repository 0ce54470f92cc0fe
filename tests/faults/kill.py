"""SIGKILL at random moments under load: nothing that was acknowledged is lost, nothing is stored in part, and only what was not
acknowledged is stored twice. The clients send again what has no reply, as mail servers do, to the next server on that Maildir.
"""
import collections
import itertools
import os
import threading
import time

from client import Client, message, number_of
from peers import Server

SENDERS = 8
# A server is killed within so many seconds of load.
LONGEST = 0.15


class Load:
    """Messages by number, and what became of each."""

    def __init__(self):
        self.numbers = itertools.count()
        self.lock = threading.Lock()
        # What has to be sent again.
        self.again = []
        self.acknowledged = set()
        # How often a message was sent as a whole and had no reply.
        self.unanswered = collections.Counter()
        self.wrong = []

    def next(self):
        with self.lock:
            return self.again.pop() if self.again else next(self.numbers)

    def send(self, port):
        """Sends until the server is gone."""
        number = None
        try:
            with Client(port) as client:
                while True:
                    number = self.next()
                    code = client.deliver(message_of(number), chunks=number % 2 == 1)
                    if code is None:
                        break
                    with self.lock:
                        if code == 250:
                            self.acknowledged.add(number)
                        else:
                            self.wrong.append((number, code))
                    number = None
        except (OSError, ValueError):
            pass  # The end may come within a line.
        except AssertionError as error:
            # A greeting that has not come is no fault of the server.
            if "is None" not in str(error):
                self.wrong.append(error)
        if number is not None:
            with self.lock:
                self.again.append(number)
                self.unanswered[number] += 1

    def send_rest(self, port):
        with Client(port) as client:
            for number in self.again:
                code = client.deliver(message_of(number))
                assert code == 250, code
                self.acknowledged.add(number)
            client.bye()


def message_of(number):
    return message(number, 5000 if number % 16 == 15 else 20)


def check(checks, running, args, scratch, random):
    checks("SIGKILL at %d moments" % args.kills, kills, running, args, scratch, random)


def kills(running, args, scratch, random):
    load, seen, stored = Load(), set(), collections.Counter()
    for _ in range(args.kills):
        server = start(running, args, scratch, random)
        senders = [threading.Thread(target=load.send, args=(server.ports["smtp"],)) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        time.sleep(random.uniform(0, LONGEST))
        server.process.kill()
        for sender in senders:
            sender.join()
        server.process.wait()
        server.process.stdout.close()
        collect(server, seen, stored)
    server = start(running, args, scratch, random)
    load.send_rest(server.ports["smtp"])
    server.end()
    collect(server, seen, stored)
    lost = load.acknowledged - stored.keys()
    assert not lost, "acknowledged and lost: %s" % sorted(lost)[:10]
    doubled = [number for number, times in stored.items() if times > 1 + load.unanswered[number]]
    assert not doubled, "stored twice, though never unanswered: %s" % doubled[:10]
    assert not load.wrong, load.wrong[:10]
    assert len(load.acknowledged) > args.kills, "the server was not killed amid deliveries"
    left = os.listdir(os.path.join(server.maildir, "tmp"))
    again = sum(times - 1 for times in stored.values())
    return "%d acknowledged, 0 lost, 0 partial, %d sent without a reply, %d stored twice, %d in tmp/" % (
        len(load.acknowledged), sum(load.unanswered.values()), again, len(left))


def start(running, args, scratch, random):
    runtime = random.choice(("threads", "per-core"))
    options = ("--listen", "127.0.0.1:0", "--runtime", runtime)
    server = Server(running, args.binary, scratch, *options, log=("--log-level", "error"))
    Server.started.remove(server)
    return server


def collect(server, seen, stored):
    """Counts the messages that have come since the last time. Each must be whole."""
    folder = os.path.join(server.maildir, "new")
    for name in set(os.listdir(folder)) - seen if os.path.isdir(folder) else ():
        seen.add(name)
        with open(os.path.join(folder, name), "rb") as file:
            stored[number_of(file.read())] += 1
