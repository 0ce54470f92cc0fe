#!/usr/bin/env python3
"""What goes wrong in a server whose sockets and clocks are driven wrongly, tried on the examples of smtpd-core and on the
reference server: replies that do not come, sessions that hang, waits that are too short, and replies that are lost at the end.

    tests/interop/drivers.py target/release/examples/blocking --tls --server-timeout 2 --delay 3
    tests/interop/drivers.py target/release/examples/mio --tls --server-timeout 2 --delay 3
    tests/interop/drivers.py target/release/smtpd --tls-self-signed --timeout 2

What follows the program are options for it: to offer STARTTLS, to wait 2 seconds for a silent client, and, if it can, to
take 3 seconds longer for each delivery. Python's standard library only.
"""
import os
import signal
import socket
import ssl
import sys
import time

from peers import Server, main, message, same, wait_for

LISTEN = ("--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--domain", "example.org")
# The options behind the program, by which it waits this long for a silent client.
LIMIT = 2
HELLO = b"EHLO client.test\r\n"
ENVELOPE = b"MAIL FROM:<a@client.test>\r\nRCPT TO:<b@example.org>\r\n"


class Client:
    """A client that does what it should not."""

    def __init__(self, port, greeted=True):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        if greeted:
            self.expect(220)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def say(self, text):
        self.socket.sendall(text)

    def line(self):
        while b"\n" not in self.buffer:
            read = self.socket.recv(65536)
            assert read, "the server closed the connection behind %r" % self.buffer
            self.buffer += read
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    def reply(self):
        """The code of the next reply."""
        while True:
            line = self.line()
            if line[3:4] != b"-":
                return int(line[:3])

    def expect(self, *codes):
        for code in codes:
            found = self.reply()
            assert found == code, "%d instead of %d" % (found, code)

    def begin_tls(self):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)

    def seconds_to_end(self):
        """How long the server keeps the connection open."""
        start = time.monotonic()
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        return time.monotonic() - start

    def rest(self):
        """What comes until the end."""
        text = self.buffer
        while True:
            read = self.socket.recv(65536)
            if not read:
                return text
            text += read


def check_late_handshake(server):
    """The handshake begins 3 seconds after the 220: it has a time of its own."""
    with Client(server.ports["smtp"]) as client:
        client.say(b"STARTTLS\r\n")
        client.expect(220)
        time.sleep(LIMIT + 1)
        client.begin_tls()
        client.say(HELLO)
        client.expect(250)


def check_stalled_handshake(server):
    with Client(server.ports["smtp"]) as client:
        client.say(b"STARTTLS\r\n")
        client.expect(220)
        seconds = client.seconds_to_end()
    assert LIMIT / 2 < seconds < 4 * LIMIT, seconds


def check_stalled_implicit_handshake(server):
    with Client(server.ports["smtps"], greeted=False) as client:
        seconds = client.seconds_to_end()
    assert LIMIT / 2 < seconds < 4 * LIMIT, seconds


def check_plaintext_before_handshake(server):
    """What is sent between the 220 and the ClientHello is no command, neither before TLS nor within it."""
    with Client(server.ports["smtp"]) as client:
        client.say(b"STARTTLS\r\n")
        client.expect(220)
        client.say(HELLO + ENVELOPE)
        try:
            client.begin_tls()
            client.say(b"NOOP\r\n")
            client.expect(250)
            client.say(b"RCPT TO:<b@example.org>\r\n")
            client.expect(503)
        except (ssl.SSLError, ConnectionError):
            return "no handshake"


def check_plaintext_with_starttls(server):
    with Client(server.ports["smtp"]) as client:
        client.say(b"STARTTLS\r\n" + HELLO)
        code = client.reply()
        assert code != 220, code


def check_flood(server):
    """More than 64 KiB of replies for one write."""
    with Client(server.ports["smtp"]) as client:
        client.say(HELLO * 900 + b"NOOP\r\n")
        client.expect(*[250] * 901)
        client.say(b"QUIT\r\n")
        client.expect(221)


def check_flood_within_tls(server):
    with Client(server.ports["smtps"], greeted=False) as client:
        client.begin_tls()
        client.expect(220)
        client.say(HELLO * 900 + b"QUIT\r\n")
        client.expect(*[250] * 900, 221)


def check_slow_delivery(server, delay):
    """A message that takes longer than a client may be silent: its session stays open."""
    with Client(server.ports["smtp"]) as client:
        content, token = message("slow")
        client.say(HELLO + ENVELOPE + b"DATA\r\n")
        client.expect(250, 250, 250, 354)
        start = time.monotonic()
        client.say(dotted(content))
        client.expect(250)
        seconds = time.monotonic() - start
        assert seconds >= delay, seconds
        time.sleep(LIMIT / 2)
        client.say(b"NOOP\r\n")
        client.expect(250)
        same(server.delivered(token), content)


def check_busy_server(server):
    """A command that came in time, though the server looks at it late."""
    with Client(server.ports["smtp"]) as client:
        client.say(HELLO)
        client.expect(250)
        os.kill(server.process.pid, signal.SIGSTOP)
        client.say(b"NOOP\r\n")
        time.sleep(LIMIT + 1)
        os.kill(server.process.pid, signal.SIGCONT)
        client.expect(250)


def check_silence(server):
    with Client(server.ports["smtp"]) as client:
        client.say(HELLO)
        client.expect(250)
        start = time.monotonic()
        client.expect(421)
        seconds = time.monotonic() - start
    assert LIMIT - 0.5 < seconds < 2 * LIMIT, seconds


def check_half_closed(server):
    """A client that sends all at once and closes its side gets all the replies."""
    content, token = message("half closed")
    with Client(server.ports["smtp"]) as client:
        client.say(HELLO + ENVELOPE + b"DATA\r\n" + dotted(content))
        client.socket.shutdown(socket.SHUT_WR)
        client.expect(250, 250, 250, 354, 250)
        assert not client.rest()
    same(server.delivered(token), content)


def check_cut_message(server):
    """A message without its end is not stored."""
    before = server.stored()
    with Client(server.ports["smtp"]) as client:
        client.say(HELLO + ENVELOPE + b"DATA\r\nhalf a message\r\n")
        client.expect(250, 250, 250, 354)
        client.socket.shutdown(socket.SHUT_WR)
        client.rest()
    assert server.stored() == before
    wait_for("nothing in tmp", lambda: not os.listdir(os.path.join(server.maildir, "tmp")))


def check_last_reply(server):
    """A client that goes on sending after QUIT gets the reply to it, though nobody reads that."""
    with Client(server.ports["smtp"]) as client:
        client.say(b"QUIT\r\n" + b"x" * 100_000)
        assert client.rest().startswith(b"221 ")


def check_shutdown(server):
    """Who is idle is told; who is sending a message may end it."""
    content, token = message("shutdown")
    with Client(server.ports["smtp"]) as idle, Client(server.ports["smtp"]) as sending:
        sending.say(HELLO + ENVELOPE)
        sending.expect(250, 250, 250)
        server.process.terminate()
        idle.expect(421)
        sending.say(b"DATA\r\n")
        sending.expect(354)
        sending.say(dotted(content))
        sending.expect(250, 421)
    status = server.process.wait(20)
    assert status == 0, status
    same(server.find(token), content)


def dotted(content):
    return content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def check_all(checks, running, binary, scratch):
    options = sys.argv[2:]
    log = () if "--server-timeout" in options else ("--log-level", "trace")
    server = Server(running, binary, scratch, *LISTEN, *options, log=log)
    for name, check in sorted(globals().items()):
        if name.startswith("check_") and name not in ("check_all", "check_slow_delivery", "check_shutdown"):
            checks(name.removeprefix("check_").replace("_", " "), check, server)
    if "--delay" in options:
        delay = float(options[options.index("--delay") + 1])
        checks("slow delivery", check_slow_delivery, server, delay)
    checks("shutdown", check_shutdown, server)


if __name__ == "__main__":
    sys.exit(main([sys.argv[1]], check_all))
