//! The file of recipients.

use smtpd_tower::{
    address::{AddressRules, Domain},
    addresses::Addresses,
    domains::Domains,
    layer::RecipientsLayer,
};

use crate::{
    file::{self, Pipes},
    mistakes::Mistakes,
    options::Options,
};

/// The recipients of a file.
#[derive(Clone, Debug)]
pub(crate) struct Recipients {
    addresses: Addresses,
    /// How many entries the file has.
    pub(crate) count: usize,
    pub(crate) warnings: Vec<String>,
}

impl Recipients {
    /// Reads the file of the options, if there is one.
    ///
    /// # Errors
    /// Fails with all lines that are wrong.
    pub(crate) fn read(options: &Options, pipes: Pipes) -> Result<Option<Self>, Mistakes> {
        let Some(path) = &options.recipients else {
            return Ok(None);
        };
        let place = options.given.place("recipients");
        let mut mistakes = Mistakes::default();
        let text = file::read(path, pipes).map_err(|error| format!("{place}: {error}"));
        let Some(text) = mistakes.unless(text) else {
            return mistakes.or(None);
        };
        let rules = AddressRules::new().ignore_case(true);
        let rules = match options.recipient_delimiter {
            Some(delimiter) => rules.recipient_delimiter(delimiter),
            None => rules,
        };
        let found = Self::parse(&text, rules, &options.domain);
        let name = |fault| format!("{place}: {}:{fault}", path.display());
        match found {
            Ok(mut found) => {
                found.warnings = found.warnings.into_iter().map(name).collect();
                Ok(Some(found))
            }
            Err(faults) => {
                mistakes.extend(file::first_of(faults).map(name));
                mistakes.or(None)
            }
        }
    }

    /// Rejects all others.
    pub(crate) fn layer(&self) -> RecipientsLayer {
        RecipientsLayer::new(self.addresses.clone())
    }

    fn parse(text: &str, rules: AddressRules, own: &[Domain]) -> Result<Self, Vec<String>> {
        let entries: Vec<_> = file::lines(text)
            .map(|(number, line)| (number, entry(line)))
            .collect();
        let wrong = |(number, entry): &(usize, Result<String, String>)| {
            let fault = match entry {
                Ok(entry) => Addresses::parse([entry]).err()?.to_string(),
                Err(fault) => fault.clone(),
            };
            Some(format!(
                "{number}: {fault}; expected an address, @DOMAIN or *@*.DOMAIN"
            ))
        };
        let faults: Vec<_> = entries.iter().filter_map(wrong).collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        if entries.is_empty() {
            return Err(vec![" the file has no address in it".to_owned()]);
        }
        // Each domain has a postmaster (RFC 5321 section 4.5.1).
        let postmasters = own.iter().map(|domain| format!("postmaster@{domain}"));
        let all = entries.iter().filter_map(|(_, entry)| entry.as_ref().ok());
        let parse = |all: &mut dyn Iterator<Item = String>| {
            Addresses::parse_by(rules, all).map_err(|error| vec![format!(" {error}")])
        };
        let listed = parse(&mut all.clone().cloned())?;
        Ok(Self {
            addresses: parse(&mut all.cloned().chain(postmasters))?,
            count: entries.len(),
            warnings: warnings(&entries, &listed, own),
        })
    }
}

/// Returns the entry as the framework writes it.
fn entry(line: &str) -> Result<String, String> {
    // A `#` may be in an address, so a comment behind one begins with a space.
    let line = line.split(" #").next().unwrap_or_default().trim_end();
    match line.rsplit_once('@') {
        Some(("", domain)) => Ok(format!("*@{domain}")),
        Some((local, _)) if local != "*" && local.contains('*') => Err(format!(
            "`{}` has a * in a part of a name, and it can only stand for a whole name",
            line.escape_debug()
        )),
        _ if line == "<>" => Err("`<>` is no recipient".to_owned()),
        _ => Ok(line.to_owned()),
    }
}

/// Mail to other domains is rejected before anybody looks at the list.
fn warnings(
    entries: &[(usize, Result<String, String>)],
    listed: &Addresses,
    own: &[Domain],
) -> Vec<String> {
    let domains = Domains::from_iter(own.iter().cloned());
    let foreign = entries.iter().find_map(|(number, entry)| {
        let (_, domain) = entry.as_ref().ok()?.rsplit_once('@')?;
        let domain: Domain = domain.parse().ok()?;
        let is_foreign = !domains.contains(&domain);
        is_foreign
            .then(|| format!("{number}: {domain} is not a --domain, so mail to it is rejected"))
    });
    let without = own.iter().filter(|domain| !listed.has_domain(domain));
    let without = without.map(|domain| format!(" it has no recipient in {domain} but postmaster"));
    // RFC 2142 section 4: others report there what comes from this domain, and lists of bad senders expect it to work.
    let has_abuse = |domain: &Domain| {
        let address = format!("abuse@{domain}").parse();
        address.is_ok_and(|address| listed.has_recipient(&address))
    };
    let listing = own.iter().filter(|domain| listed.has_domain(domain));
    let silent = listing.filter(|domain| !has_abuse(domain));
    let silent = silent.map(|domain| {
        format!(
            " it has no abuse@{domain}, where others report abuse (RFC 2142); add it, or @{domain}"
        )
    });
    foreign.into_iter().chain(without).chain(silent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, delimiter: Option<char>) -> Result<Recipients, Vec<String>> {
        let rules = AddressRules::new().ignore_case(true);
        let rules = delimiter.map_or(rules, |delimiter| rules.recipient_delimiter(delimiter));
        let own = ["example.org", "b\u{fc}cher.example"].map(|domain| domain.parse().unwrap());
        Recipients::parse(text, rules, &own)
    }

    #[test]
    fn entries_match_what_they_say() {
        let text = "# people\nabuse@example.org\nalice@example.org\n\n  Bob@Example.ORG   # the builder\n\
            #carol@example.org\nd#e@example.org\r\n@xn--bcher-kva.example\n*@*.example.org\n";
        let found = parse(text, Some('+')).unwrap();
        assert_eq!((found.count, found.warnings), (6, Vec::<String>::new()));
        for (address, is_listed) in [
            ("alice@example.org", true),
            ("ALICE@EXAMPLE.org", true),
            ("alice+news@example.org", true),
            ("bob@example.org", true),
            ("carol@example.org", false),
            ("d#e@example.org", true),
            ("anyone@b\u{fc}cher.example", true),
            ("anyone@a.b.example.org", true),
            ("postmaster@example.org", true),
            ("Postmaster@example.org", true),
            ("anyone@example.org", false),
        ] {
            let path = address.parse().unwrap();
            assert_eq!(found.addresses.has_recipient(&path), is_listed, "{address}");
        }
        let found = parse("alice@example.org\n@b\u{fc}cher.example", None).unwrap();
        let path = "alice+news@example.org".parse().unwrap();
        assert!(!found.addresses.has_recipient(&path));
    }

    #[test]
    fn only_the_first_wrong_line_is_told() {
        let text = "alice\nalice@example.org\nsales-*@example.org\n@\nbob@example..org\n<>\n\
            a@b@c\n*@example.*\nx@exam\u{202e}ple.org\n";
        let faults = parse(text, None).unwrap_err();
        let lines: Vec<_> = faults
            .iter()
            .filter_map(|fault| fault.split(':').next())
            .collect();
        assert_eq!(
            lines,
            ["1", "3", "4", "5", "6", "7", "8", "9"],
            "{faults:?}"
        );
        assert_eq!(
            faults[0],
            "1: `alice` is not an address; expected an address, @DOMAIN or *@*.DOMAIN"
        );
        assert!(!faults.concat().contains('\u{202e}'), "{faults:?}");
        assert_eq!(parse("# nobody\n", None).unwrap_err().len(), 1);
    }

    #[test]
    fn what_cannot_be_reached_is_warned_about() {
        let found = parse("a@example.net\nb@example.net\nc@example.org", None).unwrap();
        assert_eq!(
            found.warnings,
            [
                "1: example.net is not a --domain, so mail to it is rejected",
                " it has no recipient in b\u{fc}cher.example but postmaster",
                " it has no abuse@example.org, where others report abuse (RFC 2142); add it, or @example.org"
            ]
        );
        for (text, count) in [
            ("c@example.org\nAbuse@Example.org", 1),
            ("@example.org", 1),
            ("abuse@xn--bcher-kva.example\n@example.org", 0),
            ("c@xn--bcher-kva.example\nc@example.org", 2),
        ] {
            let warnings = parse(text, None).unwrap().warnings;
            assert_eq!(warnings.len(), count, "{text}: {warnings:?}");
        }
    }
}
