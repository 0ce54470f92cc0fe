#!/usr/bin/env python3
"""HAProxy before the reference server: PROXY version 1 and 2, with fields and checksum, before TLS, on a Unix socket.

    tests/interop/haproxy.py target/release/examples/smtpd

Each message comes from an address of its own, which its Received header must show. Without haproxy the run is skipped, or
fails where CI is set. Python's standard library only.
"""
import csv
import os
import re
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import time

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
    "v1_before_tls": ("tls", b"ESMTPS"),
    "v2_before_tls": ("tls", b"ESMTPS"),
}


def free_ports(names):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: listener.getsockname()[1] for name, listener in zip(names, sockets)}
    for listener in sockets:
        listener.close()
    return ports


def start_server(binary, scratch, path):
    process = subprocess.Popen(
        [binary, "--listen", "127.0.0.1:0", "--listen-tls", "127.0.0.1:0", "--listen", "unix:" + path,
         "--maildir", os.path.join(scratch, "mail"), "--hostname", "mx.test", "--tls-self-signed",
         "--proxy-from", "127.0.0.1", "--proxy-from", "unix", "--domain", "example.org", "--log-level", "debug"],
        stdout=subprocess.PIPE, stderr=open(os.path.join(scratch, "log"), "wb"))
    ports = {}
    for _ in range(3):
        match = re.fullmatch(r"listening (\S+) (\S+)\n", process.stdout.readline().decode())
        if not match[2].startswith("unix:"):
            ports[match[1]] = int(match[2].rsplit(":", 1)[1])
    return process, ports


def start_haproxy(scratch, ports, path):
    certificate = os.path.join(scratch, "proxy.pem")
    key = certificate + ".key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=proxy.test", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with open(certificate, "ab") as file:
        file.write(open(key, "rb").read())
    config = os.path.join(scratch, "haproxy.cfg")
    with open(config, "w") as file:
        file.write(CONFIG.format(certificate=certificate, path=path, stats=os.path.join(scratch, "stats"), **ports))
    return subprocess.Popen(["haproxy", "-db", "-f", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def deliver(mode, host, port, source, token):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if mode == "tls":
        client = smtplib.SMTP_SSL(host, port, context=context, source_address=(source, 0), timeout=10)
    else:
        client = smtplib.SMTP(host, port, source_address=(source, 0), timeout=10)
    with client:
        client.sendmail("alice@example.net", ["user@example.org"], b"Subject: %s\r\n\r\n" % token)


def check_health(scratch):
    """HAProxy itself finds every server well."""
    end = time.monotonic() + 10
    results = []
    while time.monotonic() < end:
        time.sleep(0.1)
        try:
            with socket.socket(socket.AF_UNIX) as stats:
                stats.connect(os.path.join(scratch, "stats"))
                stats.sendall(b"show stat\n")
                lines = b"".join(iter(lambda: stats.recv(65536), b"")).decode().lstrip("# ").splitlines()
        except OSError:
            continue
        rows = [row for row in csv.DictReader(lines) if row["svname"] == "smtpd"]
        results = [(row["pxname"], row["status"], row["check_status"]) for row in rows]
        if len(rows) == len(WAYS) and all(row["check_status"] == "L7OK" for row in rows):
            return 0
    print("FAILED health checks: %r" % results)
    return 1


def received(scratch, token):
    new = os.path.join(scratch, "mail", "new")
    for name in os.listdir(new):
        with open(os.path.join(new, name), "rb") as file:
            content = file.read()
        if token in content:
            return content.split(b";")[0]
    raise AssertionError("not delivered")


def check_ways(scratch, ports):
    failed = 0
    for number, (way, (mode, word)) in enumerate(WAYS.items()):
        token = b"tk-" + os.urandom(8).hex().encode()
        host, source, shown = "127.0.0.1", "127.0.0.%d" % (100 + number), b"[127.0.0.%d]" % (100 + number)
        if way == "v2_ipv6":
            host, source, shown = "::1", "::1", b"[IPv6:::1]"
        try:
            deliver(mode, host, ports[way], source, token)
            trace = received(scratch, token)
            assert b"(" + shown + b")" in trace, trace
            assert b" with " + word + b" id" in trace, trace
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is a failure of this way
            failed += 1
            print("FAILED %s: %r" % (way, error))
    return failed


def check_trust(scratch, ports):
    """Past the proxy: a trusted peer without a header hears nothing, another is served and its header a wrong command."""
    failed = 0
    with socket.create_connection(("127.0.0.1", ports["smtp"]), 10) as trusted:
        trusted.sendall(b"EHLO client.example\r\n")
        try:
            said = trusted.recv(100)
        except ConnectionResetError:
            said = b""
        if said:
            failed += 1
            print("FAILED trusted without a header: %r" % said)
    with socket.create_connection(("127.0.0.1", ports["smtp"]), 10, ("127.0.0.99", 0)) as stranger:
        stranger.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\nQUIT\r\n")
        said = b"".join(iter(lambda: stranger.recv(1000), b""))
        if [line[:3] for line in said.splitlines()] != [b"220", b"500", b"221"]:
            failed += 1
            print("FAILED stranger with a header: %r" % said)
    return failed


def main():
    binary = sys.argv[1]
    if not shutil.which("haproxy") or not shutil.which("openssl"):
        print("haproxy or openssl is not installed")
        return 1 if os.environ.get("CI") else 0
    scratch = tempfile.mkdtemp(prefix="smtpd-haproxy-")
    path = os.path.join(scratch, "smtp.sock")
    processes = []
    try:
        server, ports = start_server(binary, scratch, path)
        processes.append(server)
        ports.update(free_ports(WAYS))
        processes.append(start_haproxy(scratch, ports, path))
        failed = check_health(scratch) + check_ways(scratch, ports) + check_trust(scratch, ports)
        if failed:
            print(open(os.path.join(scratch, "log")).read()[-3000:])
        print("%d passed, %d failed" % (len(WAYS) + 3 - failed, failed))
        return 1 if failed else 0
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait(40)
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
