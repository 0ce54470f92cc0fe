//! Files that hold secrets: others than their owner should not be able to read them.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::options::Options;

/// Returns warnings about those that are open to others. For private keys, `TlsConfig::warnings` does that.
pub(crate) fn warnings(options: &Options) -> Vec<String> {
    let warn = |path: &Path| {
        let mode = open_mode(path)?;
        Some(format!(
            "{}: the file holds secrets and is open to others than its owner (mode {mode:04o}): set it to 0600, or to 0640 if root owns it",
            path.display()
        ))
    };
    of(options).filter_map(warn).collect()
}

fn of(options: &Options) -> impl Iterator<Item = &Path> {
    let config = options.config.as_ref();
    let config = config.filter(|_| options.config_is_secret());
    let all = [
        config,
        options.users.as_ref(),
        options.tls_key_passphrase_file.as_ref(),
    ];
    all.into_iter().flatten().map(AsRef::as_ref)
}

/// Returns the permissions of a file if others than its owner have more than they should.
fn open_mode(path: &Path) -> Option<u32> {
    // A file without readable metadata cannot be read either, and reading it reports the error.
    let file = fs::metadata(path).ok()?;
    let mode = file.mode() & 0o7777;
    is_open(mode, file.uid()).then_some(mode)
}

/// The group may read a file that root owns: systems give secrets to servers in this way, and PostgreSQL accepts it too.
const fn is_open(mode: u32, owner: u32) -> bool {
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    mode & forbidden != 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_with_secrets_that_others_may_read_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let secret = write("secret.toml", "user = 'alice:x'\n");
        let token = write("token.toml", "oauth-token = 'alice:x'\n");
        let plain = write("plain.toml", "quiet = true\n");
        let (users, passphrase) = (write("users", ""), write("passphrase", ""));
        let read = |line: &str| {
            let line = format!("smtpd --tls-cert c {line}");
            Options::read(line.split_whitespace()).unwrap()
        };
        for (line, files) in [
            (format!("--config {}", secret.display()), vec![&secret]),
            (format!("--config {}", token.display()), vec![&token]),
            // The password is on the command line.
            (format!("--config {} --user a:b", plain.display()), vec![]),
            (
                format!(
                    "--users {} --tls-key-passphrase-file {}",
                    users.display(),
                    passphrase.display()
                ),
                vec![&users, &passphrase],
            ),
        ] {
            assert!(of(&read(&line)).eq(files), "{line}");
        }
        for (mode, open) in [(0o600, None), (0o400, None), (0o604, Some(0o604))] {
            fs::set_permissions(&users, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(open_mode(&users), open);
        }
        assert_eq!(open_mode(Path::new("/no/such/file")), None);
    }

    #[test]
    fn the_group_may_read_what_root_owns_alone() {
        for (mode, owner, open) in [
            (0o640, 0, false),
            (0o660, 0, true),
            (0o644, 0, true),
            (0o640, 1000, true),
        ] {
            assert_eq!(is_open(mode, owner), open, "{mode:o} of {owner}");
        }
    }
}
