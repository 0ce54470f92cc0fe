//! What the operator's guide says is so. `tests/interop/operating.py` runs its commands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::reference::Reference;

const PAGE: &str = include_str!("../../docs/operating.md");

/// Files that the page shows and the package installs.
const SHOWN: [&str; 4] = ["mx.toml", "recipients", "certbot-hook", "alerts.yml"];

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(directory(name)).expect(name)
}

/// The code of the page between fences.
fn code() -> impl Iterator<Item = &'static str> {
    let fenced = PAGE.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| block.split_once('\n').map(|(_, code)| code))
}

/// What the page has in backquotes outside of code.
fn spans() -> impl Iterator<Item = &'static str> {
    let prose = PAGE.split("```").step_by(2);
    prose.flat_map(|text| text.split('`').skip(1).step_by(2))
}

fn help() -> String {
    let help = Command::new(env!("CARGO_BIN_EXE_smtpd"))
        .arg("--help")
        .output();
    String::from_utf8(help.unwrap().stdout).unwrap()
}

/// The options, each with its description in one line.
fn options() -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    let mut current = String::new();
    for line in help().lines() {
        // Descriptions, which may name other options, are further to the right.
        let begins = line
            .find('-')
            .is_some_and(|at| at <= 6 && line[..at].trim().is_empty());
        let option = line.trim_start().split(", ").last().unwrap_or_default();
        if let Some(option) = option.strip_prefix("--").filter(|_| begins) {
            let end = option.find([' ', '[', '=']).unwrap_or(option.len());
            current = option[..end].to_owned();
        }
        let text: &mut String = options.entry(current.clone()).or_default();
        text.push_str(line.trim());
        text.push(' ');
    }
    options
}

#[test]
fn the_page_shows_the_files_that_are_installed() {
    for name in SHOWN {
        let text = read(&format!("packaging/examples/{name}"));
        assert!(code().any(|code| code == text), "{name} differs");
    }
}

#[test]
fn the_page_names_options_that_exist() {
    let options = options();
    // Of other programs.
    let others = ["stop-timeout", "since"];
    let named = spans().filter_map(|span| span.strip_prefix("--"));
    let named: Vec<_> = named
        .map(|span| span.split([' ', '=']).next().unwrap_or_default())
        .filter(|name| !others.contains(name))
        .collect();
    assert!(named.len() > 25, "{named:?}");
    for name in named {
        assert!(options.contains_key(name), "there is no option --{name}");
    }
}

#[test]
fn the_page_has_the_defaults_of_limits() {
    let options = options();
    let mut rows = 0;
    for row in PAGE.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let name = cells[0].trim_matches('`').trim_start_matches("--");
        let Some(default) = cells[1].strip_prefix('`') else {
            continue;
        };
        let default = format!("[default: {}]", default.trim_end_matches('`'));
        assert!(options[name].contains(&default), "--{name}: {default}");
        rows += 1;
    }
    assert!(rows > 10, "{rows}");
}

/// With a certificate and a user, as the page makes them.
#[test]
fn the_options_of_the_page_have_no_mistake() {
    let dir = tempfile::tempdir().unwrap();
    for name in SHOWN {
        let from = directory("packaging/examples").join(name);
        fs::copy(from, dir.path().join(name)).unwrap();
    }
    let certified = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw";
    for (name, text) in [
        ("cert.pem", certified.cert.pem()),
        ("key.pem", certified.signing_key.serialize_pem()),
        ("users", format!("alice:{hash}\n")),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let config = format!("--config={}", dir.path().join("mx.toml").display());
    let greylist = format!("--greylist-file={}", dir.path().join("greylist").display());
    // In place of the socket that systemd passes.
    let submissions = "--listen-submissions=127.0.0.1:0";
    let hostname = "--hostname=mx.example.org";
    let options = ["--check", hostname, submissions, &config, &greylist];
    let output = Reference::command(&dir, &options).output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap();
    let errors = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{errors}");
    let warnings = errors.lines().filter(|line| !line.contains("private key"));
    let warnings: Vec<_> = warnings.filter(|line| !line.contains("users")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    let said = String::from_utf8(stdout).unwrap();
    assert!(said.contains("recipients 4\nusers 1\ntls on\n"), "{said}");
}

#[test]
fn the_file_of_the_package_has_options_that_exist() {
    let options = options();
    let mut names = 0;
    for line in read("packaging/smtpd.toml").lines() {
        let Some((name, _)) = line.trim_start_matches('#').split_once(" = ") else {
            continue;
        };
        assert!(options.contains_key(name), "there is no option {name}");
        names += 1;
    }
    assert!(names > 7, "{names}");
}

/// In the page, in the file of the package, in the README.
#[test]
fn passwords_are_hashed_in_one_way() {
    let recipe = " -id -k 19456 -t 2 -p 1 -e";
    for (name, text) in [
        ("operating.md", PAGE.to_owned()),
        ("smtpd.toml", read("packaging/smtpd.toml")),
        ("README.md", read("../../README.md")),
        ("--help", help()),
    ] {
        let recipes = text.matches(recipe).count();
        assert!(recipes > 0, "{name} has no recipe");
        assert_eq!(text.matches(" -id ").count(), recipes, "{name} has another");
    }
}

/// All lines that are there, in code that writes them.
#[test]
fn the_page_explains_lines_that_are_logged() {
    let mut sources = String::new();
    for source in ["src", "../../smtpd-tower/src", "../../smtpd-core/src"] {
        append(&directory(source), &mut sources);
    }
    let messages = PAGE.replace('\n', " ");
    let messages: BTreeSet<_> = messages
        .split("msg=")
        .skip(1)
        .map(|rest| match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap_or_default(),
            None => rest.split([' ', '`']).next().unwrap_or_default(),
        })
        .map(|message| message.trim_matches('…').split([':', '…']).next())
        .map(|message| message.unwrap_or_default().trim())
        .collect();
    assert!(messages.len() > 14, "{messages:?}");
    for message in messages {
        // A phase comes first.
        let message = message.trim_start_matches("data ");
        assert!(sources.contains(message), "{message:?} is not logged");
    }
}

fn append(directory: &Path, text: &mut String) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            append(&path, text);
        } else {
            *text += &fs::read_to_string(path).unwrap();
        }
    }
}

/// Those of the framework's page, as Prometheus shows them, but for the queue, which this server does not have.
#[test]
fn the_page_and_the_alerts_name_metrics_that_exist() {
    let table = read("../../smtpd-tower/docs/metrics.md");
    let rows = table
        .lines()
        .filter(|line| line.starts_with("| `smtp.server."));
    let exported: BTreeSet<_> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let name = cells[1].trim_matches('`').replace('.', "_");
            let unit = match cells[3] {
                unit if unit.is_empty() || name.ends_with(unit) => String::new(),
                unit => format!("_{unit}"),
            };
            let total = if cells[2] == "counter" { "_total" } else { "" };
            format!("{name}{unit}{total}")
        })
        .collect();
    let names = |text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(move |c: char| !is_part(c));
        let words = words.filter(|word| word.starts_with("smtp_server_"));
        words.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(PAGE), exported);
    let alerts = names(&read("packaging/examples/alerts.yml"));
    assert!(alerts.len() > 7, "{alerts:?}");
    assert!(alerts.is_subset(&exported), "{alerts:?}");
}

/// Links within the page, as GitHub names headings.
#[test]
fn links_within_the_page_lead_somewhere() {
    let prose: String = PAGE.split("```").step_by(2).collect();
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    let anchors: BTreeSet<_> = headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let is_kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-');
            let kept: String = heading.chars().filter(is_kept).collect();
            kept.replace(' ', "-")
        })
        .collect();
    let targets: Vec<_> = prose.split("](#").skip(1).collect();
    assert!(targets.len() > 15);
    for target in targets {
        let target = target.split(')').next().unwrap_or_default();
        assert!(anchors.contains(target), "there is no #{target}");
    }
}
