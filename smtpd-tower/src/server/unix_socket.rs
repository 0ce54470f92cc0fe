use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixStream};

use super::Listener;
use crate::net::PeerAddr;

/// The maximum number of connections that wait to be accepted, the same as of tokio's listeners.
const BACKLOG: u32 = 1024;

/// How often a name is tried that other processes take and give up at the same time.
const ATTEMPTS: usize = 10;

/// Binds a Unix socket with the permissions that its clients need. To connect, a client needs the permission to write.
///
/// The socket gets its name once it has its group and mode and accepts connections, so no client finds it otherwise. A file that
/// is left over from a server that ended without removing it is replaced; the socket of a server that runs is not.
///
/// ```
/// # #[cfg(unix)]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use smtpd_tower::{Pipeline, Profile, Server, server::UnixSocket};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("lmtp");
/// // For example "/run/smtpd/lmtp", for a mail server that is in the group.
/// let socket = UnixSocket::new(&path).mode(0o660).bind().await?;
/// let server = Server::new("mx.example.org", Pipeline::new());
/// let serving = tokio::spawn(server.serve(socket).profile(Profile::Lmtp));
///
/// assert!(UnixSocket::new(&path).bind().await.is_err());
/// serving.abort();
/// # Ok(()) }
/// # #[cfg(not(unix))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug)]
pub struct UnixSocket {
    path: PathBuf,
    mode: Option<u32>,
    group: Option<u32>,
}

impl UnixSocket {
    /// Creates a socket that is to be bound to this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: None,
            group: None,
        }
    }

    /// Sets the permissions of its file, such as `0o660`, whatever the umask of the process. Default: what the umask leaves,
    /// usually 0755, which lets only the user of the process connect.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets the group of its file, by number. The process needs to be in the group, or root. Default: the group of the process.
    #[must_use]
    pub const fn group(mut self, id: u32) -> Self {
        self.group = Some(id);
        self
    }

    /// Binds the socket.
    ///
    /// # Errors
    ///
    /// Returns an error of the kind `AddrInUse` if another server listens on the path, or something else than a socket is there;
    /// and the system's error if the socket, its group or its mode is not possible.
    ///
    /// # Panics
    ///
    /// Panics if it is called outside of a tokio runtime with I/O enabled.
    pub async fn bind(&self) -> io::Result<UnixSocketListener> {
        let hidden = SocketFile(beside(&self.path)?);
        let socket = tokio::net::UnixSocket::new_stream()?;
        socket.bind(&hidden.0)?;
        if let Some(group) = self.group {
            chown(&hidden.0, None, Some(group))?;
        }
        if let Some(mode) = self.mode {
            fs::set_permissions(&hidden.0, fs::Permissions::from_mode(mode))?;
        }
        let listener = socket.listen(BACKLOG)?;
        let identity = identity(&hidden.0)?;
        self.publish(&hidden.0).await?;
        Ok(UnixSocketListener {
            path: self.path.clone(),
            identity,
            listener,
        })
    }

    /// Gives a socket its name, in place of a leftover. A name that another socket has is an error for `hard_link`, so no other
    /// server loses its name, even if it starts at the same time.
    async fn publish(&self, hidden: &Path) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            match fs::hard_link(hidden, &self.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    remove_leftover(&self.path).await?;
                }
                linked => return linked,
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }
}

/// A Unix socket that accepts connections. [`UnixSocket::bind`] creates it. When it is dropped, its file is removed.
#[derive(Debug)]
pub struct UnixSocketListener {
    path: PathBuf,
    identity: Identity,
    listener: UnixListener,
}

impl Listener for UnixSocketListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, PeerAddr)> {
        Listener::accept(&mut self.listener).await
    }

    fn local_addr(&self) -> PeerAddr {
        PeerAddr::unix(Some(&self.path))
    }
}

/// The file is removed while the socket still accepts connections, so that no later server mistakes it for a leftover. It stays
/// if somebody has replaced it.
impl Drop for UnixSocketListener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A file that is removed with this value.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The device and the number of a file.
type Identity = (u64, u64);

fn identity(path: &Path) -> io::Result<Identity> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Returns an unused path in the same directory, as short as possible: the system limits the length of a socket's path.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let number = getrandom::u32().map_err(io::Error::other)?;
    Ok(path.with_file_name(format!(".{number:x}")))
}

/// Removes the socket of a server that ended without removing it: nothing accepts connections there any more.
async fn remove_leftover(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => (file.dev(), file.ino()),
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => take_away(path, found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Removes that file, but not one that another server has put in its place meanwhile: that one is put back.
fn take_away(path: &Path, leftover: Identity) -> io::Result<()> {
    let taken = SocketFile(beside(path)?);
    match fs::rename(path, &taken.0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    if identity(&taken.0)? != leftover {
        let _ = fs::hard_link(&taken.0, path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::{server::Server, service::Pipeline};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn the_umask_keeps_clients_of_the_group_away() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("lmtp");
        let group = fs::metadata(directory.path())?.gid();
        for wanted in [0o660, 0o666, 0o600] {
            let listener = UnixSocket::new(&path)
                .mode(wanted)
                .group(group)
                .bind()
                .await?;
            assert_eq!((mode(&path), fs::metadata(&path)?.gid()), (wanted, group));
            assert_eq!(listener.local_addr(), PeerAddr::unix(Some(&path)));
            UnixStream::connect(&path).await?;
        }
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn a_leftover_is_replaced_and_a_socket_that_is_served_is_not() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("lmtp");
        drop(std::os::unix::net::UnixListener::bind(&path)?);
        let listener = UnixSocket::new(&path).bind().await?;
        let error = UnixSocket::new(&path).bind().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let server = Server::new("mx.test", Pipeline::new());
        let serving = tokio::spawn(server.serve(listener));
        let mut greeting = [0; 4];
        let mut client = UnixStream::connect(&path).await?;
        client.read_exact(&mut greeting).await?;
        assert_eq!(&greeting, b"220 ");
        drop(client);
        server.handle().shutdown(std::time::Duration::ZERO).await;
        serving.await.unwrap()?;
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);

        fs::write(&path, "precious")?;
        let error = UnixSocket::new(&path).bind().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path)?, "precious");
        assert_eq!(fs::read_dir(directory.path())?.count(), 1);
        Ok(())
    }

    #[tokio::test]
    async fn of_servers_that_start_at_once_one_loses_its_name() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("lmtp");
        for _ in 0..50 {
            drop(std::os::unix::net::UnixListener::bind(&path)?);
            let socket = UnixSocket::new(&path);
            let (one, two) = tokio::join!(socket.bind(), socket.bind());
            assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
            UnixStream::connect(&path).await?;
        }
        assert_eq!(fs::read_dir(directory.path())?.count(), 0);
        Ok(())
    }

    #[tokio::test]
    async fn a_file_that_was_put_in_the_place_of_a_leftover_stays() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("lmtp");
        let listener = UnixSocket::new(&path).bind().await?;
        take_away(&path, (0, 0))?;
        UnixStream::connect(&path).await?;
        fs::remove_file(&path)?;
        fs::write(&path, "another's")?;
        drop(listener);
        assert_eq!(fs::read_to_string(&path)?, "another's");
        Ok(())
    }
}
