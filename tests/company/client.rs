//! The clients, step by step as their plans say.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use smtpd_tower::{
    Server,
    net::PeerAddr,
    session::{TlsInfo, TlsVersion},
};
use support::yield_once;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::{sleep, timeout},
};

use crate::{
    scene::Scene,
    session_plan::{Act, End, Message, Origin, Pace, SessionPlan},
    tls,
};

/// Beyond all limits of the engine.
const FOREVER: Duration = Duration::from_secs(3 * 3600);

/// How long a session may go on once its client is gone: a delivery, and what cleans up after it.
const END: Duration = Duration::from_secs(600);

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Runs a session to its end.
pub async fn run(scene: Scene, server: Server, plan: SessionPlan) {
    sleep(Duration::from_millis(plan.after)).await;
    let (near, far) = tokio::io::duplex(4096);
    let read = Arc::new(AtomicU64::new(0));
    let far = Counted {
        io: far,
        read: read.clone(),
    };
    let local = PeerAddr::from(([192, 0, 2, 25], 25));
    let mut session = server.serve_connection(far, plan.peer()).local_addr(local);
    if plan.within_tls {
        session = session.tls_info(TlsInfo::new(TlsVersion::Tls13, "TLS_AES_128_GCM_SHA256"));
    }
    if scene.plan.lmtp {
        session = session.lmtp();
    }
    let session = tokio::spawn(session);
    let mut client = Client {
        scene: scene.clone(),
        io: Box::new(near),
        input: Vec::new(),
        number: plan.number,
        pace: plan.pace,
        accepted: 0,
        read,
    };
    if timeout(FOREVER, client.play(&plan)).await.is_err() {
        scene.violate(format!("session {} does not end", plan.number));
    }
    scene.note(plan.number, "the client is gone");
    scene.lock().wire(plan.number).gone = true;
    drop(client);
    match timeout(END, session).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => scene.violate(format!("session {} panics: {panic}", plan.number)),
        Err(_) => scene.violate(format!("session {} outlives its client", plan.number)),
    }
    scene.lock().wire(plan.number).ended = true;
}

/// The server's end, which counts what it reads.
struct Counted {
    io: DuplexStream,
    read: Arc<AtomicU64>,
}

struct Client {
    scene: Scene,
    io: Box<dyn Stream>,
    input: Vec<u8>,
    number: usize,
    pace: Pace,
    accepted: usize,
    read: Arc<AtomicU64>,
}

/// Why a client stops.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Client {
    /// Plays until the end, or until the server closes the connection.
    async fn play(&mut self, plan: &SessionPlan) {
        let _ = self.acts(plan).await;
    }

    async fn acts(&mut self, plan: &SessionPlan) -> Result<(), Over> {
        if plan.from == Origin::Proxied {
            self.write(b"PROXY TCP4 203.0.113.9 192.0.2.25 4711 25\r\n")
                .await?;
        }
        self.reply().await?;
        let mut acts = &plan.acts[..];
        while !acts.is_empty() {
            let says = |act: &&Act| matches!(act, Act::Say(line) if !line.starts_with("XCLIENT"));
            let group = match self.pace {
                Pace::Pipelined => acts.iter().take_while(says).count(),
                _ => 0,
            };
            let (now, later) = acts.split_at(group.max(1));
            let is_cut = later.is_empty() && plan.end == End::Cut;
            match now {
                [act] => self.act(act, is_cut).await?,
                group => self.group(group).await?,
            }
            acts = later;
        }
        if plan.end == End::Quit {
            self.command("QUIT").await?;
            while self.reply().await.is_ok() {}
        }
        Ok(())
    }

    async fn act(&mut self, act: &Act, is_cut: bool) -> Result<(), Over> {
        match act {
            Act::Wait(time) => sleep(Duration::from_millis(*time)).await,
            Act::Say(line) if is_cut => self.write(&line.as_bytes()[..line.len() / 2]).await?,
            Act::Say(line) => {
                let reply = self.command(line).await?;
                self.noted(line, &reply);
            }
            Act::Data(message) => self.data(*message, is_cut).await?,
            Act::Bdat(message) => self.bdat(*message, is_cut).await?,
            Act::Auth(user) => {
                let secret = match *user {
                    "alice" => "AGFsaWNlAHg=",
                    "bob" => "AGJvYgB4",
                    _ => "AHdyb25nAHg=",
                };
                self.command(&format!("AUTH PLAIN {secret}")).await?;
            }
            Act::StartTls => self.start_tls().await?,
        }
        Ok(())
    }

    /// Sends commands at once, then reads their replies.
    async fn group(&mut self, acts: &[Act]) -> Result<(), Over> {
        let lines: Vec<_> = acts
            .iter()
            .filter_map(|act| match act {
                Act::Say(line) => Some(line.clone()),
                _ => None,
            })
            .collect();
        let bytes: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.write(bytes.as_bytes()).await?;
        for line in lines {
            let reply = self.reply().await?;
            self.noted(&line, &reply);
        }
        Ok(())
    }

    fn noted(&mut self, line: &str, reply: &str) {
        match line.get(..4).unwrap_or_default() {
            "RCPT" if reply.starts_with("25") => self.accepted += 1,
            "MAIL" | "RSET" | "EHLO" | "LHLO" | "HELO" | "XCLI" => self.accepted = 0,
            _ => {}
        }
    }

    async fn data(&mut self, message: Message, is_cut: bool) -> Result<(), Over> {
        self.scene.lock().wire(self.number).send(message);
        let reply = self.command("DATA").await?;
        if !reply.starts_with("354") {
            return Ok(());
        }
        let mut text = stuffed(&message.text());
        text.extend_from_slice(b".\r\n");
        if is_cut {
            text.truncate(text.len() / 2);
        }
        self.bulk(&text).await?;
        if is_cut {
            return Ok(());
        }
        self.finals().await
    }

    async fn bdat(&mut self, message: Message, is_cut: bool) -> Result<(), Over> {
        self.scene.lock().wire(self.number).send(message);
        let text = message.text();
        let mut bytes = format!("BDAT {} LAST\r\n", text.len()).into_bytes();
        bytes.extend_from_slice(&text);
        if is_cut {
            bytes.truncate(bytes.len() / 2);
        }
        self.bulk(&bytes).await?;
        if is_cut {
            return Ok(());
        }
        self.finals().await
    }

    /// The replies to a message.
    async fn finals(&mut self) -> Result<(), Over> {
        let is_lmtp = self.scene.plan.lmtp && self.accepted > 0;
        let replies = if is_lmtp { self.accepted } else { 1 };
        for _ in 0..replies {
            let reply = self.reply().await?;
            if reply.starts_with("421") || reply.starts_with("503") {
                break;
            }
        }
        self.accepted = 0;
        Ok(())
    }

    async fn start_tls(&mut self) -> Result<(), Over> {
        let reply = self.command("STARTTLS").await?;
        if reply.starts_with("220") {
            let io = std::mem::replace(&mut self.io, Box::new(tokio::io::empty()));
            self.io = Box::new(tls::connect(io).await?);
        }
        Ok(())
    }

    async fn command(&mut self, line: &str) -> Result<String, Over> {
        self.write(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        if self.pace != Pace::ByteByByte {
            self.io.write_all(bytes).await?;
            return Ok(self.io.flush().await?);
        }
        for byte in bytes {
            self.io.write_all(&[*byte]).await?;
            self.io.flush().await?;
            yield_once().await;
        }
        Ok(())
    }

    /// A message. What the server has of it, and services have not read, is limited.
    async fn bulk(&mut self, bytes: &[u8]) -> Result<(), Over> {
        let before = self.read.load(Ordering::Relaxed);
        for chunk in bytes.chunks(4096) {
            // A client that cannot write may still receive the reason.
            let wrote = self.io.write_all(chunk).await;
            let kept = self.read.load(Ordering::Relaxed) - before;
            self.scene.keeps(self.number, kept);
            wrote?;
        }
        Ok(self.io.flush().await?)
    }

    /// One reply, without its line ends.
    async fn reply(&mut self) -> Result<String, Over> {
        let mut reply = String::new();
        loop {
            let line = self.line().await?;
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            reply += &line;
            if is_last {
                return Ok(reply);
            }
        }
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.input.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.io.read_buf(&mut self.input).await? == 0 {
                return Err(Over);
            }
        }
    }
}

/// A text with its dots doubled (RFC 5321 section 4.5.2).
fn stuffed(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let bytes = buf.filled().len() - before;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
