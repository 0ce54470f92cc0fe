//! Delivery services: where messages end up. They serve the DATA phase, and reply 250 only once they have taken responsibility.
//!
//! | service | keeps messages |
//! |---|---|
//! | [`Maildir`] | in a maildir on disk, durable when 250 is sent |
//! | `Pipe` (feature `pipe`, on Unix) | in a command that reads them on its standard input, and whose exit status decides |
//! | `Webhook` (feature `webhook`) | in a web service that they are POSTed to, and whose response decides |
//! | [`Inbox`] | in memory, for tests |
//! | [`Discard`] | not at all, for measuring |
//!
//! [The guide](crate::guide::responsibility) explains what a delivery has to do before it replies 250.

mod discard;
#[cfg(any(all(unix, feature = "pipe"), feature = "webhook"))]
mod gate;
#[cfg(unix)]
mod header;
mod inbox;
#[cfg(unix)]
mod maildir;
#[cfg(unix)]
mod newline;
#[cfg(any(all(unix, feature = "pipe"), feature = "webhook"))]
mod patience;
#[cfg(all(unix, feature = "pipe"))]
mod pipe;
#[cfg(any(all(unix, feature = "pipe"), feature = "webhook"))]
mod shown;
#[cfg(feature = "webhook")]
mod webhook;

pub use discard::{Discard, DiscardFuture};
pub use inbox::{Delivered, Inbox, InboxFuture};
#[cfg(unix)]
pub use maildir::{Maildir, MaildirError, MaildirFuture};
#[cfg(unix)]
pub use newline::Newline;
#[cfg(all(unix, feature = "pipe"))]
pub use pipe::{Pipe, PipeArgument, PipeCommandError, PipeError, PipeFuture};
#[cfg(feature = "webhook")]
pub use webhook::{Webhook, WebhookError, WebhookFormat, WebhookFuture, WebhookSecret};
