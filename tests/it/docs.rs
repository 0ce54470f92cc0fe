//! What the documentation says about the repository, as far as it can be tested.

use std::{fs, path::Path};

const README: &str = include_str!("../../README.md");
const TOWER: &str = include_str!("../../smtpd-tower/src/lib.rs");

/// Returns the names in backquotes from there to the end of the paragraph.
fn names_after(page: &'static str, start: &str) -> Vec<&'static str> {
    let (_, rest) = page.split_once(start).expect(start);
    let ends = ["\n\n", "\n//!\n"];
    let end = ends.iter().filter_map(|end| rest.find(end)).min();
    let paragraph = &rest[..end.unwrap_or(rest.len())];
    paragraph.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_example_that_is_named_exists() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for (page, start) in [
        (README, "`examples/` shows what you can build with it"),
        (TOWER, "has an example for each common use"),
    ] {
        let names = names_after(page, start);
        assert!(names.len() >= 5, "{names:?}");
        for name in names {
            let file = examples.join(name).with_extension("rs");
            let is_there = file.is_file() || examples.join(name).join("src/main.rs").is_file();
            assert!(is_there, "there is no example `{name}`");
        }
    }
}

/// Each test binary links tokio and rustls again.
#[test]
fn a_test_is_in_the_binary_of_its_package_or_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut binaries = 0;
    for package in ["", "examples/smtpd", "smtpd-core", "smtpd-tower"] {
        let Ok(tests) = root.join(package).join("tests").read_dir() else {
            continue;
        };
        for entry in tests {
            let path = entry.unwrap().path();
            let folder = path.join("main.rs");
            let main = match path.extension() {
                Some(extension) if extension == "rs" => path,
                _ => folder,
            };
            if !main.is_file() {
                continue;
            }
            let text = fs::read_to_string(&main).unwrap();
            let is_home = main.ends_with("it/main.rs");
            let says_why = text.contains("test binary of its own");
            assert!(
                is_home || says_why,
                "why is {} not in `it`?",
                main.display()
            );
            binaries += 1;
        }
    }
    assert!(binaries >= 3, "only {binaries} were found");
}
