//! Commands that a client does not know itself.

use std::{error::Error, fmt};

use super::wire::Awaited;

/// The maximum length of a command line without CRLF (RFC 5321 section 4.5.3.1.4).
const LINE: usize = 510;

/// Returns what the reply to a line of the caller answers.
pub(super) fn check(line: &str) -> Result<Awaited, CommandError> {
    let verb = line.split(' ').next().unwrap_or_default();
    let is_verb = !verb.is_empty() && verb.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_text = line.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_verb || !is_text || line.len() > LINE {
        return Err(CommandError(()));
    }
    match verb.to_ascii_uppercase().as_str() {
        "HELO" | "EHLO" | "LHLO" | "STARTTLS" | "AUTH" | "MAIL" | "RCPT" | "DATA" | "BDAT"
        | "RSET" | "QUIT" => Err(CommandError(())),
        "XCLIENT" => Ok(Awaited::XClient),
        _ => Ok(Awaited::Command),
    }
}

/// An error for a line that cannot be sent as a command: it is not one line of printable ASCII with at most 510 bytes that begins
/// with a verb, or the client sends this command by itself, such as MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommandError(());

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a line of printable ASCII, or a command that the client sends by itself")
    }
}

impl Error for CommandError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_command_hides_in_a_line() {
        let longest = format!("XFORWARD NAME={}", "a".repeat(496));
        assert!(longest.len() == LINE && check(&longest).is_ok());
        for line in [
            "NOOP",
            "xforward NAME=a ADDR=192.0.2.1",
            "VRFY postmaster",
            "HELP",
        ] {
            assert_eq!(check(line), Ok(Awaited::Command), "{line}");
        }
        assert_eq!(check("Xclient ADDR=192.0.2.1"), Ok(Awaited::XClient));
        let too_long = format!("{longest}a");
        for line in [
            "",
            " NOOP",
            "NOOP\r\nMAIL FROM:<>",
            "NOOP\n",
            "NOOP \0",
            "NOOP \u{e5}",
            "mail FROM:<>",
            "QUIT",
            "DATA",
            ".",
            &too_long,
        ] {
            assert_eq!(check(line), Err(CommandError(())), "{line:?}");
        }
    }
}
