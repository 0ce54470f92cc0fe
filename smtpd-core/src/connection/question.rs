//! Questions and notifications for the caller.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    event::Event,
    subject::{MailCommand, RcptCommand},
};
use crate::{
    envelope::{Envelope, Recipient},
    helo::Helo,
};

/// The subject of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Connect,
    Helo,
    Auth,
    Mail,
    Rcpt,
    StartTls,
    Data,
    /// Whether the caller has processed the part of the message so far.
    Room,
    Chunk,
    Message,
    Command,
}

/// What the caller must be notified of first, or the subject of the question. Never both.
#[derive(Debug)]
pub(super) enum Slot {
    Empty,
    Notification(Event),
    Helo(Box<Helo>),
    Mail(Arc<Envelope>),
    Rcpt(Recipient),
}

impl From<Event> for Slot {
    fn from(event: Event) -> Self {
        Self::Notification(event)
    }
}

/// The question that blocks the session until it is answered, or a notification.
#[derive(Debug)]
pub(super) struct Question {
    asked: Option<Asked>,
    /// Whether the caller has received the question or the notification.
    notified: bool,
    /// Whether the question waits for its service to become ready.
    queued: bool,
    /// Distinguishes questions, including those of different sessions.
    serial: u64,
    slot: Slot,
}

/// The maximum number of questions in one session: each session's serial numbers begin at a multiple of it.
const SERIALS: u64 = 1 << 32;

impl Question {
    /// Creates the state before the first question.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            asked: None,
            notified: true,
            queued: false,
            serial: NEXT.fetch_add(SERIALS, Ordering::Relaxed),
            slot: Slot::Empty,
        }
    }

    /// Asks a question, which is returned next.
    pub(super) fn ask(&mut self, asked: Asked, about: impl Into<Slot>) {
        self.asked = Some(asked);
        self.notified = false;
        self.slot = about.into();
    }

    /// Notifies the caller, before anything else is processed.
    pub(super) fn notify(&mut self, event: Event) {
        debug_assert!(
            self.asked.is_none() && self.notified,
            "a notification would hide a question or another one"
        );
        self.slot = Slot::Notification(event);
        self.notified = false;
    }

    /// Opens a question, which no answer to an earlier one matches.
    pub(super) fn open(&mut self, asked: Asked) {
        self.asked = Some(asked);
        self.queued = false;
        self.serial += 1;
    }

    /// Returns what the caller must be notified of first. What the answer to a question will make known is kept.
    pub(super) fn hand_out(&mut self) -> Option<Event> {
        self.notified = true;
        if let Some(asked) = self.asked {
            self.open(asked);
        }
        match &self.slot {
            Slot::Rcpt(recipient) => Some(Event::Rcpt(RcptCommand::of(recipient))),
            Slot::Mail(envelope) => Some(Event::Mail(MailCommand::of(envelope))),
            Slot::Helo(helo) => Some(Event::Helo(Helo::clone(helo))),
            Slot::Notification(_) | Slot::Empty => match self.take_slot() {
                Slot::Notification(event) => Some(event),
                _ => None,
            },
        }
    }

    /// Closes the question, because it is answered. Returns which it was.
    pub(super) const fn close(&mut self) -> Option<Asked> {
        self.asked.take()
    }

    /// Forgets the question and the notification.
    pub(super) fn forget(&mut self) {
        self.asked = None;
        self.notified = true;
        self.slot = Slot::Empty;
    }

    pub(super) const fn take_slot(&mut self) -> Slot {
        mem::replace(&mut self.slot, Slot::Empty)
    }

    /// Notes that the caller has deferred the question until its service is ready.
    pub(super) const fn queue(&mut self) {
        self.queued = true;
    }

    /// Notes that the service has become ready. Returns whether the question waited for it.
    pub(super) const fn begin(&mut self) -> bool {
        mem::replace(&mut self.queued, false)
    }

    pub(super) const fn asked(&self) -> Option<Asked> {
        self.asked
    }

    pub(super) const fn is_notified(&self) -> bool {
        self.notified
    }

    pub(super) const fn is_queued(&self) -> bool {
        self.queued
    }

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    /// Returns whether the question with this serial number is open. A question that was found, but not yet returned, is a
    /// different one.
    pub(super) const fn is_open(&self, serial: u64) -> bool {
        self.notified && self.asked.is_some() && serial == self.serial
    }

    /// Returns whether no question has been returned yet.
    pub(super) const fn is_first(&self) -> bool {
        self.serial.is_multiple_of(SERIALS)
    }
}
