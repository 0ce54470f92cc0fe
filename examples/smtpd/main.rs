//! The reference server: SMTP, SMTP over TLS and LMTP into a Maildir.
//!
//! It is also a tour of the framework. This file holds what every server has: a [`pipeline`] of services, one for each
//! phase of a session, and a [`server`] around it. The rest is in a file each:
//!
//! | file | what it shows |
//! |---|---|
//! | `message_log.rs` | a layer of one's own |
//! | `users.rs`, `users_file.rs` | authentication, by passwords, by their hashes, or by a certificate |
//! | `config.rs`, `extensions.rs` | limits, timeouts, what is required, extensions |
//! | `mode.rs` | listeners for servers, for users, or for both |
//! | `secrets.rs` | who else may read the files that hold passwords |
//! | `tls.rs` | certificates, and new ones while the server runs |
//! | `listen.rs` | several listeners, on TCP and Unix sockets |
//! | `cores.rs` | one runtime with several threads, or one for each core |
//! | `log/` | hooks, and a log that mail never waits for |
//! | `options.rs`, `values.rs`, `file.rs`, `faults.rs` | the command line and the file of options, and what cannot work of it |
#![forbid(unsafe_code)]

mod config;
mod cores;
mod extensions;
mod faults;
mod file;
mod listen;
mod log;
mod message_log;
mod mode;
mod options;
mod secrets;
mod signals;
mod tls;
mod users;
mod users_file;
mod values;

use std::{
    env,
    error::Error,
    io::{self, Write as _},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use smtpd_tower::{
    BoxError, Connect, Data, Domain, Helo, Mail, PhaseService, Pipeline, Profile, ProxyProtocol,
    Rcpt, Reply, Request, Server,
    deliver::{Discard, Maildir},
    handler_fn,
    layer::{
        CondLayer, DomainFilterLayer, HopLimitLayer, OwnSenderLayer, RateLimitLayer, ReceivedLayer,
        SubmissionFieldsLayer,
    },
    smtpd_core::HoldUntil,
    system_hostname,
};
use tower::ServiceBuilder;

use crate::{
    cores::Cores, log::Log, message_log::MessageLogLayer, options::Options, signals::Signals,
    users::Users, values::Proxy,
};

/// How long the sessions may go on once the server has been told to end.
const GRACE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let options = Options::read(env::args_os()).unwrap_or_else(|error| error.exit());
    let log = match Log::start(&options) {
        Ok(log) => log,
        Err(error) => {
            let _ = writeln!(io::stderr(), "smtpd: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = cores::main_runtime(&options).map_err(BoxError::from);
    let ended = runtime.and_then(|runtime| {
        let ended = runtime.block_on(run(&options, &log));
        // Do not wait for calls that are still blocked, for instance by a disk that hangs: no client was told that they are
        // done. Others are about to end, and remove their temporary files.
        runtime.shutdown_timeout(Duration::from_millis(500));
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.say(&format!("smtpd: {}", with_causes(&*error)));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options, log: &Log) -> Result<(), BoxError> {
    let mut signals = Signals::catch()?;
    secrets::warn(options);
    let server = server(options, pipeline(options).await?)?;
    tls::keep_fresh(&server, signals::hangup()?);
    let cores = Cores::start(options)?;
    let bound = listen::bind(options, &cores).await?;
    let mut serving = listen::serve(bound, options, &server, &cores, log.lines());

    tokio::select! {
        () = signals.next() => tracing::info!("shutting down"),
        // A listener ends by itself only where it fails.
        Some(ended) = serving.join_next() => ended??,
    }
    let handle = server.handle();
    tokio::select! {
        () = handle.shutdown(GRACE) => {}
        () = signals.next() => handle.shutdown(Duration::ZERO).await,
    }
    while let Some(ended) = serving.join_next().await {
        ended??;
    }
    Ok(())
}

/// Who decides on what. AUTH is not offered where nobody answers it.
async fn pipeline(options: &Options) -> Result<Pipeline, BoxError> {
    // Sessions and messages are counted apart, each in a table of its own.
    let rate_limit = || options.rate.map(RateLimitLayer::new);
    let domains = options.domain.iter().map(Domain::as_str);
    let anywhere = !options.domain.is_empty();
    let submission = options.has_submission();

    let connect = ServiceBuilder::new()
        .option_layer(rate_limit())
        .service(handler_fn(move |request| welcome(request, anywhere)));
    let mail = ServiceBuilder::new()
        .option_layer(rate_limit())
        .option_layer(submission.then(|| CondLayer::new(is_of_user, own_sender(options))))
        .service(handler_fn(accept));
    let rcpt = ServiceBuilder::new()
        .option_layer(
            anywhere.then(|| CondLayer::new(is_of_stranger, DomainFilterLayer::new(domains))),
        )
        .service(handler_fn(async |_: Request<Rcpt>| {}));
    let data = ServiceBuilder::new()
        .option_layer(tracing::enabled!(tracing::Level::INFO).then_some(MessageLogLayer))
        .option_layer(submission.then(|| CondLayer::new(is_of_user, SubmissionFieldsLayer::new())))
        .service(store(options).await?);

    let pipeline = Pipeline::new()
        .connect(connect)
        .helo(handler_fn(any_name))
        .mail(mail)
        .rcpt(rcpt)
        .data(data);
    let Some(users) = Users::new(options)? else {
        return Ok(pipeline);
    };
    for warning in users.warnings(&options.mechanisms()) {
        tracing::warn!("{warning}");
    }
    Ok(pipeline.auth(handler_fn(move |request| users.clone().login(request))))
}

fn is_of_user<P>(request: &Request<P>) -> bool {
    let profile = request.session().profile();
    profile.is_some_and(Profile::is_submission)
}

fn is_of_stranger<P>(request: &Request<P>) -> bool {
    !is_of_user(request)
}

/// Greets clients of this machine, and others only where they have to authenticate, or where it is said for which domains
/// mail is taken.
async fn welcome(request: Request<Connect>, anywhere: bool) -> Result<(), Reply> {
    if anywhere || is_of_user(&request) || request.session().peer().is_local() {
        Ok(())
    } else {
        Err(Reply::rejected("No mail from other machines here"))
    }
}

/// Takes any name that a client gives itself. `HeloCheckLayer` around it would refuse forged ones.
async fn any_name(_: Request<Helo>) {}

/// Takes any sender. Only who has a clock can tell that a message is to be held until a time that has passed.
async fn accept(request: Request<Mail>) -> Result<(), Reply> {
    HoldUntil::resolve(request.parameters(), SystemTime::now()).map(drop)
}

/// Users send under their own name, at any domain where none is said.
fn own_sender(options: &Options) -> OwnSenderLayer {
    match &*options.domain {
        [] => OwnSenderLayer::in_any_domain(),
        domains => OwnSenderLayer::in_domains(domains.iter().map(Domain::as_str)),
    }
}

/// Where messages go.
async fn store(options: &Options) -> Result<PhaseService<Data>, BoxError> {
    if options.discard == Some(true) {
        return Ok(PhaseService::new(Discard));
    }
    let maildir = Maildir::new(options.maildir());
    if let Some(parent) = maildir.path().parent() {
        tokio::fs::create_dir_all(parent).await?;
    }
    maildir.create().await?;
    // What a crash has left is of no use to anybody after a day and a half.
    maildir.clean_tmp(Duration::from_secs(36 * 3600)).await?;
    Ok(PhaseService::new(
        ServiceBuilder::new()
            .layer(ReceivedLayer::new())
            .service(maildir),
    ))
}

/// A server of that pipeline.
fn server(options: &Options, pipeline: Pipeline) -> Result<Server, BoxError> {
    let hostname = options.hostname.clone().unwrap_or_else(system_hostname);
    let tls = tls::config(options, &hostname)?;
    let mut server = Server::new(hostname, pipeline)
        .configure(|config| config::apply(options, config))
        .max_hops(match options.max_hops {
            Some(0) => None,
            hops => Some(hops.unwrap_or(HopLimitLayer::DEFAULT)),
        })
        .on_close(log::session);
    if let Some(sessions) = options.max_sessions {
        server = server.max_sessions(usize::try_from(sessions.get())?);
    }
    if let Some(tls) = tls {
        server = server.tls(tls);
    }
    if !options.domain.is_empty() {
        server = server.domains(options.domain.iter().map(Domain::as_str));
    }
    Ok(behind_proxies(options, server))
}

/// The same server, which believes some proxies.
fn behind_proxies(options: &Options, mut server: Server) -> Server {
    if let Some(peers) = Proxy::trusted(&options.proxy_from) {
        server = server.proxy_protocol(ProxyProtocol::from_trusted(peers));
    }
    if let Some(peers) = Proxy::trusted(&options.xclient_from) {
        server = server.xclient_from(peers);
    }
    if let Some(peers) = Proxy::trusted(&options.xforward_from) {
        server = server.xforward_from(peers);
    }
    server
}

/// An error in one line, with what has caused it.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use smtpd_tower::PeerAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// What a server of these options says to a client that says all this at once.
    async fn replies(options: &str, peer: [u8; 4], said: &str) -> String {
        let args = ["smtpd", "--discard"]
            .into_iter()
            .chain(options.split_whitespace());
        let options = Options::read(args).unwrap();
        let server = server(&options, pipeline(&options).await.unwrap()).unwrap();
        let profile = options.mode.map(|mode| mode.profile(false));
        let server = config::at(&options, &server, profile);
        let (mut client, io) = duplex(1 << 16);
        client.write_all(said.as_bytes()).await.unwrap();
        let mut heard = String::new();
        let serving = server.serve_connection(io, PeerAddr::from((peer, 4711)));
        let (_, read) = tokio::join!(serving, client.read_to_string(&mut heard));
        read.unwrap();
        heard
    }

    fn codes(replies: &str) -> Vec<&str> {
        replies.lines().filter_map(|line| line.get(..3)).collect()
    }

    const HERE: [u8; 4] = [127, 0, 0, 1];
    const ELSEWHERE: [u8; 4] = [192, 0, 2, 1];
    const MAIL: &str = "HELO a.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@Example.Org>\r\nRCPT TO:<a@x.test>\r\n\
        RCPT TO:<Postmaster>\r\nDATA\r\nHello\r\n.\r\nQUIT\r\n";

    #[tokio::test]
    async fn without_domains_nobody_elsewhere_finds_an_open_door() {
        let here = replies("", HERE, MAIL).await;
        let taken = [
            "220", "250", "250", "250", "250", "250", "354", "250", "221",
        ];
        assert_eq!(codes(&here), taken);
        for options in ["", "--user alice:secret"] {
            let elsewhere = replies(options, ELSEWHERE, "QUIT\r\n").await;
            assert!(elsewhere.starts_with("554 "), "{elsewhere}");
        }
    }

    #[tokio::test]
    async fn a_client_that_its_proxy_does_not_name_is_not_of_this_machine() {
        let options = "--proxy-from 127.0.0.1 --xclient-from 127.0.0.1";
        let (unknown, unix) = ("PROXY UNKNOWN\r\n", "\r\n\r\n\0\r\nQUIT\n\x21\0\0\0");
        for header in [unknown, unix] {
            let heard = replies(options, HERE, &format!("{header}QUIT\r\n")).await;
            assert!(heard.starts_with("554 "), "{heard}");
        }
        let itself = "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0EHLO a.test\r\nQUIT\r\n";
        let heard = replies(options, HERE, itself).await;
        assert!(
            heard.starts_with("220 ") && heard.contains("XCLIENT"),
            "{heard}"
        );
    }

    #[tokio::test]
    async fn with_domains_no_other_is_relayed_for() {
        for peer in [HERE, ELSEWHERE] {
            let heard = replies("--domain example.org", peer, MAIL).await;
            let taken = [
                "220", "250", "250", "250", "550", "250", "354", "250", "221",
            ];
            assert_eq!(codes(&heard), taken);
        }
    }

    #[tokio::test]
    async fn a_message_that_loops_is_rejected() {
        let said = |hops| {
            let header = "Received: from a\r\n".repeat(hops);
            format!(
                "HELO a.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@a.test>\r\nDATA\r\n{header}\r\n.\r\nQUIT\r\n"
            )
        };
        for (options, limit) in [
            ("", 100),
            ("--max-hops 3", 3),
            ("--max-hops 130", 130),
            ("--mode mx --domain a.test", 100),
            ("--mode mx --domain a.test --max-hops 130", 130),
        ] {
            for (hops, reply) in [(limit, "250 2.0.0"), (limit + 1, "554 5.4.6 Too many hops")] {
                let heard = replies(options, HERE, &said(hops)).await;
                let (_, after) = heard.split_once("\r\n354 ").unwrap();
                let answered = after.lines().nth(1).unwrap();
                assert!(answered.starts_with(reply), "{options}, {hops}: {heard}");
            }
        }
    }

    #[tokio::test]
    async fn a_nul_in_a_message_is_rejected_left_out_or_passed() {
        let said =
            "HELO a.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@a.test>\r\nDATA\r\na\0b\r\n.\r\nQUIT\r\n";
        for (options, reply) in [
            ("", "554"),
            ("--nul reject", "554"),
            ("--nul strip", "250"),
            ("--nul pass", "250"),
        ] {
            let heard = replies(options, HERE, said).await;
            assert_eq!(codes(&heard)[5..], [reply, "221"], "{options}: {heard}");
        }
    }

    #[tokio::test]
    async fn faults_in_addresses_are_overlooked_where_that_is_wanted() {
        let said = |mail: &str, rcpt: &str| {
            format!("HELO a.test\r\nMAIL FROM:{mail}\r\nRCPT TO:{rcpt}\r\nQUIT\r\n")
        };
        let long = format!("<{}@example.org>", "l".repeat(100));
        for (options, [space, dots, length, brackets]) in [
            ("", [false; 4]),
            ("--domain example.org", [false; 4]),
            ("--lenient space-after-colon", [true, false, false, false]),
            (
                "--lenient stray-dots,missing-brackets",
                [false, true, false, true],
            ),
            ("--mode mx --domain example.org", [true, true, true, false]),
            ("--mode mx --domain example.org --lenient none", [false; 4]),
            ("--mode mx --domain example.org --lenient all", [true; 4]),
        ] {
            for (recipient, is_taken) in [
                (" <a@example.org>", space),
                ("<a..b@example.org>", dots),
                (&long, length),
                ("a@example.org", brackets),
            ] {
                let heard = replies(options, HERE, &said("<>", recipient)).await;
                let reply = if is_taken { "250" } else { "501" };
                assert_eq!(
                    codes(&heard)[3..],
                    [reply, "221"],
                    "{options}: {recipient}: {heard}"
                );
                let heard = replies(options, HERE, &said(recipient, "<a@example.org>")).await;
                assert_eq!(codes(&heard)[2], reply, "{options}: {recipient}: {heard}");
            }
        }
    }

    #[tokio::test]
    async fn messages_are_limited_by_client() {
        let said = "HELO a.test\r\nMAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\nQUIT\r\n";
        let heard = replies("--rate 1/60", HERE, said).await;
        assert_eq!(codes(&heard), ["220", "250", "250", "250", "451", "221"]);
    }

    #[tokio::test]
    async fn users_submit_under_their_own_name_to_anybody() {
        let options =
            "--mode submission --user alice:secret --require-tls=false --allow-plaintext-auth";
        let said = |sender: &str| {
            format!(
                "EHLO a.test\r\nMAIL FROM:<{sender}>\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nMAIL FROM:<{sender}>\r\n\
                RCPT TO:<a@x.test>\r\nDATA\r\nHello\r\n.\r\nQUIT\r\n"
            )
        };
        let own = ["530", "235", "250", "250", "354", "250", "221"];
        for (domain, sender, is_own) in [
            ("", "alice@example.com", true),
            ("", "bob@example.com", false),
            ("--domain example.org", "alice@example.org", true),
            ("--domain example.org", "alice@example.com", false),
        ] {
            let heard = replies(&format!("{options} {domain}"), ELSEWHERE, &said(sender)).await;
            let codes = codes(&heard);
            let after_hello = codes.iter().position(|code| *code == "530").unwrap();
            match is_own {
                true => assert_eq!(codes[after_hello..], own, "{domain} {sender}"),
                false => assert_eq!(codes[after_hello + 2], "550", "{domain} {sender}"),
            }
        }
    }

    #[tokio::test]
    async fn other_servers_do_not_authenticate() {
        let options = "--mode mx --domain example.org --user alice:secret --allow-plaintext-auth --listen-lmtp a:24";
        let heard = replies(options, ELSEWHERE, MAIL).await;
        let taken = [
            "220", "250", "250", "250", "550", "250", "354", "250", "221",
        ];
        assert_eq!(codes(&heard), taken);
        let said = "EHLO a.test\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nQUIT\r\n";
        let heard = replies(options, ELSEWHERE, said).await;
        assert!(
            !heard.contains("AUTH") && heard.contains("\r\n50"),
            "{heard}"
        );
    }

    #[tokio::test]
    async fn extensions_are_those_of_the_list() {
        let offer = async |options| replies(options, HERE, "EHLO a.test\r\nQUIT\r\n").await;
        let heard = offer("--extensions -DSN,+RRVS").await;
        assert!(
            heard.contains("-RRVS\r\n") && heard.contains("-CHUNKING\r\n"),
            "{heard}"
        );
        assert!(!heard.contains("DSN"), "{heard}");
        let heard = offer("--extensions PIPELINING").await;
        let shown: Vec<_> = heard.lines().skip(2).collect();
        assert_eq!(
            shown[..2],
            ["250-PIPELINING", "250 SIZE 1048576"],
            "{heard}"
        );
    }

    /// A proxy on this machine must not open the door to all that come through it.
    #[tokio::test]
    async fn clients_of_a_proxy_on_this_machine_are_not_of_it() {
        for (options, said) in [
            (
                "--proxy-from 127.0.0.1",
                "PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\nQUIT\r\n",
            ),
            (
                "--xclient-from 127.0.0.1",
                "XCLIENT ADDR=192.0.2.1\r\nQUIT\r\n",
            ),
            (
                "--xclient-from 127.0.0.1",
                "XCLIENT ADDR=[UNAVAILABLE]\r\nQUIT\r\n",
            ),
        ] {
            let heard = replies(options, HERE, said).await;
            assert!(
                heard.contains("554 5.7.1 No mail from other machines here"),
                "{heard}"
            );
        }
        let said = "EHLO a.test\r\nXFORWARD ADDR=192.0.2.1\r\nQUIT\r\n";
        let heard = replies("--xforward-from 127.0.0.1", HERE, said).await;
        assert!(
            heard.contains("XFORWARD NAME") && heard.contains("250 2.0.0 OK"),
            "{heard}"
        );
    }

    #[tokio::test]
    async fn auth_is_offered_where_there_are_users() {
        let offer = async |options| replies(options, HERE, "EHLO a.test\r\nQUIT\r\n").await;
        assert!(!offer("").await.contains("AUTH"));
        // Without TLS, only what does not show the password.
        let heard = offer("--user alice:secret").await;
        assert!(heard.contains("AUTH CRAM-MD5 SCRAM"), "{heard}");
        let heard = offer("--user alice:secret --allow-plaintext-auth").await;
        assert!(heard.contains("AUTH PLAIN LOGIN CRAM-MD5 SCRAM"), "{heard}");
    }
}
