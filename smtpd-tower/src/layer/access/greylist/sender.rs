//! Senders that change with each message, as one.

use std::borrow::Cow;

/// Returns whether nothing in the local part of a sender looks as if it changed from message to message.
pub(super) fn is_normal(local: &str) -> bool {
    let is_plain = |byte: u8| !byte.is_ascii_digit() && byte != b'+' && byte != b'=';
    local.bytes().all(is_plain)
}

/// Replaces what changes from message to message in the local part of a sender. `local` is in lower case.
pub(super) fn normalized(local: &str) -> String {
    let local = unsigned(local);
    if let Some((domain, user)) = rewritten(local) {
        return format!("srs0={domain}={}", with_numbers(user));
    }
    let (local, _) = local
        .split_once('+')
        .filter(|(user, _)| !user.is_empty())
        .unwrap_or((local, ""));
    with_numbers(without_recipient(local)).into_owned()
}

/// Takes off the tag of BATV (`prvs=tag=user`, in some programs `prvs=user=tag`), and those of a few programs like it.
fn unsigned(local: &str) -> &str {
    if let Some((_, user)) = local
        .strip_prefix("btv1==")
        .and_then(|rest| rest.split_once("=="))
    {
        return user;
    }
    let signed = ["prvs=", "msprvs1="]
        .iter()
        .find_map(|prefix| local.strip_prefix(prefix));
    match signed.and_then(|signed| signed.split_once('=')) {
        Some((user, tag)) if is_tag(tag) && !is_tag(user) => user,
        Some((_, user)) => user,
        None => local,
    }
}

/// Returns whether this is a tag of BATV: a digit for the key, three for the day, six digits of a hash.
fn is_tag(text: &str) -> bool {
    let (day, hash) = text.split_at_checked(4).unwrap_or_default();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    digits(day) && hash.len() == 6 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns the domain and the user of an address that SRS has rewritten, once (`srs0=hash=day=domain=user`) or more often
/// (`srs1=hash=forwarder==hash=day=domain=user`).
fn rewritten(local: &str) -> Option<(&str, &str)> {
    let rest = local.strip_prefix("srs")?;
    let separator = |text: &str| text.starts_with(['=', '+', '-']);
    let once = match rest.split_at_checked(1)? {
        ("0", rest) if separator(rest) => &rest[1..],
        ("1", rest) if separator(rest) => {
            let (_, once) = rest[1..].split_once('=')?;
            let at = ["==", "=+", "=-"]
                .iter()
                .filter_map(|end| once.find(end))
                .min()?;
            &once[at + 2..]
        }
        _ => return None,
    };
    let mut parts = once.splitn(4, '=').skip(2);
    parts.next().zip(parts.next())
}

/// Takes off the domain of a recipient that stands in the sender (VERP: `list-return-7-user=example.org`).
fn without_recipient(local: &str) -> &str {
    match local.rsplit_once('=') {
        Some((user, domain)) if domain.contains('.') && !user.is_empty() => user,
        _ => local,
    }
}

/// Replaces numbers, and words of at least eight letters and digits with a digit among them, by `#`.
fn with_numbers(local: &str) -> Cow<'_, str> {
    if !local.bytes().any(|byte| byte.is_ascii_digit()) {
        return local.into();
    }
    let mut text = String::with_capacity(local.len());
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let mut rest = local;
    while !rest.is_empty() {
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word);
        text.push_str(if changes(word) { "#" } else { word });
        let between = after.find(is_word).unwrap_or(after.len());
        let (between, after) = after.split_at(between);
        text.push_str(between);
        rest = after;
    }
    text.into()
}

fn changes(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    digits > 0 && (digits == word.len() || word.len() >= 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_of_one_list_are_strangers_to_each_other() {
        for (local, expected) in [
            ("alice", "alice"),
            ("alice2", "alice2"),
            ("a.b_c", "a.b_c"),
            ("", ""),
            ("+tag", "+tag"),
            ("alice+tag", "alice"),
            ("bounces+2718-28f1-bob=example.org", "bounces"),
            ("list-return-4711-bob=example.org", "list-return-#-bob"),
            ("list-return-4711-", "list-return-#-"),
            ("4711", "#"),
            ("bounce-12_html-34-x", "bounce-#_html-#-x"),
            (
                "0100018c2f3e4d5a-6b7c8d9e-1234-4f5e-9a8b-0c1d2e3f4a5b-000000",
                "#-#-#-4f5e-9a8b-#-#",
            ),
            ("john1975", "#"),
            ("a=b", "a=b"),
            ("=example.org", "=example.org"),
            ("prvs=5123abcdef=alice", "alice"),
            ("prvs=alice=5123abcdef", "alice"),
            ("prvs=5123abcdef=1234abcdef", "#"),
            ("prvs=alice", "prvs=alice"),
            ("msprvs1=19000abc=bounces-12", "bounces-#"),
            ("btv1==abc==alice", "alice"),
            ("srs0=ab1x=ty=example.com=alice", "srs0=example.com=alice"),
            ("srs0+zz9y=1a=example.com=alice", "srs0=example.com=alice"),
            (
                "srs1=q1=forward.example==ab1x=ty=example.com=al=ice",
                "srs0=example.com=al=ice",
            ),
            ("srs0=ab1x=ty", "srs0=ab1x=ty"),
            ("srs1=ab1x", "srs1=ab1x"),
            ("srs", "srs"),
            ("srsé", "srsé"),
            ("é12345678é", "é#é"),
        ] {
            assert_eq!(normalized(local), expected, "{local}");
            assert!(!is_normal(local) || local == expected, "{local}");
        }
    }
}
