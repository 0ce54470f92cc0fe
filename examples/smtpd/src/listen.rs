//! Listeners: all are bound before one is served, so that an address that is taken ends the program.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    thread,
};

use smtpd_tower::{Listener, PeerAddr, Profile, Server, bind_reuse_port};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinSet,
};

use crate::{config, cores::Cores, log::Lines, options::Options, values::Address};

/// A listener that nobody serves yet.
pub(crate) struct Bound {
    kind: Kind,
    socket: Socket,
    address: String,
}

#[derive(Clone, Copy)]
struct Kind {
    /// As it is told on standard output.
    name: &'static str,
    profile: Option<Profile>,
    implicit_tls: bool,
}

enum Socket {
    /// A listener for each of the cores.
    Tcp(Vec<TcpListener>),
    Unix(UnixSocket),
}

/// Binds what the options name; port 2525 of this machine where they name nothing.
pub(crate) async fn bind(options: &Options, cores: &Cores) -> io::Result<Vec<Bound>> {
    let default = [Address::Tcp("127.0.0.1:2525".to_owned())];
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
    ];
    let is_nothing_given = kinds.iter().all(|(_, addresses)| addresses.is_empty());
    let mut bound = Vec::new();
    for (kind, addresses) in kinds {
        let addresses = match kind.name {
            "smtp" if is_nothing_given => &default[..],
            _ => addresses,
        };
        for address in addresses {
            let named = |error| io::Error::other(format!("cannot listen on {address}: {error}"));
            bound.push(Bound::new(kind, address, cores).await.map_err(named)?);
        }
    }
    Ok(bound)
}

/// Serves the listeners, and tells so on standard output.
pub(crate) fn serve(
    bound: Vec<Bound>,
    options: &Options,
    server: &Server,
    cores: &Cores,
    log: Lines,
) -> JoinSet<io::Result<()>> {
    let mut tasks = JoinSet::new();
    let mut told = String::new();
    for Bound {
        kind,
        socket,
        address,
    } in bound
    {
        let server = config::at(options, server, kind.profile);
        match socket {
            Socket::Tcp(listeners) => {
                for (listener, core) in listeners.into_iter().zip(cores.iter()) {
                    tasks.spawn_on(kind.serve(server.clone(), listener), core);
                }
            }
            Socket::Unix(socket) => {
                tasks.spawn(kind.serve(server, socket));
            }
        }
        told += &format!("listening {} {address}\n", kind.name);
    }
    tell(told, log);
    tasks
}

/// Writes to standard output, on a thread of its own: it may be a pipe that is full and never read.
fn tell(text: String, log: Lines) {
    let told = move || {
        // What the log warns of comes first.
        log.wait_until_written();
        drop(io::stdout().write_all(text.as_bytes()));
    };
    let _ = thread::Builder::new()
        .name("listening".to_owned())
        .spawn(told);
}

impl Bound {
    async fn new(kind: Kind, address: &Address, cores: &Cores) -> io::Result<Self> {
        let (socket, address) = match address {
            Address::Tcp(address) => {
                let (listeners, address) = bind_tcp(address, cores).await?;
                (Socket::Tcp(listeners), address)
            }
            Address::Unix(path) => {
                remove_leftover(path).await?;
                let socket = UnixSocket {
                    listener: UnixListener::bind(path)?,
                    _file: SocketFile(path.clone()),
                };
                (Socket::Unix(socket), address.to_string())
            }
        };
        Ok(Self {
            kind,
            socket,
            address,
        })
    }
}

/// A listener for each of the cores, and the address that they have in common.
async fn bind_tcp(address: &str, cores: &Cores) -> io::Result<(Vec<TcpListener>, String)> {
    let shared = cores.iter().count() > 1;
    let mut address = address.to_owned();
    let mut listeners = Vec::new();
    for core in cores.iter() {
        let listener = core.spawn(bind_one(address, shared)).await??;
        // Where the port was left open, the first listener has found one for all.
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

    async fn serve(self, server: Server, listener: impl Listener) -> io::Result<()> {
        if self.implicit_tls {
            server.serve_tls(listener).await
        } else {
            server.serve(listener).await
        }
    }
}

/// A Unix socket with its file. The file goes first: as long as it is there somebody listens, so no successor takes it for a
/// leftover, and this server cannot remove that of a successor.
struct UnixSocket {
    _file: SocketFile,
    listener: UnixListener,
}

struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener for UnixSocket {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, PeerAddr)> {
        Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> PeerAddr {
        Listener::local_addr(&self.listener)
    }
}

/// Removes the socket of a server that could not do so itself: nobody answers there any more.
async fn remove_leftover(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Ok(()),
    }
}
