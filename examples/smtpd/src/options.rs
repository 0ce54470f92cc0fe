//! The options of the server: on the command line, in a file, or both.
//!
//! One struct serves both: `arguments` turns the file into a command line. An option that neither sets is `None`, and the
//! framework's default applies.

use std::{any::TypeId, ffi::OsString, num::NonZeroU32, path::PathBuf, time::Duration};

use clap::{Arg, Command, CommandFactory, FromArgMatches, Parser};
use smtpd_tower::{address::Domain, limiter::Rate};

use crate::{
    amounts,
    arguments::{self, Arguments, Given, Unreadable},
    extensions::ExtensionList,
    guard::GuardOptions,
    limits::LimitOptions,
    mechanisms::Mechanism,
    mistakes::Mistakes,
    mode::Mode,
    sockets::{Passing, SocketName},
    timeouts::TimeoutOptions,
    values::{
        Address, BareLf, Id, Lenient, LogFormat, LogLevel, NamedCertificate, Newline, Nul, Proxy,
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
const CLIENTS: &str = "Unwelcome clients";
const EXTENSIONS: &str = "Extensions";
const LOG: &str = "Log";
const CORES: &str = "Cores";
const OPERATION: &str = "Operation";

/// Accepts mail by SMTP and LMTP, and stores it in a Maildir.
///
/// Without --domain, mail for any recipient is accepted, but only from this machine: other clients are rejected. With it,
/// clients may be anywhere, and only mail for these domains and for postmaster is accepted, except from users of a submission
/// listener, who may write to anyone. Nothing is ever relayed: what users submit is stored too.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "smtpd", version)]
pub(crate) struct Options {
    /// Read options from a TOML file. Its fields are named like the options, without the leading hyphens; repeatable options
    /// are arrays. Relative paths in it begin at its directory. The command line overrides it. At SIGHUP it is read again
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Read all options and files, print all mistakes in them, or else what would be served, and exit: with 0 if there is no
    /// mistake, 1 if files are wrong, and 2 if options are. Nothing is bound or written
    #[arg(long)]
    pub(crate) check: bool,

    /// Where each option was set.
    #[arg(skip)]
    pub(crate) given: Given,

    /// With --check: the names of the sockets that systemd passes to the server, such as smtp,submissions. Options that need
    /// one of them are then judged as they are under systemd; without it, they cause a warning
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) sockets: Vec<SocketName>,

    /// The sockets that systemd has passed.
    #[arg(skip)]
    pub(crate) passed: Passing,

    /// Listen for SMTP at HOST:PORT or unix:PATH, optionally followed by ,mode=MODE and ,group=GROUP; repeatable. A Unix socket
    /// can be used by those who may write to its file: with the usual umask, only by the user of this server. For a mail server
    /// of another user, such as Postfix: unix:/run/smtpd/lmtp,mode=0660,group=postfix. Sockets from systemd are served too, as
    /// FileDescriptorName says: smtp, smtps (as --listen-tls), submission, submissions, lmtp or http [default: 127.0.0.1:2525,
    /// if no listener is given]
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    pub(crate) listen: Vec<Address>,

    /// Listen for SMTP with TLS from the first byte; repeatable
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    pub(crate) listen_tls: Vec<Address>,

    /// Who the clients of --listen and --listen-tls are [default: either, depending on the other options]
    #[arg(long, value_name = "MODE", help_heading = LISTENERS)]
    pub(crate) mode: Option<Mode>,

    /// Like --listen with --mode submission, in addition to other listeners; repeatable
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    pub(crate) listen_submission: Vec<Address>,

    /// Like --listen-tls with --mode submission, in addition to other listeners; repeatable
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    pub(crate) listen_submissions: Vec<Address>,

    /// Listen for LMTP, for a server that is trusted: neither AUTH nor TLS is required; repeatable
    #[arg(long, value_name = "ADDR", help_heading = LISTENERS)]
    pub(crate) listen_lmtp: Vec<Address>,

    /// Expect a PROXY header (version 1 or 2) from peers of this network, or `unix` for those on Unix sockets; repeatable
    #[arg(long, value_name = "CIDR", help_heading = PROXIES)]
    pub(crate) proxy_from: Vec<Proxy>,

    /// Let peers of this network name their client by XCLIENT; repeatable
    #[arg(long, value_name = "CIDR", help_heading = PROXIES)]
    pub(crate) xclient_from: Vec<Proxy>,

    /// Let peers of this network report by XFORWARD where their messages come from, for the log; repeatable
    #[arg(long, value_name = "CIDR", help_heading = PROXIES)]
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
    pub(crate) domain: Vec<Domain>,

    /// Accept these recipients of --domain only, and reject others with 550: a file with an address in each line, such as
    /// alice@example.org, or @example.org for everything in a domain, or *@*.example.org for its subdomains; # begins a comment.
    /// The case of letters does not matter, and postmaster is always accepted. Add abuse@ of each domain (RFC 2142). At SIGHUP it is read again [default: every
    /// address in --domain]
    #[arg(long, value_name = "FILE", help_heading = STORAGE)]
    pub(crate) recipients: Option<PathBuf>,

    /// What begins a detail in the addresses of --recipients: with +, mail to alice+news is for alice [default: none]
    #[arg(long, value_name = "CHAR", help_heading = STORAGE)]
    pub(crate) recipient_delimiter: Option<char>,

    /// Where messages are stored [default: ./mail]
    #[arg(long, value_name = "DIR", help_heading = STORAGE)]
    pub(crate) maildir: Option<PathBuf>,

    /// How lines end in the Maildir: as they are sent (crlf), or as in other files (lf), which Courier expects. Signatures by
    /// DKIM are not affected [default: crlf]
    #[arg(long, value_name = "KIND", help_heading = STORAGE)]
    pub(crate) maildir_newline: Option<Newline>,

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
    pub(crate) lenient: Vec<Lenient>,

    /// A user; repeatable. Everyone who can list processes sees a password on the command line, but not one in the file of
    /// --config
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = USERS)]
    pub(crate) user: Vec<User>,

    /// A file with a line NAME:HASH for each user, instead of --user. Clients log in with the whole NAME in any case, `bob` or
    /// `bob@example.com`, whichever is there; an address sends as itself only. The hash is by Argon2, $argon2id$... or
    /// $argon2i$..., as printed by `argon2 SALT -id -k 19456 -t 2 -p 1 -e` (package argon2 of Debian). A password may be hashed as
    /// it is typed, or as SASLprep (RFC 4013) prepares it. At SIGHUP the file is read again
    #[arg(long, value_name = "FILE", help_heading = USERS)]
    pub(crate) users: Option<PathBuf>,

    /// A user with a token for OAUTHBEARER and XOAUTH2, to test with; repeatable
    #[arg(long, value_name = "NAME:TOKEN", help_heading = USERS)]
    pub(crate) oauth_token: Vec<User>,

    /// The mechanisms to offer [default: PLAIN,LOGIN,CRAM-MD5,SCRAM-SHA-256,SCRAM-SHA-1; with --users PLAIN,LOGIN; with
    /// --oauth-token OAUTHBEARER,XOAUTH2 too, with --client-ca EXTERNAL]
    #[arg(long, value_name = "LIST", value_delimiter = ',', ignore_case = true, help_heading = USERS)]
    pub(crate) auth_mechanisms: Vec<Mechanism>,

    /// Accept mail only from clients that have authenticated
    #[arg(long, help_heading = USERS)]
    pub(crate) require_auth: Option<bool>,

    /// Offer PLAIN, LOGIN and tokens without TLS too: anyone who can watch the network learns them
    #[arg(long, help_heading = USERS)]
    pub(crate) allow_plaintext_auth: Option<bool>,

    /// The certificate and its chain, in PEM; with it, STARTTLS is offered. Repeatable, for certificates with keys of different
    /// kinds: a client receives the first one that it can verify, so put ECDSA before RSA. Certificates, keys and revocation
    /// lists are read again at SIGHUP, and within a minute when one of them has changed
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub(crate) tls_cert: Vec<PathBuf>,

    /// Its private key, in PEM: a file that its owner alone can read, or if that is root, its group too. Other modes cause a
    /// warning. Keys on the curve P-521 are not supported. Repeatable, in the order of --tls-cert [default: the file of
    /// --tls-cert]
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub(crate) tls_key: Vec<PathBuf>,

    /// A file with the passphrase of the key, and of those of --sni
    #[arg(long, value_name = "FILE", help_heading = TLS)]
    pub(crate) tls_key_passphrase_file: Option<PathBuf>,

    /// A certificate and its key for clients that request this name, which may be *.DOMAIN; repeatable. Others receive
    /// --tls-cert
    #[arg(long, value_name = "NAME=CERT,KEY", help_heading = TLS)]
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

    #[command(flatten)]
    pub(crate) limits: LimitOptions,

    #[command(flatten)]
    pub(crate) timeouts: TimeoutOptions,

    /// How many sessions, and how many messages, a client address may begin in how much time, such as 100/1m [default: no
    /// limit]
    #[arg(long, value_name = "N/DURATION", value_parser = amounts::rate, help_heading = LIMITS)]
    pub(crate) rate: Option<Rate>,

    /// How many messages a client address may begin in how much time, instead of what --rate says
    #[arg(long, value_name = "N/DURATION", value_parser = amounts::rate, help_heading = LIMITS)]
    pub(crate) message_rate: Option<Rate>,

    /// How many recipients a client address may name in how much time, over all its messages; more receive 451 [default: no
    /// limit]
    #[arg(long, value_name = "N/DURATION", value_parser = amounts::rate, help_heading = LIMITS)]
    pub(crate) recipient_rate: Option<Rate>,

    /// Maximum number of sessions of a client address at a time; more receive 421 [default: no limit]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    pub(crate) max_sessions_per_client: Option<NonZeroU32>,

    #[command(flatten)]
    pub(crate) guard: GuardOptions,

    /// Watch a client for this time before it is greeted, as in 6s, and greet it at once when it talks too early: programs that
    /// send spam often do. Users and clients of LMTP are greeted at once [default: none]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration_or_none, help_heading = CLIENTS)]
    pub(crate) greeting_delay: Option<Duration>,

    /// Reject clients that talk before the greeting with 554, except users and clients of LMTP
    #[arg(long, help_heading = CLIENTS)]
    pub(crate) refuse_early_talkers: Option<bool>,

    /// Reject clients that do not wait for the reply to EHLO or DATA, as RFC 2920 requires, with 554, except users and clients
    /// of LMTP
    #[arg(long, help_heading = CLIENTS)]
    pub(crate) strict_pipelining: Option<bool>,

    /// Delay the first rejection in a session by this time, the second by twice as much, and so on up to 30 seconds
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = CLIENTS)]
    pub(crate) tarpit: Option<Duration>,

    /// Defer the first message of an unknown client, sender and recipient with 450 for this time, such as 5m: programs that send
    /// spam often do not try again
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration, help_heading = CLIENTS)]
    pub(crate) greylist: Option<Duration>,

    /// Where to keep what --greylist has learned: read at the start, and written every ten minutes and at the end
    #[arg(long, value_name = "FILE", help_heading = CLIENTS)]
    pub(crate) greylist_file: Option<PathBuf>,

    /// Look up the host name of each client, and confirm it by its address, for Received fields and --greylist
    #[arg(long, help_heading = CLIENTS)]
    pub(crate) reverse_dns: Option<bool>,

    /// Exempt clients of this network, or `unix` for Unix sockets, from --tarpit, --greylist, rates and
    /// --max-sessions-per-client; repeatable. --tarpit and --greylist always exempt this machine
    #[arg(long, value_name = "CIDR", help_heading = CLIENTS)]
    pub(crate) exempt: Vec<Proxy>,

    /// Extensions to offer, by their names in EHLO: only the listed ones, or with +NAME and -NAME, the default ones with these
    /// added or removed; `all` means all. Each adds those that it needs. Off by default, because a server that only stores
    /// messages cannot keep their promises, are DELIVERBY, ETRN, FUTURERELEASE, MT-PRIORITY, NO-SOLICITING, PRDR, REQUIRETLS,
    /// RRVS: turn them on to test clients
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = EXTENSIONS)]
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
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = CORES)]
    pub(crate) threads: Option<NonZeroU32>,

    /// Serve /healthz, /readyz and /metrics by HTTP, at HOST:PORT or unix:PATH. There is neither TLS nor a password: let only
    /// your monitoring reach it, as 127.0.0.1:9025 does
    #[arg(long, value_name = "ADDR", help_heading = OPERATION)]
    pub(crate) http: Option<Address>,

    /// How long open transactions may continue after SIGTERM or SIGINT; a second signal ends them at
    /// once. The server ends at most a second later. What stops it has to wait that long: docker kills after 10 seconds
    /// [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = amounts::duration_or_none, help_heading = OPERATION)]
    pub(crate) grace: Option<Duration>,

    /// Become this user, by name or number, once ports are bound and keys are read; start as root for that. The Maildir is then
    /// this user's, and so is what is read again at SIGHUP: a group for this user lets it read keys
    #[arg(long, value_name = "USER", help_heading = OPERATION)]
    pub(crate) user_id: Option<Id>,

    /// The only group of that user, by name or number [default: the user's primary group]
    #[arg(long, value_name = "GROUP", help_heading = OPERATION)]
    pub(crate) group_id: Option<Id>,
}

impl Options {
    /// Reads the command line, and the file that it names.
    ///
    /// # Errors
    /// Fails with what is wrong with them, in a form that can be printed. `--help` and `--version` are returned in the same
    /// way.
    #[cfg(test)]
    pub(crate) fn read(
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Self, Unreadable> {
        let args: Vec<_> = args.into_iter().map(Into::into).collect();
        whole(Self::of(&args, None)?)
    }

    /// Reads what can be read of the command line and the file. The mistakes are those in the other options.
    ///
    /// # Errors
    /// Fails if nothing can be read, or there is something else to print.
    pub(crate) fn read_partly(args: &[OsString]) -> Result<(Self, Mistakes), Unreadable> {
        Self::of(args, None)
    }

    /// Reads them again, for a server that runs with these options. It keeps those that cannot change.
    ///
    /// # Errors
    /// Fails with everything that is wrong with them.
    pub(crate) fn read_again(&self, args: &[OsString]) -> Result<Self, Unreadable> {
        whole(Self::of(args, Some(self))?)
    }

    fn of(args: &[OsString], running: Option<&Self>) -> Result<(Self, Mistakes), Unreadable> {
        let given = running.map(|running| &running.given);
        let Arguments {
            matches,
            given,
            mistakes: wrong,
        } = arguments::read(&Self::arguments(), args, given)?;
        let options = Self::from_arg_matches(&matches);
        let options = options.map_err(|error| Unreadable::CommandLine(Box::new(error)))?;
        let mut mistakes = Mistakes::default();
        mistakes.of_options(wrong);
        // Those of a running server were taken, and are no longer in the environment.
        let passed = match running {
            Some(running) => running.passed.clone(),
            None => Passing::new(&options),
        };
        let options = Self {
            given,
            passed,
            ..options
        };
        Ok((options.without_dependents(), mistakes))
    }

    fn arguments() -> Command {
        Self::command().mut_args(switch)
    }
}

fn whole((options, mistakes): (Options, Mistakes)) -> Result<Options, Unreadable> {
    mistakes.or(Some(options)).map_err(Unreadable::Mistakes)
}

/// Lets a switch be written `--switch` and `--switch=false`, so that the command line can undo what the file says.
fn switch(arg: Arg) -> Arg {
    if arg.get_value_parser().type_id() != TypeId::of::<bool>() || arg.get_id() == "check" {
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
    use super::*;

    fn read(line: &str) -> Result<Options, Unreadable> {
        Options::read(["smtpd"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn a_reload_forgets_the_sockets_of_systemd() {
        let mut options = read("--mode mx --domain a.test --user alice:secret").unwrap();
        options.passed = Passing::Known(vec!["smtp".to_owned(), "submission".to_owned()]);
        let args = ["smtpd", "--mode", "mx"].map(OsString::from);
        let again = options.read_again(&args).unwrap();
        assert_eq!(again.passed, options.passed);
    }

    #[test]
    fn the_command_is_well_formed() {
        Options::arguments().debug_assert();
    }

    #[test]
    fn the_page_names_options_that_exist() {
        let command = Options::command();
        let known: Vec<_> = command.get_arguments().filter_map(Arg::get_long).collect();
        let page = include_str!("../README.md").split('`').skip(1).step_by(2);
        let named: Vec<_> = page.filter_map(|code| code.strip_prefix("--")).collect();
        assert!(named.len() > 20, "{named:?}");
        for name in named.iter().filter_map(|named| named.split(' ').next()) {
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
             --rate 6/7 --http 127.0.0.1:9025 --grace 5s --user-id smtpd --group-id 8 --message-rate 8/1m --recipient-rate 9/1h --max-sessions-per-client 2 --tarpit 1s --greylist 5m \
             --greylist-file g --reverse-dns --exempt 192.0.2.0/24 --exempt unix --recipients r --recipient-delimiter + \
             --maildir-newline lf --log-format json --log-level trace --quiet",
        )
        .unwrap();
        assert_eq!((options.listen.len(), options.domain.len()), (2, 2));
        assert_eq!(options.proxy_from.len(), 2);
        assert_eq!(options.sni.len(), 2);
        assert_eq!(
            (options.mode, options.extensions.len()),
            (Some(Mode::Submission), 2)
        );
        assert_eq!(options.limits.max_size, Some(0));
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
        for line in ["--user a:b s3cret", "--user=a:b s3cret"] {
            let error = read(line).unwrap_err().to_string();
            assert!(
                error.contains("--user: ") && !error.contains("s3cret"),
                "{error}"
            );
        }
        let error = read("--mode s3cret").unwrap_err().to_string();
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
}
