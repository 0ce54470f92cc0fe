//! Delivery services: where messages end up. They serve the DATA phase, and reply 250 only once they have taken responsibility.
//!
//! | service | keeps messages |
//! |---|---|
//! | [`Maildir`] | in a maildir on disk, durable when 250 is sent |
//! | `Pipe` (feature `pipe`, on Unix) | in a command that reads them on its standard input, and whose exit status decides |
//! | [`Inbox`] | in memory, for tests |
//! | [`Discard`] | not at all, for measuring |
//!
//! [The guide](crate::guide::responsibility) explains what a delivery has to do before it replies 250.

mod discard;
#[cfg(all(unix, feature = "pipe"))]
mod gate;
#[cfg(unix)]
mod header;
mod inbox;
#[cfg(unix)]
mod maildir;
#[cfg(unix)]
mod newline;
#[cfg(all(unix, feature = "pipe"))]
mod pipe;
#[cfg(all(unix, feature = "pipe"))]
mod shown;

pub use discard::{Discard, DiscardFuture};
pub use inbox::{Delivered, Inbox, InboxFuture};
#[cfg(unix)]
pub use maildir::{Maildir, MaildirError, MaildirFuture};
#[cfg(unix)]
pub use newline::Newline;
#[cfg(all(unix, feature = "pipe"))]
pub use pipe::{Pipe, PipeArgument, PipeCommandError, PipeError, PipeFuture};
