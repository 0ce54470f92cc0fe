"""A log that nobody reads: its pipe is closed or full, or its disk is. Mail and the shutdown go on as if nothing were."""
import os

from client import Client, message
from peers import Server

MESSAGES = 200
# More than the pipe and the memory for lines hold.
SESSIONS, COMMANDS = 4, 9000


def check(checks, running, args, scratch, random):
    for what, open_log in (("a log that is dead", dead), ("a log on a full disk", full), ("a log that is not read", stalled)):
        folder = os.path.join(scratch, open_log.__name__)
        os.mkdir(folder)
        checks(what, deliver, running, args, folder, open_log)


def dead(_):
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full(_):
    return os.open("/dev/full", os.O_WRONLY)


def stalled(running):
    reader, writer = os.pipe()
    running.callback(os.close, reader)
    return writer


def chatter(port):
    """A session of many commands, each of which has its lines in the log."""
    with Client(port) as client:
        for _ in range(COMMANDS // 100):
            client.send(b"MAIL FROM:<a@example.com>\r\nRSET\r\n" * 100)
            for _ in range(200):
                client.expect(250)
        client.bye()


def deliver(running, args, folder, open_log):
    log = open_log(running)
    server = Server(running, args.binary, folder, "--listen", "127.0.0.1:0", stderr=log)
    os.close(log)
    for _ in range(SESSIONS):
        chatter(server.ports["smtp"])
    with Client(server.ports["smtp"]) as client:
        for number in range(MESSAGES):
            # The log has a line for each command.
            code = client.deliver(message(number), chunks=number % 2 == 1)
            assert code == 250, "message %d is answered with %s" % (number, code)
        client.bye()
    assert len(server.stored()) == MESSAGES, len(server.stored())
    server.end()
    return "%d commands answered, %d messages acknowledged and stored" % (2 * SESSIONS * COMMANDS, MESSAGES)
