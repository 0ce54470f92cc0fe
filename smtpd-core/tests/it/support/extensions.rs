#![allow(clippy::unwrap_used, reason = "for tests alone")]

use std::time::Duration;

use smtpd_core::{
    extension::{
        DeliverBy, Etrn, Extensions, FutureRelease, MtPriority, NoSoliciting, Prdr, PriorityPolicy,
        RequireTls, Rrvs,
    },
    parameter::HoldFor,
};

/// Adds an extension by its keyword and, after a colon, its setting: `DELIVERBY:240`.
pub(crate) fn with(extensions: Extensions, text: &str) -> Extensions {
    let (keyword, setting) = text
        .split_once(':')
        .map_or((text, None), |(keyword, setting)| (keyword, Some(setting)));
    match (keyword, setting) {
        ("DELIVERBY", None) => extensions.with(DeliverBy::new()),
        ("DELIVERBY", Some(least)) => {
            let least = Duration::from_secs(least.parse().unwrap());
            extensions.with(DeliverBy::with_minimum(least).unwrap())
        }
        ("ETRN", None) => extensions.with(Etrn),
        ("FUTURERELEASE", Some(setting)) => {
            let (longest, latest) = setting.split_once(':').unwrap();
            let longest = HoldFor::new(longest.parse().unwrap()).unwrap();
            extensions.with(FutureRelease::new(longest, latest.parse().unwrap()))
        }
        ("MT-PRIORITY", None) => extensions.with(MtPriority::new()),
        ("MT-PRIORITY", Some("trusting")) => {
            extensions.with(MtPriority::new().trust_unauthenticated())
        }
        ("MT-PRIORITY", Some(policy)) => {
            let policy = PriorityPolicy::new(policy).unwrap();
            extensions.with(MtPriority::new().policy(policy))
        }
        ("NO-SOLICITING", None) => extensions.with(NoSoliciting::new()),
        ("NO-SOLICITING", Some(keywords)) => {
            extensions.with(NoSoliciting::refusing(keywords.split(',')).unwrap())
        }
        ("PRDR", None) => extensions.with(Prdr),
        ("REQUIRETLS", None) => extensions.with(RequireTls),
        ("RRVS", None) => extensions.with(Rrvs),
        _ => panic!("no such extension: {text}"),
    }
}

/// Returns the default extensions and all others.
pub(crate) fn all() -> Extensions {
    [
        "DELIVERBY",
        "ETRN",
        "FUTURERELEASE:86400:2030-01-01T00:00:00Z",
        "MT-PRIORITY:trusting",
        "NO-SOLICITING:net.example:ADV",
        "PRDR",
        "REQUIRETLS",
        "RRVS",
    ]
    .into_iter()
    .fold(Extensions::default(), with)
}
