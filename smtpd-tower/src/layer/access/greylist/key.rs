use std::{
    borrow::Cow,
    fmt,
    hash::{Hash, Hasher},
};

use smtpd_core::address::{AddressRules, ForwardPath, ReversePath};

use super::{client::GreylistClient, sender, siphash::SipHasher};
use crate::limiter::ClientKey;

/// Identifies a retry: the client, the sender and the recipient (RFC 6647 section 2.4).
///
/// Domains are compared without case, local parts regardless of their quotes, that of the sender also without case. Equal keys
/// have equal text, different keys have different text, so the text can be the key of a database. The
/// [network](Self::with_network) is not part of it.
///
/// ```
/// use smtpd_tower::{layer::GreylistKey, limiter::ClientKey, net::Prefixes};
///
/// let client =
///     ClientKey::with_prefixes("192.0.2.1".parse()?, Prefixes::new(24, 64)?);
/// let key = GreylistKey::new(
///     client,
///     "List-Return-4711@Example.COM".parse()?,
///     "bob@example.org".parse()?,
/// );
/// assert_eq!(
///     key.to_string(),
///     r#"192.0.2.0/24 "list-return-4711"@example.com "bob"@example.org"#
/// );
/// assert_eq!(
///     key.with_normalized_sender().to_string(),
///     r##"192.0.2.0/24 "list-return-#"@example.com "bob"@example.org"##
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct GreylistKey {
    client: GreylistClient,
    network: Option<ClientKey>,
    sender: ReversePath,
    is_normalized: bool,
    recipient: ForwardPath,
    rules: AddressRules,
}

/// The local part of an address as it is compared, and the domain.
type Compared<'a> = Option<(Cow<'a, str>, &'a str)>;

impl GreylistKey {
    /// Creates the key of a message to one recipient.
    pub fn new(
        client: impl Into<GreylistClient>,
        sender: ReversePath,
        recipient: ForwardPath,
    ) -> Self {
        Self {
            client: client.into(),
            network: None,
            sender,
            is_normalized: false,
            recipient,
            rules: AddressRules::new(),
        }
    }

    /// Returns this key with the network that the attempt comes from, which is where the client may become
    /// [trusted](super::GreylistPolicy::with_trust_after).
    ///
    /// Keys that differ only in it are equal: a client may retry from another network.
    #[must_use]
    pub fn with_network(self, network: ClientKey) -> Self {
        Self {
            network: Some(network),
            ..self
        }
    }

    /// Returns this key with other rules for the local part of the recipient: whether case matters, and whether there are details
    /// as in `alice+news`. Default: the rules of RFC 5321.
    #[must_use]
    pub fn with_address_rules(self, rules: AddressRules) -> Self {
        Self { rules, ..self }
    }

    /// Returns this key with a sender that does not change from message to message, as those of mailing lists do.
    ///
    /// In its local part, this takes off the tag of BATV, an extension after `+` and the domain of a recipient after `=` (VERP).
    /// It replaces numbers, and words of at least 8 characters that contain a digit, by `#`. An address rewritten by SRS becomes
    /// `srs0=domain=user`. So two different senders may have the same key, which only makes the second one known already.
    #[must_use]
    pub fn with_normalized_sender(self) -> Self {
        Self {
            is_normalized: true,
            ..self
        }
    }

    /// Returns the client.
    pub const fn client(&self) -> &GreylistClient {
        &self.client
    }

    /// Returns the network that the attempt comes from, if it is known: see [`with_network`](Self::with_network).
    pub const fn network(&self) -> Option<ClientKey> {
        self.network
    }

    /// Returns the sender as the client has given it. Keys of different senders may be equal:
    /// [`with_normalized_sender`](Self::with_normalized_sender).
    pub const fn sender(&self) -> &ReversePath {
        &self.sender
    }

    /// Returns the recipient as the client has given it. Keys of different recipients may be equal:
    /// [`with_address_rules`](Self::with_address_rules).
    pub const fn recipient(&self) -> &ForwardPath {
        &self.recipient
    }

    /// Returns the local part of the sender as it is compared, and the domain. `None` is the null sender.
    fn compared_sender(&self) -> Compared<'_> {
        let mailbox = self.sender.mailbox()?;
        let mut local = mailbox.local_part_unquoted();
        if local.bytes().any(|byte| byte.is_ascii_uppercase()) {
            local.to_mut().make_ascii_lowercase();
        }
        if self.is_normalized && !sender::is_normal(&local) {
            local = sender::normalized(&local).into();
        }
        Some((local, mailbox.domain().as_str()))
    }

    /// Returns the local part of the recipient as it is compared, and the domain. `None` is `<Postmaster>`.
    fn compared_recipient(&self) -> Compared<'_> {
        let mailbox = self.recipient.mailbox()?;
        Some((self.rules.local_part(mailbox), mailbox.domain().as_str()))
    }

    pub(super) fn digest(&self, hasher: &mut SipHasher) {
        self.client.digest(hasher);
        digest(self.compared_sender(), hasher);
        digest(self.compared_recipient(), hasher);
    }

    /// Adds what is trusted once messages have been retried: the client, in the network that it retries from.
    pub(super) fn digest_trusted(&self, hasher: &mut SipHasher) {
        self.client.digest(hasher);
        let network = self.network.map(GreylistClient::from);
        if let Some(network) = network.filter(|network| *network != self.client) {
            network.digest(hasher);
        }
    }
}

fn is_same(address: Compared<'_>, other: Compared<'_>) -> bool {
    match (address, other) {
        (Some((local, domain)), Some((other_local, other_domain))) => {
            local == other_local && domain.eq_ignore_ascii_case(other_domain)
        }
        (address, other) => address.is_none() && other.is_none(),
    }
}

fn hash_address<H: Hasher>(address: Compared<'_>, state: &mut H) {
    address
        .map(|(local, domain)| (local, domain.to_ascii_lowercase()))
        .hash(state);
}

/// Adds a local part and a domain, or that there is none.
fn digest(address: Compared<'_>, hasher: &mut SipHasher) {
    let Some((local, domain)) = address else {
        hasher.write(&[0]);
        return;
    };
    hasher.write(&[1]).write_text(&local);
    for byte in domain.bytes() {
        hasher.write(&[byte.to_ascii_lowercase()]);
    }
    hasher.write(&[0]); // is in no domain
}

impl PartialEq for GreylistKey {
    fn eq(&self, other: &Self) -> bool {
        self.client == other.client
            && is_same(self.compared_sender(), other.compared_sender())
            && is_same(self.compared_recipient(), other.compared_recipient())
    }
}

impl Eq for GreylistKey {}

impl Hash for GreylistKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.client.hash(state);
        hash_address(self.compared_sender(), state);
        hash_address(self.compared_recipient(), state);
    }
}

impl fmt::Display for GreylistKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.client)?;
        match self.compared_sender() {
            None => f.write_str("<>")?,
            Some((local, domain)) => show(&local, domain, f)?,
        }
        f.write_str(" ")?;
        match self.compared_recipient() {
            None => f.write_str("<Postmaster>"),
            Some((local, domain)) => show(&local, domain, f),
        }
    }
}

fn show(local: &str, domain: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Always in quotes, so that nothing within them looks like the rest of the key.
    write!(f, "{local:?}@{}", domain.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use super::*;
    use crate::limiter::ClientKey;

    fn key(client: &str, sender: &str, recipient: &str) -> GreylistKey {
        let client = client.parse().map_or_else(
            |_| GreylistClient::domain(&client.parse().unwrap()),
            |ip| ClientKey::new(ip).into(),
        );
        GreylistKey::new(client, sender.parse().unwrap(), recipient.parse().unwrap())
    }

    fn std_hash(key: &GreylistKey) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
    }

    fn hash(key: &GreylistKey) -> u64 {
        let mut hasher = SipHasher::new([7; 16]);
        key.digest(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn keys_are_equal_if_their_text_is() {
        let keys = [
            key("192.0.2.1", "a@b.example", "c@d.example"),
            key("192.0.2.1", "a@B.EXAMPLE", r#""c"@D.example"#),
            key("192.0.2.1", "A@b.example", "c@d.example"),
            key("192.0.2.1", "a@b.example", "C@d.example"),
            key("192.0.2.2", "a@b.example", "c@d.example"),
            key("example.com", "a@b.example", "c@d.example"),
            key("EXAMPLE.com", "a@b.example", "c@d.example"),
            key("2001:db8::1", "a@b.example", "c@d.example"),
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
                assert_eq!(a == b, hash(a) == hash(b), "{a} and {b}");
                assert_eq!(a == b, std_hash(a) == std_hash(b), "{a} and {b}");
                equal += usize::from(a == b);
            }
        }
        assert_eq!(equal, 5);
    }

    #[test]
    fn one_mailbox_that_is_written_in_two_ways_has_two_keys() {
        let loose = AddressRules::new()
            .ignore_case(true)
            .recipient_delimiter('+');
        let keys = ["bob+news@d.example", "BOB@D.example", "bob@d.example"]
            .map(|recipient| key("192.0.2.1", "a@b.example", recipient));
        let [detail, ..] = keys.clone().map(|key| key.with_address_rules(loose));
        assert_eq!(
            detail.to_string(),
            r#"192.0.2.1 "a"@b.example "bob"@d.example"#
        );
        for key in &keys {
            let by_rules = key.clone().with_address_rules(loose);
            assert_eq!(by_rules, detail);
            assert_eq!(hash(&by_rules), hash(&detail));
            assert_eq!(std_hash(&by_rules), std_hash(&detail));
            assert_eq!(keys.iter().filter(|other| *other == key).count(), 1);
        }
    }

    #[test]
    fn each_message_of_a_list_has_its_own_key() {
        let message = |n: u32| {
            let sender = format!("list-return-{n}-b=example.org@lists.example");
            key("192.0.2.1", &sender, "b@example.org").with_normalized_sender()
        };
        assert_eq!(message(1), message(2));
        let shown = r##"192.0.2.1 "list-return-#-b"@lists.example "b"@example.org"##;
        assert_eq!(message(1).to_string(), shown);
        assert_eq!(hash(&message(1)), hash(&message(2)));
        let null = key("192.0.2.1", "", "b@example.org");
        assert_eq!(null.clone().with_normalized_sender(), null);
        assert!(null.sender().is_null());
    }

    /// Hashes are kept in files.
    #[test]
    fn a_hash_that_is_another_in_the_next_version() {
        let key = key("192.0.2.1", "a@b.example", "c@d.example");
        assert_eq!(format!("{:016x}", hash(&key)), "3b1a725f869f620c");
    }
}
