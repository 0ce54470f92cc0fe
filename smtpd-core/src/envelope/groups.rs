use std::sync::Arc;

use super::Envelope;
use crate::reply::DataReply;

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
    pub(super) const fn new(groups: Vec<(K, Arc<Envelope>)>, plan: Vec<usize>) -> Self {
        Self { groups, plan }
    }

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
