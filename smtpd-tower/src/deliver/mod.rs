//! Delivery services: where messages end up. They serve the DATA phase, and reply 250 only once they have taken responsibility.
//!
//! | service | keeps messages |
//! |---|---|
//! | [`Maildir`] | in a maildir on disk, durable when 250 is sent |
//! | [`Inbox`] | in memory, for tests |
//! | [`Discard`] | not at all, for measuring |
//!
//! [The guide](crate::guide::responsibility) explains what a delivery has to do before it replies 250.

mod discard;
mod inbox;
#[cfg(unix)]
mod maildir;

pub use discard::{Discard, DiscardFuture};
pub use inbox::{Delivered, Inbox, InboxFuture};
#[cfg(unix)]
pub use maildir::{Maildir, MaildirError, MaildirFuture, Newline};
