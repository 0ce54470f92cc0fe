//! Listeners: all are bound before one is served, so that an address in use ends the program.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    thread,
};

use smtpd_tower::{
    Profile, Server,
    net::PeerAddr,
    server::{Listener, Serve, UnixSocket, UnixSocketListener, bind_reuse_port},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
    task::{self, JoinSet},
};

use crate::{
    config,
    cores::Cores,
    http::{self, Health},
    log::Lines,
    options::Options,
    privileges,
    sockets::{self, Passed},
    values::{Address, UnixAddress},
};

/// The names of the kinds of listeners.
pub(crate) const NAMES: [&str; 6] = ["smtp", "smtps", "submission", "submissions", "lmtp", HTTP];

/// The listener for those who watch the server.
const HTTP: &str = "http";

/// A listener that is not served yet.
pub(crate) struct Bound {
    kind: Kind,
    socket: Socket,
    address: String,
}

#[derive(Clone, Copy)]
struct Kind {
    /// Its name on standard output.
    name: &'static str,
    profile: Option<Profile>,
    implicit_tls: bool,
}

enum Socket {
    /// A listener for each of the cores.
    Tcp(Vec<TcpListener>),
    Unix(UnixSocketListener),
    /// A Unix socket whose file is systemd's.
    PassedUnix(UnixListener),
}

/// Binds the addresses of the options, or port 2525 of this machine if there are none, and takes the sockets of systemd over.
pub(crate) async fn bind(
    options: &Options,
    passed: Vec<Passed>,
    cores: &Cores,
) -> io::Result<Vec<Bound>> {
    let default = [Address::Tcp("127.0.0.1:2525".to_owned())];
    let main = Cores::from_iter([Handle::current()]);
    let http: Vec<_> = options.http.iter().cloned().collect();
    let mode = |implicit_tls| options.mode.map(|mode| mode.profile(implicit_tls));
    let kinds = [
        (Kind::new("smtp", mode(false)), &options.listen),
        (Kind::new("smtps", mode(true)).tls(), &options.listen_tls),
        (
            Kind::new("submission", Some(Profile::Submission)),
            &options.listen_submission,
        ),
        (
            Kind::new("submissions", Some(Profile::Submissions)).tls(),
            &options.listen_submissions,
        ),
        (Kind::new("lmtp", Some(Profile::Lmtp)), &options.listen_lmtp),
        (Kind::new(HTTP, None), &http),
    ];
    let mail = || kinds.iter().filter(|(kind, _)| kind.name != HTTP);
    let is_mail = |passed: &Passed| passed.name != HTTP;
    let is_nothing_given =
        mail().all(|(_, addresses)| addresses.is_empty()) && !passed.iter().any(is_mail);
    let cores_of = |kind: Kind| if kind.name == HTTP { &main } else { cores };
    let mut bound = Vec::new();
    for socket in passed {
        let mut known = kinds.iter().map(|(kind, _)| *kind);
        if let Some(kind) = known.find(|kind| kind.name == socket.name) {
            bound.push(Bound::passed(kind, socket.socket, cores_of(kind))?);
        }
    }
    for (kind, addresses) in kinds {
        let addresses = match kind.name {
            "smtp" if is_nothing_given => &default[..],
            _ => addresses,
        };
        for address in addresses {
            let named = |error| io::Error::other(format!("cannot listen on {address}: {error}"));
            let new = Bound::new(kind, address, cores_of(kind)).await;
            bound.push(new.map_err(named)?);
        }
    }
    Ok(bound)
}

/// Serves the listeners, and reports that on standard output.
///
/// # Errors
/// Fails if one of them cannot be served with these options. Nothing is reported then.
pub(crate) fn serve(
    bound: Vec<Bound>,
    options: &Options,
    server: &Server,
    health: Option<&Health>,
    cores: &Cores,
    log: Lines,
) -> io::Result<JoinSet<io::Result<()>>> {
    let mut tasks = JoinSet::new();
    let mut report = String::new();
    for Bound {
        kind,
        socket,
        address,
    } in bound
    {
        if let Some(health) = health.filter(|_| kind.name == HTTP) {
            socket.serve_http(health);
        } else {
            let server = config::at(options, server, kind.profile);
            match socket {
                Socket::Tcp(listeners) => {
                    for (listener, core) in listeners.into_iter().zip(cores.iter()) {
                        tasks.spawn_on(kind.serve(&server, listener)?, core);
                    }
                }
                Socket::Unix(socket) => drop(tasks.spawn(kind.serve(&server, socket)?)),
                Socket::PassedUnix(socket) => drop(tasks.spawn(kind.serve(&server, socket)?)),
            }
        }
        report += &format!("listening {} {address}\n", kind.name);
    }
    print(report, log);
    Ok(tasks)
}

/// Writes to standard output from a separate thread, because it may be a full pipe that is never read.
fn print(text: String, log: Lines) {
    let print = move || {
        // Write the warnings of the log first.
        log.wait_until_written();
        drop(io::stdout().write_all(text.as_bytes()));
    };
    let _ = thread::Builder::new()
        .name("listening".to_owned())
        .spawn(print);
}

impl Bound {
    /// Whether other machines can reach it.
    pub(crate) fn is_public(&self) -> bool {
        let address = self.address.parse::<SocketAddr>();
        address.is_ok_and(|address| !address.ip().is_loopback())
    }

    async fn new(kind: Kind, address: &Address, cores: &Cores) -> io::Result<Self> {
        let (socket, address) = match address {
            Address::Tcp(address) => {
                let (listeners, address) = bind_tcp(address, cores).await?;
                (Socket::Tcp(listeners), address)
            }
            Address::Unix(socket) => {
                let listener = bind_unix(socket).await?;
                (Socket::Unix(listener), address.to_string())
            }
        };
        Ok(Self {
            kind,
            socket,
            address,
        })
    }

    fn passed(kind: Kind, socket: sockets::Socket, cores: &Cores) -> io::Result<Self> {
        let (socket, address) = match socket {
            sockets::Socket::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                let address = PeerAddr::from(socket.local_addr()?);
                let on = |core: &Handle| {
                    let _runtime = core.enter();
                    TcpListener::from_std(socket.try_clone()?)
                };
                let listeners: io::Result<_> = cores.iter().map(on).collect();
                (Socket::Tcp(listeners?), address)
            }
            sockets::Socket::Unix(socket) => {
                socket.set_nonblocking(true)?;
                let socket = UnixListener::from_std(socket)?;
                let address = Listener::local_addr(&socket);
                (Socket::PassedUnix(socket), address)
            }
        };
        Ok(Self {
            kind,
            socket,
            address: address.to_string(),
        })
    }
}

impl Socket {
    fn serve_http(self, health: &Health) {
        let health = health.clone();
        match self {
            Self::Tcp(listeners) => {
                for listener in listeners {
                    task::spawn(http::serve(listener, health.clone()));
                }
            }
            Self::Unix(listener) => drop(task::spawn(http::serve(listener, health))),
            Self::PassedUnix(listener) => drop(task::spawn(http::serve(listener, health))),
        }
    }
}

async fn bind_unix(address: &UnixAddress) -> io::Result<UnixSocketListener> {
    let mut socket = UnixSocket::new(&address.path);
    if let Some(mode) = address.mode {
        socket = socket.mode(mode);
    }
    if let Some(group) = &address.group {
        let group = privileges::group(group).map_err(io::Error::other)?;
        socket = socket.group(group.as_raw());
    }
    socket.bind().await
}

/// A listener for each core, and the address that they share.
async fn bind_tcp(address: &str, cores: &Cores) -> io::Result<(Vec<TcpListener>, String)> {
    let shared = cores.iter().count() > 1;
    let mut address = address.to_owned();
    let mut listeners = Vec::new();
    for core in cores.iter() {
        let listener = core.spawn(bind_one(address, shared)).await??;
        // If the port was 0, the first listener has chosen one for all.
        address = listener.local_addr()?.to_string();
        listeners.push(listener);
    }
    Ok((listeners, address))
}

async fn bind_one(address: String, shared: bool) -> io::Result<TcpListener> {
    if shared {
        bind_reuse_port(address).await
    } else {
        TcpListener::bind(address).await
    }
}

impl Kind {
    const fn new(name: &'static str, profile: Option<Profile>) -> Self {
        Self {
            name,
            profile,
            implicit_tls: false,
        }
    }

    const fn tls(self) -> Self {
        Self {
            implicit_tls: true,
            ..self
        }
    }

    fn serve<L: Listener>(self, server: &Server, listener: L) -> io::Result<Serve<L>> {
        let mut serving = server.serve(listener);
        if self.implicit_tls {
            serving = serving.tls_first();
        }
        serving.check()?;
        Ok(serving)
    }
}
