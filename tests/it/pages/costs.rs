//! The instruction counts in the page on costs are the recorded ones.

use super::{code, read, tables};

#[test]
fn the_instructions_of_the_page_are_within_five_percent_of_the_record() {
    let record = read("benches/instructions.txt");
    let record = |scenario: &str| {
        let line = record
            .lines()
            .find_map(|line| line.strip_prefix(scenario)?.strip_prefix(' '));
        line.expect(scenario).parse::<f64>().expect("a number")
    };
    let rows = tables(
        &read("smtpd-tower/docs/what_a_message_costs.md"),
        "| a message of 1 KiB |",
    );
    assert_eq!(rows.len(), 5);
    for row in rows {
        let scenario = code(&row[0]);
        let figure: f64 = row[3].replace(',', "").parse().expect("a number");
        let ratio = figure / record(scenario);
        assert!(
            (0.95..=1.05).contains(&ratio),
            "{scenario}: {figure}, recorded {}",
            record(scenario)
        );
    }
}
