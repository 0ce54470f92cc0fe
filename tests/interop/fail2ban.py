#!/usr/bin/env python3
"""The filter for fail2ban, with the log that the reference server writes about clients that guess passwords.

    tests/interop/fail2ban.py target/release/smtpd

Without fail2ban, the run is skipped, or fails where REQUIRE_PEERS is set. Python's standard library only.
"""
import base64
import os
import shutil
import socket
import subprocess
import sys

from peers import Server, main, read

FAIL2BAN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/smtpd/packaging/fail2ban")
FILTER = os.path.join(FAIL2BAN, "filter.d/smtpd.conf")
# Who the client of a session is, and as whom it fails to log in. The last ones would like somebody else to be banned.
FORGED = 'level=warn msg="authentication failed" session=1 listener=192.0.2.1:25 peer=192.0.2.66:1 '
GUESSES = [
    (None, "alice"),
    ("192.0.2.7", "bob"),
    ("IPv6:2001:db8::7", "carol"),
    ("192.0.2.8", "x peer=192.0.2.66:1"),
    ("192.0.2.9", "x\" " + FORGED),
    ("192.0.2.10", 'x","peer":"192.0.2.66:1'),
]
FAILED = ["127.0.0.1", "192.0.2.10", "192.0.2.7", "192.0.2.8", "192.0.2.9", "2001:db8::7"]


def guess(port, client, user):
    """A session that fails to log in, once, and says nothing true otherwise."""
    commands = ["EHLO client.test"]
    if client:
        commands += ["XCLIENT ADDR=" + client, "EHLO client.test"]
    password = base64.b64encode(b"\0%s\0guess" % user.encode()).decode()
    commands += ["AUTH PLAIN " + password, 'MAIL FROM:<"%s"@a.test>' % FORGED.replace('"', ""), FORGED, "QUIT"]
    with socket.create_connection(("127.0.0.1", port), 20) as stream, stream.makefile("rb") as replies:
        for command in [None, *commands]:
            if command:
                stream.sendall(command.encode() + b"\r\n")
            while replies.readline()[3:4] == b"-":
                pass


def found(log):
    """The addresses that fail2ban finds."""
    done = subprocess.run(["fail2ban-regex", "--out", "ip", log, FILTER], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return sorted(done.stdout.split())


def check_format(running, binary, scratch, log_format):
    directory = os.path.join(scratch, log_format)
    os.mkdir(directory)
    server = Server(running, binary, directory, "--listen", "127.0.0.1:0", "--user", "alice:secret", "--allow-plaintext-auth",
                    "--xclient-from", "127.0.0.1", "--domain", "plain.test", "--log-format", log_format, log=())
    for client, user in GUESSES:
        guess(server.ports["smtp"], client, user)
    server.end()
    Server.started.remove(server)
    journal = os.path.join(directory, "journal")
    with open(journal, "w") as file:
        file.writelines("Dec 01 01:02:03 mx smtpd[7]: %s\n" % line for line in read(server.log).splitlines())
    for log in (server.log, journal):
        assert found(log) == FAILED, (log, found(log), read(log)[-3000:])
    return "%d clients" % len(FAILED)


def check_jail(scratch):
    """fail2ban accepts the jail beside those of the system."""
    config = os.path.join(scratch, "config")
    shutil.copytree("/etc/fail2ban", config)
    for name in ("filter.d", "jail.d"):
        shutil.copy(os.path.join(FAIL2BAN, name, "smtpd.conf"), os.path.join(config, name))
    said = subprocess.run(["fail2ban-client", "-c", config, "-d"], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
    for line in ("'add', 'smtpd', 'systemd'", "'set', 'smtpd', 'maxretry', 5"):
        assert line in said, said[-1500:]


def check_all(checks, running, binary, scratch):
    for log_format in ("text", "json"):
        checks("who guesses passwords, in the log as " + log_format, check_format, running, binary, scratch, log_format)
    checks("the jail", check_jail, scratch)


if __name__ == "__main__":
    sys.exit(main(["fail2ban-regex"], check_all))
