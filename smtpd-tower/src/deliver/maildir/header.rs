use crate::Envelope;

/// Which lines go before the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderLines {
    pub(super) return_path: bool,
    pub(super) delivered_to: bool,
}

impl HeaderLines {
    /// The lines for that envelope. What a relay before us has put into the message is left alone.
    pub(super) fn encode(self, envelope: &Envelope) -> Vec<u8> {
        let mut lines = String::new();
        if self.return_path {
            // RFC 5321 section 4.4: final delivery adds the reverse-path, at the beginning; `<>` where it is null.
            lines.push_str("Return-Path: <");
            push_address(&mut lines, envelope.sender().as_str());
            lines.push_str(">\r\n");
        }
        if self.delivered_to {
            for recipient in envelope.recipients() {
                lines.push_str("Delivered-To: ");
                push_address(&mut lines, recipient.path().as_str());
                lines.push_str("\r\n");
            }
        }
        lines.into_bytes()
    }
}

/// No address that was parsed holds a control character. Should one get here all the same, it must not end the line.
fn push_address(lines: &mut String, address: &str) {
    for c in address.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            lines.extend(c.escape_unicode());
        } else {
            lines.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::PathOptions;

    use super::*;
    use crate::{ForwardPath, ReversePath};

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
    fn an_address_cannot_end_its_line() {
        let mut line = String::new();
        push_address(&mut line, "a\r\nBcc: \0\u{85}\u{2028}ü@x");
        assert_eq!(line, "a\\u{d}\\u{a}Bcc: \\u{0}\\u{85}\\u{2028}ü@x");
    }
}
