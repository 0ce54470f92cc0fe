//! A server for systemd: serves the sockets of a `.socket` unit, says when it is ready and when it stops, and at SIGTERM lets
//! messages in progress complete. While the server restarts, connections wait in the kernel, so no client is refused.
//!
//! To try it: `systemd-socket-activate -l 127.0.0.1:2525 target/debug/examples/systemd_socket mail example.org`, then
//! `curl --crlf smtp://127.0.0.1:2525 --mail-rcpt you@example.org -T README.md`. As units:
//!
//! ```text
//! # mx.socket                          # mx.service
//! [Socket]                             [Service]
//! ListenStream=25                      Type=notify
//! BindIPv6Only=both                    ExecStart=/usr/local/bin/systemd_socket /var/lib/mx/mail example.org
//!                                      StateDirectory=mx
//! [Install]                            TimeoutStopSec=45
//! WantedBy=sockets.target              DynamicUser=yes
//! ```

#[cfg(unix)]
fn main() -> Result<(), tower::BoxError> {
    // Changes the environment, which must not happen beside the threads of a runtime.
    let sockets = unix::sockets()?;
    unix::serve(sockets)
}

#[cfg(not(unix))]
fn main() {
    eprintln!("systemd is on Linux only");
}

#[cfg(unix)]
mod unix {
    use std::{net, time::Duration};

    use listenfd::ListenFd;
    use sd_notify::NotifyState;
    use smtpd_tower::{
        Pipeline, Profile, Rcpt, Request, Server, deliver::Maildir, domains::Domains, handler_fn,
        server::system_hostname,
    };
    use tokio::{
        net::TcpListener,
        signal::unix::{SignalKind, signal},
        task::JoinSet,
    };
    use tower::BoxError;

    /// Takes the sockets over that systemd has passed to this process, which is the one in `LISTEN_PID`.
    pub(super) fn sockets() -> Result<Vec<net::TcpListener>, BoxError> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            sockets.extend(passed.take_tcp_listener(index)?);
        }
        match sockets.is_empty() {
            true => Err("no socket was passed to this process (LISTEN_FDS, LISTEN_PID)".into()),
            false => Ok(sockets),
        }
    }

    #[tokio::main]
    pub(super) async fn serve(sockets: Vec<net::TcpListener>) -> Result<(), BoxError> {
        let server = server(std::env::args().skip(1))?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut tasks = JoinSet::new();
        for socket in sockets {
            socket.set_nonblocking(true)?;
            tasks.spawn(server.serve(TcpListener::from_std(socket)?));
        }
        let handle = server.handle();
        tasks.spawn(async move {
            terminate.recv().await;
            let notified = sd_notify::notify(&[NotifyState::Stopping]);
            handle.shutdown(Duration::from_secs(30)).await;
            notified
        });
        sd_notify::notify(&[NotifyState::Ready])?;
        while let Some(ended) = tasks.join_next().await {
            ended??; // what cannot be served ends the process
        }
        Ok(())
    }

    fn server(mut arguments: impl Iterator<Item = String>) -> Result<Server, BoxError> {
        let usage = "usage: systemd_socket MAILDIR DOMAIN...";
        let maildir = arguments.next().ok_or(usage)?;
        let domains = Domains::parse(arguments)?;
        if domains.is_empty() {
            return Err(usage.into());
        }
        let pipeline = Pipeline::new()
            .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
            .data(Maildir::new(maildir));
        let server = Server::new(system_hostname(), pipeline);
        Ok(server.profile(Profile::Mx).domains(domains))
    }
}
