use smtpd_core::{connection::CommandLine, reply::Reply};

/// VRFY, EXPN, HELP, ETRN, or a verb that the protocol does not know or that is disabled. AUTH is never among them.
///
/// A service for this phase adds verbs of its own. To all others it replies with the [`default_reply`](Self::default_reply).
///
/// ```
/// use smtpd_tower::{Command, Reply, Request, Session, handler_fn};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), std::convert::Infallible> {
/// let command = handler_fn(async |request: Request<Command>| {
///     match request.verb() {
///         "XPING" => Reply::ok(request.argument().to_owned()),
///         _ => request.default_reply().clone(),
///     }
/// });
/// let ask = |verb| {
///     command
///         .clone()
///         .oneshot(Request::new(Session::local(), Command::new(verb, "pong")))
/// };
/// assert_eq!(ask("xping").await?.text(), "pong");
/// assert_eq!(ask("XOTHER").await?.code().as_u16(), 500);
/// # Ok(()) }
/// ```
///
/// Its `Debug` form shows neither verb nor argument of an unknown command: a client whose AUTH was refused may continue with
/// names and passwords.
#[derive(Clone, Debug)]
pub struct Command(CommandLine);

impl Command {
    /// Creates an unknown command. The verb is converted to upper case.
    pub fn new(verb: impl Into<String>, argument: impl Into<String>) -> Self {
        Self(CommandLine::new(verb, argument))
    }

    pub(crate) const fn of(line: CommandLine) -> Self {
        Self(line)
    }

    /// Returns a copy with this default reply.
    #[must_use]
    pub fn with_default_reply(self, default_reply: Reply) -> Self {
        Self(self.0.with_default_reply(default_reply))
    }

    /// Returns the first word, in upper case.
    pub fn verb(&self) -> &str {
        self.0.verb()
    }

    /// Returns the rest of the line, without the blanks around it. In a command of a client, it contains no control characters;
    /// nothing else is guaranteed.
    pub fn argument(&self) -> &str {
        self.0.argument()
    }

    /// Returns the reply that the client receives if there is no service, such as 500 5.5.1 to an unknown verb.
    pub const fn default_reply(&self) -> &Reply {
        self.0.default_reply()
    }

    /// Returns whether the command may be shown, for instance in a log. An unknown command may contain a user name or a password.
    pub fn may_be_shown(&self) -> bool {
        self.0.may_be_shown()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password_that_was_taken_for_a_command() {
        let shown = |verb, argument| format!("{:?}", Command::new(verb, argument));
        assert!(shown("vrfy", "alice").contains("alice"));
        for (verb, argument) in [
            ("c2VjcmV0", ""),
            ("AUTH", "PLAIN c2VjcmV0"),
            ("pass", "c2VjcmV0"),
        ] {
            let shown = shown(verb, argument).to_ascii_uppercase();
            assert!(!shown.contains("C2VJCMV0"), "{shown}");
        }
    }
}
