use std::sync::Arc;

use smtpd_core::Reply;

use crate::{
    domains::DomainSet,
    layer::{Admit, compose::rule_layer},
    phase::{Rcpt, Request},
};

/// Lets recipients of the given domains pass, and refuses all others with 550 5.7.1.
///
/// Domains are compared in any case (RFC 5321 section 2.4), and in A-labels as in U-labels (RFC 5890 section 2.3.2.4); a
/// sub-domain is another domain. `<Postmaster>` without a domain passes,
/// as RFC 5321 section 4.5.1 demands. It fits the RCPT phase only; around another it does not compile.
///
/// ```
/// use smtpd_tower::{Rcpt, Request, Session, handler_fn, layer::DomainFilterLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rcpt = ServiceBuilder::new()
///     .layer(DomainFilterLayer::new(["example.org"]))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let ask = |address: &str| {
///     let rcpt = rcpt.clone();
///     let request = address.parse().map(|path| Request::new(Session::local(), Rcpt::new(path)));
///     async move { Ok::<_, Box<dyn std::error::Error>>(rcpt.oneshot(request?).await?.code().as_u16()) }
/// };
/// assert_eq!(ask("user@Example.Org").await?, 250);
/// assert_eq!(ask("user@example.com").await?, 550);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DomainFilterLayer {
    domains: Arc<DomainSet>,
}

impl DomainFilterLayer {
    /// Lets these domains pass.
    pub fn new<T: AsRef<str>>(domains: impl IntoIterator<Item = T>) -> Self {
        Self {
            domains: Arc::new(domains.into_iter().collect()),
        }
    }
}

rule_layer!(DomainFilterLayer);

impl Admit<Rcpt> for DomainFilterLayer {
    fn admit(&self, request: &Request<Rcpt>) -> Result<(), Reply> {
        match request.recipient().mailbox() {
            Some(mailbox) if !self.domains.contains(mailbox.domain()) => Err(Reply::relay_denied()),
            _ => Ok(()),
        }
    }
}
