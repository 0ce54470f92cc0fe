//! Which extensions are on.

use std::{str::FromStr, time::SystemTime};

use smtpd_tower::{
    Profile,
    extension::{
        DeliverBy, Etrn, Extensions, FutureRelease, MtPriority, NoSoliciting, Prdr, PriorityPolicy,
        RequireTls, Rrvs, SessionLimits,
    },
    parameter::{DateTime, HoldFor},
    smtpd_core::extension::Standard,
};

/// Names, each with a sign or without.
#[derive(Clone, Debug)]
pub(crate) struct ExtensionList(Vec<Item>);

#[derive(Clone, Debug)]
struct Item {
    sign: Option<Sign>,
    /// `None` means all.
    known: Option<&'static Known>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Plus,
    Minus,
}

#[derive(Debug)]
struct Known {
    keyword: &'static str,
    add: fn(Extensions) -> Extensions,
}

const fn known(keyword: &'static str, add: fn(Extensions) -> Extensions) -> Known {
    Known { keyword, add }
}

#[rustfmt::skip]
static KNOWN: [Known; 16] = [
    known("PIPELINING", |set| set.with(Standard::Pipelining)),
    known("8BITMIME", |set| set.with(Standard::EightBitMime)),
    known("ENHANCEDSTATUSCODES", |set| set.with(Standard::EnhancedStatusCodes)),
    known("SMTPUTF8", |set| set.with(Standard::SmtpUtf8)),
    known("CHUNKING", |set| set.with(Standard::Chunking)),
    known("BINARYMIME", |set| set.with(Standard::BinaryMime)),
    known("DSN", |set| set.with(Standard::Dsn)),
    known("LIMITS", |set| set.with(SessionLimits)),
    known("DELIVERBY", |set| set.with(DeliverBy::new())),
    known("ETRN", |set| set.with(Etrn)),
    known("FUTURERELEASE", |set| set.with(future_release())),
    known("MT-PRIORITY", |set| set.with(MtPriority::new().policy(PriorityPolicy::MIXER))),
    known("NO-SOLICITING", |set| set.with(NoSoliciting::new())),
    known("PRDR", |set| set.with(Prdr)),
    known("REQUIRETLS", |set| set.with(RequireTls)),
    known("RRVS", |set| set.with(Rrvs)),
];

/// A year, or until ten years from now.
fn future_release() -> FutureRelease {
    const DAY: u32 = 86_400;
    let latest = DateTime::from(SystemTime::now()).plus_seconds(3650 * i64::from(DAY));
    let longest = HoldFor::new(365 * DAY).unwrap_or(HoldFor::MAX);
    FutureRelease::new(longest, latest)
}

impl FromStr for ExtensionList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl FromStr for Item {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (sign, name) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(name), _) => (Some(Sign::Plus), name),
            (_, Some(name)) => (Some(Sign::Minus), name),
            _ => (None, text),
        };
        let is_it = |other: &str| name.eq_ignore_ascii_case(other);
        if ["SIZE", "STARTTLS", "AUTH"].into_iter().any(is_it) {
            return Err(
                "SIZE, STARTTLS and AUTH follow from --max-size, --tls-cert and --user".into(),
            );
        }
        let found = KNOWN.iter().find(|known| is_it(known.keyword));
        if found.is_none() && !is_it("all") {
            let names = KNOWN.each_ref().map(|known| known.keyword).join(", ");
            return Err(format!(
                "expected all, {names}, each with or without + or -, not \"{}\"",
                name.escape_debug()
            ));
        }
        Ok(Self { sign, known: found })
    }
}

/// The extensions of a listener of that profile.
pub(crate) fn of(lists: &[ExtensionList], profile: Option<Profile>) -> Extensions {
    let items = || lists.iter().flat_map(|list| &list.0);
    let start = match items().all(|item| item.sign.is_some()) {
        true => Extensions::default(),
        false => Extensions::none(),
    };
    let set = items().fold(start, |set, item| item.apply(set));
    match profile {
        // RFC 4865 section 4.2: only for submission.
        Some(Profile::Mx) => without(set, "FUTURERELEASE"),
        _ => set,
    }
}

impl Item {
    fn apply(&self, set: Extensions) -> Extensions {
        let named = KNOWN
            .iter()
            .filter(|known| self.known.is_none_or(|one| one.keyword == known.keyword));
        named.fold(set, |set, known| match self.sign {
            Some(Sign::Minus) => without(set, known.keyword),
            _ => with(set, known),
        })
    }
}

fn without(set: Extensions, keyword: &str) -> Extensions {
    set.retain(|extension| !extension.keyword().eq_ignore_ascii_case(keyword))
}

/// Adds an extension, and those that it needs. The configuration leaves out those that need a removed one.
fn with(set: Extensions, one: &Known) -> Extensions {
    let set = (one.add)(set);
    let needed: Vec<_> = set
        .iter()
        .filter(|extension| extension.keyword() == one.keyword)
        .flat_map(|extension| extension.requires())
        .filter(|keyword| !set.contains(keyword))
        .filter_map(|keyword| KNOWN.iter().find(|known| known.keyword == *keyword))
        .collect();
    needed.into_iter().fold(set, with)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(list: &str, profile: Option<Profile>) -> Vec<String> {
        let lists: Vec<_> = list.split(' ').map(|list| list.parse().unwrap()).collect();
        let set = of(&lists, profile);
        set.iter()
            .map(|extension| extension.keyword().to_owned())
            .collect()
    }

    #[test]
    fn lists() {
        let all = KNOWN.each_ref().map(|known| known.keyword);
        let (default, off) = all.split_at(8);
        let without = |name| {
            all.into_iter()
                .filter(|one| *one != name)
                .collect::<Vec<_>>()
        };
        for (list, expected) in [
            ("PIPELINING,dsn", vec!["PIPELINING", "DSN"]),
            ("PIPELINING DSN", vec!["PIPELINING", "DSN"]),
            ("BinaryMIME", vec!["BINARYMIME", "CHUNKING"]),
            ("PRDR", vec!["PRDR", "PIPELINING", "ENHANCEDSTATUSCODES"]),
            (
                "-DSN",
                default
                    .iter()
                    .copied()
                    .filter(|one| *one != "DSN")
                    .collect(),
            ),
            ("+rrvs", [default, &["RRVS"]].concat()),
            ("all", all.to_vec()),
            ("all,-DSN", without("DSN")),
            ("+all -RRVS", without("RRVS")),
            ("-all,+ETRN", vec!["ETRN"]),
        ] {
            assert_eq!(on(list, None), expected, "{list}");
        }
        assert_eq!(off.len(), 8);
        assert_eq!(on("all", Some(Profile::Mx)), without("FUTURERELEASE"));
        assert_eq!(on("all", Some(Profile::Submission)), all);
    }

    #[test]
    fn every_extension_of_the_framework_has_a_name() {
        for extension in Extensions::default().iter() {
            assert!(
                KNOWN
                    .iter()
                    .any(|known| known.keyword == extension.keyword())
            );
        }
        for known in &KNOWN {
            assert!((known.add)(Extensions::none()).contains(known.keyword));
        }
    }

    #[test]
    fn what_is_no_extension_is_told_with_those_that_are() {
        for text in ["", "DSN,", "DNS", "+XFOO", "-", "+-DSN", "none", "DSN PRDR"] {
            let error = text.parse::<ExtensionList>().unwrap_err();
            assert!(error.contains("expected all, PIPELINING, "), "{error}");
            assert!(error.contains(", RRVS, each"), "{error}");
        }
        for text in ["SIZE", "+auth", "-STARTTLS"] {
            let error = text.parse::<ExtensionList>().unwrap_err();
            assert!(error.contains("--max-size"), "{error}");
        }
    }
}
