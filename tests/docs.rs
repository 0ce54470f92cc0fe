//! What the documentation says about the repository, as far as it can be held to something.

use std::path::Path;

const README: &str = include_str!("../README.md");
const TOWER: &str = include_str!("../smtpd-tower/src/lib.rs");

/// What stands in backquotes from there to the end of the paragraph.
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
        (README, "`examples/` has what one builds with it"),
        (TOWER, "repository has an example for each thing"),
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
