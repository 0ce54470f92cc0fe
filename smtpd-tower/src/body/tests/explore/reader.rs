use std::{
    sync::atomic::Ordering::SeqCst,
    task::{Context, Poll},
};

use super::task::Task;
use crate::body::{Body, BodyError};

pub(super) struct Reader {
    pub(super) body: Option<Body>,
    pub(super) place: Place,
    pub(super) mode: Mode,
    /// For `WithinOwn`.
    pub(super) own: Task,
    pub(super) pieces: usize,
    pub(super) seen: String,
    pub(super) end: Option<Result<(), BodyError>>,
}

impl Reader {
    pub(super) fn poll(&mut self, cx: &Context<'_>) {
        let waker = match self.place {
            Place::WithinOwn if !self.own.rung.swap(false, SeqCst) => return,
            Place::WithinOwn => self.own.waker(),
            _ => cx.waker().clone(),
        };
        let cx = &mut Context::from_waker(&waker);
        while let Some(body) = self.body.as_mut().filter(|_| self.mode != Mode::Idles)
            && self.end.is_none()
        {
            if self.mode == Mode::LooksOnce {
                self.mode = Mode::Idles;
            }
            let Poll::Ready(item) = body.poll_chunk(cx) else {
                return;
            };
            match item {
                Some(Ok(chunk)) => {
                    self.pieces += 1;
                    self.seen.push_str(std::str::from_utf8(&chunk).unwrap());
                }
                Some(Err(error)) => self.end = Some(Err(error)),
                None => self.end = Some(Ok(())),
            }
            if self.end.is_some() {
                let after = body.poll_chunk(cx);
                assert!(matches!(after, Poll::Ready(None)), "{after:?}");
            }
        }
    }

    pub(super) const fn is_live(&self) -> bool {
        self.body.is_some() && self.end.is_none()
    }
}

/// Where a reader is polled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// By the service, with the waker of the session.
    Within,
    /// By the service, with a waker of its own, and only after that waker was woken, as in `FuturesUnordered`.
    WithinOwn,
    /// In the task of the session, before the session.
    Before,
    /// In the task of the session, after the session.
    After,
    /// In another task.
    Elsewhere,
}

pub(super) const PLACES: [Place; 5] = [
    Place::Within,
    Place::WithinOwn,
    Place::Before,
    Place::After,
    Place::Elsewhere,
];

impl Place {
    pub(super) const fn task(self) -> usize {
        match self {
            Self::Elsewhere => 1,
            _ => 0,
        }
    }

    /// Returns whether a reader may move between such places without being polled again: its waker stays the right one.
    pub(super) const fn has_waker_of_session(self) -> bool {
        matches!(self, Self::Within | Self::Before | Self::After)
    }
}

/// What a reader does when it is polled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Mode {
    /// Reads on.
    Reads,
    /// Looks once for a chunk, and cancels.
    LooksOnce,
    /// Does nothing; it keeps the body.
    Idles,
}
