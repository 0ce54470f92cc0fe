use std::io;

use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};

/// The maximum number of connections that wait to be accepted, the same as of tokio's listeners.
const BACKLOG: u32 = 1024;

/// Binds a listener to an address that several listeners share (`SO_REUSEPORT`), all of them bound by this function. The system
/// passes each connection to one of them. Each thread with its own runtime can thus have its own listener;
/// [`guide::cores`](crate::guide::cores) shows how, and when this is faster.
///
/// It exists if the system has that option: on Unix except Solaris, illumos, Cygwin and NuttX.
///
/// It is not an error if the address is in use by such a listener, of any process of the same user. Port 0 means another port
/// each time: bind later listeners to the address of the first.
///
/// ```
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let one = smtpd_tower::server::bind_reuse_port("127.0.0.1:0").await?;
/// let two = smtpd_tower::server::bind_reuse_port(one.local_addr()?).await?;
/// assert_eq!(one.local_addr()?, two.local_addr()?);
/// # Ok(()) }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
///
/// # Errors
///
/// Returns an error if none of the addresses can be bound.
///
/// # Panics
///
/// Panics if it is called outside of a tokio runtime with I/O enabled.
pub async fn bind_reuse_port(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "no address of that name");
    for address in lookup_host(address).await? {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        // A restarted server need not wait until the system has forgotten the old connections.
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
