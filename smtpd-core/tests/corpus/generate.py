#!/usr/bin/env python3
"""Writes the files of this folder anew: every string of the corpus, and what must become of it.

    smtpd-core/tests/corpus/generate.py            # writes them
    smtpd-core/tests/corpus/generate.py --check    # fails if they differ

The verdicts come from the rules below, which follow the RFCs and know nothing of any implementation. README.md describes the
format. Python's standard library only.
"""
import itertools
import os
import re
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
ALPHABET = (b"\r", b"\n", b".", b"\0", b"x")
LONGEST = 5
# What a message must end with (RFC 5321 section 4.1.1.4). Strings up to this many bytes longer that contain it, with anything
# in between, are there too.
END = b"\r\n.\r\n"
EXTRA = 2

SMUGGLED = b"MAIL FROM:<smuggled@example.net>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\n"
AFTER = SMUGGLED + b"smuggled\r\n"
POLICIES = [(newline, nul) for newline in ("reject", "normalize", "pass") for nul in ("reject", "strip", "pass")]
# The verb, what stands before the string, and the name of the file.
CONTEXTS = (("DATA", b"text", "data"), ("DATA", b"", "data_at_start"), ("BDAT", b"text", "bdat"))


def strings():
    """All strings, the short ones first."""
    for length in range(LONGEST + 1):
        yield from map(b"".join, itertools.product(ALPHABET, repeat=length))
    for extra in range(1, EXTRA + 1):
        found = set()
        for places in itertools.combinations(range(len(END) + extra), extra):
            for inserted in itertools.product(ALPHABET, repeat=extra):
                end, more = iter(END), iter(inserted)
                found.add(b"".join(next(more) if at in places else bytes([next(end)]) for at in range(len(END) + extra)))
        yield from sorted(found)


def split(stream):
    """The message at the beginning of what follows 354, without its transparency, and the commands behind it: RFC 5321 sections
    4.1.1.4 and 4.5.2. The CRLF of the line before the dot belongs to the message; that of the DATA command may take its part."""
    content, commands = (b"\r\n" + stream).split(END, 1)
    return re.sub(rb"\r\n\.", b"\r\n", content + b"\r\n")[2:], commands


def apply(text, newline, nul):
    """What is stored of a text, or the code that refuses it. Whether a CR and an LF are one line end is judged before any NUL is
    removed: only what stands side by side on the wire does."""
    bare = rb"\r(?!\n)|(?<!\r)\n"
    if newline == "reject" and re.search(bare, text):
        return 550
    if nul == "reject" and b"\0" in text:
        return 554
    if newline == "normalize":
        text = re.sub(bare, b"\r\n", text)
    return text.replace(b"\0", b"") if nul == "strip" else text


def replies(commands):
    """The codes that answer what follows the message, up to QUIT. Only CRLF ends a command (RFC 5321 section 2.3.8)."""
    state, codes = "ready", []
    lines = commands.split(b"\r\n")[:-1]
    while lines:
        line = lines.pop(0)
        states = {b"MAIL": ("ready", "mail"), b"RCPT": ("mail", "rcpt"), b"DATA": ("rcpt", "ready")}
        if line == b"QUIT":
            codes.append(221)
        elif re.search(rb"[\0\r\n]", line) or line[:4] not in states:
            codes.append(500)
        elif states[line[:4]][0] != state:
            codes.append(503)
        else:
            state = states[line[:4]][1]
            codes.append(354 if line == b"DATA" else 250)
            if line == b"DATA":
                del lines[:lines.index(b".") + 1]
                codes.append(250)
    return codes


def row(verb, before, string):
    """The columns of a string: the string, how many messages there are, the replies behind the first, the verdicts."""
    if verb == "DATA":
        stream = before + string + AFTER + b".\r\nQUIT\r\n"
        text, commands = split(stream)
    else:
        text, commands = before + string + AFTER, b"QUIT\r\n"
    codes = replies(commands)
    ended = codes != [221]
    verdicts = [apply(text, *policy) for policy in POLICIES]
    # The smuggled commands are lines of their own, and the same under each policy.
    tail = b"" if ended else AFTER
    cells = [str(verdict) if isinstance(verdict, int) else escaped(part(verdict, before, tail)) for verdict in verdicts]
    return [escaped(string), str(1 + codes.count(354)), " ".join(map(str, codes)), *cells]


def part(text, before, tail):
    assert text.startswith(before) and text.endswith(tail), text
    return text[len(before):len(text) - len(tail)]


def escaped(text):
    return text.decode().replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0")


def file_of(verb, before):
    names = ["string", "messages", "then", *("%s/%s" % policy for policy in POLICIES)]
    head = ["#verb\t" + verb, "#before\t" + escaped(before), "#after\t" + escaped(AFTER), "\t".join(names)]
    return "\n".join(head + ["\t".join(row(verb, before, string)) for string in strings()]) + "\n"


def main():
    status = 0
    for verb, before, name in CONTEXTS:
        path = os.path.join(FOLDER, name + ".tsv")
        text = file_of(verb, before)
        if "--check" not in sys.argv:
            with open(path, "w", newline="") as file:
                file.write(text)
        elif not os.path.exists(path) or open(path, newline="").read() != text:
            print("%s differs from what generate.py writes" % path)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
