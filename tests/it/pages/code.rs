//! Code in the pages that users read, and in the documentation of the crates.

use std::path::PathBuf;

use super::{collect, read, root};

/// As many columns as fit into the column of docs.rs and of crates.io without scrolling.
const COLUMNS: usize = 80;

/// A line of code that is shown, with its place.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    place: String,
    text: String,
}

/// The lines within fences, without those that rustdoc hides.
fn shown<'a>(name: &str, lines: impl Iterator<Item = Option<&'a str>>) -> Vec<Shown> {
    let mut shown = Vec::new();
    let mut within = false;
    for (number, line) in lines.enumerate() {
        let Some(line) = line else {
            within = false;
            continue;
        };
        if line.starts_with("```") {
            within = !within;
        } else if within && !is_hidden(line) {
            shown.push(Shown {
                place: format!("{name}:{}", number + 1),
                text: line.to_owned(),
            });
        }
    }
    shown
}

fn is_hidden(line: &str) -> bool {
    line == "#" || line.starts_with("# ")
}

/// The text of a comment that is documentation.
fn documentation(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let text = line
        .strip_prefix("///")
        .or_else(|| line.strip_prefix("//!"))?;
    Some(text.strip_prefix(' ').unwrap_or(text))
}

#[test]
fn code_that_readers_see_fits_the_width_of_a_page() {
    let mut pages: Vec<PathBuf> = ["", "smtpd-core", "smtpd-tower", "examples/smtpd"]
        .map(|folder| root().join(folder).join("README.md"))
        .into();
    pages.push(root().join("CONTRIBUTING.md"));
    for folder in ["smtpd-core/docs", "smtpd-tower/docs", "examples/smtpd/docs"] {
        collect(&root().join(folder), "md", &mut pages);
    }
    let mut sources = Vec::new();
    for folder in ["smtpd-core/src", "smtpd-tower/src"] {
        collect(&root().join(folder), "rs", &mut sources);
    }
    let mut lines = Vec::new();
    for page in &pages {
        lines.extend(shown(
            &page.display().to_string(),
            read(page).lines().map(Some),
        ));
    }
    for source in &sources {
        lines.extend(shown(
            &source.display().to_string(),
            read(source).lines().map(documentation),
        ));
    }
    assert!(lines.len() > 3000, "only {} lines are read", lines.len());
    lines.retain(|line| line.text.chars().count() > COLUMNS);
    assert!(lines.is_empty(), "wider than {COLUMNS}: {lines:#?}");
}

#[test]
fn lines_are_shown_within_fences_unless_rustdoc_hides_them() {
    let page = "text\n```\n# hidden\n#[attribute]\ncode\n```\ntext";
    let texts: Vec<_> = shown("page", page.lines().map(Some))
        .into_iter()
        .map(|line| line.text)
        .collect();
    assert_eq!(texts, ["#[attribute]", "code"]);
    let source = "    /// ```\n    /// code\n    fn f() {}\n    // ```";
    let shown = shown("source", source.lines().map(documentation));
    assert_eq!(
        shown,
        [Shown {
            place: "source:2".to_owned(),
            text: "code".to_owned()
        }]
    );
}

/// Only rustdoc hides the lines that begin with `# `: GitHub and crates.io show them.
#[test]
fn no_readme_has_lines_that_rustdoc_would_hide() {
    for page in ["README.md", "smtpd-core/README.md", "smtpd-tower/README.md"] {
        let text = read(page);
        let blocks = text.split("```rust").skip(1);
        let blocks: Vec<_> = blocks.filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty(), "{page} has no code");
        for line in blocks.iter().flat_map(|block| block.lines()) {
            assert!(!is_hidden(line), "{page}: {line}");
        }
    }
}
