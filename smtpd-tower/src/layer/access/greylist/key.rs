use std::fmt;

use smtpd_core::{ForwardPath, Mailbox, ReversePath};

use crate::limiter::ClientKey;

/// Identifies a retry: the network of the client, the sender and the recipient (RFC 6647 section 2.4).
///
/// Domains are compared without case, local parts regardless of their quotes. Equal keys have equal text, different keys have
/// different text, so the text can be the key of a database.
///
/// ```
/// use smtpd_tower::{layer::GreylistKey, limiter::ClientKey, net::Prefixes};
///
/// let client = ClientKey::with_prefixes("192.0.2.1".parse()?, Prefixes::new(24, 64)?);
/// let key = GreylistKey::new(client, "alice@Example.COM".parse()?, "bob@example.org".parse()?);
/// assert_eq!(key.to_string(), r#"192.0.2.0/24 "alice"@example.com "bob"@example.org"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GreylistKey {
    client: ClientKey,
    sender: ReversePath,
    recipient: ForwardPath,
}

impl GreylistKey {
    /// Creates the key of a message.
    pub const fn new(client: ClientKey, sender: ReversePath, recipient: ForwardPath) -> Self {
        Self {
            client,
            sender,
            recipient,
        }
    }

    /// Returns the network of the client.
    pub const fn client(&self) -> ClientKey {
        self.client
    }

    /// Returns the sender.
    pub const fn sender(&self) -> &ReversePath {
        &self.sender
    }

    /// Returns the recipient.
    pub const fn recipient(&self) -> &ForwardPath {
        &self.recipient
    }
}

impl fmt::Display for GreylistKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.client)?;
        show(self.sender.mailbox(), "<>", f)?;
        f.write_str(" ")?;
        show(self.recipient.mailbox(), "<Postmaster>", f)
    }
}

fn show(mailbox: Option<&Mailbox>, without: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(mailbox) = mailbox else {
        return f.write_str(without);
    };
    // Always in quotes, so that nothing within them looks like the rest of the key.
    let domain = mailbox.domain().as_str().to_ascii_lowercase();
    write!(f, "{:?}@{domain}", mailbox.local_part_unquoted())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: &str, sender: &str, recipient: &str) -> GreylistKey {
        let client = ClientKey::new(client.parse().unwrap());
        GreylistKey::new(client, sender.parse().unwrap(), recipient.parse().unwrap())
    }

    #[test]
    fn keys_are_equal_if_their_text_is() {
        let keys = [
            key("192.0.2.1", "a@b.example", "c@d.example"),
            key("192.0.2.1", "a@B.EXAMPLE", r#""c"@D.example"#),
            key("192.0.2.1", "A@b.example", "c@d.example"),
            key("192.0.2.2", "a@b.example", "c@d.example"),
            key("192.0.2.1", "", "c@d.example"),
            key("192.0.2.1", "a@b.example", "Postmaster"),
            key("192.0.2.1", "a@b.example", "postmaster"),
            key(
                "192.0.2.1",
                r#""a\"@b.example \"c"@d.example"#,
                "e@f.example",
            ),
            key(
                "192.0.2.1",
                "a@b.example",
                r#""c\"@d.example \"e"@f.example"#,
            ),
        ];
        let mut equal = 0;
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[..i] {
                assert_eq!(a == b, a.to_string() == b.to_string(), "{a} and {b}");
                equal += usize::from(a == b);
            }
        }
        assert_eq!(equal, 2);
    }
}
