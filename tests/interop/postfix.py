#!/usr/bin/env python3
"""Postfix before the reference server: as a queue manager over SMTP and LMTP, as a proxy, and smtp-source as a load.

    tests/interop/postfix.py target/release/smtpd

It is an instance of its own with random ports; the system's is not touched. Without Postfix, or root to start it, the run is
skipped, or fails where REQUIRE_PEERS is set. Python's standard library only.
"""
import os
import re
import shutil
import subprocess
import sys

from peers import Server, expect, free_ports, grep, main, message, read, same, submit, wait_for

MAIN = """
compatibility_level = 3.6
queue_directory = {dir}/queue
data_directory = {dir}/data
maillog_file = {dir}/maillog
maillog_file_prefixes = {dir}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = loopback-only
inet_protocols = ipv4
myhostname = postfix.test
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
disable_dns_lookups = yes
smtp_host_lookup = native
transport_maps = texthash:{dir}/transport
smtpd_relay_restrictions = permit_mynetworks, reject
smtputf8_enable = yes
message_size_limit = 0
# What is deferred stays so until it is asked for.
queue_run_delay = 1h
minimal_backoff_time = 1h
smtp_sasl_password_maps = static:alice:secret
lmtp_sasl_password_maps = static:alice:secret
smtp_sasl_security_options =
lmtp_sasl_security_options =
smtp_send_xforward_command = yes
lmtp_send_xforward_command = yes
"""
MASTER = """
postlog unix-dgram n - n - 1 postlogd
127.0.0.1:{smtpd} inet n - n - - smtpd
127.0.0.1:{proxy} inet n - n - - smtpd -o smtpd_proxy_filter=127.0.0.1:{smtp}
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""
TLS = "-o {0}_tls_security_level=encrypt"
AUTH = TLS + " -o {0}_sasl_auth_enable=yes -o {0}_sasl_mechanism_filter="
# Each domain, which has a transport of its own: program, options, where to, with what the trace header says, and what the
# log says of the session. With -v it tells of PIPELINING.
WAYS = {
    "plain": ("smtp", "-v", "smtp", "ESMTP", "C: MAIL FROM:<alice@plain.test> SIZE=\\d+ BODY=8BITMIME"),
    "starttls": ("smtp", TLS, "smtp", "ESMTPS", "C: STARTTLS"),
    "smtps": ("smtp", TLS + " -o {0}_tls_wrappermode=yes", "smtps", "ESMTPS", "tls=TLSv1.3"),
    "tls12": ("smtp", TLS + " -o {0}_tls_mandatory_protocols=TLSv1.2", "smtp", "ESMTPS", "tls=TLSv1.2"),
    "auth-plain": ("smtp", AUTH + "plain", "smtp", "ESMTPSA", "C: AUTH PLAIN"),
    "auth-login": ("smtp", AUTH + "login", "smtp", "ESMTPSA", "C: AUTH LOGIN"),
    "auth-cram-md5": ("smtp", AUTH + "cram-md5", "smtp", "ESMTPSA", "C: AUTH CRAM-MD5"),
    "auth-scram-sha-1": ("smtp", AUTH + "scram-sha-1", "smtp", "ESMTPSA", "C: AUTH SCRAM-SHA-1 "),
    "auth-scram-sha-256": ("smtp", AUTH + "scram-sha-256", "smtp", "ESMTPSA", "C: AUTH SCRAM-SHA-256 "),
    "lmtp-unix": ("lmtp", "", "unix", "LMTP", "C: LHLO postfix.test"),
    "lmtp-inet": ("lmtp", "", "lmtp", "LMTP", "C: LHLO postfix.test"),
    "lmtp-starttls": ("lmtp", TLS, "lmtp", "LMTPS", "C: STARTTLS"),
    "lmtp-auth": ("lmtp", AUTH + "scram-sha-256", "lmtp", "LMTPSA", "C: AUTH SCRAM-SHA-256 "),
}
LOAD, SESSIONS = 1000, 20


class Postfix:
    def __init__(self, running, scratch, server, socket_path):
        self.dir = os.path.join(scratch, "postfix")
        self.config = os.path.join(self.dir, "config")
        self.log = os.path.join(self.dir, "maillog")
        self.port, self.proxy_port = free_ports(2)
        for directory in ("config", "queue", "data"):
            os.makedirs(os.path.join(self.dir, directory))
        shutil.chown(os.path.join(self.dir, "data"), "postfix")
        self.write("config/main.cf", MAIN.format(dir=self.dir))
        master = MASTER.format(smtpd=self.port, proxy=self.proxy_port, smtp=server.ports["smtp"])
        transport = ""
        for way, (program, options, to, _, _) in WAYS.items():
            master += "%s unix - - n - - %s %s\n" % (way, program, options.format(program))
            place = "unix:" + socket_path if to == "unix" else "inet:[127.0.0.1]:%d" % server.ports[to]
            transport += "%s.test %s:%s\n" % (way, way, place if program == "lmtp" else place.removeprefix("inet:"))
        # A domain of which the server knows nothing shares the sessions of one that it does.
        transport += re.sub(r"^(\S+)", "refused.test", transport.splitlines()[0]) + "\n"
        self.write("config/master.cf", master)
        self.write("transport", transport)
        running.callback(self.run, "postfix", "stop")
        self.run("postfix", "start")

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w") as file:
            file.write(text)

    def run(self, *command):
        # Daemons keep what they inherit, so that a pipe would not end.
        subprocess.run([command[0], "-c", self.config, *command[1:]], check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)

    def logged(self, pattern):
        return wait_for("%r in Postfix's log" % pattern, lambda: grep(self.log, pattern))


def check_way(server, postfix, way):
    """A message arrives, octet for octet, as this way has it."""
    _, _, _, protocol, line = WAYS[way]
    before = len(read(server.log))
    content, token = message(way)
    submit(postfix.port, "alice@plain.test", ["user@%s.test" % way], content, ["BODY=8BITMIME"])
    stored = server.delivered(token)
    same(stored, content)
    expect(rb"from postfix\.test [^;]* with %s id" % protocol.encode(), stored.split(b";")[0])
    server.logged(line, before)


def check_pipelining(server, postfix):
    postfix.logged("Using ESMTP PIPELINING")


def check_chunking(server, postfix):
    """Postfix's client may know nothing of BDAT; if it does, the server must have seen it."""
    folder = subprocess.run(["postconf", "-c", postfix.config, "-hx", "daemon_directory"], check=True, capture_output=True)
    with open(os.path.join(folder.stdout.decode().strip(), "smtp"), "rb") as file:
        if b"BDAT" not in file.read():
            return "this Postfix sends no BDAT"
    server.logged("C: BDAT")
    return "by BDAT"


def check_refused(server, postfix):
    """Of several recipients one is refused: the others get the message, and its sender hears of it."""
    content, token = message("one of three is refused")
    recipients = ["one@plain.test", "nobody@refused.test", "two@plain.test"]
    submit(postfix.port, "alice@plain.test", recipients, content)
    same(wait_for("delivery", lambda: server.find(token, b"alice@plain.test")), content)
    bounce = wait_for("bounce", lambda: server.find(token, b""))
    server.logged(r'message .*to="?one@plain.test,two@plain.test"? ')
    expect(rb"Final-Recipient: rfc822; nobody@refused\.test", bounce)
    expect(rb"Diagnostic-Code: smtp; 550", bounce)
    expect(rb"Status: 5\.", bounce)


def check_dsn(server, postfix):
    content, token = message("DSN")
    submit(postfix.port, "alice@plain.test", ["dsn@plain.test"], content, ["RET=HDRS", "ENVID=id+2B1"],
           ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first+2Bdsn@plain.test"])
    server.delivered(token)
    server.logged(r"C: MAIL FROM:<alice@plain.test> .*ENVID=id\+2B1 RET=HDRS")
    server.logged(r"C: RCPT TO:<dsn@plain.test> ORCPT=rfc822;first\+2Bdsn@plain.test NOTIFY=SUCCESS,FAILURE")


def check_smtputf8(server, postfix):
    content, token = message("SMTPUTF8")
    content = content.replace(b"From: ", "From: Жанна ".encode())
    submit(postfix.port, "жанна@plain.test", ["коля@plain.test"], content, ["SMTPUTF8", "BODY=8BITMIME"])
    stored = server.delivered(token)
    same(stored, content)
    expect(rb"with UTF8SMTP id", stored.split(b";")[0])
    expect("Return-Path: <жанна@plain.test>".encode(), stored)


def check_large(server, postfix):
    content, token = message("large", b"".join(b".%07d %s\r\n" % (line, b"y" * 500) for line in range(16384)))
    submit(postfix.port, "alice@plain.test", ["large@starttls.test"], content)
    same(server.delivered(token), content)
    return "%d octets" % len(content)


def check_deferred(server, postfix, way):
    """A fault of the server defers the message for each recipient; once it is mended, the queue is emptied."""
    content, token = message("deferred by " + way)
    addresses = ["deferred-%d@%s.test" % (number, way) for number in range(3)]
    tmp = os.path.join(server.maildir, "tmp")
    os.rename(tmp, tmp + ".away")
    open(tmp, "w").close()
    try:
        submit(postfix.port, "alice@plain.test", addresses, content)
        for address in addresses:
            postfix.logged(r"to=<%s>.* dsn=4\.\d+\.\d+, status=deferred \(.* said: 4\d\d 4\." % address)
    finally:
        os.remove(tmp)
        os.rename(tmp + ".away", tmp)
    assert not server.find(token), "stored, but deferred"
    postfix.run("postqueue", "-f")
    for address in addresses:
        postfix.logged(r"to=<%s>.* dsn=2\.\d+\.\d+, status=sent" % address)
    same(server.delivered(token), content)


def check_xforward(server, postfix, way):
    content, token = message("XFORWARD")
    submit(postfix.port, "alice@plain.test", ["xforward@%s.test" % way], content, source="127.0.0.9")
    server.delivered(token)
    queue_id = postfix.logged("to=<xforward@%s.test>" % way).split(": ")[1]
    server.logged(r'message .*to="?xforward@%s.test"? .*origin=127\.0\.0\.9 origin_id="?%s' % (way, queue_id))


def check_proxy(server, postfix):
    """Before the queue: Postfix hands each command on, and each reply of the server back."""
    content, token = message("proxy")
    recipients = ["proxy@plain.test", "nobody@unknown.test"]
    refused = submit(postfix.proxy_port, "alice@plain.test", recipients, content, source="127.0.0.10")
    assert list(refused) == recipients[1:] and refused[recipients[1]][0] == 550, refused
    same(server.delivered(token), content)
    server.logged(r'message .*to="?proxy@plain.test"? .*origin=127\.0\.0\.10')


def check_load(server, *options):
    before = len(server.stored())
    command = ["smtp-source", "-s", str(SESSIONS), "-m", str(LOAD), "-l", "4096", "-f", "alice@plain.test", "-t", "load@plain.test"]
    done = subprocess.run([*command, *options], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    assert done.returncode == 0, done.stdout[-500:]
    stored = len(server.stored()) - before
    assert stored == LOAD, "%d of %d stored" % (stored, LOAD)
    return "%d messages, %d sessions" % (LOAD, SESSIONS)


def check_all(checks, running, binary, scratch):
    socket_path = os.path.join(scratch, "lmtp.sock")
    domains = [option for way in WAYS for option in ("--domain", way + ".test")]
    server = Server(
        running, binary, scratch, "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--listen-lmtp", "127.0.0.1:0",
        "--listen-lmtp", "unix:" + socket_path, "--tls-self-signed", "--user", "alice:secret", "--max-size", "0",
        "--xforward-from", "127.0.0.1", "--xforward-from", "unix", *domains)
    postfix = Postfix(running, scratch, server, socket_path)
    for way in WAYS:
        checks("Postfix, " + way, check_way, server, postfix, way)
    for check in (check_pipelining, check_chunking, check_refused, check_dsn, check_smtputf8, check_large, check_proxy):
        checks("Postfix, " + check.__name__.removeprefix("check_"), check, server, postfix)
    for way in ("plain", "lmtp-unix"):
        checks("Postfix, xforward by " + way, check_xforward, server, postfix, way)
        checks("Postfix, deferred by " + way, check_deferred, server, postfix, way)
    checks("smtp-source", check_load, server, "127.0.0.1:%d" % server.ports["smtp"])
    checks("smtp-source -L", check_load, server, "-L", "127.0.0.1:%d" % server.ports["lmtp"])
    checks("smtp-source -L unix", check_load, server, "-L", "unix:" + socket_path)
    if checks.failed:
        print(read(postfix.log)[-5000:])


if __name__ == "__main__":
    sys.exit(main(["postfix", "smtp-source"], check_all, root=True))
