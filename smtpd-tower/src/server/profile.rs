use std::io;

use super::{Server, settings::MaxHops};
use crate::{
    domains::Domains,
    session::{Profile, ShuttingDown},
};

impl Server {
    /// Sets the profile, which decides about the protocol, about whether TLS and AUTH are offered and required, and about which
    /// recipients are accepted. [`Session::profile`](crate::session::Session::profile) returns it to the services. Default: none,
    /// and only [`configure`](Self::configure) decides.
    ///
    /// Settings that [`configure`](Self::configure) makes, before or after this call, override the profile: for example
    /// `configure(|config| config.require_tls(false))` behind a proxy that terminates TLS. But [`Mx`](Profile::Mx) never offers
    /// AUTH. [`Serve::profile`](super::Serve::profile) sets the profile of one listener.
    ///
    /// ```no_run
    /// # #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))] mod example {
    /// use smtpd_tower::{
    ///     Pipeline, Profile, Server, domains::Domains, tls::TlsConfig,
    /// };
    /// use tokio::net::{TcpListener, UnixListener};
    ///
    /// # async fn run(pipeline: Pipeline, lists: Pipeline) -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::new("mail.example.org", pipeline)
    ///     .tls(TlsConfig::from_pem_files("cert.pem", "key.pem")?)
    ///     .domains(Domains::parse(["example.org", "example.net"])?);
    /// tokio::try_join!(
    ///     server.serve(TcpListener::bind("[::]:25").await?).profile(Profile::Mx),
    ///     server
    ///         .serve(TcpListener::bind("[::]:587").await?)
    ///         .profile(Profile::Submission),
    ///     server
    ///         .serve(TcpListener::bind("[::]:465").await?)
    ///         .profile(Profile::Submissions),
    ///     server
    ///         .serve(UnixListener::bind("/run/lists")?)
    ///         .profile(Profile::Lmtp)
    ///         .pipeline(lists),
    /// )?;
    /// # Ok(()) }}
    /// ```
    ///
    /// [`serve`](Self::serve) returns an error if the profile requires something that is missing: [`Mx`](Profile::Mx) requires
    /// [`domains`](Self::domains), and the profiles for submission require an AUTH service with a mechanism and a TLS
    /// configuration, unless [`configure`](Self::configure) turns these requirements off.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.settings.profile = Some(profile);
        self
    }

    /// Sets the domains for which listeners with [`Profile::Mx`] accept mail. Other recipients are rejected with 550 5.7.1 before
    /// the RCPT service is called, as by [`DomainFilterLayer`](crate::layer::DomainFilterLayer). Other listeners ignore this
    /// setting.
    ///
    /// If the domains change while the server runs, serve the listener without a profile, and let its RCPT service decide.
    #[must_use]
    pub fn domains(mut self, domains: Domains) -> Self {
        self.settings.domains = Some(domains);
        self
    }

    /// Sets the maximum number of `Received` fields of a message. A message with more is in a loop and is rejected with 554
    /// 5.4.6, as by [`HopLimitLayer`](crate::layer::HopLimitLayer) (RFC 5321 section 6.3). `None` means no limit. Default:
    /// [100](crate::layer::HopLimitLayer::DEFAULT) for listeners with a [profile](Self::profile), no limit for others.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Profile, Server};
    ///
    /// let server =
    ///     Server::new("mx.example.org", Pipeline::new()).profile(Profile::Lmtp);
    /// let patient = server.clone().max_hops(250);
    /// let without = server.max_hops(None);
    /// ```
    #[must_use]
    pub fn max_hops(mut self, hops: impl Into<Option<u32>>) -> Self {
        self.settings.max_hops = hops.into().map_or(MaxHops::Unlimited, MaxHops::AtMost);
        self
    }

    /// Returns what [`profile`](Self::profile) set.
    pub const fn get_profile(&self) -> Option<Profile> {
        self.settings.profile
    }

    /// Returns what [`domains`](Self::domains) set.
    pub const fn get_domains(&self) -> Option<&Domains> {
        self.settings.domains.as_ref()
    }

    /// Returns the maximum number of `Received` fields of a message: what [`max_hops`](Self::max_hops) set, or its default.
    /// Returns `None` if there is no limit.
    pub fn get_max_hops(&self) -> Option<u32> {
        self.settings.max_hops()
    }

    /// Checks the settings as [`serve`](Self::serve) does, before there is a listener: when a program has read its configuration,
    /// or reads it again.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Profile, Server};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new());
    /// assert!(server.check().is_ok());
    /// let error = server.profile(Profile::Mx).check().unwrap_err();
    /// assert_eq!(error.to_string(), "Profile::Mx needs Server::domains");
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the error that [`Serve`](crate::server::Serve) would return at once.
    pub fn check(&self) -> io::Result<()> {
        let settings = self.settings.clone();
        settings.engine(ShuttingDown::default()).map(drop)
    }
}
