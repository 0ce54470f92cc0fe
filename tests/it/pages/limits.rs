//! The page on limits has them all, with their defaults, and what they add up to.

use std::{collections::BTreeMap, fmt::Debug};

use smtpd_tower::{
    Server,
    config::{Limits, Timeouts},
};

use super::{code, read, root, tables};

fn page() -> String {
    read("smtpd-tower/docs/limits.md")
}

/// The fields of a struct and their values, from what `Debug` shows of it.
fn fields(value: &impl Debug) -> BTreeMap<String, String> {
    let text = format!("{value:?}");
    let (_, fields) = text.split_once(" { ").expect("a struct");
    let fields = fields.trim_end_matches(" }").split(", ");
    let fields = fields.map(|field| field.split_once(": ").expect("a field"));
    fields
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A number with a unit, in bytes, seconds or as it is.
fn number(text: &str) -> u64 {
    let (digits, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u64 = digits
        .replace(',', "")
        .parse()
        .unwrap_or_else(|_| panic!("no number: {text}"));
    let unit = match unit {
        "" | "bytes" | "bytes a second" | "second" | "seconds" => 1,
        "minute" | "minutes" => 60,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        other => panic!("no unit: {other}"),
    };
    number * unit
}

/// The same of what `Debug` shows.
fn shown(value: &str) -> Option<u64> {
    let value = value
        .trim_start_matches("Some(")
        .trim_end_matches([')', 's']);
    (value != "None").then(|| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("no number: {value}"))
    })
}

#[test]
fn every_limit_and_timeout_has_a_row_with_its_default() {
    let page = page();
    for (header, fields) in [
        (
            "| limit | default | the client receives | then |",
            fields(&Limits::default()),
        ),
        ("| timeout |", fields(&Timeouts::default())),
    ] {
        let mut listed = BTreeMap::new();
        for row in tables(&page, header) {
            let default = (row[1] != "none").then(|| number(&row[1]));
            assert!(
                listed.insert(code(&row[0]).to_owned(), default).is_none(),
                "{row:?}"
            );
        }
        let fields: BTreeMap<_, _> = fields
            .iter()
            .map(|(name, value)| (name.clone(), shown(value)))
            .collect();
        assert_eq!(listed, fields, "{header}");
    }
    let row = format!(
        "`Server::max_sessions`](crate::Server::max_sessions) | {} |",
        grouped(Server::DEFAULT_MAX_SESSIONS)
    );
    assert!(page.contains(&row), "{row}");
}

/// With a comma for thousands.
fn grouped(number: usize) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}

/// RFC 5321 section 4.5.3.2: how many minutes a client waits, by the number of the subsection.
const PATIENCE: [(u32, u64); 5] = [(1, 5), (2, 5), (3, 5), (4, 2), (6, 10)];

#[test]
fn the_sums_of_the_defaults_are_less_than_clients_wait() {
    let defaults = fields(&Timeouts::default());
    let rows = tables(&page(), "| the client waits for |");
    assert_eq!(rows.len(), PATIENCE.len());
    for (row, (section, minutes)) in rows.iter().zip(PATIENCE) {
        assert_eq!(row[1], format!("4.5.3.2.{section}"));
        assert_eq!(number(&row[2]), minutes * 60, "{row:?}");
        let (parts, sum) = row[3].split_once(" = ").expect("a sum");
        let parts = parts.split('`').skip(1).step_by(2);
        let actual: u64 = parts.map(|name| shown(&defaults[name]).expect(name)).sum();
        assert_eq!(number(sum), actual, "{row:?}");
        assert!(actual < minutes * 60, "{row:?}");
    }
}

/// Where each reply to a limit is shown.
const SHOWN: [(&str, &str); 16] = [
    ("message_size", "size_real.smtp"),
    ("header_section", "limit_header_section.smtp"),
    ("header_lines", "limit_header_lines.smtp"),
    ("recipients", "limit_recipients.smtp"),
    ("recipient_domains", "limit_domains.smtp"),
    ("command_line", "lines_too_long.smtp"),
    ("errors", "limit_errors.smtp"),
    ("prompt_refusals", "limit_prompt_refusals.smtp"),
    ("rejected_recipients", "limit_rejected_recipients.smtp"),
    ("deferred_recipients", "limit_deferred_recipients.smtp"),
    ("auth_failures", "auth_failures.smtp"),
    ("idle_commands", "limit_idle_commands.smtp"),
    ("after_refusal", "limit_after_refusal.smtp"),
    ("messages", "limit_messages.smtp"),
    ("session_bytes", "limit_session_bytes.smtp"),
    ("drain", "size_drain.smtp"),
];

#[test]
fn the_replies_to_limits_are_those_of_the_transcripts() {
    let rows = tables(&page(), "| limit | default | the client receives | then |");
    assert_eq!(rows.len(), SHOWN.len());
    for (row, (limit, file)) in rows.iter().zip(SHOWN) {
        assert_eq!(code(&row[0]), limit);
        let path = root().join("smtpd-core/tests/transcripts").join(file);
        let transcript = read(&path);
        let mut replies = row[2].split(' ');
        let (code, status) = (
            replies.next().unwrap_or_default(),
            replies.next().unwrap_or_default(),
        );
        // The command's own reply, or that to the message, where there is no code.
        let reply = match code.parse::<u16>() {
            Ok(_) => format!("S: {code} {} ", status.trim_end_matches(',')),
            Err(_) if limit == "prompt_refusals" => "S: 550 ".to_owned(),
            Err(_) => "S: 552 ".to_owned(),
        };
        assert!(
            transcript.contains(&reply),
            "{file} does not show {reply:?}"
        );
        let ends = row[3].starts_with("the session ends");
        assert!(
            !ends || transcript.contains("E: closed limit"),
            "{file}: {}",
            row[3]
        );
    }
}
