"""Each client by the same call: it sends a message in one session, of the given mode and mechanism."""
import asyncio
import collections
import importlib.util
import os
import re
import shutil
import smtplib
import ssl
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
# Where .ci/peers puts what comes from the registries of npm and PyPI.
INSTALLED = os.path.join(HERE, "..", "..", "target", "clients")
sys.path.append(os.path.join(INSTALLED, "python"))

USER, PASSWORD, TOKEN = "alice", "secret", "token-of-alice"
BEARER = ("OAUTHBEARER", "XOAUTH2")
# By the certificate that stands in this directory: see make_certificates.
CERTIFIED = ("EXTERNAL",)
CERTIFICATES = tempfile.mkdtemp(prefix="smtpd-certificates-")
CERTIFICATE, KEY, AUTHORITY = (os.path.join(CERTIFICATES, name) for name in ("alice.pem", "alice.key", "ca.pem"))

# mode: plain, starttls or tls. mechanism: of SASL, or None. extension: DSN, SMTPUTF8 or None. path: a file with the message.
Job = collections.namedtuple("Job", "mode mechanism extension port sender recipient path message")


def run(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, **options)
    if done.returncode != 0:
        raise AssertionError("exit status %d: %s" % (done.returncode, done.stdout.decode(errors="replace")[-800:]))
    return done.stdout


def make_certificates():
    """An authority, and a certificate of it for the user."""
    request = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    authority_key, signing = (os.path.join(CERTIFICATES, name) for name in ("ca.key", "alice.csr"))
    run(request + ["-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", authority_key, "-out", AUTHORITY])
    run(request + ["-subj", "/CN=" + USER, "-keyout", KEY, "-out", signing])
    run(["openssl", "x509", "-req", "-days", "2", "-in", signing, "-CA", AUTHORITY, "-CAkey", authority_key, "-CAcreateserial",
         "-extfile", "/dev/stdin", "-out", CERTIFICATE], input=b"extendedKeyUsage=clientAuth")


def unverified(mechanism=None):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if mechanism in CERTIFIED:
        context.load_cert_chain(CERTIFICATE, KEY)
    return context


def parameters(job):
    """What stands behind the addresses of MAIL and RCPT."""
    mail = ["BODY=8BITMIME"] + {"DSN": ["RET=HDRS", "ENVID=id"], "SMTPUTF8": ["SMTPUTF8"]}.get(job.extension, [])
    return mail, ["NOTIFY=FAILURE"] if job.extension == "DSN" else []


def python(job):
    if job.mode == "tls":
        client = smtplib.SMTP_SSL("127.0.0.1", job.port, timeout=30, context=unverified(job.mechanism))
    else:
        client = smtplib.SMTP("127.0.0.1", job.port, timeout=30)
    with client:
        if job.mode == "starttls":
            client.starttls(context=unverified(job.mechanism))
        client.ehlo()
        if job.mechanism in CERTIFIED:
            client.auth(job.mechanism, lambda challenge=None: USER)
        elif job.mechanism:
            client.user, client.password = USER, PASSWORD
            name = "auth_" + job.mechanism.lower().replace("-", "_")
            client.auth(job.mechanism, getattr(client, name, None) or scram(job.mechanism))
        if job.extension == "SMTPUTF8":
            client.command_encoding = "utf-8"
        client.sendmail(job.sender, [job.recipient], job.message, *parameters(job))


def scram(mechanism):
    """SCRAM as scramp has it, in steps as smtplib wants them."""
    import scramp
    client = scramp.ScramClient([mechanism], USER, PASSWORD)

    def first(_):
        return client.get_client_first()

    def final(challenge):
        client.set_server_first(challenge.decode())
        return client.get_client_final()

    def end(challenge):
        client.set_server_final(challenge.decode())
        return ""

    steps = iter((first, final, end))
    return lambda challenge=None: next(steps)(challenge)


def aiosmtplib(job):
    import aiosmtplib as library

    async def send():
        client = library.SMTP(hostname="127.0.0.1", port=job.port, use_tls=job.mode == "tls", start_tls=job.mode == "starttls",
                              validate_certs=False, timeout=20)
        async with client:
            await client.ehlo()
            if job.mechanism:
                authenticate = getattr(client, "auth_" + job.mechanism.lower().replace("-", ""))
                await authenticate(USER, TOKEN if job.mechanism in BEARER else PASSWORD)
            mail, rcpt = parameters(job)
            await client.sendmail(job.sender, [job.recipient], job.message, mail_options=mail, rcpt_options=rcpt)

    asyncio.run(send())


def curl(job):
    scheme = "smtps" if job.mode == "tls" else "smtp"
    command = ["curl", "-sS", "-k", "%s://127.0.0.1:%d" % (scheme, job.port), "--mail-from", job.sender, "--mail-rcpt",
               job.recipient, "-T", job.path]
    if job.mode == "starttls":
        command.append("--ssl-reqd")
    if job.mechanism in BEARER:
        command += ["--user", USER + ":", "--oauth2-bearer", TOKEN]
    elif job.mechanism in CERTIFIED:
        command += ["--user", USER + ":", "--cert", CERTIFICATE, "--key", KEY]
    elif job.mechanism:
        command += ["--user", USER + ":" + PASSWORD]
    if job.mechanism:
        command += ["--login-options", "AUTH=" + job.mechanism]
    run(command, env={**os.environ, "LC_ALL": "C.UTF-8"})


def swaks(job):
    command = ["swaks", "--server", "127.0.0.1", "--port", str(job.port), "--from", job.sender, "--to", job.recipient,
               "--no-data-fixup", "--suppress-data"]
    command += {"plain": [], "starttls": ["--tls"], "tls": ["--tls-on-connect"]}[job.mode]
    if job.mechanism:
        command += ["--auth", job.mechanism, "--auth-user", USER, "--auth-password", PASSWORD]
    # With --no-data-fixup swaks neither stuffs dots nor ends the message: it is given as it goes over the wire.
    wire = job.path + ".wire"
    with open(wire, "wb") as file:
        file.write(re.sub(rb"(?m)^\.", b"..", job.message) + b".")
    run(command + ["--data", "@" + wire])


def msmtp(job):
    command = ["msmtp", "--host=127.0.0.1", "--port=%d" % job.port, "--from=" + job.sender, "--tls-certcheck=off"]
    command += {"plain": ["--tls=off"], "starttls": ["--tls=on", "--tls-starttls=on"],
                "tls": ["--tls=on", "--tls-starttls=off"]}[job.mode]
    if job.mechanism:
        secret = TOKEN if job.mechanism in BEARER else PASSWORD
        command += ["--auth=" + job.mechanism.lower(), "--user=" + USER, "--passwordeval=echo " + secret]
    else:
        command.append("--auth=off")
    if job.mechanism in CERTIFIED:
        command += ["--tls-cert-file=" + CERTIFICATE, "--tls-key-file=" + KEY]
    if job.extension == "DSN":
        command += ["--dsn-return=hdrs", "--dsn-notify=failure"]
    # msmtp takes a file of the local system, with LF at line ends.
    run(command + [job.recipient], input=job.message.replace(b"\r\n", b"\n"))


def gsasl(job):
    """It authenticates and sends nothing."""
    command = ["gsasl", "--smtp", "--connect=127.0.0.1:%d" % job.port, "--mechanism=" + job.mechanism,
               "--authentication-id=" + USER, "--password=" + PASSWORD, "--x509-ca-file=", "--quiet"]
    if job.mode == "plain":
        command.append("--no-starttls")
    elif not job.mechanism.endswith("-PLUS"):
        # Otherwise it finds that it could have had the -PLUS form, says so, and is rightly refused (RFC 5802 section 6).
        command.append("--no-cb")
    said = run(command, stdin=subprocess.DEVNULL)
    assert b"\n235 2.7.0 " in said, said[-800:]


def words(job):
    """A job as the arguments of a program."""
    secret = TOKEN if job.mechanism in BEARER else PASSWORD
    return [job.mode, job.mechanism or "", job.extension or "", str(job.port), job.sender, job.recipient, job.path, USER, secret]


def nodemailer(job):
    run(["node", os.path.join(HERE, "nodemailer.cjs"), *words(job)],
        env={**os.environ, "NODE_PATH": os.path.join(INSTALLED, "node_modules")})


def net_smtp(job):
    run([go_program(), "net/smtp", *words(job)])


def go_smtp(job):
    run([go_program(), "go-smtp", *words(job)])


def go_program():
    """The program of client.go, with the packages that Debian has below /usr/share/gocode."""
    program = os.path.join(INSTALLED, "go-client")
    source = os.path.join(HERE, "client.go")
    if not os.path.exists(program) or os.path.getmtime(program) < os.path.getmtime(source):
        os.makedirs(INSTALLED, exist_ok=True)
        subprocess.run(["go", "build", "-o", program, source], check=True, timeout=300,
                       env={**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode"})
    return program


def has_module(name):
    return importlib.util.find_spec(name) is not None


Client = collections.namedtuple("Client", "send installed modes mechanisms extensions sends", defaults=[True])
ALL_MODES = ("plain", "starttls", "tls")
PASSWORDS = ("PLAIN", "LOGIN", "CRAM-MD5")
SCRAM = ("SCRAM-SHA-1", "SCRAM-SHA-256")
PLUS = ("SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS")
EXTENSIONS = ("DSN", "SMTPUTF8")


def clients():
    """All of them, by their names: how they send, whether they are installed, and what they can do."""
    python_scram = SCRAM if has_module("scramp") else ()
    has_nodemailer = shutil.which("node") and os.path.isdir(os.path.join(INSTALLED, "node_modules", "nodemailer"))
    has_go_smtp = shutil.which("go") and os.path.isdir("/usr/share/gocode/src/github.com/emersion/go-smtp")
    return {
        "python": Client(python, True, ALL_MODES, PASSWORDS + python_scram + CERTIFIED, EXTENSIONS),
        "aiosmtplib": Client(aiosmtplib, has_module("aiosmtplib"), ALL_MODES, (*PASSWORDS, "XOAUTH2"), EXTENSIONS),
        # Whatever it is told, it takes OAUTHBEARER where that is offered, and never XOAUTH2.
        "curl": Client(curl, shutil.which("curl"), ALL_MODES, (*PASSWORDS, "OAUTHBEARER", "EXTERNAL"), ("SMTPUTF8",)),
        "swaks": Client(swaks, shutil.which("swaks"), ALL_MODES, PASSWORDS, ()),
        "msmtp": Client(msmtp, shutil.which("msmtp"), ALL_MODES, PASSWORDS + SCRAM + BEARER + CERTIFIED, ("DSN",)),
        "gsasl": Client(gsasl, shutil.which("gsasl"), ("plain", "starttls"), PASSWORDS + SCRAM + PLUS, (), sends=False),
        "nodemailer": Client(nodemailer, has_nodemailer, ALL_MODES, (*PASSWORDS, "XOAUTH2"), EXTENSIONS),
        "net/smtp": Client(net_smtp, has_go_smtp, ALL_MODES, ("PLAIN", "CRAM-MD5"), ("SMTPUTF8",)),
        "go-smtp": Client(go_smtp, has_go_smtp, ALL_MODES, ("PLAIN", "LOGIN", *BEARER), ("SMTPUTF8",)),
    }
