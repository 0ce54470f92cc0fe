//! The events and spans of smtpd-tower, as its page on logs and metrics lists them.

use std::{collections::BTreeSet, fs, path::Path};

use super::{collect, read, root, tables};

const PAGE: &str = "smtpd-tower/docs/logs_and_metrics.md";
const MACROS: [&str; 7] = ["error", "warn", "info", "debug", "trace", "event", "span"];

/// A call of a macro of `tracing` in the source, or a row that describes one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    /// `None` of a span, whose row does not have it.
    target: Option<String>,
    level: String,
    message: String,
    fields: Vec<String>,
}

impl Event {
    /// Its row in the page.
    fn row(&self) -> String {
        let fields: Vec<_> = self
            .fields
            .iter()
            .map(|field| format!("`{field}`"))
            .collect();
        let (level, message, fields) = (&self.level, &self.message, fields.join(", "));
        match &self.target {
            Some(target) => format!("| `{target}` | {level} | `{message}` | {fields} |"),
            None => format!("| `{message}` | {level} | {fields} |"),
        }
    }

    fn of_call(name: &str, arguments: &[String], target: String) -> Self {
        let mut event = Self {
            target: (name != "span").then_some(target),
            level: name.to_uppercase(),
            message: String::new(),
            fields: Vec::new(),
        };
        for argument in arguments {
            let field = argument
                .split_once('=')
                .map_or(&**argument, |(field, _)| field)
                .trim();
            match argument.strip_prefix('"') {
                _ if field.starts_with("parent:") => {}
                // The level of a macro of the file's own.
                _ if field == "Level::INFO" => event.level = "INFO".to_owned(),
                _ if field == "$level" => event.level = "DEBUG, at DATA INFO".to_owned(),
                Some(text) => event.message = with_gaps(text.trim_end_matches('"')),
                None => event
                    .fields
                    .push(field.trim_start_matches(['%', '?']).to_owned()),
            }
        }
        event
    }
}

/// Replaces each placeholder of a text by `…`.
fn with_gaps(text: &str) -> String {
    let mut parts = text.split('{');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + "…" + part.split_once('}').expect("a closed brace").1
    })
}

/// The arguments of a call, of which this is the text behind the parenthesis that opens it.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut current) = (Vec::new(), String::new());
    let (mut depth, mut within_text) = (0, false);
    for c in text.chars() {
        match c {
            '"' => within_text = !within_text,
            '(' | '[' | '{' if !within_text => depth += 1,
            ')' if !within_text && depth == 0 => break,
            ')' | ']' | '}' if !within_text => depth -= 1,
            ',' if !within_text && depth == 0 => {
                found.push(std::mem::take(&mut current).trim().to_owned());
                continue;
            }
            _ => {}
        }
        current.push(c);
    }
    found.push(current.trim().to_owned());
    found.retain(|argument| !argument.is_empty());
    found
}

/// What the module of a file is called in the target of its events.
fn module(src: &Path, file: &Path) -> String {
    let path = file.strip_prefix(src).expect("in src").with_extension("");
    let mut names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
    if names
        .last()
        .is_some_and(|name| name == "mod" || name == "lib")
    {
        names.pop();
    }
    format!("smtpd_tower::{}", names.join("::"))
}

/// All calls outside of tests and documentation.
fn in_source() -> BTreeSet<Event> {
    let src = root().join("smtpd-tower/src");
    let mut files = Vec::new();
    collect(&src, "rs", &mut files);
    let mut events = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        for call in code.split("tracing::").skip(1) {
            let Some((name, rest)) = call.split_once("!(") else {
                continue;
            };
            if MACROS.contains(&name) {
                events.insert(Event::of_call(name, &arguments(rest), module(&src, &file)));
            }
        }
    }
    events
}

#[test]
fn the_page_lists_every_event_and_span_of_the_source_and_no_other() {
    let page = read(PAGE);
    let rows = [tables(&page, "| target |"), tables(&page, "| span |")].concat();
    let listed: BTreeSet<_> = rows
        .iter()
        .map(|cells| format!("| {} |", cells.join(" | ")))
        .collect();
    let events: BTreeSet<_> = in_source().iter().map(Event::row).collect();
    assert!(events.len() > 15, "hardly an event is seen: {events:#?}");
    let missing: Vec<_> = events.difference(&listed).map(String::as_str).collect();
    let unknown: Vec<_> = listed.difference(&events).map(String::as_str).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not in the page:\n{}\n\nnot in the source:\n{}",
        missing.join("\n"),
        unknown.join("\n")
    );
}

#[test]
fn the_protocol_logs_nothing_by_itself() {
    let manifest = read("smtpd-core/Cargo.toml");
    assert!(
        !manifest.contains("tracing"),
        "the page on logs says nothing of smtpd-core"
    );
}

#[test]
fn calls_are_read_whatever_their_form() {
    let text = "parent: f(a, b), %peer, ?other, sessions = self.taken(), summary.n, \"{name} at (x, y)\") + 1";
    let event = Event::of_call("warn", &arguments(text), "smtpd_tower::a".to_owned());
    assert_eq!(
        event.row(),
        "| `smtpd_tower::a` | WARN | `… at (x, y)` | `peer`, `other`, `sessions`, `summary.n` |"
    );
    let text = "$level, \"smtp\", phase = $phase) ";
    let span = Event::of_call("span", &arguments(text), String::new());
    assert_eq!(span.row(), "| `smtp` | DEBUG, at DATA INFO | `phase` |");
}
