//! The [`Envelope`] of a message: its sender, and each [`Recipient`] that was accepted.

use crate::{
    address::{ForwardPath, ReversePath},
    parameter::Parameters,
};

/// From whom a message comes and for whom it is, as MAIL and RCPT said; not what stands in its header.
///
/// ```
/// use smtpd_core::Envelope;
///
/// let envelope = Envelope::new("a@example.com".parse()?).with_recipient("b@example.org".parse()?);
/// assert_eq!(envelope.recipients()[0].path().as_str(), "b@example.org");
/// # Ok::<(), smtpd_core::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    sender: ReversePath,
    parameters: Parameters,
    recipients: Vec<Recipient>,
}

/// A recipient that was accepted.
///
/// ```
/// use smtpd_core::Envelope;
///
/// let envelope = Envelope::default().with_recipient("b@example.org".parse()?);
/// for recipient in envelope.recipients() {
///     assert_eq!(recipient.path().mailbox().map(|mailbox| mailbox.local_part()), Some("b"));
///     assert!(recipient.parameters().is_empty());
/// }
/// # Ok::<(), smtpd_core::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    path: ForwardPath,
    parameters: Parameters,
}

impl Default for Envelope {
    /// From the null sender, for nobody.
    fn default() -> Self {
        Self::new(ReversePath::Null)
    }
}

impl Envelope {
    /// From that sender, for nobody yet.
    pub fn new(sender: ReversePath) -> Self {
        Self {
            sender,
            parameters: Parameters::default(),
            recipients: Vec::new(),
        }
    }

    /// The same with these parameters of MAIL.
    #[must_use]
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }

    /// The same for one more recipient.
    #[must_use]
    pub fn with_recipient(mut self, recipient: ForwardPath) -> Self {
        self.push(Recipient::new(recipient, Parameters::default()));
        self
    }

    /// The same for those recipients alone that `keep` is true of. It is asked once about each, in their order.
    ///
    /// ```
    /// use smtpd_core::Envelope;
    ///
    /// let envelope = Envelope::default()
    ///     .with_recipient("a@example.com".parse()?)
    ///     .with_recipient("b@example.org".parse()?);
    /// let org = envelope.subset(|recipient| recipient.path().as_str().ends_with(".org"));
    /// assert_eq!(org, Envelope::default().with_recipient("b@example.org".parse()?));
    /// # Ok::<(), smtpd_core::AddressError>(())
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

    pub(crate) fn push(&mut self, recipient: Recipient) {
        self.recipients.push(recipient);
    }

    /// Where failures are to be reported.
    pub const fn sender(&self) -> &ReversePath {
        &self.sender
    }

    /// The parameters of MAIL.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The accepted recipients, in the order of their RCPT commands.
    pub fn recipients(&self) -> &[Recipient] {
        &self.recipients
    }
}

impl Recipient {
    pub(crate) const fn new(path: ForwardPath, parameters: Parameters) -> Self {
        Self { path, parameters }
    }

    /// Its path.
    pub const fn path(&self) -> &ForwardPath {
        &self.path
    }

    /// The parameters of its RCPT.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}
