"""Files that are broken when the server reads them: at the start it says so and ends; later it says so, and goes on with what it
had.
"""
import base64
import hashlib
import os
import signal
import socket
import ssl
import subprocess

from client import Client, message
from peers import Server, expect, read, wait_for

# Of the passwords `secret` and `changed`, with cheap parameters.
CHANGED = "alice:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$xe6Be8l0fNi9J+c2JXBEYQ\n"
USER = "alice:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw\n"


def check(checks, running, args, scratch, random):
    if not checks.need("openssl", "broken files"):
        return
    paths = {name: os.path.join(scratch, name) for name in ("cert", "key", "users")}
    make_certificate(paths)
    write(paths["users"], USER)
    options = ("--tls-cert", paths["cert"], "--tls-key", paths["key"], "--users", paths["users"])
    checks("broken files at the start", at_the_start, args, scratch, options, paths)
    server = Server(running, args.binary, scratch, "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", *options,
                    log=("--log-level", "info"))
    checks("broken certificates at SIGHUP", certificates, server, paths)
    checks("broken users at SIGHUP", users, server, paths)


def write(path, text):
    """In place, as editors do, and then whole."""
    with open(path + ".new", "w") as file:
        file.write(text)
    os.chmod(path + ".new", 0o600)
    os.rename(path + ".new", path)


def make_certificate(paths):
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    name = ("-days", "30", "-subj", "/CN=mx.test", "-addext", "subjectAltName=DNS:mx.test")
    command = ("openssl", "req", "-x509", *curve, *name, "-keyout", paths["key"], "-out", paths["cert"])
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    os.chmod(paths["key"], 0o600)


def at_the_start(args, scratch, options, paths):
    broken = (("cert", "no certificate\n"), ("key", "no key\n"), ("users", "alice\n"), ("users", USER + "bob:secret\n"))
    for name, text in broken:
        good = read(paths[name])
        write(paths[name], text)
        command = (args.binary, "--listen", "127.0.0.1:0", "--maildir", os.path.join(scratch, "none"), *options)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
        write(paths[name], good)
        assert ended.returncode not in (0, 101) and ended.returncode > 0, "%s: status %d" % (name, ended.returncode)
        expect(paths[name], ended.stderr)
        assert "listening" not in ended.stdout, "it serves with a broken file of %s" % name
    return "%d refused with the name of the file" % len(broken)


def served(server):
    """The certificate that a client receives."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", server.ports["smtps"]), timeout=20) as plain:
        with context.wrap_socket(plain) as tls:
            return hashlib.sha256(tls.getpeercert(binary_form=True)).hexdigest()


def certificates(server, paths):
    first = served(server)
    good = {name: read(paths[name]) for name in ("cert", "key")}
    open_before = Client(server.ports["smtp"])
    broken = 0
    for name, text in (("cert", ""), ("cert", good["cert"][:200]), ("key", "no key\n"), ("cert", None)):
        since = len(read(server.log))
        if text is None:
            os.unlink(paths[name])
        else:
            write(paths[name], text)
        server.process.send_signal(signal.SIGHUP)
        server.logged("level=(error|warn)", since)
        assert served(server) == first, "another certificate is served with a broken %s" % name
        write(paths[name], good[name])
        broken += 1
    # A key that belongs to another certificate.
    make_certificate(paths)
    other = read(paths["cert"])
    write(paths["cert"], good["cert"])
    since = len(read(server.log))
    server.process.send_signal(signal.SIGHUP)
    server.logged("level=(error|warn)", since)
    assert served(server) == first, "a certificate is served with the key of another"
    write(paths["cert"], other)
    server.process.send_signal(signal.SIGHUP)
    wait_for("the new certificate", lambda: served(server) != first)
    assert open_before.deliver(message(0)) == 250
    open_before.bye()
    return "%d broken, each logged, the old one served; then a new one" % (broken + 1)


def users(server, paths):
    assert login(server, "alice", "secret") == 235
    broken = ("alice\n", "\x00\xff", USER + USER, "", None)
    for text in broken:
        if text is None:
            os.unlink(paths["users"])
        else:
            write(paths["users"], text)
        reload(server, "level=error")
        assert login(server, "alice", "secret") == 235, "a broken file of users has changed them"
    open_before = secured(server)
    write(paths["users"], CHANGED + USER.replace("alice", "bob@example.org"))
    reload(server, "level=info .*changed=")
    for name, password, code in (("alice", "changed", 235), ("alice", "secret", 535), ("bob@example.org", "secret", 235),
                                 ("bob", "secret", 535)):
        found = login(server, name, password)
        assert found == code, "%s with %s after the reload: %d instead of %d" % (name, password, found, code)
    assert authenticate(open_before, "alice", "secret") == 235, "a session that is open has other users than it began with"
    open_before.bye()
    write(paths["users"], USER)
    reload(server, "level=info .*changed=")
    assert (login(server, "alice", "secret"), login(server, "alice", "changed")) == (235, 535)
    return "%d broken, the users stay; then new ones, and the old ones again" % len(broken)


def reload(server, logged):
    """Sends SIGHUP, and waits until the log says what became of it."""
    since = len(read(server.log))
    server.process.send_signal(signal.SIGHUP)
    server.logged(logged, since)


def secured(server):
    """A session with TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = Client(server.ports["smtp"])
    client.command("STARTTLS", 220)
    client.socket = context.wrap_socket(client.socket)
    client.file = client.socket.makefile("rb")
    client.command("EHLO client.test", 250)
    return client


def authenticate(client, name, password):
    """The reply to a login."""
    response = base64.b64encode(("\0%s\0%s" % (name, password)).encode()).decode()
    return client.command("AUTH PLAIN " + response, 235, 535)


def login(server, name, password):
    client = secured(server)
    code = authenticate(client, name, password)
    client.bye()
    return code
