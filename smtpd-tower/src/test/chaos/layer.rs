use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project::pin_project;
use smtpd_core::reply::Reply;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    layer::AnswerFuture,
    phase::{Phase, PhaseKind, Request},
    session::Session,
};

/// Delays answers, refuses requests, or ends sessions, by rules that are the same in every run.
///
/// It fits every phase; around a whole pipeline, [`on`](Self::on) selects some. It replies with 451 4.3.0, which is sent to AUTH
/// as 454 4.7.0, and at connect as 421, which closes the connection. For connections that break, see
/// [`ChaosStream`](super::ChaosStream).
///
/// All clones of a layer, and all services that they create, share their counts.
///
/// ```
/// use smtpd_tower::{
///     Server,
///     phase::PhaseKind,
///     test::{ChaosLayer, Client, ClientError, Recorder},
/// };
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ClientError> {
/// let chaos =
///     ChaosLayer::new().on([PhaseKind::Rcpt]).fail_every(2).close_after(3);
/// let server =
///     Server::new("mx.example.org", Recorder::new().pipeline().layer(chaos));
/// let mut client = Client::connect(&server);
/// client.greeting().await?.expect_code(220)?;
/// client.ehlo("client.example").await?.expect_code(250)?;
/// client.mail("a@example.com").await?.expect_code(250)?;
/// for code in [250, 451, 250, 421] {
///     client.rcpt("b@example.org").await?.expect_code(code)?;
/// }
/// assert!(matches!(client.noop().await, Err(ClientError::Closed)));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ChaosLayer {
    rules: Rules,
}

#[derive(Clone, Debug)]
struct Rules {
    phases: Option<Arc<[PhaseKind]>>,
    delay: Duration,
    banner: Duration,
    probability: f64,
    random: Arc<AtomicU64>,
    every: u64,
    asked: Arc<AtomicU64>,
    close_after: Option<u32>,
    reply: Reply,
}

impl Default for ChaosLayer {
    /// Calls [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

impl ChaosLayer {
    /// Creates a layer that does nothing.
    pub fn new() -> Self {
        Self {
            rules: Rules {
                phases: None,
                delay: Duration::ZERO,
                banner: Duration::ZERO,
                probability: 0.0,
                random: Arc::default(),
                every: 0,
                asked: Arc::default(),
                close_after: None,
                reply: Reply::try_again("Chaos"),
            },
        }
    }

    /// Sets the phases that it affects. Default: all of them. An empty list affects none.
    #[must_use]
    pub fn on(mut self, phases: impl IntoIterator<Item = PhaseKind>) -> Self {
        self.rules.phases = Some(phases.into_iter().collect());
        self
    }

    /// Sets how long every answer is delayed. Default: not at all. Beyond the server's timeout for a service
    /// ([`Timeouts`](smtpd_core::Timeouts)) the client receives 451 instead.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.rules.delay = delay;
        self
    }

    /// Sets how long the greeting is delayed, regardless of [`on`](Self::on). Default: not at all.
    #[must_use]
    pub fn slow_banner(mut self, delay: Duration) -> Self {
        self.rules.banner = delay;
        self
    }

    /// Sets the probability of a refusal, from 0 to 1. Default: 0. The seed decides which requests are refused, by their order.
    #[must_use]
    pub fn fail_randomly(mut self, probability: f64, seed: u64) -> Self {
        self.rules.probability = probability;
        self.rules.random = Arc::new(AtomicU64::new(seed));
        self
    }

    /// Sets that every nth request is refused; 0 means none. Default: 0.
    #[must_use]
    pub fn fail_every(mut self, nth: u64) -> Self {
        self.rules.every = nth;
        self.rules.asked = Arc::default();
        self
    }

    /// Sets how many commands of a session are answered before the next receives 421, which ends it. Default: no limit. Commands
    /// without a service call, such as NOOP, do not count, nor does connect.
    #[must_use]
    pub fn close_after(mut self, commands: u32) -> Self {
        self.rules.close_after = Some(commands);
        self
    }

    /// Sets the reply of requests that fail. Default: 451 4.3.0.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        self.rules.reply = reply;
        self
    }
}

impl<S> Layer<S> for ChaosLayer {
    type Service = Chaos<S>;

    fn layer(&self, inner: S) -> Chaos<S> {
        Chaos {
            inner,
            rules: self.rules.clone(),
        }
    }
}

/// The service of [`ChaosLayer`].
#[derive(Clone, Debug)]
pub struct Chaos<S> {
    inner: S,
    rules: Rules,
}

impl<S, P> Service<Request<P>> for Chaos<S>
where
    P: Phase,
    S: Service<Request<P>>,
    S::Response: From<Reply>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = ChaosFuture<S::Future, S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<P>) -> Self::Future {
        let answer = match self.rules.refusal(P::KIND, request.session()) {
            Some(reply) => AnswerFuture::answer(reply.into()),
            None => AnswerFuture::inner(self.inner.call(request)),
        };
        ChaosFuture {
            answer,
            delay: self.rules.delay(P::KIND),
            held: None,
            sleep: None,
        }
    }
}

impl Rules {
    fn touches(&self, phase: PhaseKind) -> bool {
        let chosen = |phases: &Arc<[PhaseKind]>| phases.contains(&phase);
        self.phases.as_ref().is_none_or(chosen)
    }

    fn delay(&self, phase: PhaseKind) -> Duration {
        let all = if self.touches(phase) {
            self.delay
        } else {
            Duration::ZERO
        };
        let banner = if phase == PhaseKind::Connect {
            self.banner
        } else {
            Duration::ZERO
        };
        all.max(banner)
    }

    fn refusal(&self, phase: PhaseKind, session: &Session) -> Option<Reply> {
        if !self.touches(phase) {
            return None;
        }
        if phase != PhaseKind::Connect && self.closes(session) {
            return Some(Reply::closing("Chaos"));
        }
        // Both count every request, so that one rule does not shift the other.
        let by_count = self.every > 0 && {
            let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            number.is_multiple_of(self.every)
        };
        let by_chance = self.probability > 0.0 && self.random() < self.probability;
        (by_count || by_chance).then(|| self.reply.clone())
    }

    fn closes(&self, session: &Session) -> bool {
        /// How many commands of a session each layer has seen. The key identifies what its clones share.
        #[derive(Default)]
        struct Seen(HashMap<usize, u32>);
        let Some(most) = self.close_after else {
            return false;
        };
        session.state().update(|seen: &mut Seen| {
            let seen = seen.0.entry(Arc::as_ptr(&self.asked).addr()).or_default();
            *seen = seen.saturating_add(1);
            *seen > most
        })
    }

    /// Returns the next number from 0 to 1 in a sequence that the seed determines (splitmix64).
    fn random(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self
            .random
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The future of [`Chaos`].
#[pin_project]
#[derive(Debug)]
pub struct ChaosFuture<F, R, E> {
    #[pin]
    answer: AnswerFuture<F, R>,
    delay: Duration,
    held: Option<Result<R, E>>,
    #[pin]
    sleep: Option<Sleep>,
}

impl<F, R, E> Future for ChaosFuture<F, R, E>
where
    F: Future<Output = Result<R, E>>,
{
    type Output = Result<R, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.sleep.is_none() {
            let answer = ready!(this.answer.poll(cx));
            if this.delay.is_zero() {
                return Poll::Ready(answer);
            }
            *this.held = Some(answer);
            this.sleep.set(Some(sleep(*this.delay)));
        }
        if let Some(sleep) = this.sleep.as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        // Stays pending like a fused future if it is polled after its end.
        this.held.take().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::{
        connection::AuthOutcome,
        reply::{Code, Status},
        sasl::{Credentials, MechanismName},
    };
    use tokio::time::Instant;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        phase::{Auth, Rcpt},
        server::Server,
        service::Pipeline,
        test::{Client, ClientError, Recorder},
    };

    const SECOND: Duration = Duration::from_secs(1);

    async fn codes(layer: &ChaosLayer, count: usize) -> Vec<u16> {
        let recorder = Recorder::new();
        let mut codes = Vec::new();
        let mut passed = 0;
        for _ in 0..count {
            let request = Request::new(Session::local(), Rcpt::new("a@b.c".parse().unwrap()));
            let answer = layer.layer(recorder.clone()).oneshot(request).await;
            let reply = answer.unwrap();
            passed += usize::from(reply.is_positive());
            codes.push(reply.code().as_u16());
        }
        assert_eq!(
            recorder.requests().len(),
            passed,
            "refused requests reach the service"
        );
        codes
    }

    #[tokio::test]
    async fn every_nth_is_refused() {
        let layer = ChaosLayer::new().fail_every(3);
        assert_eq!(codes(&layer, 4).await, [250, 250, 451, 250]);
        assert_eq!(
            codes(&layer.clone(), 2).await,
            [250, 451],
            "clones count together"
        );
        assert_eq!(codes(&layer.fail_every(0), 3).await, [250; 3]);
        let reply = Reply::new(Code::MAILBOX_BUSY, Status::UNDEFINED, "Busy");
        assert_eq!(
            codes(&ChaosLayer::new().fail_every(1).reply(reply), 1).await,
            [450]
        );
    }

    #[tokio::test]
    async fn chance_is_the_same_for_the_same_seed() {
        let with = |probability, seed| ChaosLayer::new().fail_randomly(probability, seed);
        let first = codes(&with(0.3, 7), 1000).await;
        assert_eq!(first, codes(&with(0.3, 7), 1000).await);
        assert_ne!(first, codes(&with(0.3, 8), 1000).await);
        let refused = first.iter().filter(|&&code| code == 451).count();
        assert!((250..350).contains(&refused), "{refused}");
        assert_eq!(codes(&with(0.0, 7), 50).await, [250; 50]);
        assert_eq!(codes(&with(1.0, 7), 50).await, [451; 50]);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_and_the_banner_are_late() -> Result<(), ClientError> {
        let chaos = ChaosLayer::new()
            .on([PhaseKind::Helo, PhaseKind::Mail])
            .delay(SECOND * 2)
            .slow_banner(SECOND * 30);
        let server = Server::new("mx.test", Recorder::new().pipeline().layer(chaos));
        let mut client = Client::connect(&server);
        let start = Instant::now();
        client.greeting().await?.expect_code(220)?;
        assert_eq!(start.elapsed().as_secs(), 30);
        client.ehlo("c").await?.expect_code(250)?;
        assert_eq!(start.elapsed().as_secs(), 32);
        client.mail("a@b.c").await?.expect_code(250)?;
        client.rcpt("d@e.f").await?.expect_code(250)?;
        client.data("hi").await?.expect_code(250)?;
        assert_eq!(start.elapsed().as_secs(), 34);
        Ok(())
    }

    #[tokio::test]
    async fn a_rule_touches_another_phase_than_the_one_that_it_names() -> Result<(), ClientError> {
        use PhaseKind::{Auth, Command, Connect, Data, Helo, Mail, Rcpt};

        let all = [Connect, Helo, Auth, Mail, Rcpt, Data, Command];
        for chosen in all {
            let chaos = ChaosLayer::new().on([chosen]).fail_every(1);
            let server = Server::new("mx.test", Recorder::new().pipeline().layer(chaos))
                .configure(|config| config.allow_insecure_auth(true));
            let mut client = Client::connect(&server);
            let greeting = client.greeting().await?;
            assert_eq!(greeting.is_positive(), chosen != Connect);
            if chosen == Connect {
                continue;
            }
            let helo = client.ehlo("c").await?;
            let auth = client.auth_plain("alice", "secret").await;
            let command = client.command("XVERB").await;
            let mail = client.mail("a@b.c").await?;
            let rcpt = client.rcpt("d@e.f").await?;
            if chosen == Helo {
                assert!(!helo.is_positive());
                continue;
            }
            assert_eq!(auth?.is_positive(), chosen != Auth);
            let expected = if chosen == Command { 451 } else { 500 };
            assert_eq!(command?.code().as_u16(), expected, "{chosen}");
            assert_eq!(mail.is_positive(), chosen != Mail);
            if chosen == Mail {
                continue;
            }
            assert_eq!(rcpt.is_positive(), chosen != Rcpt);
            if chosen == Rcpt {
                continue;
            }
            let data = client.data("hi").await?;
            assert_eq!(data.is_positive(), chosen != Data);
        }
        Ok(())
    }

    #[tokio::test]
    async fn sessions_are_closed_one_by_one() -> Result<(), ClientError> {
        let chaos = || ChaosLayer::new().close_after(2);
        // Two layers count separately, or the second command would be the last.
        let pipeline = Pipeline::new().layer(chaos()).layer(chaos());
        let server = Server::new("mx.test", pipeline);
        for _ in 0..2 {
            let mut client = Client::connect(&server);
            client.greeting().await?.expect_code(220)?;
            client.ehlo("c").await?.expect_code(250)?;
            client.noop().await?.expect_code(250)?;
            client.mail("a@b.c").await?.expect_code(250)?;
            client.rcpt("d@e.f").await?.expect_code(421)?;
            assert!(matches!(client.reply().await, Err(ClientError::Closed)));
        }
        Ok(())
    }

    #[tokio::test]
    async fn auth_is_refused_too() {
        let credentials = Credentials::plain("alice", "secret").unwrap();
        let request = Request::new(
            Session::local(),
            Auth::new(MechanismName::from_static("PLAIN"), credentials),
        );
        let outcome = ChaosLayer::new()
            .fail_every(1)
            .layer(Recorder::new())
            .oneshot(request)
            .await;
        assert!(
            matches!(outcome, Ok(AuthOutcome::Refuse(reply)) if reply.code() == Code::LOCAL_ERROR)
        );
    }
}
