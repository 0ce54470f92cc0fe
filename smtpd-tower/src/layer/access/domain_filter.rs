use smtpd_core::reply::Reply;

use crate::{
    domains::{Domains, DomainsError},
    layer::{Admit, compose::rule_layer},
    phase::{Rcpt, Request},
    reload::Reloadable,
};

/// Accepts recipients of the given domains only, and rejects all others with 550 5.7.1.
///
/// [`Domains`] describes how domains are compared; a subdomain is another domain. `<Postmaster>` without a domain passes, as RFC
/// 5321 section 4.5.1 requires. It fits RCPT only.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Request, Session, handler_fn, layer::DomainFilterLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(DomainFilterLayer::parse(["example.org"])?)
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let ask = |address: &str| {
///     let rcpt = rcpt.clone();
///     let request = address
///         .parse()
///         .map(|path| Request::new(Session::local(), Rcpt::new(path)));
///     async move {
///         Ok::<_, Box<dyn std::error::Error>>(
///             rcpt.oneshot(request?).await?.code().as_u16(),
///         )
///     }
/// };
/// assert_eq!(ask("user@Example.Org").await?, 250);
/// assert_eq!(ask("user@example.com").await?, 550);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DomainFilterLayer {
    domains: Reloadable<Domains>,
}

impl DomainFilterLayer {
    /// Accepts recipients of these domains only.
    ///
    /// The list may change while the server runs: see [`Reloadable`].
    pub fn new(domains: impl Into<Reloadable<Domains>>) -> Self {
        Self {
            domains: domains.into(),
        }
    }

    /// Like [`new`](Self::new), with the domains as [`Domains::parse`] reads them.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is not a domain.
    pub fn parse<T: AsRef<str>>(
        domains: impl IntoIterator<Item = T>,
    ) -> Result<Self, DomainsError> {
        Domains::parse(domains).map(Self::new)
    }
}

rule_layer!(DomainFilterLayer);

impl Admit<Rcpt> for DomainFilterLayer {
    fn admit(&self, request: &Request<Rcpt>) -> Result<(), Reply> {
        let is_ours = |domain| self.domains.with(|domains| domains.contains(domain));
        match request.domain() {
            Some(domain) if !is_ours(domain) => Err(Reply::relay_denied()),
            _ => Ok(()),
        }
    }
}
