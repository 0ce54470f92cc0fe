use std::{
    process,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// A file name that no other delivery uses, on this host or another that shares the directory:
/// `<secs>.M<micros>P<pid>Q<counter>R<random>.<host>`. It holds nothing that a client has sent.
#[derive(Debug)]
pub(super) struct UniqueName {
    file_name: String,
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
        static COUNTER: AtomicU64 = AtomicU64::new(1);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        // Distinguishes containers that share a host name and all run as process 1. Time and counter stand without it.
        let random = getrandom::u32().unwrap_or_default();
        let id = format!("Q{}R{random:08x}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let (secs, micros, pid) = (now.as_secs(), now.subsec_micros(), process::id());
        let file_name = format!("{secs}.M{micros}P{pid}{id}.{}", *HOST);
        Self { file_name, id }
    }

    pub(super) fn file_name(&self) -> &str {
        &self.file_name
    }

    /// The part of the name that the client receives: it reveals nothing of the host.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

/// A slash would leave the directory, a colon starts the flags of a message in `cur`.
fn escape(host: &str) -> String {
    host.replace('/', "\\057").replace(':', "\\072")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_name() {
        assert_eq!(escape("a/b:c.example"), "a\\057b\\072c.example");
        let name = UniqueName::new();
        let (secs, rest) = name.file_name().split_once('.').unwrap();
        assert!(secs.parse::<u64>().is_ok());
        let (unique, host) = rest.split_once('.').unwrap();
        assert!(!host.is_empty() && !host.contains(['/', ':']));
        let (_, random) = unique.split_once('R').unwrap();
        assert_eq!(random.len(), 8);
        assert!(unique.contains(&format!("P{}Q", process::id())));
        assert!(unique.ends_with(name.id()));
    }
}
