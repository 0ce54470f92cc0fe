//! The settings of a server, and how they are resolved when a listener is served.

use std::{fmt, io, sync::Arc};

use smtpd_core::{
    config::{Config, DriverConfig, Protocol},
    sasl::Mechanisms,
};
use tower::BoxError;
use tower_layer::Layer;

#[cfg(feature = "metrics")]
use super::farewell;
#[cfg(feature = "proxy")]
use crate::proxy::ProxyProtocol;
use crate::{
    domains::Domains,
    engine::{Engine, Hooks},
    guard::Guard,
    layer::{DomainFilterLayer, HopLimitLayer},
    memory::MemoryBudget,
    meter::Meters,
    net::TrustedPeers,
    permits::Permits,
    service::{BoxPhaseService, Pipeline},
    session::{ListenerFacts, Profile, ShuttingDown},
};
#[cfg(feature = "metrics")]
use crate::{
    meter::Labels,
    session::{EndReason, SessionError},
};

/// How many `Received` fields a message may have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum MaxHops {
    /// The default of [`HopLimitLayer`] if there is a profile; otherwise they are not counted.
    #[default]
    ByProfile,
    AtMost(u32),
    Unlimited,
}

/// The guard of a server.
#[derive(Clone)]
pub(super) enum GuardSetting {
    /// One that nobody has asked for. A server that replaces another one goes on with the guard of that.
    Own(Guard),
    Set(Guard),
}

impl GuardSetting {
    pub(super) const fn get(&self) -> &Guard {
        match self {
            Self::Own(guard) | Self::Set(guard) => guard,
        }
    }
}

/// The settings as they were made. They are resolved when a listener is served, so their order does not matter.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) config: Config,
    pub(super) profile: Option<Profile>,
    /// Overrides the profile's.
    pub(super) protocol: Option<Protocol>,
    pub(super) tls_first: bool,
    /// The connections come within TLS.
    pub(super) within_tls: bool,
    pub(super) domains: Option<Domains>,
    pub(super) max_hops: MaxHops,
    pub(super) pipeline: Pipeline,
    pub(super) hooks: Hooks,
    pub(super) max_sessions: usize,
    pub(super) permits: Permits,
    pub(super) guard: GuardSetting,
    pub(super) memory: MemoryBudget,
    #[cfg(feature = "metrics")]
    pub(super) metrics: bool,
    #[cfg(feature = "proxy")]
    pub(super) proxy: Option<ProxyProtocol>,
    pub(super) xclient_from: Option<TrustedPeers>,
    pub(super) xforward_from: Option<TrustedPeers>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<crate::tls::TlsConfig>,
}

impl Settings {
    pub(super) fn new(config: Config, pipeline: Pipeline, max_sessions: usize) -> Self {
        Self {
            config,
            profile: None,
            protocol: None,
            tls_first: false,
            within_tls: false,
            domains: None,
            max_hops: MaxHops::default(),
            pipeline,
            hooks: Hooks::default(),
            max_sessions,
            permits: Permits::shared(),
            guard: GuardSetting::Own(Guard::new()),
            memory: MemoryBudget::shared(),
            #[cfg(feature = "metrics")]
            metrics: false,
            #[cfg(feature = "proxy")]
            proxy: None,
            xclient_from: None,
            xforward_from: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Resolves the settings to what the sessions of a listener share.
    ///
    /// # Errors
    ///
    /// Returns an error if no session could work with the settings.
    pub(super) fn engine(self, shutting_down: ShuttingDown) -> io::Result<Engine> {
        let config = self.driver_config();
        self.check(&config)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = ListenerFacts {
            hostname: self.config.hostname().to_owned(),
            app_name: self.config.get_app_name().to_owned(),
            profile: self.profile,
            timeouts: config.get_config().get_timeouts().clone(),
            on_error: self.hooks.error.clone(),
            permits: self.permits.clone(),
            memory: self.memory.clone(),
            meters: self.meters(config.get_config()),
            shutting_down,
        };
        Ok(Engine {
            pipeline: self.guarded_pipeline(),
            config: Arc::new(config),
            listener: Arc::new(listener),
            protocol: self.protocol(),
            // A listener within TLS performs its handshakes itself: a connection without one is closed.
            #[cfg(feature = "tls")]
            tls: self.tls.filter(|_| !self.within_tls),
            #[cfg(feature = "proxy")]
            proxy: self.proxy,
            xclient_from: self.xclient_from,
            xforward_from: self.xforward_from,
            hooks: self.hooks,
            guard: self.guard.get().clone(),
        })
    }

    /// Returns what the sessions of a listener record.
    #[cfg(feature = "metrics")]
    fn meters(&self, config: &Config) -> Meters {
        if !self.metrics {
            return Meters::default();
        }
        let mechanisms = config.get_mechanisms().into_iter();
        let mechanisms = mechanisms.flat_map(|all| all.iter().map(|one| one.name().as_str()));
        Meters::new(&Labels {
            profile: self.profile.map_or("none", Profile::as_str),
            mechanisms: mechanisms.collect(),
            ends: EndReason::ALL.map(EndReason::as_str).into(),
            faults: &SessionError::KINDS,
            limits: farewell::limits().collect(),
        })
    }

    #[cfg(not(feature = "metrics"))]
    const fn meters(&self, _: &Config) -> Meters {
        Meters
    }

    pub(super) fn protocol(&self) -> Protocol {
        match (self.protocol, self.profile) {
            (Some(protocol), _) => protocol,
            (None, Some(Profile::Lmtp)) => Protocol::Lmtp,
            (None, _) => Protocol::Smtp,
        }
    }

    /// Returns whether TLS comes before the greeting.
    pub(super) fn begins_with_tls(&self) -> bool {
        self.within_tls || self.tls_first || self.profile == Some(Profile::Submissions)
    }

    /// Returns what the sessions of a listener share. The driver's part follows from the other settings.
    fn driver_config(&self) -> DriverConfig {
        let log_wire = tracing::enabled!(tracing::Level::TRACE) || self.hooks.wire.is_set();
        let report_replies = tracing::enabled!(tracing::Level::INFO)
            || self.hooks.reply.is_set()
            || self.has_metrics();
        DriverConfig::new(self.resolved_config())
            .protocol(self.protocol())
            .starttls(self.has_tls() && !self.begins_with_tls())
            .custom_commands(self.pipeline.command.is_some())
            .xclient(self.xclient_from.is_some())
            .xforward(self.xforward_from.is_some())
            .log_wire(log_wire)
            .report_replies(report_replies)
    }

    /// Returns the configuration, in which the profile and the pipeline decide about what was not set.
    fn resolved_config(&self) -> Config {
        let is_submission = self.profile.is_some_and(Profile::is_submission);
        let config = self.config.clone();
        let is_tls_required = config.get_require_tls().unwrap_or(is_submission);
        let is_auth_required = config.get_require_auth().unwrap_or(is_submission);
        let config = match (self.offers_auth(), config.get_mechanisms()) {
            (true, Some(_)) => config,
            (true, None) => config.mechanisms(Mechanisms::default()),
            (false, _) => config.mechanisms(Mechanisms::none()),
        };
        config
            .require_tls(is_tls_required)
            .require_auth(is_auth_required)
    }

    /// Returns whether AUTH is offered: a service must answer it, and the profile must not be that of an MX.
    fn offers_auth(&self) -> bool {
        self.pipeline.auth.is_some() && self.profile != Some(Profile::Mx)
    }

    fn check(&self, config: &DriverConfig) -> Result<(), BoxError> {
        if let Some(missing) = self.missing(config.get_config()) {
            return Err(missing.into());
        }
        if self.begins_with_tls() {
            config.get_config().check()?;
        } else {
            config.check_plaintext()?;
        }
        Ok(())
    }

    /// Returns what is missing that the profile, or TLS, requires.
    fn missing(&self, config: &Config) -> Option<&'static str> {
        let has_auth = config.get_mechanisms().is_some_and(|all| !all.is_empty());
        let is_submission = self.profile.is_some_and(Profile::is_submission);
        let has_tls = self.within_tls || self.has_tls();
        let requirements = [
            (
                self.profile == Some(Profile::Mx) && self.domains.is_none(),
                "Profile::Mx needs Server::domains",
            ),
            (
                is_submission && config.is_auth_required() && !has_auth,
                "a profile for submission needs an AUTH service and a mechanism",
            ),
            (
                is_submission && config.is_tls_required() && !has_tls,
                "a profile for submission needs a TLS configuration",
            ),
            (
                self.begins_with_tls() && !has_tls,
                "TLS from the first byte needs a TLS configuration",
            ),
        ];
        requirements
            .into_iter()
            .find_map(|(is_missing, text)| is_missing.then_some(text))
    }

    /// Returns the services, in the layers with which the profile rejects recipients and messages.
    fn guarded_pipeline(&self) -> Pipeline {
        let mut pipeline = self.pipeline.clone();
        if let (Some(Profile::Mx), Some(domains)) = (self.profile, &self.domains) {
            let filter = DomainFilterLayer::new(domains.clone());
            let guard = |rcpt| BoxPhaseService::new(filter.layer(rcpt));
            pipeline.rcpt = pipeline.rcpt.map(guard);
        }
        if let Some(hops) = self.max_hops() {
            let hops = HopLimitLayer::new(hops);
            let guard = |data| BoxPhaseService::new(hops.layer(data));
            pipeline.data = pipeline.data.map(guard);
        }
        pipeline
    }

    /// Returns how many `Received` fields a message may have, or `None` if they are not counted.
    pub(super) fn max_hops(&self) -> Option<u32> {
        match self.max_hops {
            MaxHops::ByProfile => self.profile.map(|_| HopLimitLayer::DEFAULT),
            MaxHops::AtMost(hops) => Some(hops),
            MaxHops::Unlimited => None,
        }
    }

    fn has_metrics(&self) -> bool {
        #[cfg(feature = "metrics")]
        let has_metrics = self.metrics;
        #[cfg(not(feature = "metrics"))]
        let has_metrics = false;
        has_metrics
    }

    fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        let has_tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        has_tls
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("config", &self.config)
            .field("profile", &self.profile)
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::{
        reply::Reply,
        sasl::{Identity, Login},
    };

    use super::*;
    use crate::{
        phase::{Auth, Rcpt, Request},
        server::Server,
        service::handler_fn,
    };

    fn pipeline() -> Pipeline {
        Pipeline::new().rcpt(handler_fn(async |_: Request<Rcpt>| {}))
    }

    fn with_users() -> Pipeline {
        pipeline().auth(handler_fn(async |_: Request<Auth>| {
            Err::<Identity, _>(Reply::auth_failed())
        }))
    }

    fn domains() -> Domains {
        Domains::parse(["a.test"]).unwrap()
    }

    fn missing(server: &Server) -> Option<&'static str> {
        let settings = &server.settings;
        settings.missing(&settings.resolved_config())
    }

    fn mechanisms(server: &Server) -> usize {
        let config = server.settings.resolved_config();
        config.get_mechanisms().unwrap().iter().count()
    }

    #[test]
    fn what_a_profile_cannot_do_without_is_missed_before_a_client_comes() {
        let users = Server::new("mx.test", with_users());
        let nobody = Server::new("mx.test", pipeline());
        let open = |config: Config| config.require_tls(false);
        for (server, profile, expected) in [
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
            assert_eq!(missing(&server), Some(expected), "{profile}");
        }
        for server in [
            nobody.clone().profile(Profile::Lmtp),
            nobody.clone().domains(domains()).profile(Profile::Mx),
            users.clone().profile(Profile::Submission).configure(open),
            users,
            nobody,
        ] {
            assert_eq!(missing(&server), None, "{server:?}");
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
    }

    #[test]
    fn submission_needs_a_mechanism_beside_a_service() {
        let users = Server::new("mx.test", with_users()).profile(Profile::Submission);
        let open = users.configure(|config| config.require_tls(false));
        assert_eq!(missing(&open), None);
        let without = open.configure(|config| config.mechanisms(Mechanisms::none()));
        assert_eq!(
            missing(&without),
            Some("a profile for submission needs an AUTH service and a mechanism")
        );
    }

    /// Calls each function once, in every order.
    fn in_all_orders(server: &Server, rest: &[fn(Server) -> Server], see: &mut dyn FnMut(Server)) {
        if rest.is_empty() {
            return see(server.clone());
        }
        for at in 0..rest.len() {
            let mut others = rest.to_vec();
            let call = others.remove(at);
            in_all_orders(&call(server.clone()), &others, see);
        }
    }

    #[test]
    fn the_order_of_builder_calls_does_not_matter() {
        let calls: [fn(Server) -> Server; 7] = [
            |server| server.profile(Profile::Submission),
            |server| server.configure(|config| config.require_tls(false)),
            |server| server.configure(|config| config.allow_insecure_auth(true)),
            |server| server.configure(|c| c.mechanisms(Mechanisms::default().without(Login))),
            |server| server.pipeline(with_users()),
            |server| server.max_hops(7),
            |server| server.domains(domains()).max_sessions(3),
        ];
        let mut orders = 0;
        in_all_orders(&Server::new("mx.test", pipeline()), &calls, &mut |server| {
            orders += 1;
            let config = server.settings.resolved_config();
            assert!(!config.is_tls_required(), "it was set to false");
            assert!(config.is_auth_required(), "the profile requires it");
            assert_eq!(mechanisms(&server), 1, "PLAIN alone was chosen");
            // Without TLS and without this, PLAIN would be of no use.
            assert_eq!(server.settings.driver_config().check_plaintext(), Ok(()));
            assert!(matches!(server.settings.max_hops, MaxHops::AtMost(7)));
            assert_eq!(server.settings.max_sessions, 3);
            assert!(server.settings.engine(ShuttingDown::default()).is_ok());
        });
        assert_eq!(orders, 5040);
    }

    #[test]
    fn a_second_pipeline_keeps_the_mechanisms_that_were_chosen() {
        let few = Mechanisms::default().without(Login);
        let server =
            Server::new("mx.test", with_users()).configure(|config| config.mechanisms(few));
        let server = server.pipeline(pipeline()).pipeline(with_users());
        assert_eq!(mechanisms(&server), 1);
        assert_eq!(mechanisms(&server.profile(Profile::Submissions)), 1);
    }

    #[test]
    fn a_profile_that_is_replaced_leaves_nothing_behind() {
        let server = Server::new("mx.test", with_users());
        let server = server.profile(Profile::Submissions).profile(Profile::Lmtp);
        let config = server.settings.resolved_config();
        assert!(!config.is_tls_required() && !config.is_auth_required());
        assert!(!server.settings.begins_with_tls());
    }
}
