use std::{error::Error, fmt};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{Client, ClientError};
use crate::server::Server;

/// Runs a session: sends the `C:` lines, and checks that the server sends the `S:` lines, and no more.
///
/// - `C: ` and a line: sent with CRLF. Consecutive ones are sent at once, as a group.
/// - `S: ` and a line of a reply. With `*` at its end, it is the beginning of the line. `S: 250-...` stands for all lines to the
///   end of a reply with that code, at least one: for example the rest of the reply to EHLO. `S: [closed]` is an orderly end of
///   the connection, `S: [reset]` a reset.
/// - Blank lines, and those that begin with `#`, are skipped. Blanks before a line do not count.
///
/// ```
/// use smtpd_tower::{Server, test::{Recorder, TranscriptError, transcript}};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), TranscriptError> {
/// let server = Server::new("mx.example.org", Recorder::new().pipeline());
/// transcript(&server, "
///     S: 220 mx.example.org *
///     C: EHLO client.example
///     S: 250-mx.example.org
///     S: 250-...
///     C: MAIL FROM:<a@example.com>
///     C: RCPT TO:<b@example.org>
///     C: DATA
///     S: 250 2.0.0 OK
///     S: 250 2.0.0 OK
///     S: 354 *
///     C: Subject: hi
///     C:
///     C: Hello
///     C: .
///     S: 250 *
///     C: QUIT
///     S: 221 *
///     S: [closed]
/// ").await
/// # }
/// ```
///
/// The client comes from 127.0.0.1 and speaks SMTP; [`ClientOptions::transcript`](super::ClientOptions::transcript) runs others.
///
/// # Errors
///
/// Returns an error at the first line that differs. Both its `Display` and `Debug` forms show what was expected and what arrived,
/// with line numbers, so that `?` and `unwrap` in a test do.
pub async fn transcript(server: &Server, script: &str) -> Result<(), TranscriptError> {
    Client::connect(server).play_to_the_end(script).await
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// Runs a part of a session, see [`transcript`]. What the server sends after the last line remains to be read.
    ///
    /// # Errors
    ///
    /// Returns an error at the first line that differs.
    pub async fn play(&mut self, script: &str) -> Result<(), TranscriptError> {
        let mut group = String::new();
        for (at, line) in script.lines().enumerate() {
            let differs =
                |expected: &str, actual: String| TranscriptError::new(script, at, expected, actual);
            match Line::of(line) {
                Line::Client(text) => group.extend([text, "\r\n"]),
                Line::Server(expected) => {
                    // If the server no longer reads, the next read shows the end, or its reason.
                    let _ = self.raw(std::mem::take(&mut group)).await;
                    let said = self.read_expected(expected).await;
                    said.map_err(|actual| differs(expected, actual))?;
                }
                Line::Nothing => {}
                Line::Unknown => {
                    return Err(differs(
                        "a line that begins with C:, S: or #",
                        line.trim().to_owned(),
                    ));
                }
            }
        }
        let end = script.lines().count();
        let sent = self.raw(group).await;
        sent.map_err(|error| {
            TranscriptError::new(script, end, "the last lines to be read", error.to_string())
        })
    }

    /// Runs a whole session.
    pub(super) async fn play_to_the_end(mut self, script: &str) -> Result<(), TranscriptError> {
        self.play(script).await?;
        // The server sends the rest of its output before it sees the end.
        let more = match self.finish().await {
            Ok(()) => self.more().await,
            Err(_) => None,
        };
        let end = script.lines().count();
        more.map_or(Ok(()), |line| {
            Err(TranscriptError::new(script, end, "nothing more", line))
        })
    }

    /// Reads what the line of a transcript stands for. If something else arrives, returns it as the error.
    async fn read_expected(&mut self, expected: &str) -> Result<(), String> {
        loop {
            let actual = self.said().await?;
            let line = match expected.strip_suffix(REST) {
                Some(code)
                    if actual
                        .strip_prefix(code)
                        .is_some_and(|s| s.starts_with('-')) =>
                {
                    continue;
                }
                Some(code) => matches(&format!("{code} *"), &actual),
                None => matches(expected, &actual),
            };
            return if line { Ok(()) } else { Err(actual) };
        }
    }

    /// Returns what arrives instead of an orderly end.
    async fn more(&mut self) -> Option<String> {
        let said = self.said().await.unwrap_or_else(|malformed| malformed);
        (said != CLOSED).then_some(said)
    }

    async fn said(&mut self) -> Result<String, String> {
        match self.line().await {
            Ok(line) => Ok(line.unwrap_or_else(|| CLOSED.to_owned())),
            Err(ClientError::Closed) => Ok(CLOSED.to_owned()),
            Err(ClientError::Reset) => Ok(RESET.to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The notation for the lines to the end of a reply, after its code.
const REST: &str = "-...";

/// The notation for the end of the connection.
const CLOSED: &str = "[closed]";

/// The notation for its end by a reset.
const RESET: &str = "[reset]";

enum Line<'a> {
    Client(&'a str),
    Server(&'a str),
    Nothing,
    Unknown,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let line = line.trim_start();
        let text = |text: &'a str| text.strip_prefix(' ').unwrap_or(text);
        if line.is_empty() || line.starts_with('#') {
            Self::Nothing
        } else if let Some(line) = line.strip_prefix("C:") {
            Self::Client(text(line))
        } else if let Some(line) = line.strip_prefix("S:") {
            Self::Server(text(line))
        } else {
            Self::Unknown
        }
    }
}

fn matches(expected: &str, actual: &str) -> bool {
    match expected.strip_suffix('*') {
        Some(start) => actual.starts_with(start),
        None => actual == expected,
    }
}

/// A difference between a session and its transcript.
#[derive(Clone, PartialEq, Eq)]
pub struct TranscriptError {
    /// From 1.
    line: usize,
    expected: String,
    actual: String,
    /// The lines before, with their numbers.
    before: Vec<(usize, String)>,
}

impl TranscriptError {
    /// Creates an error at that line, counted from 0.
    fn new(script: &str, at: usize, expected: &str, actual: String) -> Self {
        /// The number of lines before it that are shown.
        const SHOWN: usize = 4;
        let before = script.lines().take(at).enumerate();
        let before = before
            .map(|(at, line)| (at + 1, line.trim().to_owned()))
            .filter(|(_, line)| !line.is_empty());
        let mut before: Vec<_> = before.collect();
        before.drain(..before.len().saturating_sub(SHOWN));
        Self {
            line: at + 1,
            expected: expected.to_owned(),
            actual,
            before,
        }
    }

    /// Returns the line number in the transcript, from 1.
    pub const fn line(&self) -> usize {
        self.line
    }

    /// Returns the text of that line.
    pub fn expected(&self) -> &str {
        &self.expected
    }

    /// Returns what the server sent instead, or what went wrong.
    pub fn actual(&self) -> &str {
        &self.actual
    }
}

impl fmt::Display for TranscriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "the session differs at line {} of the transcript",
            self.line
        )?;
        for (number, line) in &self.before {
            writeln!(f, "{number:>6} | {line}")?;
        }
        writeln!(f, "{:>6} | expected: {}", self.line, self.expected)?;
        write!(f, "{:>6} |   actual: {}", "", self.actual)
    }
}

impl fmt::Debug for TranscriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for TranscriptError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{service::Pipeline, test::Recorder};

    fn server() -> Server {
        Server::new("mx.test", Recorder::new().pipeline())
    }

    #[tokio::test]
    async fn scripts_that_hold_and_scripts_that_do_not() {
        let cases = [
            ("S: 220 mx.test smtpd ESMTP", None),
            (
                "# a comment\n\n  S: 220 *\nC: NOOP\nC: NOOP\nS: 250 *\nS: 250 *\nC: QUIT\nS: 221 *\nS: [closed]\n",
                None,
            ),
            (
                "S: 220 *\nC: HELO c\nS: 250-*",
                Some((3, "250-*", "250 mx.test")),
            ),
            (
                "S: 220 *\nC: NOOP\nS: 250 2.0.0 O",
                Some((3, "250 2.0.0 O", "250 2.0.0 OK")),
            ),
            (
                "S: 220 *\nC: NOOP\nS: [closed]",
                Some((3, "[closed]", "250 2.0.0 OK")),
            ),
            (
                "S: 220 *\nC: QUIT\nS: 221 *\nC: NOOP\nS: 250 *",
                Some((5, "250 *", "[closed]")),
            ),
            (
                "S: 220 *\nC: NOOP",
                Some((3, "nothing more", "250 2.0.0 OK")),
            ),
            (
                "S: 220 *\nC: EHLO c\nS: 250-mx.test\nS: 250-...\nC: NOOP\nS: 250-...",
                None,
            ),
            (
                "S: 220 *\nC: EHLO c\nS: 550-...",
                Some((3, "550-...", "250-mx.test")),
            ),
            (
                "S: 220 *\nC: QUIT\nS: 221-...\nS: 250-...",
                Some((4, "250-...", "[closed]")),
            ),
            (
                "S: 220 *\nX: NOOP",
                Some((2, "a line that begins with C:, S: or #", "X: NOOP")),
            ),
            (
                "S: 220 *\nC: NOOP\nC: NOOP\nS: 250 *",
                Some((5, "nothing more", "250 2.0.0 OK")),
            ),
        ];
        for (script, expected) in cases {
            let found = transcript(&server(), script).await.err();
            let found = found.as_ref().map(|e| (e.line(), e.expected(), e.actual()));
            assert_eq!(found, expected, "{script}");
        }
    }

    #[tokio::test]
    async fn the_error_shows_both_sides_and_the_lines_before() {
        let script = "
            S: 220 *
            C: HELO c

            S: 250 mx.test
            C: MAIL FROM:<a@b.c>
            S: 250 *
            C: RCPT TO:<d@e.f>
            S: 250 *
        ";
        let server = Server::new("mx.test", Pipeline::new());
        let error = transcript(&server, script).await.unwrap_err();
        let expected = "the session differs at line 9 of the transcript
     5 | S: 250 mx.test
     6 | C: MAIL FROM:<a@b.c>
     7 | S: 250 *
     8 | C: RCPT TO:<d@e.f>
     9 | expected: 250 *
       |   actual: 550 5.7.1 Relaying denied";
        assert_eq!(error.to_string(), expected);
        assert_eq!(format!("{error:?}"), expected);
    }

    #[tokio::test]
    async fn a_part_of_a_session_can_be_played() {
        let mut client = Client::connect(&server());
        client
            .play("S: 220 *\nC: HELO c\nS: 250 *\nC: NOOP")
            .await
            .unwrap();
        assert_eq!(client.reply().await.unwrap().to_string(), "250 2.0.0 OK");
    }
}
