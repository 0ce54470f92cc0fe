use super::{Envelope, Recipient};
use crate::{
    address::{ForwardPath, ReversePath},
    reply::{DataReply, Reply},
};

/// An envelope that is being changed, as aliases and filters do; made by [`Envelope::edit`].
///
/// A client expects one reply for each recipient that it has sent, in that order. So an edit remembers where each recipient comes
/// from: [`reply`](Self::reply) turns the reply for the changed envelope into the reply for the original one.
///
/// ```
/// use smtpd_core::{DataReply, Envelope, Reply};
///
/// let original = Envelope::default()
///     .with_recipient("team@example.org".parse()?)
///     .with_recipient("trap@example.org".parse()?)
///     .with_recipient("carol@example.org".parse()?);
/// let mut edit = original.edit();
/// edit.replace(0, ["alice@example.org".parse()?, "bob@example.org".parse()?]);
/// edit.remove(1);
/// edit.add("archive@example.org".parse()?);
///
/// let paths: Vec<_> = edit
///     .envelope()
///     .recipients()
///     .iter()
///     .map(|recipient| recipient.path().as_str())
///     .collect();
/// assert_eq!(
///     paths,
///     [
///         "alice@example.org",
///         "bob@example.org",
///         "carol@example.org",
///         "archive@example.org"
///     ]
/// );
///
/// let full = Reply::mailbox_full();
/// let reply =
///     DataReply::each([Reply::OK, full.clone(), Reply::OK, Reply::OK]);
/// assert_eq!(edit.reply(&reply).replies(), [full, Reply::OK, Reply::OK]);
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct EnvelopeEdit {
    changed: Envelope,
    /// The index that each recipient, or the one that it replaces, has in the original envelope; `None` if it was added.
    origins: Vec<Option<usize>>,
    /// The number of recipients in the original envelope.
    originals: usize,
}

impl Envelope {
    /// Begins to change a copy of this envelope.
    pub fn edit(&self) -> EnvelopeEdit {
        let originals = self.recipients().len();
        EnvelopeEdit {
            changed: self.clone(),
            origins: (0..originals).map(Some).collect(),
            originals,
        }
    }
}

impl EnvelopeEdit {
    /// Returns the envelope as it is now. The recipients are in the order of the original ones, and those that were added follow.
    /// There may be none left: no service should be called for such a message.
    pub const fn envelope(&self) -> &Envelope {
        &self.changed
    }

    /// Converts the edit into the envelope, for a message whose reply does not depend on its delivery.
    pub fn into_envelope(self) -> Envelope {
        self.changed
    }

    /// Replaces the sender. The MAIL parameters stay.
    pub fn set_sender(&mut self, sender: ReversePath) {
        self.changed.sender = sender;
    }

    /// Adds a recipient without parameters.
    ///
    /// The client has not sent it, and so receives no reply for it: a service that refuses an added recipient has to report that
    /// in another way.
    pub fn add(&mut self, path: ForwardPath) {
        self.changed.push(Recipient::from(path));
        self.origins.push(None);
    }

    /// Removes the recipient with that index in the original envelope, or all that it was replaced with. The client receives 250
    /// for it. Returns whether there was one.
    pub fn remove(&mut self, index: usize) -> bool {
        self.replace(index, [])
    }

    /// Replaces the recipient with that index in the original envelope, or all that it was replaced with, by others. Returns
    /// whether there was one.
    ///
    /// The others keep its parameters, which RFC 3461 section 5.2.7.2 recommends for an alias. If there are several, they lose
    /// `NOTIFY=SUCCESS`, because a sender who has named one recipient does not expect a notification from each of them; without any
    /// other keyword, it becomes `NOTIFY=NEVER`. That is one of the ways of section 5.2.7.3. A service that expands an alias and
    /// sends notifications itself tells the sender that the message was expanded, if SUCCESS was asked for.
    ///
    /// For a mailing list, whose sender is another one, the parameters must not be kept (section 5.2.7.1): [remove](Self::remove)
    /// the recipient and [add](Self::add) the others.
    ///
    /// The client receives one reply for them, as [`DataReply::merged`] chooses it: if one of them is refused for now, the client
    /// tries again for all of them.
    pub fn replace(&mut self, index: usize, paths: impl IntoIterator<Item = ForwardPath>) -> bool {
        let is_it = |origin: &Option<usize>| *origin == Some(index);
        let Some(first) = self.origins.iter().position(is_it) else {
            return false;
        };
        let count = self.origins[first..]
            .iter()
            .take_while(|o| is_it(o))
            .count();
        let paths: Vec<_> = paths.into_iter().collect();
        let parameters = &self.changed.recipients[first].parameters;
        let parameters = match paths.len() {
            ..=1 => parameters.clone(),
            _ => parameters.without_success(),
        };
        let others = paths
            .into_iter()
            .map(|path| Recipient::new(path, parameters.clone()));
        let others: Vec<_> = others.collect();
        let span = first..first + count;
        self.origins
            .splice(span.clone(), others.iter().map(|_| Some(index)));
        self.changed.recipients.splice(span, others);
        true
    }

    /// Returns the reply for the original envelope, given the reply for the changed one: one for each original recipient, in
    /// order.
    pub fn reply(&self, reply: &DataReply) -> DataReply {
        let mut of_each = vec![Vec::new(); self.originals];
        for (number, origin) in self.origins.iter().enumerate() {
            if let Some(replies) = origin.and_then(|origin| of_each.get_mut(origin)) {
                replies.push(reply.for_recipient(number).clone());
            }
        }
        let merged = |replies: Vec<Reply>| match replies.is_empty() {
            true => Reply::OK,
            false => DataReply::each(replies).merged().clone(),
        };
        DataReply::each(of_each.into_iter().map(merged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(recipients: &[&str]) -> Envelope {
        let empty = Envelope::new("sender@example.com".parse().unwrap())
            .with_parameters("SIZE=9".parse().unwrap());
        recipients.iter().fold(empty, |envelope, recipient| {
            envelope.with_recipient(recipient.parse().unwrap())
        })
    }

    fn shown(edit: &EnvelopeEdit) -> Vec<&str> {
        let recipients = edit.envelope().recipients().iter();
        recipients.map(|one| one.path().as_str()).collect()
    }

    fn path(text: &str) -> ForwardPath {
        text.parse().unwrap()
    }

    fn replies(edit: &EnvelopeEdit, texts: &[&'static str]) -> Vec<String> {
        let each = texts.iter().map(|text| match *text {
            "5" => Reply::no_such_user(),
            "4" => Reply::mailbox_full(),
            text => Reply::ok(text),
        });
        let reply = edit.reply(&DataReply::each(each));
        let replies = reply.replies().iter();
        replies.map(|reply| reply.text().to_owned()).collect()
    }

    #[test]
    fn an_edit_that_changes_nothing_changes_no_reply() {
        let original = envelope(&["a@x", "b@x"]);
        let edit = original.edit();
        assert_eq!(*edit.envelope(), original);
        assert_eq!(replies(&edit, &["1", "2"]), ["1", "2"]);
        assert_eq!(replies(&edit, &["1"]), ["1", "1"]);
    }

    #[test]
    fn a_reply_goes_to_the_recipient_that_the_client_has_sent() {
        let mut edit = envelope(&["a@x", "b@x", "c@x", "d@x"]).edit();
        edit.add(path("z@x"));
        assert!(edit.remove(0));
        assert!(edit.replace(2, ["c1@x", "c2@x"].map(path)));
        assert_eq!(shown(&edit), ["b@x", "c1@x", "c2@x", "d@x", "z@x"]);
        assert_eq!(
            replies(&edit, &["b", "c1", "c2", "d", "z"]),
            ["OK", "b", "c1", "d"]
        );
        assert_eq!(
            replies(&edit, &["b", "c1", "5", "d", "5"]),
            ["OK", "b", "No such user", "d"]
        );
        assert_eq!(
            replies(&edit, &["b", "5", "4", "d", "4"]),
            ["OK", "b", "Mailbox full", "d"]
        );
    }

    #[test]
    fn what_was_replaced_can_be_replaced_again_and_what_was_removed_not() {
        let mut edit = envelope(&["a@x", "b@x"]).edit();
        assert!(edit.replace(0, ["1@x", "2@x", "3@x"].map(path)));
        assert!(edit.replace(0, [path("4@x")]));
        assert_eq!(shown(&edit), ["4@x", "b@x"]);
        assert!(edit.remove(0) && !edit.remove(0));
        assert!(!edit.replace(0, [path("5@x")]) && !edit.remove(2));
        assert_eq!(replies(&edit, &["b"]), ["OK", "b"]);
        assert!(edit.remove(1));
        assert!(edit.envelope().recipients().is_empty());
        assert_eq!(replies(&edit, &["x"]), ["OK", "OK"]);
    }

    #[test]
    fn one_recipient_is_reported_as_delivered_by_several() {
        let replaced = |parameters: &str, paths: &[&str]| {
            let mut original = Envelope::default();
            original.push(Recipient::new(path("a@x"), parameters.parse().unwrap()));
            let mut edit = original.edit();
            edit.replace(0, paths.iter().map(|one| path(one)));
            let recipients = edit.into_envelope().recipients().to_vec();
            let words = |(keyword, value): (&str, Option<&str>)| match value {
                Some(value) => format!("{keyword}={value}"),
                None => keyword.to_owned(),
            };
            let parameters = recipients.iter().map(|one| one.parameters().iter());
            let mut parameters = parameters.map(|all| all.map(words).collect::<Vec<_>>().join(" "));
            let first = parameters.next().unwrap();
            assert!(parameters.all(|other| other == first));
            first
        };
        let all = "ORCPT=rfc822;a@x NOTIFY=success,DELAY XOWN";
        assert_eq!(replaced(all, &["1@y"]), all);
        assert_eq!(
            replaced(all, &["1@y", "2@y"]),
            "ORCPT=rfc822;a@x NOTIFY=DELAY XOWN"
        );
        assert_eq!(replaced("notify=SUCCESS", &["1@y", "2@y"]), "notify=NEVER");
        assert_eq!(
            replaced("NOTIFY=FAILURE", &["1@y", "2@y"]),
            "NOTIFY=FAILURE"
        );
    }

    #[test]
    fn an_alias_keeps_what_the_sender_wants_to_be_told() {
        let mut original = Envelope::default();
        let parameters = || "NOTIFY=NEVER ORCPT=rfc822;a@x".parse().unwrap();
        original.push(Recipient::new(path("a@x"), parameters()));
        let mut edit = original.edit();
        edit.replace(0, ["1@y", "2@y"].map(path));
        edit.set_sender("list@x".parse().unwrap());
        let changed = edit.into_envelope();
        assert_eq!(changed.sender().as_str(), "list@x");
        let recipients = changed.recipients();
        assert!(
            recipients
                .iter()
                .all(|one| *one.parameters() == parameters())
        );
    }
}
