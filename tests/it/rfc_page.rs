//! The page about the RFCs names tests that exist, and RFCs are cited in one form.

use std::{
    fs,
    path::{Path, PathBuf},
};

const PAGE: &str = include_str!("../../smtpd-core/docs/rfc.md");

/// Returns the rows of the tables, and their last columns.
fn shown_in() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rows = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = rows.filter(|row| !row.starts_with("document"));
    rows.filter_map(|row| row.rsplit_once(" | ").map(|(_, last)| (row, last)))
}

#[test]
fn every_row_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rows = 0;
    for (row, shown_in) in shown_in() {
        let names: Vec<_> = shown_in.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows this: {row}");
        for name in names {
            let (file, shown) = name
                .split_once(": ")
                .map_or((name, None), |(file, shown)| (file, Some(shown)));
            let is_transcript = file.ends_with(".smtp");
            let path = match is_transcript {
                true => root.join("smtpd-core/tests/transcripts").join(file),
                false => root.join(file),
            };
            let text = fs::read_to_string(path);
            let text = text.unwrap_or_else(|error| panic!("{name}: {error}: {row}"));
            let shows = match (is_transcript, shown) {
                (true, None) => is_session(&text),
                (true, Some(line)) => text.lines().any(|shown| shown.starts_with(line)),
                (false, None) => has_tests(&text),
                (false, Some(test)) => has_tests(&text) && text.contains(&format!("fn {test}()")),
            };
            assert!(shows, "{name} tests nothing: {row}");
        }
        rows += 1;
    }
    assert!(rows >= 35, "only {rows} rows are read");
}

/// Both sides say something. All files of the folder are played by the test of the transcripts.
fn is_session(transcript: &str) -> bool {
    let says = |side| transcript.lines().any(|line| line.starts_with(side));
    (says("C:") || says("C|")) && (says("S:") || says("S|"))
}

/// Whether a function in there is a test that runs, or an example of its documentation.
fn has_tests(source: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let is_test = |at: usize| {
        let starts = ["#[test]", "#[tokio::test"];
        let is_marked = starts.iter().any(|start| lines[at].starts_with(start));
        let after = lines[at + 1..].iter();
        let mut attributes = after.take_while(|line| line.starts_with("#["));
        is_marked && !attributes.any(|line| line.starts_with("#[ignore"))
    };
    let is_example = lines.contains(&"/// ```");
    is_example || (0..lines.len()).any(is_test)
}

#[test]
fn no_document_of_the_protocol_is_left_out() {
    for number in [
        1870, 1985, 2033, 2034, 2195, 2852, 2920, 3030, 3207, 3461, 3463, 3848, 3865, 4422, 4505,
        4616, 4865, 4954, 5248, 5321, 5322, 5802, 5890, 5929, 6152, 6409, 6531, 6532, 6710, 6758,
        7293, 7504, 7628, 7677, 8314, 8689, 9266, 9422,
    ] {
        let name = format!("RFC {number}");
        let named = shown_in().any(|(row, _)| row.contains(&name));
        assert!(named, "{name} has no row");
    }
}

/// Documents that no code has to obey, as the page says.
const NOT_IN_THE_CODE: [&str; 2] = ["RFC 6532", "RFC 6758"];

#[test]
fn every_document_of_the_page_is_cited_in_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["smtpd-core/src", "smtpd-tower/src"] {
        collect(&root.join(folder), &mut files);
    }
    let code: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let mut documents = 0;
    for (row, _) in shown_in() {
        let (first, _) = row.split_once(" | ").expect(row);
        for rest in first.split("RFC ").skip(1) {
            let digits = rest.find(|c: char| !c.is_ascii_digit());
            let name = format!("RFC {}", &rest[..digits.unwrap_or(rest.len())]);
            let is_cited = code.contains(&name);
            let is_expected = !NOT_IN_THE_CODE.contains(&name.as_str());
            assert_eq!(is_cited, is_expected, "{name}");
            documents += 1;
        }
    }
    assert!(documents >= 50, "only {documents} documents are read");
}

#[test]
fn no_section_is_cited_without_that_word() {
    for (text, expected) in [
        ("RFC 5321 4.1.2", true),
        ("(RFC 5321 section 2.4, RFC 4954 4)", true),
        ("RFC 5321 section 4.1.2", false),
        ("RFC 5321, RFC 6531 appendix A", false),
    ] {
        assert_eq!(cites_a_bare_section(text), expected, "{text}");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in [
        "smtpd-core/src",
        "smtpd-core/docs",
        "smtpd-tower/src",
        "smtpd-tower/docs",
    ] {
        collect(&root.join(folder), &mut files);
    }
    assert!(files.len() > 100, "only {} files are read", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}: {line}", file.display(), number + 1);
            assert!(!cites_a_bare_section(line), "{place}");
        }
    }
}

/// `RFC 5321 4.1.2` in place of `RFC 5321 section 4.1.2`.
fn cites_a_bare_section(line: &str) -> bool {
    let is_digit = |c: char| c.is_ascii_digit();
    line.split("RFC ").skip(1).any(|rest| {
        let rest = rest.trim_start_matches(is_digit).strip_prefix(' ');
        rest.is_some_and(|rest| rest.starts_with(is_digit))
    })
}

/// Every source and page below a folder.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path
            .extension()
            .is_some_and(|end| end == "rs" || end == "md")
        {
            files.push(path);
        }
    }
}
