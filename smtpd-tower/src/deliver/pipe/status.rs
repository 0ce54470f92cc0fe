//! Exit statuses, as `sysexits.h` names them, and their replies.

use std::io;

use smtpd_core::reply::{Code, Origin, Reply, Status};

use super::error::Problem;
use crate::fault::local_error;

/// What an exit status means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The command has decided, and this is the reply.
    Decision(Reply),
    /// The command or its environment is at fault. The client receives this.
    Fault(Reply),
}

impl Meaning {
    pub(super) fn of(status: i32) -> Self {
        match status {
            0 => Self::Decision(Reply::OK),
            65 => rejected(Code::TRANSACTION_FAILED, Status::MEDIA, "Message refused"),
            67 => Self::Decision(Reply::no_such_user()),
            68 => rejected(
                Code::MAILBOX_UNAVAILABLE,
                Status::BAD_SYSTEM,
                "Host unknown",
            ),
            69 | 76 => rejected(
                Code::TRANSACTION_FAILED,
                Status::MAIL_SYSTEM,
                "Message refused",
            ),
            75 => Self::Decision(Reply::try_again("Try again later")),
            77 => rejected(Code::MAILBOX_UNAVAILABLE, Status::DENIED, "Not permitted"),
            64 | 66 | 72 | 78 | 126 | 127 => Self::Fault(misconfigured()),
            _ => Self::Fault(local_error()),
        }
    }
}

fn rejected(code: Code, status: Status, text: &'static str) -> Meaning {
    Meaning::Decision(Reply::new(code, status, text))
}

/// Returns the reply if the command cannot work as it is configured.
fn misconfigured() -> Reply {
    Reply::new(
        Code::LOCAL_ERROR,
        Status::MISCONFIGURED,
        "Local configuration error",
    )
    .with_origin(Origin::Fault)
}

/// Returns the reply to a fault.
pub(super) fn of_problem(problem: &Problem) -> Reply {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied};
    match problem {
        Problem::Start(error)
            if [InvalidInput, NotADirectory, NotFound, PermissionDenied]
                .contains(&error.kind()) =>
        {
            misconfigured()
        }
        _ => local_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exit_status_has_its_reply_and_only_decisions_are_final() {
        for (status, expected) in [
            (0, "250 2.0.0"),
            (1, "451 4.3.0"),
            (64, "451 4.3.5"),
            (65, "554 5.6.0"),
            (66, "451 4.3.5"),
            (67, "550 5.1.1"),
            (68, "550 5.1.2"),
            (69, "554 5.3.0"),
            (70, "451 4.3.0"),
            (71, "451 4.3.0"),
            (72, "451 4.3.5"),
            (73, "451 4.3.0"),
            (74, "451 4.3.0"),
            (75, "451 4.3.0"),
            (76, "554 5.3.0"),
            (77, "550 5.7.1"),
            (78, "451 4.3.5"),
            (126, "451 4.3.5"),
            (127, "451 4.3.5"),
        ] {
            let (reply, is_fault) = match Meaning::of(status) {
                Meaning::Decision(reply) => (reply, false),
                Meaning::Fault(reply) => (reply, true),
            };
            assert!(reply.to_string().starts_with(expected), "{status}: {reply}");
            assert!(!is_fault || reply.code().is_transient(), "{status}");
        }
        for status in 0..=255 {
            let is_rejected =
                matches!(Meaning::of(status), Meaning::Decision(r) if r.code().is_permanent());
            assert_eq!(
                is_rejected,
                [65, 67, 68, 69, 76, 77].contains(&status),
                "{status}"
            );
        }
    }
}
