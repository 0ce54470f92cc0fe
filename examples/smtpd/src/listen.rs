//! Listeners: all are bound before one is served, so that an address in use ends the program.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::LazyLock,
    thread,
};

use smtpd_tower::{
    Profile,
    net::PeerAddr,
    server::{Listener, ReloadableServer, Serve, UnixSocket, UnixSocketListener, bind_reuse_port},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
    task::{self, JoinSet},
};

use crate::{
    cores::Cores,
    http::{self, Health},
    log::Lines,
    mistakes::Mistakes,
    options::Options,
    privileges,
    served::Servers,
    sockets::{self, Passed},
    values::{Address, UnixAddress},
};

/// A listener that is not served yet.
pub(crate) struct Bound {
    service: Service,
    socket: Socket,
    address: String,
}

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Mail(Kind),
    /// For those who watch the server.
    Http,
}

impl Service {
    const fn name(self) -> &'static str {
        match self {
            Self::Mail(kind) => kind.name(),
            Self::Http => "http",
        }
    }

    /// The service of that name, as systemd's units say it.
    fn named(name: &str) -> Option<Self> {
        let all = Kind::ALL.map(Self::Mail).into_iter().chain([Self::Http]);
        all.into_iter().find(|service| service.name() == name)
    }
}

/// The names of sockets from systemd.
pub(crate) fn names() -> Vec<&'static str> {
    let mail = Kind::ALL.into_iter().map(Kind::name);
    mail.chain([Service::Http.name()]).collect()
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Smtp,
    Smtps,
    Submission,
    Submissions,
    Lmtp,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Smtp,
        Self::Smtps,
        Self::Submission,
        Self::Submissions,
        Self::Lmtp,
    ];

    /// Its name on standard output.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Smtps => "smtps",
            Self::Submission => "submission",
            Self::Submissions => "submissions",
            Self::Lmtp => "lmtp",
        }
    }

    /// The option with its addresses.
    pub(crate) const fn option(self) -> &'static str {
        match self {
            Self::Smtp => "listen",
            Self::Smtps => "listen-tls",
            Self::Submission => "listen-submission",
            Self::Submissions => "listen-submissions",
            Self::Lmtp => "listen-lmtp",
        }
    }

    pub(crate) fn profile(self, options: &Options) -> Option<Profile> {
        match self {
            Self::Smtp => options.mode.map(|mode| mode.profile(false)),
            Self::Smtps => options.mode.map(|mode| mode.profile(true)),
            Self::Submission => Some(Profile::Submission),
            Self::Submissions => Some(Profile::Submissions),
            Self::Lmtp => Some(Profile::Lmtp),
        }
    }

    /// The addresses of the options. Without any, port 2525 of this machine is for SMTP.
    pub(crate) fn addresses(self, options: &Options) -> &[Address] {
        static DEFAULT: LazyLock<[Address; 1]> =
            LazyLock::new(|| [Address::Tcp("127.0.0.1:2525".to_owned())]);
        let given = |kind| match kind {
            Self::Smtp => &options.listen,
            Self::Smtps => &options.listen_tls,
            Self::Submission => &options.listen_submission,
            Self::Submissions => &options.listen_submissions,
            Self::Lmtp => &options.listen_lmtp,
        };
        let is_nothing_given = Self::ALL
            .into_iter()
            .all(|kind| given(kind).is_empty() && !options.is_passed(kind.name()));
        match self {
            Self::Smtp if is_nothing_given => &*DEFAULT,
            kind => given(kind),
        }
    }

    /// Whether there is a listener of this kind.
    pub(crate) fn is_served(self, options: &Options) -> bool {
        !self.addresses(options).is_empty() || options.is_passed(self.name())
    }

    fn serve<L: Listener>(self, server: &ReloadableServer, listener: L) -> io::Result<Serve<L>> {
        let mut serving = server.serve(listener);
        if matches!(self, Self::Smtps | Self::Submissions) {
            serving = serving.tls_first();
        }
        serving.check()?;
        Ok(serving)
    }
}

enum Socket {
    /// A listener for each of the cores.
    Tcp(Vec<TcpListener>),
    Unix(UnixSocketListener),
    /// A Unix socket whose file is systemd's.
    PassedUnix(UnixListener),
}

/// Binds the addresses of the options, and takes the sockets of systemd over.
///
/// # Errors
/// Fails with all addresses that cannot be bound.
pub(crate) async fn bind(
    options: &Options,
    passed: Vec<Passed>,
    cores: &Cores,
) -> Result<Vec<Bound>, Mistakes> {
    let (mut bound, mut mistakes) = (Vec::new(), Mistakes::default());
    let main = Cores::from_iter([Handle::current()]);
    let cores_of = |service| match service {
        Service::Mail(_) => cores,
        Service::Http => &main,
    };
    for Passed { name, socket } in passed {
        let Some(service) = Service::named(&name) else {
            continue;
        };
        let one = Bound::passed(service, socket, cores_of(service));
        bound.extend(mistakes.unless(one.map_err(|error| format!("the socket {name:?}: {error}"))));
    }
    let mail = Kind::ALL.into_iter().flat_map(|kind| {
        let addresses = kind.addresses(options).iter();
        addresses.map(move |address| (Service::Mail(kind), kind.option(), address))
    });
    let http = options
        .http
        .iter()
        .map(|address| (Service::Http, "http", address));
    for (service, option, address) in mail.chain(http) {
        match Bound::new(service, address, cores_of(service)).await {
            Ok(one) => bound.push(one),
            Err(error) => {
                let place = options.given.place(option);
                let hint = hint(address, &error);
                mistakes.add(format!(
                    "{place}: cannot listen on {address}: {error}{hint}"
                ));
            }
        }
    }
    mistakes.or(Some(bound))
}

/// Returns what to do about an address that cannot be bound.
fn hint(address: &Address, error: &io::Error) -> &'static str {
    match (address, error.kind()) {
        (_, io::ErrorKind::AddrInUse) => "; another program listens there: `ss -ltnxp` shows it",
        (Address::Tcp(_), io::ErrorKind::PermissionDenied) => {
            "; ports below 1024 need root and --user-id, or a socket from systemd"
        }
        (Address::Unix(_), io::ErrorKind::PermissionDenied) => {
            "; the user of this server must be able to write into the directory of the socket"
        }
        (_, io::ErrorKind::AddrNotAvailable) => "; this machine does not have that address",
        _ => "",
    }
}

/// Serves the listeners, and reports that on standard output.
///
/// # Errors
/// Fails if one of them cannot be served with these options. Nothing is reported then.
pub(crate) fn serve(
    bound: Vec<Bound>,
    servers: &Servers,
    health: Option<&Health>,
    cores: &Cores,
    log: Lines,
) -> io::Result<JoinSet<io::Result<()>>> {
    let mut tasks = JoinSet::new();
    let mut report = String::new();
    for Bound {
        service,
        socket,
        address,
    } in bound
    {
        match (service, health) {
            (Service::Mail(kind), _) => socket.serve(kind, servers, cores, &mut tasks)?,
            (Service::Http, Some(health)) => socket.serve_http(health),
            (Service::Http, None) => continue,
        }
        report += &format!("listening {} {address}\n", service.name());
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

    async fn new(service: Service, address: &Address, cores: &Cores) -> io::Result<Self> {
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
            service,
            socket,
            address,
        })
    }

    fn passed(service: Service, socket: sockets::Socket, cores: &Cores) -> io::Result<Self> {
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
            service,
            socket,
            address: address.to_string(),
        })
    }
}

impl Socket {
    fn serve(
        self,
        kind: Kind,
        servers: &Servers,
        cores: &Cores,
        tasks: &mut JoinSet<io::Result<()>>,
    ) -> io::Result<()> {
        let Some(server) = servers.of(kind) else {
            return Ok(());
        };
        match self {
            Self::Tcp(listeners) => {
                for (listener, core) in listeners.into_iter().zip(cores.iter()) {
                    tasks.spawn_on(kind.serve(server, listener)?, core);
                }
            }
            Self::Unix(socket) => drop(tasks.spawn(kind.serve(server, socket)?)),
            Self::PassedUnix(socket) => drop(tasks.spawn(kind.serve(server, socket)?)),
        }
        Ok(())
    }

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
