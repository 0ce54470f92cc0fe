use crate::command::Verb;

/// The state of a session (RFC 5321 section 4.1.4).
///
/// ```text
///            HELO, EHLO           MAIL           RCPT
///   Start ---------------> Ready -----> Mail ---------> Rcpt --+ RCPT
///     |                      ^ ^          |              |  ^--+
///     | greeting refused     | +-- RSET --+------ RSET --+
///     v                      |                           |
///   Refused                  +--- the message's reply ---+ DATA, BDAT LAST
///                            |                           | BDAT
///                            +------ LAST, RSET ------ Chunks --> Broken
/// ```
///
/// A refused chunk leads to `Broken`, where only RSET or a new greeting helps. HELO, EHLO and LHLO lead to `Ready` from
/// everywhere; a TLS handshake leads to `Start`, and so does XCLIENT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No HELO yet.
    Start,
    /// Greeted; no transaction.
    Ready,
    /// MAIL was accepted.
    Mail,
    /// A recipient was accepted.
    Rcpt,
    /// Between the chunks of a message (RFC 3030).
    Chunks,
    /// A chunk of the message was refused (RFC 3030 section 2).
    Broken,
    /// The greeting was 5yz: only QUIT is allowed (RFC 5321 section 3.1).
    Refused,
}

use State::{Broken, Chunks, Mail, Rcpt, Ready, Refused, Start};

/// The rules for one command.
struct Rule {
    verb: Verb,
    name: &'static [u8],
    key: u64,
    /// The states in which it is allowed; 503 in the others.
    states: u8,
    /// Allowed before TLS although TLS is required (RFC 3207 section 4). XCLIENT is not a command of the client.
    before_tls: bool,
    /// Allowed before AUTH although AUTH is required (RFC 4954 section 6).
    before_auth: bool,
    /// Must be the last of a pipelined group, because its outcome changes what the next bytes mean (RFC 2920 section 3.1, RFC
    /// 3207 section 4, RFC 4954 section 4).
    last: bool,
    /// Leads to no mail: counted against the limit of such commands. XFORWARD belongs to the message that follows it, and is for
    /// trusted peers only.
    junk: bool,
}

const ANY: &[State] = &[Start, Ready, Mail, Rcpt, Chunks, Broken];
const ALWAYS: &[State] = &[Start, Ready, Mail, Rcpt, Chunks, Broken, Refused];

const fn rule(
    verb: Verb,
    name: &'static [u8],
    states: &[State],
    [tls, auth, last, junk]: [u8; 4],
) -> Rule {
    Rule {
        verb,
        name,
        key: key(name),
        states: bits(states),
        before_tls: tls == 1,
        before_auth: auth == 1,
        last: last == 1,
        junk: junk == 1,
    }
}

#[rustfmt::skip]
const TABLE: [Rule; 18] = [
    //                                 allowed in              before: TLS, AUTH; last, junk
    rule(Verb::Helo,     b"HELO",     ANY,                           [1, 1, 1, 1]),
    rule(Verb::Ehlo,     b"EHLO",     ANY,                           [1, 1, 1, 1]),
    rule(Verb::Lhlo,     b"LHLO",     ANY,                           [1, 1, 1, 1]),
    rule(Verb::StartTls, b"STARTTLS", &[Start, Ready],               [1, 1, 1, 1]),
    rule(Verb::Auth,     b"AUTH",     &[Ready],                      [0, 1, 1, 0]),
    rule(Verb::Mail,     b"MAIL",     &[Ready],                      [0, 0, 0, 0]),
    rule(Verb::Rcpt,     b"RCPT",     &[Mail, Rcpt],                 [0, 0, 0, 0]),
    rule(Verb::Data,     b"DATA",     &[Rcpt],                       [0, 0, 1, 0]),
    rule(Verb::Bdat,     b"BDAT",     &[Rcpt, Chunks],               [0, 0, 0, 0]),
    rule(Verb::Rset,     b"RSET",     ANY,                           [0, 1, 0, 1]),
    rule(Verb::Noop,     b"NOOP",     ANY,                           [1, 1, 0, 1]),
    rule(Verb::Vrfy,     b"VRFY",     ANY,                           [0, 0, 0, 1]),
    rule(Verb::Expn,     b"EXPN",     ANY,                           [0, 0, 0, 1]),
    rule(Verb::Etrn,     b"ETRN",     &[Ready],                      [0, 0, 0, 1]),
    rule(Verb::Help,     b"HELP",     ANY,                           [0, 0, 0, 1]),
    rule(Verb::Quit,     b"QUIT",     ALWAYS,                        [1, 1, 1, 0]),
    rule(Verb::XClient,  b"XCLIENT",  &[Start, Ready],               [1, 1, 0, 1]),
    rule(Verb::XForward, b"XFORWARD", &[Start, Ready],               [0, 0, 0, 0]),
];

/// Returns states as a bit set.
const fn bits(states: &[State]) -> u8 {
    let (mut bits, mut at) = (0, 0);
    while at < states.len() {
        bits |= 1 << states[at] as u8;
        at += 1;
    }
    bits
}

/// Returns a name of up to eight bytes as a number, in upper case, so that it is compared in one step.
const fn key(name: &[u8]) -> u64 {
    let (mut key, mut at) = (0, 0);
    while at < name.len() {
        key = key << 8 | name[at].to_ascii_uppercase() as u64;
        at += 1;
    }
    key
}

impl Verb {
    /// Returns the verb with this name, in any letter case but not abbreviated (RFC 5321 section 2.4).
    pub(super) fn parse(word: &[u8]) -> Option<Self> {
        if word.len() > size_of::<u64>() {
            return None;
        }
        let key = key(word);
        TABLE
            .iter()
            .find(|rule| rule.key == key && rule.name.len() == word.len())
            .map(|rule| rule.verb)
    }

    pub(super) fn name(self) -> &'static [u8] {
        self.rule().name
    }

    /// Returns the name, in upper case.
    pub(super) fn as_str(self) -> &'static str {
        // The names in the table are ASCII.
        str::from_utf8(self.name()).unwrap_or_default()
    }

    fn rule(self) -> &'static Rule {
        // The table is in the order of the enum, which the tests below verify.
        &TABLE[self as usize]
    }

    pub(super) fn is_in_order(self, state: State) -> bool {
        self.rule().states & bits(&[state]) != 0
    }

    pub(super) fn is_allowed_before_tls(self) -> bool {
        self.rule().before_tls
    }

    pub(super) fn is_allowed_before_auth(self) -> bool {
        self.rule().before_auth
    }

    pub(super) fn must_be_last(self) -> bool {
        self.rule().last
    }

    pub(super) fn is_junk(self) -> bool {
        self.rule().junk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_verbs() {
        for (at, rule) in TABLE.iter().enumerate() {
            assert_eq!(rule.verb as usize, at);
            assert_eq!(Verb::parse(rule.name), Some(rule.verb));
        }
    }

    #[test]
    fn what_is_allowed_before_tls_and_auth_is_what_the_rfcs_list() {
        let before = |test: fn(&Rule) -> bool| {
            TABLE
                .iter()
                .filter(|r| test(r))
                .map(|r| r.verb)
                .collect::<Vec<_>>()
        };
        use Verb::*;
        assert_eq!(
            before(|r| r.before_tls),
            [Helo, Ehlo, Lhlo, StartTls, Noop, Quit, XClient]
        );
        assert_eq!(
            before(|r| r.before_auth),
            [Helo, Ehlo, Lhlo, StartTls, Auth, Rset, Noop, Quit, XClient]
        );
    }

    #[test]
    fn verbs_are_whole_words_in_any_case() {
        for (word, verb) in [
            (&b"QUIT"[..], Some(Verb::Quit)),
            (b"qUiT", Some(Verb::Quit)),
            (b"StartTLS", Some(Verb::StartTls)),
            (b"NOOPX", None),
            (b"NOO", None),
            (b"MAILFROM:<a@b>", None),
            (b"", None),
            (b"\xff\xfe", None),
        ] {
            assert_eq!(Verb::parse(word), verb, "{}", word.escape_ascii());
        }
    }
}
