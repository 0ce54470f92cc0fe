//! One message for several services.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use smtpd_core::{
    config::Protocol,
    envelope::{Envelope, Groups},
    reply::DataReply,
};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::BoxError;
use tower_service::Service;

use super::{
    RouteFuture, Router,
    broadcast::Broadcast,
    limited::{Limited, Since},
    pace::{Late, Patience, after},
};
use crate::{
    body::known_reply,
    phase::{Data, Deadline, PhaseKind, Request},
    reply::recover,
    session::Session,
};

impl Service<Request<Data>> for Router<Data> {
    type Response = DataReply;
    type Error = BoxError;
    type Future = SplitFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Data>) -> SplitFuture {
        let recipients = request.envelope().recipients().iter();
        let plan: Vec<_> = recipients
            .map(|recipient| self.find(&request, recipient.path()))
            .collect();
        let first = plan.first().copied().flatten();
        if plan.iter().all(|route| *route == first) {
            return SplitFuture::new(match self.timeout {
                Some(limit) => {
                    let (watch, patience) = (request.body_mut().watch(), Patience::new(limit));
                    let since = Since::default();
                    let deadline = since.deadline(request.deadline().clone(), patience);
                    let future = self.ask(first, request.with_deadline(deadline));
                    State::Limited(Limited::new(future, watch, patience, since))
                }
                // There is no other answer that the server's own timeout could replace.
                None => State::One(self.ask(first, request)),
            });
        }
        // The reply of SMTP is negative whatever the services say, so none of them should deliver.
        if request.session().protocol() == Protocol::Smtp
            && plan.contains(&None)
            && let Some(refusal) = self.refuses()
        {
            return SplitFuture::new(State::Refused(Some(refusal.clone().into())));
        }
        SplitFuture::new(State::Several(Split::new(self, plan, request)))
    }
}

impl Router<Data> {
    /// Returns how long routes may keep the client of this session waiting.
    fn patience(&self, session: &Session) -> Patience {
        // The answers that are there have to be given before the server's own timeout.
        let default = || session.timeouts().delivery / 4 * 3;
        Patience::new(self.timeout.unwrap_or_else(default))
    }
}

/// The future of a [`Router`] at DATA.
#[pin_project]
#[derive(Debug)]
pub struct SplitFuture {
    state: State,
    /// Set if there is no answer at once.
    #[pin]
    timer: Option<Sleep>,
}

#[derive(Debug)]
enum State {
    Refused(Option<DataReply>),
    One(RouteFuture<Data>),
    Limited(Limited),
    Several(Split),
}

impl SplitFuture {
    const fn new(state: State) -> Self {
        Self { state, timer: None }
    }
}

impl Future for SplitFuture {
    type Output = Result<DataReply, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(result) = this.state.poll(cx) {
            return Poll::Ready(result);
        }
        if this.timer.is_none() && this.state.is_limited() {
            let first = this.state.check(Instant::now());
            this.timer.set(first.map(sleep_until));
        }
        if let (Some(late), Some(timer)) = (this.state.late(), this.timer.as_mut().as_pin_mut())
            && late < timer.deadline()
        {
            timer.reset(late);
        }
        while let Some(mut timer) = this.timer.as_mut().as_pin_mut() {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if let Some(next) = this.state.check(now) {
                timer.reset(next.max(now + SHORTEST_SLEEP));
            }
            if let Poll::Ready(result) = this.state.poll(cx) {
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    }
}

/// So that a timer never fires at once, and a poll always ends.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

impl State {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<DataReply, BoxError>> {
        match self {
            Self::Refused(answer) => answer
                .take()
                .map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer))),
            Self::One(future) => Pin::new(future).poll(cx),
            Self::Limited(limited) => limited.poll(cx),
            Self::Several(split) => split.poll(cx).map(Ok),
        }
    }

    fn late(&self) -> Option<Instant> {
        match self {
            Self::Several(split) => split.late(),
            _ => None,
        }
    }

    const fn is_limited(&self) -> bool {
        matches!(self, Self::Limited(_) | Self::Several(_))
    }

    /// Gives up the routes that are too slow. Returns when to check again, if ever.
    fn check(&mut self, now: Instant) -> Option<Instant> {
        match self {
            Self::Refused(_) | Self::One(_) => None,
            Self::Limited(limited) => Some(limited.check(now)),
            Self::Several(split) => Some(split.check(now)),
        }
    }
}

/// A message for several routes.
#[derive(Debug)]
struct Split {
    session: Session,
    /// The recipients of each route.
    groups: Groups<Option<usize>>,
    /// What each group's service has yet to do.
    parts: Vec<Part>,
    broadcast: Broadcast,
    patience: Patience,
    /// When the message has to be requested, though no route has read it, if there is an answer to keep.
    begin: Option<Instant>,
    deadline: Deadline,
    late: Late,
}

#[derive(Debug)]
struct Part {
    future: RouteFuture<Data>,
    answer: Option<DataReply>,
}

impl Split {
    fn new(router: &Router<Data>, plan: Vec<Option<usize>>, request: Request<Data>) -> Self {
        let deadline = request.deadline().clone();
        let (session, data) = request.into_parts();
        let mut routes = plan.into_iter();
        let (envelope, body) = data.into_parts();
        let groups = envelope.group_by(|_| routes.next().flatten());
        let broadcast = Broadcast::new(body, groups.len(), router.ahead);
        let patience = router.patience(&session);
        let late = Late::default();
        let whole = late.deadline(deadline.clone());
        let bodies = broadcast.bodies(groups.len()).into_iter().enumerate();
        let part = |((route, envelope), (number, body)): ((&Option<usize>, &Arc<Envelope>), _)| {
            let data = Data::new(envelope.clone(), body);
            let deadline = broadcast.deadline(number, whole.clone(), patience);
            let request = Request::new(session.clone(), data).with_deadline(deadline);
            Part {
                future: router.ask(*route, request),
                answer: None,
            }
        };
        let parts = groups.iter().zip(bodies).map(part).collect();
        Self {
            groups,
            parts,
            broadcast,
            patience,
            deadline,
            late,
            begin: Some(after(Instant::now(), session.timeouts().data_start / 2)),
            session,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DataReply> {
        loop {
            self.poll_parts(cx);
            if self.parts.iter().all(|part| part.answer.is_some()) {
                let answers = self.parts.iter_mut().filter_map(|part| part.answer.take());
                return Poll::Ready(self.groups.merge(answers));
            }
            if self.parts.iter().all(|part| part.answer.is_none()) {
                return Poll::Pending;
            }
            self.begin_if_late();
            if self.late().is_none_or(|late| Instant::now() < late) {
                return Poll::Pending;
            }
            let parts = self.parts.iter().enumerate();
            let missing = parts.filter(|(_, part)| part.answer.is_none());
            let missing: Vec<_> = missing.map(|(number, _)| number).collect();
            self.give_up(missing);
        }
    }

    fn poll_parts(&mut self, cx: &mut Context<'_>) {
        for (number, part) in self.parts.iter_mut().enumerate() {
            if part.answer.is_some() {
                continue;
            }
            part.poll(cx, &self.session);
            if part.answer.is_some() {
                // Its body may be in another task.
                self.broadcast.expel(number);
            }
        }
    }

    /// Requests the message if the other routes have not requested it: the server's timeout for that would replace the answer.
    fn begin_if_late(&mut self) {
        if self.begin.is_some_and(|begin| begin <= Instant::now()) {
            self.begin = None;
            self.broadcast.begin();
        }
    }

    /// Returns when the answers that are there have to be given, so that no other replaces them. `None` if there are none.
    fn late(&self) -> Option<Instant> {
        if self.parts.iter().all(|part| part.answer.is_none()) {
            return None;
        }
        Some(self.late.before(self.deadline.instant()?))
    }

    fn give_up(&mut self, numbers: impl IntoIterator<Item = usize>) {
        for number in numbers {
            if let Some(part) = self.parts.get_mut(number) {
                part.future.give_up();
                self.broadcast.expel(number);
            }
        }
    }

    fn check(&mut self, now: Instant) -> Instant {
        self.give_up(self.broadcast.overdue(now, self.patience));
        let due = self.broadcast.due(self.patience);
        let late = self.late().filter(|late| *late > now);
        let begin = self.begin.filter(|begin| *begin > now);
        // Whoever is late later is not due before that. The deadline may come unseen, while bodies are read in other tasks.
        let unseen = self.session.timeouts().delivery / 4;
        let look = after(now, self.patience.of_routes().min(unseen));
        due.into_iter()
            .chain(begin)
            .chain(late)
            .fold(look, Instant::min)
    }
}

impl Part {
    fn poll(&mut self, cx: &mut Context<'_>, session: &Session) {
        if let Poll::Ready(result) = Pin::new(&mut self.future).poll(cx) {
            self.answer = Some(result.unwrap_or_else(|error| failed(session, error)));
        }
    }
}

fn failed(session: &Session, error: BoxError) -> DataReply {
    let reply = recover(&error);
    if known_reply(&*error).is_none() {
        // Other services may have accepted the message, so the error cannot be that of the whole call, and is reported here.
        session.report_fault(PhaseKind::Data, error);
    }
    reply.into()
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use smtpd_core::reply::Reply;
    use tokio::time::advance;
    use tokio_test::{assert_pending, assert_ready_ok, task};
    use tower::{ServiceBuilder, ServiceExt, service_fn};

    use super::*;
    use crate::{
        body::{Body, BodyError, incoming},
        deliver::Inbox,
        net::PeerAddr,
        service::{PhaseService, handler_fn},
    };

    fn session(protocol: Protocol) -> Session {
        let unknown = PeerAddr::Unknown;
        Session::new(unknown.clone(), unknown, Arc::default(), protocol)
    }

    fn request(protocol: Protocol, recipients: &[&str], body: Body) -> Request<Data> {
        let envelope = Envelope::new("sender@example.com".parse().unwrap());
        let envelope = recipients.iter().fold(envelope, |envelope, recipient| {
            envelope.with_recipient(recipient.parse().unwrap())
        });
        Request::new(session(protocol), Data::new(envelope, body))
    }

    async fn deliver(
        router: &Router<Data>,
        protocol: Protocol,
        recipients: &[&str],
    ) -> Vec<String> {
        let request = request(protocol, recipients, Body::from("text"));
        texts(&router.clone().oneshot(request).await.unwrap())
    }

    fn texts(reply: &DataReply) -> Vec<String> {
        reply.replies().iter().map(Reply::to_string).collect()
    }

    /// Replies to each recipient with the content it has received.
    fn echo(name: &'static str) -> impl PhaseService<Data> {
        handler_fn(move |request: Request<Data>| async move {
            let envelope = request.envelope().clone();
            let message = request.into_body().collect().await?;
            let (from, size) = (envelope.sender(), message.len());
            let recipients = envelope.recipients().iter();
            Ok::<_, BodyError>(DataReply::each(recipients.map(|recipient| {
                Reply::ok(format!("{name}: {from} {} {size}", recipient.path()))
            })))
        })
    }

    fn answer(reply: Reply) -> impl PhaseService<Data> {
        handler_fn(move |_: Request<Data>| ready(reply.clone()))
    }

    #[tokio::test]
    async fn replies_come_in_the_order_of_the_recipients() {
        let router = Router::new()
            .domain("a.example".parse().unwrap(), echo("A"))
            .domain("b.example".parse().unwrap(), echo("B"));
        let replies = deliver(
            &router,
            Protocol::Smtp,
            &["1@b.example", "2@a.example", "3@b.example", "2@a.example"],
        );
        assert_eq!(
            replies.await,
            [
                "250 2.0.0 B: sender@example.com 1@b.example 4",
                "250 2.0.0 A: sender@example.com 2@a.example 4",
                "250 2.0.0 B: sender@example.com 3@b.example 4",
                "250 2.0.0 A: sender@example.com 2@a.example 4",
            ]
        );
    }

    #[tokio::test]
    async fn a_service_that_fails_affects_its_own_recipients_only() {
        let fails = |error: fn() -> BoxError| {
            service_fn(move |_: Request<Data>| ready(Err::<Reply, _>(error())))
        };
        let router = Router::new()
            .domain(
                "a.example".parse().unwrap(),
                fails(|| "password=secret".into()),
            )
            .domain(
                "b.example".parse().unwrap(),
                fails(|| Reply::mailbox_full().into()),
            )
            .domain("c.example".parse().unwrap(), answer(Reply::OK));
        let recipients = ["1@c.example", "2@a.example", "3@b.example", "4@a.example"];
        assert_eq!(
            deliver(&router, Protocol::Smtp, &recipients).await,
            [
                "250 2.0.0 OK",
                "451 4.3.0 Local error in processing",
                "452 4.2.2 Mailbox full",
                "451 4.3.0 Local error in processing",
            ]
        );
        let alone = request(Protocol::Smtp, &["1@a.example"], Body::from("text"));
        let error = router.oneshot(alone).await.unwrap_err();
        assert_eq!(error.to_string(), "password=secret");
    }

    #[tokio::test]
    async fn with_one_route_for_all_the_request_is_unchanged() {
        let request = request(
            Protocol::Smtp,
            &["1@a.example", "2@a.example"],
            Body::from("text"),
        );
        let envelope = request.envelope().clone();
        let same = handler_fn(move |request: Request<Data>| {
            let same = Arc::ptr_eq(request.envelope(), &envelope);
            ready(Reply::ok(same.to_string()))
        });
        let router = Router::new().domain("a.example".parse().unwrap(), same);
        let reply = router.oneshot(request).await.unwrap();
        assert_eq!(reply, Reply::ok("true"));
    }

    #[tokio::test]
    async fn over_smtp_nobody_delivers_what_is_refused_for_another() {
        use Protocol::{Lmtp, Smtp};
        let router = Router::new().domain("a.example".parse().unwrap(), echo("A"));
        let refusing = router.clone().otherwise_reply(Reply::no_such_user());
        let dropping = router.clone().otherwise_reply(Reply::ok("Dropped"));
        let (known, no, later, dropped) = (
            "250 2.0.0 A: sender@example.com 1@a.example 4",
            "550 5.1.1 No such user",
            "451 4.3.0 No delivery is set up",
            "250 2.0.0 Dropped",
        );
        let both = ["2@b.example", "1@a.example"];
        for (router, protocol, recipients, expected) in [
            (&router, Smtp, &both[..], &[later][..]),
            (&router, Lmtp, &both, &[later, known]),
            (&refusing, Smtp, &both, &[no]),
            (&refusing, Lmtp, &both, &[no, known]),
            (&dropping, Smtp, &both, &[dropped, known]),
            (&refusing, Lmtp, &["2@b.example", "3@b.example"], &[no]),
            (&refusing, Lmtp, &[], &[no]),
        ] {
            let replies = deliver(router, protocol, recipients).await;
            assert_eq!(replies, expected, "{protocol:?} {recipients:?}");
        }
    }

    #[test]
    fn a_message_is_refused_as_a_whole_before_it_is_read() {
        let router = Router::new().domain("a.example".parse().unwrap(), echo("A"));
        let (feed, body) = incoming();
        let recipients = ["1@a.example", "2@b.example"];
        let mut answer = task::spawn(router.oneshot(request(Protocol::Smtp, &recipients, body)));
        let reply = assert_ready_ok!(answer.poll());
        assert_eq!(texts(&reply), ["451 4.3.0 No delivery is set up"]);
        assert_pending!(answer.enter(|cx, _| feed.poll_wanted(cx)));
    }

    const PIECE: &[u8] = &[b'x'; 1000];

    /// A message with this many chunks of 1000 bytes.
    async fn long(chunks: usize, end: Result<(), BodyError>) -> Body {
        let (feed, body) = incoming();
        for _ in 0..chunks {
            feed.push(PIECE.into()).await;
        }
        feed.finish(end);
        body
    }

    const BOTH: [&str; 2] = ["1@a.example", "2@b.example"];

    #[tokio::test]
    async fn a_service_that_replies_early_does_not_stop_the_others() {
        let router = Router::new()
            .domain("a.example".parse().unwrap(), Inbox::new().limit(2500))
            .domain("b.example".parse().unwrap(), echo("B"))
            .read_ahead(5000);
        let request = request(Protocol::Smtp, &BOTH, long(100, Ok(())).await);
        let reply = router.oneshot(request).await.unwrap();
        assert_eq!(reply.for_recipient(0), &BodyError::TooLarge.reply());
        let expected = Reply::ok("B: sender@example.com 2@b.example 100000");
        assert_eq!(reply.for_recipient(1), &expected);
    }

    #[tokio::test]
    async fn a_message_that_ends_early_does_so_for_all() {
        let router = Router::new()
            .domain("a.example".parse().unwrap(), echo("A"))
            .domain("b.example".parse().unwrap(), echo("B"));
        let body = long(3, Err(BodyError::Incomplete)).await;
        let reply = router
            .oneshot(request(Protocol::Smtp, &BOTH, body))
            .await
            .unwrap();
        assert_eq!(texts(&reply), ["451 4.4.2 Message incomplete"; 2]);
    }

    /// Two routes that share a limit of one call at a time.
    fn sharing_a_limit() -> Router<Data> {
        let one = tower::limit::GlobalConcurrencyLimitLayer::new(1);
        let limited = |name| ServiceBuilder::new().layer(one.clone()).service(echo(name));
        Router::new()
            .domain("a.example".parse().unwrap(), limited("A"))
            .domain("b.example".parse().unwrap(), limited("B"))
            .read_ahead(5000)
    }

    #[tokio::test(start_paused = true)]
    async fn routes_that_share_a_limit_take_a_short_message_one_after_the_other() {
        let request = request(Protocol::Smtp, &BOTH, long(4, Ok(())).await);
        let begun = tokio::time::Instant::now();
        let reply = sharing_a_limit().oneshot(request).await.unwrap();
        assert!(reply.replies().iter().all(Reply::is_positive));
        assert!(begun.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_that_is_not_ready_does_not_hold_up_a_long_message_for_ever() {
        let request = request(Protocol::Smtp, &BOTH, long(100, Ok(())).await);
        let mut answer = task::spawn(sharing_a_limit().oneshot(request));
        assert_pending!(answer.poll());
        advance(Duration::from_secs(29)).await;
        assert_pending!(answer.poll());
        advance(Duration::from_secs(2)).await;
        // The task that gives up is polled after the one that waits for it.
        assert_pending!(answer.poll());
        assert!(answer.is_woken());
        let reply = answer.await.unwrap();
        assert_eq!(
            texts(&reply),
            [
                "250 2.0.0 A: sender@example.com 1@a.example 100000".to_owned(),
                Reply::busy().to_string(),
            ]
        );
    }
}
