use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Wake, Waker},
};

use bytes::Bytes;

/// What chunks and wakers see.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) live: AtomicUsize,
    pub(super) locked: AtomicBool,
    pub(super) probes: Mutex<Vec<Box<dyn Fn() -> bool + Send + Sync>>>,
}

impl Ledger {
    pub(super) fn look(&self) {
        if self.probes.lock().unwrap().iter().any(|locked| locked()) {
            self.locked.store(true, SeqCst);
        }
    }
}

pub(super) struct Piece(&'static str, Arc<Ledger>);

impl Piece {
    pub(super) fn bytes(text: &'static str, ledger: &Arc<Ledger>) -> Bytes {
        ledger.live.fetch_add(cost(text), SeqCst);
        Bytes::from_owner(Self(text, ledger.clone()))
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.1.live.fetch_sub(cost(self.0), SeqCst);
        self.1.look();
    }
}

pub(super) const fn cost(text: &str) -> usize {
    text.len() + size_of::<Bytes>()
}

/// Records that a task was woken.
pub(super) struct Alarm {
    pub(super) rung: Arc<AtomicBool>,
    /// Within a task: also woken.
    pub(super) parent: Option<Waker>,
    pub(super) ledger: Arc<Ledger>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.ledger.look();
        self.rung.store(true, SeqCst);
        if let Some(parent) = &self.parent {
            parent.wake_by_ref();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.ledger.look();
    }
}

pub(super) struct Task {
    pub(super) rung: Arc<AtomicBool>,
    pub(super) alarm: Option<Arc<Alarm>>,
    pub(super) parent: Option<Waker>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) new_wakers: bool,
    pub(super) given: Vec<Weak<Alarm>>,
}

impl Task {
    pub(super) fn new(ledger: &Arc<Ledger>, new_wakers: bool) -> Self {
        Self {
            rung: Arc::new(AtomicBool::new(true)),
            alarm: None,
            parent: None,
            ledger: ledger.clone(),
            new_wakers,
            given: Vec::new(),
        }
    }

    pub(super) fn waker(&mut self) -> Waker {
        if self.new_wakers || self.alarm.is_none() {
            let alarm = Arc::new(Alarm {
                rung: self.rung.clone(),
                parent: self.parent.clone(),
                ledger: self.ledger.clone(),
            });
            self.given.push(Arc::downgrade(&alarm));
            self.alarm = Some(alarm);
        }
        self.alarm.clone().unwrap().into()
    }
}
