use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smtpd_core::{
    envelope::{Envelope, Recipient},
    reply::Reply,
};

use super::terms::Terms;
use crate::session::{QueueId, SessionFacts};

/// A message in the queue without its bytes: where it came from, its envelope, and how far the delivery to each recipient is.
///
/// Times are kept in milliseconds.
///
/// ```
/// use smtpd_tower::{Envelope, Session, queue::Job, session::SessionFacts};
///
/// let envelope = Envelope::new("a@example.com".parse()?)
///     .with_recipient("b@example.org".parse()?);
/// let job = Job::new(SessionFacts::from(&Session::local()), envelope);
/// assert_eq!(job.pending().count(), 1);
/// assert!(!job.is_held());
/// # Ok::<(), smtpd_tower::address::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub(super) id: QueueId,
    pub(super) created: u64,
    pub(super) facts: SessionFacts,
    pub(super) envelope: Arc<Envelope>,
    /// One for each recipient of the envelope.
    pub(super) states: Vec<RecipientState>,
    pub(super) held: bool,
}

/// How far the delivery to a recipient is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientState {
    pub(super) status: RecipientStatus,
    pub(super) tries: u32,
    pub(super) due: u64,
    pub(super) reply: Option<Reply>,
    /// Whether the sender was told that the message is late.
    pub(super) told: bool,
}

/// Whether anything is still to be done for a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecipientStatus {
    /// The message is to be delivered.
    Pending,
    /// The message was delivered.
    Delivered,
    /// The message was given up.
    Failed,
}

/// The result of an attempt to deliver to one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The message was delivered, with this reply.
    Delivered(Reply),
    /// The message is to be tried again.
    Deferred {
        /// The reason.
        reply: Reply,
        /// When the next attempt is due.
        until: SystemTime,
        /// Whether the sender was told that the message is late.
        told: bool,
    },
    /// Nothing was tried, and no attempt is counted. A store may forget it if the process ends, unless the sender was told.
    Postponed {
        /// When the next attempt is due.
        until: SystemTime,
        /// Whether the sender was told that the message is late.
        told: bool,
    },
    /// The message cannot be delivered, for this reason.
    Failed(Reply),
}

impl Job {
    /// Creates a job for a new message, with a unique id. It is due at once for all its recipients.
    pub fn new(facts: SessionFacts, envelope: impl Into<Arc<Envelope>>) -> Self {
        let (envelope, created) = (envelope.into(), millis(SystemTime::now()));
        let state = RecipientState {
            status: RecipientStatus::Pending,
            tries: 0,
            due: created,
            reply: None,
            told: false,
        };
        Self {
            id: QueueId::unique(),
            created,
            facts,
            states: vec![state; envelope.recipients().len()],
            envelope,
            held: false,
        }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(self, id: QueueId) -> Self {
        Self { id, ..self }
    }

    /// Sets when the first attempt is due. Default: at once.
    #[must_use]
    pub fn with_due(mut self, due: SystemTime) -> Self {
        self.states
            .iter_mut()
            .for_each(|state| state.due = millis(due));
        self
    }

    /// Returns the id.
    pub const fn id(&self) -> &QueueId {
        &self.id
    }

    /// Returns when the message was put into the queue.
    pub fn created(&self) -> SystemTime {
        time(self.created)
    }

    /// Returns what was kept of the session; [`Session::stored`](crate::session::Session::stored) makes a session of it.
    pub const fn facts(&self) -> &SessionFacts {
        &self.facts
    }

    /// Returns the envelope with all recipients, also those that are done.
    pub const fn envelope(&self) -> &Arc<Envelope> {
        &self.envelope
    }

    /// Returns the priority, from -9 to 9 (RFC 6710), by the parameter of MAIL. A higher number is more urgent.
    pub fn priority(&self) -> i8 {
        Terms::of(self).priority
    }

    /// Returns the recipients with their states, in the order of the envelope.
    pub fn recipients(&self) -> impl ExactSizeIterator<Item = (&Recipient, &RecipientState)> {
        self.envelope.recipients().iter().zip(&self.states)
    }

    /// Returns the recipients that are not done, each with its position in the envelope.
    pub fn pending(&self) -> impl Iterator<Item = (usize, &Recipient, &RecipientState)> {
        let numbered = self.recipients().enumerate();
        numbered
            .filter(|(_, (_, state))| state.is_pending())
            .map(|(number, (recipient, state))| (number, recipient, state))
    }

    /// Returns whether the message is held: it is not leased until it is released.
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// When something is to be done next, if anything is.
    pub(super) fn due(states: &[RecipientState]) -> Option<u64> {
        let pending = states.iter().filter(|state| state.is_pending());
        pending.map(|state| state.due).min()
    }

    /// The states after an attempt. An outcome of a recipient that is done, or that there is not, has no effect.
    pub(super) fn after(&self, outcomes: &[(usize, Outcome)]) -> Vec<RecipientState> {
        let mut states = self.states.clone();
        for (number, outcome) in outcomes {
            if let Some(state) = states.get_mut(*number).filter(|state| state.is_pending()) {
                state.settle(outcome);
            }
        }
        states
    }
}

impl RecipientState {
    /// Returns whether anything is still to be done.
    pub const fn status(&self) -> RecipientStatus {
        self.status
    }

    /// Returns how many attempts there were.
    pub const fn tries(&self) -> u32 {
        self.tries
    }

    /// Returns when the next attempt is due. It has no meaning for a recipient that is done.
    pub fn due(&self) -> SystemTime {
        time(self.due)
    }

    /// Returns the reply of the last attempt.
    pub const fn last_reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// Returns whether the sender was told that the message is late.
    pub const fn is_told(&self) -> bool {
        self.told
    }

    pub(super) const fn is_pending(&self) -> bool {
        matches!(self.status, RecipientStatus::Pending)
    }

    fn settle(&mut self, outcome: &Outcome) {
        let reply = match outcome {
            Outcome::Postponed { until, told } => {
                self.due = millis(*until);
                self.told |= told;
                return;
            }
            Outcome::Delivered(reply) => {
                self.status = RecipientStatus::Delivered;
                reply
            }
            Outcome::Deferred { reply, until, told } => {
                self.due = millis(*until);
                self.told |= told;
                reply
            }
            Outcome::Failed(reply) => {
                self.status = RecipientStatus::Failed;
                reply
            }
        };
        self.tries = self.tries.saturating_add(1);
        self.reply = Some(reply.clone());
    }
}

/// Milliseconds since 1970; a time before counts as 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The opposite; a time that the system does not know is 1970.
pub(super) fn time(millis: u64) -> SystemTime {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    time.unwrap_or(UNIX_EPOCH)
}
