//! Decides what may be shown of a command line: the only way from a client's line to a log.

use crate::{
    command::{Command, Verb},
    sasl::Mechanisms,
};

/// Replaces what may be secret.
pub(super) const REDACTED: &str = "[redacted]";

/// Replaces a line that begins with no verb: a client that does not notice that its AUTH was refused continues with user names
/// and passwords.
pub(super) const UNKNOWN: &str = "[unknown command]";

/// SASL mechanisms whose names are not secret if a client requests them, in addition to those that the server offers.
const MECHANISMS: [&str; 16] = [
    "ANONYMOUS",
    "CRAM-MD5",
    "DIGEST-MD5",
    "EXTERNAL",
    "GSSAPI",
    "GSS-SPNEGO",
    "LOGIN",
    "NTLM",
    "OAUTHBEARER",
    "PLAIN",
    "SCRAM-SHA-1",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-512",
    "XOAUTH2",
];

/// Attributes of XCLIENT and XFORWARD whose value is shown. LOGIN and PASS, which some proxies send, are not among them.
const ATTRIBUTES: [&str; 9] = [
    "NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE", "DESTADDR", "DESTPORT",
];

/// Returns the text of a command line without what may be a password: the line of a known verb, and of AUTH only the mechanism.
/// Nothing after a control character is shown, because a client that ends its lines with a bare LF sends a whole session in one.
#[cold]
pub(super) fn command_line(line: &[u8], offered: &Mechanisms) -> String {
    let line = line.trim_ascii_end();
    let end = line.iter().position(u8::is_ascii_control);
    let shown = &line[..end.unwrap_or(line.len())];
    let command = Command::new(shown);
    let (mut text, is_whole) = match Verb::parse(command.word) {
        None => return UNKNOWN.to_owned(),
        Some(Verb::Auth) => auth(command, offered),
        Some(Verb::XClient | Verb::XForward) => (with_attributes(command), true),
        Some(_) => (shown.escape_ascii().to_string(), true),
    };
    if !is_whole || end.is_some() {
        text.push(' ');
        text.push_str(REDACTED);
    }
    text
}

/// Returns the argument of a command line without what may be a password: of AUTH only the mechanism, and none of an unknown verb.
#[cold]
pub(super) fn argument(line: &[u8], offered: &Mechanisms) -> String {
    let end = line.iter().position(u8::is_ascii_control);
    let command = Command::new(&line[..end.unwrap_or(line.len())]);
    match Verb::parse(command.word) {
        None => String::new(),
        Some(Verb::Auth) => match mechanism(command, offered) {
            Some((name, _)) => name.escape_ascii().to_string(),
            None => String::new(),
        },
        Some(Verb::XClient | Verb::XForward) => attributes(command),
        Some(_) => visible(&String::from_utf8_lossy(command.argument)),
    }
}

/// Escapes the invisible characters of a text: line separators and the controls of writing direction would make a line of a log
/// show what it does not say.
pub(super) fn visible(text: &str) -> String {
    if text
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            ' '..='~' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// Returns the mechanism of an AUTH command and what follows it, unless it may be something else.
fn mechanism<'a>(
    command: Command<'a>,
    offered: &Mechanisms,
) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let mut words = command.argument.splitn(2, |&byte| byte == b' ');
    let mechanism = words.next().unwrap_or_default();
    let is_known = |name: &&str| name.as_bytes().eq_ignore_ascii_case(mechanism);
    let is_named = offered.find(mechanism).is_some() || MECHANISMS.iter().any(is_known);
    is_named.then(|| (mechanism, words.next()))
}

/// Returns the part of the command that is shown, and whether that is all of it.
fn auth(command: Command<'_>, offered: &Mechanisms) -> (String, bool) {
    let mut text = command.word.escape_ascii().to_string();
    let Some((name, rest)) = mechanism(command, offered) else {
        return (text, command.argument.is_empty());
    };
    text.push(' ');
    text.push_str(&name.escape_ascii().to_string());
    (text, rest.is_none())
}

fn with_attributes(command: Command<'_>) -> String {
    let word = command.word.escape_ascii();
    match attributes(command) {
        all if all.is_empty() => word.to_string(),
        all => format!("{word} {all}"),
    }
}

/// Returns the attributes of XCLIENT or XFORWARD, with a space between them.
fn attributes(command: Command<'_>) -> String {
    let mut text = String::new();
    let attributes = command.argument.split(|&byte| byte == b' ');
    for attribute in attributes.filter(|attribute| !attribute.is_empty()) {
        let name = attribute
            .split(|&byte| byte == b'=')
            .next()
            .unwrap_or_default();
        let is_it = |known: &str| known.as_bytes().eq_ignore_ascii_case(name);
        if !text.is_empty() {
            text.push(' ');
        }
        if ATTRIBUTES.into_iter().any(is_it) {
            text.push_str(&attribute.escape_ascii().to_string());
        } else if ["LOGIN", "PASS"].into_iter().any(is_it) {
            text.push_str(&name.escape_ascii().to_string());
            text.push('=');
            text.push_str(REDACTED);
        } else {
            text.push_str(REDACTED);
        }
    }
    text
}

/// Returns whether `Debug` may show a verb and its argument: those of known commands about which a caller is asked.
pub(super) fn is_asked_about(verb: &str) -> bool {
    matches!(verb, "VRFY" | "EXPN" | "HELP" | "ETRN")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_be_a_password_is_logged() {
        for (line, text) in [
            ("NOOP", "NOOP"),
            ("NOOP \t ", "NOOP"),
            ("MAIL FROM:<ü@b>", "MAIL FROM:<\\xc3\\xbc@b>"),
            ("AUTH", "AUTH"),
            ("AUTH PLAIN", "AUTH PLAIN"),
            ("auth plain c2VjcmV0", "auth plain [redacted]"),
            ("AUTH  PLAIN c2VjcmV0", "AUTH PLAIN [redacted]"),
            ("AUTH PLAIN\tc2VjcmV0", "AUTH PLAIN [redacted]"),
            ("AUTH LOGIN\nYQ==\nc2VjcmV0", "AUTH LOGIN [redacted]"),
            ("AUTH PLAIN=c2VjcmV0", "AUTH [redacted]"),
            ("AUTH PLAIN:c2VjcmV0 x", "AUTH [redacted]"),
            ("AUTH c2VjcmV0", "AUTH [redacted]"),
            ("AUTH c2VjcmV0 PLAIN", "AUTH [redacted]"),
            ("AUTH\tPLAIN c2VjcmV0", "AUTH [redacted]"),
            ("AUTH NTLM c2VjcmV0", "AUTH NTLM [redacted]"),
            ("AUTH=PLAIN c2VjcmV0", "[unknown command]"),
            (" AUTH PLAIN c2VjcmV0", "[unknown command]"),
            ("AUTHPLAIN c2VjcmV0", "[unknown command]"),
            ("c2VjcmV0", "[unknown command]"),
            ("PASS secret", "[unknown command]"),
            ("", "[unknown command]"),
            ("GET /?token=secret", "[unknown command]"),
            ("EHLO a\nAUTH PLAIN c2VjcmV0", "EHLO a [redacted]"),
            ("NOOP\0c2VjcmV0", "NOOP [redacted]"),
            (
                "XCLIENT ADDR=192.0.2.1 LOGIN=alice PASS=secret name=x",
                "XCLIENT ADDR=192.0.2.1 LOGIN=[redacted] PASS=[redacted] name=x",
            ),
            ("xclient pass=secret", "xclient pass=[redacted]"),
            ("XCLIENT c2VjcmV0= secret", "XCLIENT [redacted] [redacted]"),
            (
                "XFORWARD IDENT=4F PASS=secret",
                "XFORWARD IDENT=4F PASS=[redacted]",
            ),
        ] {
            for offered in [Mechanisms::none(), Mechanisms::default()] {
                assert_eq!(command_line(line.as_bytes(), &offered), text, "{line:?}");
            }
        }
    }

    #[test]
    fn an_argument_holds_nothing_that_may_be_a_password() {
        for (line, text) in [
            ("NOOP", ""),
            (
                "rcpt TO:<\u{e5}\u{202e}@b> X=\\ ",
                "TO:<\u{e5}\\u{202e}@b> X=\\",
            ),
            ("AUTH", ""),
            ("auth plain c2VjcmV0", "plain"),
            ("AUTH PLAIN\tc2VjcmV0", "PLAIN"),
            ("AUTH PLAIN=c2VjcmV0", ""),
            ("AUTH c2VjcmV0", ""),
            ("c2VjcmV0 c2VjcmV0", ""),
            ("PASS secret", ""),
            ("NOOP a\0c2VjcmV0", "a"),
            ("XCLIENT NAME=x PASS=secret", "NAME=x PASS=[redacted]"),
            ("XFORWARD secret", "[redacted]"),
        ] {
            for offered in [Mechanisms::none(), Mechanisms::default()] {
                assert_eq!(argument(line.as_bytes(), &offered), text, "{line:?}");
            }
        }
    }

    #[test]
    fn a_mechanism_that_is_offered_is_shown() {
        use crate::sasl::XOAuth2;

        let offered = Mechanisms::none().with(XOAuth2::new());
        assert_eq!(
            command_line(b"AUTH xoauth2 x", &offered),
            "AUTH xoauth2 [redacted]"
        );
        assert_eq!(command_line(b"AUTH XOAUTH3 x", &offered), "AUTH [redacted]");
    }
}
