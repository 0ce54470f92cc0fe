//! A session over a connection in memory, on a paused clock: whatever its client and its services do, it ends once, in time,
//! and loses no reply.
//!
//! An input begins with the setup: see [`Setup::read`]. The rest is what the client does. A byte below 0x80 is sent as it is,
//! so that dialogs can be read; others are events: see [`World::act`].
#![no_main]

mod delivery;
mod messages;
mod pipe;
mod replies;
mod services;
mod setup;
mod tasks;

use std::{
    future::poll_fn,
    panic,
    pin::pin,
    sync::Once,
    task::{Context, Poll, Waker},
    time::Duration,
};

use libfuzzer_sys::fuzz_target;
use smtpd_tower::{net::PeerAddr, server::Handle, session::EndReason};
use smtpd_tower_fuzz::Choices;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

use self::{
    messages::{check_delivery, check_nothing_is_lost, check_taken},
    pipe::Pipe,
    replies::Replies,
    services::Shared,
    setup::Setup,
    tasks::Task,
};

/// How much a client sends at most, so that an input is soon over.
const MOST_SENT: usize = 64 << 10;

/// How exact timers are.
const EXACT: Duration = Duration::from_millis(50);

fuzz_target!(|input: &[u8]| {
    keep_scripted_panics_silent();
    let mut choices = Choices(input);
    let setup = Setup::read(&mut choices);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(&setup);
        world.play(&mut choices).await;
        world.finish(&setup).await;
        world.check();
    });
});

/// A session, its client, and what they have done.
struct World {
    shared: Shared,
    pipe: Pipe,
    session: Task,
    /// Tasks beside the session that read messages.
    beside: Vec<Task>,
    handle: Handle,
    linger: Duration,
    /// How long a session of a client that does nothing may live.
    longest: Duration,
    shutdown: Option<Shutdown>,
    was_dropped: bool,
}

struct Shutdown {
    task: Task,
    due: Instant,
}

impl World {
    fn new(setup: &Setup<'_>) -> Self {
        let shared = Shared::new(setup.commands, setup.data);
        let pipe = Pipe::new(setup.piece, setup.capacity);
        if setup.slow_client {
            pipe.read_promptly(false);
        }
        let server = setup.server(&shared);
        let times = setup.timeouts();
        let session = server.serve_connection(pipe.clone(), PeerAddr::Unknown);
        Self {
            handle: server.handle(),
            session: Task::new(session),
            beside: Vec::new(),
            linger: times.linger,
            longest: times.ready + times.call + times.data_start + times.delivery,
            shutdown: None,
            was_dropped: false,
            shared,
            pipe,
        }
    }

    /// Does what the input says.
    async fn play(&mut self, choices: &mut Choices<'_>) {
        while !choices.0.is_empty() && !self.session.is_over() {
            let plain = choices.0.iter().take_while(|byte| byte.is_ascii()).count();
            self.send(choices.bytes(plain));
            if !choices.0.is_empty() {
                let event = choices.byte();
                self.act(event >> 3 & 15, usize::from(event & 7), choices)
                    .await;
            }
        }
        self.settle().await;
    }

    async fn act(&mut self, event: u8, argument: usize, choices: &mut Choices<'_>) {
        const AMOUNTS: [usize; 8] = [1, 2, 3, 16, 40, 100, 600, 1 << 20];
        const SHORT: [u64; 8] = [0, 1, 10, 299, 999, 1000, 1001, 2000];
        const LONG: [u64; 8] = [3, 5, 10, 30, 60, 120, 300, 600];
        match event {
            0 => self.send(choices.bytes(1)),
            1 => self.pipe.read(AMOUNTS[argument]),
            2 => self.pass(Duration::from_millis(SHORT[argument])).await,
            3 => self.pass(Duration::from_secs(LONG[argument])).await,
            4 => self.pipe.half_close(),
            5 => self.pipe.reset(),
            6 => {
                self.shut_down(Duration::from_secs(LONG[argument] - 3))
                    .await
            }
            7 => self.drop_session().await,
            8 => self.pipe.read_promptly(argument & 1 != 0),
            9 => self.repeat(1 << argument),
            _ => self.settle().await,
        }
    }

    fn send(&self, bytes: &[u8]) {
        let room = MOST_SENT.saturating_sub(self.pipe.lock().sent.len());
        self.pipe.send(&bytes[..bytes.len().min(room)]);
    }

    /// Sends the last line again and again.
    fn repeat(&self, times: usize) {
        let line = last_line(&self.pipe.lock().sent).to_vec();
        for _ in 0..times {
            self.send(&line);
        }
    }

    async fn shut_down(&mut self, grace: Duration) {
        if self.shutdown.is_some() {
            return;
        }
        self.begin().await;
        let handle = self.handle.clone();
        self.shutdown = Some(Shutdown {
            task: Task::new(async move { handle.shutdown(grace).await }),
            due: Instant::now() + grace + self.linger + EXACT,
        });
    }

    async fn drop_session(&mut self) {
        self.begin().await;
        self.was_dropped |= !self.session.is_over();
        self.session.abort();
    }

    /// Polls the session if it has not begun: until then its end is not reported.
    async fn begin(&mut self) {
        poll_fn(|cx| {
            if self.handle.sessions() == 0 {
                self.session.turn(cx);
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Lets everything go on until nothing moves.
    async fn settle(&mut self) {
        poll_fn(|cx| self.turn(cx)).await;
        self.check_stillness();
    }

    /// A message by DATA has ended, nothing moves, and nobody waits for its rest.
    fn check_stillness(&self) {
        let (journal, wires) = (self.shared.lock(), self.pipe.lock());
        let last = last_line(&wires.written);
        let is_whole = last.starts_with(b"354") && wires.sent.ends_with(b"\r\n.\r\n");
        let waits = journal.alive > 0 && journal.waits && !wires.was_reset();
        assert!(
            !is_whole || !waits,
            "a message has ended, and its reader waits"
        );
    }

    /// Lets time pass, until the session is over.
    async fn pass(&mut self, time: Duration) {
        let mut passed = pin!(sleep(time));
        poll_fn(|cx| {
            if self.turn(cx).is_pending() {
                return Poll::Pending;
            }
            match self.session.is_over() {
                true => Poll::Ready(()),
                false => passed.as_mut().poll(cx),
            }
        })
        .await;
    }

    /// Polls once what was woken. Ready when nothing is.
    fn turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        let shutdown = self.shutdown.iter_mut().map(|shutdown| &mut shutdown.task);
        for task in shutdown.chain([&mut self.session]).chain(&mut self.beside) {
            task.turn(cx);
        }
        let spawned = std::mem::take(&mut self.shared.lock().spawned);
        self.beside.extend(spawned.into_iter().map(Task::new));
        let shutdown = self.shutdown.iter().map(|shutdown| &shutdown.task);
        let mut tasks = shutdown.chain([&self.session]).chain(&self.beside);
        if tasks.any(Task::is_woken) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// The client comes to its end in one of several ways, and the session has to follow.
    async fn finish(&mut self, setup: &Setup<'_>) {
        match setup.end {
            0 => {
                self.pipe.read_promptly(true);
                self.pipe.half_close();
            }
            1 => self.pipe.reset(),
            2 => self.pipe.read_promptly(true),
            _ => {}
        }
        self.pass(self.limit()).await;
        assert!(self.session.is_over(), "the session does not end");
        self.check_shutdown();
        // The tasks beside the session end with it.
        self.pass(Duration::ZERO).await;
        if let Some(shutdown) = &self.shutdown {
            assert!(shutdown.task.is_over(), "the shutdown does not end");
        }
    }

    /// Every line may ask a service, and each may take its time.
    fn limit(&self) -> Duration {
        let wires = self.pipe.lock();
        let lines = wires.sent.iter().filter(|byte| **byte == b'\n').count();
        let lines = u32::try_from(lines).unwrap_or(u32::MAX);
        Duration::from_secs(3 * 3600) + self.longest * lines
    }

    fn check_shutdown(&self) {
        if let (Some(shutdown), Some(ended)) = (&self.shutdown, self.session.ended) {
            let late = ended.saturating_duration_since(shutdown.due);
            assert!(late.is_zero(), "a shutdown takes {late:?} too long");
        }
    }

    /// What must hold when the session is over.
    fn check(&self) {
        assert_eq!(self.handle.sessions(), 0, "sessions are left");
        self.check_kept_bodies();
        let (journal, wires) = (self.shared.lock(), self.pipe.lock());
        assert_eq!(journal.alive, 0, "calls are left");
        let [end] = &journal.ends[..] else {
            panic!("on_close was called {} times", journal.ends.len());
        };
        assert_eq!(end.reason == EndReason::Aborted, self.was_dropped);
        assert_ne!(end.reason, EndReason::Panicked);
        assert_eq!(end.sent, wires.written.len() as u64, "bytes sent");
        assert!(end.received <= wires.sent.len() as u64, "bytes received");
        for delivery in &journal.deliveries {
            check_delivery(delivery, &wires.sent);
        }
        let replies = Replies::read(&wires.written);
        check_taken(&replies, &journal.deliveries, end);
        // Others cannot count on every reply.
        if !wires.was_reset() && !wires.was_slow && !self.was_dropped {
            check_nothing_is_lost(&replies, &journal.deliveries, end);
        }
    }

    /// A body that has outlived its session comes to an end.
    fn check_kept_bodies(&self) {
        let kept = std::mem::take(&mut self.shared.lock().kept);
        for mut body in kept {
            let mut cx = Context::from_waker(Waker::noop());
            loop {
                match pin!(body.chunk()).poll(&mut cx) {
                    Poll::Ready(None) => break,
                    Poll::Ready(Some(_)) => {}
                    Poll::Pending => panic!("a reader waits for a session that is over"),
                }
            }
        }
    }
}

/// The last line, with its line break, or what stands after it.
fn last_line(sent: &[u8]) -> &[u8] {
    let before = &sent[..sent.len().saturating_sub(1)];
    let start = before.iter().rposition(|byte| *byte == b'\n');
    &sent[start.map_or(0, |at| at + 1)..]
}

/// libFuzzer's hook aborts at any panic, also at those that are caught. Those of the services are part of the plan.
fn keep_scripted_panics_silent() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let aborting = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let text = info.payload_as_str();
            if !text.is_some_and(|text| text.starts_with("fuzz:")) {
                aborting(info);
            }
        }));
    });
}
