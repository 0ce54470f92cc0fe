//! Paths and names: what is taken is safe to show, and means the same when it is parsed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtpd_core::{Charset, ClientName, ForwardPath, Leniency, PathOptions, ReversePath};

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
        .allow_trailing_dot_in_domain(is_on(4));
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
            Ok((path, &b""[..]))
        );
    }
    if let Ok((path, rest)) = ForwardPath::parse(input, options) {
        assert!(rest.is_empty() || rest.starts_with(b" "));
        assert!(!path.raw().contains(char::is_control));
        let again = format!("<{path}>");
        assert_eq!(
            ForwardPath::parse(again.as_bytes(), options),
            Ok((path, &b""[..]))
        );
    }
    if let Ok(name) = ClientName::parse(input) {
        assert!(name.as_str().bytes().all(|octet| octet.is_ascii_graphic()));
        assert_eq!(name.as_str().as_bytes(), input);
    }
});
