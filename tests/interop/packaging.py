#!/usr/bin/env python3
"""What the reference server is installed with: the units of systemd, the Debian package, the Containerfile.

    tests/interop/packaging.py target/release/smtpd

systemd does not run here: its tools read the units, and the system calls of a session are compared with the unit's filter. The
package is built by cargo-deb from the program above, and installed in a copy of this system that is thrown away. No image is
built. Without systemd's tools, strace, or root, the run is skipped, or fails where REQUIRE_PEERS is set. Python's standard library
only.
"""
import json
import os
import re
import shutil
import smtplib
import subprocess
import sys
import urllib.request

from peers import Server, expect, main, message, read

PACKAGING = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/smtpd/packaging")
UNITS = os.path.join(PACKAGING, "systemd")
# systemd-analyze security: from 0 to 10, where less is better.
MOST_EXPOSED = 2.0


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, **options)
    if done.returncode:
        raise AssertionError("%s: status %d: %s" % (command[0], done.returncode, done.stdout[-1500:]))
    return done.stdout


def check_units(binary, scratch):
    """They say nothing that systemd does not know, and name files that are there."""
    copy = os.path.join(scratch, "units")
    shutil.copytree(UNITS, copy)
    unit = os.path.join(copy, "smtpd.service")
    text = read(unit)
    expect(r"\nExecStart=/usr/bin/smtpd ", text)
    # Neither the program nor its user are installed.
    text = re.sub(r"(\nExec(?:Start|Reload)=)/usr/bin/smtpd", r"\g<1>" + os.path.abspath(binary), text)
    with open(unit, "w") as file:
        file.write(re.sub(r"\n(User|Group)=smtpd", r"\n\1=root", text))
    for name in os.listdir(copy):
        if name.endswith(".socket"):
            socket_unit = os.path.join(copy, name)
            text = read(socket_unit).replace("SocketGroup=smtpd", "SocketGroup=root")
            with open(socket_unit, "w") as file:
                file.write(text)
    said = run("systemd-analyze", "verify", *(os.path.join(copy, name) for name in os.listdir(copy)))
    about = [line for line in said.splitlines() if copy in line]
    assert not about, about


def check_exposure():
    said = run("systemd-analyze", "security", "--offline=true", os.path.join(UNITS, "smtpd.service"))
    score = float(re.search(r"exposure level for smtpd.service: ([0-9.]+)", said)[1])
    assert score <= MOST_EXPOSED, said
    return "%.1f of 10" % score


def system_calls(group):
    """Those of a group of systemd."""
    calls = set()
    for line in run("systemd-analyze", "syscall-filter", group).splitlines()[1:]:
        name = line.split("#")[0].strip()
        calls |= system_calls(name) if name.startswith("@") else {name} - {""}
    return calls


def allowed_calls():
    allowed = set()
    for line in re.findall(r"\nSystemCallFilter=(.*)", read(os.path.join(UNITS, "smtpd.service"))):
        groups = [system_calls(group) for group in line.lstrip("~").split()]
        allowed = allowed - set().union(*groups) if line.startswith("~") else allowed.union(*groups)
    return allowed


def check_calls(running, binary, scratch):
    """A server that does all that the unit lets it do needs no system call that the unit's filter refuses."""
    directory, trace = os.path.join(scratch, "traced"), os.path.join(scratch, "trace")
    os.mkdir(directory)
    wrapper = os.path.join(directory, "smtpd")
    with open(wrapper, "w") as file:
        file.write('#!/bin/sh\nexec strace -f -qq -e signal=none -o %s %s "$@"\n' % (trace, os.path.abspath(binary)))
    os.chmod(wrapper, 0o755)
    unix = "unix:%s/lmtp,mode=0660,group=0" % directory
    server = Server(running, wrapper, directory, "--listen", "127.0.0.1:0", "--listen-lmtp", unix, "--http", "127.0.0.1:0",
                    "--tls-self-signed-keep", "--user", "alice:secret")
    http = server.process.stdout.readline().decode().split(":")[-1].strip()
    content, token = message("traced")
    with smtplib.SMTP("127.0.0.1", server.ports["smtp"], "client.test", timeout=20) as client:
        client.starttls()
        client.login("alice", "secret")
        client.sendmail("a@plain.test", ["b@plain.test"], content)
    server.delivered(token)
    with urllib.request.urlopen("http://127.0.0.1:%s/metrics" % http, timeout=20) as answer:
        expect(rb"smtpd_sessions", answer.read())
    # strace passes signals on to nobody: the server is its child.
    pid = run("pgrep", "-P", str(server.process.pid)).split()[0]
    run("kill", "-s", "HUP", pid)
    server.logged("have been read again")
    run("kill", "-s", "TERM", pid)
    assert server.process.wait(40) == 0
    Server.started.remove(server)
    used = set(re.findall(r"^\d+ +(\w+)\(", read(trace), re.MULTILINE))
    assert len(used) > 30, used
    refused = used - allowed_calls()
    assert not refused, sorted(refused)
    return "%d kinds of them" % len(used)


INSTALL = r"""
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --bind /proc "$1/root/proc"
mount --bind /dev "$1/root/dev"
cp "$2" "$1/root/smtpd.deb"
exec chroot "$1/root" bash -euxc '
    dpkg -i /smtpd.deb
    test "$(stat -c "%U:%G %a" /etc/smtpd/smtpd.toml)" = "root:smtpd 640"
    test "$(systemctl is-enabled smtpd.service smtpd.socket smtpd-submissions.socket smtpd-lmtp.socket | sort -u)" = disabled
    install -d -o smtpd -g smtpd /var/lib/smtpd
    coproc setpriv --reuid smtpd --regid smtpd --clear-groups smtpd --config /etc/smtpd/smtpd.toml --listen 127.0.0.1:0
    read -r line <&"${COPROC[0]}"
    grep "^listening smtp 127.0.0.1:" <<<"$line"
    kill "$COPROC_PID"
    wait "$COPROC_PID"
    test "$(stat -c %U /var/lib/smtpd/mail)" = smtpd
    echo changed >>/etc/smtpd/smtpd.toml
    dpkg -i /smtpd.deb
    grep changed /etc/smtpd/smtpd.toml
    dpkg --purge smtpd
    test ! -e /etc/smtpd/smtpd.toml -a ! -e /usr/bin/smtpd -a -d /var/lib/smtpd/mail
'
"""


def check_debian(binary, scratch):
    """It is installed, started as its user, installed again beside a file that has been changed, and removed."""
    package, root = os.path.join(scratch, "smtpd.deb"), os.path.join(scratch, "root")
    os.mkdir(root)
    target = os.path.dirname(os.path.dirname(os.path.abspath(binary)))
    profile = os.path.basename(os.path.dirname(os.path.abspath(binary)))
    run("cargo", "deb", "--quiet", "-p", "smtpd-server", "--no-build", "--no-dbgsym", "--output", package,
        *(["--profile", "dev"] if profile == "debug" else []), env={**os.environ, "CARGO_TARGET_DIR": target})
    run("unshare", "--mount", "bash", "-euc", INSTALL, "install", root, package)
    return "%d KB" % (os.path.getsize(package) // 1024)


def check_container(running, binary, scratch):
    """What it copies and starts is there; the server starts with these options."""
    text = read(os.path.join(PACKAGING, "container/Containerfile"))
    known = r"(FROM|RUN|WORKDIR|COPY|USER|VOLUME|EXPOSE|STOPSIGNAL|ENTRYPOINT) |#|$"
    instructions = re.sub(r"\\\n", "", text).splitlines()
    unknown = [line for line in instructions if not re.match(known, line)]
    assert not unknown, unknown
    expect(r"cargo build --locked --release -p smtpd-server", text)
    program, *options = json.loads(re.search(r"\nENTRYPOINT (.*)", text)[1])
    assert program == "/smtpd", program
    # The directory of options is mounted in the image; here it is somewhere else, and so are the Maildir and the ports.
    etc = os.path.join(scratch, "etc")
    os.mkdir(etc)
    shutil.copy(os.path.join(PACKAGING, "examples/recipients"), etc)
    with open(os.path.join(etc, "smtpd.toml"), "w") as file:
        file.write('hostname = "mx.example.org"\nmode = "mx"\ndomain = ["example.org"]\nrecipients = "recipients"\n'
                   'maildir = "/var/lib/smtpd/mail"\nlisten = ["[::]:25"]\n')
    replace = {"/etc/smtpd/smtpd.toml": os.path.join(etc, "smtpd.toml"), "/mail": os.path.join(scratch, "image"),
               "[::]:2525": "[::]:0", "[::]:9025": "[::]:0"}
    assert set(replace) <= set(options), options
    process = subprocess.Popen([binary, *(replace.get(option, option) for option in options)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.callback(process.kill)
    ports = {}
    for name in (b"smtp", b"http"):
        line = process.stdout.readline()
        assert line.startswith(b"listening %s [::]:" % name), line
        ports[name] = int(line.rsplit(b":", 1)[1])
    with smtplib.SMTP("127.0.0.1", ports[b"smtp"], "client.test", timeout=20) as client:
        client.sendmail("a@plain.test", ["abuse@example.org"], "Subject: image\r\n\r\nText\r\n")
        client.mail("a@plain.test")
        assert client.rcpt("nobody@example.org")[0] == 550
    assert os.listdir(os.path.join(scratch, "image/new"))
    process.terminate()
    assert process.wait(40) == 0
    return "no image was built"


def check_all(checks, running, binary, scratch):
    checks("systemd reads the units", check_units, binary, scratch)
    checks("the exposure of the service", check_exposure)
    checks("the system calls of the service", check_calls, running, binary, scratch)
    if shutil.which("cargo-deb"):
        checks("the Debian package", check_debian, binary, scratch)
    else:
        print("skipped the Debian package: cargo-deb is not installed")
    checks("the Containerfile", check_container, running, binary, scratch)


if __name__ == "__main__":
    sys.exit(main(["systemd-analyze", "strace", "unshare", "dpkg"], check_all, root=True))
