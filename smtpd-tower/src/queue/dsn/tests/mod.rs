use std::time::{Duration, SystemTime};

use mail_parser::{MessageParser, MimeHeaders};
use smtpd_core::{
    address::{Charset, ForwardPath, Leniency, PathOptions, ReversePath},
    envelope::{Envelope, Recipient},
    reply::{Code, Reply, Status},
};

use super::{Action, Notice, Report};
use crate::{
    body::{Body, Spooled},
    queue::Job,
    session::{QueueId, Session, SessionFacts},
};

const ANY: PathOptions = PathOptions::new(Leniency::COMMON, Charset::Utf8);

fn job(sender: &str, parameters: &str, recipients: &[&str]) -> Job {
    let sender = format!("<{sender}>");
    let sender = ReversePath::parse(sender.as_bytes(), ANY);
    let mut envelope =
        Envelope::new(sender.unwrap().0).with_parameters(parameters.parse().unwrap());
    for recipient in recipients {
        let (path, parameters) = recipient.split_once(' ').unwrap_or((recipient, ""));
        let path = format!("<{path}>");
        let path = ForwardPath::parse(path.as_bytes(), ANY);
        envelope.push(Recipient::new(path.unwrap().0, parameters.parse().unwrap()));
    }
    Job::new(SessionFacts::from(&Session::local()), envelope)
}

async fn message(text: &str) -> Spooled {
    let body = Body::from(text.as_bytes().to_vec());
    body.spool(1 << 20).await.unwrap()
}

fn failed(number: usize, text: &'static str) -> Notice {
    let reply = Reply::new(Code::MAILBOX_UNAVAILABLE, Status::BAD_MAILBOX, text);
    Notice::new(number, Action::Failed, "5.1.1".to_owned(), Some(reply))
}

async fn write(job: &Job, notices: &[Notice], text: &str) -> (Envelope, Vec<u8>) {
    let report = Report {
        job,
        notices,
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_377_600),
        id: &QueueId::unique(),
        hostname: "mx.example.org",
        return_limit: 64 * 1024,
    };
    report.write(&message(text).await).await.unwrap()
}

/// The three parts, as another program reads them: the explanation, the status and what is returned, with their types.
fn parts(bytes: &[u8]) -> Vec<(String, String)> {
    let message = MessageParser::default().parse(bytes).unwrap();
    let report = message.content_type().unwrap();
    assert_eq!(
        (report.ctype(), report.subtype()),
        ("multipart", Some("report"))
    );
    assert_eq!(report.attribute("report-type"), Some("delivery-status"));
    assert_eq!(
        message.header_raw("Auto-Submitted").map(str::trim),
        Some("auto-replied")
    );
    let children = message.parts[0].sub_parts().unwrap();
    let parts = children
        .iter()
        .map(|number| &message.parts[*number as usize]);
    let parts = parts.map(|part| {
        let kind = part.content_type().unwrap();
        let kind = format!("{}/{}", kind.ctype(), kind.subtype().unwrap());
        let text = &bytes[part.raw_body_offset() as usize..part.raw_end_offset() as usize];
        let text = String::from_utf8(text.to_vec()).unwrap();
        (kind, text)
    });
    parts.collect()
}

const MESSAGE: &str = "Subject: hi\r\nX: y\r\n\r\nHello\r\n--=x=\r\n";

#[tokio::test]
async fn a_failure_is_reported_as_rfc_3464_has_it() {
    let recipients = [
        "r@r.example ORCPT=rfc822;list+2Bx@r.example",
        "other@r.example",
        "q@r.example",
    ];
    let job = job("s@s.example", "ENVID=QQ+2B1 BY=600;R", &recipients);
    let notices = [
        failed(0, "No such user\r\nX-Injected: yes"),
        failed(2, "Gone\u{e9}"),
    ];
    let (envelope, bytes) = write(&job, &notices, MESSAGE).await;
    assert!(bytes.is_ascii() && envelope.sender().is_null() && envelope.parameters().is_empty());
    let [to] = envelope.recipients() else {
        panic!()
    };
    assert_eq!(to.path().as_str(), "s@s.example");
    assert_eq!(*to.parameters(), "NOTIFY=NEVER".parse().unwrap());
    let parts = parts(&bytes);
    let kinds: Vec<_> = parts.iter().map(|(kind, _)| &**kind).collect();
    assert_eq!(
        kinds,
        ["text/plain", "message/delivery-status", "message/rfc822"]
    );
    for text in [
        "mx.example.org",
        "<r@r.example>",
        "<q@r.example>",
        "550 5.1.1 No such user",
    ] {
        assert!(parts[0].1.contains(text), "{}", parts[0].1);
    }
    let fields: Vec<_> = parts[1].1.split("\r\n").collect();
    let arrival = fields
        .iter()
        .position(|line| line.starts_with("Arrival-Date: "));
    assert_eq!(fields[0], "Original-Envelope-Id: QQ+1");
    assert_eq!(fields[1], "Reporting-MTA: dns; mx.example.org");
    assert_eq!(arrival, Some(2));
    assert!(fields[3].starts_with("Deliver-By-Date: "));
    let of_recipients = &fields[4..];
    let expected = [
        "",
        "Original-Recipient: rfc822; list+x@r.example",
        "Final-Recipient: rfc822; r@r.example",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 No such user  X-Injected: yes",
        "Last-Attempt-Date: Sun, 22 Nov 2026 20:00:00 +0000",
        "",
        "Final-Recipient: rfc822; q@r.example",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 Gone?",
        "Last-Attempt-Date: Sun, 22 Nov 2026 20:00:00 +0000",
    ];
    assert_eq!(&of_recipients[..expected.len()], expected);
    assert!(!parts[1].1.contains("other@"));
    assert_eq!(parts[2].1.trim_end(), MESSAGE.trim_end());
}

#[tokio::test]
async fn only_a_failure_returns_the_message_and_only_if_it_is_wanted_and_small() {
    let large = format!("{MESSAGE}{}", "x\r\n".repeat(40_000));
    for (parameters, action, text, expected) in [
        ("", Action::Failed, MESSAGE, "message/rfc822"),
        ("RET=FULL", Action::Failed, MESSAGE, "message/rfc822"),
        ("RET=HDRS", Action::Failed, MESSAGE, "text/rfc822-headers"),
        ("RET=FULL", Action::Delayed, MESSAGE, "text/rfc822-headers"),
        (
            "RET=FULL",
            Action::Delivered,
            MESSAGE,
            "text/rfc822-headers",
        ),
        ("RET=FULL", Action::Failed, &large, "text/rfc822-headers"),
    ] {
        let job = job("s@s.example", parameters, &["r@r.example"]);
        let notice = Notice::new(0, action, "4.4.7".to_owned(), None);
        let (_, bytes) = write(&job, &[notice], text).await;
        let parts = parts(&bytes);
        assert_eq!(parts[2].0, expected, "{parameters} {action:?}");
        assert_eq!(parts[2].1.contains("Hello"), expected == "message/rfc822");
        assert!(parts[2].1.starts_with("Subject: hi\r\nX: y\r\n"));
        assert!(!parts[1].1.contains("Diagnostic-Code"));
    }
}

#[tokio::test]
async fn a_delay_says_until_when_the_message_is_tried() {
    let job = job("s@s.example", "MT-PRIORITY=-3", &["r@r.example"]);
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_410_005);
    let notice = Notice::new(
        0,
        Action::Delayed,
        "4.2.2".to_owned(),
        Some(Reply::mailbox_full()),
    );
    let (envelope, bytes) = write(&job, &[notice.retried_until(until)], MESSAGE).await;
    let parts = parts(&bytes);
    assert!(parts[1].1.contains("\r\nAction: delayed\r\n"));
    assert!(
        parts[1]
            .1
            .contains("\r\nWill-Retry-Until: Mon, 23 Nov 2026 05:00:05 +0000\r\n")
    );
    assert!(parts[0].1.contains("Mon, 23 Nov 2026 05:00:05 +0000"));
    assert_eq!(*envelope.parameters(), "MT-PRIORITY=-3".parse().unwrap());
}

#[tokio::test]
async fn addresses_that_need_smtputf8_are_reported_as_rfc_6533_has_it() {
    let text = "Subject: h\u{ef}\r\n\r\nH\u{e9}llo\r\n";
    let recipients =
        [r"gr\u{e5}@r.example".replace(r"\u{e5}", "\u{e5}") + r" ORCPT=utf-8;gr\x{E5}@r.example"];
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let job = job(
        "s\u{e9}nder@s.example",
        "SMTPUTF8 BODY=8BITMIME",
        &recipients,
    );
    let (envelope, bytes) = write(&job, &[failed(0, "N\u{f8}\u{202e}")], text).await;
    assert_eq!(
        *envelope.parameters(),
        "BODY=8BITMIME SMTPUTF8".parse().unwrap()
    );
    let parts = parts(&bytes);
    assert_eq!(parts[1].0, "message/global-delivery-status");
    assert_eq!(parts[2].0, "message/global");
    for line in [
        "Original-Recipient: utf-8; gr\u{e5}@r.example",
        "Final-Recipient: utf-8; gr\u{e5}@r.example",
        "Diagnostic-Code: smtp; 550 5.1.1 N\u{f8}?",
    ] {
        assert!(
            parts[1].1.contains(&format!("{line}\r\n")),
            "{}",
            parts[1].1
        );
    }
    assert!(parts[2].1.contains("H\u{e9}llo"));
    // Where nothing needs it, it is not asked for.
    let plain = self::job(
        "s@s.example",
        "SMTPUTF8",
        &["r@r.example ORCPT=utf-8;r@r.example"],
    );
    let (envelope, bytes) = write(&plain, &[failed(0, "No")], MESSAGE).await;
    assert!(envelope.parameters().is_empty() && bytes.is_ascii());
    assert_eq!(self::parts(&bytes)[1].0, "message/delivery-status");
}

#[tokio::test]
async fn a_message_of_eight_bits_without_smtputf8_keeps_its_bytes_but_not_in_a_header_alone() {
    let text = "Subject: h\u{ef}\r\n\r\nH\u{e9}llo\r\n";
    let job = job("s@s.example", "BODY=8BITMIME", &["r@r.example"]);
    let (envelope, bytes) = write(&job, &[failed(0, "No")], text).await;
    assert_eq!(*envelope.parameters(), "BODY=8BITMIME".parse().unwrap());
    assert_eq!(parts(&bytes)[2].1.trim_end(), text.trim_end());
    let notice = Notice::new(0, Action::Delayed, "4.2.2".to_owned(), None);
    let (envelope, bytes) = write(&job, &[notice], text).await;
    assert!(bytes.is_ascii() && envelope.parameters().is_empty());
    assert!(parts(&bytes)[2].1.contains("Subject: h??"));
}

#[tokio::test]
async fn the_null_sender_is_told_nothing_and_no_line_is_too_long() {
    let job = job("", "", &["r@r.example"]);
    let id = QueueId::unique();
    let notices = [failed(0, "No")];
    let report = Report {
        job: &job,
        notices: &notices,
        now: SystemTime::UNIX_EPOCH,
        id: &id,
        hostname: "",
        return_limit: 10,
    };
    assert!(report.write(&message(MESSAGE).await).await.is_none());
    let long: &'static str = Box::leak("x".repeat(5000).into_boxed_str());
    let job = self::job("s@s.example", "", &["r@r.example"]);
    let (_, bytes) = write(&job, &[failed(0, long)], MESSAGE).await;
    let text = String::from_utf8(bytes).unwrap();
    assert!(
        text.split("\r\n")
            .all(|line| line.len() <= 998 && !line.contains(['\r', '\n']))
    );
}
