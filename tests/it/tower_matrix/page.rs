//! The page of the guide, as far as it can be tested.

use super::matrix::ROWS;

const PAGE: &str = include_str!("../../../smtpd-tower/docs/tower_with_smtp.md");
const TRAPS: &str = include_str!("traps.rs");

/// A row of the page's table.
#[derive(Debug, PartialEq)]
pub struct Row {
    pub layer: &'static str,
    pub case: &'static str,
    /// What a command receives.
    pub reply: &'static str,
    /// What the client receives instead of the greeting.
    pub greeting: &'static str,
}

/// The page's table: four cells in a row, the first of them in backquotes.
pub fn rows() -> impl Iterator<Item = Row> {
    let lines = PAGE.lines().filter(|line| line.starts_with("| `"));
    lines.map(|line| {
        let cells: Vec<_> = line.split('|').map(cell).collect();
        let ["", layer, case, reply, greeting, ""] = cells[..] else {
            panic!("not four cells: {line}");
        };
        Row {
            layer,
            case,
            reply,
            greeting,
        }
    })
}

/// A cell, without the backquotes where they are around the whole of it.
fn cell(text: &'static str) -> &'static str {
    let text = text.trim();
    let inner = text
        .strip_prefix('`')
        .and_then(|text| text.strip_suffix('`'));
    inner.filter(|inner| !inner.contains('`')).unwrap_or(text)
}

/// The row that the page has of this case.
pub fn row(layer: &str, case: &str) -> Row {
    rows()
        .find(|row| (row.layer, row.case) == (layer, case))
        .unwrap_or_else(|| panic!("the page has no row {layer:?}, {case:?}"))
}

#[test]
fn every_row_of_the_page_is_measured() {
    let stated: Vec<_> = rows().map(|row| (row.layer, row.case)).collect();
    assert_eq!(stated, ROWS);
}

#[test]
fn every_trap_of_the_page_has_its_test_and_every_test_its_place_on_the_page() {
    let named: Vec<_> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("Shown by: "))
        .flat_map(|names| names.split(", "))
        .map(cell)
        .collect();
    let tests: Vec<_> = TRAPS
        .split("#[test]\n")
        .flat_map(|part| part.split("#[tokio::test"))
        .skip(1)
        .filter_map(|test| test.split_once("fn ")?.1.split_once('('))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(named, tests);
    let sections = PAGE.matches("\n## ").count();
    assert_eq!(
        sections,
        PAGE.matches("\nShown by: ").count() + 2, // the table, and what does not fit
    );
}
