use std::time::SystemTime;

use smtpd_core::{
    address::ForwardPath,
    envelope::{Envelope, Recipient},
    parameter::{EnvelopeId, OriginalRecipient, Ret, SmtpUtf8},
    reply::Reply,
};

use super::{
    Action, Notice,
    original::Original,
    text::{clean, field, paragraph, unitext},
};
use crate::{
    body::Spooled,
    header::{Date, address, clean::domain_or_literal},
    queue::{Job, terms::Terms},
    session::QueueId,
};

/// A notification about some recipients of a message.
pub(in crate::queue) struct Report<'a> {
    pub(in crate::queue) job: &'a Job,
    pub(in crate::queue) notices: &'a [Notice],
    pub(in crate::queue) now: SystemTime,
    /// The id of the notification.
    pub(in crate::queue) id: &'a QueueId,
    /// The name of this server.
    pub(in crate::queue) hostname: &'a str,
    /// A larger message is not returned.
    pub(in crate::queue) return_limit: usize,
}

/// How the parts are written.
struct Form {
    utf8: bool,
    eight_bit: bool,
    boundary: String,
}

impl Report<'_> {
    /// Writes the notification. `None` if the sender must not be told: it is the null sender (RFC 5321 section 6.1).
    pub(in crate::queue) async fn write(&self, message: &Spooled) -> Option<(Envelope, Vec<u8>)> {
        let sender = self.job.envelope().sender().mailbox()?;
        let parameters = self.job.envelope().parameters();
        // RFC 3461 section 4.3: what RET says applies to failures.
        let has_failed = self.action() == Action::Failed;
        let whole = has_failed && parameters.get() != Some(Ret::Headers);
        let original = Original::read(message, whole, self.return_limit).await;
        // That it cannot be read is no reason to tell nothing.
        let mut original = original.unwrap_or_else(|_| Original::Headers(Vec::new()));
        let is_utf8 = parameters.get() == Some(SmtpUtf8);
        let utf8 = is_utf8 && !(sender.is_ascii() && self.is_ascii(&original));
        if utf8 && std::str::from_utf8(original.bytes()).is_err() {
            original = original.cut();
        }
        if !utf8 || std::str::from_utf8(original.bytes()).is_err() {
            original.ascii_headers();
        }
        let form = Form {
            utf8,
            eight_bit: utf8 || !original.bytes().is_ascii(),
            boundary: format!("={}={}=", self.id, QueueId::unique()),
        };
        let mut out = Vec::with_capacity(original.bytes().len() + 2048);
        self.head(&form, &mut out);
        self.explanation(&form, &mut out);
        self.status(&form, &mut out);
        returned(&original, &form, &mut out);
        Some((self.envelope(&form), out))
    }

    /// What the worst of the notices is about.
    fn action(&self) -> Action {
        let actions = self.notices.iter().map(|notice| notice.action);
        actions.min().unwrap_or(Action::Delivered)
    }

    /// Whether nothing but the sender needs SMTPUTF8.
    fn is_ascii(&self, original: &Original) -> bool {
        let recipients = self.notices.iter().filter_map(|one| self.recipient(one));
        let are_ascii = recipients.into_iter().all(|recipient| {
            let original = recipient.parameters().get::<OriginalRecipient>();
            recipient.path().as_str().is_ascii()
                && original.is_none_or(|original| original.address().is_ascii())
        });
        let head = match original {
            Original::Whole(bytes) => {
                memchr::memmem::find(bytes, b"\r\n\r\n").map_or(&bytes[..], |end| &bytes[..end])
            }
            Original::Headers(bytes) => bytes,
        };
        are_ascii && head.is_ascii()
    }

    fn recipient(&self, notice: &Notice) -> Option<&Recipient> {
        self.job.envelope().recipients().get(notice.number)
    }

    fn host(&self) -> String {
        match self.hostname {
            "" => "localhost".to_owned(),
            name => domain_or_literal(name),
        }
    }

    /// RFC 3461 section 6.1: from the null sender, and nobody is to be told about it.
    fn envelope(&self, form: &Form) -> Envelope {
        let mut words = Vec::new();
        if form.eight_bit {
            words.push("BODY=8BITMIME".to_owned());
        }
        if form.utf8 {
            words.push("SMTPUTF8".to_owned());
        }
        // RFC 6710 section 4.4: it is as urgent as the message.
        match self.job.priority() {
            0 => {}
            priority => words.push(format!("MT-PRIORITY={priority}")),
        }
        let mut envelope =
            Envelope::default().with_parameters(words.join(" ").parse().unwrap_or_default());
        if let Some(sender) = self.job.envelope().sender().mailbox() {
            let never = "NOTIFY=NEVER".parse().unwrap_or_default();
            envelope.push(Recipient::new(ForwardPath::from(sender.clone()), never));
        }
        envelope
    }

    fn head(&self, form: &Form, out: &mut Vec<u8>) {
        let (host, sender) = (self.host(), self.job.envelope().sender().mailbox());
        let sender = sender.map(|sender| address::of_mailbox(sender, form.utf8));
        let from = format!("Mail Delivery System <MAILER-DAEMON@{host}>");
        field("From", &from, out);
        field("To", &format!("<{}>", sender.unwrap_or_default()), out);
        field("Subject", self.action().subject(), out);
        field("Date", &Date(self.now).to_string(), out);
        field("Message-ID", &format!("<{}@{host}>", self.id), out);
        // RFC 3834 section 5: nobody should answer it automatically.
        field("Auto-Submitted", "auto-replied", out);
        field("MIME-Version", "1.0", out);
        let report = format!(
            "multipart/report; report-type=delivery-status;\r\n boundary=\"{}\"",
            form.boundary
        );
        field("Content-Type", &report, out);
        if form.eight_bit {
            field("Content-Transfer-Encoding", "8bit", out);
        }
        out.extend_from_slice(b"\r\nThis is a report in the form of RFC 3464.\r\n");
    }

    fn explanation(&self, form: &Form, out: &mut Vec<u8>) {
        let charset = if form.utf8 { "utf-8" } else { "us-ascii" };
        form.begin(&format!("text/plain; charset={charset}"), form.utf8, out);
        let host = self.host();
        paragraph(&format!("This is the mail system at {host}."), 0, out);
        let mut sorted: Vec<_> = self.notices.iter().collect();
        sorted.sort_by_key(|notice| notice.action);
        let mut last = None;
        for notice in sorted {
            if last != Some(notice.action) {
                out.extend_from_slice(b"\r\n");
                paragraph(notice.action.explanation(), 0, out);
                last = Some(notice.action);
            }
            let recipient = self.recipient(notice);
            let path = recipient.map(|one| address::of_recipient(one.path(), form.utf8));
            out.extend_from_slice(b"\r\n");
            paragraph(&format!("<{}>", path.unwrap_or_default()), 2, out);
            if let Some(reply) = &notice.reply {
                paragraph(&said(reply, form.utf8), 4, out);
            }
            if let Some(until) = notice.retried_until {
                paragraph(&format!("It is tried until {}.", Date(until)), 4, out);
            }
        }
    }

    /// RFC 3464 section 2.
    fn status(&self, form: &Form, out: &mut Vec<u8>) {
        let kind = match form.utf8 {
            true => "message/global-delivery-status",
            false => "message/delivery-status",
        };
        form.begin(kind, form.utf8, out);
        let parameters = self.job.envelope().parameters();
        if let Some(id) = parameters.get::<EnvelopeId>() {
            let id = clean(id.as_str(), form.utf8);
            field("Original-Envelope-Id", &id, out);
        }
        field("Reporting-MTA", &format!("dns; {}", self.host()), out);
        let arrival = Date(self.job.created()).to_string();
        field("Arrival-Date", &arrival, out);
        if let Some((by, _)) = Terms::of(self.job).by {
            // RFC 2852 section 5.
            field("Deliver-By-Date", &Date(by).to_string(), out);
        }
        for notice in self.notices {
            out.extend_from_slice(b"\r\n");
            self.status_of(notice, form, out);
        }
    }

    fn status_of(&self, notice: &Notice, form: &Form, out: &mut Vec<u8>) {
        let Some(recipient) = self.recipient(notice) else {
            return;
        };
        if let Some(original) = recipient.parameters().get::<OriginalRecipient>() {
            let (kind, address) = (original.address_type(), original.address());
            let address = match kind.eq_ignore_ascii_case("utf-8") && !form.utf8 {
                true => unitext(address),
                false => clean(address, form.utf8),
            };
            field("Original-Recipient", &format!("{kind}; {address}"), out);
        }
        let path = address::of_recipient(recipient.path(), form.utf8);
        let kind = if path.is_ascii() { "rfc822" } else { "utf-8" };
        field("Final-Recipient", &format!("{kind}; {path}"), out);
        field("Action", notice.action.as_str(), out);
        field("Status", &notice.status, out);
        if let Some(reply) = &notice.reply {
            let said = format!("smtp; {}", said(reply, form.utf8));
            field("Diagnostic-Code", &said, out);
        }
        field("Last-Attempt-Date", &Date(self.now).to_string(), out);
        if let Some(until) = notice.retried_until {
            field("Will-Retry-Until", &Date(until).to_string(), out);
        }
    }
}

impl Form {
    /// Begins a part.
    fn begin(&self, kind: &str, eight_bit: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("\r\n--{}\r\n", self.boundary).as_bytes());
        field("Content-Type", kind, out);
        if eight_bit {
            field("Content-Transfer-Encoding", "8bit", out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 3464 section 2 and RFC 6533 section 5: the third part, and the end.
fn returned(original: &Original, form: &Form, out: &mut Vec<u8>) {
    let kind = match (original, form.utf8) {
        (Original::Whole(_), false) => "message/rfc822",
        (Original::Whole(_), true) => "message/global",
        (Original::Headers(_), false) => "text/rfc822-headers",
        (Original::Headers(_), true) => "message/global-headers",
    };
    form.begin(kind, !original.bytes().is_ascii(), out);
    out.extend_from_slice(original.bytes());
    out.extend_from_slice(format!("\r\n--{}--\r\n", form.boundary).as_bytes());
}

/// A reply on one line.
fn said(reply: &Reply, utf8: bool) -> String {
    let class = reply.code().as_u16() / 100;
    let lines: Vec<_> = reply.lines().collect();
    let text = clean(&lines.join(" "), utf8);
    format!("{} {class}.{} {text}", reply.code(), reply.status())
}
