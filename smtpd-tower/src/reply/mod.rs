//! Conversions to the reply of a phase.
//!
//! | item | what it does |
//! |---|---|
//! | [`Answer`] | the trait of the responses of all phases |
//! | [`IntoReply`] | turns what a handler returns into the response of its phase |
//! | [`Verdict`] | what a result means: accepted, deferred, rejected, failed |
//! | [`recover`](recover()) | finds the reply to an error that no layer has converted |

mod answer;
mod into_reply;
mod recover;
mod verdict;

#[doc(inline)]
pub use smtpd_core::reply::{Code, DataReply, Origin, Reply, Status};

pub use self::{answer::Answer, into_reply::IntoReply, recover::recover, verdict::Verdict};
pub(crate) use self::{into_reply::Internal, recover::decided};
