//! The file of options, which is TOML: its fields have the names of the options.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use toml::de::{DeTable, DeValue};

/// One value of a field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) field: String,
    pub(crate) line: usize,
    pub(crate) value: String,
}

/// A mistake in the file: the line, and what is wrong there.
pub(crate) type Wrong = (usize, String);

/// Returns the values of all fields, in the order of the file, and what is wrong with the rest.
pub(crate) fn parse(text: &str) -> (Vec<Setting>, Vec<Wrong>) {
    let line_of = |at: usize| {
        let before = text.bytes().take(at);
        before.filter(|byte| *byte == b'\n').count() + 1
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors = errors.into_iter().map(|error| {
        let at = error.span().map_or(0, |span| span.start);
        (line_of(at), error.message().to_owned())
    });
    let (mut settings, mut wrong) = (Vec::new(), errors.collect::<Vec<_>>());
    for (field, value) in table.get_ref() {
        let mut add = |at: usize, value: &DeValue<'_>| match text_of(value) {
            Some(value) => settings.push(Setting {
                field: field.get_ref().to_string(),
                line: line_of(at),
                value,
            }),
            None => wrong.push((
                line_of(at),
                format!(
                    "{}: expected text, a number, true or false, or an array of these, not a {}",
                    field.get_ref(),
                    value.type_str()
                ),
            )),
        };
        match value.get_ref() {
            DeValue::Array(values) => values
                .iter()
                .for_each(|value| add(value.span().start, value.get_ref())),
            value => add(field.span().start, value),
        }
    }
    settings.sort_by_key(|setting| setting.line);
    (settings, wrong)
}

/// The value as it would be written on the command line.
fn text_of(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Boolean(on) => Some(on.to_string()),
        _ => None,
    }
}

/// Whether a file may be a pipe, which can be read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipes {
    Allowed,
    /// Reading it again would wait for somebody who writes into it.
    Refused,
}

/// Reads a whole file. A byte order mark, as some editors write it, is left out.
///
/// # Errors
/// One line that names the file.
pub(crate) fn read(path: &Path, pipes: Pipes) -> Result<String, String> {
    let text = open(path, pipes).and_then(|mut file| {
        let mut text = String::new();
        file.read_to_string(&mut text).map(|_| text)
    });
    match text {
        Ok(text) => Ok(text
            .strip_prefix('\u{feff}')
            .map(str::to_owned)
            .unwrap_or(text)),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The lines of a list with their numbers. Empty lines and those that begin with `#` are left out.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().map(str::trim);
    (1..)
        .zip(lines)
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// A file of another kind has a mistake in each line: the first ones tell enough.
pub(crate) fn first_of(mut faults: Vec<String>) -> impl Iterator<Item = String> {
    const MOST: usize = 20;
    if let Some(more) = faults.len().checked_sub(MOST).filter(|more| *more > 0) {
        faults.truncate(MOST);
        faults.push(format!(" and {more} more mistakes"));
    }
    faults.into_iter()
}

/// # Errors
/// Fails if there is no such file.
pub(crate) fn check_exists(path: &Path) -> Result<(), String> {
    let found = fs::metadata(path).map(drop);
    found.map_err(|error| format!("{}: {error}", path.display()))
}

/// # Errors
/// Fails if something is not a file: opening a pipe would wait for its other end.
pub(crate) fn check_regular(path: &Path) -> Result<(), String> {
    is_regular(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn is_regular(path: &Path) -> io::Result<()> {
    match fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("not a regular file")),
    }
}

fn open(path: &Path, pipes: Pipes) -> io::Result<File> {
    if pipes == Pipes::Refused {
        is_regular(path)?;
    }
    File::open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_line() {
        let (settings, wrong) = parse(
            "# a comment\nlisten = [\n'a:1',\n'b:2']\nmax-size = 1_000\n\nquiet = true\nmode = 'mx'\n",
        );
        assert_eq!(wrong, []);
        let of = |field: &str, line, value: &str| Setting {
            field: field.to_owned(),
            line,
            value: value.to_owned(),
        };
        let expected = [
            of("listen", 3, "a:1"),
            of("listen", 4, "b:2"),
            of("max-size", 5, "1000"),
            of("quiet", 7, "true"),
            of("mode", 8, "mx"),
        ];
        assert_eq!(settings, expected);
    }

    #[test]
    fn only_the_first_mistake_is_found() {
        let (settings, wrong) = parse("max-size = 1\n[tls]\ncert = 'x'\n[other]\nrate = 1.5\n");
        assert_eq!(settings.len(), 1);
        let lines: Vec<_> = wrong.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines.len(), 2, "{wrong:?}");
        assert!(
            wrong
                .iter()
                .any(|(line, text)| *line == 2 && text.starts_with("tls: expected text, ")),
            "{wrong:?}"
        );
        let (_, wrong) = parse("max-size = 1\nmax-size = 2\ntimeout = 1.5\nuser = [[1]]\n");
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    }

    #[test]
    fn a_byte_order_mark_is_a_part_of_the_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "\u{feff}a\u{feff}\n").unwrap();
        for pipes in [Pipes::Allowed, Pipes::Refused] {
            assert_eq!(read(&path, pipes).as_deref(), Ok("a\u{feff}\n"));
        }
        let error = read(dir.path(), Pipes::Refused).unwrap_err();
        assert!(error.ends_with(": not a regular file"), "{error}");
        let error = read(&dir.path().join("none"), Pipes::Allowed).unwrap_err();
        assert!(error.contains("/none: No such file"), "{error}");
        assert!(read(Path::new("/dev/null"), Pipes::Refused).is_err());
    }
}
