//! Addresses: the arguments of MAIL, RCPT, HELO and EHLO (RFC 5321 section 4.1.2, RFC 6531 section 3.3).
//!
//! - [`Mailbox`] is a local part at a [`Domain`].
//! - [`ReversePath`] is the sender that MAIL names, [`ForwardPath`] a recipient that RCPT names: a mailbox, the null
//!   sender, or [`Postmaster`].
//! - [`ClientName`] is the name by which a client identifies itself in HELO or EHLO.
//! - [`PathOptions`] configure the parser: a [`Charset`], and a [`Leniency`] for some malformed addresses.
//! - [`AddressRules`] say when two addresses are the same mailbox, and whose it is.
//! - [`AddressError`] says which [part](AddressPart) of an address is malformed, and [how](AddressErrorKind).
//!
//! Everything is parsed from bytes, strictly unless a `Leniency` says otherwise. All parts of an address share one copy of its
//! text, and clones are cheap.

mod client_name;
mod domain;
mod error;
mod mailbox;
mod options;
mod path;
mod postmaster;
mod rules;
mod scan;
mod text;
mod u_label;

pub use client_name::{ClientName, ClientNameKind};
pub use domain::Domain;
pub use error::{AddressError, AddressErrorKind, AddressPart};
pub use mailbox::Mailbox;
pub use options::{Charset, Leniency, PathOptions};
pub use path::{ForwardPath, ReversePath};
pub use postmaster::Postmaster;
pub use rules::AddressRules;

use text::Text;

/// A range of the shared text of an address.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u16,
    end: u16,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        // No address is longer than a path, so this never saturates.
        let narrow = |at| u16::try_from(at).unwrap_or(u16::MAX);
        Self {
            start: narrow(start),
            end: narrow(end),
        }
    }

    fn of(self, text: &str) -> &str {
        text.get(usize::from(self.start)..usize::from(self.end))
            .unwrap_or_default()
    }
}
