//! Listeners: all are bound before one is served, so that an address that is taken ends the program.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use smtpd_tower::{Listener, Server};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    task::JoinSet,
};

use crate::{options::Options, values::Address};

/// A listener that nobody serves yet.
pub(crate) struct Bound {
    protocol: Protocol,
    socket: Socket,
    address: String,
}

#[derive(Clone, Copy)]
enum Protocol {
    Smtp,
    Smtps,
    Lmtp,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Binds what the options name; port 2525 of this machine where they name nothing.
pub(crate) async fn bind(options: &Options) -> io::Result<Vec<Bound>> {
    let default = [Address::Tcp("127.0.0.1:2525".to_owned())];
    let nothing = options.listen.is_empty()
        && options.listen_tls.is_empty()
        && options.listen_lmtp.is_empty();
    let smtp = if nothing { &default } else { &*options.listen };
    let mut bound = Vec::new();
    for (protocol, addresses) in [
        (Protocol::Smtp, smtp),
        (Protocol::Smtps, &options.listen_tls),
        (Protocol::Lmtp, &options.listen_lmtp),
    ] {
        for address in addresses {
            let named = |error| io::Error::other(format!("cannot listen on {address}: {error}"));
            bound.push(Bound::new(protocol, address).await.map_err(named)?);
        }
    }
    Ok(bound)
}

/// Serves the listeners, and tells so on standard output.
pub(crate) fn serve(bound: Vec<Bound>, server: &Server) -> JoinSet<io::Result<()>> {
    let mut tasks = JoinSet::new();
    for Bound {
        protocol,
        socket,
        address,
    } in bound
    {
        match socket {
            Socket::Tcp(listener) => {
                tasks.spawn(protocol.serve(server, listener));
            }
            Socket::Unix(listener, file) => {
                let serving = protocol.serve(server, listener);
                tasks.spawn(async move {
                    let _file = file;
                    serving.await
                });
            }
        }
        // Nobody has to read it.
        let _ = writeln!(io::stdout(), "listening {} {address}", protocol.as_str());
    }
    tasks
}

impl Bound {
    async fn new(protocol: Protocol, address: &Address) -> io::Result<Self> {
        let (socket, address) = match address {
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = listener.local_addr()?.to_string();
                (Socket::Tcp(listener), address)
            }
            Address::Unix(path) => {
                remove_leftover(path).await?;
                let listener = UnixListener::bind(path)?;
                (
                    Socket::Unix(listener, SocketFile(path.clone())),
                    address.to_string(),
                )
            }
        };
        Ok(Self {
            protocol,
            socket,
            address,
        })
    }
}

impl Protocol {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Smtps => "smtps",
            Self::Lmtp => "lmtp",
        }
    }

    fn serve<L: Listener>(
        self,
        server: &Server,
        listener: L,
    ) -> impl Future<Output = io::Result<()>> + Send + use<L> {
        let server = server.clone();
        async move {
            match self {
                Self::Smtp => server.serve(listener).await,
                Self::Smtps => server.serve_tls(listener).await,
                Self::Lmtp => server.serve_lmtp(listener).await,
            }
        }
    }
}

/// The file of a Unix socket; it goes with the listener.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
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
