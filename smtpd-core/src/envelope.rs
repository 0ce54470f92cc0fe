//! The sender and the recipients of a message.
//!
//! - [`Envelope`] holds what MAIL and RCPT specified, with a [`Recipient`] for each accepted RCPT.
//! - [`Groups`] splits an envelope for several deliveries, and merges their replies.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use crate::{
    address::{ForwardPath, ReversePath},
    parameter::Parameters,
    reply::DataReply,
};

/// The sender and the recipients of a message, from MAIL and RCPT. They are independent of the header of the message.
///
/// ```
/// use smtpd_core::Envelope;
///
/// let envelope = Envelope::new("a@example.com".parse()?)
///     .with_recipient("b@example.org".parse()?);
/// assert_eq!(envelope.recipients()[0].path().as_str(), "b@example.org");
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    sender: ReversePath,
    parameters: Parameters,
    recipients: Vec<Recipient>,
}

/// An accepted recipient.
///
/// ```
/// use smtpd_core::Envelope;
///
/// let envelope = Envelope::default().with_recipient("b@example.org".parse()?);
/// for recipient in envelope.recipients() {
///     assert_eq!(
///         recipient
///             .path()
///             .mailbox()
///             .map(|mailbox| mailbox.local_part()),
///         Some("b")
///     );
///     assert!(recipient.parameters().is_empty());
/// }
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    path: ForwardPath,
    parameters: Parameters,
}

impl Default for Envelope {
    /// Creates an envelope with the null sender and without recipients.
    fn default() -> Self {
        Self::new(ReversePath::Null)
    }
}

impl Envelope {
    /// Creates an envelope without parameters or recipients.
    pub fn new(sender: ReversePath) -> Self {
        Self {
            sender,
            parameters: Parameters::default(),
            recipients: Vec::new(),
        }
    }

    /// Returns the envelope with these MAIL parameters.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }

    /// Returns the envelope with one more recipient.
    #[must_use]
    pub fn with_recipient(mut self, recipient: ForwardPath) -> Self {
        self.push(Recipient::new(recipient, Parameters::default()));
        self
    }

    /// Returns the envelope with only the recipients for which `keep` returns true. Calls `keep` once for each recipient, in
    /// order.
    ///
    /// ```
    /// use smtpd_core::Envelope;
    ///
    /// let envelope = Envelope::default()
    ///     .with_recipient("a@example.com".parse()?)
    ///     .with_recipient("b@example.org".parse()?);
    /// let org =
    ///     envelope.subset(|recipient| recipient.path().as_str().ends_with(".org"));
    /// assert_eq!(
    ///     org,
    ///     Envelope::default().with_recipient("b@example.org".parse()?)
    /// );
    /// # Ok::<(), smtpd_core::address::AddressError>(())
    /// ```
    #[must_use]
    pub fn subset(&self, mut keep: impl FnMut(&Recipient) -> bool) -> Self {
        let kept = self.recipients.iter().filter(|recipient| keep(recipient));
        Self {
            sender: self.sender.clone(),
            parameters: self.parameters.clone(),
            recipients: kept.cloned().collect(),
        }
    }

    /// Splits the recipients into groups, each with an envelope of its own: recipients are in one group if `key` returns the same
    /// value for them. Calls `key` once for each recipient, in order.
    ///
    /// The groups come in the order of their first recipients. [`Groups::merge`] merges the replies to them into one reply.
    ///
    /// ```
    /// use smtpd_core::{DataReply, Envelope, Reply};
    ///
    /// let envelope = Envelope::default()
    ///     .with_recipient("a@example.com".parse()?)
    ///     .with_recipient("b@example.org".parse()?)
    ///     .with_recipient("c@example.com".parse()?);
    /// let groups = envelope.group_by(|recipient| {
    ///     recipient.path().mailbox().map(|to| to.domain().clone())
    /// });
    /// let replies = groups.iter().map(|(domain, envelope)| match domain {
    ///     Some(domain) if domain.as_str() == "example.com" => {
    ///         assert_eq!(envelope.recipients().len(), 2);
    ///         DataReply::each([Reply::OK, Reply::mailbox_full()])
    ///     }
    ///     _ => Reply::busy().into(),
    /// });
    /// assert_eq!(
    ///     groups.merge(replies).replies(),
    ///     [Reply::OK, Reply::busy(), Reply::mailbox_full()]
    /// );
    /// # Ok::<(), smtpd_core::address::AddressError>(())
    /// ```
    pub fn group_by<K: Eq + Hash>(&self, mut key: impl FnMut(&Recipient) -> K) -> Groups<K> {
        let mut numbers = HashMap::new();
        let mut envelopes: Vec<Self> = Vec::new();
        let mut plan = Vec::with_capacity(self.recipients.len());
        for recipient in &self.recipients {
            let group = *numbers.entry(key(recipient)).or_insert(envelopes.len());
            if group == envelopes.len() {
                envelopes.push(self.subset(|_| false));
            }
            envelopes[group].push(recipient.clone());
            plan.push(group);
        }
        let mut keys: Vec<(K, usize)> = numbers.into_iter().collect();
        keys.sort_unstable_by_key(|&(_, number)| number);
        let keys = keys.into_iter().map(|(key, _)| key);
        Groups {
            groups: keys.zip(envelopes.into_iter().map(Arc::new)).collect(),
            plan,
        }
    }

    pub(crate) fn push(&mut self, recipient: Recipient) {
        self.recipients.push(recipient);
    }

    /// Returns the sender, to which delivery failures are reported.
    pub const fn sender(&self) -> &ReversePath {
        &self.sender
    }

    /// Returns the MAIL parameters.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the accepted recipients, in the order of their RCPT commands.
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }
}

impl Recipient {
    pub(crate) const fn new(path: ForwardPath, parameters: Parameters) -> Self {
        Self { path, parameters }
    }

    /// Returns the path that RCPT specified.
    pub const fn path(&self) -> &ForwardPath {
        &self.path
    }

    /// Returns the RCPT parameters.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

/// The recipients of a message in groups, as returned by [`Envelope::group_by`].
///
/// ```
/// use smtpd_core::{Envelope, Reply};
///
/// let envelope = Envelope::default()
///     .with_recipient("short@example.com".parse()?)
///     .with_recipient("longer@example.com".parse()?);
/// let groups = envelope.group_by(|recipient| recipient.path().as_str().len());
/// assert_eq!(groups.len(), 2);
/// assert!(groups.iter().all(|(_, envelope)| envelope.recipients().len() == 1));
/// // One reply is missing.
/// let merged = groups.merge([Reply::OK]);
/// assert_eq!(merged.for_recipient(1).to_string(), "451 4.3.0 No answer");
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Groups<K> {
    groups: Vec<(K, Arc<Envelope>)>,
    /// The index of each recipient's group.
    plan: Vec<usize>,
}

impl<K> Groups<K> {
    /// Returns the number of groups, which is 0 if the envelope has no recipients.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Returns whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns the key and the envelope of each group, in the order of their first recipients. Each envelope has the sender and
    /// the parameters of the original one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&K, &Arc<Envelope>)> {
        self.groups.iter().map(|(key, envelope)| (key, envelope))
    }

    /// Merges the replies to the groups, in the order of [`iter`](Self::iter), into one with a reply for each recipient, in the
    /// order of the recipients. The recipients of a group without a reply get 451 4.3.0.
    pub fn merge<R: Into<DataReply>>(&self, replies: impl IntoIterator<Item = R>) -> DataReply {
        let replies: Vec<DataReply> = replies.into_iter().map(Into::into).collect();
        let mut answered = vec![0; self.groups.len()];
        DataReply::each(self.plan.iter().map(|&group| {
            let number = answered[group];
            answered[group] += 1;
            match replies.get(group) {
                Some(reply) => reply.for_recipient(number).clone(),
                None => DataReply::missing(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Reply;

    fn envelope(recipients: &[&str]) -> Envelope {
        let envelope = Envelope::new("sender@example.com".parse().unwrap())
            .with_parameters("SIZE=9".parse().unwrap());
        recipients.iter().fold(envelope, |envelope, recipient| {
            envelope.with_recipient(recipient.parse().unwrap())
        })
    }

    fn by_domain(envelope: &Envelope) -> Groups<String> {
        envelope.group_by(|recipient| {
            let mailbox = recipient.path().mailbox();
            mailbox
                .map_or("", |mailbox| mailbox.domain().as_str())
                .into()
        })
    }

    #[test]
    fn groups_keep_the_order_and_everything_else_of_the_envelope() {
        let whole = envelope(&["1@b", "2@a", "postmaster", "3@b", "2@a"]);
        let groups = by_domain(&whole);
        let expected = [
            ("b", envelope(&["1@b", "3@b"])),
            ("a", envelope(&["2@a", "2@a"])),
            ("", envelope(&["postmaster"])),
        ];
        assert_eq!((groups.len(), groups.is_empty()), (3, false));
        let found = groups
            .iter()
            .map(|(key, envelope)| (&**key, (**envelope).clone()));
        assert!(found.eq(expected));
    }

    #[test]
    fn the_recipient_of_another_group_never_gets_the_reply() {
        let groups = by_domain(&envelope(&["1@b", "2@a", "3@b", "4@a", "5@b"]));
        let texts = |replies: Vec<DataReply>| -> Vec<String> {
            let merged = groups.merge(replies);
            merged
                .replies()
                .iter()
                .map(|reply| reply.text().to_owned())
                .collect()
        };
        let each =
            |texts: &[&'static str]| DataReply::each(texts.iter().map(|&text| Reply::ok(text)));
        let all = vec![each(&["b1", "b3", "b5"]), each(&["a2", "a4"])];
        assert_eq!(texts(all), ["b1", "a2", "b3", "a4", "b5"]);
        let short = vec![each(&["b1", "b3"]), Reply::ok("a").into()];
        assert_eq!(texts(short), ["b1", "a", "b3", "a", "b3"]);
        let missing = vec![Reply::ok("b").into()];
        assert_eq!(texts(missing), ["b", "No answer", "b", "No answer", "b"]);
        let too_many = vec![
            each(&["b", "b", "b", "x"]),
            each(&["a", "a", "x"]),
            each(&["x"]),
        ];
        assert_eq!(texts(too_many), ["b", "a", "b", "a", "b"]);
    }

    #[test]
    fn a_message_for_nobody_has_no_groups() {
        let groups = by_domain(&envelope(&[]));
        assert!(groups.is_empty() && groups.iter().next().is_none());
        assert_eq!(groups.merge([Reply::OK]).code().as_u16(), 451);
    }
}
