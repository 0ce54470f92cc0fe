use std::{
    error::Error,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use smtpd_core::{
    Config, Protocol, Timeouts,
    config::DriverConfig,
    sasl::{CramMd5, Mechanisms, OAuthBearer, Scram, XOAuth2, prepare_name},
};

const USAGE: &str = "\
options: --listen ADDR, --listen-lmtp ADDR, --listen-tls ADDR (each as often as wanted)
         --tls                  offer STARTTLS, with a certificate that is made at the start
         --maildir DIR          where messages go (mail)
         --hostname NAME        (localhost)    --domain NAME  whose mail is accepted (example.org)
         --user NAME:PASSWORD   --token NAME:TOKEN  for OAuth    --require-auth  also without TLS
         --server-timeout SECS  how long a silent client is waited for (300)
         --delay SECS           how much longer each delivery takes, to see that it makes no difference";

/// The options of the command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) hostname: String,
    pub(crate) domain: String,
    pub(crate) maildir: PathBuf,
    pub(crate) users: Vec<(String, String)>,
    pub(crate) tokens: Vec<(String, String)>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) delay: Duration,
    starttls: bool,
    require_auth: bool,
    timeout: Duration,
    listen: Vec<(Kind, SocketAddr)>,
}

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Smtp,
    /// SMTP over TLS from the first byte (RFC 8314 section 3.3).
    Smtps,
    Lmtp,
}

/// A socket, and the configuration of its sessions.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) kind: Kind,
    pub(crate) socket: TcpListener,
    pub(crate) config: Arc<DriverConfig>,
}

impl Options {
    pub(crate) fn parse() -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            hostname: "localhost".to_owned(),
            domain: "example.org".to_owned(),
            maildir: "mail".into(),
            users: Vec::new(),
            tokens: Vec::new(),
            tls: None,
            delay: Duration::ZERO,
            starttls: false,
            require_auth: false,
            timeout: Duration::from_secs(300),
            listen: Vec::new(),
        };
        let mut args = std::env::args().skip(1);
        while let Some(option) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{option} needs a value"));
            match option.as_str() {
                "--listen" => options.listen.push((Kind::Smtp, value()?.parse()?)),
                "--listen-lmtp" => options.listen.push((Kind::Lmtp, value()?.parse()?)),
                "--listen-tls" => options.listen.push((Kind::Smtps, value()?.parse()?)),
                "--tls" => options.starttls = true,
                "--require-auth" => options.require_auth = true,
                "--maildir" => options.maildir = value()?.into(),
                "--hostname" => options.hostname = value()?,
                "--domain" => options.domain = value()?,
                "--user" => options.users.push(pair(&value()?)?),
                "--token" => options.tokens.push(pair(&value()?)?),
                "--server-timeout" => options.timeout = Duration::from_secs(value()?.parse()?),
                "--delay" => options.delay = Duration::from_secs(value()?.parse()?),
                _ => return Err(USAGE.into()),
            }
        }
        if options.starttls || options.listen.iter().any(|(kind, _)| *kind == Kind::Smtps) {
            options.tls = Some(self_signed(&options.hostname)?);
        }
        for folder in ["tmp", "new"] {
            std::fs::create_dir_all(options.maildir.join(folder))?;
        }
        Ok(options)
    }

    /// Binds all sockets, and prints their addresses.
    pub(crate) fn bind(&self) -> Result<Vec<Listener>, Box<dyn Error>> {
        let mut listeners = Vec::new();
        for &(kind, address) in &self.listen {
            let config = self.config(kind);
            let socket = TcpListener::bind(address)?;
            let name = format!("{kind:?}").to_lowercase();
            println!("listening {name} {}", socket.local_addr()?);
            listeners.push(Listener {
                kind,
                socket,
                config: Arc::new(config),
            });
        }
        Ok(listeners)
    }

    fn config(&self, kind: Kind) -> DriverConfig {
        let protocol = match kind {
            Kind::Lmtp => Protocol::Lmtp,
            Kind::Smtp | Kind::Smtps => Protocol::Smtp,
        };
        DriverConfig::new(self.settings(kind))
            .protocol(protocol)
            .starttls(self.starttls)
    }

    fn settings(&self, kind: Kind) -> Config {
        let config = Config::new(&self.hostname)
            .timeouts(|timeouts| *timeouts = Timeouts::default().inactivity(self.timeout))
            // LMTP clients are the operator's own programs.
            .require_auth(self.require_auth && kind != Kind::Lmtp)
            .allow_insecure_auth(self.require_auth)
            .entropy(|bytes| getrandom::fill(bytes).is_ok());
        if self.users.is_empty() && self.tokens.is_empty() {
            return config;
        }
        config.mechanisms(
            Mechanisms::default()
                .with(CramMd5)
                .with(Scram::sha256().plus())
                .with(Scram::sha256())
                .with(XOAuth2::new())
                .with(OAuthBearer::new()),
        )
    }
}

/// A name, prepared like those that clients send, and its secret.
fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once(':').ok_or("expected NAME:SECRET")?;
    let name = prepare_name(name).ok_or("this cannot be the name of a user")?;
    Ok((name.into_owned(), value.to_owned()))
}

fn self_signed(name: &str) -> Result<Arc<rustls::ServerConfig>, Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok(Arc::new(config))
}
