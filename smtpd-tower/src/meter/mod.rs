//! What is measured: metrics of the facade `metrics`, with the feature of that name. Without it, all of this is empty.
//!
//! Names and labels are constants: no label has a value that a client chooses.

#[cfg(feature = "metrics")]
mod names;
#[cfg(not(feature = "metrics"))]
mod nothing;
#[cfg(all(feature = "metrics", feature = "queue"))]
mod queue;
#[cfg(feature = "metrics")]
mod recording;

#[cfg(all(feature = "tls", not(feature = "metrics")))]
pub(crate) use self::nothing::HandshakeMeter;
#[cfg(not(feature = "metrics"))]
pub(crate) use self::nothing::{Meters, waits_for_disk, waits_for_processor};
#[cfg(all(feature = "metrics", feature = "queue", unix))]
pub(crate) use self::queue::StoreMeters;
#[cfg(all(feature = "metrics", feature = "queue"))]
pub(crate) use self::queue::WorkerMeters;
#[cfg(all(feature = "tls", feature = "metrics"))]
pub(crate) use self::recording::HandshakeMeter;
#[cfg(feature = "metrics")]
pub(crate) use self::recording::{Meters, RequestMeters, waits_for_disk, waits_for_processor};

/// The outcome of a request whose service has failed: it returned an error without a reply, or panicked.
#[cfg(feature = "metrics")]
pub(crate) const FAILED: &str = "failed";

/// The outcome of a request that was given up before its service has answered: the client or the server has ended the session, or
/// a time was over.
pub(crate) const CANCELLED: &str = "cancelled";

/// The values of labels that a listener knows before anything happens.
#[cfg(feature = "metrics")]
pub(crate) struct Labels {
    pub(crate) profile: &'static str,
    /// The mechanisms that AUTH offers.
    pub(crate) mechanisms: Vec<&'static str>,
    /// How sessions end.
    pub(crate) ends: Vec<&'static str>,
    pub(crate) faults: &'static [&'static str],
    /// Why connections are refused.
    pub(crate) limits: Vec<&'static str>,
}

/// The mechanism of a session's last attempt to authenticate.
#[derive(Clone, Copy)]
pub(crate) struct LastMechanism(pub(crate) smtpd_core::sasl::MechanismName);
