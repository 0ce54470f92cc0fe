//! The SMTP extensions that a server offers (RFC 5321 section 2.2).
//!
//! - [`Extensions`] is the set of enabled extensions.
//! - [`Extension`] is the trait that each of them implements, and that yours can implement. It decides by [`SessionFacts`]
//!   whether it is offered.
//! - [`Standard`] are the extensions without settings of their own. They are on by default, and so is [`SessionLimits`].
//! - The others are values that you add with [`Extensions::with`].
//!
//! The connection itself does what [`SessionLimits`] and [`Prdr`] promise. The others make promises that only the receiver of the
//! message can keep: the connection checks their parameters of MAIL and RCPT only as far as the protocol goes, and passes them
//! on. So enable them only if your services honor them:
//!
//! | extension | enable it in a server that |
//! |---|---|
//! | [`DeliverBy`], [`FutureRelease`], [`MtPriority`] with a [`PriorityPolicy`], [`RequireTls`] | delivers or relays as they ask |
//! | [`Rrvs`] | knows since when its mailboxes have had their owners |
//! | [`NoSoliciting`] | keeps advertising out |
//! | [`Etrn`] | has a queue |
//!
//! ```
//! use std::time::Duration;
//!
//! use smtpd_core::{
//!     Config,
//!     extension::{DeliverBy, Extensions, RequireTls},
//! };
//!
//! let by = DeliverBy::with_minimum(Duration::from_secs(240))
//!     .expect("whole seconds, and at least one");
//! let extensions = Extensions::default().with(by).with(RequireTls);
//! let config = Config::new("mx.example.org").extensions(extensions);
//! ```

mod deliver_by;
mod etrn;
mod facts;
mod future_release;
mod mt_priority;
mod no_soliciting;
mod prdr;
mod require_tls;
mod rrvs;
mod session_limits;
mod set;
pub(crate) mod standard;

pub use self::{
    deliver_by::DeliverBy,
    etrn::Etrn,
    facts::SessionFacts,
    future_release::FutureRelease,
    mt_priority::{MtPriority, PriorityPolicy},
    no_soliciting::NoSoliciting,
    prdr::Prdr,
    require_tls::RequireTls,
    rrvs::Rrvs,
    session_limits::SessionLimits,
    set::{Extension, Extensions},
    standard::Standard,
};
