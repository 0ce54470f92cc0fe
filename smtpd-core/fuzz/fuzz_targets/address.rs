//! Paths and names: what is taken is safe to show, and means the same when it is parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_core::{
    Domain, ForwardPath, Mailbox, ReversePath,
    address::{AddressRules, Charset, ClientName, Leniency, PathOptions},
};

fuzz_target!(|input: &[u8]| {
    let Some((&flags, input)) = input.split_first() else {
        return;
    };
    let is_on = |bit: u8| flags >> bit & 1 != 0;
    let leniency = Leniency::STRICT
        .allow_space_after_colon(is_on(0))
        .allow_missing_brackets(is_on(1))
        .allow_long_local_part(is_on(2))
        .allow_underscore_in_domain(is_on(3))
        .allow_trailing_dot_in_domain(is_on(4))
        .allow_stray_dots_in_local_part(is_on(6));
    let options = PathOptions::new(
        leniency,
        if is_on(5) {
            Charset::Utf8
        } else {
            Charset::Ascii
        },
    );
    if let Ok((path, rest)) = ReversePath::parse(input, options) {
        assert!(rest.is_empty() || rest.starts_with(b" "));
        assert!(!path.raw().contains(char::is_control) && (is_on(5) || path.raw().is_ascii()));
        let again = format!("<{}>", path.raw());
        assert_eq!(
            ReversePath::parse(again.as_bytes(), options),
            Ok((path.clone(), &b""[..]))
        );
        path.mailbox()
            .into_iter()
            .for_each(|mailbox| check_mailbox(mailbox, options));
    }
    if let Ok((path, rest)) = ForwardPath::parse(input, options) {
        assert!(rest.is_empty() || rest.starts_with(b" "));
        assert!(!path.raw().contains(char::is_control));
        let again = format!("<{path}>");
        assert_eq!(
            ForwardPath::parse(again.as_bytes(), options),
            Ok((path.clone(), &b""[..]))
        );
        path.mailbox()
            .into_iter()
            .for_each(|mailbox| check_mailbox(mailbox, options));
    }
    if let Ok(domain) = Domain::parse(input, options) {
        let written = domain.as_str().as_bytes();
        assert!(written == input || [written, b"."].concat() == input);
        check_domain(&domain, options);
    }
    if let Ok(name) = ClientName::parse(input) {
        assert!(name.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(name.as_str().as_bytes(), input);
    }
});

fn check_mailbox(mailbox: &Mailbox, options: PathOptions) {
    let (local, domain) = (mailbox.local_part(), mailbox.domain());
    assert_eq!(mailbox.as_str(), format!("{local}@{domain}"));
    let parsed = Mailbox::parse(mailbox.as_str().as_bytes(), options);
    assert_eq!(parsed.as_ref(), Ok(mailbox));
    // Quoted as it need not be, it is the same.
    let unquoted = mailbox.local_part_unquoted();
    let escaped: String = unquoted.chars().flat_map(|c| ['\\', c]).collect();
    let escaped = match unquoted.is_ascii() {
        true => escaped,
        false => unquoted.replace('\\', "\\\\").replace('"', "\\\""),
    };
    let lenient = options.leniency().allow_long_local_part(true);
    let options = PathOptions::new(lenient, options.charset());
    match Mailbox::parse(format!("\"{escaped}\"@{domain}").as_bytes(), options) {
        Ok(quoted) => {
            assert_eq!(quoted.local_part_unquoted(), unquoted);
            assert_eq!((&quoted, quoted.domain()), (mailbox, domain));
        }
        Err(error) => assert!(mailbox.as_str().len() > 100, "{mailbox}: {error}"),
    }
    check_rules(mailbox);
    check_domain(domain, options);
}

/// A canonical form is its own canonical form, and names the same domain.
fn check_rules(mailbox: &Mailbox) {
    let exact = AddressRules::new();
    let loose = exact.ignore_case(true);
    for rules in [
        exact,
        loose,
        exact.recipient_delimiter('+'),
        loose.recipient_delimiter('-'),
    ] {
        let form = rules.mailbox(mailbox);
        assert!(form.ends_with(&format!("@{}", mailbox.domain().canonical())));
        assert_eq!(rules.user(&form), form);
        let escaped = rules
            .local_part(mailbox)
            .replace('\\', "\\\\")
            .replace('"', "\\\"");
        let again = format!("\"{escaped}\"@{}", mailbox.domain().canonical());
        let options = PathOptions::new(
            Leniency::STRICT
                .allow_long_local_part(true)
                .allow_underscore_in_domain(true),
            Charset::Utf8,
        );
        match Mailbox::parse(again.as_bytes(), options) {
            Ok(again) => assert_eq!(rules.mailbox(&again), form),
            Err(error) => assert!(again.len() > 100, "{again}: {error}"),
        }
        assert!(rules.is_of_user(mailbox, &form));
    }
}

fn check_domain(domain: &Domain, options: PathOptions) {
    let canonical = domain.canonical();
    assert_eq!(domain.is_literal(), domain.as_str().starts_with('['));
    let parsed = Domain::parse(canonical.as_bytes(), options)
        .unwrap_or_else(|error| panic!("{domain} is {canonical}: {error}"));
    assert_eq!(parsed.canonical(), canonical);
    assert_eq!(parsed.is_literal(), domain.is_literal());
    assert!(canonical.is_ascii(), "{domain} is {canonical}");
    if let Some(ip) = domain.ip() {
        assert!(domain.is_literal());
        let written = match ip {
            std::net::IpAddr::V4(ip) => format!("[{ip}]"),
            std::net::IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
        };
        assert_eq!(
            written.parse::<Domain>().ok().and_then(|d| d.ip()),
            Some(ip)
        );
    }
}
