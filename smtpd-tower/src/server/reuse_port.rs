use std::io;

use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};

/// Connections that wait to be accepted; tokio's listeners have as many.
const BACKLOG: u32 = 1024;

/// Listens on an address that more listeners are to share (`SO_REUSEPORT`), all of them bound by this function: the
/// system gives each connection to one of them. So each thread with a runtime of its own can have a listener of its own;
/// [`guide::cores`](crate::guide::cores) shows how, and when it pays.
///
/// It exists where the system has that option: on Unix other than Solaris, illumos, Cygwin and NuttX.
///
/// An address that is taken already is no error here if it was taken so, by any process of the same user. Port 0 stands
/// for another port each time: later listeners need the address of the first.
///
/// ```
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let one = smtpd_tower::bind_reuse_port("127.0.0.1:0").await?;
/// let two = smtpd_tower::bind_reuse_port(one.local_addr()?).await?;
/// assert_eq!(one.local_addr()?, two.local_addr()?);
/// # Ok(()) }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
///
/// # Errors
///
/// Where no address of that name can be listened on.
///
/// # Panics
///
/// Outside of a tokio runtime that has its I/O enabled.
pub async fn bind_reuse_port(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address of that name");
    for address in lookup_host(address).await? {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A server that starts again does not wait for the connections of the last one to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
