//! The compiler's messages about what users get wrong most: they must say what to do.
//!
//! A file in `cases/` is one mistake, its `.stderr` what the compiler says. `TRYBUILD=overwrite cargo test -p smtpd-mistakes`
//! writes these anew; read them then as a user would. They are compared on one compiler only.

#[test]
#[rustversion::attr(
    not(stable(1.95)),
    ignore = "they are the words of rustc 1.95, and this is another one"
)]
fn every_mistake_is_explained() {
    trybuild::TestCases::new().compile_fail("cases/*.rs");
}

#[test]
fn every_mistake_has_its_cure_in_the_guide() {
    let page = include_str!("../../../smtpd-tower/docs/compile_errors.md");
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
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
