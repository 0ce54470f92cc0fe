//! Sockets that systemd has bound, and passes to this process with their names (sd_listen_fds(3)).

use std::{env, net::TcpListener, os::unix::net::UnixListener, process, str::FromStr};

use listenfd::ListenFd;

use crate::{listen, options::Options};

/// A socket that was passed.
pub(crate) struct Passed {
    pub(crate) name: String,
    pub(crate) socket: Socket,
}

pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The sockets that this process has from systemd, by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Passing {
    Known(Vec<String>),
    /// The options are checked from elsewhere: systemd may pass any to the server.
    Unknown,
}

impl Default for Passing {
    fn default() -> Self {
        Self::Known(Vec::new())
    }
}

impl Passing {
    /// Returns those of this process, or for `--check` those that the server will have.
    pub(crate) fn new(options: &Options) -> Self {
        match (names(), &*options.sockets) {
            (names, []) if options.check && names.is_empty() => Self::Unknown,
            (names, []) => Self::Known(names),
            (_, said) => Self::Known(said.iter().map(|name| name.0.clone()).collect()),
        }
    }

    /// Returns the names of those that are there for certain.
    pub(crate) fn names(&self) -> &[String] {
        match self {
            Self::Known(names) => names,
            Self::Unknown => &[],
        }
    }
}

/// A name that a socket may have.
#[derive(Clone, Debug)]
pub(crate) struct SocketName(String);

impl FromStr for SocketName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = listen::names();
        match known.contains(&text) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "expected {}, not \"{}\"",
                known.join(", "),
                text.escape_debug()
            )),
        }
    }
}

/// Returns the names of the sockets that were passed to this process. A unit that names none serves SMTP.
fn names() -> Vec<String> {
    let read = |name| env::var(name).unwrap_or_default();
    let is_ours = read("LISTEN_PID") == process::id().to_string();
    let count = if is_ours {
        read("LISTEN_FDS").parse().unwrap_or_default()
    } else {
        0
    };
    let names = read("LISTEN_FDNAMES");
    let named = names.split(':').filter(|name| !name.is_empty());
    named
        .map(str::to_owned)
        .chain(std::iter::repeat_with(|| "smtp".to_owned()))
        .take(count)
        .collect()
}

/// # Errors
/// Fails if the server does not know what a socket is for.
pub(crate) fn check(names: &[String]) -> Result<(), String> {
    let wrong = names
        .iter()
        .find_map(|name| name.parse::<SocketName>().err());
    wrong.map_or(Ok(()), |fault| {
        Err(format!(
            "FileDescriptorName= of a socket from systemd: {fault}"
        ))
    })
}

/// Takes the sockets over. Call it before there are threads, because it changes the environment.
///
/// # Errors
/// Fails with what is wrong with the units.
pub(crate) fn take(names: &[String]) -> Result<Vec<Passed>, String> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    check(names)?;
    let mut passed = ListenFd::from_env();
    let take = |(index, name): (usize, &String)| {
        let socket = match passed.take_unix_listener(index) {
            Ok(Some(socket)) => Socket::Unix(socket),
            _ => match passed.take_tcp_listener(index) {
                Ok(Some(socket)) => Socket::Tcp(socket),
                Ok(None) => return Err(format!("systemd has not passed the socket {name:?}")),
                Err(error) => return Err(format!("the socket {name:?} from systemd: {error}")),
            },
        };
        Ok(Passed {
            name: name.clone(),
            socket,
        })
    };
    names.iter().enumerate().map(take).collect()
}
