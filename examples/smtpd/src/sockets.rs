//! Sockets that systemd has bound, and passes to this process with their names (sd_listen_fds(3)).

use std::{env, net::TcpListener, os::unix::net::UnixListener, process};

use listenfd::ListenFd;

use crate::listen;

/// A socket that was passed.
pub(crate) struct Passed {
    pub(crate) name: String,
    pub(crate) socket: Socket,
}

pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Returns the names of the sockets that were passed to this process. A unit that names none serves SMTP.
pub(crate) fn names() -> Vec<String> {
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

/// Takes the sockets over. Call it before there are threads, because it changes the environment.
///
/// # Errors
/// Fails with what is wrong with the units.
pub(crate) fn take(names: &[String]) -> Result<Vec<Passed>, String> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let known = listen::names();
    if let Some(unknown) = names.iter().find(|name| !known.contains(&name.as_str())) {
        let known = known.join(", ");
        return Err(format!(
            "a socket from systemd is named {unknown:?}; FileDescriptorName= is one of {known}"
        ));
    }
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
