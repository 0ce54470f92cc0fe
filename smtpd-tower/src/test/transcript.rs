use std::{error::Error, fmt, time::Duration};

use smtpd_core::test::{Comparison, Expected, Line, SyntaxError, Transcript};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Client, ClientError};
use crate::server::Server;

/// Runs a session: sends the `C:` lines, and checks that the server sends the `S:` lines, and no more.
///
/// [`smtpd_core::test`] describes the syntax. Events (`E:`) and instructions (`!`) are for other players: here they are errors.
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
/// The client comes from 127.0.0.1; [`ClientOptions::transcript`](super::ClientOptions::transcript) runs others. A line that does
/// not come within 30 seconds, or ten years of a clock that is paused, differs;
/// [`ClientOptions::timeout`](super::ClientOptions::timeout) sets another limit.
///
/// # Errors
///
/// Returns an error at the first line that differs. Both its `Display` and `Debug` forms show what was expected and what arrived,
/// with line numbers, so that `?` and `unwrap` in a test do.
pub async fn transcript(server: &Server, script: &str) -> Result<(), TranscriptError> {
    play_whole(Client::connect(server), script).await
}

/// Runs a whole session.
pub(super) async fn play_whole(mut client: Client, script: &str) -> Result<(), TranscriptError> {
    play(&mut client, script).await?;
    // The server sends the rest of its output before it sees the end.
    let more = match client.finish().await {
        Ok(()) => said(&mut client).await,
        Err(_) => Said::End(Expected::Closed),
    };
    let expected = match more {
        Said::End(Expected::Closed) => return Ok(()),
        Said::Nothing(_) => "the end of the session",
        _ => "nothing more",
    };
    let end = script.lines().count() + 1;
    let more = more.to_string();
    Err(TranscriptError::new(script, end, expected, more))
}

/// Runs a part of a session.
pub(super) async fn play<IO>(client: &mut Client<IO>, script: &str) -> Result<(), TranscriptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let transcript: Transcript = script.parse().map_err(|error: SyntaxError| {
        TranscriptError::new(script, error.line(), error.expected(), error.text())
    })?;
    let mut group = Vec::new();
    for (number, line) in transcript.lines() {
        let differs = |expected: &str, actual: String| {
            Err(TranscriptError::new(script, number, expected, actual))
        };
        match line {
            Line::Client(bytes) => group.extend_from_slice(bytes),
            Line::Server(expected) => {
                // If the server no longer reads, the next read shows the end, or its reason.
                let sent = client.raw(std::mem::take(&mut group)).await;
                if let Err(error @ ClientError::TimedOut { .. }) = sent {
                    return differs("the lines before to be read", error.to_string());
                }
                if let Err(actual) = read(client, expected).await {
                    return differs(&expected.to_string(), actual);
                }
            }
            Line::Event(text) | Line::Instruction(text) => {
                return differs("a line of the client or the server", text.clone());
            }
        }
    }
    let sent = client.raw(group).await;
    sent.map_err(|error| {
        let end = script.lines().count() + 1;
        TranscriptError::new(script, end, "the last lines to be read", error.to_string())
    })
}

/// Reads what a line of a transcript stands for. If something else arrives, returns it as the error.
async fn read<IO>(client: &mut Client<IO>, expected: &Expected) -> Result<(), String>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    if let Expected::Bytes(bytes) = expected {
        return match client.expect_bytes(bytes).await {
            Ok(()) => Ok(()),
            Err(Some(error)) => Err(Said::from(Err(error)).to_string()),
            Err(None) => Err(client.unread().escape_ascii().to_string()),
        };
    }
    loop {
        let said = said(client).await;
        let compared = match (&said, expected) {
            (Said::Line(line), Expected::Line(pattern)) => pattern.compare(line),
            (Said::End(end), expected) if end == expected => Comparison::Matches,
            _ => Comparison::Differs,
        };
        match compared {
            Comparison::Matches => return Ok(()),
            Comparison::Continues => {}
            Comparison::Differs => return Err(said.to_string()),
        }
    }
}

async fn said<IO: AsyncRead + AsyncWrite + Unpin>(client: &mut Client<IO>) -> Said {
    client.line().await.into()
}

/// What the server has sent.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Line(String),
    End(Expected),
    Malformed(String),
    /// Nothing for so long.
    Nothing(Duration),
}

impl From<Result<Option<String>, ClientError>> for Said {
    fn from(line: Result<Option<String>, ClientError>) -> Self {
        match line {
            Ok(Some(line)) => Self::Line(line),
            Ok(None) | Err(ClientError::Closed) => Self::End(Expected::Closed),
            Err(ClientError::Reset) => Self::End(Expected::Reset),
            Err(ClientError::TimedOut { limit, .. }) => Self::Nothing(limit),
            Err(error) => Self::Malformed(error.to_string()),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(text) | Self::Malformed(text) => f.write_str(text),
            Self::End(end) => end.fmt(f),
            Self::Nothing(limit) => write!(f, "nothing within {limit:?}"),
        }
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
    /// Creates an error at that line, counted from 1.
    fn new(script: &str, line: usize, expected: &str, actual: impl Into<String>) -> Self {
        /// The number of lines before it that are shown.
        const SHOWN: usize = 4;
        let before = script.lines().take(line - 1).enumerate();
        let before = before
            .map(|(at, line)| (at + 1, line.trim().to_owned()))
            .filter(|(_, line)| !line.is_empty());
        let mut before: Vec<_> = before.collect();
        before.drain(..before.len().saturating_sub(SHOWN));
        Self {
            line,
            expected: expected.to_owned(),
            actual: actual.into(),
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
    use crate::{
        phase::Mail,
        service::Pipeline,
        test::{ClientOptions, Recorder},
    };

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
                Some((
                    2,
                    "a line that begins with C:, C|, S:, S|, E:, ! or #",
                    "X: NOOP",
                )),
            ),
            (
                r"S| 220 mx.test smtpd ESMTP\r\n
                  C| NO
                  C| OP\r\n
                  S| 250 2.0.0
                  S|  OK\r\n",
                None,
            ),
            (
                r"S: 220 *
                  C: NOOP
                  S| 250 2.0.1 OK",
                Some((3, "250 2.0.1 OK", r"250 2.0.0 OK\r\n")),
            ),
            (
                r"S: 220 *
                  C: QUIT
                  S: 221 *
                  S| 2",
                Some((4, "2", "[closed]")),
            ),
            (
                "S: 220 *\nE: closed",
                Some((2, "a line of the client or the server", "closed")),
            ),
            (
                "! tls\nS: 220 *",
                Some((1, "a line of the client or the server", "tls")),
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
    async fn a_line_too_many_says_nothing_for_minutes() {
        let script = "
            S: 220 *
            C: NOOP
            S: 250 *
            S: 250 *
        ";
        let limit = Duration::from_millis(50);
        let server = server();
        let played = ClientOptions::new()
            .timeout(limit)
            .transcript(&server, script);
        let expected = "the session differs at line 5 of the transcript
     2 | S: 220 *
     3 | C: NOOP
     4 | S: 250 *
     5 | expected: 250 *
       |   actual: nothing within 50ms";
        assert_eq!(played.await.unwrap_err().to_string(), expected);

        // A part of a line, and a server that is not ours.
        let (near, _far) = tokio::io::duplex(1 << 10);
        let mut client = Client::over(near).timeout(limit);
        let error = client.play("S| 220").await.unwrap_err();
        assert_eq!((error.line(), error.actual()), (1, "nothing within 50ms"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_ends_a_session_stops_the_test() {
        let hangs = crate::service::handler_fn(async |_: crate::phase::Request<Mail>| {
            std::future::pending::<()>().await;
        });
        let server = Server::new("mx.test", Pipeline::new().mail(hangs))
            .configure(|config| config.timeouts(|timeouts| timeouts.call = Duration::MAX));
        let script = "S: 220 *\nC: EHLO c\nS: 250-...\nC: MAIL FROM:<a@b.c>\nS: 250 *";
        let error = transcript(&server, script).await.unwrap_err();
        assert_eq!(
            (error.line(), error.actual()),
            (5, "nothing within 315360000s")
        );
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
