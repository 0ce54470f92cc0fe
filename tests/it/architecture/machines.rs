//! A struct is read in a few files, and what it holds is changed in fewer.

use std::collections::{BTreeMap, BTreeSet};

use super::{layers, source::Source};

/// The most files with methods of one type.
const METHODS: usize = 3;

/// The most files in which one field is assigned to.
const WRITES: usize = 2;

/// Files by what is found in them.
type Found = BTreeMap<String, BTreeSet<String>>;

/// A struct or an enum.
struct Type<'s> {
    source: &'s Source,
    name: &'s str,
    /// The fields that have names.
    fields: Vec<Field<'s>>,
}

/// A field that has a name.
#[derive(Debug, PartialEq, Eq)]
struct Field<'s> {
    name: &'s str,
    /// The module that it is visible in.
    reach: Vec<String>,
}

/// An assignment to a field.
#[derive(Debug, PartialEq, Eq)]
struct Write<'s> {
    field: &'s str,
    /// The type of the `impl` block, if the field is that of `self`.
    of_self: Option<&'s str>,
}

/// All types of a crate.
struct Types<'s>(Vec<Type<'s>>);

impl<'s> Types<'s> {
    fn of(sources: &'s [Source]) -> Self {
        Self(sources.iter().flat_map(types).collect())
    }

    /// The types that code in that file can mean: those of the file itself, or else of its module at the top of the crate, or
    /// else of the crate.
    fn meant(&self, by: &Source, is_it: impl Fn(&Type<'_>) -> bool) -> Vec<String> {
        let ranks: [&dyn Fn(&Source) -> bool; 3] = [
            &|source| source.name == by.name,
            &|source| source.room() == by.room(),
            &|_| true,
        ];
        let within = |rank: &&dyn Fn(&Source) -> bool| -> Vec<_> {
            let all = self.0.iter().filter(|one| rank(one.source) && is_it(one));
            all.map(|one| format!("{}: {}", one.source.name, one.name))
                .collect()
        };
        let mut found = ranks.iter().map(within);
        found.find(|found| !found.is_empty()).unwrap_or_default()
    }

    /// The files with methods of each type.
    fn methods(&self, sources: &[Source]) -> Found {
        let mut found = Found::new();
        for source in sources {
            for name in methods(source) {
                for one in self.meant(source, |one| one.name == name) {
                    found.entry(one).or_default().insert(source.name.clone());
                }
            }
        }
        found
    }

    /// The files that assign to each field. A field that no struct of the crate has belongs to another crate.
    fn writes(&self, sources: &[Source]) -> Found {
        let mut found = Found::new();
        for source in sources {
            for Write { field, of_self } in writes(source) {
                let has_it = |one: &Type<'_>| {
                    let sees_it = |known: &Field<'_>| {
                        known.name == field && source.module.starts_with(&known.reach)
                    };
                    one.fields.iter().any(sees_it) && of_self.is_none_or(|name| name == one.name)
                };
                for one in self.meant(source, has_it) {
                    let files = found.entry(format!("{one}.{field}"));
                    files.or_default().insert(source.name.clone());
                }
            }
        }
        found
    }
}

fn beyond(found: &Found, most: usize) -> Vec<String> {
    let beyond = found.iter().filter(|(_, files)| files.len() > most);
    beyond
        .map(|(name, files)| format!("{name}: {files:?}"))
        .collect()
}

/// The structs and enums that a file defines.
fn types(source: &Source) -> Vec<Type<'_>> {
    let defines = |at: &usize| matches!(source.text(*at), "struct" | "enum");
    let definitions = (0..source.tokens.len()).filter(defines);
    definitions
        .map(|at| Type {
            source,
            name: source.text(at + 1),
            fields: fields(source, at),
        })
        .collect()
}

/// The fields of the struct that begins there.
fn fields(source: &Source, start: usize) -> Vec<Field<'_>> {
    let (mut depth, mut is_open, mut fields) = (0, false, Vec::new());
    for at in start.. {
        match source.text(at) {
            "" | ";" if depth == 0 => break,
            "{" if depth == 0 => {
                is_open = true;
                depth = 1;
            }
            "}" if depth == 1 && is_open => break,
            "(" | "[" | "{" | "<" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            // Not that of `->`.
            ">" if source.text(at - 1) != "-" => depth -= 1,
            name if is_open && depth == 1 && is_name(name) && source.text(at + 1) == ":" => {
                let reach = reach(source, at);
                fields.push(Field { name, reach });
            }
            _ => {}
        }
    }
    fields
}

/// The module that the field there is visible in.
fn reach(source: &Source, at: usize) -> Vec<String> {
    let before = |distance: usize| at.checked_sub(distance).map_or("", |at| source.text(at));
    match (before(1), before(2)) {
        ("pub", _) | (")", "crate") => Vec::new(),
        (")", "super") => {
            let parent = source.module.len().saturating_sub(1);
            source.module[..parent].to_vec()
        }
        _ => source.module.clone(),
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The types of `impl` blocks without a trait.
fn methods(source: &Source) -> Vec<&str> {
    let blocks = impls(source).into_iter();
    let own = blocks.filter(|block| !block.is_of_trait);
    own.map(|block| block.name).collect()
}

/// An `impl` block.
struct Impl<'s> {
    name: &'s str,
    is_of_trait: bool,
    /// Its first brace.
    start: usize,
}

fn impls(source: &Source) -> Vec<Impl<'_>> {
    let begins_item = |at: usize| {
        let before = at.checked_sub(1).map_or(";", |before| source.text(before));
        matches!(before, ";" | "}" | "{" | "]")
    };
    let impls = (0..source.tokens.len()).filter(|&at| source.text(at) == "impl" && begins_item(at));
    impls.filter_map(|at| block(source, at)).collect()
}

/// The block that begins at `impl`.
fn block(source: &Source, at: usize) -> Option<Impl<'_>> {
    let (mut depth, mut name, mut is_of_trait, mut has_bounds) = (0, None, false, false);
    for next in at + 1.. {
        match source.text(next) {
            "<" => depth += 1,
            ">" if source.text(next - 1) != "-" => depth -= 1,
            "" => return None,
            "for" if depth == 0 && !has_bounds => is_of_trait = true,
            "where" if depth == 0 => has_bounds = true,
            "{" if depth == 0 => {
                return name.map(|name| Impl {
                    name,
                    is_of_trait,
                    start: next,
                });
            }
            text if depth == 0 && !has_bounds && is_name(text) => name = Some(text),
            _ => {}
        }
    }
    None
}

/// The fields that are assigned to outside of tests, alone, by an operator, or several at once as in `(self.a, self.b) = …`.
fn writes(source: &Source) -> Vec<Write<'_>> {
    let impls = impls(source);
    let is_field = |at: usize| is_name(source.text(at)) && at > 0 && source.text(at - 1) == ".";
    let assigns = |at: usize| source.text(at) == "=" && !matches!(source.text(at + 1), "=" | ">");
    let write = |at: usize| {
        let is_of_self = at > 1 && source.text(at - 2) == "self";
        // No block ends before the next one begins, so the last one is that of the field.
        let block = impls.iter().rev().find(|block| block.start < at);
        Write {
            field: source.text(at),
            of_self: block.map(|block| block.name).filter(|_| is_of_self),
        }
    };
    let is_test = source.test_tokens();
    let mut found = Vec::new();
    for at in (0..source.tokens.len()).filter(|&at| !is_test[at]) {
        let operator = "+-*/%&|^".contains(source.text(at + 1)) && assigns(at + 2);
        if is_field(at) && (assigns(at + 1) || operator) {
            found.push(write(at));
        }
        if source.text(at) == ")" && assigns(at + 1) {
            let start = (0..at).rev().find(|&before| source.text(before) == "(");
            let within = start.unwrap_or(at)..at;
            let ends = |field: &usize| matches!(source.text(field + 1), "," | ")");
            let all = within.filter(|&field| is_field(field)).filter(ends);
            found.extend(all.map(write));
        }
    }
    found
}

#[test]
fn the_methods_of_a_type_are_in_few_files() {
    for (name, sources) in layers::sources() {
        let found = Types::of(&sources).methods(&sources);
        assert!(found.len() > 50, "{name}: hardly a type is seen");
        let scattered = beyond(&found, METHODS);
        assert!(scattered.is_empty(), "{name}: {scattered:#?}");
    }
}

#[test]
fn a_field_is_assigned_to_in_few_files() {
    for (name, sources) in layers::sources() {
        let found = Types::of(&sources).writes(&sources);
        assert!(found.len() > 50, "{name}: hardly a field is seen");
        let scattered = beyond(&found, WRITES);
        assert!(scattered.is_empty(), "{name}: {scattered:#?}");
    }
}

#[test]
fn methods_and_assignments_are_found() {
    let names = |text| {
        let source = Source::new("x.rs", text);
        methods(&source).join(" ")
    };
    assert_eq!(names("impl A { fn f() -> impl B {} } impl C {}"), "A C");
    assert_eq!(
        names("impl<'a, K: Fn() -> u8> a::B<'a, K> where K: C {}"),
        "B"
    );
    assert_eq!(names("impl A for B {} #[cold] impl<K> D for E<K> {}"), "");
    let assigned = |text| {
        let source = Source::new("x.rs", text);
        let fields: Vec<_> = writes(&source).iter().map(|write| write.field).collect();
        fields.join(" ")
    };
    assert_eq!(
        assigned("self.a = 1; b.c.d += 2; (self.e, f.g) = h; i = 3;"),
        "a d e g"
    );
    assert_eq!(
        assigned("self.a == 1; b.c <= 2; b.d != 3; f(e.f) == g; X { h: i.j }"),
        ""
    );
    let source = Source::new(
        "x.rs",
        "impl A for B { fn f() { self.a = 1; self.b.c = 2 } }",
    );
    let of_self: Vec<_> = writes(&source).iter().map(|write| write.of_self).collect();
    assert_eq!(of_self, [Some("B"), None]);
}

#[test]
fn types_and_their_fields_are_found() {
    let text =
        "pub(crate) struct A<T: B> where T: C { #[d] pub(crate) e: F<G>, pub h: fn(i: J) -> K }
        struct L(M); enum N { O { p: Q } } struct R;";
    let source = Source::new("x.rs", text);
    let found: Vec<_> = types(&source)
        .iter()
        .map(|one| {
            let fields: Vec<_> = one.fields.iter().map(|field| field.name).collect();
            format!("{} {}", one.name, fields.join(" "))
        })
        .collect();
    assert_eq!(found, ["A e h", "L ", "N ", "R "]);
    let text = "struct A { pub a: B, pub(crate) c: D, pub(super) e: F, g: H }";
    let source = Source::new("x/y.rs", text);
    let reaches: Vec<_> = fields(&source, 0)
        .iter()
        .map(|field| field.reach.join("::"))
        .collect();
    assert_eq!(reaches, ["", "", "x", "x::y"]);
}

#[test]
fn a_type_is_scattered_if_too_many_files_change_it() {
    let in_one_room = |files: &[&str]| -> Vec<_> {
        let numbered = files.iter().enumerate();
        numbered
            .map(|(number, text)| {
                let mut source = Source::new(&format!("{number}.rs"), text);
                source.module.insert(0, "one".to_owned());
                source
            })
            .collect()
    };
    let scattered = |files: &[&str]| {
        let sources = in_one_room(files);
        let types = Types::of(&sources);
        let writes = beyond(&types.writes(&sources), WRITES).len();
        (beyond(&types.methods(&sources), METHODS).len(), writes)
    };
    let set = "fn f(s: &mut S) { s.x = 1 }";
    let struct_s = "struct S { pub(crate) x: u8 } impl S { fn g(&mut self) { self.x = 1 } }";
    assert_eq!(scattered(&[struct_s, set, set]), (0, 1));
    // Each of these files has a struct of its own, or writes to one of another crate.
    assert_eq!(scattered(&[struct_s, struct_s, struct_s, struct_s]), (0, 0));
    assert_eq!(scattered(&[set, set, set]), (0, 0));
    let private = "struct S { x: u8 }";
    assert_eq!(scattered(&[private, set, set, set]), (0, 0));
    let test = "#[cfg(test)] fn f(s: &mut S) { s.x = 1 }";
    assert_eq!(scattered(&[struct_s, set, test]), (0, 0));
    let more = "impl S { fn h(&self) {} }";
    assert_eq!(scattered(&[struct_s, more, more, more]), (1, 0));
}
