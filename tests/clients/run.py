#!/usr/bin/env python3
"""Real clients against the reference server: plain, STARTTLS, implicit TLS, every AUTH mechanism they know.

    tests/clients/run.py target/release/examples/smtpd

Each message must arrive in the Maildir octet for octet. A client that is not installed is skipped, or fails the run
where CI is set. Python's standard library only.
"""
import os
import re
import shutil
import signal
import smtplib
import ssl
import subprocess
import sys
import tempfile
import time

USER, PASSWORD, TOKEN = "alice", "secret", "token-of-alice"
BEARER = ("OAUTHBEARER", "XOAUTH2")
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
                    return content
            time.sleep(0.05)
        raise AssertionError("not delivered")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        self.log.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        if status != 0:
            raise SystemExit("the server ended with status %d" % status)


def run(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, **options)
    if done.returncode != 0:
        raise AssertionError("exit status %d: %s" % (done.returncode, done.stdout.decode(errors="replace")[-800:]))


def unverified():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def python(server, mode, mechanism, path, message):
    if mode == "tls":
        client = smtplib.SMTP_SSL("127.0.0.1", server.ports["smtps"], context=unverified())
    else:
        client = smtplib.SMTP("127.0.0.1", server.ports["smtp"])
    with client:
        if mode == "starttls":
            client.starttls(context=unverified())
        client.ehlo()
        if mechanism:
            client.user, client.password = USER, PASSWORD
            authenticate = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
            client.auth(mechanism, authenticate)
        client.sendmail("alice@example.org", ["user@example.org"], message, ["BODY=8BITMIME"])


def curl(server, mode, mechanism, path, message):
    scheme, port = ("smtps", server.ports["smtps"]) if mode == "tls" else ("smtp", server.ports["smtp"])
    command = ["curl", "-sS", "-k", "%s://127.0.0.1:%d" % (scheme, port), "--mail-from", "alice@example.org",
               "--mail-rcpt", "user@example.org", "-T", path]
    if mode == "starttls":
        command.append("--ssl-reqd")
    if mechanism in BEARER:
        command += ["--login-options", "AUTH=" + mechanism, "--user", USER + ":", "--oauth2-bearer", TOKEN]
    elif mechanism:
        command += ["--login-options", "AUTH=" + mechanism, "--user", USER + ":" + PASSWORD]
    run(command)


def swaks(server, mode, mechanism, path, message):
    port = server.ports["smtps" if mode == "tls" else "smtp"]
    command = ["swaks", "--server", "127.0.0.1", "--port", str(port), "--from", "alice@example.org", "--to",
               "user@example.org", "--data", "@" + path, "--no-data-fixup", "--suppress-data"]
    command += {"plain": [], "starttls": ["--tls"], "tls": ["--tls-on-connect"]}[mode]
    if mechanism:
        command += ["--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD]
    # With this option swaks neither stuffs dots nor ends the message: it is given as it goes over the wire.
    wire = path + ".wire"
    with open(wire, "wb") as file:
        file.write(re.sub(rb"(?m)^\.", b"..", message) + b".")
    command[command.index("@" + path)] = "@" + wire
    run(command)


def msmtp(server, mode, mechanism, path, message):
    port = server.ports["smtps" if mode == "tls" else "smtp"]
    command = ["msmtp", "--host=127.0.0.1", "--port=%d" % port, "--from=alice@example.org", "--tls-certcheck=off"]
    command += {"plain": ["--tls=off"], "starttls": ["--tls=on", "--tls-starttls=on"],
                "tls": ["--tls=on", "--tls-starttls=off"]}[mode]
    if mechanism:
        secret = TOKEN if mechanism in BEARER else PASSWORD
        command += ["--auth=" + mechanism.lower(), "--user=" + USER, "--passwordeval=echo " + secret]
    else:
        command.append("--auth=off")
    # msmtp takes a file of the local system, with LF at line ends.
    run(command + ["user@example.org"], input=message.replace(b"\r\n", b"\n"))


CLIENTS = {
    "python": (python, ["PLAIN", "LOGIN", "CRAM-MD5"]),
    "curl": (curl, ["PLAIN", "LOGIN", "CRAM-MD5", *BEARER]),
    "swaks": (swaks, ["PLAIN", "LOGIN", "CRAM-MD5"]),
    "msmtp": (msmtp, ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", *BEARER]),
}


def main():
    binary = sys.argv[1]
    server = Server(binary, "--allow-plaintext-auth", "--oauth-token", USER + ":" + TOKEN)
    passed = failed = skipped = 0
    scratch = tempfile.mkdtemp(prefix="smtpd-messages-")
    try:
        for name, (send, mechanisms) in CLIENTS.items():
            if name != "python" and not shutil.which(name):
                skipped += 1
                failed += bool(os.environ.get("CI"))
                print("%-8s not installed" % name)
                continue
            for mode in ("plain", "starttls", "tls"):
                for mechanism in [None, *mechanisms]:
                    what = "%s %s %s" % (name, mode, mechanism or "no auth")
                    token = ("tk%d.%s" % (time.monotonic_ns(), os.urandom(4).hex())).encode()
                    message = MESSAGE % (what.encode(), token)
                    path = os.path.join(scratch, "message")
                    with open(path, "wb") as file:
                        file.write(message)
                    try:
                        send(server, mode, mechanism, path, message)
                        content = server.delivered(token)
                        assert content.endswith(message), "octets differ: %r" % content[-len(message) - 200:]
                        word = {"plain": b"ESMTP", "starttls": b"ESMTPS", "tls": b"ESMTPS"}[mode] + (b"A" if mechanism else b"")
                        assert re.search(rb"\bwith " + word + rb"\b", content), "no 'with %s': %r" % (word, content[:300])
                        passed += 1
                    except Exception as error:  # noqa: BLE001 - whatever goes wrong is a failure of the client's session
                        failed += 1
                        print("FAILED %s: %s" % (what, error))
        server.stop()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if server.process.poll() is None:
            server.process.kill()
    print("%d passed, %d failed, %d skipped" % (passed, failed, skipped))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
