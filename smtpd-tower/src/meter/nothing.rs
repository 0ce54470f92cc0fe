//! Metrics that are not recorded, because the feature is off.

use std::time::Duration;

use smtpd_core::reply::Reply;

use crate::phase_kind::PhaseKind;

#[derive(Clone, Debug, Default)]
pub(crate) struct Meters;

impl Meters {
    pub(crate) const fn are_on(&self) -> bool {
        false
    }

    pub(crate) const fn session_begins(&self) {}

    pub(crate) const fn session_ends(&self, _: &'static str, _: Duration, _: [u64; 2]) {}

    pub(crate) const fn message(&self, _: &str, _: Option<u64>) {}

    pub(crate) const fn recipient(&self, _: &str) {}

    pub(crate) const fn login(&self, _: &str, _: bool) {}

    pub(crate) const fn refused(&self, _: &'static str, _: Option<PhaseKind>, _: &Reply) {}

    pub(crate) const fn fault(&self, _: &'static str) {}

    pub(crate) const fn connection_refused(&self, _: &'static str) {}

    #[cfg(feature = "tls")]
    pub(crate) const fn handshake(&self) -> HandshakeMeter {
        HandshakeMeter
    }
}

#[cfg(feature = "tls")]
pub(crate) struct HandshakeMeter;

#[cfg(feature = "tls")]
impl HandshakeMeter {
    pub(crate) const fn done(self, _: &'static str) {}
}

#[derive(Debug)]
pub(crate) struct Waits;

pub(crate) const fn waits_for_processor() -> Waits {
    Waits
}

pub(crate) const fn waits_for_disk() -> Waits {
    Waits
}
