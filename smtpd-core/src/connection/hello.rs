//! What EHLO announces.

use super::{authentication::Authentication, offer::Offer, replies::PLAIN};
use crate::reply::{Code, Reply, Status};

/// Returns the reply to EHLO in its wire format. `own` are keywords that are announced only to this peer.
pub(super) fn answer(
    offer: Offer<'_>,
    authentication: &Authentication,
    own: impl Iterator<Item = String>,
) -> Vec<u8> {
    let (config, facts) = (offer.config, offer.facts());
    let mut lines = vec![config.settings.hostname.clone()];
    let offered = config.settings.extensions.iter();
    lines.extend(
        offered
            .filter(|extension| extension.is_offered(facts))
            .map(|extension| join(extension.keyword(), &extension.announcement(facts))),
    );
    // RFC 1870 section 4: no number if there is no fixed limit.
    let size = config
        .settings
        .limits
        .message_size
        .map(|size| size.to_string());
    lines.push(join("SIZE", &size.unwrap_or_default()));
    if config.starttls && !facts.is_tls() {
        lines.push("STARTTLS".to_owned());
    }
    // RFC 4954 section 4: one authentication in a session.
    let mechanisms: Vec<_> = authentication
        .offered(&config.settings, facts.is_tls())
        .map(|factory| factory.name().as_str())
        .collect();
    if !mechanisms.is_empty() && !facts.is_authenticated() {
        lines.push(join("AUTH", &mechanisms.join(" ")));
    }
    lines.extend(own);
    let mut answer = Vec::new();
    Reply::multiline(Code::OK, Status::UNDEFINED, lines).encode(PLAIN, &mut answer);
    answer
}

fn join(keyword: &str, rest: &str) -> String {
    if rest.is_empty() {
        keyword.to_owned()
    } else {
        format!("{keyword} {rest}")
    }
}
