//! ETRN (RFC 1985).

use super::offer::Offer;
use crate::address::Domain;

/// RFC 1985 section 5: a fully qualified domain name; section 5.3: `@` and a domain, or `#` and a queue's name.
pub(super) fn is_node(argument: &[u8], offer: Offer<'_>) -> bool {
    let is_domain = |name| {
        let domain = Domain::parse(name, offer.path_options(false));
        domain.is_ok_and(|domain| !domain.is_literal())
    };
    match argument {
        [b'#', queue @ ..] => !queue.is_empty() && queue.iter().all(u8::is_ascii_graphic),
        [b'@', name @ ..] => is_domain(name),
        name => name.contains(&b'.') && is_domain(name),
    }
}
