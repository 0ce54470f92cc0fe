use std::io;

use smtpd_core::{Config, Protocol, sasl::Mechanisms};
use tower_layer::Layer;

use super::{Server, Settings};
use crate::{
    domains::Domains,
    layer::{DomainFilterLayer, HopLimitLayer},
    service::{PhaseService, Pipeline},
    session::Profile,
};

/// How many `Received` fields a message may have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum MaxHops {
    /// What is usual where there is a profile; elsewhere they are not counted.
    #[default]
    ByProfile,
    AtMost(u32),
    Unlimited,
}

impl Server {
    /// Sets what is usual at a listener of that profile: the protocol, what of TLS and AUTH is offered and required, which
    /// recipients are taken. The services see it by [`Session::profile`](crate::session::Session::profile). Without one, everything is
    /// as [`configure`](Self::configure) says.
    ///
    /// Several listeners are served by clones, which share limits, sessions and the end. What is set after the profile
    /// overrides it, such as `configure(|config| config.require_tls(false))` behind a proxy that ends TLS.
    ///
    /// ```no_run
    /// # #[cfg(any(feature = "tls-ring", feature = "tls-aws-lc"))] mod example {
    /// use smtpd_tower::{Domains, Pipeline, Profile, Server, tls::TlsConfig};
    /// use tokio::net::{TcpListener, UnixListener};
    ///
    /// # async fn run(pipeline: Pipeline, lists: Pipeline) -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::new("mail.example.org", pipeline)
    ///     .tls(TlsConfig::from_pem_files("cert.pem", "key.pem")?)
    ///     .domains(Domains::parse(["example.org", "example.net"])?);
    /// let at = |profile| server.clone().profile(profile);
    /// tokio::try_join!(
    ///     at(Profile::Mx).serve(TcpListener::bind("[::]:25").await?),
    ///     at(Profile::Submission).serve(TcpListener::bind("[::]:587").await?),
    ///     at(Profile::Submissions).serve(TcpListener::bind("[::]:465").await?),
    ///     at(Profile::Lmtp).pipeline(lists).serve(UnixListener::bind("/run/lists")?), // with a pipeline of its own
    /// )?;
    /// # Ok(()) }}
    /// ```
    ///
    /// [`serve`](Self::serve) returns an error where something is missing that the profile cannot do without: the domains of
    /// [`Mx`](Profile::Mx); for users an AUTH service with a mechanism, and a TLS configuration. The last two are not asked
    /// for where [`configure`](Self::configure) says that they are not required.
    #[must_use]
    pub fn profile(mut self, profile: Profile) -> Self {
        self.settings.profile = Some(profile);
        self.configure(|config| configured(profile, config))
            .offer_auth()
    }

    /// Sets the domains that listeners of [`Profile::Mx`] accept mail for. Other recipients are rejected with 550 5.7.1 before the
    /// RCPT service is called, as by [`DomainFilterLayer`]. Listeners of other profiles ignore this setting.
    ///
    /// If the domains change while the server runs, serve the listener without a profile, and let its RCPT service decide.
    #[must_use]
    pub fn domains(mut self, domains: Domains) -> Self {
        self.settings.domains = Some(DomainFilterLayer::new(domains));
        self
    }

    /// Sets how many `Received` fields a message may have; one with more is in a loop and rejected with 554 5.4.6, as by
    /// [`HopLimitLayer`] (RFC 5321 section 6.3). At listeners with a [profile](Self::profile) it is
    /// [100](HopLimitLayer::DEFAULT) by default, at others nothing is counted by default. With `None` nothing is counted
    /// anywhere.
    ///
    /// ```
    /// use smtpd_tower::{Pipeline, Profile, Server};
    ///
    /// let server = Server::new("mx.example.org", Pipeline::new()).profile(Profile::Lmtp);
    /// let patient = server.clone().max_hops(250);
    /// let without = server.max_hops(None);
    /// ```
    #[must_use]
    pub fn max_hops(mut self, hops: impl Into<Option<u32>>) -> Self {
        self.settings.max_hops = hops.into().map_or(MaxHops::Unlimited, MaxHops::AtMost);
        self
    }

    /// AUTH is on where somebody answers it, and where the profile has a use for it.
    pub(super) fn offer_auth(self) -> Self {
        let settings = &self.settings;
        let is_wanted = settings.profile != Some(Profile::Mx);
        let is_on = settings.pipeline.auth.is_some() && is_wanted;
        self.configure(|config| match is_on {
            true if config.mechanisms_ref().is_empty() => config.mechanisms(Mechanisms::default()),
            true => config,
            false => config.mechanisms(Mechanisms::none()),
        })
    }

    pub(super) fn protocol(&self) -> Protocol {
        let profile = self.settings.profile;
        profile.map_or(Protocol::Smtp, protocol_of)
    }
}

impl Settings {
    /// The configuration of a listener, if any session can work with it.
    pub(super) fn config_for(&self, protocol: Protocol, implicit_tls: bool) -> io::Result<Config> {
        let config = self.config.clone().protocol(protocol);
        let config = config
            .starttls(self.has_tls() && !implicit_tls)
            .custom_commands(self.pipeline.command.is_some())
            .xclient(self.xclient_from.is_some())
            .xforward(self.xforward_from.is_some());
        let checked = if implicit_tls {
            config.check()
        } else {
            config.check_plaintext()
        };
        checked.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(config)
    }

    /// Why no listener can be served so.
    pub(super) fn fault(&self, implicit_tls: bool) -> Option<&'static str> {
        let config = &self.config;
        let has_auth = self.pipeline.auth.is_some() && !config.mechanisms_ref().is_empty();
        let is_submission = self.profile.is_some_and(Profile::is_submission);
        let faults = [
            (
                self.profile == Some(Profile::Mx) && self.domains.is_none(),
                "Profile::Mx needs Server::domains",
            ),
            (
                is_submission && config.is_auth_required() && !has_auth,
                "a profile for submission needs an AUTH service and a mechanism",
            ),
            (
                is_submission && config.is_tls_required() && !self.has_tls(),
                "a profile for submission needs a TLS configuration",
            ),
            (
                implicit_tls && !self.has_tls(),
                "serve_tls needs a TLS configuration",
            ),
        ];
        faults
            .into_iter()
            .find_map(|(is_found, fault)| is_found.then_some(fault))
    }

    /// The services, and around them what the profile refuses by itself.
    pub(super) fn guarded_pipeline(&self) -> Pipeline {
        let mut pipeline = self.pipeline.clone();
        if let (Some(Profile::Mx), Some(domains)) = (self.profile, &self.domains) {
            let guard = |rcpt| PhaseService::new(domains.layer(rcpt));
            pipeline.rcpt = pipeline.rcpt.map(guard);
        }
        if let Some(hops) = self.hop_limit() {
            let guard = |data| PhaseService::new(hops.layer(data));
            pipeline.data = pipeline.data.map(guard);
        }
        pipeline
    }

    fn hop_limit(&self) -> Option<HopLimitLayer> {
        match self.max_hops {
            MaxHops::ByProfile => self.profile.map(|_| HopLimitLayer::default()),
            MaxHops::AtMost(hops) => Some(HopLimitLayer::new(hops)),
            MaxHops::Unlimited => None,
        }
    }

    pub(super) fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        let has_tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        has_tls
    }
}

const fn protocol_of(profile: Profile) -> Protocol {
    match profile {
        Profile::Lmtp => Protocol::Lmtp,
        Profile::Mx | Profile::Submission | Profile::Submissions => Protocol::Smtp,
    }
}

fn configured(profile: Profile, config: Config) -> Config {
    config
        .require_tls(profile.is_submission())
        .require_auth(profile.is_submission())
        .allow_insecure_auth(false)
}

#[cfg(test)]
mod tests {
    use smtpd_core::Reply;

    use super::*;
    use crate::{
        phase::{Auth, Rcpt, Request},
        service::handler_fn,
    };

    fn pipeline() -> Pipeline {
        Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| {}))
    }

    fn with_users() -> Pipeline {
        pipeline().auth(handler_fn(async |_: Request<Auth>| {
            Err::<smtpd_core::sasl::Identity, _>(Reply::auth_failed())
        }))
    }

    fn mechanisms(server: &Server) -> usize {
        server.settings.config.mechanisms_ref().iter().count()
    }

    #[test]
    fn what_a_profile_cannot_do_without_is_missed_before_a_client_comes() {
        let users = Server::new("mx.test", with_users());
        let nobody = Server::new("mx.test", pipeline());
        let open = |config: Config| config.require_tls(false);
        for (server, profile, fault) in [
            (&nobody, Profile::Mx, "Profile::Mx needs Server::domains"),
            (
                &nobody,
                Profile::Submission,
                "a profile for submission needs an AUTH service and a mechanism",
            ),
            (
                &users,
                Profile::Submission,
                "a profile for submission needs a TLS configuration",
            ),
            (
                &users,
                Profile::Submissions,
                "a profile for submission needs a TLS configuration",
            ),
        ] {
            let server = server.clone().profile(profile);
            assert_eq!(server.settings.fault(false), Some(fault), "{profile}");
        }
        for server in [
            nobody.clone().profile(Profile::Lmtp),
            nobody
                .clone()
                .domains(Domains::parse(["a.test"]).unwrap())
                .profile(Profile::Mx),
            users.clone().profile(Profile::Submission).configure(open),
            users,
            nobody,
        ] {
            assert_eq!(server.settings.fault(false), None, "{server:?}");
        }
    }

    #[test]
    fn auth_is_on_where_it_is_answered_and_of_use() {
        let users = Server::new("mx.test", with_users());
        let nobody = Server::new("mx.test", pipeline());
        for (server, expected) in [
            (users.clone(), 2),
            (nobody.clone(), 0),
            (users.clone().profile(Profile::Submission), 2),
            (users.clone().profile(Profile::Mx), 0),
            (users.clone().profile(Profile::Lmtp), 2),
            (nobody.clone().profile(Profile::Submission), 0),
            (nobody.pipeline(with_users()), 2),
            (users.clone().pipeline(pipeline()), 0),
            (users.profile(Profile::Mx).pipeline(with_users()), 0),
        ] {
            assert_eq!(mechanisms(&server), expected, "{server:?}");
        }
        let few = Mechanisms::default().without("LOGIN");
        let server = Server::new("mx.test", with_users()).configure(|c| c.mechanisms(few));
        assert_eq!(mechanisms(&server.profile(Profile::Submissions)), 1);
    }

    #[test]
    fn submission_needs_a_mechanism_beside_a_service() {
        let users = Server::new("mx.test", with_users()).profile(Profile::Submission);
        let open = users.configure(|config| config.require_tls(false));
        assert_eq!(open.settings.fault(false), None);
        let without = open.configure(|config| config.mechanisms(Mechanisms::none()));
        assert_eq!(
            without.settings.fault(false),
            Some("a profile for submission needs an AUTH service and a mechanism")
        );
    }
}
