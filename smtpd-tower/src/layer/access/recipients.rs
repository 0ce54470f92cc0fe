use std::sync::Arc;

use smtpd_core::{address::ForwardPath, reply::Reply};

use crate::{
    addresses::{Addresses, AddressesError},
    layer::{Admit, compose::rule_layer},
    phase::{Rcpt, Request},
    reload::Reloadable,
};

/// Accepts the recipients of a list only, and rejects all others with 550 5.1.1.
///
/// [`Addresses`] describes the entries: mailboxes, whole domains and their subdomains. The postmaster passes, as RFC 5321 section
/// 4.5.1 requires: `<Postmaster>` without a domain, and `postmaster` in any case at each domain in which the list has a mailbox.
/// It fits RCPT only. A [`DomainFilterLayer`](crate::layer::DomainFilterLayer) outside of it tells clients that want to relay so.
///
/// ```
/// use smtpd_tower::{
///     Rcpt, Request, Session, address::AddressRules, addresses::Addresses,
///     handler_fn, layer::RecipientsLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rules = AddressRules::new().ignore_case(true).recipient_delimiter('+');
/// let users = Addresses::parse_by(rules, ["alice@example.org"])?;
/// let rcpt = ServiceBuilder::new()
///     .layer(RecipientsLayer::new(users))
///     .service(handler_fn(async |_: Request<Rcpt>| {}));
/// let ask = |address: &str| {
///     address.parse().map(|path| {
///         let request = Request::new(Session::local(), Rcpt::new(path));
///         rcpt.clone().oneshot(request)
///     })
/// };
/// assert_eq!(ask("Alice+news@example.org")?.await?.code().as_u16(), 250);
/// assert_eq!(
///     ask("bob@example.org")?.await?.to_string(),
///     "550 5.1.1 No such user"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RecipientsLayer {
    addresses: Reloadable<Addresses>,
    reply: Arc<Reply>,
}

impl RecipientsLayer {
    /// Accepts these recipients only.
    ///
    /// The list may change while the server runs: see [`Reloadable`].
    pub fn new(addresses: impl Into<Reloadable<Addresses>>) -> Self {
        Self {
            addresses: addresses.into(),
            reply: Reply::no_such_user().into(),
        }
    }

    /// Like [`new`](Self::new), with the addresses as [`Addresses::parse`] reads them.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is not an entry.
    pub fn parse<T: AsRef<str>>(
        addresses: impl IntoIterator<Item = T>,
    ) -> Result<Self, AddressesError> {
        Addresses::parse(addresses).map(Self::new)
    }

    /// Sets the reply to a recipient that is rejected. Default: 550 5.1.1.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        self.reply = reply.into();
        self
    }
}

rule_layer!(RecipientsLayer);

impl Admit<Rcpt> for RecipientsLayer {
    fn admit(&self, request: &Request<Rcpt>) -> Result<(), Reply> {
        let recipient = request.recipient();
        let is_known =
            |list: &Addresses| list.has_recipient(recipient) || is_postmaster(recipient, list);
        match self.addresses.with(is_known) {
            true => Ok(()),
            false => Err(Reply::clone(&self.reply)),
        }
    }
}

fn is_postmaster(recipient: &ForwardPath, list: &Addresses) -> bool {
    match recipient.mailbox() {
        Some(mailbox) => list.is_for_postmaster(mailbox) && list.has_domain(mailbox.domain()),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::address::AddressRules;
    use tower::{ServiceBuilder, ServiceExt};

    use super::*;
    use crate::{service::handler_fn, session::Session};

    async fn ask(layer: &RecipientsLayer, recipient: &str) -> u16 {
        let rcpt = ServiceBuilder::new()
            .layer(layer.clone())
            .service(handler_fn(async |_: Request<Rcpt>| {}));
        let rcpt = rcpt.oneshot(Request::new(
            Session::local(),
            Rcpt::new(recipient.parse().unwrap()),
        ));
        rcpt.await.unwrap().code().as_u16()
    }

    #[tokio::test]
    async fn the_postmaster_of_a_domain_is_unknown() {
        let entries = ["alice@example.org", "*@*.example.net"];
        let rules = AddressRules::new().recipient_delimiter('+');
        let layer = RecipientsLayer::new(Addresses::parse_by(rules, entries).unwrap());
        for (recipient, code) in [
            ("alice@example.org", 250),
            ("alice+x@example.org", 250),
            ("Alice@example.org", 550),
            ("bob@example.org", 550),
            ("postmaster@example.org", 250),
            ("POSTMASTER@Example.org", 250),
            (r#""PostMaster"@example.org"#, 250),
            ("Postmaster+x@example.org", 250),
            ("postmaster@a.example.net", 250),
            ("postmaster@example.net", 550),
            ("postmaster@example.com", 550),
            ("Postmaster", 250),
            ("POSTMASTER", 250),
        ] {
            assert_eq!(ask(&layer, recipient).await, code, "{recipient}");
        }
        let none = RecipientsLayer::new(Addresses::default());
        assert_eq!(ask(&none, "postmaster").await, 250);
    }

    #[tokio::test]
    async fn a_user_who_was_added_is_unknown_until_a_restart() {
        let list = Reloadable::new(Addresses::default());
        let layer = RecipientsLayer::new(list.clone()).reply(Reply::busy());
        assert_eq!(ask(&layer, "bob@example.org").await, 451);
        list.set(Addresses::parse(["bob@example.org"]).unwrap());
        assert_eq!(ask(&layer, "bob@example.org").await, 250);
    }

    #[test]
    fn a_list_with_a_typing_error_makes_no_layer() {
        let error = RecipientsLayer::parse(["alice@example.org", "bob"]).unwrap_err();
        assert_eq!(error.input(), "bob");
    }
}
