//! What is measured: metrics of the facade `metrics`, with the feature of that name. Without it, all of this is empty.
//!
//! Names and labels are constants: no label has a value that a client chooses.

#[cfg(feature = "metrics")]
mod names;
#[cfg(not(feature = "metrics"))]
mod nothing;
#[cfg(feature = "metrics")]
mod recording;

#[cfg(all(feature = "tls", not(feature = "metrics")))]
pub(crate) use self::nothing::HandshakeMeter;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::nothing::{Meters, waits_for_disk, waits_for_processor};
#[cfg(all(feature = "tls", feature = "metrics"))]
pub(crate) use self::recording::HandshakeMeter;
#[cfg(feature = "metrics")]
pub(crate) use self::recording::{Meters, RequestMeters, waits_for_disk, waits_for_processor};

/// The mechanism of a session's last attempt to authenticate.
#[derive(Clone, Copy)]
pub(crate) struct LastMechanism(pub(crate) smtpd_core::sasl::MechanismName);
