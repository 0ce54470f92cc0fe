use std::{
    process,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use super::size::Size;
use crate::serial;

/// A file name that no other delivery uses, on this host or another that shares the directory:
/// `<secs>.M<micros>P<pid>Q<serial>R<random>.<host>`. It holds nothing that a client has sent, and does not tell how many
/// messages there were.
#[derive(Debug)]
pub(super) struct UniqueName {
    unique: String,
    id: String,
}

impl UniqueName {
    pub(super) fn new() -> Self {
        static HOST: LazyLock<String> = LazyLock::new(|| {
            hostname::get().map_or_else(
                |_| "localhost".to_owned(),
                |name| escape(&name.to_string_lossy()),
            )
        });
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // Distinguishes containers that share a host name and all run as process 1. Time and serial stand without it.
        let random = getrandom::u32().unwrap_or_default();
        let mut id = String::from("Q");
        serial::push_next(&mut id);
        id += &format!("R{random:08x}");
        let (secs, micros, pid) = (now.as_secs(), now.subsec_micros(), process::id());
        let unique = format!("{secs}.M{micros}P{pid}{id}.{}", *HOST);
        Self { unique, id }
    }

    /// Creates a name that readers of a maildir ignore, because it begins with a dot.
    pub(super) fn hidden() -> Self {
        let Self { unique, id } = Self::new();
        Self {
            unique: format!(".{unique}"),
            id,
        }
    }

    /// Returns the name while the message is being written.
    pub(super) fn of_draft(&self) -> &str {
        &self.unique
    }

    /// Returns the name of the message, which tells its size: Maildir++ counts quotas by `S`, and IMAP servers need not look at
    /// the file. `W` is the size with CRLF.
    pub(super) fn of_message(&self, size: &Size, has_virtual_size: bool) -> String {
        let mut name = format!("{},S={}", self.unique, size.bytes());
        if has_virtual_size {
            name += &format!(",W={}", size.with_crlf());
        }
        name
    }

    /// Returns the part of the name that the client receives: it reveals nothing of the host.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// A slash would leave the directory, a colon starts the flags of a message in `cur`, a comma its sizes.
fn escape(host: &str) -> String {
    let host = host.replace('/', "\\057").replace(':', "\\072");
    host.replace(',', "\\054")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_name() {
        assert_eq!(escape("a/b:c,d.example"), "a\\057b\\072c\\054d.example");
        let name = UniqueName::new();
        let (secs, rest) = name.of_draft().split_once('.').unwrap();
        assert!(secs.parse::<u64>().is_ok());
        let (unique, host) = rest.split_once('.').unwrap();
        assert!(!host.is_empty() && !host.contains(['/', ':', ',']));
        let (_, random) = unique.rsplit_once('R').unwrap();
        assert_eq!(random.len(), 8);
        assert!(unique.contains(&format!("P{}Q", process::id())));
        assert!(unique.ends_with(name.id()));

        let mut size = Size::default();
        size.add(b"a\nb", true);
        let of_message = name.of_message(&size, false);
        assert_eq!(of_message, format!("{},S=3", name.of_draft()));
        let of_message = name.of_message(&size, true);
        assert_eq!(of_message, format!("{},S=3,W=4", name.of_draft()));
        assert!(UniqueName::hidden().of_draft().starts_with('.'));
    }

    #[test]
    fn an_id_does_not_tell_how_many_messages_there_were() {
        let ids: Vec<_> = (0..50).map(|_| UniqueName::new().id).collect();
        assert!(!ids.is_sorted(), "{ids:?}");
        assert!(ids.iter().all(|id| id.len() == 16));
    }
}
