use std::{
    borrow::Cow,
    collections::HashMap,
    hash::Hash,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project::pin_project;
use smtpd_core::{
    address::AddressRules,
    envelope::{Envelope, Recipient},
    reply::DataReply,
};
use tower_layer::Layer;
use tower_service::Service;

use crate::phase::{Data, Request};

/// Drops recipients that occur twice, so that each mailbox receives a message once.
///
/// A client may name a recipient more than once, in several spellings: `b@example.org`, `"b"@EXAMPLE.org`. RCPT accepts all of
/// them, and limits count them all. The service receives an envelope with the first of each, and its reply to that recipient is
/// also the reply to those that were dropped: LMTP sends one for each accepted RCPT (RFC 2033 section 4.2).
///
/// Recipients are the same by [`AddressRules`]. If their parameters differ, such as those of delivery notifications (RFC 3461),
/// both stay, because each asks for something else.
///
/// It fits DATA only, and belongs outside of a [`Router`](crate::router::Router) and of whatever looks at the recipients. It
/// allocates only for messages with several recipients.
///
/// ```
/// use smtpd_tower::{
///     Body, Data, Envelope, Request, Session, deliver::Inbox,
///     layer::DistinctRecipientsLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new();
/// let data = ServiceBuilder::new()
///     .layer(DistinctRecipientsLayer::new())
///     .service(inbox.clone());
/// let envelope = Envelope::default()
///     .with_recipient("b@example.org".parse()?)
///     .with_recipient(r#""b"@EXAMPLE.org"#.parse()?);
/// let message = Data::new(envelope, Body::from("Hello\r\n"));
/// data.oneshot(Request::new(Session::local(), message)).await?;
///
/// let delivered = inbox.next().await;
/// assert_eq!(delivered.envelope().recipients().len(), 1);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DistinctRecipientsLayer {
    rules: AddressRules,
}

impl DistinctRecipientsLayer {
    /// Drops recipients that are the same by the default [`AddressRules`].
    pub const fn new() -> Self {
        Self {
            rules: AddressRules::new(),
        }
    }

    /// Sets the rules by which recipients are the same. Default: [`AddressRules::new`].
    ///
    /// With a delimiter, `b+one@example.org` and `b+two@example.org` are the same, and the service receives the first.
    #[must_use]
    pub const fn address_rules(mut self, rules: AddressRules) -> Self {
        self.rules = rules;
        self
    }
}

impl<S> Layer<S> for DistinctRecipientsLayer {
    type Service = DistinctRecipients<S>;

    fn layer(&self, inner: S) -> DistinctRecipients<S> {
        DistinctRecipients {
            inner,
            rules: self.rules,
        }
    }
}

/// The service of [`DistinctRecipientsLayer`].
#[derive(Clone, Copy, Debug)]
pub struct DistinctRecipients<S> {
    inner: S,
    rules: AddressRules,
}

impl<S> Service<Request<Data>> for DistinctRecipients<S>
where
    S: Service<Request<Data>, Response: Into<DataReply>>,
{
    type Response = DataReply;
    type Error = S::Error;
    type Future = DistinctRecipientsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Data>) -> Self::Future {
        let Some(plan) = Plan::of(request.envelope(), self.rules) else {
            return DistinctRecipientsFuture {
                inner: self.inner.call(request),
                plan: None,
            };
        };
        let request = request.map(|data| {
            let (envelope, body) = data.into_parts();
            Data::new(plan.distinct(&envelope), body)
        });
        DistinctRecipientsFuture {
            inner: self.inner.call(request),
            plan: Some(plan),
        }
    }
}

/// The future of [`DistinctRecipients`].
#[pin_project]
#[derive(Debug)]
pub struct DistinctRecipientsFuture<F> {
    #[pin]
    inner: F,
    plan: Option<Plan>,
}

impl<F, R, E> Future for DistinctRecipientsFuture<F>
where
    F: Future<Output = Result<R, E>>,
    R: Into<DataReply>,
{
    type Output = Result<DataReply, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let reply = ready!(this.inner.poll(cx))?.into();
        Poll::Ready(Ok(match this.plan {
            Some(plan) => plan.spread(&reply),
            None => reply,
        }))
    }
}

/// Which recipients are duplicates: for each one, the first that is the same, which may be itself.
#[derive(Debug)]
struct Plan(Vec<usize>);

impl Plan {
    /// Returns `None` if there are no duplicates.
    fn of(envelope: &Envelope, rules: AddressRules) -> Option<Self> {
        let recipients = envelope.recipients();
        if recipients.len() < 2 {
            return None;
        }
        let names = recipients.iter().map(|one| rules.recipient(one.path()));
        let mut order: Vec<(Cow<'_, str>, usize)> = names.zip(0..).collect();
        order.sort_unstable();
        let mut plan = Self((0..recipients.len()).collect());
        for same in order.chunk_by(|one, next| one.0 == next.0) {
            if same.len() > 1 {
                let numbers = same.iter().map(|(_, number)| *number);
                plan.add(numbers.map(|number| (number, parameters(&recipients[number]))));
            }
        }
        plan.has_duplicates().then_some(plan)
    }

    /// Adds recipients of one mailbox, in ascending order, with their parameters, which may be different for each of thousands.
    fn add<K: Eq + Hash>(&mut self, same: impl Iterator<Item = (usize, K)>) {
        let mut firsts = HashMap::new();
        for (number, parameters) in same {
            self.0[number] = *firsts.entry(parameters).or_insert(number);
        }
    }

    fn is_first(&self, number: usize) -> bool {
        self.0[number] == number
    }

    fn has_duplicates(&self) -> bool {
        (0..self.0.len()).any(|number| !self.is_first(number))
    }

    /// Returns the envelope without duplicates.
    fn distinct(&self, envelope: &Envelope) -> Envelope {
        let mut numbers = 0..;
        envelope.subset(|_| numbers.next().is_some_and(|number| self.is_first(number)))
    }

    /// Returns the reply to all recipients, from that to the distinct ones.
    fn spread(&self, reply: &DataReply) -> DataReply {
        if let [one] = reply.replies() {
            return one.clone().into();
        }
        let mut numbers = vec![0; self.0.len()];
        let mut distinct = 0;
        for number in 0..self.0.len() {
            numbers[number] = numbers[self.0[number]];
            if self.is_first(number) {
                numbers[number] = distinct;
                distinct += 1;
            }
        }
        DataReply::each(
            numbers
                .into_iter()
                .map(|number| reply.for_recipient(number).clone()),
        )
    }
}

fn parameters(recipient: &Recipient) -> Vec<(&str, Option<&str>)> {
    recipient.parameters().iter().collect()
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible, hash::Hasher};

    use smtpd_core::reply::Reply;
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::{body::Body, session::Session};

    fn envelope(recipients: &[&str]) -> Envelope {
        recipients.iter().fold(Envelope::default(), |all, one| {
            all.with_recipient(one.parse().unwrap())
        })
    }

    /// Returns the recipients that the service receives, and the replies if it answers each with its address.
    async fn deliver(
        layer: DistinctRecipientsLayer,
        envelope: Envelope,
    ) -> (Vec<String>, DataReply) {
        let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
        let service = ServiceBuilder::new().layer(layer).service(service_fn(
            move |request: Request<Data>| {
                let paths = request.envelope().recipients().iter();
                let paths: Vec<_> = paths.map(|one| one.path().to_string()).collect();
                let reply = DataReply::each(paths.iter().map(|path| Reply::ok(path.clone())));
                sent.send(paths).unwrap();
                std::future::ready(Ok::<_, Infallible>(reply))
            },
        ));
        let message = Data::new(envelope, Body::from("Hello\r\n"));
        let reply = service
            .oneshot(Request::new(Session::local(), message))
            .await;
        (received.recv().await.unwrap(), reply.unwrap())
    }

    #[tokio::test]
    async fn a_recipient_that_is_named_twice_receives_two_copies() {
        const NAMED: [&str; 8] = [
            "b@example.org",
            "a@example.org",
            "b@EXAMPLE.org",
            "Postmaster",
            r#""b"@example.org"#,
            "B@example.org",
            "POSTMASTER",
            "a+x@example.org",
        ];
        let layer = DistinctRecipientsLayer::new();
        let (paths, reply) = deliver(layer, envelope(&NAMED)).await;
        let [b, a, post] = ["b@example.org", "a@example.org", "Postmaster"];
        assert_eq!(paths, [b, a, post, "B@example.org", "a+x@example.org"]);
        let texts = |reply: &DataReply| -> Vec<String> {
            let replies = reply.replies().iter();
            replies.map(|reply| reply.text().to_owned()).collect()
        };
        let expected = [b, a, b, post, b, "B@example.org", post, "a+x@example.org"];
        assert_eq!(texts(&reply), expected);

        let loose = AddressRules::new()
            .ignore_case(true)
            .recipient_delimiter('+');
        let (paths, reply) = deliver(layer.address_rules(loose), envelope(&NAMED)).await;
        assert_eq!(paths, [b, a, post]);
        assert_eq!(texts(&reply), [b, a, b, post, b, b, post, a]);
    }

    #[tokio::test]
    async fn one_reply_stands_for_all_of_them() {
        let layer = DistinctRecipientsLayer::new();
        let (paths, reply) = deliver(layer, envelope(&["b@example.org"; 3])).await;
        assert_eq!(paths, ["b@example.org"]);
        assert_eq!(reply, DataReply::from(Reply::ok("b@example.org")));
        for distinct in [&[][..], &["a@b.org"], &["a@b.org", "c@b.org"]] {
            assert!(Plan::of(&envelope(distinct), AddressRules::new()).is_none());
        }
    }

    /// Parameters that count how often they are compared.
    struct Compared<'a>(usize, &'a Cell<usize>);

    impl PartialEq for Compared<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.1.set(self.1.get() + 1);
            self.0 == other.0
        }
    }

    impl Eq for Compared<'_> {}

    impl Hash for Compared<'_> {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    #[test]
    fn each_of_many_duplicates_is_compared_with_all_others() {
        const COUNT: usize = 10_000;
        let comparisons = Cell::new(0);
        let mut plan = Plan((0..COUNT).collect());
        let same = |number| (number, Compared(number % (COUNT / 2), &comparisons));
        plan.add((0..COUNT).map(same));
        let distinct = (0..COUNT).filter(|number| plan.is_first(*number));
        assert!(distinct.eq(0..COUNT / 2));
        assert!(comparisons.get() < 2 * COUNT, "{comparisons:?}");
    }
}
