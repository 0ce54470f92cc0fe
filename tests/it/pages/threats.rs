//! Each threat that the page about security names has a test.

use super::{read, tables};

#[test]
fn a_threat_is_only_said_to_be_countered() {
    let rows = tables(&read("smtpd-tower/docs/security.md"), "| threat |");
    assert!(rows.len() >= 20, "{} rows", rows.len());
    for row in rows {
        let names: Vec<_> = row[2].split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows this: {row:?}");
        for name in names {
            let (file, test) = name.split_once(": ").unwrap_or((name, ""));
            let text = match file.ends_with(".smtp") {
                true => read(format!("smtpd-core/tests/transcripts/{file}")),
                false => read(file),
            };
            let is_there = test.is_empty() || text.contains(&format!("fn {test}()"));
            assert!(is_there, "{file} has no {test}");
        }
    }
}
