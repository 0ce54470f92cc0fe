#!/usr/bin/env python3
"""HAProxy before the reference server: PROXY version 1 and 2, with fields and checksum, before TLS, on Unix sockets at either side.

    tests/interop/haproxy.py target/release/smtpd

Each message comes from an address of its own, which its Received header must show, except for clients on a Unix socket: in
version 1 it must show that they have none, in version 2 the address of HAProxy. Without haproxy the
run is skipped, or fails where REQUIRE_PEERS is set. Python's standard library only.
"""
import csv
import os
import smtplib
import socket
import ssl
import subprocess
import sys

from peers import Server, expect, free_ports, main, message, read, same, wait_for

CONFIG = """
global
    maxconn 100
    stats socket {stats}
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    unique-id-format %{{+X}}o-%ci-%cp
    # A whole session behind a header that names no client.
    option smtpchk HELO haproxy.test
    default-server check inter 200ms check-send-proxy
listen v1
    bind 127.0.0.1:{v1}
    server smtpd 127.0.0.1:{smtp} send-proxy
listen v2
    bind 127.0.0.1:{v2}
    server smtpd 127.0.0.1:{smtp} send-proxy-v2
listen v2-ipv6
    bind [::1]:{v2_ipv6}
    server smtpd 127.0.0.1:{smtp} send-proxy-v2
listen v2-fields
    bind 127.0.0.1:{v2_fields} ssl crt {certificate}
    server smtpd 127.0.0.1:{smtp} send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id
listen v2-socket
    bind 127.0.0.1:{v2_socket}
    server smtpd unix@{path} send-proxy-v2
listen v1-unix-client
    bind unix@{v1_unix_client}
    server smtpd 127.0.0.1:{smtp} send-proxy
listen v2-unix-client
    bind unix@{v2_unix_client}
    server smtpd 127.0.0.1:{smtp} send-proxy-v2
listen v1-before-tls
    bind 127.0.0.1:{v1_before_tls}
    server smtpd 127.0.0.1:{smtps} send-proxy check-ssl verify none
listen v2-before-tls
    bind 127.0.0.1:{v2_before_tls}
    server smtpd 127.0.0.1:{smtps} send-proxy-v2 check-ssl verify none
"""
# What each of them listens with, and what the trace header says of the way.
WAYS = {
    "v1": ("plain", b"ESMTP"),
    "v2": ("plain", b"ESMTP"),
    "v2_ipv6": ("plain", b"ESMTP"),
    "v2_fields": ("tls", b"ESMTP"),
    "v2_socket": ("plain", b"ESMTP"),
    "v1_unix_client": ("unix", b"ESMTP"),
    "v2_unix_client": ("unix", b"ESMTP"),
    "v1_before_tls": ("tls", b"ESMTPS"),
    "v2_before_tls": ("tls", b"ESMTPS"),
}


class HAProxy:
    def __init__(self, running, scratch, server, path):
        self.stats = os.path.join(scratch, "stats")
        # What each way is called by: a port, or the path of a socket.
        self.ports = dict(zip(WAYS, free_ports(len(WAYS))))
        self.ports.update({way: os.path.join(scratch, way) for way, (mode, _) in WAYS.items() if mode == "unix"})
        config = os.path.join(scratch, "haproxy.cfg")
        with open(config, "w") as file:
            file.write(CONFIG.format(certificate=certificate(scratch), path=path, stats=self.stats, **server.ports, **self.ports))
        self.process = subprocess.Popen(["haproxy", "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.callback(self.stop)

    def health(self):
        """What it finds of each server behind it, as far as it has looked."""
        try:
            with socket.socket(socket.AF_UNIX) as stats:
                stats.connect(self.stats)
                stats.sendall(b"show stat\n")
                lines = b"".join(iter(lambda: stats.recv(65536), b"")).decode().lstrip("# ").splitlines()
        except OSError:
            return []
        return [row["check_status"] for row in csv.DictReader(lines) if row["svname"] == "smtpd"]

    def stop(self):
        self.process.terminate()
        self.process.wait(40)


def certificate(scratch):
    """A file with a certificate and its key."""
    path = os.path.join(scratch, "proxy.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=proxy.test", "-keyout", path + ".key", "-out", path], check=True, capture_output=True)
    with open(path, "a") as file:
        file.write(read(path + ".key"))
    return path


class UnixSMTP(smtplib.SMTP):
    """A client on a Unix socket, whose path it has for its host."""

    def _get_socket(self, host, port, timeout):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(host)
        return connection


def deliver(mode, host, port, source, content):
    options = {"source_address": (source, 0), "timeout": 10}
    if mode == "tls":
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        client = smtplib.SMTP_SSL(host, port, context=context, **options)
    elif mode == "unix":
        client = UnixSMTP(port, 1, timeout=10)
    else:
        client = smtplib.SMTP(host, port, **options)
    with client:
        client.sendmail("alice@example.net", ["user@example.org"], content)


def check_health(haproxy):
    """HAProxy itself finds every server well."""
    wait_for("health", lambda: haproxy.health() == ["L7OK"] * len(WAYS))


def check_way(server, haproxy, way, number):
    """The client's address, another one each time, is in the trace header."""
    mode, word = WAYS[way]
    host, source, shown = "127.0.0.1", "127.0.0.%d" % number, rb"127\.0\.0\.%d" % number
    if way == "v2_ipv6":
        host, source, shown = "::1", "::1", b"IPv6:::1"
    shown = rb"\[%s\]" % shown
    if way == "v1_unix_client":
        shown = b"unknown"
    elif way == "v2_unix_client":
        # HAProxy sends the command LOCAL there, as for its health checks: it speaks for itself.
        shown = rb"\[127\.0\.0\.1\]"
    content, token = message(way)
    deliver(mode, host, haproxy.ports[way], source, content)
    stored = server.delivered(token)
    same(stored, content)
    expect(rb"\(%s\)[^;]* with %s id" % (shown, word), stored.split(b";")[0])


def check_trusted_without_header(server):
    """Such a peer hears nothing."""
    with socket.create_connection(("127.0.0.1", server.ports["smtp"]), 10) as trusted:
        trusted.sendall(b"EHLO client.example\r\n")
        try:
            said = trusted.recv(100)
        except ConnectionResetError:
            said = b""
    assert not said, said


def check_stranger_with_header(server):
    """Past the proxy: another peer is served, and its header a wrong command."""
    with socket.create_connection(("127.0.0.1", server.ports["smtp"]), 10, ("127.0.0.99", 0)) as stranger:
        stranger.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\nQUIT\r\n")
        said = b"".join(iter(lambda: stranger.recv(1000), b""))
    assert [line[:3] for line in said.splitlines()] == [b"220", b"500", b"221"], said


def check_all(checks, running, binary, scratch):
    path = os.path.join(scratch, "smtp.sock")
    server = Server(
        running, binary, scratch, "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--listen", "unix:" + path,
        "--tls-self-signed", "--proxy-from", "127.0.0.1", "--proxy-from", "unix", "--domain", "example.org")
    haproxy = HAProxy(running, scratch, server, path)
    checks("HAProxy, health checks", check_health, haproxy)
    for number, way in enumerate(WAYS, 100):
        checks("HAProxy, " + way, check_way, server, haproxy, way, number)
    checks("trusted without a header", check_trusted_without_header, server)
    checks("stranger with a header", check_stranger_with_header, server)
    if checks.failed:
        print(read(server.log)[-5000:])


if __name__ == "__main__":
    sys.exit(main(["haproxy", "openssl"], check_all))
