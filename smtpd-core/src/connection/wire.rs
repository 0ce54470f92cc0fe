use std::{collections::VecDeque, fmt};

/// One line of a session, for logs. What could end a line or hide another is escaped; secrets are left out.
///
/// ```
/// use std::time::Instant;
///
/// use smtpd_core::{
///     Config, Connection, Step, bytes::BytesMut, config::DriverConfig,
///     connection::Direction,
/// };
///
/// let config = DriverConfig::new(Config::new("mx.example.org")).log_wire(true);
/// let mut connection = Connection::new(config.into());
/// let Step::Connect(ask) = connection.poll(Instant::now(), &mut BytesMut::new())
/// else {
///     panic!()
/// };
/// ask.accept();
/// let Step::Line(line) = connection.poll(Instant::now(), &mut BytesMut::new())
/// else {
///     panic!()
/// };
/// assert_eq!(
///     (line.direction, line.to_string()),
///     (
///         Direction::Sent,
///         "S: 220 mx.example.org smtpd ESMTP".to_owned()
///     )
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WireLine {
    /// Who sent it.
    pub direction: Direction,
    /// The line without its CRLF.
    pub text: String,
}

/// The side that sent a [`WireLine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Direction {
    /// The client.
    Received,
    /// The server.
    Sent,
}

impl fmt::Display for WireLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.direction {
            Direction::Received => 'C',
            Direction::Sent => 'S',
        };
        write!(f, "{mark}: {}", self.text)
    }
}

/// Lines to be returned. They are returned before anything else happens, so there is at most one command with the replies to it.
#[derive(Debug, Default)]
pub(super) struct WireLog(VecDeque<WireLine>);

impl WireLog {
    pub(super) fn pop(&mut self) -> Option<WireLine> {
        self.0.pop_front()
    }

    fn push(&mut self, direction: Direction, text: String) {
        self.0.push_back(WireLine { direction, text });
    }

    pub(super) fn received(&mut self, text: String) {
        self.push(Direction::Received, text);
    }

    pub(super) fn sent(&mut self, replies: &[u8]) {
        for line in replies
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let shown = if line.starts_with(b"334 ") {
                b"334 [challenge]"
            } else {
                line.trim_ascii_end()
            };
            self.push(Direction::Sent, shown.escape_ascii().to_string());
        }
    }
}
