//! Which route a recipient has.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use smtpd_core::address::{AddressRules, Domain, ForwardPath, Mailbox};

use crate::{
    phase::{Phase, Request},
    service::BoxPhaseService,
};

/// Routes in the order in which they were added. The first that matches a recipient is its route.
pub(super) struct Table<P: Phase> {
    services: Vec<BoxPhaseService<P>>,
    names: Names,
    /// The routes that have to be tried one by one.
    conditions: Vec<(usize, Arc<Condition<P>>)>,
}

/// What a route matches.
pub(super) enum Rule<P: Phase> {
    Address(ForwardPath),
    Domain(Domain),
    Condition(Arc<Condition<P>>),
}

pub(super) type Condition<P> = dyn Fn(&Request<P>, &ForwardPath) -> bool + Send + Sync;

impl<P: Phase> Table<P> {
    pub(super) fn add(&mut self, rule: Rule<P>, service: BoxPhaseService<P>) {
        let route = self.services.len();
        self.services.push(service);
        match rule {
            Rule::Address(address) => self.names.add_address(address, route),
            Rule::Domain(domain) => self.names.add_domain(&domain, route),
            Rule::Condition(condition) => self.conditions.push((route, condition)),
        }
    }

    pub(super) fn set_rules(&mut self, rules: AddressRules) {
        self.names.set_rules(rules);
    }

    /// Returns the index of the first route that matches. Conditions are called in order, and none after the first route that
    /// matches.
    pub(super) fn find(&self, request: &Request<P>, recipient: &ForwardPath) -> Option<usize> {
        let named = self.names.find(recipient);
        let earlier = |route: usize| named.is_none_or(|named| route < named);
        let mut earlier = self.conditions.iter().take_while(|(at, _)| earlier(*at));
        let matching = earlier.find(|(_, matches)| matches(request, recipient));
        matching.map(|(route, _)| *route).or(named)
    }

    pub(super) fn service(&self, route: usize) -> Option<&BoxPhaseService<P>> {
        self.services.get(route)
    }

    pub(super) const fn len(&self) -> usize {
        self.services.len()
    }
}

impl<P: Phase> Default for Table<P> {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            names: Names::default(),
            conditions: Vec::new(),
        }
    }
}

impl<P: Phase> Clone for Table<P> {
    fn clone(&self) -> Self {
        Self {
            services: self.services.clone(),
            names: self.names.clone(),
            conditions: self.conditions.clone(),
        }
    }
}

/// The first route of each address and domain that has one.
#[derive(Clone, Default)]
struct Names {
    rules: AddressRules,
    /// Of `Postmaster` without a domain.
    postmaster: Option<usize>,
    // Usually there are few, and then comparing is faster than hashing.
    domains: BTreeMap<Box<str>, AtDomain>,
    /// All addresses, for other rules.
    addresses: Vec<(Mailbox, usize)>,
}

#[derive(Clone, Default)]
struct AtDomain {
    whole: Option<usize>,
    locals: BTreeMap<Box<str>, usize>,
}

impl Names {
    fn add_address(&mut self, address: ForwardPath, route: usize) {
        match address {
            ForwardPath::Postmaster(_) => {
                self.postmaster.get_or_insert(route);
            }
            ForwardPath::Mailbox(mailbox) => {
                self.add_mailbox(&mailbox, route);
                self.addresses.push((mailbox, route));
            }
        }
    }

    fn add_mailbox(&mut self, mailbox: &Mailbox, route: usize) {
        let local = self.exact(mailbox).into();
        let at = self.at(mailbox.domain());
        at.locals.entry(local).or_insert(route);
    }

    fn add_domain(&mut self, domain: &Domain, route: usize) {
        self.at(domain).whole.get_or_insert(route);
    }

    fn at(&mut self, domain: &Domain) -> &mut AtDomain {
        let domain = domain.canonical().into();
        self.domains.entry(domain).or_default()
    }

    fn of(&self, domain: &Domain) -> Option<&AtDomain> {
        // Most domains are written as their canonical form.
        let as_written = self.domains.get(domain.as_str());
        as_written.or_else(|| self.domains.get(&*domain.canonical()))
    }

    fn set_rules(&mut self, rules: AddressRules) {
        self.rules = rules;
        for at in self.domains.values_mut() {
            at.locals.clear();
        }
        let addresses = std::mem::take(&mut self.addresses);
        for (mailbox, route) in &addresses {
            self.add_mailbox(mailbox, *route);
        }
        self.addresses = addresses;
    }

    fn find(&self, recipient: &ForwardPath) -> Option<usize> {
        let Some(mailbox) = recipient.mailbox() else {
            return self.postmaster;
        };
        if self.domains.is_empty() {
            return None;
        }
        let at = self.of(mailbox.domain())?;
        if at.locals.is_empty() {
            return at.whole;
        }
        let by_local = |local: Cow<'_, str>| at.locals.get(&*local).copied();
        let exact = by_local(self.exact(mailbox));
        let found = at.whole.into_iter().chain(exact);
        if self.rules == self.rules.keeping_details() {
            return found.min();
        }
        let whole = by_local(self.rules.local_part(mailbox));
        found.chain(whole).min()
    }

    /// Returns the form of a local part that a route is for. One with a detail belongs to the route without it, too, but not the
    /// other way round.
    fn exact<'a>(&self, mailbox: &'a Mailbox) -> Cow<'a, str> {
        self.rules.keeping_details().local_part(mailbox)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use smtpd_core::{
        address::{Charset, Leniency, PathOptions},
        envelope::Envelope,
        reply::Reply,
    };

    use super::*;
    use crate::{
        body::Body,
        phase::{Data, Rcpt},
        router::{Route, Router, Routes},
        service::handler_fn,
        session::Session,
    };

    fn service() -> BoxPhaseService<Rcpt> {
        BoxPhaseService::new(handler_fn(|_: Request<Rcpt>| ready(Reply::OK)))
    }

    fn request(recipient: &ForwardPath) -> Request<Rcpt> {
        Request::new(Session::local(), Rcpt::new(recipient.clone()))
    }

    fn find(table: &Table<Rcpt>, recipient: &ForwardPath) -> Option<usize> {
        table.find(&request(recipient), recipient)
    }

    /// A sequence that looks random.
    struct Dice(u32);

    impl Dice {
        fn below(&mut self, most: usize) -> usize {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 16) as usize % most
        }

        fn pick<'a>(&mut self, all: &[&'a str]) -> &'a str {
            all[self.below(all.len())]
        }

        fn address(&mut self) -> ForwardPath {
            let local = self.pick(&[
                "a",
                "A",
                "a+b",
                "a+B",
                "+b",
                "\"a\"",
                "\"\\a\"",
                "b",
                "Postmaster",
                "postMASTER",
                "postmaster+b",
            ]);
            let domain = self.domain();
            match self.below(12) {
                0 => local
                    .parse()
                    .unwrap_or_else(|_| "postmaster".parse().unwrap()),
                _ => format!("{local}@{domain}").parse().unwrap(),
            }
        }

        fn rules(&mut self) -> AddressRules {
            let rules = AddressRules::new().ignore_case(self.below(2) == 0);
            match self.below(2) {
                0 => rules.recipient_delimiter('+'),
                _ => rules,
            }
        }

        fn domain(&mut self) -> &'static str {
            self.pick(&[
                "x.example",
                "X.Example",
                "grå.example",
                "xn--gr-zia.example",
                "[192.0.2.1]",
                "[IPv6:2001:db8::1]",
                "[ipv6:2001:DB8:0::1]",
            ])
        }
    }

    /// What a route matches, compared with each recipient.
    enum Slow {
        Address(ForwardPath),
        Domain(Domain),
        /// Matches every recipient whose address is longer.
        Longer(usize),
    }

    impl Slow {
        fn matches(&self, recipient: &ForwardPath, rules: AddressRules) -> bool {
            match self {
                Self::Address(own) => match (own.mailbox(), recipient.mailbox()) {
                    (Some(own), Some(other)) => {
                        let own = rules.keeping_details().mailbox(own);
                        own == rules.mailbox(other) || own == rules.keeping_details().mailbox(other)
                    }
                    (None, None) => true,
                    _ => false,
                },
                Self::Domain(own) => recipient
                    .mailbox()
                    .is_some_and(|other| own.canonical() == other.domain().canonical()),
                Self::Longer(than) => recipient.as_str().len() > *than,
            }
        }

        fn rule(&self) -> Rule<Rcpt> {
            match self {
                Self::Address(own) => Rule::Address(own.clone()),
                Self::Domain(own) => Rule::Domain(own.clone()),
                Self::Longer(than) => {
                    let than = *than;
                    Rule::Condition(Arc::new(move |_, path| path.as_str().len() > than))
                }
            }
        }
    }

    #[test]
    fn a_later_route_that_is_looked_up_does_not_overtake_an_earlier_one() {
        let mut dice = Dice(1);
        for _ in 0..3_000 {
            let slow: Vec<_> = (0..dice.below(10))
                .map(|_| match dice.below(5) {
                    0 | 1 => Slow::Address(dice.address()),
                    2 | 3 => Slow::Domain(dice.domain().parse().unwrap()),
                    _ => Slow::Longer(5 + dice.below(25)),
                })
                .collect();
            let rules = dice.rules();
            let mut table = Table::default();
            table.set_rules(dice.rules());
            let change = dice.below(slow.len() + 1);
            for (at, one) in slow.iter().enumerate() {
                if at == change {
                    table.set_rules(rules);
                }
                table.add(one.rule(), service());
            }
            if change == slow.len() {
                table.set_rules(rules);
            }
            for _ in 0..10 {
                let recipient = dice.address();
                let first = slow.iter().position(|one| one.matches(&recipient, rules));
                assert_eq!(find(&table, &recipient), first, "{recipient}");
            }
        }
    }

    #[test]
    fn a_condition_after_the_first_match_is_not_asked() {
        let mut table = Table::default();
        let refuse = |text: &'static str| {
            Rule::Condition(Arc::new(move |_: &Request<Rcpt>, path: &ForwardPath| {
                assert_eq!(text, "early", "{path}");
                false
            }))
        };
        table.add(refuse("early"), service());
        table.add(Rule::Address("a@x.example".parse().unwrap()), service());
        table.add(refuse("late"), service());
        assert_eq!(find(&table, &"a@x.example".parse().unwrap()), Some(1));
    }

    #[test]
    fn one_address_has_many_spellings_and_no_more() {
        let same = |own: &str, other: &str| {
            let mut table = Table::default();
            table.add(Rule::Address(own.parse().unwrap()), service());
            find(&table, &other.parse().unwrap()).is_some()
        };
        for (one, other) in [
            ("a@b.example", r#""a"@B.EXAMPLE"#),
            ("a@grå.example", r#""a"@xn--gr-zia.example"#),
            ("ü@xn--gr-zia.example", "ü@GRÅ.example"),
            ("Postmaster", "POSTMASTER"),
            ("a@[IPv6:0:0::1]", r#""a"@[ipv6:::1]"#),
        ] {
            assert!(same(one, other) && same(other, one), "{one} and {other}");
        }
        for (one, other) in [
            ("A@grå.example", "a@grå.example"),
            ("a@grå.example", "a@gra.example"),
            ("a@grå.example", "Postmaster"),
            ("postmaster@b.example", "Postmaster"),
            ("A@[IPv6:::1]", "a@[IPv6:0::1]"),
        ] {
            assert!(!same(one, other) && !same(other, one), "{one} and {other}");
        }
    }

    #[test]
    fn mail_to_the_postmaster_bounces_because_of_its_case() {
        let spellings = ["postmaster@b.example", "POSTMASTER@B.example"];
        for own in spellings {
            let mut table = Table::default();
            table.add(Rule::Address(own.parse().unwrap()), service());
            for recipient in spellings.into_iter().chain([r#""PostMaster"@b.example"#]) {
                let found = find(&table, &recipient.parse().unwrap());
                assert_eq!(found, Some(0), "{own} and {recipient}");
            }
        }
    }

    #[test]
    fn a_final_dot_makes_a_route_that_matches_nothing() {
        // Nobody can name such a domain by mistake, and clients whose final dots are accepted have their route.
        assert!("example.org.".parse::<Domain>().is_err());
        assert!("a@example.org.".parse::<ForwardPath>().is_err());
        for text in ["", " example.org", "@example.org", "*.example.org"] {
            assert!(text.parse::<Domain>().is_err(), "{text}");
        }
        let dots = Leniency::STRICT.allow_trailing_dot_in_domain(true);
        let options = PathOptions::new(dots, Charset::Ascii);
        let (lenient, _) = ForwardPath::parse(b"<a@Example.org.>", options).unwrap();
        let dotted = Domain::parse(b"example.org.", options).unwrap();
        let plain: ForwardPath = "a@example.org".parse().unwrap();
        for rule in [
            Rule::Domain(dotted),
            Rule::Domain("example.org".parse().unwrap()),
            Rule::Address(lenient.clone()),
            Rule::Address(plain.clone()),
        ] {
            let mut table = Table::default();
            table.add(rule, service());
            assert_eq!(find(&table, &lenient), Some(0));
            assert_eq!(find(&table, &plain), Some(0));
        }
    }

    #[test]
    fn a_detail_belongs_to_the_mailbox_and_no_mailbox_to_its_detail() {
        let rules = AddressRules::new()
            .ignore_case(true)
            .recipient_delimiter('+');
        for (own, recipient, found) in [
            ("alice@b.example", "Alice+news@b.example", true),
            ("alice+news@b.example", "Alice+News@b.example", true),
            ("alice+news@b.example", "alice@b.example", false),
            ("alice+news@b.example", "alice+other@b.example", false),
        ] {
            let mut table = Table::default();
            table.add(Rule::Address(own.parse().unwrap()), service());
            table.set_rules(rules);
            let is_found = find(&table, &recipient.parse().unwrap()).is_some();
            assert_eq!(is_found, found, "{own} and {recipient}");
        }
    }

    #[test]
    fn both_phases_have_the_same_route() {
        let mut dice = Dice(2);
        let data = || handler_fn(|_: Request<Data>| ready(Reply::OK));
        for _ in 0..300 {
            let mut routes = Routes::new();
            for _ in 0..dice.below(8) {
                let route = Route::accept(data());
                let least = 5 + dice.below(25);
                routes = match dice.below(4) {
                    0 => routes.address(dice.address(), route),
                    1 => routes.domain(dice.domain().parse().unwrap(), route),
                    2 => routes.recipient(move |path| path.as_str().len() > least, route),
                    _ => routes.route(move |_, path| path.as_str().len() < least, route),
                };
            }
            let (rcpt, data): (Router<Rcpt>, Router<Data>) = (routes.rcpt(), routes.data());
            for _ in 0..10 {
                let recipient = dice.address();
                let at_rcpt = rcpt.find(&request(&recipient), &recipient);
                let payload = Data::new(Envelope::default(), Body::default());
                let at_data = data.find(&Request::new(Session::local(), payload), &recipient);
                assert_eq!(at_rcpt, at_data, "{recipient}");
            }
        }
    }
}
