use smtpd_core::config::Config;

use super::Server;
#[cfg(feature = "proxy")]
use crate::proxy::ProxyProtocol;
use crate::{guard::Guard, memory::MemoryBudget, net::TrustedPeers, service::Pipeline};

/// Getters of the settings.
impl Server {
    /// Returns the pipeline.
    pub const fn get_pipeline(&self) -> &Pipeline {
        &self.settings.pipeline
    }

    /// Returns the settings of the protocol that [`configure`](Self::configure) has made. The profile and the pipeline decide
    /// about the others when a listener is served.
    pub const fn get_config(&self) -> &Config {
        &self.settings.config
    }

    /// Returns what [`tls`](Self::tls) set, for example to [reload](crate::tls::TlsConfig::reload) it.
    #[cfg(feature = "tls")]
    pub const fn get_tls(&self) -> Option<&crate::tls::TlsConfig> {
        self.settings.tls.as_ref()
    }

    /// Returns what [`proxy_protocol`](Self::proxy_protocol) set.
    #[cfg(feature = "proxy")]
    pub const fn get_proxy_protocol(&self) -> Option<&ProxyProtocol> {
        self.settings.proxy.as_ref()
    }

    /// Returns the guard, for example to see who is refused.
    pub const fn get_guard(&self) -> &Guard {
        self.settings.guard.get()
    }

    /// Returns what [`xclient_from`](Self::xclient_from) set.
    pub const fn get_xclient_from(&self) -> Option<&TrustedPeers> {
        self.settings.xclient_from.as_ref()
    }

    /// Returns what [`xforward_from`](Self::xforward_from) set.
    pub const fn get_xforward_from(&self) -> Option<&TrustedPeers> {
        self.settings.xforward_from.as_ref()
    }

    /// Returns what [`max_sessions`](Self::max_sessions) set.
    pub const fn get_max_sessions(&self) -> usize {
        self.settings.max_sessions
    }

    /// Returns what [`memory_budget`](Self::memory_budget) set, to see what is used of it.
    pub const fn get_memory_budget(&self) -> &MemoryBudget {
        &self.settings.memory
    }
}
