#!/usr/bin/env python3
"""Plays the corpus against any SMTP server over TCP, a session for each string, and says what the server did.

    smtpd-core/tests/corpus/run.py HOST:PORT --recipient USER@DOMAIN [--newline P --nul P] [--maildir DIR] ...

The server must accept mail for the recipient, and for victim@example.org if the corpus is to show a second message; a server
that refuses it is still checked. The exit status is 1 if the server accepts a message that the corpus says is not there, stores
other bytes than the corpus says, or sends other replies than those of the named policies. Python's standard library only.
"""
import argparse
import os
import socket
import sys
import time

FOLDER = os.path.dirname(os.path.abspath(__file__))
FILES = ("data", "data_at_start", "bdat")


def unescaped(text):
    return text.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0").encode()


def rows(name):
    """The head of a file as a dictionary, and its rows, each a dictionary too."""
    with open(os.path.join(FOLDER, name + ".tsv"), newline="\n") as file:
        lines = file.read().splitlines()
    head = {key[1:]: unescaped(value) for key, value in (line.split("\t") for line in lines[:3])}
    names = lines[3].split("\t")
    return head, [dict(zip(names, line.split("\t"))) for line in lines[4:]]


class Session:
    """A connection that has come as far as RCPT."""

    def __init__(self, args):
        host, _, port = args.server.rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=args.timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.expect(220)
        for command in ("EHLO corpus.example", "MAIL FROM:<%s>" % args.sender, "RCPT TO:<%s>" % args.recipient):
            self.socket.sendall(command.encode() + b"\r\n")
            self.expect(250)

    def reply(self):
        """The next code, or None at the end of the connection."""
        while True:
            try:
                line = self.file.readline()
            except ConnectionError:
                return None
            if not line:
                return None
            if line[3:4] != b"-":
                return int(line[:3])

    def expect(self, code):
        found = self.reply()
        if found != code:
            raise SystemExit("the server answers %s instead of %d: it must accept the sender and the recipient" % (found, code))

    def rest(self):
        """The codes up to the end of the connection."""
        codes = []
        while (code := self.reply()) is not None:
            codes.append(code)
        self.socket.close()
        return codes


def play(args, head, row, split):
    """The codes from the reply to the first message on. `split` is how many bytes of the string go into the first write."""
    session = Session(args)
    string = unescaped(row["string"])
    text = head["before"] + string + head["after"]
    if head["verb"] == b"DATA":
        session.socket.sendall(b"DATA\r\n")
        session.expect(354)
        stream, at = text + b".\r\nQUIT\r\n", len(head["before"]) + split
    else:
        command = b"BDAT %d LAST\r\n" % len(text)
        stream, at = command + text + b"QUIT\r\n", len(command) + len(head["before"]) + split
    try:
        session.socket.sendall(stream[:at])
        if args.pause:
            time.sleep(args.pause)
        session.socket.sendall(stream[at:])
    except ConnectionError:
        pass  # What it has said is still read.
    return session.rest()


def accepted(codes):
    """How many messages were accepted: the first, and each whose reply follows a 354."""
    return codes[:1].count(250) + sum(pair == (354, 250) for pair in zip(codes, codes[1:]))


def verdicts(args, row):
    """The columns that may hold: all, or those of the policies that were named."""
    for name, cell in row.items():
        newline, slash, nul = name.partition("/")
        if slash and args.newline in (None, newline) and args.nul in (None, nul):
            yield cell


def expected(row, cell):
    """The codes of a verdict."""
    first = int(cell) if cell.isdigit() else 250
    return [first, *map(int, row["then"].split())]


def bodies(head, row, cell):
    """What a verdict stores."""
    stored = []
    if not cell.isdigit():
        stored.append(head["before"] + unescaped(cell) + (head["after"] if row["then"] == "221" else b""))
    return stored + [b"smuggled\r\n"] * (int(row["messages"]) - 1)


def removed_from(maildir):
    """The messages in new/, which are removed from it. Each begins with the fields that the server has added."""
    found, folder = [], os.path.join(maildir, "new")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            found.append(file.read())
        os.unlink(path)
    return found


def fault(args, head, row, split):
    """What is wrong with the server's answer to a row, or None."""
    codes = play(args, head, row, split)
    cells = list(verdicts(args, row))
    most = max(accepted(expected(row, cell)) for cell in cells)
    if accepted(codes) > most:
        return "SMUGGLED: %d messages were accepted: %s" % (accepted(codes), codes)
    named = args.newline and args.nul
    if named and codes != expected(row, cells[0]):
        return "replies %s instead of %s" % (codes, expected(row, cells[0]))
    if args.maildir:
        stored = sorted(removed_from(args.maildir), key=len, reverse=True)
        fits = (sorted(bodies(head, row, cell), key=len, reverse=True) for cell in cells)
        if not any(len(stored) == len(fit) and all(map(bytes.endswith, stored, fit)) for fit in fits):
            return "stored %r" % [text[-200:] for text in stored]
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("--recipient", default="victim@example.org")
    parser.add_argument("--sender", default="corpus@example.com")
    parser.add_argument("--newline", choices=("reject", "normalize", "pass"), help="what the server does with a bare CR or LF")
    parser.add_argument("--nul", choices=("reject", "strip", "pass"), help="what the server does with NUL")
    parser.add_argument("--maildir", help="where the server stores the messages: they are compared and removed")
    parser.add_argument("--file", choices=FILES, action="append", help="only this file")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth string")
    parser.add_argument("--splits", action="store_true", help="each string in two writes, cut at each of its bytes")
    parser.add_argument("--pause", type=float, default=0, metavar="SECONDS", help="between the two writes")
    parser.add_argument("--timeout", type=float, default=30, metavar="SECONDS", help="how long to wait for a reply")
    args = parser.parse_args()
    played = faults = 0
    for name in args.file or FILES:
        head, table = rows(name)
        for row in table[::args.every]:
            for split in range(len(unescaped(row["string"])) + 1 if args.splits else 1):
                played += 1
                wrong = fault(args, head, row, split)
                if wrong:
                    faults += 1
                    print("%s %s cut at %d: %s" % (name, row["string"], split, wrong), flush=True)
    print("%d sessions, %d faults" % (played, faults))
    return 1 if faults or not played else 0


if __name__ == "__main__":
    sys.exit(main())
