//! Greylists in files: lines of text, a version first, a checksum last.
//!
//! ```text
//! smtpd-greylist 1
//! seed 000102030405060708090a0b0c0d0e0f
//! saved 1764523200
//! entries 3
//! waiting 0123456789abcdef 17
//! passed 123456789abcdef0 400
//! client 23456789abcdef01 400 3 3600
//! end 3456789abcdef012
//! ```
//!
//! Times are ages in seconds when the file was saved, and only that moment is a time of the system's clock. A client has the age
//! of its last mail, the messages that count, and the age of the last of these. The checksum is that of the lines after the seed.

use std::{
    error::Error,
    fmt,
    io::{self, BufRead, Read, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    siphash::SipHasher,
    table::{Entry, Nanos, State, Table},
};

const VERSION: &str = "smtpd-greylist 1";

/// The longest line has 76 bytes.
const LONGEST_LINE: usize = 100;

/// An error of [`MemoryGreylist::load`](super::MemoryGreylist::load): where a greylist in a file is wrong, and how.
#[derive(Debug)]
pub struct GreylistFileError {
    line: u64,
    kind: GreylistFileErrorKind,
}

/// What is wrong with a greylist in a file.
#[derive(Debug)]
#[non_exhaustive]
pub enum GreylistFileErrorKind {
    /// It cannot be opened or read.
    Io(io::Error),
    /// It is not a greylist, or of a version that is not known.
    Version,
    /// A line is not what must stand there.
    Malformed,
    /// It ends too early.
    Truncated,
    /// Something has changed since it was written.
    Checksum,
}

impl GreylistFileError {
    /// Returns the number of the line that is wrong, or could not be read, from 1. Returns 0 if the file could not be opened.
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// Returns what is wrong.
    pub const fn kind(&self) -> &GreylistFileErrorKind {
        &self.kind
    }

    /// Returns whether there is no such file, as when the server starts for the first time.
    pub fn is_not_found(&self) -> bool {
        matches!(&self.kind, GreylistFileErrorKind::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    pub(super) const fn not_opened(error: io::Error) -> Self {
        Self {
            line: 0,
            kind: GreylistFileErrorKind::Io(error),
        }
    }
}

impl fmt::Display for GreylistFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line;
        match &self.kind {
            GreylistFileErrorKind::Io(_) if line == 0 => {
                f.write_str("the greylist cannot be opened")
            }
            GreylistFileErrorKind::Io(_) => write!(f, "line {line} of the greylist cannot be read"),
            GreylistFileErrorKind::Version => {
                write!(
                    f,
                    "line {line} is not `{VERSION}`, so this is not a known greylist"
                )
            }
            GreylistFileErrorKind::Malformed => {
                write!(f, "line {line} of the greylist is malformed")
            }
            GreylistFileErrorKind::Truncated => {
                write!(f, "the greylist ends too early, in line {line}")
            }
            GreylistFileErrorKind::Checksum => {
                write!(f, "the checksum in line {line} is not that of the greylist")
            }
        }
    }
}

impl Error for GreylistFileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.kind {
            GreylistFileErrorKind::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// The clocks at one moment: that of a store, and that of the system.
#[derive(Clone, Copy)]
pub(super) struct Clocks {
    pub(super) now: Nanos,
    pub(super) wall: SystemTime,
}

/// Writes entries at a moment.
pub(super) fn write(
    seed: [u8; 16],
    entries: &[Entry],
    clocks: Clocks,
    out: &mut dyn Write,
) -> io::Result<()> {
    let age = |at: Nanos| clocks.now.saturating_sub(at).max(0) / NANOS;
    let mut out = Summed {
        out,
        sum: SipHasher::new(seed),
    };
    let seed = u128::from_be_bytes(seed);
    writeln!(out.out, "{VERSION}\nseed {seed:032x}")?;
    writeln!(out, "saved {}", seconds(clocks.wall))?;
    writeln!(out, "entries {}", entries.len())?;
    for entry in entries {
        let (id, at) = (entry.id, age(entry.at));
        match entry.state {
            State::Waiting => writeln!(out, "waiting {id:016x} {at}")?,
            State::Passed => writeln!(out, "passed {id:016x} {at}")?,
            State::Client { passed, counted } => {
                writeln!(out, "client {id:016x} {at} {passed} {}", age(counted))?;
            }
        }
    }
    writeln!(out.out, "end {:016x}", out.sum.finish())
}

/// Reads a table of at most `capacity` entries, and drops the least valuable beyond that.
pub(super) fn read(
    input: &mut dyn BufRead,
    capacity: usize,
    clocks: Clocks,
) -> Result<Table, GreylistFileError> {
    let mut lines = Lines {
        input,
        line: 0,
        text: Vec::new(),
    };
    if lines.next()? != VERSION {
        return Err(lines.error(GreylistFileErrorKind::Version));
    }
    let seed = lines.parse(|text| hex::<32>(text.strip_prefix("seed ")?))?;
    let seed = seed.to_be_bytes();
    let (mut table, mut sum) = (Table::with_seed(seed), SipHasher::new(seed));
    let mut line = |parse: &mut dyn FnMut(&str) -> Option<u64>| {
        let value = lines.parse(parse)?;
        sum.write(&lines.text);
        Ok(value)
    };
    let saved = line(&mut |text| decimal(text.strip_prefix("saved ")?))?;
    let count = line(&mut |text| decimal(text.strip_prefix("entries ")?))?;
    // The clock of the system may have been set back since.
    let since_saved = seconds(clocks.wall).saturating_sub(saved);
    let at = |age: u64| {
        clocks
            .now
            .saturating_sub(nanos(age.saturating_add(since_saved)))
    };
    for _ in 0..count {
        line(&mut |text| {
            table.put(entry(text, at)?, capacity);
            Some(0)
        })?;
    }
    let sum = sum.finish();
    let given = lines.parse(|text| hex::<16>(text.strip_prefix("end ")?))?;
    // A fuzzer does not find checksums.
    if given != u128::from(sum) && !cfg!(fuzzing) {
        return Err(lines.error(GreylistFileErrorKind::Checksum));
    }
    lines.end()?;
    Ok(table)
}

fn entry(text: &str, at: impl Fn(u64) -> Nanos) -> Option<Entry> {
    let mut words = text.split(' ');
    let (kind, id, age) = (words.next()?, words.next()?, words.next()?);
    let state = match kind {
        "waiting" => State::Waiting,
        "passed" => State::Passed,
        "client" => State::Client {
            passed: decimal(words.next()?)?.try_into().ok()?,
            counted: at(decimal(words.next()?)?),
        },
        _ => return None,
    };
    let entry = Entry {
        id: hex::<16>(id)?.try_into().ok()?,
        state,
        at: at(decimal(age)?),
    };
    words.next().is_none().then_some(entry)
}

const NANOS: Nanos = 1_000_000_000;

fn nanos(seconds: u64) -> Nanos {
    Nanos::try_from(seconds).map_or(Nanos::MAX, |seconds| seconds.saturating_mul(NANOS))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs()
}

/// Parses as many digits as that, in lower case.
fn hex<const DIGITS: usize>(text: &str) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let digits = text.len() == DIGITS && text.bytes().all(is_digit);
    u128::from_str_radix(text, 16).ok().filter(|_| digits)
}

/// Parses digits only: the number parser of the standard library would also accept a `+`.
fn decimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

struct Summed<'a> {
    out: &'a mut dyn Write,
    sum: SipHasher,
}

impl Write for Summed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sum.write(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Lines<'a> {
    input: &'a mut dyn BufRead,
    line: u64,
    /// The last line, with its end.
    text: Vec<u8>,
}

impl Lines<'_> {
    /// Reads the next line, and returns it without its end.
    fn next(&mut self) -> Result<&str, GreylistFileError> {
        self.line += 1;
        self.text.clear();
        let mut limited = (&mut *self.input).take(LONGEST_LINE as u64);
        if let Err(error) = limited.read_until(b'\n', &mut self.text) {
            return Err(self.error(GreylistFileErrorKind::Io(error)));
        }
        match self.text.strip_suffix(b"\n").map(str::from_utf8) {
            Some(Ok(text)) => Ok(text),
            None if self.text.len() < LONGEST_LINE => {
                Err(self.error(GreylistFileErrorKind::Truncated))
            }
            _ if self.line == 1 => Err(self.error(GreylistFileErrorKind::Version)),
            _ => Err(self.error(GreylistFileErrorKind::Malformed)),
        }
    }

    fn parse<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, GreylistFileError> {
        let parsed = parse(self.next()?);
        parsed.ok_or_else(|| self.error(GreylistFileErrorKind::Malformed))
    }

    /// Makes sure that nothing follows.
    fn end(&mut self) -> Result<(), GreylistFileError> {
        self.line += 1;
        match self.input.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) => Err(self.error(GreylistFileErrorKind::Malformed)),
            Err(error) => Err(self.error(GreylistFileErrorKind::Io(error))),
        }
    }

    const fn error(&self, kind: GreylistFileErrorKind) -> GreylistFileError {
        GreylistFileError {
            line: self.line,
            kind,
        }
    }
}

/// Returns the file of these lines, with the checksum that fits in place of the last one.
#[cfg(test)]
pub(super) fn with_checksum(lines: &[String]) -> String {
    let seed = lines
        .get(1)
        .and_then(|line| hex::<32>(line.strip_prefix("seed ")?));
    let mut sum = SipHasher::new(seed.unwrap_or(0).to_be_bytes());
    let lines = lines.split_last().map_or(&[][..], |(_, lines)| lines);
    for line in lines.get(2..).unwrap_or_default() {
        sum.write(line.as_bytes()).write(b"\n");
    }
    format!("{}\nend {:016x}\n", lines.join("\n"), sum.finish())
}
