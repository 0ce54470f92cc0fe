use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use smtpd_core::reply::Reply;
use tower_service::Service;

use crate::{
    body::Body,
    phase::{Data, Request},
    session::Session,
};

/// Reads each message to its end, drops it, and replies 250: for measuring everything but a delivery.
///
/// ```
/// use smtpd_tower::{
///     Body, Data, Envelope, Reply, Request, Session, deliver::Discard,
/// };
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
/// let data =
///     Data::new(Envelope::default(), Body::from("Subject: hi\r\n\r\nHello\r\n"));
/// assert_eq!(
///     Discard.oneshot(Request::new(Session::local(), data)).await?,
///     Reply::OK
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Discard;

impl Service<Request<Data>> for Discard {
    type Response = Reply;
    type Error = Infallible;
    type Future = DiscardFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<Data>) -> DiscardFuture {
        let (session, data) = request.into_parts();
        DiscardFuture {
            session,
            body: data.into_body(),
        }
    }
}

/// The future of [`Discard`].
#[derive(Debug)]
pub struct DiscardFuture {
    session: Session,
    body: Body,
}

impl Future for DiscardFuture {
    type Output = Result<Reply, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_next(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Ok(self.session.reply_to(error))),
                None => return Poll::Ready(Ok(Reply::OK)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::envelope::Envelope;
    use tokio_test::{assert_pending, assert_ready_ok, task};

    use super::*;
    use crate::{body::incoming, session::Session};

    #[test]
    fn no_reply_comes_before_the_message_ends() {
        for (end, code) in [
            (Ok(()), 250),
            (Err(crate::body::BodyError::Incomplete), 451),
            (Err(crate::body::BodyError::TooLarge), 552),
        ] {
            let (feed, body) = incoming();
            let request = Request::new(Session::local(), Data::new(Envelope::default(), body));
            let mut answer = task::spawn(Discard.call(request));
            assert_pending!(answer.poll());
            assert!(task::spawn(feed.push("chunk".into())).poll().is_ready());
            assert_pending!(answer.poll());
            feed.finish(end);
            assert!(answer.is_woken());
            assert_eq!(assert_ready_ok!(answer.poll()).code().as_u16(), code);
        }
    }
}
