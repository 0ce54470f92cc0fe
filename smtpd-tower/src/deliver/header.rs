use smtpd_core::{address::ReversePath, envelope::Envelope};

use crate::header::address;

/// The lines to add before each message.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderLines {
    pub(super) return_path: bool,
    pub(super) delivered_to: bool,
}

impl HeaderLines {
    /// Returns the lines for an envelope. Lines that an earlier relay has added to the message are left alone.
    pub(super) fn encode(self, envelope: &Envelope) -> Vec<u8> {
        let mut lines = String::new();
        if self.return_path {
            // RFC 5321 section 4.4: final delivery adds the reverse-path, at the beginning; `<>` if it is null.
            let sender = match envelope.sender() {
                ReversePath::Null => String::new(),
                ReversePath::Mailbox(mailbox) => address::of_mailbox(mailbox, true),
            };
            lines += &format!("Return-Path: <{sender}>\r\n");
        }
        if self.delivered_to {
            for recipient in envelope.recipients() {
                let recipient = address::of_recipient(recipient.path(), true);
                lines += &format!("Delivered-To: {recipient}\r\n");
            }
        }
        lines.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::address::{Charset, ForwardPath, Leniency, PathOptions};

    use super::*;

    #[test]
    fn lines_before_a_message() {
        let options = PathOptions::default();
        let (sender, _) = ReversePath::parse(b"<@relay.example:a@example.com>", options).unwrap();
        let (postmaster, _) = ForwardPath::parse(b"<postmaster>", options).unwrap();
        let envelope = Envelope::new(sender)
            .with_recipient("\"b c\"@example.org".parse().unwrap())
            .with_recipient(postmaster);
        let both = "Return-Path: <a@example.com>\r\n\
            Delivered-To: \"b c\"@example.org\r\nDelivered-To: postmaster\r\n";
        let cases = [
            (true, true, &envelope, both),
            (true, false, &envelope, "Return-Path: <a@example.com>\r\n"),
            (false, false, &envelope, ""),
            (true, true, &Envelope::default(), "Return-Path: <>\r\n"),
        ];
        for (return_path, delivered_to, envelope, expected) in cases {
            let lines = HeaderLines {
                return_path,
                delivered_to,
            };
            assert_eq!(lines.encode(envelope), expected.as_bytes());
        }
    }

    #[test]
    fn stray_dots_are_quoted_and_no_address_can_end_its_line() {
        let options = PathOptions::new(Leniency::COMMON, Charset::Utf8);
        for (sent, shown) in [
            ("<a..b@example.org>", "\"a..b\"@example.org"),
            ("<.a@example.org>", "\".a\"@example.org"),
            ("<a.b@example.org>", "a.b@example.org"),
            ("<\"\u{2028}\u{202e}\"@example.org>", "\"??\"@example.org"),
            ("<grå@exämple.org>", "grå@exämple.org"),
        ] {
            let (sender, _) = ReversePath::parse(sent.as_bytes(), options).unwrap();
            let (recipient, _) = ForwardPath::parse(sent.as_bytes(), options).unwrap();
            let lines = HeaderLines {
                return_path: true,
                delivered_to: true,
            };
            let lines = lines.encode(&Envelope::new(sender).with_recipient(recipient));
            let expected = format!("Return-Path: <{shown}>\r\nDelivered-To: {shown}\r\n");
            assert_eq!(lines, expected.as_bytes(), "{}", lines.escape_ascii());
        }
    }
}
