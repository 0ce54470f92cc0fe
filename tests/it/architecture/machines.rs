//! A struct is read in a few files, and what it holds is changed in fewer.

use std::collections::{BTreeMap, BTreeSet};

use super::{layers, source::Source};

/// The most files with methods of one type.
const METHODS: usize = 3;

/// The most files in which one field is assigned to.
const WRITES: usize = 2;

/// The sources that are held to this: the whole protocol, and of smtpd-tower the engine, which drives it. Elsewhere a type of the
/// public API may have its methods beside what they are about, as `Body::tee`.
fn sources() -> impl Iterator<Item = (&'static str, Vec<Source>)> {
    layers::sources().map(|(name, mut sources)| {
        if name == "smtpd-tower" {
            sources.retain(|source| source.room() == Some("engine"));
        }
        (name, sources)
    })
}

/// Files by what is found in them: a module at the top of the crate, and a name in it.
type Found = BTreeMap<(String, String), BTreeSet<String>>;

fn found<'s>(sources: &'s [Source], find: impl Fn(&'s Source) -> Vec<&'s str>) -> Found {
    let mut found = Found::new();
    for source in sources {
        let room = source.room().unwrap_or_default();
        for name in find(source) {
            let files = found.entry((room.to_owned(), name.to_owned()));
            files.or_default().insert(source.name.clone());
        }
    }
    found
}

fn beyond(found: &Found, most: usize) -> Vec<String> {
    let beyond = found.iter().filter(|(_, files)| files.len() > most);
    beyond
        .map(|((room, name), files)| format!("{room}: {name}: {files:?}"))
        .collect()
}

/// The types of `impl` blocks without a trait.
fn types_with_methods(source: &Source) -> Vec<&str> {
    let begins_item = |at: usize| {
        let before = at.checked_sub(1).map_or(";", |before| source.text(before));
        matches!(before, ";" | "}" | "{" | "]")
    };
    let impls = (0..source.tokens.len()).filter(|&at| source.text(at) == "impl" && begins_item(at));
    impls
        .filter_map(|at| type_with_methods(source, at))
        .collect()
}

/// The type of the block that begins at `impl`. `None` if it is that of a trait.
fn type_with_methods(source: &Source, at: usize) -> Option<&str> {
    let (mut depth, mut name) = (0, None);
    for next in at + 1.. {
        match source.text(next) {
            "<" => depth += 1,
            // Not that of `->`.
            ">" if source.text(next - 1) != "-" => depth -= 1,
            "for" if depth == 0 => return None,
            "{" | "where" | "" if depth == 0 => return name,
            text if depth == 0 && text.starts_with(char::is_alphabetic) => name = Some(text),
            _ => {}
        }
    }
    name
}

/// The fields that are assigned to, alone, by an operator, or several at once as in `(self.a, self.b) = …`.
fn fields_assigned_to(source: &Source) -> Vec<&str> {
    let is_field = |at: usize| {
        let name = source
            .text(at)
            .starts_with(|c: char| c.is_alphabetic() || c == '_');
        name && at > 0 && source.text(at - 1) == "."
    };
    let assigns = |at: usize| source.text(at) == "=" && !matches!(source.text(at + 1), "=" | ">");
    let mut fields = Vec::new();
    for at in 0..source.tokens.len() {
        let operator = "+-*/%&|^".contains(source.text(at + 1)) && assigns(at + 2);
        if is_field(at) && (assigns(at + 1) || operator) {
            fields.push(source.text(at));
        }
        if source.text(at) == ")" && assigns(at + 1) {
            let start = (0..at).rev().find(|&before| source.text(before) == "(");
            let within = start.unwrap_or(at)..at;
            let ends = |field: &usize| matches!(source.text(field + 1), "," | ")");
            let all = within.filter(|&field| is_field(field)).filter(ends);
            fields.extend(all.map(|field| source.text(field)));
        }
    }
    fields
}

#[test]
fn the_methods_of_a_type_are_in_few_files() {
    for (name, sources) in sources() {
        let found = found(&sources, types_with_methods);
        assert!(found.len() > 10, "{name}: hardly a type is seen");
        let scattered = beyond(&found, METHODS);
        assert!(scattered.is_empty(), "{name}: {scattered:#?}");
    }
}

#[test]
fn a_field_is_assigned_to_in_few_files() {
    for (name, sources) in sources() {
        let found = found(&sources, fields_assigned_to);
        assert!(found.len() > 10, "{name}: hardly a field is seen");
        let scattered = beyond(&found, WRITES);
        assert!(scattered.is_empty(), "{name}: {scattered:#?}");
    }
}

#[test]
fn methods_and_assignments_are_found() {
    let types = |text| {
        let source = Source::new("x.rs", text);
        types_with_methods(&source).join(" ")
    };
    assert_eq!(types("impl A { fn f() -> impl B {} } impl C {}"), "A C");
    assert_eq!(
        types("impl<'a, K: Fn() -> u8> a::B<'a, K> where K: C {}"),
        "B"
    );
    assert_eq!(types("impl A for B {} #[cold] impl<K> D for E<K> {}"), "");
    let fields = |text| {
        let source = Source::new("x.rs", text);
        fields_assigned_to(&source).join(" ")
    };
    assert_eq!(
        fields("self.a = 1; b.c.d += 2; (self.e, f.g) = h; i = 3;"),
        "a d e g"
    );
    assert_eq!(
        fields("self.a == 1; b.c <= 2; b.d != 3; f(e.f) == g; X { h: i.j }"),
        ""
    );
    let scattered = ["a.rs", "b.rs", "c.rs"].map(|name| {
        let mut source = Source::new(name, "fn f(s: &mut S) { s.x = 1 }");
        source.module.insert(0, "one".to_owned());
        source
    });
    assert_eq!(
        beyond(&found(&scattered, fields_assigned_to), WRITES).len(),
        1
    );
}
