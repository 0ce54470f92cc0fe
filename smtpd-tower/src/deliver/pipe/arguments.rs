use std::{error::Error, ffi::OsString, fmt, path::PathBuf, str::FromStr};

use super::{Pipe, facts::Facts};

/// An argument of the command that a [`Pipe`](super::Pipe) runs: a fixed text, or a value of the message.
///
/// A value is always one whole argument, whatever characters it has: there is no shell. See
/// [there](super::Pipe#values-of-the-message) how it is kept from being taken for an option.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PipeArgument {
    /// This text.
    Literal(OsString),
    /// `{sender}`: the sender, and an empty argument if it is null.
    Sender,
    /// `{recipient}`: the recipients, each of which is an argument of its own.
    Recipient,
    /// `{queue_id}`: the [`QueueId`](crate::session::QueueId) of the message, or a new one.
    QueueId,
    /// `{session}`: the number of the session.
    Session,
    /// `{client_address}`: the IP address of the client; empty if it has none.
    ClientAddress,
    /// `{user}`: the name by which the client has authenticated; empty if it has not.
    User,
}

impl PipeArgument {
    /// Returns the placeholder of this name.
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "{sender}" => Self::Sender,
            "{recipient}" => Self::Recipient,
            "{queue_id}" => Self::QueueId,
            "{session}" => Self::Session,
            "{client_address}" => Self::ClientAddress,
            "{user}" => Self::User,
            _ => return None,
        })
    }

    /// Appends the arguments that this stands for.
    fn expand(&self, facts: &Facts, to: &mut Vec<OsString>) {
        match self {
            Self::Literal(text) => to.push(text.clone()),
            Self::Sender => to.push(facts.sender.clone().into()),
            Self::Recipient => to.extend(facts.recipients.iter().map(OsString::from)),
            Self::QueueId => to.push(facts.queue_id.as_str().into()),
            Self::Session => to.push(facts.session.to_string().into()),
            Self::ClientAddress => to.push(facts.client_address.clone().into()),
            Self::User => to.push(facts.user.clone().unwrap_or_default().into()),
        }
    }
}

impl From<&str> for PipeArgument {
    fn from(text: &str) -> Self {
        Self::Literal(text.into())
    }
}

impl From<String> for PipeArgument {
    fn from(text: String) -> Self {
        Self::Literal(text.into())
    }
}

impl From<OsString> for PipeArgument {
    fn from(text: OsString) -> Self {
        Self::Literal(text)
    }
}

impl From<PathBuf> for PipeArgument {
    fn from(path: PathBuf) -> Self {
        Self::Literal(path.into())
    }
}

/// Returns the arguments for a message, or `None` if a value would be taken for an option: it begins with `-`, and no `--` stands
/// before it.
pub(super) fn expand(arguments: &[PipeArgument], facts: &Facts) -> Option<Vec<OsString>> {
    let (mut expanded, mut options_ended) = (Vec::new(), false);
    for argument in arguments {
        let from = expanded.len();
        argument.expand(facts, &mut expanded);
        if let PipeArgument::Literal(text) = argument {
            options_ended |= text == "--";
            continue;
        }
        let mut values = expanded[from..].iter();
        if !options_ended && values.any(|value| value.as_encoded_bytes().starts_with(b"-")) {
            return None;
        }
    }
    Some(expanded)
}

/// An error for a text that is not a [`Pipe`](super::Pipe)'s command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipeCommandError(Fault);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    Empty,
    Unclosed,
    Nul,
    Unknown(String),
}

impl fmt::Display for PipeCommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Fault::Empty => f.write_str("no program"),
            Fault::Unclosed => f.write_str("a quote that is not closed, or a backslash at the end"),
            Fault::Nul => f.write_str("a NUL"),
            Fault::Unknown(word) => write!(f, "no placeholder {word:?}"),
        }
    }
}

impl Error for PipeCommandError {}

/// Parses a program and its arguments, separated by white space.
///
/// Text in single quotes is taken as it is, and in double quotes or without quotes a backslash takes the next character as it is.
/// Nothing else is special, as there is no shell. An argument without quotes that is the name of a [`PipeArgument`] in braces,
/// such as `{sender}`, stands for its value; other braces have to be quoted.
///
/// ```
/// use smtpd_tower::deliver::{Pipe, PipeCommandError};
///
/// let pipe: Pipe =
///     "/usr/lib/dovecot/deliver -f {sender} -d {recipient}".parse()?;
/// let error = "sendmail -f {sendr}".parse::<Pipe>().unwrap_err();
/// assert_eq!(error.to_string(), "no placeholder \"{sendr}\"");
/// # Ok::<(), PipeCommandError>(())
/// ```
impl FromStr for Pipe {
    type Err = PipeCommandError;

    fn from_str(text: &str) -> Result<Self, PipeCommandError> {
        let (program, arguments) = parse(text)?;
        Ok(arguments.into_iter().fold(Self::new(program), Self::arg))
    }
}

/// Returns the program and its arguments.
fn parse(text: &str) -> Result<(PathBuf, Vec<PipeArgument>), PipeCommandError> {
    if text.contains('\0') {
        return Err(PipeCommandError(Fault::Nul));
    }
    let mut words = split(text)?.into_iter();
    let program = words.next().filter(|word| !word.text.is_empty());
    let program = program.ok_or(PipeCommandError(Fault::Empty))?.text;
    let arguments = words.map(Word::argument).collect::<Result<_, _>>()?;
    Ok((program.into(), arguments))
}

#[derive(Default)]
struct Word {
    text: String,
    /// Some of it was quoted.
    is_quoted: bool,
}

impl Word {
    fn argument(self) -> Result<PipeArgument, PipeCommandError> {
        if self.is_quoted || !self.text.contains(['{', '}']) {
            return Ok(self.text.into());
        }
        let known = PipeArgument::named(&self.text);
        known.ok_or(PipeCommandError(Fault::Unknown(self.text)))
    }
}

fn split(text: &str) -> Result<Vec<Word>, PipeCommandError> {
    let unclosed = || PipeCommandError(Fault::Unclosed);
    let (mut words, mut word, mut quote) = (Vec::new(), None::<Word>, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() && quote.is_none() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (_, Some(open)) if c == open => quote = None,
            ('\\', None | Some('"')) => word.text.push(chars.next().ok_or_else(unclosed)?),
            _ => {
                word.text.push(c);
                continue;
            }
        }
        word.is_quoted = true;
    }
    words.extend(word);
    match quote {
        Some(_) => Err(unclosed()),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_cut_into_words_without_a_shell() {
        let literal = |text: &str| PipeArgument::from(text);
        for (text, program, arguments) in [
            ("/bin/cat", "/bin/cat", vec![]),
            ("  a  b\tc ", "a", vec![literal("b"), literal("c")]),
            ("a '' \"\"", "a", vec![literal(""), literal("")]),
            (
                r#"a 'b "c\' "d 'e\" \\f" g\ h"#,
                "a",
                vec![literal(r#"b "c\"#), literal(r#"d 'e" \f"#), literal("g h")],
            ),
            ("a $HOME;`b`|c>d&", "a", vec![literal("$HOME;`b`|c>d&")]),
            (
                "a -f {sender} -- {recipient}",
                "a",
                vec![
                    literal("-f"),
                    PipeArgument::Sender,
                    literal("--"),
                    PipeArgument::Recipient,
                ],
            ),
            (
                "a '{sender}' '{x}'",
                "a",
                vec![literal("{sender}"), literal("{x}")],
            ),
            ("'a b' c", "a b", vec![literal("c")]),
        ] {
            assert_eq!(parse(text), Ok((program.into(), arguments)), "{text}");
        }
        for (text, error) in [
            ("", "no program"),
            (" ", "no program"),
            ("''", "no program"),
            (
                "a 'b",
                "a quote that is not closed, or a backslash at the end",
            ),
            (
                "a \"b\\\"",
                "a quote that is not closed, or a backslash at the end",
            ),
            (
                "a \\",
                "a quote that is not closed, or a backslash at the end",
            ),
            ("a\0b", "a NUL"),
            ("a {SENDER}", "no placeholder \"{SENDER}\""),
            ("a --from={sender}", "no placeholder \"--from={sender}\""),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), error, "{text}");
        }
    }

    #[test]
    fn no_value_is_taken_for_an_option() {
        let facts = |sender: &str| Facts {
            sender: sender.to_owned(),
            recipients: vec!["a@example.org".to_owned(), "-b@example.org".to_owned()],
            ..Facts::default()
        };
        let expanded = |text: &str, sender| {
            let (_, arguments) = parse(text).unwrap();
            expand(&arguments, &facts(sender))
        };
        assert_eq!(expanded("a {sender}", "-x@example.com"), None);
        assert_eq!(expanded("a {recipient} --", ""), None);
        let whole = expanded("a -f -- {sender} {recipient}", "-x@example.com").unwrap();
        assert_eq!(
            whole,
            [
                "-f",
                "--",
                "-x@example.com",
                "a@example.org",
                "-b@example.org"
            ]
        );
        assert_eq!(expanded("a {sender}", "").unwrap(), [""]);
    }
}
