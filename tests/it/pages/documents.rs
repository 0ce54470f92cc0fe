//! Links, the index of the examples, the compiler.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{read, root};

/// The targets of the links in a text that lead to files, without their fragments.
fn links_to_files(text: &str) -> impl Iterator<Item = &str> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'));
    let targets = targets.map(|(target, _)| target.split('#').next().unwrap_or_default());
    targets.filter(|target| !target.is_empty() && !target.contains("://") && !target.contains("::"))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut links = 0;
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "RELEASING.md",
        "CHANGELOG.md",
        "examples/README.md",
        "examples/smtpd/README.md",
        "examples/smtpd/docs/operating.md",
        "benches/README.md",
    ] {
        let folder = root()
            .join(page)
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        for target in links_to_files(&read(page)) {
            assert!(folder.join(target).exists(), "{page}: there is no {target}");
            links += 1;
        }
    }
    assert!(links >= 20, "only {links} links were found");
}

/// The examples in a folder: files, and folders that are programs.
fn examples_in(folder: &str) -> BTreeSet<PathBuf> {
    let entries =
        fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let is_program = |path: &PathBuf| {
        let has_main = path.join("main.rs").exists() || path.join("src/main.rs").exists();
        path.extension().is_some_and(|extension| extension == "rs") || has_main
    };
    paths
        .filter(is_program)
        .map(|path| path.with_extension(""))
        .collect()
}

#[test]
fn every_example_is_in_the_index_with_a_sentence() {
    let index = read("examples/README.md");
    let rows = index.lines().filter(|line| line.starts_with("| [`"));
    let mut listed = BTreeSet::new();
    for row in rows {
        let (name, rest) = row.trim_start_matches("| [`").split_once('`').expect(row);
        let target = links_to_files(row).next().expect(row);
        let path = match target.strip_prefix("../") {
            Some(target) => root().join(target),
            None => root().join("examples").join(target),
        };
        let path = path.with_extension("");
        assert_eq!(
            path.file_name().and_then(|name| name.to_str()),
            Some(name),
            "{row}"
        );
        assert!(rest.ends_with(". |"), "no sentence: {row}");
        assert!(listed.insert(path), "twice: {row}");
    }
    let mut there = examples_in("examples");
    there.extend(examples_in("smtpd-core/examples"));
    assert_eq!(listed, there);
}

#[test]
fn every_example_is_in_the_readme() {
    let readme = read("README.md");
    for example in examples_in("examples") {
        let name = example.file_name().and_then(|name| name.to_str());
        let name = format!("`{}`", name.expect("a name"));
        assert!(readme.contains(&name), "{name}");
    }
}

#[test]
fn the_readme_names_the_compiler_that_is_declared() {
    let manifest = read("Cargo.toml");
    let declared = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "));
    let declared = declared.expect("rust-version").trim_matches('"');
    assert!(
        read("README.md").contains(&format!("Rust: {declared}.")),
        "{declared}"
    );
}
