//! Layers that read or change the message.

mod distinct_recipients;
mod hop_limit;
mod map_body;
mod received;
#[cfg(feature = "spool")]
mod spool;
mod submission_fields;
mod tee;

#[cfg(feature = "spool")]
pub use self::spool::{Spool, SpoolFuture, SpoolLayer};
pub use self::{
    distinct_recipients::{DistinctRecipients, DistinctRecipientsFuture, DistinctRecipientsLayer},
    hop_limit::{HopLimit, HopLimitFuture, HopLimitLayer},
    map_body::{MapBody, MapBodyLayer},
    received::{Received, ReceivedLayer},
    submission_fields::{SubmissionFields, SubmissionFieldsLayer},
    tee::{Tee, TeeLayer},
};
