use crate::server::Server;

/// Returns the server with permits of its own for work that keeps a processor busy, such as comparing a password with its hash.
///
/// Otherwise all servers of the process share these permits, and a session waits while other tests use them. With a paused clock,
/// its timeouts would fire meanwhile. The clones of a server share its permits.
///
/// [`Client::connect`](super::Client::connect) and [`Running`](super::Running) do this by themselves.
///
/// ```
/// use smtpd_tower::{
///     Pipeline, Server,
///     net::PeerAddr,
///     test::{Client, ClientError, isolated},
/// };
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), ClientError> {
/// let server = isolated(Server::new("mx.example.org", Pipeline::new()));
/// let (near, far) = tokio::io::duplex(1024);
/// tokio::spawn(server.serve_connection(far, PeerAddr::Unknown));
/// Client::over(near).greeting().await?.expect_code(220)?;
/// # Ok(()) }
/// ```
#[must_use]
pub fn isolated(server: Server) -> Server {
    server.with_own_permits()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::{
        permits::Permits,
        phase::{Connect, Request},
        service::{Pipeline, handler_fn},
        test::{Client, ClientError, Running},
    };

    use super::*;

    /// Returns a server, and the permits that its sessions had.
    fn server() -> (Server, Arc<Mutex<Vec<Permits>>>) {
        let seen = Arc::<Mutex<Vec<Permits>>>::default();
        let permits = seen.clone();
        let connect = handler_fn(move |request: Request<Connect>| {
            let own = request.session().permits().clone();
            permits.lock().unwrap().push(own);
            async {}
        });
        (
            Server::new("mx.test", Pipeline::new().connect(connect)),
            seen,
        )
    }

    /// It failed at random, whenever other tests kept the processors busy.
    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_does_not_jump_over_the_work_of_another_test() -> Result<(), ClientError>
    {
        let (server, seen) = server();
        for _ in 0..2 {
            Client::connect(&server)
                .greeting()
                .await?
                .expect_code(220)?;
        }
        let seen = seen.lock().unwrap().clone();
        assert!(seen[0].are(&seen[1]), "sessions of a server share permits");
        assert!(!seen[0].are(&Permits::shared()));
        Ok(())
    }

    #[tokio::test]
    async fn a_server_on_a_port_has_permits_of_its_own() -> Result<(), Box<dyn std::error::Error>> {
        let (server, seen) = server();
        let running = Running::start(server).await?;
        running.client().await?.greeting().await?.expect_code(220)?;
        running.stop().await?;
        assert!(!seen.lock().unwrap()[0].are(&Permits::shared()));
        Ok(())
    }

    /// A feature of Cargo must not change what is there without it.
    #[tokio::test]
    async fn the_feature_alone_changes_no_server() -> Result<(), ClientError> {
        let (server, seen) = server();
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(server.serve_connection(far, ([127, 0, 0, 1], 25).into()));
        Client::over(near).greeting().await?.expect_code(220)?;
        assert!(seen.lock().unwrap()[0].are(&Permits::shared()));
        Ok(())
    }
}
