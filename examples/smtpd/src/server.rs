//! The server around the pipeline: its name, settings, TLS, and the proxies that it trusts.

use smtpd_tower::{Pipeline, Server, proxy::ProxyProtocol, tls::TlsConfig};

use crate::{clients::Clients, config, disk, log, options::Options, values::Proxy};

/// Creates the server around a pipeline.
pub(crate) fn new(
    options: &Options,
    hostname: &str,
    pipeline: Pipeline,
    clients: &Clients,
    tls: Option<TlsConfig>,
) -> Server {
    let mut server = Server::new(hostname, pipeline)
        .configure(|config| config::apply(options, config))
        .max_hops(options.limits.hops())
        .max_sessions(disk::sessions(options.limits.sessions()))
        .memory_budget(clients.memory())
        .guard(clients.guard.clone())
        .on_close(log::session);
    if options.has_http() {
        server = server.metrics();
    }
    if let Some(tls) = tls {
        server = server.tls(tls);
    }
    if !options.domain.is_empty() {
        server = server.domains(options.domains());
    }
    behind_proxies(options, server)
}

/// Sets the proxies that the server trusts.
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

#[cfg(test)]
mod tests {
    use smtpd_tower::net::PeerAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::{
        listen::Kind,
        served::{Purpose, Served},
    };

    /// Returns what a server with these options sends to a client that sends all this at once.
    async fn replies(options: &str, peer: [u8; 4], said: &str) -> String {
        let args = ["smtpd", "--discard"]
            .into_iter()
            .chain(options.split_whitespace());
        let options = Options::read(args).unwrap();
        let served = Served::read(options, None, Purpose::Start).await.unwrap();
        let server = served.server(Kind::Smtp);
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
    async fn a_user_that_a_proxy_names_cannot_make_the_log_show_what_it_does_not_say() {
        for json in [false, true] {
            let (guard, written) = crate::log::tests::capture(json);
            let said =
                "EHLO a.test\r\nXCLIENT LOGIN=a+E2+80+AE+E2+80+A8b\r\nEHLO a.test\r\nQUIT\r\n";
            let heard = replies("--xclient-from 127.0.0.1", HERE, said).await;
            drop(guard);
            assert!(heard.ends_with("closing the connection\r\n"), "{heard}");
            let line = written.text();
            assert!(!line.contains(['\u{202e}', '\u{2028}']), "{line}");
            assert!(line.contains("u{202e}"), "{line}");
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
            for (recipient, is_accepted) in [
                (" <a@example.org>", space),
                ("<a..b@example.org>", dots),
                (&long, length),
                ("a@example.org", brackets),
            ] {
                let heard = replies(options, HERE, &said("<>", recipient)).await;
                let reply = if is_accepted { "250" } else { "501" };
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

    /// A proxy on this machine must not let in all clients that come through it.
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
        // Without TLS, only mechanisms that do not reveal the password.
        let heard = offer("--user alice:secret").await;
        assert!(heard.contains("AUTH CRAM-MD5 SCRAM"), "{heard}");
        let heard = offer("--user alice:secret --allow-plaintext-auth").await;
        assert!(heard.contains("AUTH PLAIN LOGIN CRAM-MD5 SCRAM"), "{heard}");
    }
}
