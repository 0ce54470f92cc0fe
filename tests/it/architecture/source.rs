//! Source files as tokens, and the paths in them. Comments and literals are left out.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The name of modules that are compiled only for tests.
const TESTS: &str = "tests";

/// A source file of a crate.
pub(crate) struct Source {
    pub(crate) name: String,
    /// The path of its module, from the root of the crate.
    pub(crate) module: Vec<String>,
    pub(crate) tokens: Vec<Token>,
    /// All of it is compiled only for tests.
    is_test: bool,
}

/// An identifier or a number, `::`, or one character of punctuation.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// A path in code that begins at the root of the crate, or was resolved so.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CratePath {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    /// It is in code that is compiled only for tests.
    pub(crate) is_test: bool,
}

impl Source {
    /// Every file below `src`.
    pub(crate) fn read_all(src: &Path) -> Vec<Self> {
        let mut files = Vec::new();
        collect(src, &mut files);
        files.sort();
        let read = |path: &PathBuf| {
            let name = path.strip_prefix(src).unwrap().to_str().unwrap();
            Self::new(name, &fs::read_to_string(path).unwrap())
        };
        files.iter().map(read).collect()
    }

    pub(crate) fn new(name: &str, text: &str) -> Self {
        let mut module: Vec<_> = name.split('/').map(str::to_owned).collect();
        match module.pop().as_deref() {
            Some("mod.rs" | "lib.rs") => {}
            file => module.push(file.unwrap().trim_end_matches(".rs").to_owned()),
        }
        Self {
            name: name.to_owned(),
            is_test: module.iter().any(|name| name == TESTS),
            module,
            tokens: tokens(text),
        }
    }

    /// The modules whose names do not tell that they are compiled only for tests, and those whose names are wrong about it.
    fn misnamed_modules(&self) -> Vec<&str> {
        if self.is_test {
            return Vec::new(); // All that is within a module of tests is for tests.
        }
        let tests = self.test_items();
        let declarations = (1..self.tokens.len()).filter(|&at| self.text(at - 1) == "mod");
        let misnamed = declarations.filter(|&at| {
            let is_test = is_within(&tests, at);
            match self.text(at) {
                TESTS => !is_test,
                // In a file of its own, and not within the module of tests.
                _ => is_test && tests.iter().any(|&(_, end)| end == at + 1),
            }
        });
        misnamed.map(|at| self.text(at)).collect()
    }

    /// Whether each token is compiled only for tests.
    pub(crate) fn test_tokens(&self) -> Vec<bool> {
        let tests = self.test_items();
        let tokens = 0..self.tokens.len();
        tokens
            .map(|at| self.is_test || is_within(&tests, at))
            .collect()
    }

    /// Where items are that are compiled only for tests: from their attribute to their last token.
    fn test_items(&self) -> Vec<(usize, usize)> {
        let starts = (0..self.tokens.len()).filter(|&at| {
            let begins = ["#", "[", "cfg", "("].iter().enumerate();
            begins
                .into_iter()
                .all(|(i, text)| self.text(at + i) == *text)
        });
        let items = starts.filter_map(|at| {
            let close = (at..self.tokens.len()).find(|&at| self.text(at) == "]")?;
            let is_test = (at..close).any(|at| self.text(at) == "test");
            is_test.then(|| (at, self.end_of_item(close + 1)))
        });
        items.collect()
    }

    /// The last token of the item that begins there: its semicolon, its last brace, or the comma after a field.
    fn end_of_item(&self, start: usize) -> usize {
        let is_field = self.text(start + 1) == ":";
        let mut depth = 0_u32;
        for at in start..self.tokens.len() {
            match self.text(at) {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" => depth = depth.saturating_sub(1),
                "}" if depth <= 1 => return at,
                "}" => depth -= 1,
                ";" if depth == 0 => return at,
                "," if depth == 0 && is_field => return at,
                _ => {}
            }
        }
        self.tokens.len()
    }

    /// The module at the top of the crate that the file belongs to. `None` for `lib.rs`.
    pub(crate) fn room(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    /// The modules that are declared outside of any other.
    pub(crate) fn declared_modules(&self) -> Vec<&str> {
        let mut depth = 0;
        let mut found = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            match &*token.text {
                "{" => depth += 1,
                "}" => depth -= 1,
                "mod" if depth == 0 => found.push(self.text(at + 1)),
                _ => {}
            }
        }
        found
    }

    /// All paths that begin with `crate`, `self` or `super`, those of `use` among them, written from the root of the crate.
    pub(crate) fn crate_paths(&self) -> Vec<CratePath> {
        let mut found = Vec::new();
        let mut module = self.module.clone();
        let mut depth = 0;
        let mut inline = Vec::new();
        let tests = self.test_items();
        for (at, token) in self.tokens.iter().enumerate() {
            match &*token.text {
                "{" => {
                    depth += 1;
                    if at >= 2 && self.text(at - 2) == "mod" {
                        inline.push(depth);
                        module.push(self.text(at - 1).to_owned());
                    }
                }
                "}" => {
                    if inline.last() == Some(&depth) {
                        inline.pop();
                        module.pop();
                    }
                    depth -= 1;
                }
                "crate" | "self" | "super" if self.begins_path(at) => {
                    let mut paths = Vec::new();
                    self.expand(at, Vec::new(), &mut paths);
                    let line = token.line;
                    let is_test = self.is_test || is_within(&tests, at);
                    let resolved = paths.into_iter().map(|path| resolve(path, &module));
                    found.extend(resolved.map(|segments| CratePath {
                        segments,
                        line,
                        is_test,
                    }));
                }
                _ => {}
            }
        }
        found
    }

    /// All paths that begin with the name of that crate, which they are written from.
    pub(crate) fn paths_into(&self, other: &str) -> Vec<CratePath> {
        let starts = (0..self.tokens.len()).filter(|&at| self.text(at) == other);
        let is_test = self.test_tokens();
        let mut found = Vec::new();
        for at in starts.filter(|&at| self.begins_path(at)) {
            let mut paths = Vec::new();
            self.expand(at, Vec::new(), &mut paths);
            found.extend(paths.into_iter().map(|path| CratePath {
                segments: path[1..].to_vec(),
                line: self.tokens[at].line,
                is_test: is_test[at],
            }));
        }
        found
    }

    /// Whether a path of several segments begins here that is not the scope of a visibility.
    fn begins_path(&self, at: usize) -> bool {
        let before = at.checked_sub(1).map_or("", |before| self.text(before));
        // What follows `::`, `{` or `,` in a tree of `use` is found from the start of the tree.
        let within = before == "::" || self.is_within_use_tree(at);
        self.text(at + 1) == "::" && !within && before != "in"
    }

    fn is_within_use_tree(&self, at: usize) -> bool {
        let mut open = 0;
        for before in (0..at).rev() {
            match self.text(before) {
                "}" => open += 1,
                "{" if open > 0 => open -= 1,
                "{" => return before > 0 && self.text(before - 1) == "::",
                ";" => return false,
                _ => {}
            }
        }
        false
    }

    /// Writes out the tree of paths that begins at a token, and returns where it ends.
    fn expand(&self, at: usize, mut path: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
        path.push(self.text(at).to_owned());
        if self.text(at + 1) != "::" {
            found.push(path);
            return at + 1;
        }
        if self.text(at + 2) != "{" {
            return match self.is_segment(at + 2) {
                true => self.expand(at + 2, path, found),
                false => {
                    found.push(path);
                    at + 2
                }
            };
        }
        let mut next = at + 3;
        while next < self.tokens.len() && self.text(next) != "}" {
            next = match self.is_segment(next) {
                true => self.expand(next, path.clone(), found),
                false => next + 1,
            };
            if self.text(next) == "as" {
                next += 2;
            }
        }
        next + 1
    }

    fn is_segment(&self, at: usize) -> bool {
        let text = self.text(at);
        text == "*" || text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }

    pub(crate) fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &token.text)
    }
}

fn is_within(items: &[(usize, usize)], at: usize) -> bool {
    items.iter().any(|&(start, end)| start <= at && at <= end)
}

/// The path as it is from the root of the crate, for code in that module.
fn resolve(path: Vec<String>, module: &[String]) -> Vec<String> {
    let mut from: Vec<String> = match &*path[0] {
        "crate" => Vec::new(),
        _ => module.to_vec(),
    };
    for segment in path {
        match &*segment {
            "crate" | "self" => {}
            "super" => drop(from.pop()),
            _ => from.push(segment),
        }
    }
    from
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let len = match literal_or_comment(rest) {
            0 => {
                let len = token(rest);
                if !first.is_whitespace() {
                    let text = rest[..len].to_owned();
                    found.push(Token { text, line });
                }
                len
            }
            len => len,
        };
        line += rest[..len].matches('\n').count();
        rest = &rest[len..];
    }
    found
}

fn token(rest: &str) -> usize {
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    match word.unwrap_or(rest.len()) {
        0 if rest.starts_with("::") => 2,
        0 => rest.chars().next().map_or(0, char::len_utf8),
        len => len,
    }
}

/// The length of the comment, string, character or lifetime that begins here; 0 where none does.
fn literal_or_comment(rest: &str) -> usize {
    let until = |end: Option<usize>, after: usize| end.map_or(rest.len(), |end| end + after);
    if rest.starts_with("//") {
        return until(rest.find('\n'), 0);
    }
    if rest.starts_with("/*") {
        return until(rest.find("*/"), 2);
    }
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).unwrap_or(0);
    let hashes = rest[prefix..].len() - rest[prefix..].trim_start_matches('#').len();
    let quoted = &rest[prefix + hashes..];
    if prefix > 2 || !quoted.starts_with(['"', '\'']) || prefix == 0 && hashes > 0 {
        return 0;
    }
    let start = prefix + hashes + 1;
    if rest[..prefix].contains('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return until(rest[start..].find(&end).map(|at| start + at), end.len());
    }
    if quoted.starts_with('\'') {
        return start + character(&rest[start..]);
    }
    let mut escaped = false;
    let end = rest[start..].find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    until(end.map(|at| start + at), 1)
}

/// What follows the quote of a character, to the one that ends it, or nothing where it begins a lifetime.
fn character(rest: &str) -> usize {
    match rest.strip_prefix('\\') {
        Some(escaped) => escaped[1..].find('\'').map_or(rest.len(), |end| end + 3),
        None => {
            let len = rest.chars().next().map_or(0, char::len_utf8);
            if rest[len..].starts_with('\'') {
                len + 1
            } else {
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::layers, *};

    fn paths(name: &str, text: &str) -> Vec<String> {
        let paths = Source::new(name, text).crate_paths();
        paths.iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn trees_of_imports_are_written_out() {
        let text =
            "use crate::{a::{self, B as C, d::*}, e::F};\nfn g() { crate::h::<I>(crate::j::K) }";
        assert_eq!(
            paths("x.rs", text),
            ["a", "a::B", "a::d::*", "e::F", "h", "j::K"]
        );
    }

    #[test]
    fn relative_paths_are_those_of_their_module() {
        let text =
            "use super::{super::a, b}; use self::c; mod tests { use super::super::super::d::E; }";
        assert_eq!(paths("x/y.rs", text), ["a", "x::b", "x::y::c", "d::E"]);
        assert_eq!(paths("x/mod.rs", "use super::A;"), ["A"]);
        assert_eq!(paths("x/y.rs", "mod a { } super::b()"), ["x::b"]);
    }

    #[test]
    fn what_is_only_for_tests_is_told_from_the_rest() {
        for (text, expected) in [
            (
                "#[cfg(test)] mod tests { crate::a } crate::b",
                [true, false],
            ),
            ("#[cfg(test)] use crate::{c, d}; crate::b", [true, true]),
            (
                "#[cfg(test)] fn c() { d(); crate::a } crate::b",
                [true, false],
            ),
            (
                "#[cfg(all(test, unix))] use crate::a; crate::b",
                [true, false],
            ),
            (
                "#[cfg(feature = \"test\")] use crate::a; crate::b",
                [false, false],
            ),
            ("#[cfg(test)] c: crate::a, d: crate::b", [true, false]),
            ("#[cfg(test)] mod c; crate::a crate::b", [false, false]),
        ] {
            let source = Source::new("x.rs", text);
            let paths = source.crate_paths();
            let found: Vec<_> = paths.iter().map(|path| path.is_test).collect();
            assert_eq!(found[..2], expected, "{text}");
        }
        assert!(Source::new("x/tests/y.rs", "").is_test && Source::new("x/tests.rs", "").is_test);
        assert!(!Source::new("x/test.rs", "").is_test);
    }

    #[test]
    fn modules_for_tests_are_named_tests() {
        for (text, expected) in [
            ("#[cfg(test)] mod c; mod d; #[cfg(test)] use e;", &["c"][..]),
            ("mod tests; mod tests { } mod d;", &["tests", "tests"]),
            ("#[cfg(test)] mod tests; #[cfg(test)] mod a { mod b; }", &[]),
            ("#[cfg(test)] mod tests { mod c; mod d { } }", &[]),
        ] {
            assert_eq!(
                Source::new("x.rs", text).misnamed_modules(),
                expected,
                "{text}"
            );
            let within = Source::new("x/tests.rs", text);
            assert!(within.misnamed_modules().is_empty(), "{text}");
        }
        for (name, sources) in layers::sources() {
            let misnamed: Vec<_> = sources.iter().flat_map(Source::misnamed_modules).collect();
            assert!(misnamed.is_empty(), "{name}: {misnamed:?}");
        }
    }

    #[test]
    fn what_is_no_path_in_code_is_left_out() {
        for text in [
            "// crate::a\n/* crate::a */ /// [`crate::a`]",
            "\"crate::a\" b\"\\\"crate::a\" r#\"\"crate::a\"#",
            "pub(in crate::a) fn b() {} pub(crate) struct C;",
            "fn d(&self) { self.e() }",
        ] {
            assert_eq!(paths("x.rs", text), [""; 0], "{text}");
        }
        for text in [
            "'\"' crate::a '\\''",
            "'\\u{22}' crate::a",
            "&'b crate::a",
            "b'\"' crate::a",
            "\"\\\\\" crate::a",
            "r\"\\\" crate::a",
            "{ crate::a }",
        ] {
            assert_eq!(paths("x.rs", text), ["a"], "{text}");
        }
    }
}
