//! The order in which the guide is read.

use std::{collections::BTreeSet, fs};

use super::{code, collect, read, root, tables};

const DOCS: &str = "smtpd-tower/docs";

/// The pages in the tables of `guide.rs`, from the first to the last.
fn pages() -> Vec<String> {
    let guide = read("smtpd-tower/src/guide.rs").replace("//! ", "");
    let rows = tables(&guide, "| page |");
    rows.iter().map(|row| code(&row[0]).to_owned()).collect()
}

#[test]
fn every_page_is_in_the_tables_once() {
    let listed = pages();
    let names: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(names.len(), listed.len(), "{listed:?}");
    let files = fs::read_dir(root().join(DOCS)).expect(DOCS);
    let files = files.map(|file| file.expect("a file").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let files: BTreeSet<_> = files
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(names, files);
}

#[test]
fn every_page_ends_with_a_link_to_the_next() {
    let pages = pages();
    for (at, page) in pages.iter().enumerate() {
        let text = read(format!("{DOCS}/{page}.md"));
        let last = text.trim_end().lines().last().expect("a line");
        match pages.get(at + 1) {
            Some(next) => {
                let target = format!("](crate::guide::{next}).");
                assert!(
                    last.starts_with("Next: [") && last.ends_with(&target),
                    "{page} ends with: {last}"
                );
            }
            None => assert!(!last.starts_with("Next:"), "{page} is the last one"),
        }
    }
}

/// Readers of one page find links to others, not only to the next one.
#[test]
fn every_page_is_linked_from_another_one() {
    let pages = pages();
    let texts: Vec<_> = pages
        .iter()
        .map(|page| read(format!("{DOCS}/{page}.md")))
        .collect();
    for page in &pages[2..pages.len() - 2] {
        let target = format!("(crate::guide::{page}");
        let links = texts.iter().flat_map(|text| text.lines());
        let links = links.filter(|line| !line.starts_with("Next: ") && line.contains(&target));
        assert!(links.count() > 0, "no page links to {page}");
    }
}

/// Readers of the API find the page that explains an item.
#[test]
fn every_page_is_linked_from_the_documentation_of_an_item() {
    let mut files = Vec::new();
    collect(&root().join("smtpd-tower/src"), "rs", &mut files);
    files.retain(|file| !file.ends_with("guide.rs"));
    assert!(files.len() > 100, "only {} files are read", files.len());
    let sources: Vec<_> = files.iter().map(read).collect();
    for page in pages() {
        let targets = [")", "#"].map(|end| format!("(crate::guide::{page}{end}"));
        let is_linked = |source: &String| targets.iter().any(|target| source.contains(target));
        let is_linked = sources.iter().any(is_linked);
        assert!(is_linked, "no item links to {page}");
    }
}
