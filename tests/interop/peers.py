"""What the scripts of this folder share: the reference server, what it has stored and logged, and the count of checks."""
import contextlib
import os
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time

# A script whose peer hangs ends after so many seconds, with a failure.
LIMIT = 240

MESSAGE = (
    b"From: <alice@plain.test>\r\nTo: <user@plain.test>\r\nSubject: %s\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    b"Message-ID: <%s@client.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n"
    b"one\r\n.\r\n..two\r\n.three\r\n\r\n\xd0\xb6\xc3\xa9 \xf0\x9f\x98\x80  \r\n" + b"x" * 900 + b"\r\nend\r\n"
)


def main(programs, check_all, root=False):
    """Runs the checks in a folder of their own and returns the exit status. Where a program is not installed they are
    skipped, or fail where REQUIRE_PEERS is set."""
    absent = ["%s is not installed" % program for program in programs if not shutil.which(program)]
    if root and os.geteuid() != 0:
        absent.append("not root, and %s runs as several users" % programs[0])
    if absent:
        print("skipped: " + ", ".join(absent))
        return 1 if os.environ.get("REQUIRE_PEERS") else 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGALRM, over)
    signal.alarm(LIMIT)
    checks = Checks()
    with contextlib.ExitStack() as running:
        # Directly below /tmp, because paths of Unix sockets are short; other users have to get there.
        scratch = tempfile.mkdtemp(prefix="smtpd-%s-" % os.path.basename(programs[0]), dir="/tmp")
        running.callback(shutil.rmtree, scratch, ignore_errors=True)
        os.chmod(scratch, 0o755)
        check_all(checks, running, sys.argv[1], scratch)
        for server in Server.started:
            checks("the end of the server", server.end)
    return checks.end()


def over(*_):
    print("FAILED  not over after %d seconds" % LIMIT, flush=True)
    sys.exit(1)


def message(what, body=b""):
    """A message, and a word that occurs in no other one."""
    token = b"tk-" + os.urandom(8).hex().encode()
    return MESSAGE % (what.encode(), token) + body, token


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def wait_for(what, probe, seconds=20):
    """What `probe` returns, as soon as that is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("%s: not within %d seconds" % (what, seconds))


def submit(port, sender, recipients, content, mail=(), rcpt=(), source="127.0.0.1"):
    """Hands a message to a server on this machine; returns whom it has refused."""
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=20, source_address=(source, 0)) as client:
        client.ehlo()
        client.command_encoding = "utf-8"
        return client.sendmail(sender, recipients, content, mail, rcpt)


class Server:
    """The reference server, or another one with such options, with a Maildir and a log in `scratch`."""

    # All of them: how they end is a check of its own.
    started = []

    def __init__(self, running, binary, scratch, *options, log=("--log-level", "trace"), **spawn):
        """`spawn` changes how the process is started: `env`, `preexec_fn`, another `stderr`."""
        self.maildir = os.path.join(scratch, "mail")
        self.log = os.path.join(scratch, "log")
        # Others must be able to write to its sockets, who in these tests are other users.
        with open(self.log, "ab") as stderr:
            self.process = subprocess.Popen(
                [binary, "--maildir", self.maildir, "--hostname", "mx.test", *log, *options],
                **{"stdout": subprocess.PIPE, "stderr": stderr, "umask": 0, **spawn})
        running.callback(self.kill)
        self.started.append(self)
        self.ports = {}
        for option in options:
            if option.startswith("--listen"):
                line = self.process.stdout.readline().decode()
                match = re.fullmatch(r"listening (\w+) (?:\S+:(\d+)|unix:\S+)\n", line)
                if not match:
                    raise SystemExit("the server did not start: %r: %s" % (line, read(self.log)[-1000:]))
                if match[2]:
                    self.ports[match[1]] = int(match[2])

    def stored(self):
        """The names of all messages."""
        return os.listdir(os.path.join(self.maildir, "new"))

    def find(self, token, sender=None):
        """A message with this in it; if a sender is named, one of his."""
        begin = b"" if sender is None else b"Return-Path: <%s>\r\n" % sender
        for name in self.stored():
            with open(os.path.join(self.maildir, "new", name), "rb") as file:
                content = file.read()
            if token in content and content.startswith(begin):
                return content
        return None

    def delivered(self, token):
        return wait_for("delivery", lambda: self.find(token))

    def logged(self, pattern, since=0):
        """The first line of the log that has this in it, behind so many characters."""
        return wait_for("%r in the log" % pattern, lambda: grep(self.log, pattern, since), 5)

    def end(self):
        """Ends it in order: the status is 0, and its log holds no panic."""
        self.process.terminate()
        status = self.process.wait(40)
        assert status == 0, "status %d: %s" % (status, read(self.log)[-1500:])
        panic = grep(self.log, "panicked")
        assert not panic, panic

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Checks:
    """Counts what passes and what fails."""

    def __init__(self):
        self.passed = self.failed = 0

    def __call__(self, what, function, *args):
        try:
            note = function(*args)
            self.passed += 1
            print("ok      %s%s" % (what, ": " + note if note else ""), flush=True)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a failure of this check
            self.failed += 1
            print("FAILED  %s: %s: %s" % (what, type(error).__name__, error), flush=True)

    def end(self):
        print("%d passed, %d failed" % (self.passed, self.failed))
        return 1 if self.failed or not self.passed else 0


def expect(pattern, text):
    if not re.search(pattern, text):
        raise AssertionError("no %r in %r" % (pattern, text[-1500:]))


def same(content, sent):
    """What was stored ends with what was sent: only headers were added."""
    if not content.endswith(sent):
        raise AssertionError("octets differ: %r" % content[-len(sent) - 300:][:1500])


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


def grep(path, pattern, since=0):
    lines = read(path)[since:].splitlines() if os.path.exists(path) else []
    return next((line for line in lines if re.search(pattern, line)), None)
