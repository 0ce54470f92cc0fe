//! The options of the server: on the command line, in a file, or both.
//!
//! One struct serves both: clap fills it from flags, serde from TOML, under the same names. An option that neither sets is
//! `None`, and the framework's default applies.

use std::{any::TypeId, ffi::OsString, num::NonZeroU32, path::PathBuf};

use clap::{
    Arg, CommandFactory, Error, FromArgMatches, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use serde::Deserialize;
use smtpd_tower::{address::Domain, limiter::Rate};

use crate::{
    extensions::ExtensionList,
    file,
    mechanisms::Mechanism,
    mode::Mode,
    sockets,
    values::{
        Address, BareLf, Grace, Id, Lenient, LogFormat, LogLevel, NamedCertificate, Nul, Proxy,
        RuntimeKind, User,
    },
};

const LISTENERS: &str = "Listeners";
const PROXIES: &str = "Proxies";
const NAMES: &str = "Names";
const STORAGE: &str = "Recipients and storage";
const USERS: &str = "Authentication";
const TLS: &str = "TLS";
const LIMITS: &str = "Limits";
const EXTENSIONS: &str = "Extensions";
const LOG: &str = "Log";
const CORES: &str = "Cores";
const OPERATION: &str = "Operation";

/// Accepts mail by SMTP and LMTP, and stores it in a Maildir.
///
/// Without --domain, mail for any recipient is accepted, but only from this machine: other clients are rejected. With it,
/// clients may be anywhere, and only mail for these domains and for postmaster is accepted, except from users of a submission
/// listener, who may write to anyone. Nothing is ever relayed: what users submit is stored too.
#[derive(Clone, Debug, Default, Parser, Deserialize)]
#[command(name = "smtpd", version)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Options {
    /// Read options from a TOML file. Its fields are named like the options, without the leading hyphens; repeatable options
    /// are arrays. The command line overrides it
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,

    /// Whether there are passwords or tokens in that file.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) config_is_secret: bool,

    /// The names of the sockets that systemd has passed.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) passed: Vec<String>,

    /// Listen for SMTP at HOST:PORT or unix:PATH[,mode=MODE][,group=GROUP]; repeatable. A Unix socket can be used by those who
    /// may write to its file: with the usual umask, only by the user of this server. For a mail server of another user, such as
    /// Postfix: unix:/run/smtpd/lmtp,mode=0660,group=postfix. Sockets from systemd are served too, as FileDescriptorName says:
    /// smtp, smtps (as --listen-tls), submission, submissions, lmtp or http [default: 127.0.0.1:2525, if no listener is given]
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) listen: Vec<Address>,

    /// Listen for SMTP with TLS from the first byte; repeatable
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) listen_tls: Vec<Address>,

    /// Who the clients of --listen and --listen-tls are [default: either, depending on the other options]
    #[arg(long, value_name = "MODE", help_heading = LISTENERS)]
    pub(crate) mode: Option<Mode>,

    /// Like --listen with --mode submission, in addition to other listeners; repeatable
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) listen_submission: Vec<Address>,

    /// Like --listen-tls with --mode submission, in addition to other listeners; repeatable
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) listen_submissions: Vec<Address>,

    /// Listen for LMTP, for a server that is trusted: neither AUTH nor TLS is required; repeatable
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) listen_lmtp: Vec<Address>,

    /// Expect a PROXY header (version 1 or 2) from peers of this network, or `unix` for those on Unix sockets; repeatable
    #[arg(long, value_name = "CIDR", help_heading = PROXIES)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) proxy_from: Vec<Proxy>,

    /// Let peers of this network name their client by XCLIENT; repeatable
    #[arg(long, value_name = "CIDR", help_heading = PROXIES)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) xclient_from: Vec<Proxy>,

    /// Let peers of this network report by XFORWARD where their messages come from, for the log; repeatable
    #[arg(long, value_name = "CIDR", help_heading = PROXIES)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) xforward_from: Vec<Proxy>,

    /// The name of this host, as the greeting shows it [default: the system's]
    #[arg(long, value_name = "NAME", help_heading = NAMES)]
    pub(crate) hostname: Option<String>,

    /// The name of this program, as the greeting shows it [default: smtpd]
    #[arg(long, value_name = "NAME", help_heading = NAMES)]
    pub(crate) app_name: Option<String>,

    /// Accept mail for this domain, and reject other recipients with 550, except those of users at a submission listener;
    /// repeatable [default: any, from this machine]
    #[arg(long, value_name = "NAME", help_heading = STORAGE)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) domain: Vec<Domain>,

    /// Where messages are stored [default: ./mail]
    #[arg(long, value_name = "DIR", help_heading = STORAGE)]
    pub(crate) maildir: Option<PathBuf>,

    /// Accept messages and discard them, for measurements
    #[arg(long, help_heading = STORAGE)]
    pub(crate) discard: Option<bool>,

    /// What to do with CR without LF, and LF without CR, in a message [default: reject]
    #[arg(long, value_name = "POLICY", help_heading = STORAGE)]
    pub(crate) bare_lf: Option<BareLf>,

    /// What to do with NUL bytes in a message that is not declared as BINARYMIME [default: reject]
    #[arg(long, value_name = "POLICY", help_heading = STORAGE)]
    pub(crate) nul: Option<Nul>,

    /// Malformed addresses to accept [default: none; with --mode mx, common]
    #[arg(long, value_name = "LIST", value_delimiter = ',', ignore_case = true, help_heading = STORAGE)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) lenient: Vec<Lenient>,

    /// A user; repeatable. Everyone who can list processes sees a password on the command line, but not one in the file of
    /// --config
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = USERS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) user: Vec<User>,

    /// A file with a line NAME:HASH for each user, instead of --user. The hash is by Argon2, $argon2id$... or $argon2i$..., as
    /// printed by `argon2 SALT -id -e` (package argon2 of Debian). A password may be hashed as it is typed, or as SASLprep (RFC
    /// 4013) prepares it
    #[arg(long, value_name = "FILE", help_heading = USERS)]
    pub(crate) users: Option<PathBuf>,

    /// A user with a token for OAUTHBEARER and XOAUTH2, to test with; repeatable
    #[arg(long, value_name = "NAME:TOKEN", help_heading = USERS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) oauth_token: Vec<User>,

    /// The mechanisms to offer [default: PLAIN,LOGIN,CRAM-MD5,SCRAM-SHA-256,SCRAM-SHA-1; with --users PLAIN,LOGIN; with
    /// --oauth-token OAUTHBEARER,XOAUTH2 too, with --client-ca EXTERNAL]
    #[arg(long, value_name = "LIST", value_delimiter = ',', ignore_case = true, help_heading = USERS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) auth_mechanisms: Vec<Mechanism>,

    /// Accept mail only from clients that have authenticated
    #[arg(long, help_heading = USERS)]
    pub(crate) require_auth: Option<bool>,

    /// Offer PLAIN, LOGIN and tokens without TLS too: anyone who can watch the network learns them
    #[arg(long, help_heading = USERS)]
    pub(crate) allow_plaintext_auth: Option<bool>,

    /// The certificate and its chain, in PEM; with it, STARTTLS is offered. Repeatable, for certificates with keys of different
    /// kinds: a client receives the first one that it can verify, so put ECDSA before RSA. Certificates, keys and revocation
    /// lists are read again at SIGHUP, and within a minute when one of them has changed; a passphrase is read at the start only
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) tls_cert: Vec<PathBuf>,

    /// Its private key, in PEM: a file that its owner alone can read, or if that is root, its group too. Other modes cause a
    /// warning. Keys on the curve P-521 are not supported. Repeatable, in the order of --tls-cert [default: the file of
    /// --tls-cert]
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) tls_key: Vec<PathBuf>,

    /// A file with the passphrase of the keys, and of those of --sni
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub(crate) tls_key_passphrase_file: Option<PathBuf>,

    /// A certificate and its key for clients that request this name, which may be *.DOMAIN; repeatable. Others receive
    /// --tls-cert
    #[arg(long, value_name = "NAME=CERT,KEY", help_heading = TLS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) sni: Vec<NamedCertificate>,

    /// Request certificates of these authorities, in PEM, from clients, which need not have one. If there are users, EXTERNAL
    /// is offered to clients with a certificate. The client is then the user whose name is a mail address or host name in the
    /// certificate, in full: `alice@example.org`, not `alice`. If the certificate has no alternative names, the common name
    /// counts instead
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub(crate) client_ca: Option<PathBuf>,

    /// Lists of revoked certificates of clients (CRLs), in PEM. Each authority of --client-ca needs one that has not
    /// expired, or its certificates are not accepted
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub(crate) client_crl: Option<PathBuf>,

    /// Use the common name of a client's certificate as the user name if it has no alternative names [default: true]
    #[arg(long, help_heading = TLS)]
    pub(crate) client_common_name: Option<bool>,

    /// Ignore ALPN. Otherwise, clients that request other protocols than `smtp`, such as browsers, are rejected in the
    /// handshake
    #[arg(long, help_heading = TLS)]
    pub(crate) ignore_alpn: Option<bool>,

    /// Create a certificate at the start, instead of --tls-cert; no client can verify it
    #[arg(long, help_heading = TLS)]
    pub(crate) tls_self_signed: Option<bool>,

    /// Like --tls-self-signed, but keep the certificate for the next start, as smtpd-cert.pem and smtpd-key.pem beside the
    /// Maildir
    #[arg(long, help_heading = TLS)]
    pub(crate) tls_self_signed_keep: Option<bool>,

    /// Accept no mail before STARTTLS
    #[arg(long, help_heading = TLS)]
    pub(crate) require_tls: Option<bool>,

    /// Maximum size of a message in bytes; 0 for no limit [default: 1048576]
    #[arg(long, value_name = "BYTES", help_heading = LIMITS)]
    pub(crate) max_size: Option<u64>,

    /// Maximum number of recipients of a message; more receive 452 [default: 100]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub(crate) max_recipients: Option<NonZeroU32>,

    /// Maximum number of Received fields in a message, 0 for no limit; a message with more is in a loop, and rejected with 554
    /// [default: 100]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub(crate) max_hops: Option<u32>,

    /// Maximum number of sessions at a time; more clients receive 421, or are disconnected where TLS begins with the first byte
    /// [default: 10000]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub(crate) max_sessions: Option<NonZeroU32>,

    /// Number of wrong commands that end a session [default: 20]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub(crate) max_errors: Option<NonZeroU32>,

    /// Number of failed authentications that end a session [default: 5]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub(crate) max_auth_failures: Option<NonZeroU32>,

    /// Seconds of silence that end a session; the timeouts for a command line, a handshake and a message shrink with it
    /// [default: 300]
    #[arg(long, value_name = "SECONDS", help_heading = LIMITS)]
    pub(crate) timeout: Option<NonZeroU32>,

    /// How many sessions, and how many messages, a client address may begin in how many seconds [default: no limit]
    #[arg(long, value_name = "N/SECONDS", help_heading = LIMITS)]
    #[serde(deserialize_with = "file::text")]
    pub(crate) rate: Option<Rate>,

    /// Extensions to offer, by their names in EHLO: only the listed ones, or with +NAME and -NAME, the default ones with these
    /// added or removed; `all` means all. Each adds those that it needs. Off by default, because a server that only stores
    /// messages cannot keep their promises, are DELIVERBY, ETRN, FUTURERELEASE, MT-PRIORITY, NO-SOLICITING, PRDR, REQUIRETLS,
    /// RRVS: turn them on to test clients
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = EXTENSIONS)]
    #[serde(deserialize_with = "file::list")]
    pub(crate) extensions: Vec<ExtensionList>,

    /// Format of the log on standard error: text for people, or JSON for programs [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = LOG)]
    pub(crate) log_format: Option<LogFormat>,

    /// Level of the log: info has a line for each session and message, trace also every line sent and received [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = LOG)]
    pub(crate) log_level: Option<LogLevel>,

    /// Log errors only
    #[arg(long, help_heading = LOG)]
    pub(crate) quiet: Option<bool>,

    /// How to use several cores [default: threads]
    #[arg(long, value_name = "KIND", help_heading = CORES)]
    pub(crate) runtime: Option<RuntimeKind>,

    /// Number of threads that serve sessions [default: one for each core]
    #[arg(long, value_name = "N", help_heading = CORES)]
    pub(crate) threads: Option<NonZeroU32>,

    /// Serve /healthz, /readyz and /metrics by HTTP, at HOST:PORT or unix:PATH. There is neither TLS nor a password: let only
    /// your monitoring reach it, as 127.0.0.1:9025 does
    #[arg(long, value_name = "ADDR", help_heading = OPERATION)]
    #[serde(deserialize_with = "file::text")]
    pub(crate) http: Option<Address>,

    /// How long open transactions may continue after SIGTERM or SIGINT, in seconds or as 90s or 5m; a second signal ends them at
    /// once. The server ends at most a second later. What stops it has to wait that long: docker kills after 10 seconds
    /// [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = OPERATION)]
    #[serde(deserialize_with = "file::text")]
    pub(crate) grace: Option<Grace>,

    /// Become this user, by name or number, once ports are bound and keys are read; start as root for that. The Maildir is then
    /// this user's, and so is what is read again at SIGHUP: a group for this user lets it read keys
    #[arg(long, value_name = "USER", help_heading = OPERATION)]
    #[serde(deserialize_with = "file::text")]
    pub(crate) user_id: Option<Id>,

    /// The only group of that user, by name or number [default: the user's primary group]
    #[arg(long, value_name = "GROUP", help_heading = OPERATION)]
    #[serde(deserialize_with = "file::text")]
    pub(crate) group_id: Option<Id>,
}

impl Options {
    /// Reads the command line, and the file that it names.
    ///
    /// # Errors
    /// Fails with what is wrong with them, in a form that can be printed. `--help` and `--version` are returned in the same
    /// way.
    pub(crate) fn read(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, Error> {
        let usage = |fault| Error::raw(ErrorKind::ArgumentConflict, format!("{fault}\n"));
        let matches = Self::command()
            .mut_args(switch)
            .try_get_matches_from(args)
            .map_err(without_secret)?;
        let mut options = match matches.get_one::<PathBuf>("config") {
            Some(path) => file::read(path).map_err(usage)?,
            None => Self::default(),
        };
        options.config_is_secret = !options.user.is_empty() || !options.oauth_token.is_empty();
        options.update_from_arg_matches(&matches)?;
        options.passed = sockets::names();
        match options.fault() {
            Some(fault) => Err(usage(fault.to_owned())),
            None => Ok(options),
        }
    }

    /// Where messages are stored.
    pub(crate) fn maildir(&self) -> PathBuf {
        self.maildir.clone().unwrap_or_else(|| "mail".into())
    }

    /// Whether systemd has passed a socket of that name.
    pub(crate) fn is_passed(&self, name: &str) -> bool {
        self.passed.iter().any(|passed| passed == name)
    }

    /// Whether anybody can authenticate.
    pub(crate) fn has_users(&self) -> bool {
        self.has_passwords() || !self.oauth_token.is_empty()
    }

    /// Whether anybody has a password.
    pub(crate) fn has_passwords(&self) -> bool {
        !self.user.is_empty() || self.users.is_some()
    }
}

/// Keeps a password or a token out of an error, which otherwise shows the value that is wrong.
fn without_secret(mut error: Error) -> Error {
    let is_secret = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) => {
            option.starts_with("--user ") || option.starts_with("--oauth-token ")
        }
        _ => false,
    };
    if is_secret {
        let hidden = ContextValue::String("[redacted]".to_owned());
        error.insert(ContextKind::InvalidValue, hidden);
    }
    error
}

/// Lets a switch be written `--switch` and `--switch=false`, so that the command line can undo what the file says.
fn switch(arg: Arg) -> Arg {
    if arg.get_value_parser().type_id() != TypeId::of::<bool>() {
        return arg;
    }
    arg.num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .hide_possible_values(true)
        .value_name("BOOL")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(line: &str) -> Result<Options, Error> {
        Options::read(["smtpd"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_is_well_formed() {
        Options::command().mut_args(switch).debug_assert();
    }

    #[test]
    fn the_page_names_options_that_exist() {
        let command = Options::command();
        let known: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
        let page = include_str!("../README.md").split('`').skip(1).step_by(2);
        let named: Vec<_> = page.filter_map(|code| code.strip_prefix("--")).collect();
        assert!(named.len() > 20, "{named:?}");
        for name in named {
            assert!(known.contains(&name), "there is no option --{name}");
        }
    }

    #[test]
    fn every_option_is_taken() {
        let options = read(
            "--listen 127.0.0.1:0 --listen [::1]:25 --listen-tls a:465 --listen-lmtp unix:/run/lmtp \
             --mode submission --listen-submission a:587 --listen-submissions b:465 --extensions -DSN --extensions +PRDR,+rrvs \
             --proxy-from 10.0.0.0/8 --proxy-from unix --xclient-from ::1 --xforward-from 127.0.0.1 \
             --hostname mx.test --app-name x --domain a.test --domain b.test --maildir m --discard --bare-lf normalize --nul strip --lenient common,missing-brackets \
             --user a:b --auth-mechanisms plain,CRAM-MD5,scram-sha-256-plus,XOAUTH2 --oauth-token c:d --require-auth --allow-plaintext-auth \
             --tls-cert c --tls-key k --tls-key-passphrase-file p --require-tls \
             --sni a.test=c,k --sni *.b.test=c,k --client-ca f --client-crl r --client-common-name=false --ignore-alpn \
             --max-size 0 --max-recipients 1 --max-hops 8 --max-sessions 2 --max-errors 3 --max-auth-failures 4 --timeout 5 \
             --rate 6/7 --http 127.0.0.1:9025 --grace 5s --user-id smtpd --group-id 8 --log-format json --log-level trace --quiet",
        )
        .unwrap();
        assert_eq!((options.listen.len(), options.domain.len()), (2, 2));
        assert_eq!(options.proxy_from.len(), 2);
        assert_eq!(options.sni.len(), 2);
        assert_eq!(
            (options.mode, options.extensions.len()),
            (Some(Mode::Submission), 2)
        );
        assert_eq!(options.max_errors.map(NonZeroU32::get), Some(3));
        assert_eq!(options.discard, Some(true));
    }

    #[test]
    fn an_error_does_not_show_a_secret() {
        for (option, value) in [
            ("--user", ":s3cret"),
            ("--user", "s3cret"),
            ("--user", "al\u{1}ice:s3cret"),
            ("--oauth-token", "s3cret"),
            ("--oauth-token", ":s3cret"),
        ] {
            for line in [format!("{option} {value}"), format!("{option}={value}")] {
                let error = read(&line).unwrap_err();
                let text = format!("{error} {error:?}");
                assert!(!text.contains("s3cret"), "{text}");
                assert!(error.to_string().contains(option), "{error}");
            }
        }
        let error = read("--rate s3cret").unwrap_err().to_string();
        assert!(error.contains("s3cret"), "{error}");
    }

    #[test]
    fn how_cores_are_used() {
        let options = read("--runtime per-core --threads 3").unwrap();
        assert_eq!(options.runtime, Some(RuntimeKind::PerCore));
        assert_eq!(options.threads.map(NonZeroU32::get), Some(3));
        for line in ["--runtime fibers", "--threads 0"] {
            assert!(read(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("smtpd.toml");
        let text = "listen = 'a:1'\nmax-size = 1\nmax-errors = 2\nquiet = true\ndiscard = true\n";
        fs::write(&path, text).unwrap();
        let line = format!(
            "--config {} --listen b:2 --listen c:3 --max-size 5 --quiet=false",
            path.display()
        );
        let options = read(&line).unwrap();
        let listen: Vec<_> = options.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["b:2", "c:3"]);
        assert_eq!((options.max_size, options.quiet), (Some(5), Some(false)));
        assert_eq!(options.max_errors.map(NonZeroU32::get), Some(2));
        assert_eq!(options.discard, Some(true));
    }
}
