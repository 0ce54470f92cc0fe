//! The command line and the file of options, merged into one command line. So both are read by the same rules.

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, Error, parser::ValueSource};

use crate::{
    file::{self, Pipes, Setting},
    mistakes::Mistakes,
    partial,
    trial::{self, argument},
    values::{Address, NamedCertificate},
};

/// Options that a running server keeps, whatever the file says: its listeners are bound, and its log and threads are there.
const FIXED: [&str; 17] = [
    "grace",
    "greylist-file",
    "group-id",
    "guard-capacity",
    "http",
    "listen",
    "listen-lmtp",
    "listen-submission",
    "listen-submissions",
    "listen-tls",
    "log-format",
    "log-level",
    "mode",
    "quiet",
    "runtime",
    "threads",
    "user-id",
];

/// What was given, and where.
#[derive(Clone, Default)]
pub(crate) struct Given {
    file: PathBuf,
    /// The lines of the options that the file sets.
    lines: HashMap<String, usize>,
    values: BTreeMap<String, Vec<OsString>>,
    /// Options that the file sets to something else than the server runs with.
    waiting: BTreeSet<String>,
    /// Options that cannot be used, and those that cannot be judged without them.
    unusable: BTreeSet<String>,
    /// Whether a part of the file cannot be read, so that any option may be in it.
    is_partial: bool,
}

/// Values may be passwords.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

impl Given {
    /// Returns where an option is set: the file and its line, or the command line.
    pub(crate) fn place(&self, option: &str) -> String {
        match self.lines.get(option) {
            Some(line) => format!("{}:{line}: {option}", self.file.display()),
            None => format!("--{option}"),
        }
    }

    /// Returns whether an option was given that cannot be used, or that cannot be judged without such a one.
    pub(crate) fn is_unusable(&self, option: &str) -> bool {
        self.unusable.contains(option)
    }

    /// Returns whether all options that were given can be used.
    pub(crate) fn is_whole(&self) -> bool {
        self.unusable.is_empty() && !self.is_partial
    }

    /// Returns whether it is known which options were given, though perhaps not all of their values.
    pub(crate) fn is_complete(&self) -> bool {
        !self.is_partial
    }

    /// Returns whether the file sets an option.
    pub(crate) fn is_from_file(&self, option: &str) -> bool {
        self.lines.contains_key(option)
    }

    /// Returns the names of the options that are given.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// Returns the names of the options that differ.
    pub(crate) fn changed<'a>(&'a self, other: &'a Self) -> BTreeSet<&'a str> {
        let names = self.values.keys().chain(other.values.keys());
        names
            .filter(|name| self.values.get(*name) != other.values.get(*name))
            .map(String::as_str)
            .collect()
    }

    /// Returns the names of the options that take effect at the next start.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &str> {
        self.waiting.iter().map(String::as_str)
    }
}

/// What was read of the command line and the file.
pub(crate) struct Arguments {
    pub(crate) matches: ArgMatches,
    pub(crate) given: Given,
    /// What is wrong with the options that are not among them.
    pub(crate) mistakes: Vec<String>,
}

/// Why options cannot be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// What clap prints instead of an error, such as the text of `--help`.
    CommandLine(Box<Error>),
    Mistakes(Mistakes),
}

impl Unreadable {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::CommandLine(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Self::Mistakes(_) => 2,
        }
    }

    /// Prints it, help to standard output.
    pub(crate) fn print(&self) {
        match self {
            Self::CommandLine(error) => drop(error.print()),
            Self::Mistakes(mistakes) => mistakes.print(),
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine(error) => error.fmt(f),
            Self::Mistakes(mistakes) => mistakes.fmt(f),
        }
    }
}

/// Reads a command line, and the file that it names. A server that runs already keeps some of its options.
///
/// # Errors
/// Fails if there is something else to print, such as the text of `--help`, or if the rest makes no sense without the options that
/// cannot be used.
pub(crate) fn read(
    command: &Command,
    args: &[OsString],
    running: Option<&Given>,
) -> Result<Arguments, Unreadable> {
    let mut given = Given::default();
    let (program, rest) = args.split_at(args.len().min(1));
    let mut merged = program.to_vec();
    let mut mistakes = Vec::new();
    match command.clone().try_get_matches_from(args) {
        Ok(_) => merged.extend_from_slice(rest),
        Err(error) if !error.use_stderr() => return Err(Unreadable::CommandLine(error.into())),
        Err(_) => {
            let (usable, unusable) = trial::split(command, rest);
            merged.extend(usable);
            mistakes.extend(unusable.iter().map(ToString::to_string));
            given.lose(unusable.into_iter().filter_map(|one| one.meant));
        }
    }
    let parse = |args: &[OsString], mistakes: &mut Vec<String>| {
        let matches = command.clone().try_get_matches_from(args);
        matches.map_err(|error| {
            mistakes.push(trial::of(&error, command, &[]).to_string());
            let mut all = Mistakes::default();
            all.of_options(std::mem::take(mistakes));
            Unreadable::Mistakes(all)
        })
    };
    let matches = parse(&merged, &mut mistakes)?;
    if let Some(path) = matches.get_one::<PathBuf>("config") {
        mistakes.extend(given.read_file(command, path, &matches, running));
        let values = given.values.iter();
        let values =
            values.flat_map(|(name, values)| values.iter().map(move |value| assigned(name, value)));
        merged.extend(values);
    }
    let matches = parse(&merged, &mut mistakes)?;
    given.values = values(command, &matches);
    Ok(Arguments {
        matches,
        given,
        mistakes,
    })
}

impl Given {
    /// Reads the file, except for options that are on the command line. Returns what is wrong with it.
    fn read_file(
        &mut self,
        command: &Command,
        path: &Path,
        on_command_line: &ArgMatches,
        running: Option<&Self>,
    ) -> Vec<String> {
        let is_open = |field: &str| {
            let source = on_command_line.value_source(&field.replace('-', "_"));
            source != Some(ValueSource::CommandLine)
        };
        let pipes = match running {
            None => Pipes::Allowed,
            Some(_) => Pipes::Refused,
        };
        self.file = path.to_path_buf();
        let text = match file::read(path, pipes) {
            Ok(text) => text,
            Err(error) => {
                self.is_partial = true;
                return vec![format!("--config: {error}")];
            }
        };
        let (settings, wrong) = self.usable(command, &text);
        self.add(
            command,
            settings
                .into_iter()
                .filter(|setting| is_open(&setting.field)),
        );
        if let Some(running) = running {
            self.keep_fixed(running, is_open);
        }
        let named = |(line, fault)| format!("{}:{line}: {fault}", path.display());
        wrong.into_iter().map(named).collect()
    }

    /// Returns the settings of a file that can be used, by trying each value alone, and what is wrong with the others.
    fn usable(&mut self, command: &Command, text: &str) -> (Vec<Setting>, Vec<(usize, String)>) {
        let (settings, mut wrong) = file::parse(text);
        self.is_partial = !wrong.is_empty();
        // What is read of a line that is not TOML is a guess.
        let is_guess = |setting: &&Setting| wrong.iter().any(|(line, _)| *line == setting.line);
        let guessed = settings.iter().filter(is_guess);
        let guessed: Vec<_> = guessed.map(|setting| setting.field.clone()).collect();
        let (mut usable, mut lost, mut seen) = (Vec::new(), guessed.clone(), BTreeSet::new());
        for setting in settings {
            let Setting { field, line, value } = &setting;
            if guessed.contains(field) {
                continue;
            }
            let is_first = seen.insert(field.clone());
            let fault = match argument(command, field) {
                Some(arg) if !is_first && !matches!(arg.get_action(), ArgAction::Append) => {
                    Some("it has one value, not several".to_owned())
                }
                Some(_) => trial::try_alone(command, &[assigned(field, value.as_ref())])
                    .map(|unusable| unusable.fault),
                None if is_first => {
                    let unknown = trial::no_option(command, field);
                    lost.extend(unknown.meant);
                    Some(unknown.fault)
                }
                None => continue,
            };
            match fault {
                None => usable.push(setting),
                Some(fault) => {
                    wrong.push((*line, format!("{field}: {fault}")));
                    lost.push(field.clone());
                }
            }
        }
        wrong.sort();
        self.lose(lost);
        (usable, wrong)
    }

    fn lose(&mut self, unusable: impl IntoIterator<Item = String>) {
        self.unusable.extend(partial::with_dependents(unusable));
    }

    fn add(&mut self, command: &Command, settings: impl Iterator<Item = Setting>) {
        let base = self
            .file
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default();
        for Setting { field, line, value } in settings {
            let value = relative_to(&base, argument(command, &field), value);
            self.lines.entry(field.clone()).or_insert(line);
            self.values.entry(field).or_default().push(value);
        }
    }

    /// Takes what a server cannot change while it runs from what it was started with.
    fn keep_fixed(&mut self, running: &Self, is_open: impl Fn(&str) -> bool) {
        for name in FIXED.into_iter().filter(|name| is_open(name)) {
            let (new, old) = (self.values.get(name), running.values.get(name));
            if new != old {
                self.waiting.insert(name.to_owned());
            }
            match old.cloned() {
                Some(values) => self.values.insert(name.to_owned(), values),
                None => self.values.remove(name),
            };
        }
    }
}

fn assigned(name: &str, value: &OsStr) -> OsString {
    let mut text = OsString::from(format!("--{name}="));
    text.push(value);
    text
}

/// A path in the file is relative to the file, wherever the server is started.
fn relative_to(base: &Path, arg: Option<&Arg>, value: String) -> OsString {
    let type_id = arg.map(|arg| arg.get_value_parser().type_id());
    let is = |type_of: TypeId| type_id.is_some_and(|id| id == type_of);
    if is(TypeId::of::<PathBuf>()) {
        return base.join(value).into();
    }
    if is(TypeId::of::<Address>())
        && let Some(path) = value.strip_prefix("unix:")
    {
        let mut address = OsString::from("unix:");
        address.push(base.join(path));
        return address;
    }
    if is(TypeId::of::<NamedCertificate>())
        && let Ok(named) = value.parse::<NamedCertificate>()
    {
        return named.relative_to(base);
    }
    value.into()
}

/// All values as they are used.
fn values(command: &Command, matches: &ArgMatches) -> BTreeMap<String, Vec<OsString>> {
    let given = command.get_arguments().filter_map(|arg| {
        let id = arg.get_id().as_str();
        let is_given = matches.value_source(id) == Some(ValueSource::CommandLine);
        let values = matches.try_get_raw(id).ok().flatten();
        let values = values.filter(|_| is_given)?.map(Into::into).collect();
        Some((arg.get_long()?.to_owned(), values))
    });
    given.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::options::Options;

    /// Returns the options of a file with this text, or what is wrong with it, without the name of the file.
    fn options(text: &str, line: &str) -> Result<Options, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("smtpd.toml");
        fs::write(&path, text).unwrap();
        let config = format!("--config={}", path.display());
        let args = ["smtpd", &config]
            .into_iter()
            .chain(line.split_whitespace());
        match Options::read(args) {
            Ok(options) => Ok(options),
            Err(Unreadable::Mistakes(mistakes)) => {
                let name = format!("{}:", path.display());
                Err(mistakes
                    .iter()
                    .map(|line| line.replace(&name, ""))
                    .collect())
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_file_has_the_names_of_the_options() {
        let options = options(
            "listen = ['127.0.0.1:25', 'unix:/run/smtpd']\n\
             domain = 'example.org'\n\
             auth-mechanisms = ['plain', 'CRAM-MD5']\n\
             oauth-token = ['alice:a', 'bob:b']\n\
             require-tls = true\n\
             max-size = '10M'\n\
             max-hops = 7\n\
             timeout = '5m'\n\
             rate = '10/60'\n\
             bare-lf = 'pass'\n\
             mode = 'mx'\n\
             extensions = ['all,-DSN', '+DSN']\n\
             log-format = 'json'\n",
            "",
        )
        .unwrap();
        assert_eq!((options.listen.len(), options.domain.len()), (2, 1));
        assert_eq!(options.auth_mechanisms.len(), 2);
        assert_eq!(options.oauth_token.len(), 2);
        assert_eq!(options.extensions.len(), 2);
        assert_eq!(options.require_tls, Some(true));
        assert_eq!(
            (options.limits.max_size, options.limits.max_hops),
            (Some(10 << 20), Some(7))
        );
        assert_eq!(options.rate, "10/60".parse().ok());
        assert!(options.config_is_secret());
    }

    #[test]
    fn the_example_of_the_page_is_a_file_of_options() {
        let (_, example) = include_str!("../README.md")
            .split_once("```toml\n")
            .unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let options = options(example, "").unwrap();
        assert_eq!((options.domain.len(), options.faults().len()), (2, 0));
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let text =
            "listen = ['a:1', 'a:2']\nmax-size = 1\nmax-errors = 2\nquiet = true\ndiscard = true\n";
        let options =
            options(text, "--listen b:2 --listen c:3 --max-size 5 --quiet=false").unwrap();
        let listen: Vec<_> = options.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["b:2", "c:3"]);
        assert_eq!(
            (options.limits.max_size, options.quiet),
            (Some(5), Some(false))
        );
        assert_eq!(options.discard, Some(true));
        assert_eq!(options.given.place("max-size"), "--max-size");
        assert!(
            options
                .given
                .place("max-errors")
                .ends_with("smtpd.toml:3: max-errors")
        );
    }

    /// Which directory the server is started in depends on who starts it.
    #[test]
    fn a_path_in_the_file_is_relative_to_who_starts_the_server() {
        let text = "users = 'users'\nmaildir = '/var/mail'\nsni = 'a.test=c,/k'\n\
            listen = ['unix:run/smtp', 'a:25']\ntls-cert = '../cert.pem'\n";
        let options = options(text, "--recipients here").unwrap();
        let base = options.config.as_ref().unwrap().parent().unwrap();
        assert_eq!(options.users, Some(base.join("users")));
        assert_eq!(options.tls_cert, [base.join("../cert.pem")]);
        assert_eq!(options.maildir, Some("/var/mail".into()));
        assert_eq!(options.recipients, Some("here".into()));
        assert_eq!(options.sni[0].cert, base.join("c"));
        assert_eq!(options.sni[0].key, Path::new("/k"));
        let sockets = [
            format!("unix:{}", base.join("run/smtp").display())
                .parse()
                .unwrap(),
            Address::Tcp("a:25".to_owned()),
        ];
        assert_eq!(options.listen, sockets);
    }

    #[test]
    fn an_error_names_line_field_and_what_is_allowed() {
        for (text, fault) in [
            (
                "max-size = 1\nlisten-tsl = 'x'",
                "2: listen-tsl: there is no such option; the nearest is listen-tls",
            ),
            (
                "xyzzy = 1",
                "1: xyzzy: there is no such option; --help lists all",
            ),
            (
                "\nmax-size = 'x'",
                "2: max-size: expected a number of bytes, or of k, M, G or T",
            ),
            ("max-size = -1", "1: max-size: expected a number of bytes"),
            (
                "timeout = '5 minutes'",
                "1: timeout: expected a number of seconds, or with ms, s, ",
            ),
            ("timeout = 0", "1: timeout: expected a number of seconds"),
            (
                "max-errors = 0",
                "1: max-errors: expected a number from 1 to 4294967295",
            ),
            (
                "log-level = 'warning'",
                "1: log-level: expected off, error, warn, info, debug, trace, not \"warning\"; the nearest is warn",
            ),
            (
                "log-level = 'verbose'",
                "1: log-level: expected off, error, warn, info, ",
            ),
            (
                "listen = [\n'a:1',\n'b']",
                "3: listen: expected HOST:PORT, [IPV6]:PORT or unix:PATH",
            ),
            (
                "listen = [\n'a:1',\n25]",
                "3: listen: expected HOST:PORT, [IPV6]:PORT or unix:PATH",
            ),
            (
                "user = 5",
                "1: user: expected NAME:SECRET, neither of them empty",
            ),
            (
                "user = 'alice:'",
                "1: user: expected NAME:SECRET, neither of them empty",
            ),
            ("rate = '5'", "1: rate: expected N/DURATION "),
            ("sni = 'a=b'", "1: sni: expected NAME=CERT,KEY"),
            (
                "lenient = 'stray-dots,x'",
                "1: lenient: expected none, common, all, space-after-colon, ",
            ),
            (
                "mode = 'relay'",
                "1: mode: expected mx, submission, not \"relay\"",
            ),
            ("mode = ''", "1: mode: expected mx, submission, not \"\""),
            (
                "mode = 'mx'\nextensions = [\n'DSN',\n'+XFOO']",
                "4: extensions: expected all, PIPELINING, ",
            ),
            (
                "discard = 'yes'",
                "1: discard: expected true, false, not \"yes\"",
            ),
            (
                "bare-lf = 'keep'",
                "1: bare-lf: expected reject, normalize, pass, not \"keep\"",
            ),
            (
                "auth-mechanisms = ['NTLM']",
                "1: auth-mechanisms: expected PLAIN, LOGIN, ",
            ),
            (
                "config = 'other.toml'",
                "1: config: there is no such option",
            ),
            ("check = true", "1: check: there is no such option"),
            ("'a=b' = 1", "1: a=b: there is no such option"),
            (
                "maildir = ['a', 'b']",
                "1: maildir: it has one value, not several",
            ),
            (
                "[tls]\ncert = 'x'",
                "1: tls: expected text, a number, true or false, or an array",
            ),
            ("max-size = 1\nmax-size = 2", "2: duplicate key"),
            ("max-size = 1\nmax-size 2", "2: "),
        ] {
            let faults = options(text, "").unwrap_err();
            assert!(faults[0].starts_with(fault), "{faults:?}\n{fault}");
            assert!(
                faults.iter().all(|fault| fault.lines().count() == 1),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn only_the_first_mistake_is_told() {
        let text =
            "max-size = 'x'\nlisten = ['a', 'b:1', 'c']\nquiet = 1\nmoed = 'mx'\ntimeout 5\n";
        let faults = options(text, "").unwrap_err();
        let lines: Vec<_> = faults
            .iter()
            .filter_map(|fault| fault.split(": ").next())
            .collect();
        assert_eq!(lines, ["1", "2", "2", "3", "4", "5"], "{faults:?}");
        let line = "smtpd --max-size x --quiet --mode=mail --hostnam x";
        let error = Options::read(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(
            error.to_string(),
            "--max-size: expected a number of bytes, or of k, M, G or T, such as 512k or 10M\n\
             --mode: expected mx, submission, not \"mail\"\n\
             --hostnam: there is no such option; the nearest is hostname"
        );
        for (line, fault) in [
            (
                "off",
                "\"off\" is one word too many; a value with spaces in it needs quotes",
            ),
            (
                "--max-size 1 2",
                "--max-size: \"2\" is one word too many; a value with spaces in it needs quotes",
            ),
            ("-x", "\"-x\" is not an option; --help lists all"),
            ("--max-size", "--max-size: its value is missing"),
            (
                "--max-size 1 --max-size 2",
                "--max-size: it has one value, not several",
            ),
            ("--guard maybe", "--guard: expected on, off, not \"maybe\""),
            (
                "--log-level warning",
                "--log-level: expected off, error, warn, info, debug, trace, not \"warning\"; the nearest is warn",
            ),
        ] {
            let error = Options::read(["smtpd"].into_iter().chain(line.split(' '))).unwrap_err();
            assert_eq!(error.to_string(), fault);
        }
    }

    #[test]
    fn an_error_shows_a_secret() {
        for text in [
            "user = 'alice s3cret'",
            "oauth-token = [':s3cret']",
            "user = [['s3cret']]",
        ] {
            let faults = options(text, "").unwrap_err();
            assert!(!faults.concat().contains("s3cret"), "{faults:?}");
        }
        let options = options("user = 'alice:s3cret'", "").unwrap();
        assert!(!format!("{options:?}").contains("s3cret"), "{options:?}");
        let error = Options::read(["smtpd", "--user=s3cret", "--quiet=x"]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }

    #[test]
    fn a_running_server_takes_what_it_cannot_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("smtpd.toml");
        fs::write(&path, "listen = 'a:1'\nthreads = 2\nmax-size = 1\n").unwrap();
        let args = ["smtpd", "--config", path.to_str().unwrap(), "--quiet"];
        let first = Options::read(args).unwrap();
        fs::write(
            &path,
            "listen = 'a:2'\nmode = 'submission'\nmax-size = 2\nquiet = false\n",
        )
        .unwrap();
        let second = first.read_again(&args.map(OsString::from)).unwrap();
        assert_eq!(second.listen, [Address::Tcp("a:1".to_owned())]);
        assert_eq!((second.mode, second.threads.is_some()), (None, true));
        assert_eq!(
            (second.limits.max_size, second.quiet),
            (Some(2), Some(true))
        );
        assert!(
            first
                .given
                .changed(&second.given)
                .into_iter()
                .eq(["max-size"])
        );
        assert!(second.given.waiting().eq(["listen", "mode", "threads"]));
    }
}
