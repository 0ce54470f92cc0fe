//! The reference server as a process: what each of its options does. An option without such a test fails
//! `every_option_has_a_test`.

mod accounts;
mod certificates;
mod check;
mod clients;
mod guard;
mod limits;
mod listeners;
mod logs;
mod messages;
mod operation;
mod sessions;

use std::{collections::BTreeSet, fs::File, path::Path, time::Duration};

use support::Client;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::reference::Reference;

/// Far more than any of these tests needs, unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

/// A test for each option, under the option's name.
macro_rules! effects {
    ($($option:literal => $module:ident :: $effect:ident,)*) => {
        const TESTED: &[&str] = &[$($option),*];

        $(
            #[tokio::test]
            async fn $effect() {
                let tested = tokio::time::timeout(HANGS, $module::$effect());
                tested.await.expect("it does not hang");
            }
        )*
    };
}

effects! {
    "--config" => sessions::config,
    "--check" => check::check,
    "--sockets" => check::sockets,
    "--help" => sessions::help,
    "--version" => sessions::version,
    "--hostname" => sessions::hostname,
    "--app-name" => sessions::app_name,
    "--max-sessions" => sessions::max_sessions,
    "--max-errors" => sessions::max_errors,
    "--timeout" => sessions::timeout,
    "--rate" => sessions::rate,
    "--extensions" => sessions::extensions,
    "--listen" => listeners::listen,
    "--listen-tls" => listeners::listen_tls,
    "--listen-submission" => listeners::listen_submission,
    "--listen-submissions" => listeners::listen_submissions,
    "--listen-lmtp" => listeners::listen_lmtp,
    "--mode" => listeners::mode,
    "--proxy-from" => listeners::proxy_from,
    "--xclient-from" => listeners::xclient_from,
    "--xforward-from" => listeners::xforward_from,
    "--runtime" => listeners::runtime,
    "--threads" => listeners::threads,
    "--domain" => messages::domain,
    "--recipients" => messages::recipients,
    "--recipient-delimiter" => messages::recipient_delimiter,
    "--maildir" => messages::maildir,
    "--maildir-newline" => messages::maildir_newline,
    "--discard" => messages::discard,
    "--bare-lf" => messages::bare_lf,
    "--nul" => messages::nul,
    "--lenient" => messages::lenient,
    "--max-hops" => messages::max_hops,
    "--max-size" => messages::max_size,
    "--max-recipients" => messages::max_recipients,
    "--message-rate" => clients::message_rate,
    "--recipient-rate" => clients::recipient_rate,
    "--max-sessions-per-client" => clients::max_sessions_per_client,
    "--max-header-size" => limits::max_header_size,
    "--max-header-lines" => limits::max_header_lines,
    "--max-recipient-domains" => limits::max_recipient_domains,
    "--max-command-line" => limits::max_command_line,
    "--max-messages" => limits::max_messages,
    "--max-session-bytes" => limits::max_session_bytes,
    "--max-drain" => limits::max_drain,
    "--max-rejected-recipients" => limits::max_rejected_recipients,
    "--max-deferred-recipients" => limits::max_deferred_recipients,
    "--max-prompt-refusals" => limits::max_prompt_refusals,
    "--max-idle-commands" => limits::max_idle_commands,
    "--max-after-refusal" => limits::max_after_refusal,
    "--memory-budget" => limits::memory_budget,
    "--min-free-space" => limits::min_free_space,
    "--greeting-delay" => limits::greeting_delay,
    "--refuse-early-talkers" => limits::refuse_early_talkers,
    "--strict-pipelining" => limits::strict_pipelining,
    "--guard" => limits::guard,
    "--guard-capacity" => limits::guard_capacity,
    "--timeout-command" => limits::timeout_command,
    "--timeout-line" => limits::timeout_line,
    "--timeout-data" => limits::timeout_data,
    "--timeout-transfer" => limits::timeout_transfer,
    "--min-rate" => limits::min_rate,
    "--timeout-session" => limits::timeout_session,
    "--timeout-without-message" => limits::timeout_without_message,
    "--timeout-without-login" => limits::timeout_without_login,
    "--timeout-handshake" => limits::timeout_handshake,
    "--timeout-write" => limits::timeout_write,
    "--timeout-after-refusal" => limits::timeout_after_refusal,
    "--timeout-linger" => limits::timeout_linger,
    "--timeout-call" => limits::timeout_call,
    "--timeout-delivery" => limits::timeout_delivery,
    "--guard-exempt" => guard::guard_exempt,
    "--guard-sessions" => guard::guard_sessions,
    "--guard-new-sessions" => guard::guard_new_sessions,
    "--guard-handshakes" => guard::guard_handshakes,
    "--guard-all-handshakes" => guard::guard_all_handshakes,
    "--guard-failed-logins" => guard::guard_failed_logins,
    "--guard-rejected-recipients" => guard::guard_rejected_recipients,
    "--guard-errors" => guard::guard_errors,
    "--guard-idle-sessions" => guard::guard_idle_sessions,
    "--tarpit" => clients::tarpit,
    "--greylist" => clients::greylist,
    "--greylist-file" => clients::greylist_file,
    "--reverse-dns" => clients::reverse_dns,
    "--exempt" => clients::exempt,
    "--user" => accounts::user,
    "--users" => accounts::users,
    "--oauth-token" => accounts::oauth_token,
    "--auth-mechanisms" => accounts::auth_mechanisms,
    "--require-auth" => accounts::require_auth,
    "--allow-plaintext-auth" => accounts::allow_plaintext_auth,
    "--max-auth-failures" => accounts::max_auth_failures,
    "--tls-cert" => certificates::tls_cert,
    "--tls-key" => certificates::tls_key,
    "--tls-key-passphrase-file" => certificates::tls_key_passphrase_file,
    "--tls-self-signed" => certificates::tls_self_signed,
    "--tls-self-signed-keep" => certificates::tls_self_signed_keep,
    "--sni" => certificates::sni,
    "--client-ca" => certificates::client_ca,
    "--client-crl" => certificates::client_crl,
    "--client-common-name" => certificates::client_common_name,
    "--ignore-alpn" => certificates::ignore_alpn,
    "--require-tls" => certificates::require_tls,
    "--log-format" => logs::log_format,
    "--log-level" => logs::log_level,
    "--quiet" => logs::quiet,
    "--http" => operation::http,
    "--grace" => operation::grace,
    "--user-id" => operation::user_id,
    "--group-id" => operation::group_id,
}

#[test]
fn every_option_has_a_test() {
    let help = output(&["--help"]);
    let options = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = line.split_once(", ").map_or(line, |(_, long)| long);
        line.starts_with("--").then(|| name(line))
    });
    let options: BTreeSet<_> = options.collect();
    let tested: BTreeSet<_> = TESTED.iter().copied().collect();
    assert_eq!(options, tested);
}

/// `--tls-self-signed` of `--tls-self-signed[=<BOOL>]`.
fn name(option: &str) -> &str {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '-';
    option.split(|c| !is_of_name(c)).next().unwrap_or_default()
}

/// What the program prints and does not serve.
fn output(options: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = Reference::command(&dir, options).output().unwrap();
    assert!(output.status.success(), "{options:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A server that listens on a port for SMTP.
fn start(options: &[&str]) -> Reference {
    Reference::start(1, &[&["--listen=127.0.0.1:0"], options].concat())
}

/// The same, and all that it logs until its end goes to that file.
fn start_with_log(log: &Path, options: &[&str]) -> Reference {
    let options = [&["--listen=127.0.0.1:0"], options].concat();
    Reference::start_logging_to(File::create(log).unwrap().into(), 1, &options)
}

async fn terminate(mut server: Reference) {
    server.signal("TERM");
    assert!(server.ended().await.success());
}

/// A client that has read the greeting.
async fn greeted(server: &Reference, listener: &str) -> Client<TcpStream> {
    let mut client = Client::over(TcpStream::connect(server.address(listener)).await.unwrap());
    client.expect("220").await;
    client
}

/// Returns what the server sends to a client that sends this and then closes its side.
async fn said(server: &Reference, listener: &str, text: &str) -> String {
    let mut stream = TcpStream::connect(server.address(listener)).await.unwrap();
    // The server may have ended the session before.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
    let mut said = Vec::new();
    // A connection that is refused is closed before the server has read anything, so a reset may follow the reply.
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8(said).unwrap()
}

/// The codes of the replies, those of several lines once.
fn codes(said: &str) -> Vec<&str> {
    let last_lines = said
        .lines()
        .filter(|line| line.as_bytes().get(3) == Some(&b' '));
    last_lines.filter_map(|line| line.get(..3)).collect()
}

async fn codes_of(server: &Reference, text: &str) -> Vec<String> {
    let said = said(server, "smtp", text).await;
    codes(&said).into_iter().map(str::to_owned).collect()
}

/// What EHLO announces at that listener.
async fn announced(server: &Reference, listener: &str) -> String {
    said(server, listener, "EHLO c.test\r\nQUIT\r\n").await
}

/// A session with a message, whose lines end with CRLF, from its HELO on.
fn message(text: &str) -> String {
    format!("HELO c.test\r\n{ENVELOPE}DATA\r\n{text}.\r\nQUIT\r\n")
}

const ENVELOPE: &str = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
