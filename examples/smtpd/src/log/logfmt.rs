//! The format of the text log: `key=value` in each line, so that programs can read it. A value with a space in it is quoted.

use std::fmt::{self, Debug, Write as _};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

use super::visible;

/// Writes an event in one line: its time, its level, its message as `msg`, and its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str("time=")?;
        SystemTime.format_time(&mut writer)?;
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        write!(writer, " level={level}")?;
        let mut fields = Fields {
            line: String::new(),
            value: String::new(),
        };
        event.record(&mut fields);
        writeln!(writer, "{}", fields.line)
    }
}

/// The fields of an event, in the order in which it has them; the message is the first.
struct Fields {
    line: String,
    /// The value that is being written.
    value: String,
}

impl Fields {
    fn put(&mut self, field: &Field) {
        let text = visible(&self.value);
        if field.name() == "message" {
            let mut first = String::from(" msg=");
            put_value(&mut first, &text);
            self.line.insert_str(0, &first);
        } else {
            self.line.push(' ');
            self.line.push_str(field.name());
            self.line.push('=');
            put_value(&mut self.line, &text);
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.value.clear();
        // Writing into a string does not fail; a value that cannot be formatted is left as far as it came.
        let _ = write!(self.value, "{value:?}");
        self.put(field);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.value.clear();
        self.value.push_str(value);
        self.put(field);
    }
}

/// Appends a value, in quotes if it would not be read as one otherwise.
fn put_value(line: &mut String, value: &str) {
    if !value.is_empty() && !value.contains([' ', '"', '=', '\\']) {
        return line.push_str(value);
    }
    line.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            line.push('\\');
        }
        line.push(c);
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::tests::capture;

    #[test]
    fn a_value_with_a_space_is_taken_for_two() {
        let (guard, written) = capture(false);
        tracing::info!(
            reply = "250 2.0.0 OK",
            display = %"tls failed",
            number = 7,
            quoted = "a\"b\\c",
            empty = "",
            equals = "a=b",
            plain = "a@gr\u{fc}n.test",
            evil = "a\n\u{202e}b",
            missing = None::<&str>,
            "two words"
        );
        drop(guard);
        let text = written.text();
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.starts_with("time=2"), "{text}");
        assert_eq!(
            rest,
            concat!(
                r#"level=info msg="two words" reply="250 2.0.0 OK" display="tls failed" number=7 "#,
                r#"quoted="a\"b\\c" empty="" equals="a=b" plain=a@gr"#,
                "\u{fc}n.test ",
                r#"evil="a\\u{a}\\u{202e}b""#,
                "\n"
            )
        );
    }
}
