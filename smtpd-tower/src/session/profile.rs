use std::fmt;

/// What a listener is for, which decides what is usual there; see [`Server::profile`].
///
/// | | [`Mx`](Self::Mx) | [`Submission`](Self::Submission) | [`Submissions`](Self::Submissions) | [`Lmtp`](Self::Lmtp) |
/// |---|---|---|---|---|
/// | clients | other servers | users | users | the server in front of this one |
/// | usual port | 25 | 587 | 465 | a Unix socket |
/// | TLS | STARTTLS, if there is a certificate | STARTTLS, required | from the first byte | as for MX |
/// | AUTH | none | within TLS, required | required | within TLS, if there is a service |
/// | recipients | of [`Server::domains`] only | the pipeline decides | the pipeline decides | the pipeline decides |
/// | faults in addresses | none are accepted, see [`Config::leniency`]; [`Leniency::COMMON`] is a good choice | none | none | none |
/// | messages in a loop | rejected, see [`Server::max_hops`] | rejected | rejected | rejected |
///
/// No profile sets a leniency. The reference server sets `Leniency::COMMON` for `Mx`, and nothing for the others.
///
/// [`Config::leniency`]: smtpd_core::Config::leniency
/// [`Leniency::COMMON`]: smtpd_core::address::Leniency::COMMON
/// [`Server::domains`]: crate::server::Server::domains
/// [`Server::max_hops`]: crate::server::Server::max_hops
/// [`Server::profile`]: crate::server::Server::profile
///
/// [The guide](crate::guide::listeners) explains them, and has [checklists](crate::guide::security) for each before it goes
/// live.
///
/// ```
/// use smtpd_tower::{
///     Profile, Rcpt, Request, Session, handler_fn,
///     layer::{CondLayer, DomainFilterLayer},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // One pipeline for all: LMTP delivers to these domains, users send to any.
/// let is_delivery = |request: &Request<Rcpt>| {
///     request.session().profile() == Some(Profile::Lmtp)
/// };
/// let rcpt = ServiceBuilder::new()
///     .layer(CondLayer::new(
///         is_delivery,
///         DomainFilterLayer::parse(["example.org"])?,
///     ))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let path: smtpd_tower::address::ForwardPath = "user@example.com".parse()?;
/// let ask = |profile| {
///     let session = Session::local().with_profile(profile);
///     rcpt.clone().oneshot(Request::new(session, Rcpt::new(path.clone())))
/// };
///
/// assert_eq!(ask(Profile::Submission).await?.code().as_u16(), 250);
/// assert_eq!(ask(Profile::Lmtp).await?.code().as_u16(), 550);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// Mail from other servers for your own domains: the server must not be an open relay (RFC 5321 section 7.9), and must not
    /// require TLS (RFC 3207 section 4).
    Mx,
    /// Mail from users (RFC 6409): neither AUTH before TLS (RFC 8314 section 3.3), nor mail before AUTH (RFC 6409 section 4.3).
    Submission,
    /// Like `Submission`, with TLS from the first byte (RFC 8314 section 3.3).
    Submissions,
    /// Delivery by LMTP (RFC 2033), from a server that has done all that. Every client that can reach the listener is trusted, so
    /// it belongs on a Unix socket or a local address, or behind a RCPT service that requires an identity.
    Lmtp,
}

impl Profile {
    /// Returns whether the clients are users, who authenticate.
    pub const fn is_submission(self) -> bool {
        matches!(self, Self::Submission | Self::Submissions)
    }

    /// Returns the name, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Submission => "submission",
            Self::Submissions => "submissions",
            Self::Lmtp => "lmtp",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
