use std::{fmt, sync::Arc};

use smtpd_core::{
    address::{AddressRules, Mailbox},
    reply::{Code, Reply, Status},
    sasl::Identity,
};

use crate::{
    domains::Domains,
    layer::{Admit, compose::rule_layer},
    phase::{Mail, Request},
    reload::Reloadable,
};

/// Accepts the senders that a user owns, and rejects others with 550 5.7.1 (RFC 6409 section 6.1).
///
/// Clients that have not authenticated are rejected with 530 5.7.0. Every user owns the empty sender, which message disposition
/// notifications must have (RFC 8098 section 3). It fits MAIL only. If the pipeline also accepts mail from other servers, put
/// this layer into a [`CondLayer`](crate::layer::CondLayer) that checks [`Session::profile`](crate::session::Session::profile).
///
/// [The guide](crate::guide::authentication#who-may-send-as-whom) shows how to ask a database instead.
///
/// ```
/// use smtpd_tower::{
///     Mail, Request, Session, domains::Domains, handler_fn, layer::OwnSenderLayer,
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = ServiceBuilder::new()
///     .layer(OwnSenderLayer::in_domains(Domains::parse(["example.org"])?))
///     .service(handler_fn(async |_: Request<Mail>| {}));
/// let session = Session::local().with_identity("alice");
/// let ask = |sender: &str| {
///     sender.parse().map(|path| {
///         mail.clone().oneshot(Request::new(session.clone(), Mail::new(path)))
///     })
/// };
///
/// assert_eq!(ask("alice@example.org")?.await?.code().as_u16(), 250);
/// assert_eq!(
///     ask("bob@example.org")?.await?.to_string(),
///     "550 5.7.1 This sender is not you"
/// );
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct OwnSenderLayer<O = ByName> {
    owner: O,
}

/// Users own the addresses that are named like them. See [`OwnSenderLayer::in_domains`].
#[derive(Clone, Debug)]
pub struct ByName {
    rules: AddressRules,
    /// All domains, if there is no list.
    domains: Option<Reloadable<Domains>>,
}

/// A function says who owns an address. See [`OwnSenderLayer::new`].
#[derive(Clone)]
pub struct ByFunction {
    owns: Arc<Owns>,
}

type Owns = dyn Fn(&Identity, &Mailbox) -> bool + Send + Sync;

impl OwnSenderLayer<ByFunction> {
    /// Lets a user send as each address for which `owns` returns true.
    pub fn new(owns: impl Fn(&Identity, &Mailbox) -> bool + Send + Sync + 'static) -> Self {
        let owns = Arc::new(owns);
        Self {
            owner: ByFunction { owns },
        }
    }
}

impl OwnSenderLayer {
    /// Lets the user `alice` send as `alice` at each of these domains, and a user whose name is an address as that address only.
    ///
    /// The list may change while the server runs: see [`Reloadable`].
    pub fn in_domains(domains: impl Into<Reloadable<Domains>>) -> Self {
        Self::by_name(Some(domains.into()))
    }

    /// Like [`in_domains`](Self::in_domains), with every domain.
    pub const fn in_any_domain() -> Self {
        Self::by_name(None)
    }

    /// Sets the rules by which a user name and an address are compared. Default: [`AddressRules::new`], so case matters, and the
    /// user `alice` may send neither as `Alice@example.org` nor as `alice+news@example.org`.
    ///
    /// ```
    /// use smtpd_tower::{
    ///     address::AddressRules, domains::Domains, layer::OwnSenderLayer,
    /// };
    ///
    /// // Alice@example.org and alice+news@example.org are the user `alice`, too.
    /// let rules =
    ///     AddressRules::new().ignore_case(true).recipient_delimiter('+');
    /// let layer = OwnSenderLayer::in_domains(Domains::parse(["example.org"])?)
    ///     .address_rules(rules);
    /// # let _ = layer;
    /// # Ok::<(), smtpd_tower::domains::DomainsError>(())
    /// ```
    #[must_use]
    pub const fn address_rules(mut self, rules: AddressRules) -> Self {
        self.owner.rules = rules;
        self
    }

    const fn by_name(domains: Option<Reloadable<Domains>>) -> Self {
        let rules = AddressRules::new();
        Self {
            owner: ByName { rules, domains },
        }
    }
}

impl ByName {
    fn owns(&self, user: &Identity, sender: &Mailbox) -> bool {
        let is_ours = |domains: &Domains| domains.contains(sender.domain());
        let ours = self.domains.as_ref();
        ours.is_none_or(|domains| domains.with(is_ours))
            && self.rules.is_of_user(sender, user.as_str())
    }
}

impl<O> fmt::Debug for OwnSenderLayer<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnSenderLayer").finish_non_exhaustive()
    }
}

impl fmt::Debug for ByFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByFunction").finish_non_exhaustive()
    }
}

rule_layer!(OwnSenderLayer<ByName>);
rule_layer!(OwnSenderLayer<ByFunction>);

impl Admit<Mail> for OwnSenderLayer<ByName> {
    fn admit(&self, request: &Request<Mail>) -> Result<(), Reply> {
        admit(request, |user, sender| self.owner.owns(user, sender))
    }
}

impl Admit<Mail> for OwnSenderLayer<ByFunction> {
    fn admit(&self, request: &Request<Mail>) -> Result<(), Reply> {
        admit(request, &*self.owner.owns)
    }
}

fn admit(request: &Request<Mail>, owns: impl Fn(&Identity, &Mailbox) -> bool) -> Result<(), Reply> {
    let user = request.session().identity();
    let user = user.ok_or_else(Reply::auth_required)?;
    match request.sender().mailbox() {
        Some(sender) if !owns(user, sender) => Err(Reply::new(
            Code::MAILBOX_UNAVAILABLE,
            Status::DENIED,
            "This sender is not you",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;

    fn ask(layer: &impl Admit<Mail>, session: Session, sender: &str) -> u16 {
        let request = Request::new(session, Mail::new(sender.parse().unwrap()));
        let refusal = layer.admit(&request).err();
        refusal.map_or(250, |reply| reply.code().as_u16())
    }

    const ADDRESS_AS_NAME: &str = "\"alice@example.org\"@example.org";

    #[test]
    fn addresses_of_users() {
        let layer = OwnSenderLayer::in_domains(
            Domains::parse(["example.org", "gr\u{e5}.example"]).unwrap(),
        );
        for (user, sender, code) in [
            ("alice", "alice@example.org", 250),
            ("alice", r#""alice"@EXAMPLE.org"#, 250),
            ("alice", "alice@xn--gr-zia.example", 250),
            ("alice", "", 250),
            ("m\u{fc}ller", "mu\u{308}ller@example.org", 250),
            ("m\u{fc}ller", "m\u{fc}ller@example.org", 250),
            ("m\u{fc}ller", "muller@example.org", 550),
            ("fix", "\u{fb01}x@example.org", 550),
            ("alice", "Alice@example.org", 550),
            ("alice", "alice@example.com", 550),
            ("alice", "alice@sub.example.org", 550),
            ("alice", "bob@example.org", 550),
            ("alice@example.org", "alice@Example.org", 250),
            ("alice@gr\u{e5}.example", "alice@xn--gr-zia.example", 250),
            ("alice@example.org", "alice@gr\u{e5}.example", 550),
            ("alice@example.com", "alice@example.com", 550),
            ("alice@example.org", "bob@example.org", 550),
            ("", "alice@example.org", 550),
            ("alice@example.org", ADDRESS_AS_NAME, 550),
            (
                "alice@example.org",
                "\"alice@example.org\"@gr\u{e5}.example",
                550,
            ),
        ] {
            let session = Session::local().with_identity(user);
            assert_eq!(ask(&layer, session, sender), code, "{user} {sender}");
        }
    }

    #[test]
    fn a_name_that_is_an_address_owns_nothing_in_other_domains() {
        let layer = OwnSenderLayer::in_any_domain();
        for (user, sender, code) in [
            ("alice", "alice@other.net", 250),
            ("alice", "bob@other.net", 550),
            ("m\u{fc}ller", "mu\u{308}ller@other.net", 250),
            ("m\u{fc}ller@other.net", "mu\u{308}ller@other.net", 250),
            ("m\u{fc}ller@other.net", "mu\u{308}ller@example.org", 550),
            ("fix@other.net", "\u{fb01}x@other.net", 550),
            ("alice@example.org", "alice@EXAMPLE.org", 250),
            ("alice@example.org", "alice@other.net", 550),
            ("alice@example.org", ADDRESS_AS_NAME, 550),
            ("alice@example.org", "\"alice@example.org\"@other.net", 550),
        ] {
            let session = Session::local().with_identity(user);
            assert_eq!(ask(&layer, session, sender), code, "{user} {sender}");
        }
    }

    #[test]
    fn a_capital_letter_or_a_detail_makes_a_sender_somebody_else() {
        let rules = AddressRules::new()
            .ignore_case(true)
            .recipient_delimiter('+');
        let domains = Reloadable::new(Domains::parse(["example.org"]).unwrap());
        let layer = OwnSenderLayer::in_domains(domains.clone()).address_rules(rules);
        for (user, sender, code) in [
            ("alice", "Alice@example.org", 250),
            ("ALICE", "alice@example.org", 250),
            ("alice", "alice+news@example.org", 250),
            ("alice@Example.org", "ALICE+news@example.org", 250),
            ("alice+news", "alice@example.org", 550),
            ("alice", "bob+alice@example.org", 550),
            ("alice", "+alice@example.org", 550),
            ("alice", "alice@example.net", 550),
            ("alice@example.org", ADDRESS_AS_NAME, 550),
            (
                "alice@example.org",
                "\"alice@example.org\"@example.net",
                550,
            ),
        ] {
            let session = Session::local().with_identity(user);
            assert_eq!(ask(&layer, session, sender), code, "{user} {sender}");
        }
        domains.set(Domains::parse(["example.net"]).unwrap());
        let session = Session::local().with_identity("alice");
        assert_eq!(ask(&layer, session, "alice@example.net"), 250);
    }

    #[test]
    fn a_postmaster_in_capital_letters_is_somebody_else() {
        let layer = OwnSenderLayer::in_any_domain();
        for (user, sender) in [
            ("postmaster", "POSTMASTER@example.org"),
            ("Postmaster@example.org", "postmaster@example.org"),
        ] {
            let session = Session::local().with_identity(user);
            assert_eq!(ask(&layer, session, sender), 250, "{user} {sender}");
        }
    }

    #[test]
    fn strangers_own_nothing_and_users_what_a_closure_says() {
        let layer = OwnSenderLayer::new(|user, _| user.as_str() == "root");
        assert_eq!(ask(&layer, Session::local(), "a@b.test"), 530);
        assert_eq!(ask(&layer, Session::local(), ""), 530);
        for (user, code) in [("root", 250), ("alice", 550)] {
            let session = Session::local().with_identity(user);
            assert_eq!(ask(&layer, session, "a@b.test"), code);
        }
    }
}
