//! What the documents of the repository and the pages of the guide say is so.

mod code;
mod company;
mod costs;
mod documents;
mod events;
mod limits;
mod order;
mod threats;

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder whose names end so.
fn collect(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => collect(&path, extension, files),
            false if path.extension().is_some_and(|end| end == extension) => files.push(path),
            false => {}
        }
    }
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
