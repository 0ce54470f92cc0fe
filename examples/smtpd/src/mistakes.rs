//! What is wrong with options and files: all of it, not just the first.

use std::{
    error::Error,
    fmt,
    io::{self, Write as _},
};

/// Mistakes, one in a line: where it is, what is wrong, and what is allowed.
#[derive(Debug, Default)]
pub(crate) struct Mistakes {
    lines: Vec<String>,
    /// Whether options are among them, so that another start is of no use.
    are_of_options: bool,
}

impl Mistakes {
    pub(crate) fn one(mistake: &dyn Error) -> Self {
        Self {
            lines: vec![crate::with_causes(mistake)],
            are_of_options: false,
        }
    }

    /// Adds mistakes in the options themselves, not in what they name.
    pub(crate) fn of_options(&mut self, mistakes: Vec<String>) {
        self.are_of_options |= !mistakes.is_empty();
        self.extend(mistakes);
    }

    /// The exit status of a program that cannot start because of them.
    pub(crate) const fn exit_code(&self) -> u8 {
        if self.are_of_options { 2 } else { 1 }
    }

    pub(crate) fn add(&mut self, mistake: impl Into<String>) {
        self.lines.push(mistake.into());
    }

    pub(crate) fn extend(&mut self, others: impl IntoIterator<Item = String>) {
        self.lines.extend(others);
    }

    /// Returns the value, or adds what is wrong with it.
    pub(crate) fn unless<T, E: IntoMistakes>(&mut self, result: Result<T, E>) -> Option<T> {
        let add = |error: E| {
            let mistakes = error.into_mistakes();
            self.are_of_options |= mistakes.are_of_options;
            self.extend(mistakes.lines);
        };
        result.map_err(add).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// Prints them on standard error.
    pub(crate) fn print(&self) {
        for mistake in self.iter() {
            let _ = writeln!(io::stderr(), "smtpd: {mistake}");
        }
    }

    /// Returns the value if nothing is wrong.
    pub(crate) fn or<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

/// Prints each in a line of its own.
impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

impl Error for Mistakes {}

/// What becomes one mistake or several.
pub(crate) trait IntoMistakes {
    fn into_mistakes(self) -> Mistakes;
}

impl IntoMistakes for Mistakes {
    fn into_mistakes(self) -> Mistakes {
        self
    }
}

impl IntoMistakes for String {
    fn into_mistakes(self) -> Mistakes {
        Mistakes {
            lines: vec![self],
            are_of_options: false,
        }
    }
}
