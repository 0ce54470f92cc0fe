//! The programs of the examples, which Cargo builds beside the tests.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The program of an example, which lies beside the directory of the tests. `cargo test --test it` alone does not build it.
pub fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let path = path.join("examples").join(name);
    if let Err(fault) = check_up_to_date(&path) {
        panic!("{name}: {fault}; `cargo build --example {name}` first");
    }
    path
}

/// Panics if the example is older than its sources, or was built from another directory: the test would not test this tree.
fn check_up_to_date(example: &Path) -> io::Result<()> {
    let built = example.metadata()?.modified()?;
    let sources = fs::read_to_string(example.with_extension("d"))?;
    let (_, sources) = sources.split_once(": ").unwrap_or_default();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut is_own = false;
    for source in names(sources) {
        is_own |= source.starts_with(&own);
        if fs::metadata(&source)?.modified()? > built {
            let newer = format!("{} is newer", source.display());
            return Err(io::Error::other(newer));
        }
    }
    match is_own {
        true => Ok(()),
        false => Err(io::Error::other("it was built in another directory")),
    }
}

/// The names in a list of the kind that Make reads: a blank within a name has a backslash before it.
fn names(list: &str) -> Vec<PathBuf> {
    let mut names = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let (Some(c), Some(name)) = (chars.next(), names.last_mut()) {
        match c {
            '\\' if chars.next_if_eq(&' ').is_some() => name.push(' '),
            c if c.is_whitespace() => names.push(String::new()),
            c => name.push(c),
        }
    }
    names.retain(|name| !name.is_empty());
    names.into_iter().map(PathBuf::from).collect()
}

#[test]
fn the_name_of_a_source_may_hold_blanks() {
    let names = names("/a/one\\ two.rs  /b\\c\n/d\\ \\ e/\n");
    let names: Vec<_> = names.iter().filter_map(|name| name.to_str()).collect();
    assert_eq!(names, ["/a/one two.rs", "/b\\c", "/d  e/"]);
}
