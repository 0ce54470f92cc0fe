//! Futures that are polled only where they were woken, side by side on a paused clock.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::time::Instant;

pub type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How often a task may be polled while time stands still.
const MOST_POLLS: usize = 100_000;

/// A future, until it has ended or is dropped.
pub struct Task {
    future: Option<BoxFuture>,
    alarm: Arc<Alarm>,
    pub ended: Option<Instant>,
    polls: (Instant, usize),
}

struct Alarm {
    rung: AtomicBool,
    outer: Mutex<Option<Waker>>,
}

impl Task {
    pub fn new(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            future: Some(Box::pin(future)),
            alarm: Arc::new(Alarm {
                rung: AtomicBool::new(true),
                outer: Mutex::default(),
            }),
            ended: None,
            polls: (Instant::now(), 0),
        }
    }

    pub const fn is_over(&self) -> bool {
        self.future.is_none()
    }

    pub fn is_woken(&self) -> bool {
        self.future.is_some() && self.alarm.rung.load(Ordering::SeqCst)
    }

    pub fn abort(&mut self) {
        self.future = None;
    }

    /// Polls it once, if it was woken.
    ///
    /// # Panics
    ///
    /// Where it is polled again and again and time does not pass.
    pub fn turn(&mut self, cx: &Context<'_>) {
        *self.alarm.lock() = Some(cx.waker().clone());
        let Some(future) = &mut self.future else {
            return;
        };
        if !self.alarm.rung.swap(false, Ordering::SeqCst) {
            return;
        }
        let now = Instant::now();
        if self.polls.0 != now {
            self.polls = (now, 0);
        }
        self.polls.1 += 1;
        assert!(self.polls.1 < MOST_POLLS, "a task wakes itself for ever");
        let waker = Waker::from(self.alarm.clone());
        if let Poll::Ready(()) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            self.future = None;
            self.ended = Some(now);
        }
    }
}

impl Alarm {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waker>> {
        self.outer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        let outer = self.lock().clone();
        if let Some(outer) = outer {
            outer.wake();
        }
    }
}
