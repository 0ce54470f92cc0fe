//! The sender and the recipients of a message.
//!
//! - [`Envelope`] holds what MAIL and RCPT specified, with a [`Recipient`] for each accepted RCPT.
//! - [`EnvelopeEdit`] changes an envelope, and turns the reply for it into the reply for the original one.
//! - [`Groups`] splits an envelope for several deliveries, and merges their replies.

mod edit;
mod groups;

use std::{collections::HashMap, hash::Hash, sync::Arc};

pub use self::{edit::EnvelopeEdit, groups::Groups};
use crate::{
    address::{ForwardPath, ReversePath},
    parameter::Parameters,
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

    /// Returns the envelope with one more recipient, which has no parameters.
    #[must_use]
    pub fn with_recipient(mut self, recipient: ForwardPath) -> Self {
        self.push(Recipient::from(recipient));
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
        Groups::new(
            keys.zip(envelopes.into_iter().map(Arc::new)).collect(),
            plan,
        )
    }

    /// Adds a recipient.
    ///
    /// ```
    /// use smtpd_core::{Envelope, Recipient, parameter::Notify};
    ///
    /// let mut envelope = Envelope::default();
    /// let parameters = "NOTIFY=NEVER".parse()?;
    /// envelope.push(Recipient::new("b@example.org".parse()?, parameters));
    /// assert!(envelope.recipients()[0].parameters().get::<Notify>().is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push(&mut self, recipient: Recipient) {
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
    /// Creates a recipient with these RCPT parameters.
    pub const fn new(path: ForwardPath, parameters: Parameters) -> Self {
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

impl From<ForwardPath> for Recipient {
    /// Creates a recipient without parameters.
    fn from(path: ForwardPath) -> Self {
        Self::new(path, Parameters::default())
    }
}
