#!/usr/bin/env python3
"""The operator's guide, examples/smtpd/docs/operating.md, followed on a system that is thrown away.

    tests/interop/operating.py target/release/smtpd

systemd is started in namespaces of its own, on a copy of this system that is kept in memory. The commands of the page are run there
in their order, for an installation by hand and for the Debian package, except those that the page marks as `not run`. Then the
server is broken, and repaired with commands of the page. Where systemd cannot be started like this, the status is 77. Python's
standard library only.
"""
import os
import re
import shutil
import subprocess
import sys
import time

from peers import main, read

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
SERVER = os.path.join(ROOT, "examples/smtpd")
PAGE = os.path.join(SERVER, "docs/operating.md")
UNITS = "smtpd.socket smtpd-submissions.socket smtpd.service"

BOOT = r"""
mount --make-rprivate /
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
if [[ $(stat -f -c %T /sys/fs/cgroup) == cgroup2fs ]]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs none sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd,xattr cgroup sys/fs/cgroup/systemd
fi
for directory in dev run tmp; do mount -t tmpfs none "$directory"; done
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm mnt/old
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
echo mx.example.org >etc/hostname
hostname mx.example.org
ip link set lo up
# Nothing runs but what is tested.
rm -rf etc/systemd/system/*.wants etc/smtpd
# Images of containers forbid packages to start and stop services.
rm -f usr/sbin/policy-rc.d
mkdir -p etc/fail2ban/jail.d
printf '[sshd]\nenabled = false\n' >etc/fail2ban/jail.d/sshd.conf
cp -r "$2" root/repository
pivot_root . mnt/old
umount -l mnt/old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=multi-user.target
"""


class NotHere(Exception):
    """systemd cannot be started on this system."""


class System:
    """A booted system."""

    def __init__(self, running, scratch, repository):
        base = "/sys/fs/cgroup/systemd" if os.path.isdir("/sys/fs/cgroup/systemd") else "/sys/fs/cgroup"
        cgroup = os.path.join(base, os.path.basename(scratch))
        os.mkdir(cgroup)
        running.callback(self.remove_cgroup, cgroup)
        root = os.path.join(scratch, "system")
        os.mkdir(root)
        script = 'echo $$ >"$0/cgroup.procs"; exec unshare --mount --pid --fork --kill-child --net --uts --ipc --cgroup bash -euc "$1" boot "$2" "$3"'
        log = open(os.path.join(scratch, "boot.log"), "wb")
        self.process = subprocess.Popen(["bash", "-euc", script, cgroup, BOOT, root, repository], stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        running.callback(self.end)
        self.init = None
        end = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < end:
            children = read("/proc/%d/task/%d/children" % (self.process.pid, self.process.pid)).split()
            self.init = children[0] if children else None
            if self.init and "running" in self.try_run("systemctl is-system-running || true")[1].replace("degraded", "running"):
                return
            time.sleep(0.5)
        raise NotHere(read(os.path.join(scratch, "boot.log"))[-500:])

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @staticmethod
    def remove_cgroup(cgroup):
        for _ in range(50):
            for directory, _, _ in os.walk(cgroup, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    pass
            if not os.path.isdir(cgroup):
                return
            time.sleep(0.1)

    def try_run(self, commands, directory="/", answer=""):
        """The status and the output of these commands of a shell."""
        enter = ["nsenter", "-t", self.init, "-m", "-p", "-n", "-u", "-i", "--root"]
        clean = ["env", "-i", "HOME=/root", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        done = subprocess.run([*enter, *clean, "bash", "-eu", "-o", "pipefail", "-c", 'cd "$0"; ' + commands, directory], input=answer,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
        return done.returncode, done.stdout

    def run(self, commands, **options):
        status, said = self.try_run(commands, **options)
        assert status == 0, "status %d of\n%s\n%s" % (status, commands, said[-1500:])
        return said

    def fails(self, commands, expected):
        status, said = self.try_run(commands)
        assert status != 0, "no failure of %s" % commands
        # A line of the log may come after the reply, and the journal takes it later still. Of lines that a process writes shortly
        # before its end, as that which systemd starts for a socket, the journal does not always know the unit.
        end = time.monotonic() + 20
        while True:
            log = self.run("journalctl --no-pager -o cat -n 60")
            if expected in said + log:
                return
            assert time.monotonic() < end, (expected, said, log)
            time.sleep(0.2)


def blocks():
    """The commands of the page, under the heading of their section."""
    found, heading = {}, ""
    pattern = r"^#+ (?P<heading>[^\n]*)$|(?P<not_run><!-- not run: [^\n]* -->\n)?^(?P<indent> *)```(?P<kind>\w+)\n(?P<code>.*?)^ *```$"
    for match in re.finditer(pattern, read(PAGE), re.MULTILINE | re.DOTALL):
        if match["heading"]:
            heading = match["heading"]
        elif match["kind"] == "sh" and not match["not_run"]:
            code = re.sub("^" + match["indent"], "", match["code"], flags=re.MULTILINE)
            found.setdefault(heading, []).append(code)
    return found


def is_served(system, name):
    """A message is accepted, stored and counted."""
    system.run("""
        printf 'From: <a@example.com>\\nSubject: %s\\n\\nText\\n' >/tmp/m
        curl --no-progress-meter --crlf smtp://127.0.0.1/client.test --mail-from a@example.com --mail-rcpt bob@example.org -T /tmp/m
        grep -q '^Subject: %s' /var/lib/smtpd/mail/new/*
    """ % (name, name))


def set_up(system, commands):
    for heading, part in commands.items():
        if re.match(r"\d\. ", heading):
            for code in part:
                said = system.run(code, directory="/etc/smtpd", answer="correct horse\n")
                if "--check" in code:
                    assert "users 1\n" in said and "recipients 4\n" in said, said
    assert system.run("systemctl is-active " + UNITS).split() == ["active"] * 3
    system.run("""
        curl --no-progress-meter --crlf -k smtps://127.0.0.1/client.test --user 'alice:correct horse' \
            --mail-from alice@example.org --mail-rcpt bob@example.org -T /tmp/first
    """)
    is_served(system, "set-up")


def check_source(system, commands):
    install, units, remove = commands["From source with systemd"]
    said = system.run(install + units, directory="/root/repository")
    assert said.count("\n") < 5 and "smtpd.service: 1." in said, said
    set_up(system, commands)
    system.run(remove)
    nothing_left(system)
    system.run("rm -r /etc/smtpd")


def nothing_left(system):
    left = system.run("ss -ltnx; systemctl list-unit-files --no-pager; find /etc/systemd /usr/bin/smtpd /usr/share/doc/smtpd || true")
    left = [line for line in left.splitlines() if re.search(r"smtpd|:25 |:465 ", line) and "No such file" not in line]
    assert not left, left


def check_debian(system, commands):
    system.run("dpkg -i /root/repository/smtpd.deb")
    set_up(system, commands)


def check_chapters(system, commands):
    """The chapters after the installation, in their order."""
    done = 0
    for heading, part in commands.items():
        if heading == "From source with systemd" or re.match(r"\d\. ", heading):
            continue
        for code in part:
            system.run(code, directory="/root")
            done += 1
    assert done >= 11, done
    is_served(system, "chapters")
    assert "1" == system.run("ss -ltn | grep -c '*:465 '").strip()
    return "%d blocks of commands" % done


def check_hook(system, _):
    """A renewed certificate is served after the reload of the hook."""
    system.run("""
        mkdir -p /etc/letsencrypt/renewal-hooks/deploy /tmp/live
        install -m 0755 /usr/share/doc/smtpd/examples/certbot-hook /etc/letsencrypt/renewal-hooks/deploy/smtpd
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 -subj /CN=renewed \
            -addext subjectAltName=DNS:mx.example.org -keyout /tmp/live/privkey.pem -out /tmp/live/fullchain.pem
        export RENEWED_LINEAGE=/tmp/live
        RENEWED_DOMAINS=other.test /etc/letsencrypt/renewal-hooks/deploy/smtpd
        ! openssl x509 -noout -subject -in /etc/smtpd/cert.pem | grep renewed
        RENEWED_DOMAINS='example.org mx.example.org' /etc/letsencrypt/renewal-hooks/deploy/smtpd
    """)
    served = "openssl s_client -connect 127.0.0.1:465 </dev/null 2>&1 | grep 'subject=CN = renewed'"
    for _ in range(50):
        if system.try_run(served)[0] == 0:
            return
        time.sleep(0.1)
    raise AssertionError(system.run("journalctl -u smtpd -n 20 --no-pager"))


def check_repairs(system, commands):
    """Each is broken, shows the symptom of the page, and is repaired as the page says."""
    page = read(PAGE)
    again = commands["Start again"][0]

    def repair(command, name):
        assert command == again or command in page, command
        system.run(command)
        is_served(system, name)

    system.run("echo 'max-sise = 5' >>/etc/smtpd/smtpd.toml")
    system.fails("systemctl reload smtpd.service", "max-sise: there is no such option; the nearest is max-size")
    is_served(system, "still-served")
    system.fails("systemctl restart smtpd.service", "status=2/INVALIDARGUMENT")
    system.run("sed -i '$d' /etc/smtpd/smtpd.toml")
    repair(again, "options")

    system.run("chgrp root /etc/smtpd/key.pem; chmod 0600 /etc/smtpd/key.pem")
    system.fails("systemctl reload smtpd.service", "Permission denied")
    assert "chgrp smtpd FILE; chmod 0640 FILE" in page
    system.run("cd /etc/smtpd; chgrp smtpd key.pem; chmod 0640 key.pem; systemctl reload smtpd.service")
    is_served(system, "key")

    system.run("cp /etc/smtpd/key.pem /tmp/key.pem; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 >/tmp/other")
    system.run("cat /tmp/other >/etc/smtpd/key.pem")
    system.fails("systemctl reload smtpd.service", "the key does not fit the certificate")
    system.run("cat /tmp/key.pem >/etc/smtpd/key.pem; systemctl reload smtpd.service")

    system.run("systemctl disable --now smtpd-lmtp.socket")
    system.fails("systemctl start smtpd-lmtp.socket", "Socket service smtpd.service already active, refusing")
    repair(again, "socket")

    system.run("rm -r /var/lib/smtpd/mail")
    is_served(system, "no-maildir")
    system.run("chown -R root: /var/lib/smtpd/mail")
    deliver = "curl --no-progress-meter --crlf smtp://127.0.0.1/c --mail-from a@example.com --mail-rcpt bob@example.org -T /tmp/m"
    system.fails(deliver, "data service failed")
    repair("chown -R smtpd:smtpd /var/lib/smtpd", "owner")

    stop = "systemctl stop smtpd.socket smtpd-submissions.socket smtpd.service; "
    system.run(stop + "mount -t tmpfs -o size=100m none /var/lib/smtpd")
    system.run("chown smtpd: /var/lib/smtpd")
    repair(again, "small-disk")
    # The space is measured each five seconds, when there is a message.
    measure = "sleep 6; %s || true; sleep 1" % deliver
    system.run("head -c 40M /dev/zero >/var/lib/smtpd/large; " + measure)
    system.fails(deliver, "the disk is nearly full, messages are deferred")
    system.run("rm /var/lib/smtpd/large; " + measure)
    is_served(system, "space")
    system.run(stop + "umount /var/lib/smtpd")
    repair(again, "disk")

    system.run(stop)
    system.run("setsid python3 -c 'import socket, time; s = socket.create_server((\"\", 25)); time.sleep(99)' </dev/null >&/dev/null &")
    time.sleep(1)
    system.fails("systemctl start smtpd.socket", "Address already in use")
    assert "python3" in system.run("ss -ltnp 'sport = :25'")
    system.run("pkill -f socket.create_server")
    repair(again, "port")


def check_upgrade(system, _):
    """The socket is not closed, the service is a new process, and the options stay."""
    system.run("echo '# mine' >>/etc/smtpd/smtpd.toml")
    show = "systemctl show -P %s smtpd.%s"
    before = [system.run(show % one) for one in (("ActiveEnterTimestampMonotonic", "socket"), ("MainPID", "service"))]
    system.run("dpkg -i /root/repository/smtpd.deb; grep '# mine' /etc/smtpd/smtpd.toml")
    after = [system.run(show % one) for one in (("ActiveEnterTimestampMonotonic", "socket"), ("MainPID", "service"))]
    assert before[0] == after[0] and before[1] != after[1], (before, after)
    is_served(system, "upgrade")


def check_removal(system, _):
    """Nothing listens, nothing is left but the mail."""
    system.run("systemctl enable smtpd-lmtp.socket; dpkg --purge smtpd")
    nothing_left(system)
    system.run("ls /var/lib/smtpd/mail/new/* >/dev/null")


def repository(binary, scratch):
    """What the page expects in the repository, and the package."""
    copy = os.path.join(scratch, "repository")
    os.makedirs(os.path.join(copy, "target/release"))
    shutil.copy(binary, os.path.join(copy, "target/release/smtpd"))
    for directory in ("docs", "packaging"):
        shutil.copytree(os.path.join(SERVER, directory), os.path.join(copy, "examples/smtpd", directory))
    target = os.path.dirname(os.path.dirname(os.path.abspath(binary)))
    profile = ["--profile", "dev"] if os.path.basename(os.path.dirname(os.path.abspath(binary))) == "debug" else []
    subprocess.run(["cargo", "deb", "--quiet", "-p", "smtpd-server", "--no-build", "--no-dbgsym", *profile, "--output",
                    os.path.join(copy, "smtpd.deb")], cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": target}, check=True, timeout=120)
    return copy


def check_all(checks, running, binary, scratch):
    try:
        system = System(running, scratch, repository(binary, scratch))
    except NotHere as why:
        print("skipped: systemd does not start here: %s" % why)
        sys.exit(77)
    commands = blocks()
    checks("the installation from source", check_source, system, commands)
    checks("the installation of the package", check_debian, system, commands)
    checks("the other chapters", check_chapters, system, commands)
    checks("a renewed certificate", check_hook, system, commands)
    checks("what is broken and repaired", check_repairs, system, commands)
    checks("an upgrade", check_upgrade, system, commands)
    checks("the removal of the package", check_removal, system, commands)


if __name__ == "__main__":
    sys.exit(main(["systemd-analyze", "unshare", "nsenter", "dpkg", "cargo-deb", "argon2", "fail2ban-client", "curl", "openssl"],
                  check_all, root=True))
