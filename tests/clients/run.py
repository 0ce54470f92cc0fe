#!/usr/bin/env python3
"""Real clients against the reference server: plain, STARTTLS, implicit TLS, every AUTH mechanism they know, DSN, SMTPUTF8.

    tests/clients/run.py target/release/smtpd

Each message must arrive in the Maildir octet for octet. At the end stands a table of what each client has done. A client
that is not installed is skipped, or fails the run where REQUIRE_PEERS is set; so does a run in which no session went well.
Python's standard library only.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from senders import (
    AUTHORITY, BEARER, CERTIFICATES, CERTIFIED, EXTENSIONS, PASSWORD, PASSWORDS, PLUS, SCRAM, TOKEN, USER, Job, clients,
    has_module, make_certificates)

# The run ends after so many seconds, with a failure; each client has a limit of its own.
LIMIT = 280
MECHANISMS = (*PASSWORDS, *SCRAM, *PLUS, *BEARER, *CERTIFIED)
MESSAGE = (
    b"From: <alice@example.org>\r\nTo: <user@example.org>\r\nSubject: %s\r\nMessage-ID: <%s@client.example>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"one\r\n.\r\n..two\r\n.three\r\n\r\n\xd0\xb6\xc3\xa9 \xf0\x9f\x98\x80  \r\n" + b"x" * 900 + b"\r\nend\r\n"
)


class Server:
    def __init__(self, binary, *options):
        self.dir = tempfile.mkdtemp(prefix="smtpd-clients-")
        self.maildir = os.path.join(self.dir, "mail")
        listen = ["--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--maildir", self.maildir]
        self.log = open(os.path.join(self.dir, "log"), "wb")
        self.process = subprocess.Popen(
            [binary, *listen, "--hostname", "mx.test", "--tls-self-signed", "--user", USER + ":" + PASSWORD, *options],
            stdout=subprocess.PIPE, stderr=self.log)
        self.ports = {}
        while len(self.ports) < 2:
            line = self.process.stdout.readline().decode()
            match = re.fullmatch(r"listening (smtps?) \S+:(\d+)\n", line)
            if not match:
                raise SystemExit("the server did not start: %r, see %s" % (line, self.log.name))
            self.ports[match[1]] = int(match[2])

    def delivered(self, token):
        end = time.monotonic() + 5
        while time.monotonic() < end:
            new = os.path.join(self.maildir, "new")
            for name in os.listdir(new) if os.path.isdir(new) else []:
                with open(os.path.join(new, name), "rb") as file:
                    content = file.read()
                if token in content:
                    os.rename(os.path.join(new, name), os.path.join(self.maildir, "cur", name))
                    return content
            time.sleep(0.05)
        raise AssertionError("not delivered")

    def logged(self, more_than=-1):
        """The log, once it holds more than so many characters and grows no more: it is written in batches."""
        text = ""
        for _ in range(50):
            with open(self.log.name, errors="replace") as file:
                before, text = text, file.read()
            if len(text) > more_than and text == before:
                break
            time.sleep(0.06)
        return text

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(40)
        panics = re.findall("^.*panicked.*$", self.logged(), re.MULTILINE)
        self.log.close()
        if status != 0 or panics:
            raise SystemExit("the server ended with status %d: %s, see %s" % (status, panics, self.log.name))
        shutil.rmtree(self.dir, ignore_errors=True)


def received_with(mode, mechanism, smtputf8):
    """The protocol that the Received header names (RFC 3848, RFC 6531 section 4.3)."""
    name = "UTF8SMTP" if smtputf8 else "ESMTP"
    return name + ("" if mode == "plain" else "S") + ("A" if mechanism else "")


def check(server, client, mode, mechanism, extension, scratch):
    """One session of the client; raises what is wrong with it."""
    token = ("tk%d.%s" % (time.monotonic_ns(), os.urandom(4).hex())).encode()
    message = MESSAGE % (" ".join(filter(None, (mode, mechanism, extension))).encode(), token)
    path = os.path.join(scratch, "message")
    with open(path, "wb") as file:
        file.write(message)
    sender, recipient = "alice@example.org", "user@example.org"
    if extension == "SMTPUTF8":
        sender, recipient = "жанна@example.org", "коля@example.org"
    before = len(server.logged())
    client.send(Job(mode, mechanism, extension, server.ports["smtps" if mode == "tls" else "smtp"], sender, recipient, path, message))
    log = server.logged(more_than=before)[before:]
    # Some clients say SMTPUTF8 wherever they may.
    smtputf8 = re.search("(?i)C: MAIL FROM:<.* SMTPUTF8", log)
    if client.sends:
        content = server.delivered(token)
        assert content.endswith(message), "octets differ: %r" % content[-len(message) - 200:]
        word = received_with(mode, mechanism, smtputf8)
        assert re.search(rb"\bwith %s id" % word.encode(), content), "no 'with %s': %r" % (word, content[:300])
    assert not mechanism or re.search(r'C: AUTH %s( |"|$)' % mechanism, log, re.MULTILINE), "another mechanism"
    if extension == "DSN":
        assert re.search("(?i)C: MAIL FROM:<.* RET=HDRS(?s:.*)C: RCPT TO:<.* NOTIFY=FAILURE", log), "no DSN"
    if extension == "SMTPUTF8":
        assert smtputf8, "no SMTPUTF8"


def check_client(server, name, client, scratch, results):
    """All that the client can do; `results` takes a mode for each row of the table that went well."""
    plain = [] if not client.sends else [(None, None)] + [(None, extension) for extension in client.extensions]
    failed = 0
    for mode in client.modes:
        for mechanism, extension in plain + [(mechanism, None) for mechanism in client.mechanisms]:
            if mechanism in PLUS + CERTIFIED and mode == "plain":
                continue
            row = mechanism or extension or "no AUTH"
            try:
                check(server, client, mode, mechanism, extension, scratch)
                results.setdefault((row, name), []).append(mode)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is a failure of the client's session
                failed += 1
                results.setdefault((row, name), []).append("FAILED")
                print("FAILED %s %s %s: %s" % (name, mode, row, error))
    return failed


def print_table(names, results):
    """Each mechanism and extension by each client, with the initials of the modes that went well."""
    widths = [max(len(name), 4) for name in names]
    print("\n%-19s %s" % ("", " ".join(name.ljust(width) for name, width in zip(names, widths))))
    for row in ("no AUTH", *MECHANISMS, *EXTENSIONS):
        cells = ("".join(mode[0].upper() for mode in results.get((row, name), "-")).ljust(width) for name, width in zip(names, widths))
        print(("%-19s %s" % (row, " ".join(cells))).rstrip())
    print("P plain, S STARTTLS, T TLS from the start, F failed\n")


def over(*_):
    raise SystemExit("not over after %d seconds" % LIMIT)


def main():
    signal.signal(signal.SIGALRM, over)
    signal.alarm(LIMIT)
    make_certificates()
    # Whoever offers the -PLUS forms is proof against those who would hide them.
    server = Server(sys.argv[1], "--allow-plaintext-auth", "--oauth-token", USER + ":" + TOKEN, "--log-level", "trace",
                    "--auth-mechanisms", ",".join(MECHANISMS), "--client-ca", AUTHORITY)
    failed = skipped = 0
    results = {}
    required = bool(os.environ.get("REQUIRE_PEERS"))
    if not has_module("scramp"):
        # Python's SCRAM is left out then.
        skipped += 1
        failed += required
        print("scramp is not installed")
    scratch = tempfile.mkdtemp(prefix="smtpd-messages-")
    try:
        for name, client in clients().items():
            if client.installed:
                failed += check_client(server, name, client, scratch, results)
            else:
                skipped += 1
                failed += required
                print("%s is not installed" % name)
        server.stop()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(CERTIFICATES, ignore_errors=True)
        if server.process.poll() is None:
            server.process.kill()
    print_table(list(clients()), results)
    passed = sum(mode != "FAILED" for modes in results.values() for mode in modes)
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
