//! The extensions with settings or promises of their own, each a value to be given to
//! [`Extensions::with`](crate::Extensions::with). All but [`SessionLimits`] are off until they are asked for.
//!
//! [`SessionLimits`] and [`Prdr`] are kept by the connection itself. The others are promises that only who receives the message
//! can keep: what the client asks for stands in the parameters of MAIL and RCPT, typed, and is checked only as far as the
//! protocol goes. So turn them on where your services honour them: [`DeliverBy`], [`FutureRelease`], [`MtPriority`] and
//! [`RequireTls`] in a server that delivers or relays by them, [`Rrvs`] in one that knows since when its mailboxes have their
//! owners, [`NoSoliciting`] in one that keeps advertising out, and [`Etrn`] in one with a queue.
//!
//! ```
//! use std::time::Duration;
//!
//! use smtpd_core::{Config, Extensions, extension::{DeliverBy, RequireTls}};
//!
//! let extensions = Extensions::default()
//!     .with(DeliverBy::new().minimum(Duration::from_secs(240)))
//!     .with(RequireTls);
//! let config = Config::new("mx.example.org").extensions(extensions);
//! ```

mod deliver_by;
mod etrn;
pub(crate) mod facts;
mod future_release;
mod mt_priority;
mod no_soliciting;
mod prdr;
mod require_tls;
mod rrvs;
mod session_limits;
pub(crate) mod set;
pub(crate) mod standard;

pub use self::{
    deliver_by::DeliverBy,
    etrn::Etrn,
    future_release::FutureRelease,
    mt_priority::{MtPriority, PriorityPolicy},
    no_soliciting::NoSoliciting,
    prdr::Prdr,
    require_tls::RequireTls,
    rrvs::Rrvs,
    session_limits::SessionLimits,
};
use self::{facts::SessionFacts, standard::Standard};
