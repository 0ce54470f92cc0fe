use std::{
    any::Any,
    convert::Infallible,
    fmt,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use pin_project::pin_project;
use smtpd_core::{
    connection::AuthOutcome, envelope::Envelope, parameter::Parameters, reply::Reply,
    sasl::Identity,
};
use tower_service::Service;

use crate::{
    body::Body,
    phase::{Auth, Command, Data, Helo, Mail, Phase, PhaseKind, Rcpt, Request},
    service::Pipeline,
    session::Session,
};

/// A service for every phase that records its requests, and answers by a rule. Clones share the records.
///
/// A record keeps the facts of the session and the values in its [state](Session::state), so that a test can look at them after
/// the connection has ended. What the session holds, by `Session::hold`, ends with the connection all the same.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Reply, Request, Session, phase::PhaseKind, test::Recorder,
/// };
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recorder = Recorder::answering(|phase| match phase {
///     PhaseKind::Rcpt => Reply::mailbox_full(),
///     _ => Reply::OK,
/// });
/// let request =
///     Request::new(Session::local(), Rcpt::new("a@example.org".parse()?));
/// assert_eq!(recorder.clone().oneshot(request).await?.code().as_u16(), 452);
/// assert_eq!(recorder.requests()[0].to_string(), "rcpt a@example.org");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Recorder {
    rule: Arc<Rule>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

type Rule = dyn Fn(&Asked) -> Reply + Send + Sync;

impl Default for Recorder {
    /// Calls [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// Creates a recorder that accepts everything. AUTH gives every client the identity that it names; a verb that the protocol
    /// does not know is answered as if there were no service.
    pub fn new() -> Self {
        Self::deciding(|asked| asked.0.unset.clone())
    }

    /// Creates a recorder that replies by phase. A positive reply to AUTH accepts the client; one to [`PhaseKind::Command`]
    /// accepts every verb.
    pub fn answering(rule: impl Fn(PhaseKind) -> Reply + Send + Sync + 'static) -> Self {
        Self::deciding(move |asked| rule(asked.phase()))
    }

    /// Creates a recorder that replies by request. The message itself has not arrived yet when `rule` is called.
    pub fn deciding(rule: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            rule: Arc::new(rule),
            asked: Arc::default(),
        }
    }

    /// Returns a pipeline with this recorder in every phase.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline::new()
            .connect(self.clone())
            .helo(self.clone())
            .auth(self.clone())
            .mail(self.clone())
            .rcpt(self.clone())
            .data(self.clone())
            .command(self.clone())
    }

    /// Returns the requests in order.
    pub fn requests(&self) -> Vec<Asked> {
        self.lock().clone()
    }

    /// Returns the requests in order, and clears them.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("asked", &*self.lock())
            .finish_non_exhaustive()
    }
}

impl<P: Phase> Service<Request<P>> for Recorder {
    type Response = P::Response;
    type Error = Infallible;
    type Future = RecorderFuture<P::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<P>) -> Self::Future {
        let asked = Asked::new(&request);
        self.lock().push(asked.clone());
        let reply = (self.rule)(&asked);
        // A refusal does not wait for the message, so that the client never sends it.
        let body = reply
            .is_positive()
            .then(|| body(request.payload_mut()))
            .flatten();
        RecorderFuture {
            answer: Some(response(reply, request.payload())),
            asked,
            body,
            message: BytesMut::new(),
            response: PhantomData,
        }
    }
}

/// The future of [`Recorder`]. It reads the message before it accepts one.
#[pin_project]
#[derive(Debug)]
pub struct RecorderFuture<R> {
    answer: Option<R>,
    asked: Asked,
    body: Option<Body>,
    message: BytesMut,
    response: PhantomData<fn() -> R>,
}

impl<R: From<Reply>> Future for RecorderFuture<R> {
    type Output = Result<R, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(body) = this.body {
            loop {
                match ready!(Pin::new(&mut *body).poll_next(cx)) {
                    Some(Ok(chunk)) => this.message.extend_from_slice(&chunk),
                    Some(Err(error)) => return Poll::Ready(Ok(error.reply().into())),
                    None => break,
                }
            }
            let _ = this
                .asked
                .0
                .message
                .set(std::mem::take(this.message).freeze());
        }
        // Stays pending like a fused future if it is polled after its end.
        this.answer
            .take()
            .map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer)))
    }
}

/// A request to a [`Recorder`]. `Display` shows phase and subject, such as `rcpt user@example.org`.
///
/// ```
/// use smtpd_tower::{
///     Server,
///     phase::PhaseKind,
///     test::{Client, ClientError, Recorder},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
/// let recorder = Recorder::new();
/// let mut client =
///     Client::connect(&Server::new("mx.example.org", recorder.pipeline()));
/// client
///     .send("a@example.com", ["b@example.org"], "Hello\r\n")
///     .await?
///     .expect_code(250)?;
/// let asked = recorder.take().pop().unwrap();
/// assert_eq!(
///     (asked.phase(), asked.subject()),
///     (PhaseKind::Data, "a@example.com to b@example.org")
/// );
/// assert_eq!(asked.message().unwrap(), "Hello\r\n");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Asked(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    phase: PhaseKind,
    session: Session,
    subject: String,
    envelope: Option<Arc<Envelope>>,
    /// The answer if there is no rule.
    unset: Reply,
    message: OnceLock<Bytes>,
}

impl Asked {
    fn new<P: Phase>(request: &Request<P>) -> Self {
        let payload: &dyn Any = request.payload();
        Self(Arc::new(Facts {
            phase: P::KIND,
            session: request.session().clone(),
            subject: subject(payload),
            envelope: envelope(payload).cloned(),
            unset: unset(payload),
            message: OnceLock::new(),
        }))
    }

    /// Returns the phase.
    pub fn phase(&self) -> PhaseKind {
        self.0.phase
    }

    /// Returns the session at that time.
    pub fn session(&self) -> &Session {
        &self.0.session
    }

    /// Returns what the request was about: the name of HELO; mechanism and user of AUTH; the address of MAIL and RCPT with
    /// parameters, such as `a@example.com SIZE=1000`; sender and recipients of a message, such as `a@example.com to
    /// b@example.org, c@example.org`; verb and argument of any other command. Empty at connect.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Returns the envelope: at RCPT the sender and the previous recipients, at DATA all of them.
    pub fn envelope(&self) -> Option<&Envelope> {
        self.0.envelope.as_deref()
    }

    /// Returns the message, if it has arrived whole and was not refused before.
    pub fn message(&self) -> Option<&Bytes> {
        self.0.message.get()
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phase().as_str())?;
        match self.subject() {
            "" => Ok(()),
            subject => write!(f, " {subject}"),
        }
    }
}

fn subject(payload: &dyn Any) -> String {
    if let Some(helo) = payload.downcast_ref::<Helo>() {
        helo.name().to_string()
    } else if let Some(auth) = payload.downcast_ref::<Auth>() {
        format!("{} {}", auth.mechanism(), auth.credentials().username())
    } else if let Some(mail) = payload.downcast_ref::<Mail>() {
        with_parameters(mail.sender().to_string(), mail.parameters())
    } else if let Some(rcpt) = payload.downcast_ref::<Rcpt>() {
        with_parameters(rcpt.recipient().to_string(), rcpt.parameters())
    } else if let Some(data) = payload.downcast_ref::<Data>() {
        let recipients = data.envelope().recipients().iter();
        let recipients: Vec<_> = recipients.map(|to| to.path().to_string()).collect();
        format!("{} to {}", data.envelope().sender(), recipients.join(", "))
    } else if let Some(command) = payload.downcast_ref::<Command>() {
        let text = format!("{} {}", command.verb(), command.argument());
        text.trim_end().to_owned()
    } else {
        String::new()
    }
}

fn unset(payload: &dyn Any) -> Reply {
    payload
        .downcast_ref::<Command>()
        .map_or(Reply::OK, |command| command.default_reply().clone())
}

fn with_parameters(mut text: String, parameters: &Parameters) -> String {
    for (keyword, value) in parameters.iter() {
        text.extend([" ", keyword]);
        text.extend(value.map(|value| format!("={value}")));
    }
    text
}

fn envelope(payload: &dyn Any) -> Option<&Arc<Envelope>> {
    let rcpt = payload.downcast_ref::<Rcpt>().map(Rcpt::envelope);
    rcpt.or_else(|| payload.downcast_ref::<Data>().map(Data::envelope))
}

fn body(payload: &mut dyn Any) -> Option<Body> {
    let data = payload.downcast_mut::<Data>()?;
    Some(std::mem::replace(data.body_mut(), Body::from("")))
}

/// Only AUTH needs more than a reply: the identity that it accepts.
fn response<R: From<Reply> + 'static>(reply: Reply, payload: &dyn Any) -> R {
    let mut response = None::<R>;
    if reply.is_positive()
        && let Some(auth) = payload.downcast_ref::<Auth>()
        && let Some(slot) = (&mut response as &mut dyn Any).downcast_mut::<Option<AuthOutcome>>()
    {
        let identity = Identity::new(auth.credentials().username());
        *slot = Some(AuthOutcome::Accept(identity));
    }
    response.unwrap_or_else(|| reply.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        server::Server,
        test::{Client, ClientError},
    };

    fn server(recorder: &Recorder) -> Server {
        Server::new("mx.test", recorder.pipeline())
            .configure(|config| config.allow_insecure_auth(true))
    }

    fn lines(recorder: &Recorder) -> Vec<String> {
        recorder
            .requests()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[tokio::test]
    async fn every_phase_is_recorded() -> Result<(), ClientError> {
        let recorder = Recorder::new();
        let mut client = Client::connect(&server(&recorder));
        client.greeting().await?;
        client.ehlo("c.test").await?.expect_code(250)?;
        client
            .auth_plain("alice", "secret")
            .await?
            .expect_code(235)?;
        client
            .mail("<a@b.c> SIZE=9 BODY=8BITMIME")
            .await?
            .expect_code(250)?;
        client.rcpt("one@d.e").await?.expect_code(250)?;
        client.rcpt("two@d.e").await?.expect_code(250)?;
        client.data("hi").await?.expect_code(250)?;
        client.command("xverb a b").await?.expect_code(500)?;
        let expected = [
            "connect",
            "helo c.test",
            "auth PLAIN alice",
            "mail a@b.c SIZE=9 BODY=8BITMIME",
            "rcpt one@d.e",
            "rcpt two@d.e",
            "data a@b.c to one@d.e, two@d.e",
            "command XVERB a b",
        ];
        assert_eq!(lines(&recorder), expected);
        let asked = recorder.take();
        assert_eq!(
            asked[3].session().identity().map(Identity::as_str),
            Some("alice")
        );
        assert_eq!(asked[5].envelope().map(|e| e.recipients().len()), Some(1));
        assert_eq!(asked[6].message().map(|m| &**m), Some(&b"hi\r\n"[..]));
        assert!(recorder.requests().is_empty());
        Ok(())
    }

    #[tokio::test]
    async fn answers_by_rule() -> Result<(), ClientError> {
        let recorder = Recorder::answering(|phase| match phase {
            PhaseKind::Auth => Reply::try_again("Later"),
            PhaseKind::Data => Reply::mailbox_full(),
            _ => Reply::OK,
        });
        let mut client = Client::connect(&server(&recorder));
        client.greeting().await?;
        client.ehlo("c").await?;
        client
            .auth_plain("alice", "secret")
            .await?
            .expect_code(454)?;
        let refused = client
            .send("a@b.c", ["d@e.f"], "hi")
            .await?
            .expect_code(452)?;
        assert_eq!(refused.text(), "Mailbox full");
        assert!(
            recorder
                .requests()
                .iter()
                .all(|asked| asked.message().is_none())
        );

        let recorder = Recorder::deciding(|asked| match asked.subject() {
            "no@e.f" => Reply::no_such_user(),
            _ => Reply::OK,
        });
        let mut client = Client::connect(&server(&recorder));
        client
            .send("a@b.c", ["yes@e.f", "no@e.f"], "hi")
            .await?
            .expect_code(550)?;
        Ok(())
    }

    #[tokio::test]
    async fn a_message_that_breaks_off_is_not_kept() -> Result<(), ClientError> {
        let recorder = Recorder::new();
        let mut client = Client::connect(&server(&recorder));
        client.greeting().await?;
        client.ehlo("c").await?;
        client.mail("a@b.c").await?;
        client.rcpt("d@e.f").await?;
        client.command("DATA").await?.expect_code(354)?;
        client.raw("half").await?;
        client.ended().await?;
        let asked = recorder.requests();
        assert_eq!(asked.last().map(Asked::phase), Some(PhaseKind::Data));
        assert!(asked.iter().all(|asked| asked.message().is_none()));
        Ok(())
    }
}
