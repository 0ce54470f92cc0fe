use std::{fmt, sync::Arc};

use smtpd_core::{Code, Mailbox, Reply, Status, sasl::Identity};
use unicode_normalization::UnicodeNormalization;

use crate::{
    domains::{Domains, canonical},
    layer::{Admit, compose::rule_layer},
    phase::{Mail, Request},
};

/// Accepts the senders that a user owns, and rejects others with 550 5.7.1 (RFC 6409 section 6.1).
///
/// Clients that have not authenticated are rejected with 530 5.7.0. Every user owns the empty sender, which message disposition
/// notifications must have (RFC 8098 section 3). It fits MAIL only. If the pipeline also accepts mail from other servers, put
/// this layer into a [`CondLayer`](crate::layer::CondLayer) that checks [`Session::profile`](crate::session::Session::profile).
///
/// ```
/// use smtpd_tower::{Domains, Mail, Request, Session, handler_fn, layer::OwnSenderLayer};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mail = ServiceBuilder::new()
///     .layer(OwnSenderLayer::in_domains(Domains::parse(["example.org"])?))
///     .service(handler_fn(async |_: Request<Mail>| {}));
/// let session = Session::local().with_identity("alice");
/// let ask = |sender: &str| sender.parse().map(|path| mail.clone().oneshot(Request::new(session.clone(), Mail::new(path))));
///
/// assert_eq!(ask("alice@example.org")?.await?.code().as_u16(), 250);
/// assert_eq!(ask("bob@example.org")?.await?.to_string(), "550 5.7.1 This sender is not you");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct OwnSenderLayer {
    owns: Arc<Owns>,
}

type Owns = dyn Fn(&Identity, &Mailbox) -> bool + Send + Sync;

impl OwnSenderLayer {
    /// Lets a user send as each address for which `owns` returns true.
    pub fn new(owns: impl Fn(&Identity, &Mailbox) -> bool + Send + Sync + 'static) -> Self {
        Self {
            owns: Arc::new(owns),
        }
    }

    /// Lets the user `alice` send as `alice` at each of these domains, and a user whose name is an address as that address only.
    ///
    /// Names are compared with their case; accents may be written in either way (NFC or NFD).
    pub fn in_domains(domains: Domains) -> Self {
        Self::new(move |user, sender| {
            domains.contains(sender.domain()) && is_named(user.as_str(), sender)
        })
    }

    /// Like [`in_domains`](Self::in_domains), with every domain.
    pub fn in_any_domain() -> Self {
        Self::new(|user, sender| is_named(user.as_str(), sender))
    }
}

fn is_named(user: &str, sender: &Mailbox) -> bool {
    let local_part = sender.local_part_unquoted();
    match user.rsplit_once('@') {
        // The sender `"alice@example.org"@example.net` is not the address that the user name is.
        Some((name, domain)) => {
            is_same(name, &local_part) && *canonical(domain) == *sender.domain().canonical()
        }
        None => is_same(user, &local_part),
    }
}

/// User names are prepared, which includes NFC; addresses come as the client writes them. They are not prepared like names: the
/// user `fix` does not own the address of the ligature `\u{fb01}x`, which is another mailbox.
fn is_same(name: &str, local_part: &str) -> bool {
    name == local_part || !local_part.is_ascii() && name.nfc().eq(local_part.nfc())
}

impl fmt::Debug for OwnSenderLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnSenderLayer").finish_non_exhaustive()
    }
}

rule_layer!(OwnSenderLayer);

impl Admit<Mail> for OwnSenderLayer {
    fn admit(&self, request: &Request<Mail>) -> Result<(), Reply> {
        let user = request.session().identity();
        let user = user.ok_or_else(Reply::auth_required)?;
        match request.sender().mailbox() {
            Some(sender) if !(self.owns)(user, sender) => Err(Reply::new(
                Code::MAILBOX_UNAVAILABLE,
                Status::DENIED,
                "This sender is not you",
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceBuilder, ServiceExt};

    use super::*;
    use crate::{service::handler_fn, session::Session};

    async fn ask(layer: &OwnSenderLayer, session: Session, sender: &str) -> u16 {
        let mail = ServiceBuilder::new()
            .layer(layer.clone())
            .service(handler_fn(async |_: Request<Mail>| {}));
        let sender = sender.parse().unwrap();
        let reply = mail.oneshot(Request::new(session, Mail::new(sender)));
        reply.await.unwrap().code().as_u16()
    }

    const ADDRESS_AS_NAME: &str = "\"alice@example.org\"@example.org";

    #[tokio::test]
    async fn addresses_of_users() {
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
            assert_eq!(ask(&layer, session, sender).await, code, "{user} {sender}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_an_address_owns_nothing_in_other_domains() {
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
            assert_eq!(ask(&layer, session, sender).await, code, "{user} {sender}");
        }
    }

    #[tokio::test]
    async fn strangers_own_nothing_and_users_what_a_closure_says() {
        let layer = OwnSenderLayer::new(|user, _| user.as_str() == "root");
        assert_eq!(ask(&layer, Session::local(), "a@b.test").await, 530);
        assert_eq!(ask(&layer, Session::local(), "").await, 530);
        for (user, code) in [("root", 250), ("alice", 550)] {
            let session = Session::local().with_identity(user);
            assert_eq!(ask(&layer, session, "a@b.test").await, code);
        }
    }
}
