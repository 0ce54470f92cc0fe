//! Which messages are accepted, and what becomes of them.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::{ENVELOPE, Reference, codes_of, listeners::only_message, message, said, start};

pub(super) async fn domain() {
    let server = start(&["--domain=example.org", "--domain=example.net"]);
    let rcpt = "RCPT TO:<b@Example.Net>\r\nRCPT TO:<c@example.com>\r\nRCPT TO:<Postmaster>\r\n";
    let text = format!("HELO c\r\n{ENVELOPE}{rcpt}QUIT\r\n");
    let replies = codes_of(&server, &text).await;
    assert_eq!(
        replies,
        ["220", "250", "250", "250", "250", "550", "250", "221"]
    );
}

/// The replies to those recipients, by a server with that list.
async fn to_each(options: &[&str], list: &str, recipients: &[&str]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recipients");
    fs::write(&file, list).unwrap();
    let file = format!("--recipients={}", file.display());
    let server = start(&[&[&*file, "--domain=example.org"], options].concat());
    let rcpt = recipients.iter().map(|to| format!("RCPT TO:<{to}>\r\n"));
    let rcpt: String = rcpt.collect();
    let text = format!("HELO c\r\nMAIL FROM:<>\r\n{rcpt}QUIT\r\n");
    let replies = codes_of(&server, &text).await;
    replies[3..replies.len() - 1].to_vec()
}

pub(super) async fn recipients() {
    let list = "# all\nalice@example.org\n@sub.example.org\n\nbob@example.net # not ours\n";
    let recipients = [
        "Alice@example.org",
        "bob@example.org",
        "x@sub.example.org",
        "bob@example.net",
        "postmaster@example.org",
        "Postmaster",
        "alice+news@example.org",
    ];
    let replies = to_each(&["--domain=sub.example.org"], list, &recipients).await;
    assert_eq!(replies, ["250", "550", "250", "550", "250", "250", "550"]);
    users_write_to_other_domains().await;
    a_server_without_a_list_warns().await;
}

async fn a_server_without_a_list_warns() {
    let dir = tempfile::tempdir().unwrap();
    let (log, list) = (dir.path().join("log"), dir.path().join("list"));
    fs::write(&list, "alice@example.org\n").unwrap();
    let list = format!("--recipients={}", list.display());
    for (options, warns) in [
        (&["--domain=example.org"][..], true),
        (&["--domain=example.org", &list], false),
        (&[], false),
    ] {
        super::terminate(super::start_with_log(&log, options)).await;
        let log = fs::read_to_string(&log).unwrap();
        let is_there = log.contains("level=warn msg=\"every address in --domain is accepted");
        assert_eq!(is_there, warns, "{options:?}: {log}");
    }
}

/// A list of recipients is no list of those that users may write to, elsewhere.
async fn users_write_to_other_domains() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("recipients");
    fs::write(&file, "alice@example.org\n").unwrap();
    let server = start(&[
        &format!("--recipients={}", file.display()),
        "--domain=example.org",
        "--mode=submission",
        "--user=alice:secret",
        "--require-tls=false",
        "--allow-plaintext-auth",
    ]);
    let text = "EHLO c\r\nAUTH PLAIN AGFsaWNlAHNlY3JldA==\r\nMAIL FROM:<alice@example.org>\r\n\
        RCPT TO:<x@example.net>\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<alice@example.org>\r\nQUIT\r\n";
    let replies = codes_of(&server, text).await;
    assert_eq!(replies[3..], ["250", "250", "550", "250", "221"]);
}

pub(super) async fn recipient_delimiter() {
    let recipients = [
        "alice@example.org",
        "alice+news@example.org",
        "alice-x@example.org",
    ];
    for (option, codes) in [("+", ["250", "250", "550"]), ("-", ["250", "550", "250"])] {
        let option = format!("--recipient-delimiter={option}");
        let replies = to_each(&[&option], "alice@example.org", &recipients).await;
        assert_eq!(replies, codes, "{option}");
    }
}

pub(super) async fn maildir_newline() {
    let text = message("Subject: x\r\n\r\none\r\ntwo\r\n");
    for (options, end) in [
        (&[][..], "\r\none\r\ntwo\r\n"),
        (&["--maildir-newline=crlf"], "\r\none\r\ntwo\r\n"),
        (&["--maildir-newline=lf"], "\n\none\ntwo\n"),
    ] {
        let server = start(options);
        said(&server, "smtp", &text).await;
        let stored = only_message(&server);
        assert!(stored.ends_with(end), "{stored:?}");
        let is_lf = options.contains(&"--maildir-newline=lf");
        assert_eq!(stored.contains('\r'), !is_lf, "{stored:?}");
    }
}

/// Messages are stored there, with what the server adds; what a crash has left there long ago is removed.
pub(super) async fn maildir() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("some/where");
    fs::create_dir_all(root.join("tmp")).unwrap();
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    for (name, age) in [("old", hours(37)), ("young", hours(35))] {
        let file = fs::File::create(root.join("tmp").join(name)).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    let server = start(&[&format!("--maildir={}", root.display())]);
    assert!(!root.join("tmp/old").exists());
    assert!(root.join("tmp/young").exists());
    let text =
        message("Subject: x\r\n\r\nHello\r\n").replace("DATA", "RCPT TO:<c@example.org>\r\nDATA");
    said(&server, "smtp", &text).await;
    let mut files = fs::read_dir(root.join("new")).unwrap();
    let stored = fs::read_to_string(files.next().unwrap().unwrap().path()).unwrap();
    assert!(files.next().is_none());
    let (added, rest) = stored.split_once("Received: ").expect("a trace field");
    assert_eq!(
        added,
        "Return-Path: <a@example.com>\r\nDelivered-To: b@example.org\r\nDelivered-To: c@example.org\r\n"
    );
    assert!(rest.ends_with("\r\nSubject: x\r\n\r\nHello\r\n"), "{rest}");
    assert!(server.delivered().is_empty());
}

pub(super) async fn discard() {
    let server = start(&["--discard"]);
    let replies = codes_of(&server, &message("x\r\n")).await;
    assert_eq!(replies, ["220", "250", "250", "250", "354", "250", "221"]);
    assert!(!server.dir.path().join("mail").exists());
    assert_eq!(stored(&start(&["--discard=false"])).await, 1);
}

async fn stored(server: &Reference) -> usize {
    said(server, "smtp", &message("x\r\n")).await;
    server.delivered().len()
}

/// Checks the reply to that message, and how what is stored of it ends.
async fn check_policy(options: &[&str], text: &str, code: &str, stored: Option<&str>) {
    let server = start(options);
    let replies = codes_of(&server, text).await;
    assert_eq!(replies[5], code, "{options:?}");
    match stored {
        Some(end) => assert!(only_message(&server).ends_with(end), "{options:?}"),
        None => assert!(server.delivered().is_empty(), "{options:?}"),
    }
}

pub(super) async fn bare_lf() {
    let text = message("Subject: x\r\n\r\none\ntwo\r\n");
    for (options, code, stored) in [
        (&[][..], "550", None),
        (&["--bare-lf=reject"], "550", None),
        (&["--bare-lf=normalize"], "250", Some("one\r\ntwo\r\n")),
        (&["--bare-lf=pass"], "250", Some("one\ntwo\r\n")),
    ] {
        check_policy(options, &text, code, stored).await;
    }
}

pub(super) async fn max_size() {
    let server = start(&["--max-size=100"]);
    for (bytes, code) in [(90, "250"), (101, "552")] {
        let text = message(&format!("{}\r\n", "x".repeat(bytes - 2)));
        assert_eq!(codes_of(&server, &text).await[5], code);
        let declared = format!("EHLO c\r\nMAIL FROM:<> SIZE={bytes}\r\nQUIT\r\n");
        assert_eq!(codes_of(&server, &declared).await[2], code);
    }
    let unlimited = start(&["--max-size=0"]);
    let text = message(&"x\r\n".repeat(400_000));
    assert_eq!(codes_of(&unlimited, &text).await[5], "250");
}

pub(super) async fn max_recipients() {
    let server = start(&["--max-recipients=2"]);
    let rcpt = "RCPT TO:<c@example.org>\r\nRCPT TO:<d@example.org>\r\n";
    let replies = codes_of(&server, &format!("HELO c\r\n{ENVELOPE}{rcpt}QUIT\r\n")).await;
    assert_eq!(replies, ["220", "250", "250", "250", "250", "452", "221"]);
}

/// Mail with a sender that does not follow RFC 5321.
pub(super) async fn lenient() {
    let mail = |path: &str| format!("HELO c\r\nMAIL FROM:{path}\r\nQUIT\r\n");
    let long = format!("<{}@example.com>", "x".repeat(65));
    let odd = [
        " <a@example.com>",
        &long,
        "<a..b@example.com>",
        "a@example.com",
    ];
    for (options, accepted) in [
        (&[][..], [false; 4]),
        (
            &["--lenient=long-local-part,stray-dots"],
            [false, true, true, false],
        ),
        (&["--lenient=common"], [true, true, true, false]),
        (&["--mode=mx"], [true, true, true, false]),
        (&["--mode=mx", "--lenient=none"], [false; 4]),
    ] {
        let server = start(&[options, &["--domain=example.org"]].concat());
        for (path, accepted) in odd.iter().zip(accepted) {
            let replies = codes_of(&server, &mail(path)).await;
            let code = if accepted { "250" } else { "501" };
            assert_eq!(replies[2], code, "{path} with {options:?}");
        }
    }
}

pub(super) async fn nul() {
    let text = message("Subject: x\r\n\r\na\0b\r\n");
    for (options, code, stored) in [
        (&[][..], "554", None),
        (&["--nul=reject"], "554", None),
        (&["--nul=strip"], "250", Some("\r\nab\r\n")),
        (&["--nul=pass"], "250", Some("\r\na\0b\r\n")),
    ] {
        check_policy(options, &text, code, stored).await;
    }
}

pub(super) async fn max_hops() {
    for (options, most) in [(&["--max-hops=3"][..], 3), (&[], 100)] {
        let server = start(options);
        for (fields, code) in [(most, "250"), (most + 1, "554")] {
            let text = message(&format!("{}\r\n", "Received: x\r\n".repeat(fields)));
            assert_eq!(codes_of(&server, &text).await[5], code, "{options:?}");
        }
    }
    for options in [
        &["--max-hops=0"][..],
        &["--max-hops=0", "--mode=mx", "--domain=example.org"],
    ] {
        let unlimited = start(options);
        let text = message(&format!("{}\r\n", "Received: x\r\n".repeat(300)));
        assert_eq!(codes_of(&unlimited, &text).await[5], "250", "{options:?}");
    }
}
