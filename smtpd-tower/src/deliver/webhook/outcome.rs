//! HTTP statuses and their replies.

use serde_json::Value;
use smtpd_core::reply::{Code, Origin, Reply, Status};

use crate::{deliver::shown, fault::local_error};

/// What a status means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    /// The service has decided, and this is the reply.
    Refused(Reply),
    /// The service or the server is at fault. The client receives this.
    Fault(Reply),
}

impl Outcome {
    pub(super) fn of(status: u16) -> Self {
        match status {
            200..300 => Self::Accepted,
            400 | 422 => Self::Refused(Reply::new(
                Code::TRANSACTION_FAILED,
                Status::MEDIA,
                "Message refused",
            )),
            413 => Self::Refused(Reply::too_large()),
            408 | 425 | 429 | 503 => Self::Refused(Reply::busy()),
            300..500 => Self::Fault(misconfigured()),
            _ => Self::Fault(local_error()),
        }
    }
}

fn misconfigured() -> Reply {
    Reply::new(
        Code::LOCAL_ERROR,
        Status::MISCONFIGURED,
        "Local configuration error",
    )
    .with_origin(Origin::Fault)
}

/// Returns the text that a response has for the client.
pub(super) fn text(body: &[u8]) -> Option<String> {
    let object: Value = serde_json::from_slice(body).ok()?;
    let message = object.get("message")?.as_str()?;
    shown::in_reply(message.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_decision_on_the_message_is_final() {
        for (status, expected) in [
            (200, "250"),
            (204, "250"),
            (301, "451 4.3.5"),
            (307, "451 4.3.5"),
            (400, "554 5.6.0"),
            (401, "451 4.3.5"),
            (403, "451 4.3.5"),
            (404, "451 4.3.5"),
            (408, "451 4.3.2"),
            (410, "451 4.3.5"),
            (413, "552 5.3.4"),
            (422, "554 5.6.0"),
            (425, "451 4.3.2"),
            (429, "451 4.3.2"),
            (500, "451 4.3.0"),
            (503, "451 4.3.2"),
            (504, "451 4.3.0"),
        ] {
            let reply = match Outcome::of(status) {
                Outcome::Accepted => Reply::OK,
                Outcome::Refused(reply) | Outcome::Fault(reply) => reply,
            };
            assert!(reply.to_string().starts_with(expected), "{status}: {reply}");
        }
        for status in 100..1000 {
            let is_final = match Outcome::of(status) {
                Outcome::Accepted => !(200..300).contains(&status),
                Outcome::Refused(reply) | Outcome::Fault(reply) => reply.code().is_permanent(),
            };
            assert_eq!(is_final, [400, 413, 422].contains(&status), "{status}");
        }
    }
}
