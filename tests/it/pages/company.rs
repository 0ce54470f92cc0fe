//! The table of all layers has them all, with what they cost, and the random stacks contain them.

use std::collections::{BTreeMap, BTreeSet};

use super::{code, read, tables};

/// The public layers, by their names.
fn layers() -> BTreeSet<String> {
    let module = read("smtpd-tower/src/layer/mod.rs");
    let exports = module.split("pub use self::").skip(1);
    let words = exports.flat_map(|part| {
        let (list, _) = part.split_once(';').expect("the end of a list");
        list.split(|c: char| !c.is_alphanumeric())
            .filter(|word| word.ends_with("Layer"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    words.collect()
}

fn rows() -> Vec<Vec<String>> {
    tables(
        &read("smtpd-tower/docs/layers_in_company.md"),
        "| layer | phases |",
    )
}

#[test]
fn every_layer_has_a_row_in_the_table_of_all_layers() {
    let rows = rows();
    assert!(rows.iter().all(|row| row.len() == 8), "{rows:?}");
    let listed: Vec<_> = rows.iter().map(|row| code(&row[0]).to_owned()).collect();
    let names: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(names.len(), listed.len(), "{listed:?}");
    assert_eq!(names, layers());
}

#[test]
fn every_layer_stands_in_the_random_stacks() {
    let stacks = read("tests/company/layers.rs");
    // Some are made by a method or a function.
    let made_by = |layer: &str| match layer {
        "GreylistDataLayer" => ".into_rcpt_and_data()".to_owned(),
        "FromFnLayer" => "layer::from_fn(".to_owned(),
        "FromFnWithLayer" => "layer::from_fn_with(".to_owned(),
        layer => format!("{layer}::"),
    };
    for layer in layers() {
        assert!(stacks.contains(&made_by(&layer)), "{layer}");
    }
}

/// What a request costs: the instructions and the allocations that a record or a cell names.
fn counts(text: &str) -> Option<(f64, u32)> {
    let (instructions, allocations) = text.split_once([',', ' '])?;
    Some((instructions.parse().ok()?, allocations.trim().parse().ok()?))
}

#[test]
fn the_costs_of_the_table_are_the_recorded_ones() {
    let record = read("benches/layers.txt");
    let lines = record.lines().filter(|line| !line.starts_with('#'));
    let record: BTreeMap<_, _> = lines
        .map(|line| {
            let parts: Vec<_> = line.splitn(4, ' ').collect();
            let [_, instructions, allocations, layer] = parts[..] else {
                panic!("not four parts: {line}");
            };
            (
                layer,
                counts(&format!("{instructions} {allocations}")).expect(line),
            )
        })
        .collect();
    for row in rows() {
        let layer = code(&row[0]);
        let (recorded, stated) = (record[layer], counts(&row[7]).expect(layer));
        let difference = (recorded.0 - stated.0).abs();
        assert!(
            difference <= 10.0 + recorded.0 * 0.05,
            "{layer}: {recorded:?}"
        );
        assert_eq!(recorded.1, stated.1, "{layer}");
    }
}
