//! What the documents of the repository and the pages of the guide say is so.

mod costs;
mod documents;
mod events;
mod limits;
mod order;

use std::{fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the tables of a page whose header begins so, each as its cells.
fn tables(page: &str, header: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut within = false;
    for line in page.lines() {
        match line.strip_prefix("| ") {
            None => within = line.starts_with("|---") && within,
            Some(cells) if within => rows.push(
                cells
                    .trim_end_matches(" |")
                    .split(" | ")
                    .map(str::to_owned)
                    .collect(),
            ),
            Some(_) => within = line.starts_with(header),
        }
    }
    rows
}

/// The first text in backquotes.
fn code(cell: &str) -> &str {
    cell.split('`')
        .nth(1)
        .unwrap_or_else(|| panic!("no code: {cell}"))
}
