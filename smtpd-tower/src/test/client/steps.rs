//! The steps of a session, each a command and its reply.

use tokio::io::{AsyncRead, AsyncWrite};

#[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
use super::tls::Handshake;
use super::{Client, ClientError, ClientReply, sasl, scram::Scram};

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    /// Sends EHLO. What the server announces is in [`extensions`](Self::extensions).
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command); this applies to all following steps too.
    pub async fn ehlo(&mut self, name: &str) -> Result<ClientReply, ClientError> {
        self.command(&format!("EHLO {name}")).await
    }

    /// Sends HELO.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn helo(&mut self, name: &str) -> Result<ClientReply, ClientError> {
        self.command(&format!("HELO {name}")).await
    }

    /// Sends LHLO (RFC 2033 section 4.1). From then on [`data`](Self::data) reads a reply for each recipient.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn lhlo(&mut self, name: &str) -> Result<ClientReply, ClientError> {
        self.command(&format!("LHLO {name}")).await
    }

    /// Sends MAIL FROM with that address; empty is the null sender. To add parameters, write `<a@example.com> SIZE=1000`.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn mail(&mut self, from: &str) -> Result<ClientReply, ClientError> {
        self.command(&format!("MAIL FROM:{}", path(from))).await
    }

    /// Sends RCPT TO with that address. To add parameters, write `<b@example.org> NOTIFY=NEVER`.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn rcpt(&mut self, to: &str) -> Result<ClientReply, ClientError> {
        self.command(&format!("RCPT TO:{}", path(to))).await
    }

    /// Sends RSET.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn rset(&mut self) -> Result<ClientReply, ClientError> {
        self.command("RSET").await
    }

    /// Sends NOOP.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn noop(&mut self) -> Result<ClientReply, ClientError> {
        self.command("NOOP").await
    }

    /// Sends QUIT.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn quit(&mut self) -> Result<ClientReply, ClientError> {
        self.command("QUIT").await
    }

    /// Sends AUTH PLAIN with an initial response (RFC 4616).
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn auth_plain(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let response = sasl::plain(user, password);
        self.command(&format!("AUTH PLAIN {response}")).await
    }

    /// Sends AUTH LOGIN: user name and password, each when a challenge asks for it. Returns the first reply that is not 334.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command).
    pub async fn auth_login(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let mut reply = self.command("AUTH LOGIN").await?;
        for answer in [user, password] {
            if reply.code().as_u16() != 334 {
                break;
            }
            reply = self.command(&sasl::encode(answer)).await?;
        }
        Ok(reply)
    }

    /// Sends AUTH CRAM-MD5 (RFC 2195). Returns the first reply that is not 334.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command); [`ClientError::Malformed`] if the challenge is not base64.
    pub async fn auth_cram_md5(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let reply = self.command("AUTH CRAM-MD5").await?;
        if reply.code().as_u16() != 334 {
            return Ok(reply);
        }
        self.command(&sasl::cram_md5(user, password, &reply)?).await
    }

    /// Sends AUTH SCRAM-SHA-256 (RFC 7677), without channel binding. Returns the last reply: 235, or a refusal. The user name and
    /// the password are used as they are, without SASLprep.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command); [`ClientError::Malformed`] if a challenge is not one of SCRAM, or the server does not
    /// prove that it knows the password.
    pub async fn auth_scram_sha256(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<ClientReply, ClientError> {
        let scram = Scram::new(user);
        let first = format!("AUTH SCRAM-SHA-256 {}", scram.first());
        let reply = self.command(&first).await?;
        if reply.code().as_u16() != 334 {
            return Ok(reply);
        }
        let proof = scram.prove(&reply, password)?;
        let reply = self.command(&proof.response()).await?;
        if reply.code().as_u16() != 334 {
            return Ok(reply);
        }
        proof.check(&reply)?;
        self.command("").await
    }

    /// Sends STARTTLS and runs the handshake (RFC 3207) with a server that presents a certificate for that host. `trusted` is the
    /// certificate of its authority, or its own if it is self-signed, in PEM. Send EHLO again afterwards (RFC 3207 section 4.2).
    ///
    /// ```
    /// # #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use smtpd_tower::{Pipeline, Server, test::Client, tls::TlsConfig};
    ///
    /// let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    /// let server = Server::new("localhost", Pipeline::new())
    ///     .tls(TlsConfig::from_pem(certificate.as_bytes(), key.as_bytes())?);
    ///
    /// let mut client = Client::connect(&server);
    /// client.greeting().await?.expect_code(220)?;
    /// client.ehlo("client.example").await?.expect_code(250)?;
    /// let mut client = client.starttls("localhost", &certificate).await?;
    /// client.ehlo("client.example").await?.expect_code(250)?;
    /// assert!(!client.extensions().contains("STARTTLS"));
    /// # Ok(()) }
    /// ```
    ///
    /// For other TLS settings, such as a client certificate, use [`into_io`](Self::into_io) and [`over`](Self::over), with a
    /// handshake of your own between them.
    ///
    /// # Errors
    ///
    /// Like [`command`](Self::command); [`ClientError::Unexpected`] if the reply to STARTTLS is not 220; [`ClientError::Io`] if
    /// the handshake fails, or `host` or `trusted` is invalid.
    #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))]
    pub async fn starttls(
        mut self,
        host: &str,
        trusted: impl AsRef<[u8]>,
    ) -> Result<Client<tokio_rustls::client::TlsStream<IO>>, ClientError> {
        let handshake = Handshake::new(host, trusted.as_ref()).map_err(ClientError::Io)?;
        self.command("STARTTLS").await?.expect_code(220)?;
        let handshake = async { Ok::<_, ClientError>(handshake.run(self.wire.io).await?) };
        let io = self.patience.wait("the TLS handshake", handshake).await?;
        Ok(Client {
            greeted: true,
            protocol: self.protocol,
            session: self.session,
            patience: self.patience,
            ..Client::over(io)
        })
    }
}

/// Adds angle brackets, unless it has them.
fn path(address: &str) -> String {
    if address.starts_with('<') {
        address.to_owned()
    } else {
        format!("<{address}>")
    }
}
