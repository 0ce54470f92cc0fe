//! A durable queue on disk: 250 is sent when the message is synced.
//!
//! [`Enqueue`] is the data service that puts messages into a [`Store`], and a [`Worker`] delivers what is due in it. [`FileStore`]
//! is the store of this crate, on Unix. Needs the feature `queue`. [The guide](crate::guide::queueing) shows them together.
//!
//! | type | what it is |
//! |---|---|
//! | [`Enqueue`] | puts each message into a store, and replies 250 with its id |
//! | [`Store`], [`Leased`], [`Outcome`] | where messages wait; how they are taken out, and what became of them |
//! | [`Worker`], [`Schedule`], [`Disposition`] | delivers what is due, by any data service |
//! | [`QueueEvent`] | what happens to messages in the queue |
//! | [`FileStore`] | a store in the files of a directory, and its administration |
//! | [`Job`], [`RecipientState`] | a message without its bytes, and how far the delivery to each recipient is |
//! | [`Durability`] | what a message in a store outlives |
//! | [`QueueError`] | why a store has failed |
//!
#![cfg_attr(unix, doc = include_str!("example.md"))]
//!
//! # Leases
//!
//! A [`Worker`] does this for you. Whoever delivers messages [leases](Store::lease) those that are due, delivers each, and [settles](Store::settle) the lease with
//! an [`Outcome`] for each recipient. The state is kept for each recipient: the number of attempts, the last reply, and when the next
//! attempt is due. A lease ends at its deadline, or with the process, and then the message is leased again. A message that has no
//! pending recipient left is removed.
//!
//! # The files
//!
//! A [`FileStore`] appends all it has to remember to the newest of its segments, files of about 64 MiB. One thread writes: it takes
//! all operations that wait, writes them, and syncs the file once for all of them, so the more messages arrive at the same time,
//! the less each costs. A group has about 8 MiB; at most 1024 operations wait in its queue, and others wait without it.
//!
//! | record | when it is synced |
//! |---|---|
//! | a message | before `put` completes |
//! | what an attempt has led to | within one second, or with the next message; a power cut may lose it, and then the message is delivered again |
//! | hold, release, delete | before the call completes |
//!
//! When a store is opened, all segments are read, and an index of about 500 bytes for each message is kept in memory, however many
//! recipients the messages have. A segment is removed when it is the oldest and nothing in it is needed any more. When more than
//! half of what is on disk is not needed (beyond two segments), what the oldest segment still holds is copied to the end, up to
//! 4 MiB at a time between other operations. So the disk needs twice the size of all messages, and 128 MiB.
//!
//! The client's certificates are not kept with a message.
//!
//! # When something breaks
//!
//! | what | happens |
//! |---|---|
//! | the process is killed | nothing is lost: what was acknowledged is there, and what was not is there whole or not at all |
//! | power is cut | the same, but the results of the last second may be lost |
//! | the disk is full | messages are deferred with 452; a message that is delivered is not delivered again meanwhile; what was removed makes room |
//! | the disk fails or is read-only | messages are deferred with 451 |
//! | a sync fails | the messages of that group are deferred with 451, and the next ones go to a new segment; the failed sync is not repeated, because that it succeeds then does not mean that the data is on the disk |
//! | a record is damaged | it is skipped when the store is opened, logged, counted in [`QueueStats::damaged`], and copied to a file beside the segments that ends with `.damaged`; what is before and after it is read |
//! | the end of the last segment is incomplete | it was never acknowledged, and is removed |
//!
//! Segments begin with a random marker that each of their records repeats, so a message cannot contain what looks like a record,
//! even where the beginning of a record is lost.

mod codec;
mod dsn;
mod durability;
mod enqueue;
mod error;
mod event;
#[cfg(unix)]
mod file;
mod hops;
mod job;
mod schedule;
mod store;
mod terms;
mod worker;

#[cfg(unix)]
pub use self::file::{FileStore, QueueEntry, QueueStats};
pub use self::{
    durability::Durability,
    enqueue::{Enqueue, EnqueueFuture, Queued},
    error::{DurabilityError, QueueError},
    event::QueueEvent,
    job::{Job, Outcome, RecipientState, RecipientStatus},
    schedule::Schedule,
    store::{Leased, Store, StoreFuture},
    worker::{Disposition, RunWorker, Worker},
};
