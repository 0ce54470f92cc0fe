//! Listeners: all are bound before one is served, so that an address in use ends the program.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    thread,
};

use smtpd_tower::{
    Profile, Server,
    net::PeerAddr,
    server::{Listener, Serve, bind_reuse_port},
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinSet,
};

use crate::{config, cores::Cores, log::Lines, options::Options, values::Address};

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
    Unix(UnixSocket),
}

/// Binds the addresses of the options, or port 2525 of this machine if there are none.
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

/// Serves the listeners, and reports that on standard output.
pub(crate) fn serve(
    bound: Vec<Bound>,
    options: &Options,
    server: &Server,
    cores: &Cores,
    log: Lines,
) -> JoinSet<io::Result<()>> {
    let mut tasks = JoinSet::new();
    let mut report = String::new();
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
                    tasks.spawn_on(kind.serve(&server, listener), core);
                }
            }
            Socket::Unix(socket) => {
                tasks.spawn(kind.serve(&server, socket));
            }
        }
        report += &format!("listening {} {address}\n", kind.name);
    }
    print(report, log);
    tasks
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

    fn serve<L: Listener>(self, server: &Server, listener: L) -> Serve<L> {
        let serving = server.serve(listener);
        if self.implicit_tls {
            serving.tls_first()
        } else {
            serving
        }
    }
}

/// A Unix socket with its file. The file is removed first: while it exists, the socket is served, so no later server mistakes
/// it for a leftover, and this server cannot remove the file of a later one.
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

/// Removes the socket of a server that ended without removing it: nothing accepts connections there any more.
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
