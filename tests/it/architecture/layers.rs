use std::{collections::BTreeSet, fs, path::Path};

use super::source::Source;

/// The layers of a crate: the modules of its `lib.rs`, each a file or a folder, from the lowest to the highest.
struct Layers {
    name: &'static str,
    /// The name of a module, and what it holds.
    table: &'static [(&'static str, &'static str)],
}

#[rustfmt::skip]
const CORE: Layers = Layers {
    name: "smtpd-core",
    table: &[
        ("time",       "spans and points of time, as a session counts them"),
        ("address",    "senders, recipients, domains, the names of clients"),
        ("framing",    "lines, messages that end with a dot, chunks"),
        ("reply",      "codes, enhanced status codes, replies, and how they are written"),
        ("command",    "the verbs, and a line cut into verb and argument"),
        ("limits",     "how much of everything a session may have"),
        ("helo",       "how a client introduces itself"),
        ("protocol",   "SMTP or LMTP, and the word for it in a Received field"),
        ("parameter",  "the parameters of MAIL and RCPT"),
        ("sasl",       "mechanisms, credentials, secrets, and the exchange of AUTH"),
        ("envelope",   "the sender and the recipients of a message"),
        ("proxied",    "what XCLIENT and XFORWARD say"),
        ("extension",  "what EHLO announces, and the parameters that come with it"),
        ("config",     "the settings of a server, and whether they make sense"),
        ("connection", "the state machine of a session"),
        ("client",     "the state machine of a session with another server, to which messages are sent"),
        ("test",       "transcripts of sessions: syntax and parser"),
        ("fuzzing",    "what only the fuzz targets call"),
        ("guide",      "longer pages"),
    ],
};

#[rustfmt::skip]
const TOWER: Layers = Layers {
    name: "smtpd-tower",
    table: &[
        ("fault",         "what an error or a panic stands for"),
        ("waker",         "wakers behind locks"),
        ("reload",        "lists that change while the server runs"),
        ("serial",        "unique numbers that do not tell how many there were"),
        ("domains",       "sets of domains"),
        ("addresses",     "sets of addresses"),
        ("header",        "names, addresses and dates as header fields may hold them"),
        ("phase_kind",    "the phases as values"),
        ("meter",         "what is measured, if the feature `metrics` is on"),
        ("net",           "addresses, networks, trusted peers"),
        ("dns",           "what services and layers ask of the DNS"),
        ("permits",       "how much hashing of passwords runs at a time, and who waits"),
        ("disk",          "how much work on disks runs at a time"),
        ("memory",        "how many bytes of messages the process holds"),
        ("proxy",         "the PROXY protocol"),
        ("body",          "the message as it arrives"),
        ("reply",         "what becomes the reply to a phase"),
        ("session",       "what is known of a connection"),
        ("phase",         "the payloads of the phases, and requests"),
        ("service",       "handlers, the services of a phase, pipelines"),
        ("limiter",       "rates, and whom they count; the layers are in `layer`"),
        ("guard",         "limits for each client, over all of its sessions"),
        ("password_hash", "passwords that are stored as hashes"),
        ("mime",          "messages parsed as MIME"),
        ("layer",         "what stands around services: access, limits, messages, composition"),
        ("router",        "services by recipient"),
        ("tls",           "certificates, keys and handshakes"),
        ("deliver",       "services that store messages"),
        ("queue",         "messages that wait on disk"),
        ("lifetime",      "the sessions of a server, and the stages of its end"),
        ("engine",        "a session driven over a stream"),
        ("server",        "listeners, limits, profiles, shutdown"),
        ("test",          "the test kit"),
        ("fuzzing",       "what only the fuzz targets call"),
        ("guide",         "longer pages"),
    ],
};

const CRATES: [Layers; 2] = [CORE, TOWER];

impl Layers {
    fn sources(&self) -> Vec<Source> {
        Source::read_all(&root().join(self.name).join("src"))
    }

    fn height(&self, module: &str) -> Option<usize> {
        self.table.iter().position(|(name, _)| *name == module)
    }

    /// What is wrong with the paths of a file: each has to lead to a module of the table that is not above the file's own. Tests
    /// may use everything, by the module that defines it.
    fn violations(&self, source: &Source) -> Vec<String> {
        let Some(own) = source.room() else {
            return Vec::new(); // The root of the crate may name everything.
        };
        let height = self.height(own);
        let wrong = |target: &str, is_test: bool| match self.height(target) {
            None => Some(format!("`{target}` is no module of the table")),
            above if above > height && !is_test => Some(format!("`{own}` is below `{target}`")),
            _ => None,
        };
        let paths = source.crate_paths();
        let found = paths.iter().filter_map(|path| {
            let target = path.segments.first().map_or("", String::as_str);
            wrong(target, path.is_test).map(|what| format!("{}:{}: {what}", source.name, path.line))
        });
        found.collect()
    }

    /// The paths of a file of another crate that do not lead to a module of this one.
    fn paths_to_root(&self, source: &Source) -> Vec<String> {
        if source.room().is_none() {
            return Vec::new(); // The root of the other crate may export what it likes.
        }
        let paths = source.paths_into(&self.name.replace('-', "_"));
        let to_root = paths.iter().filter(|path| {
            let module = path.segments.first();
            module.is_none_or(|module| self.height(module).is_none())
        });
        let shown = to_root.map(|path| {
            let path_text = path.segments.join("::");
            format!("{}:{}: {path_text}", source.name, path.line)
        });
        shown.collect()
    }

    /// The table as CONTRIBUTING.md shows it.
    fn markdown(&self) -> String {
        let rows = self.table.iter();
        let rows = rows.map(|(name, holds)| format!("| `{name}` | {holds} |\n"));
        format!(
            "| module | holds |\n|---|---|\n{}",
            rows.collect::<String>()
        )
    }
}

/// The sources of each crate, beside its name.
pub(crate) fn sources() -> impl Iterator<Item = (&'static str, Vec<Source>)> {
    CRATES
        .into_iter()
        .map(|layers| (layers.name, layers.sources()))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_module_has_a_layer() {
    for layers in CRATES {
        let sources = layers.sources();
        let lib = sources.iter().find(|source| source.name == "lib.rs");
        let mut declared = lib.unwrap().declared_modules();
        let mut table: Vec<_> = layers.table.iter().map(|(name, _)| *name).collect();
        declared.sort_unstable();
        table.sort_unstable();
        assert_eq!(declared, table, "{}", layers.name);
    }
}

#[test]
fn no_module_uses_a_higher_one_or_the_root() {
    for layers in CRATES {
        let sources = layers.sources();
        let violations = sources.iter().flat_map(|one| layers.violations(one));
        let violations: Vec<_> = violations.collect();
        let paths = sources.iter().map(|one| one.crate_paths().len());
        assert!(paths.sum::<usize>() > 100, "hardly a path is seen");
        assert!(
            violations.is_empty(),
            "{}:\n{}",
            layers.name,
            violations.join("\n")
        );
    }
}

#[test]
fn a_path_upward_or_to_the_root_is_found() {
    for (name, text) in [
        ("reply/mod.rs", "use crate::config::Config;"),
        ("reply/code.rs", "use crate::{address::Domain, connection};"),
        ("reply/code.rs", "use super::super::config;"),
        ("command.rs", "use super::config;"),
        ("config/mod.rs", "use crate::Reply;"),
        ("config/mod.rs", "use crate::*;"),
        ("config/mod.rs", "fn f() -> crate::Reply {}"),
        ("address/mod.rs", "mod tests { use super::super::Reply; }"),
        (
            "address/mod.rs",
            "#[cfg(test)] mod tests { use crate::Reply; }",
        ),
        (
            "address/mod.rs",
            "#[cfg(test)] use a::B; use crate::reply::Reply;",
        ),
        (
            "address/mod.rs",
            "#[cfg(feature = \"test\")] use crate::reply::Reply;",
        ),
        ("unheard_of.rs", "use crate::address::Domain;"),
    ] {
        let violations = CORE.violations(&Source::new(name, text));
        assert_eq!(violations.len(), 1, "{name}: {text}: {violations:?}");
    }
    for (name, text) in [
        ("config/mod.rs", "use crate::{config::check, reply::Reply};"),
        ("config/check.rs", "use super::Config;"),
        ("lib.rs", "pub use crate::connection::Connection;"),
        (
            "address/mod.rs",
            "#[cfg(test)] mod tests { use crate::reply::Reply; }",
        ),
    ] {
        let violations = CORE.violations(&Source::new(name, text));
        assert!(violations.is_empty(), "{name}: {text}: {violations:?}");
    }
}

#[test]
fn tower_uses_the_modules_of_core_and_not_its_root() {
    let sources = TOWER.sources();
    let paths = sources.iter().map(|one| one.paths_into("smtpd_core").len());
    assert!(paths.sum::<usize>() > 100, "hardly a path is seen");
    let to_root: Vec<_> = sources
        .iter()
        .flat_map(|one| CORE.paths_to_root(one))
        .collect();
    assert!(to_root.is_empty(), "{}", to_root.join("\n"));
}

#[test]
fn a_path_to_the_root_of_core_is_found() {
    for (text, expected) in [
        ("use smtpd_core::Reply;", 1),
        ("use smtpd_core::{Config, address::Domain, Reply as R};", 2),
        ("use smtpd_core::*;", 1),
        ("fn f() -> smtpd_core::Reply {}", 1),
        ("mod tests { use smtpd_core::Reply; }", 1),
        ("use smtpd_core::{self as core, reply::Reply};", 1),
        ("use smtpd_core::{connection, reply::Reply};", 0),
        ("fn f() -> smtpd_core::reply::Reply {}", 0),
        ("// smtpd_core::Reply", 0),
    ] {
        let found = CORE.paths_to_root(&Source::new("body/mod.rs", text));
        assert_eq!(found.len(), expected, "{text}: {found:?}");
        let found = CORE.paths_to_root(&Source::new("lib.rs", text));
        assert!(found.is_empty(), "{text}: {found:?}");
    }
}

#[test]
fn contributing_shows_the_layers() {
    let page = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    for layers in CRATES {
        let table = layers.markdown();
        assert!(
            page.contains(&table),
            "{} has to show:\n\n{table}",
            layers.name
        );
    }
}

#[test]
fn contributing_names_every_file_of_the_largest_modules() {
    let page = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    for folder in [
        "smtpd-core/src/connection",
        "smtpd-core/src/client",
        "smtpd-tower/src/engine",
    ] {
        let heading = format!("### Inside `{folder}`\n");
        let (_, section) = page.split_once(&heading).expect(folder);
        let section = section.split("\n#").next().unwrap_or_default();
        let words = section.split('`').skip(1).step_by(2);
        let named: BTreeSet<_> = words
            .filter(|word| word.ends_with(".rs"))
            .map(str::to_owned)
            .collect();
        let files = fs::read_dir(root().join(folder)).unwrap();
        let files: BTreeSet<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".rs"))
            .collect();
        assert_eq!(named, files, "{folder}");
    }
}
