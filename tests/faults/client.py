"""A client that does what a test says and no more, and the messages that it sends."""
import re
import socket
import struct

GROUP = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n"


class Client:
    """A connection; it says EHLO at once unless told otherwise."""

    def __init__(self, port, hello=True, timeout=60):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        if hello:
            self.expect(220)
            self.command("EHLO client.test", 250)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.socket.sendall(data)

    def reply(self):
        """The next code, or None at the end of the connection. A reset is an error."""
        while True:
            line = self.file.readline()
            if not line:
                return None
            if line[3:4] != b"-":
                return int(line[:3])

    def expect(self, *codes):
        found = self.reply()
        if found not in codes:
            raise AssertionError("the reply is %s instead of %s" % (found, " or ".join(map(str, codes))))
        return found

    def command(self, line, *codes):
        self.send(line.encode() + b"\r\n")
        return self.expect(*codes)

    def begin(self, chunks=False):
        """Comes as far as the text of a message, which goes in chunks or after DATA."""
        self.send(GROUP if chunks else GROUP + b"DATA\r\n")
        self.expect(250)
        self.expect(250)
        if not chunks:
            self.expect(354)

    def deliver(self, content, chunks=False):
        """The code for a whole message; that of an earlier command if one is refused."""
        self.send(GROUP)
        codes = [self.reply(), self.reply()]
        if codes != [250, 250]:
            return next(code for code in codes if code != 250)
        if chunks:
            self.send(b"BDAT %d LAST\r\n" % len(content) + content)
            return self.reply()
        self.send(b"DATA\r\n")
        code = self.reply()
        if code != 354:
            return code
        self.send(content + b".\r\n")
        return self.reply()

    def bye(self):
        """QUIT, and the end."""
        self.command("QUIT", 221)
        self.ends()

    def ends(self):
        if self.reply() is not None:
            raise AssertionError("the connection goes on")
        self.close()

    def reset(self):
        """Closes the connection with a reset instead of its end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()


def message(number, lines=20):
    """A message that can be recognized, and checked for its end."""
    return b"Subject: fault\r\nX-Number: %d\r\n\r\n" % number + b"line of message %d\r\n" % number * lines


def number_of(content):
    """The number of a stored message; an error if it is not whole."""
    found = re.search(rb"^X-Number: (\d+)\r?$", content, re.MULTILINE)
    if not found:
        raise AssertionError("a message without its number is stored: %r" % content[-300:])
    number = int(found[1])
    line = b"line of message %d\r\n" % number
    text = content.replace(b"\r\n", b"\n").split(b"\n\n", 1)[-1].replace(b"\n", b"\r\n")
    if text != line * (len(text) // len(line)) or text.count(line) not in (20, 5000):
        raise AssertionError("message %d is not whole: %d bytes" % (number, len(content)))
    return number
