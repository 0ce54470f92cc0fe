use std::sync::Arc;

use smtpd_core::{address::AddressRules, reply::Reply};

use crate::{
    addresses::{Addresses, AddressesError},
    layer::{Admit, compose::rule_layer},
    phase::{Mail, Request},
    reload::Reloadable,
};

/// Rejects the senders of a list with 550 5.7.1, and accepts all others.
///
/// [`Addresses`] describes the entries: mailboxes, whole domains and their subdomains. The null sender, with which servers report
/// failures (RFC 5321 section 4.5.5), passes unless the list has `<>`. It fits MAIL only.
///
/// ```
/// use smtpd_tower::{
///     Mail, Request, Session, handler_fn, layer::DenySendersLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = ServiceBuilder::new()
///     .layer(DenySendersLayer::parse(["eve@example.com", "*@*.spam.example"])?)
///     .service(handler_fn(async |_: Request<Mail>| {}));
/// let ask = |sender: &str| {
///     sender.parse().map(|path| {
///         mail.clone().oneshot(Request::new(Session::local(), Mail::new(path)))
///     })
/// };
/// assert_eq!(ask("alice@example.com")?.await?.code().as_u16(), 250);
/// assert_eq!(
///     ask("offers@list7.spam.example")?.await?.to_string(),
///     "550 5.7.1 Sender address not allowed"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct DenySendersLayer {
    addresses: Reloadable<Addresses>,
    reply: Arc<Reply>,
}

impl DenySendersLayer {
    /// Rejects these senders.
    ///
    /// The list may change while the server runs: see [`Reloadable`].
    pub fn new(addresses: impl Into<Reloadable<Addresses>>) -> Self {
        Self {
            addresses: addresses.into(),
            reply: Reply::sender_refused().into(),
        }
    }

    /// Like [`new`](Self::new), with the addresses as [`Addresses::parse`] reads them, but without regard to case: `Eve@example.com`
    /// is rejected as `eve@example.com` is.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first text that is not an entry.
    pub fn parse<T: AsRef<str>>(
        addresses: impl IntoIterator<Item = T>,
    ) -> Result<Self, AddressesError> {
        let rules = AddressRules::new().ignore_case(true);
        Addresses::parse_by(rules, addresses).map(Self::new)
    }

    /// Sets the reply to a sender that is rejected. Default: 550 5.7.1.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        self.reply = reply.into();
        self
    }
}

rule_layer!(DenySendersLayer);

impl Admit<Mail> for DenySendersLayer {
    fn admit(&self, request: &Request<Mail>) -> Result<(), Reply> {
        match self
            .addresses
            .with(|list| list.has_sender(request.sender()))
        {
            true => Err(Reply::clone(&self.reply)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt};

    use super::*;
    use crate::{service::handler_fn, session::Session};

    async fn ask(layer: &DenySendersLayer, sender: &str) -> u16 {
        let mail = ServiceBuilder::new()
            .layer(layer.clone())
            .service(handler_fn(async |_: Request<Mail>| {}));
        let sender = Mail::new(sender.parse().unwrap());
        let reply = mail.oneshot(Request::new(Session::local(), sender)).await;
        reply.unwrap().code().as_u16()
    }

    #[tokio::test]
    async fn a_denied_sender_passes_when_it_is_written_in_another_way() {
        let layer = DenySendersLayer::parse(["eve@gr\u{e5}.example", "*@spam.example"]).unwrap();
        for (sender, code) in [
            (r#""eve"@XN--gr-zia.example"#, 550),
            ("EVE@gr\u{c5}.example", 550),
            ("adam@xn--gr-zia.example", 250),
            ("anyone@SPAM.example", 550),
            ("", 250),
        ] {
            assert_eq!(ask(&layer, sender).await, code, "{sender}");
        }
    }

    #[tokio::test]
    async fn a_list_that_changes_is_the_old_one_until_a_restart() {
        let list = Reloadable::new(Addresses::default());
        let layer = DenySendersLayer::new(list.clone()).reply(Reply::busy());
        assert_eq!(ask(&layer, "").await, 250);
        list.set(Addresses::parse(["<>"]).unwrap());
        assert_eq!(ask(&layer, "").await, 451);
    }
}
