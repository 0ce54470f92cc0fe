//! Options from a TOML file.

use std::{fmt, fs, marker::PhantomData, path::Path, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use toml::de::DeTable;

use crate::options::Options;

/// Reads a file of options.
///
/// # Errors
/// One line with the file, the line and the field at fault.
pub(crate) fn read(path: &Path) -> Result<Options, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|fault| format!("{}:{fault}", path.display()))
}

fn parse(text: &str) -> Result<Options, String> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        let field = field(text, at)
            .map(|field| format!("{field}: "))
            .unwrap_or_default();
        // The list of known fields is long; --help shows it.
        let message = error
            .message()
            .split(", expected one of")
            .next()
            .unwrap_or_default();
        format!("{line}: {field}{message}")
    })
}

/// Returns the field that contains the byte at that offset.
fn field(text: &str, at: usize) -> Option<String> {
    match DeTable::parse(text) {
        Ok(table) => {
            let keys = table.get_ref().keys().filter(|key| key.span().start <= at);
            keys.max_by_key(|key| key.span().start)
                .map(|key| key.get_ref().to_string())
        }
        // Not TOML at all: the text before `=` in the line is the best guess.
        Err(_) => {
            let line = text.get(..at)?.lines().count().max(1);
            let (key, _) = text.lines().nth(line - 1)?.split_once('=')?;
            Some(key.trim().to_owned())
        }
    }
}

/// A value that is written as text.
pub(crate) fn text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    Text::deserialize(deserializer).map(|Text(value)| Some(value))
}

/// Values that are written as text: an array of them, or just one.
pub(crate) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    deserializer.deserialize_any(ListVisitor(PhantomData))
}

struct Text<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor(PhantomData))
    }
}

/// An error within a visitor, not after it, is reported at the place of the value.
struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for TextVisitor<T> {
    type Value = Text<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Text<T>, E> {
        text.parse().map(Text).map_err(E::custom)
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: FromStr<Err: fmt::Display>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or an array of text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
        let is_list = || text.split(',').all(|one| one.trim().parse::<T>().is_ok());
        match text.parse() {
            Ok(value) => Ok(vec![value]),
            Err(_) if is_list() => Err(E::custom(
                "several values are an array, such as ['one', 'other']",
            )),
            Err(error) => Err(E::custom(error)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(Text(value)) = items.next_element()? {
            list.push(value);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::Mode;

    #[test]
    fn a_file_has_the_names_of_the_options() {
        let options = parse(
            "listen = ['127.0.0.1:25', 'unix:/run/smtpd']\n\
             domain = 'example.org'\n\
             auth-mechanisms = ['plain', 'CRAM-MD5']\n\
             oauth-token = ['alice:a', 'bob:b']\n\
             require-tls = true\n\
             tls-cert = 'c'\n\
             sni = ['a.test=c,k']\n\
             client-ca = 'f'\n\
             max-size = 0\n\
             rate = '10/60'\n\
             bare-lf = 'pass'\n\
             mode = 'mx'\n\
             extensions = ['all,-DSN', '+DSN']\n\
             log-format = 'json'\n",
        );
        let options = options.unwrap();
        assert_eq!((options.listen.len(), options.domain.len()), (2, 1));
        assert_eq!(options.auth_mechanisms.len(), 2);
        assert_eq!(options.oauth_token.len(), 2);
        assert_eq!(
            (options.mode, options.extensions.len()),
            (Some(Mode::Mx), 2)
        );
        assert_eq!(
            (options.require_tls, options.max_size),
            (Some(true), Some(0))
        );
        assert_eq!(
            (options.sni.len(), options.client_ca),
            (1, Some("f".into()))
        );
        assert_eq!(options.rate, "10/60".parse().ok());
    }

    #[test]
    fn the_example_of_the_page_is_a_file_of_options() {
        let (_, example) = include_str!("../README.md")
            .split_once("```toml\n")
            .unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let options = parse(example).unwrap();
        assert_eq!((options.domain.len(), options.fault()), (2, None));
    }

    #[test]
    fn an_error_names_line_and_field() {
        for (text, fault) in [
            (
                "max-size = 1\nlisten-tsl = 'x'",
                "2: listen-tsl: unknown field `listen-tsl`",
            ),
            (
                "\nmax-size = 'x'",
                "2: max-size: invalid type: string \"x\", expected u64",
            ),
            (
                "max-size = -1",
                "1: max-size: invalid value: integer `-1`, expected u64",
            ),
            (
                "max-errors = 0",
                "1: max-errors: invalid value: integer `0`, expected a nonzero u32",
            ),
            (
                "listen = [\n'a:1',\n'b']",
                "3: listen: expected HOST:PORT, [IPV6]:PORT or unix:PATH",
            ),
            (
                "listen = [\n'a:1',\n25]",
                "3: listen: invalid type: integer `25`, expected text",
            ),
            (
                "user = 5",
                "1: user: invalid type: integer `5`, expected text or an array of text",
            ),
            (
                "user = 'alice:'",
                "1: user: expected NAME:SECRET, neither of them empty",
            ),
            ("rate = '5'", "1: rate: a rate is N/SECONDS"),
            ("sni = 'a=b'", "1: sni: expected NAME=CERT,KEY"),
            (
                "\nlenient = 'stray-dots, long-local-part'",
                "2: lenient: several values are an array, such as ['one', 'other']",
            ),
            (
                "lenient = 'stray-dots,x'",
                "1: lenient: \"stray-dots,x\" cannot be overlooked; there are ",
            ),
            ("mode = 'relay'", "1: mode: unknown variant `relay`"),
            (
                "mode = 'mx'\nextensions = [\n'DSN',\n'+XFOO']",
                "4: extensions: no extension \"XFOO\" here; there are all, PIPELINING, ",
            ),
            (
                "discard = 'yes'",
                "1: discard: invalid type: string \"yes\", expected a boolean",
            ),
            ("bare-lf = 'keep'", "1: bare-lf: unknown variant `keep`"),
            (
                "auth-mechanisms = ['NTLM']",
                "1: auth-mechanisms: no mechanism \"NTLM\" here",
            ),
            ("config = 'other.toml'", "1: config: unknown field `config`"),
            ("[tls]\ncert = 'x'", "1: tls: unknown field `tls`"),
            ("max-size = 1\nmax-size = 2", "2: max-size: duplicate key"),
            ("max-size = 1\nmax-size 2", "2: "),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(fault), "{error}\n{fault}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
