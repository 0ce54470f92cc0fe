//! The compiler's words on what users get wrong most: they are to tell what to do.
//!
//! A file in `mistakes/` is one mistake, its `.stderr` what the compiler says. `TRYBUILD=overwrite cargo test --test mistakes`
//! writes these anew; read them then as a user would.

use std::process::Command;

/// The compiler whose words they are; another one words its part differently.
const RUSTC: &str = "rustc 1.95.";

#[test]
fn every_mistake_is_explained() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("--version")
        .output()
        .expect("rustc runs");
    let version = String::from_utf8_lossy(&output.stdout);
    if !version.starts_with(RUSTC) {
        eprintln!("skipped: these are the words of {RUSTC}x, this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}

#[test]
fn every_mistake_has_its_cure_in_the_guide() {
    let page = include_str!("../smtpd-tower/docs/compile_errors.md");
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mistakes");
    let mut mistakes = 0;
    for file in std::fs::read_dir(directory).expect("the directory is there") {
        let path = file.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap_or_default().display().to_string();
            assert!(page.contains(&format!("`{name}`")), "{name} has no row");
            mistakes += 1;
        }
    }
    assert!(mistakes > 10, "only {mistakes} were found");
}
