#!/usr/bin/env python3
"""Dovecot before the reference server: its submission relay, its submission proxy and its LMTP proxy.

    tests/interop/dovecot.py target/release/smtpd

They say by XCLIENT who their client is. It is an instance of its own with random ports; the system's is not touched. Without
Dovecot, or root to start it, the run is skipped, or fails where REQUIRE_PEERS is set. Python's standard library only.
"""
import os
import shutil
import smtplib
import subprocess
import sys

from peers import Server, expect, free_ports, grep, main, message, read, same, wait_for

CONFIG = """
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
protocols = submission lmtp
listen = 127.0.0.1
hostname = dovecot.test
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain
mail_location = maildir:{dir}/mail
first_valid_uid = 1
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {dir}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={dir}/home
}}
service submission-login {{
  inet_listener submission {{
    port = {own_submission}
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {own_lmtp}
  }}
}}
submission_relay_host = 127.0.0.1
submission_relay_port = {smtp}
submission_relay_ssl = starttls
submission_relay_ssl_verify = no
submission_relay_trusted = yes
lmtp_proxy = yes
"""
# Each user, with the fields that say where his sessions, or messages to him, are handed on to. The first is relayed for.
USERS = """
carol:{{PLAIN}}carols::::::
alice:{{PLAIN}}secret::::::proxy=y host=127.0.0.1 port={smtp}
starttls:{{PLAIN}}secret::::::proxy=y host=127.0.0.1 port={smtp} starttls=any-cert destuser=alice
tls:{{PLAIN}}secret::::::proxy=y host=127.0.0.1 port={smtps} ssl=any-cert destuser=alice
trusted:{{PLAIN}}secret::::::proxy=y host=127.0.0.1 port={smtp} proxy_noauth=y
one@lmtp.test:{{PLAIN}}::::::proxy=y host=127.0.0.1 port={lmtp}
two@lmtp.test:{{PLAIN}}::::::proxy=y host=127.0.0.1 port={lmtp}
nobody@refused.test:{{PLAIN}}::::::proxy=y host=127.0.0.1 port={lmtp}
user@starttls.test:{{PLAIN}}::::::proxy=y host=127.0.0.1 port={lmtp} starttls=any-cert
user@smtp.test:{{PLAIN}}::::::proxy=y host=127.0.0.1 port={smtp} protocol=smtp
"""
DOMAINS = ("plain.test", "lmtp.test", "starttls.test", "smtp.test")


class Dovecot:
    def __init__(self, running, scratch, server):
        self.dir = os.path.join(scratch, "dovecot")
        self.log = os.path.join(self.dir, "log")
        self.port, self.lmtp_port = free_ports(2)
        os.makedirs(os.path.join(self.dir, "home"))
        shutil.chown(os.path.join(self.dir, "home"), "nobody")
        config = os.path.join(self.dir, "dovecot.conf")
        with open(config, "w") as file:
            file.write(CONFIG.format(dir=self.dir, own_submission=self.port, own_lmtp=self.lmtp_port, **server.ports))
        with open(os.path.join(self.dir, "users"), "w") as file:
            file.write(USERS.format(**server.ports).lstrip())
        self.process = subprocess.Popen(["dovecot", "-F", "-c", config], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.callback(self.stop)
        wait_for("Dovecot's start in its log", lambda: grep(self.log, "starting up"))

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


def log_in(dovecot, user, password, source):
    client = smtplib.SMTP("127.0.0.1", dovecot.port, "client.test", timeout=20, source_address=(source, 0))
    client.ehlo()
    client.login(user, password)
    client.command_encoding = "utf-8"
    return client


def check_relay(server, dovecot):
    """Dovecot has a session of its own with the server, in the name of its client, and sends the message in chunks."""
    content, token = message("relay", b"".join(b".%07d %s\r\n" % (line, b"y" * 500) for line in range(4096)))
    recipients = ["one@plain.test", "nobody@refused.test", "two@plain.test"]
    with log_in(dovecot, "carol", "carols", "127.0.0.11") as client:
        refused = client.sendmail("carol@plain.test", recipients, content, ["BODY=8BITMIME", "RET=HDRS", "ENVID=id"], ["NOTIFY=FAILURE"])
    assert list(refused) == recipients[1:2] and refused[recipients[1]][0] == 550, refused
    stored = server.delivered(token)
    same(stored, content)
    expect(rb"\(\[127\.0\.0\.11\]\)[^;]* with ESMTPSA id", stored.split(b";")[0])
    server.logged(r"C: XCLIENT .*LOGIN=\[redacted\] .*ADDR=127\.0\.0\.11")
    server.logged("C: BDAT ")
    server.logged("C: MAIL FROM:<carol@plain.test>.* ENVID=id RET=HDRS")
    server.logged("C: RCPT TO:<two@plain.test> NOTIFY=FAILURE")
    return "by BDAT, %d octets" % len(content)


def check_proxy(server, dovecot, user, protocol):
    """Dovecot passes the client's own session on, and authenticates it to the server."""
    content, token = message("proxy")
    with log_in(dovecot, user, "secret", "127.0.0.12") as client:
        client.sendmail("alice@plain.test", ["user@plain.test"], content, ["BODY=8BITMIME"])
    stored = server.delivered(token)
    same(stored, content)
    expect(rb"\(\[127\.0\.0\.12\]\)[^;]* with %s id" % protocol, stored.split(b";")[0])


def check_lmtp(server, dovecot, recipients, protocol):
    """Dovecot's LMTP hands each recipient to the server, and each reply of the server back."""
    content, token = message("lmtp")
    with smtplib.LMTP("127.0.0.1", dovecot.lmtp_port, "client.test", source_address=("127.0.0.13", 0), timeout=20) as client:
        client.ehlo()
        client.mail("alice@plain.test", ["BODY=8BITMIME"])
        codes = {recipient: client.rcpt(recipient)[0] for recipient in recipients}
        assert codes == {recipient: 550 if "refused" in recipient else 250 for recipient in recipients}, codes
        replies = [client.data(content)] + [client.getreply() for _ in range(list(codes.values()).count(250) - 1)]
        assert all(code == 250 for code, _ in replies), replies
    stored = server.delivered(token)
    same(stored, content)
    expect(rb"\(\[127\.0\.0\.13\]\)[^;]* with %s id" % protocol, stored.split(b";")[0])


def check_all(checks, running, binary, scratch):
    domains = [option for domain in DOMAINS for option in ("--domain", domain)]
    server = Server(
        running, binary, scratch, "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--listen-lmtp", "127.0.0.1:0",
        "--tls-self-signed", "--user", "alice:secret", "--allow-plaintext-auth", "--max-size", "0",
        "--xclient-from", "127.0.0.1", *domains)
    dovecot = Dovecot(running, scratch, server)
    checks("Dovecot, submission relay", check_relay, server, dovecot)
    for user, protocol in (("alice", b"ESMTPA"), ("starttls", b"ESMTPSA"), ("tls", b"ESMTPSA"), ("trusted", b"ESMTPA")):
        checks("Dovecot, submission proxy of " + user, check_proxy, server, dovecot, user, protocol)
    for what, recipients, protocol in (
        ("LMTP", ["one@lmtp.test", "nobody@refused.test", "two@lmtp.test"], b"LMTP"),
        ("LMTP after STARTTLS", ["user@starttls.test"], b"LMTPS"),
        ("SMTP", ["user@smtp.test"], b"ESMTP"),
    ):
        checks("Dovecot, LMTP proxy by " + what, check_lmtp, server, dovecot, recipients, protocol)
    if checks.failed:
        print(read(dovecot.log)[-5000:])


if __name__ == "__main__":
    sys.exit(main(["dovecot", "/usr/lib/dovecot/lmtp", "/usr/lib/dovecot/submission"], check_all, root=True))
