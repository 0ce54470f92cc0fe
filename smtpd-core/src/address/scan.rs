use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str;

use super::{AddressError, AddressErrorKind, AddressPart, Charset, PathOptions, u_label};

/// Reads the elements of an address one after the other and checks each. It stores nothing.
pub(super) struct Scanner<'a> {
    input: &'a [u8],
    at: usize,
    options: PathOptions,
    /// Character classes of bytes, as the options extend them.
    atext: u8,
    qtext: u8,
    label: u8,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(input: &'a [u8], options: PathOptions) -> Self {
        // RFC 6531 section 3.3: atext, qtextSMTP and sub-domain are extended to everything that is not ASCII
        let non_ascii = match options.charset() {
            Charset::Ascii => 0,
            Charset::Utf8 => NON_ASCII,
        };
        let underscore = match options.leniency().underscore_in_domain() {
            false => 0,
            true => UNDERSCORE,
        };
        Self {
            input,
            at: 0,
            options,
            atext: ATEXT | non_ascii,
            qtext: QTEXT | non_ascii,
            label: LABEL | non_ascii | underscore,
        }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.input.get(start..self.at).unwrap_or_default()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.input.get(self.at..).unwrap_or_default()
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    pub(super) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Advances by `count` bytes, which the caller has seen in [`rest`](Self::rest).
    pub(super) fn skip(&mut self, count: usize) {
        self.at += count;
    }

    /// Returns the error for the next byte: `otherwise`, unless the byte is allowed nowhere.
    pub(super) fn unexpected(&self, otherwise: AddressErrorKind) -> AddressError {
        match self.peek() {
            Some(byte) if byte.is_ascii_control() => AddressErrorKind::Control,
            Some(0x80..) if self.options.charset() == Charset::Ascii => AddressErrorKind::NonAscii,
            _ => otherwise,
        }
        .into()
    }

    /// Reads `A-d-l ":"`, if there is one (RFC 5321 section 4.1.2).
    pub(super) fn route(&mut self) -> Result<(), AddressError> {
        if self.peek() != Some(b'@') {
            return Ok(());
        }
        loop {
            // RFC 5321 section 4.1.2: At-domain = "@" Domain, and a literal is no Domain
            if !self.eat(b'@') || self.peek() == Some(b'[') {
                return Err(self.unexpected(AddressErrorKind::Route));
            }
            self.domain_name()?;
            if self.eat(b':') {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(self.unexpected(AddressErrorKind::Route));
            }
        }
    }

    /// Reads `Mailbox` (RFC 5321 section 4.1.2) and returns the range of its domain.
    pub(super) fn mailbox(&mut self) -> Result<Range<usize>, AddressError> {
        let Some(domain) = plain_mailbox(self.rest()) else {
            return self.any_mailbox();
        };
        let start = self.at;
        self.at += domain.end;
        Ok(start + domain.start..self.at)
    }

    fn any_mailbox(&mut self) -> Result<Range<usize>, AddressError> {
        self.local_part()?;
        if !self.eat(b'@') {
            return Err(match self.peek() {
                None | Some(b'>') => AddressErrorKind::NoDomain.into(),
                Some(_) => self.unexpected(AddressErrorKind::LocalPart),
            });
        }
        Ok(self.at..self.domain()?)
    }

    /// Reads `Domain / address-literal` (RFC 5321 section 4.1.2) and returns its end, which excludes a tolerated trailing dot.
    pub(super) fn domain(&mut self) -> Result<usize, AddressError> {
        if self.eat(b'[') {
            self.literal()?;
            return Ok(self.at);
        }
        self.domain_name()
    }

    fn local_part(&mut self) -> Result<(), AddressError> {
        let start = self.at;
        if self.eat(b'"') {
            self.quoted_string()?;
        } else {
            self.dot_string()?;
        }
        let local = self.since(start);
        if !self.options.leniency().long_local_part() {
            AddressPart::LocalPart.check(local.len())?; // RFC 5321 section 4.5.3.1.1
        }
        match self.non_ascii(local)? {
            Some(text) if text.contains(char::is_control) => Err(AddressErrorKind::Control.into()),
            _ => Ok(()),
        }
    }

    fn dot_string(&mut self) -> Result<(), AddressError> {
        if self.options.leniency().stray_dots_in_local_part() {
            return self.atoms_and_dots();
        }
        loop {
            if self.run(self.atext).is_empty() {
                return Err(self.unexpected(AddressErrorKind::LocalPart));
            }
            if !self.eat(b'.') {
                return Ok(());
            }
        }
    }

    /// Reads atoms and dots in any order, with at least one atom.
    fn atoms_and_dots(&mut self) -> Result<(), AddressError> {
        let mut has_atom = false;
        loop {
            has_atom |= !self.run(self.atext).is_empty();
            if !self.eat(b'.') {
                break;
            }
        }
        match has_atom {
            true => Ok(()),
            false => Err(self.unexpected(AddressErrorKind::LocalPart)),
        }
    }

    fn quoted_string(&mut self) -> Result<(), AddressError> {
        loop {
            self.run(self.qtext);
            if self.eat(b'"') {
                return Ok(());
            }
            // RFC 5321 section 4.1.2: quoted-pairSMTP; RFC 6531 section 3.3 does not extend it
            if !self.eat(b'\\') || !matches!(self.peek(), Some(b' '..=b'~')) {
                return Err(self.unexpected(AddressErrorKind::LocalPart));
            }
            self.skip(1);
        }
    }

    /// Reads `Domain` (RFC 5321 section 4.1.2).
    fn domain_name(&mut self) -> Result<usize, AddressError> {
        let start = self.at;
        let end = loop {
            self.label()?;
            let end = self.at;
            if !self.eat(b'.') || self.ends_after_dot() {
                break end;
            }
        };
        AddressPart::Domain.check(end - start)?; // RFC 5321 section 4.5.3.1.2
        let name = self.input.get(start..end).unwrap_or_default();
        if let Some(name) = self.non_ascii(name)? {
            u_label::check(name)?;
        }
        Ok(end)
    }

    fn ends_after_dot(&self) -> bool {
        self.options.leniency().trailing_dot_in_domain()
            && !self.peek().is_some_and(|byte| is(self.label, byte))
    }

    fn label(&mut self) -> Result<(), AddressError> {
        let label = self.run(self.label);
        // RFC 5321 section 4.1.2: sub-domain = Let-dig [Ldh-str]
        if label.is_empty() || label.starts_with(b"-") || label.ends_with(b"-") {
            return Err(self.unexpected(AddressErrorKind::Domain));
        }
        let Some(text) = self.non_ascii(label)? else {
            return AddressPart::Label.check(label.len()); // RFC 1035 section 2.3.4
        };
        if text.contains(char::is_control) {
            return Err(AddressErrorKind::Control.into());
        }
        if text.contains(char::is_whitespace) {
            return Err(AddressErrorKind::Domain.into());
        }
        // RFC 5890 section 4.2: the DNS limits the A-label, which has at least one byte per character of the U-label, but may
        // well be shorter than the U-label in UTF-8. Its length is checked with the whole domain.
        AddressPart::Label.check(text.chars().count())
    }

    /// Reads what follows the `[` of an address literal (RFC 5321 section 4.1.3).
    fn literal(&mut self) -> Result<(), AddressError> {
        let content = self.run(DCONTENT);
        if !self.eat(b']') {
            return Err(self.unexpected(AddressErrorKind::Literal));
        }
        literal_ip(utf8(content)?)?;
        Ok(())
    }

    /// Returns the text of bytes that are not all ASCII.
    fn non_ascii(&self, bytes: &'a [u8]) -> Result<Option<&'a str>, AddressError> {
        if self.options.charset() == Charset::Ascii || bytes.is_ascii() {
            return Ok(None);
        }
        utf8(bytes).map(Some)
    }

    /// Reads the bytes of a class that come next.
    fn run(&mut self, class: u8) -> &'a [u8] {
        let start = self.at;
        self.at = end_of(class, self.input, start);
        self.since(start)
    }
}

/// Returns the range of the domain of the mailbox that `input` begins with, if it has the most common form: atoms, `@` and
/// labels, without any leniency. Everything else is left to [`Scanner::any_mailbox`], which finds out what is wrong with it.
pub(super) fn plain_mailbox(input: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    loop {
        let atom = at;
        at = end_of(ATEXT, input, atom);
        match input.get(at)? {
            _ if at == atom => return None,
            b'.' => at += 1,
            b'@' => break,
            _ => return None,
        }
    }
    let at_sign = at;
    loop {
        let label = at + 1;
        at = end_of(LABEL, input, label);
        match input.get(label..at)? {
            [] | [b'-', ..] | [.., b'-'] => return None,
            label => AddressPart::Label.check(label.len()).ok()?,
        }
        match input.get(at) {
            Some(b'.') => {}
            None | Some(b'>' | b' ') => break,
            Some(_) => return None,
        }
    }
    AddressPart::LocalPart.check(at_sign).ok()?;
    AddressPart::Domain.check(at - at_sign - 1).ok()?;
    Some(at_sign + 1..at)
}

/// Returns where the bytes of a class that begin at `at` end.
fn end_of(class: u8, input: &[u8], at: usize) -> usize {
    let rest = input.get(at..).unwrap_or_default();
    let others = rest.iter().position(|&byte| !is(class, byte));
    at + others.unwrap_or(rest.len())
}

/// Returns the address between the brackets of a literal (RFC 5321 section 4.1.3).
pub(super) fn literal_ip(content: &str) -> Result<IpAddr, AddressErrorKind> {
    let Some((tag, text)) = content.split_once(':') else {
        return ipv4(content)
            .map(IpAddr::V4)
            .ok_or(AddressErrorKind::Literal);
    };
    if !tag.eq_ignore_ascii_case("IPv6") {
        return Err(if is_ldh_str(tag) && !text.is_empty() {
            AddressErrorKind::UnsupportedLiteral
        } else {
            AddressErrorKind::Literal
        });
    }
    // RFC 5321 section 4.1.3 requires "::" to stand for at least two groups. RFC 4291 section 2.2, which defines the form, allows
    // one, and nothing is gained by rejecting it.
    text.parse()
        .map(|ip: Ipv6Addr| ip.into())
        .map_err(|_| AddressErrorKind::Literal)
}

fn utf8(bytes: &[u8]) -> Result<&str, AddressError> {
    str::from_utf8(bytes).map_err(|_| AddressErrorKind::MalformedUtf8.into())
}

fn is(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// `Ldh-str` (RFC 5321 section 4.1.2).
fn is_ldh_str(text: &str) -> bool {
    !text.is_empty() && !text.ends_with('-') && text.bytes().all(|byte| is(LABEL, byte))
}

/// `IPv4-address-literal` (RFC 5321 section 4.1.3). The parser of the standard library rejects leading zeros, which an Snum may
/// have.
fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut bytes = [0; 4];
    let mut fields = text.split('.');
    for byte in &mut bytes {
        let field = fields.next()?;
        let is_snum = (1..=3).contains(&field.len()) && field.bytes().all(|b| b.is_ascii_digit());
        *byte = field.parse().ok().filter(|_| is_snum)?;
    }
    fields.next().is_none().then(|| bytes.into())
}

/// `atext` (RFC 5322 section 3.2.3).
const ATEXT: u8 = 1 << 0;
/// `qtextSMTP` (RFC 5321 section 4.1.2).
const QTEXT: u8 = 1 << 1;
/// What a `sub-domain` consists of (RFC 5321 section 4.1.2).
const LABEL: u8 = 1 << 2;
/// `dcontent` (RFC 5321 section 4.1.3).
const DCONTENT: u8 = 1 << 3;
const UNDERSCORE: u8 = 1 << 4;
const NON_ASCII: u8 = 1 << 5;

/// The classes that each byte belongs to.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = classes_of(byte as u8);
        byte += 1;
    }
    classes
};

const fn classes_of(byte: u8) -> u8 {
    let mut classes = match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => ATEXT | LABEL,
        b'_' => ATEXT | UNDERSCORE,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'/' | b'=' | b'?' | b'^' | b'`' | b'{'..=b'~' => ATEXT,
        0x80.. => NON_ASCII,
        _ => 0,
    };
    if matches!(byte, 32..=33 | 35..=91 | 93..=126) {
        classes |= QTEXT;
    }
    if matches!(byte, 33..=90 | 94..=126) {
        classes |= DCONTENT;
    }
    classes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Leniency;
    use super::*;

    /// Returns what is read of a mailbox, and how far, by the fast path if it applies, and by the general one.
    fn both_ways(input: &[u8], options: PathOptions) -> Option<[(Range<usize>, usize); 2]> {
        let mut whole = Scanner::new(input, options);
        let parts = plain_mailbox(input)?;
        let end = parts.end;
        let expected = whole.any_mailbox().expect("the fast path found a mailbox");
        Some([(parts, end), (expected, whole.at)])
    }

    #[test]
    fn most_mailboxes_are_read_the_quick_way_up_to_all_limits() {
        let (local, label) = ("l".repeat(64), "d".repeat(63));
        let longest = [label.as_str(); 4].join(".");
        for (input, quick) in [
            ("a@b".to_owned(), true),
            ("first.last+tag@mail.example.org>".to_owned(), true),
            (format!("{local}@x SIZE=1"), true),
            (format!("l{local}@x"), false),
            (format!("a@{longest}"), true),
            (format!("a@{longest}.d"), false),
            (format!("a@d{label}"), false),
            ("a@[127.0.0.1]".to_owned(), false),
            ("\"a\"@b".to_owned(), false),
            ("a@b.>".to_owned(), false),
            ("a@under_score.example".to_owned(), false),
        ] {
            let read = both_ways(input.as_bytes(), PathOptions::default());
            assert_eq!(read.is_some(), quick, "{input}");
            assert!(read.is_none_or(|[one, other]| one == other), "{input}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_path_reads_what_the_whole_grammar_reads(
            input in "[ab.@-]{0,9}@[ab.-]{0,9}[>_ \"é\\[]{0,2}",
            lenient in any::<bool>(),
            utf8 in any::<bool>(),
        ) {
            let leniency = Leniency::STRICT
                .allow_long_local_part(lenient)
                .allow_stray_dots_in_local_part(lenient)
                .allow_underscore_in_domain(lenient)
                .allow_trailing_dot_in_domain(lenient);
            let charset = if utf8 { Charset::Utf8 } else { Charset::Ascii };
            let read = both_ways(input.as_bytes(), PathOptions::new(leniency, charset));
            prop_assert!(read.is_none_or(|[one, other]| one == other));
        }
    }
}
