//! What is wrong with options, found by trying each of them alone.

use std::{ffi::OsString, fmt};

use clap::{
    Arg, Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// An option that cannot be used.
#[derive(Debug)]
pub(crate) struct Unusable {
    /// Its name as it was written.
    pub(crate) name: String,
    /// The option that was probably meant.
    pub(crate) meant: Option<String>,
    pub(crate) fault: String,
}

/// For the command line.
impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.name {
            "" => f.write_str(&self.fault),
            name => write!(f, "--{name}: {}", self.fault),
        }
    }
}

/// The option of a name in the file. Some make sense on the command line only.
pub(crate) fn argument<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    let mut all = command.get_arguments();
    all.find(|arg| arg.get_long() == Some(name))
        .filter(|_| !["config", "check", "sockets", "help", "version"].contains(&name))
}

/// Splits a command line, without the program, into what can be used and what is wrong with the rest.
pub(crate) fn split(command: &Command, args: &[OsString]) -> (Vec<OsString>, Vec<Unusable>) {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    let is_option = |arg: &OsString| arg.to_string_lossy().starts_with("--");
    for one in args.chunk_by(|_, next| !is_option(next)) {
        match try_alone(command, one) {
            None => usable.extend_from_slice(one),
            Some(fault) => unusable.push(fault),
        }
    }
    (usable, unusable)
}

/// Returns what is wrong with an option and its value.
pub(crate) fn try_alone(command: &Command, one: &[OsString]) -> Option<Unusable> {
    let args = [&[OsString::new()], one].concat();
    let error = command.clone().try_get_matches_from(args).err()?;
    error.use_stderr().then(|| of(&error, command, one))
}

/// Returns what clap says, in a line.
pub(crate) fn of(error: &Error, command: &Command, args: &[OsString]) -> Unusable {
    let written = text_of(error, ContextKind::InvalidArg).unwrap_or_default();
    let name = written.split([' ', '=', '[']).next().unwrap_or_default();
    match (error.kind(), name.strip_prefix("--")) {
        (ErrorKind::UnknownArgument, Some(name)) => unknown(error, command, name),
        (ErrorKind::UnknownArgument, None) => stray(&written, args),
        (_, name) => Unusable {
            name: name.unwrap_or_default().to_owned(),
            meant: name.map(str::to_owned),
            fault: in_a_line(error, name.is_some_and(is_secret)),
        },
    }
}

/// Returns what is wrong with a name in the file that no option has.
pub(crate) fn no_option(command: &Command, name: &str) -> Unusable {
    let args = ["", &format!("--{name}")];
    match command.clone().try_get_matches_from(args) {
        Err(error) if error.kind() == ErrorKind::UnknownArgument => unknown(&error, command, name),
        // It is one of the command line.
        _ => Unusable {
            name: name.to_owned(),
            meant: None,
            fault: "there is no such option in a file; --help lists all".to_owned(),
        },
    }
}

fn unknown(error: &Error, command: &Command, name: &str) -> Unusable {
    let nearest = text_of(error, ContextKind::SuggestedArg);
    let nearest = nearest.map(|option| option.trim_start_matches('-').to_owned());
    let nearest = nearest.filter(|option| argument(command, option).is_some());
    let hint = match &nearest {
        Some(option) => format!("the nearest is {option}"),
        None => "--help lists all".to_owned(),
    };
    Unusable {
        name: name.to_owned(),
        meant: nearest,
        fault: format!("there is no such option; {hint}"),
    }
}

/// A word that belongs to no option.
fn stray(word: &str, args: &[OsString]) -> Unusable {
    if word.starts_with('-') {
        return Unusable {
            name: String::new(),
            meant: None,
            fault: format!(
                "\"{}\" is not an option; --help lists all",
                word.escape_debug()
            ),
        };
    }
    let option = args.first().map(|option| option.to_string_lossy());
    let option = option.unwrap_or_default();
    let option = option.strip_prefix("--").unwrap_or_default();
    let name = option.split('=').next().unwrap_or_default();
    let word = match is_secret(name) {
        true => "[redacted]".into(),
        false => word.escape_debug().to_string(),
    };
    Unusable {
        name: name.to_owned(),
        meant: Some(name.to_owned()),
        fault: format!("\"{word}\" is one word too many; a value with spaces in it needs quotes"),
    }
}

/// Whether the value of an option is a password or a token, which an error must not show.
fn is_secret(option: &str) -> bool {
    ["user", "oauth-token"].contains(&option)
}

/// Returns what is wrong with a value, without the name of its option.
fn in_a_line(error: &Error, is_secret: bool) -> String {
    use std::error::Error as _;
    match (error.kind(), error.source()) {
        (ErrorKind::InvalidValue, _) => {
            let given = text_of(error, ContextKind::InvalidValue).unwrap_or_default();
            let allowed = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(values)) if !values.is_empty() => values.join(", "),
                _ => "a value".to_owned(),
            };
            let nearest = text_of(error, ContextKind::SuggestedValue);
            let nearest = nearest.map(|value| format!("; the nearest is {value}"));
            let nearest = nearest.unwrap_or_default();
            match &*given {
                "" if allowed == "a value" => "its value is missing".to_owned(),
                _ if is_secret => format!("expected {allowed}"),
                given => format!(
                    "expected {allowed}, not \"{}\"{nearest}",
                    given.escape_debug()
                ),
            }
        }
        (ErrorKind::ValueValidation, Some(cause)) => cause.to_string(),
        (ErrorKind::ArgumentConflict, _) => "it has one value, not several".to_owned(),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    }
}

fn text_of(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}
