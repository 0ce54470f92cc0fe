//! How much of everything a session, and the server, may have.

use std::num::{NonZeroU32, NonZeroU64};

use clap::Args;
use smtpd_tower::{
    Server,
    config::Limits,
    layer::{FreeSpaceLayer, HopLimitLayer},
};

use crate::amounts;

const LIMITS: &str = "Limits";

/// The options of counts and sizes. Those that are not set leave the framework's defaults.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitOptions {
    /// Maximum size of a message, in bytes or as in 512k, 10M, 1G; 0 for no limit [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = amounts::size, help_heading = LIMITS)]
    pub(crate) max_size: Option<u64>,

    /// Maximum size of the header section of a message; a message with more is rejected with 552 [default: 1M]
    #[arg(long, value_name = "SIZE", value_parser = amounts::some_bytes, help_heading = LIMITS)]
    max_header_size: Option<NonZeroU64>,

    /// Maximum number of lines in the header section of a message; a message with more is rejected with 552 [default: 10000]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_header_lines: Option<NonZeroU32>,

    /// Maximum number of recipients of a message; more receive 452 [default: 100]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_recipients: Option<NonZeroU32>,

    /// Maximum number of recipient domains in a session; recipients at more receive 452 [default: no limit]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_recipient_domains: Option<NonZeroU32>,

    /// Maximum number of Received fields in a message, 0 for no limit; a message with more is in a loop, and rejected with 554
    /// [default: 100]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub(crate) max_hops: Option<u32>,

    /// Maximum length of a command line, at least 512 bytes; a longer one receives 500 [default: 2k]
    #[arg(long, value_name = "SIZE", value_parser = amounts::line_length, help_heading = LIMITS)]
    max_command_line: Option<usize>,

    /// Maximum number of messages in a session; one more receives 421 [default: 10000]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_messages: Option<NonZeroU32>,

    /// Maximum number of bytes that a client may send in a session, several times --max-size; more end it with 421 [default: no
    /// limit]
    #[arg(long, value_name = "SIZE", value_parser = amounts::some_bytes, help_heading = LIMITS)]
    max_session_bytes: Option<NonZeroU64>,

    /// Maximum number of bytes of a rejected message to read before the session ends without waiting for its end [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = amounts::size, help_heading = LIMITS)]
    max_drain: Option<u64>,

    /// Number of wrong commands that end a session [default: 20]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_errors: Option<NonZeroU32>,

    /// Number of failed authentications that end a session [default: 5]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_auth_failures: Option<NonZeroU32>,

    /// Number of recipients rejected with 5yz since the last message that end a session [default: 50]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_rejected_recipients: Option<NonZeroU32>,

    /// Number of recipients deferred with 4yz since the last message that end a session [default: 10000]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_deferred_recipients: Option<NonZeroU32>,

    /// Number of errors, and of rejected recipients, that are answered at once; each further one waits a second longer, up to 3
    /// [default: 10]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_prompt_refusals: Option<NonZeroU32>,

    /// Number of commands without a message that end a session [default: 1000]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_idle_commands: Option<NonZeroU32>,

    /// Number of commands, other than QUIT, that a client may send after it was refused with a greeting of 5yz [default: 3]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_after_refusal: Option<NonZeroU32>,

    /// Maximum number of sessions at a time; more clients receive 421, or are disconnected where TLS begins with the first byte
    /// [default: 10000]
    #[arg(long, value_name = "N", value_parser = amounts::count, help_heading = LIMITS)]
    max_sessions: Option<NonZeroU32>,

    /// Maximum number of bytes of messages in memory, over all sessions; from three quarters of it on, messages receive 452, and
    /// from seven eighths on, clients receive 421. About half of the memory that the server may use. After a reload that changes
    /// it, open sessions keep the old one [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = amounts::some_bytes, help_heading = LIMITS)]
    pub(crate) memory_budget: Option<NonZeroU64>,

    /// How many bytes of the disk of the Maildir stay free; with less, messages receive 452 [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = amounts::size, help_heading = LIMITS)]
    min_free_space: Option<u64>,
}

impl LimitOptions {
    /// Sets those of a session.
    pub(crate) fn apply(&self, limits: &mut Limits) {
        if let Some(bytes) = self.max_size {
            limits.message_size = (bytes > 0).then_some(bytes);
        }
        for (limit, option) in [
            (&mut limits.header_lines, self.max_header_lines),
            (&mut limits.recipients, self.max_recipients),
            (&mut limits.errors, self.max_errors),
            (&mut limits.prompt_refusals, self.max_prompt_refusals),
            (
                &mut limits.rejected_recipients,
                self.max_rejected_recipients,
            ),
            (
                &mut limits.deferred_recipients,
                self.max_deferred_recipients,
            ),
            (&mut limits.auth_failures, self.max_auth_failures),
            (&mut limits.idle_commands, self.max_idle_commands),
            (&mut limits.after_refusal, self.max_after_refusal),
            (&mut limits.messages, self.max_messages),
        ] {
            *limit = option.map_or(*limit, NonZeroU32::get);
        }
        let header = self.max_header_size.map(NonZeroU64::get);
        limits.header_section = header.unwrap_or(limits.header_section);
        limits.command_line = self.max_command_line.unwrap_or(limits.command_line);
        limits.drain = self.max_drain.unwrap_or(limits.drain);
        limits.recipient_domains = self.max_recipient_domains.map(NonZeroU32::get);
        limits.session_bytes = self.max_session_bytes.map(NonZeroU64::get);
    }

    pub(crate) fn sessions(&self) -> usize {
        let sessions = self.max_sessions.map(NonZeroU32::get);
        sessions.map_or(Server::DEFAULT_MAX_SESSIONS, |sessions| {
            usize::try_from(sessions).unwrap_or(usize::MAX)
        })
    }

    pub(crate) fn hops(&self) -> Option<u32> {
        let hops = self.max_hops.unwrap_or(HopLimitLayer::DEFAULT);
        (hops > 0).then_some(hops)
    }

    /// Returns how many bytes of the Maildir's disk stay free.
    pub(crate) fn min_free_space(&self) -> u64 {
        self.min_free_space.unwrap_or(FreeSpaceLayer::DEFAULT_KEEP)
    }

    /// Whether a message of the largest size cannot arrive, because the session ends before.
    pub(crate) fn is_session_too_short(&self) -> bool {
        let mut limits = Limits::default();
        self.apply(&mut limits);
        let most = limits.message_size.zip(limits.session_bytes);
        most.is_some_and(|(message, session)| session <= message)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Debug};

    use clap::{Arg, Command, CommandFactory as _};
    use smtpd_tower::Config;

    use super::*;
    use crate::{config, options::Options};

    const PAGE: &str = include_str!("../../../smtpd-tower/docs/limits.md");

    /// The rows of the tables that have a column for options: the first cell and the last one.
    fn rows() -> Vec<(&'static str, &'static str)> {
        let (mut rows, mut within) = (Vec::new(), false);
        for line in PAGE.lines() {
            let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            match line.starts_with("| ") {
                false => within &= line.starts_with("|---"),
                true if within => rows.push((cells[0], cells[cells.len() - 1])),
                true => within = cells.ends_with(&["option"]),
            }
        }
        rows
    }

    fn in_backquotes(text: &str) -> Vec<&str> {
        text.split('`').skip(1).step_by(2).collect()
    }

    fn names(command: &Command, headings: &[&str]) -> Vec<String> {
        let of = |arg: &&Arg| {
            let heading = arg.get_help_heading();
            headings.is_empty() || heading.is_some_and(|heading| headings.contains(&heading))
        };
        let options = command.get_arguments().filter(of);
        options
            .filter_map(|option| Some(format!("--{}", option.get_long()?)))
            .collect()
    }

    #[test]
    fn a_limit_of_the_page_has_neither_an_option_nor_a_reason() {
        let command = Options::command();
        let known = names(&command, &[]);
        assert!(rows().len() > 40, "{:?}", rows());
        for (limit, cell) in rows() {
            for option in in_backquotes(cell) {
                assert!(known.iter().any(|name| name == option), "{limit}: {option}");
            }
            let is_list = cell.starts_with('`') && cell.ends_with('`');
            assert!(is_list || cell.starts_with("none: "), "{limit}: {cell}");
        }
    }

    #[test]
    fn an_option_that_limits_is_not_on_the_page() {
        let command = Options::command();
        let headings = [LIMITS, crate::timeouts::TIMEOUTS, crate::guard::GUARD];
        let named = in_backquotes(PAGE);
        let limits = names(&command, &headings);
        assert!(limits.len() > 40, "{limits:?}");
        for option in limits {
            let is_named = named
                .iter()
                .any(|code| code.split(' ').next() == Some(&option));
            assert!(is_named, "{option}");
        }
    }

    /// The fields of a struct and their values, from what `Debug` shows of it.
    fn fields(value: &impl Debug) -> BTreeMap<String, String> {
        let text = format!("{value:?}");
        let (_, fields) = text.split_once(" { ").unwrap();
        let fields = fields.trim_end_matches(" }").split(", ");
        let fields = fields.map(|field| field.split_once(": ").unwrap());
        fields
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn settings(line: &[String]) -> BTreeMap<String, String> {
        let args = ["smtpd".to_owned()].into_iter().chain(line.iter().cloned());
        let options = Options::read(args).unwrap();
        let config = config::apply(&options, Config::new("mx.test"));
        let named = |prefix: &str, fields: BTreeMap<String, String>| {
            let name = |(name, value)| (format!("{prefix}::{name}"), value);
            fields.into_iter().map(name).collect::<BTreeMap<_, _>>()
        };
        let mut all = named("Limits", fields(config.get_limits()));
        all.extend(named("Timeouts", fields(config.get_timeouts())));
        all
    }

    #[test]
    fn an_option_sets_another_limit_than_the_page_says() {
        let before = settings(&[]);
        let mut tried = 0;
        for (limit, option) in rows() {
            let path = limit.rsplit_once("crate::config::");
            let Some((_, path)) = path else { continue };
            let path = path.trim_end_matches(')');
            tried += 1;
            let Some(option) = in_backquotes(option).first().copied() else {
                continue;
            };
            let after = settings(&[format!("{option}=777")]);
            let changed = after
                .iter()
                .filter(|(name, value)| before[*name] != **value);
            let changed: Vec<_> = changed.collect();
            assert!(changed.iter().all(|(name, _)| *name == path), "{changed:?}");
            assert!(
                matches!(&*changed, [(_, value)] if value.contains("777")),
                "{option} does not set {path}: {changed:?}"
            );
        }
        assert_eq!(tried, before.len());
    }

    #[test]
    fn a_message_of_the_largest_size_outlasts_its_session() {
        for (line, is_too_short) in [
            ("", false),
            ("--max-session-bytes 2M", false),
            ("--max-session-bytes 1M", true),
            ("--max-session-bytes 9M --max-size 10M", true),
            ("--max-session-bytes 1M --max-size 0", false),
        ] {
            let args = ["smtpd"].into_iter().chain(line.split_whitespace());
            let options = Options::read(args).unwrap();
            assert_eq!(
                options.limits.is_session_too_short(),
                is_too_short,
                "{line}"
            );
        }
    }
}
