//! The user that the server runs as, once it has done what only root may do.

use std::{io, os::unix::fs::chown, path::Path};

use nix::unistd::{self, Gid, Group, Uid, User};
use smtpd_tower::BoxError;

use crate::{options::Options, values::Id};

/// A user without other groups than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    user: Uid,
    group: Gid,
}

impl Account {
    /// Returns the user of the options, if they set one.
    ///
    /// # Errors
    /// Fails if the system does not know the user or the group.
    pub(crate) fn new(options: &Options) -> Result<Option<Self>, BoxError> {
        let Some(id) = &options.user_id else {
            return Ok(None);
        };
        let place = options.given.place("user-id");
        let found = match id {
            Id::Name(name) => User::from_name(name)?,
            Id::Number(number) => User::from_uid(Uid::from_raw(*number))?,
        };
        let user = match (id, &found) {
            (Id::Number(number), _) => Uid::from_raw(*number),
            (Id::Name(_), Some(user)) => user.uid,
            (Id::Name(name), None) => {
                return Err(format!("{place}: the system has no user named {name}").into());
            }
        };
        let group =
            match (&options.group_id, found) {
                (Some(id), _) => {
                    let place = options.given.place("group-id");
                    group(id).map_err(|error| format!("{place}: {error}"))?
                }
                (None, Some(user)) => user.gid,
                (None, None) => return Err(format!(
                    "{place}: the system has no user with the number {id}, so --group-id is needed"
                )
                .into()),
            };
        Ok(Some(Self { user, group }))
    }

    /// Becomes this user, in all threads and for good.
    ///
    /// # Errors
    /// Fails if the process is another user that is not root.
    pub(crate) fn assume(self) -> Result<(), BoxError> {
        if (unistd::geteuid(), unistd::getegid()) == (self.user, self.group) && !self.user.is_root()
        {
            return Ok(());
        }
        if !unistd::geteuid().is_root() {
            return Err("--user-id: only root can become another user; start the server as root, or as that user without --user-id".into());
        }
        // In this order: without root, neither groups nor the group can be changed any more.
        unistd::setgroups(&[])?;
        unistd::setgid(self.group)?;
        unistd::setuid(self.user)?;
        let is_back = !self.user.is_root() && unistd::setuid(Uid::from_raw(0)).is_ok();
        match is_back {
            true => Err("--user-id: the system lets the user become root again".into()),
            false => Ok(()),
        }
    }

    /// Gives the user files that root has created for it.
    ///
    /// # Errors
    /// Fails if this process is not root.
    pub(crate) fn give(self, path: &Path) -> io::Result<()> {
        let (user, group) = (self.user.as_raw(), self.group.as_raw());
        chown(path, Some(user), Some(group))
    }
}

/// Returns a group of the system.
///
/// # Errors
/// Fails if there is no group of that name.
pub(crate) fn group(id: &Id) -> Result<Gid, BoxError> {
    match id {
        Id::Number(number) => Ok(Gid::from_raw(*number)),
        Id::Name(name) => match Group::from_name(name)? {
            Some(group) => Ok(group.gid),
            None => Err(format!("the system has no group named {name}").into()),
        },
    }
}

/// Returns what to add to an error about a file that cannot be read any more, though it could be read at the start.
pub(crate) fn explanation(error: &str) -> String {
    if !error.contains("Permission denied") || unistd::geteuid().is_root() {
        return String::new();
    }
    let (user, group) = (unistd::geteuid(), unistd::getegid());
    format!(
        "; the server runs as the user {user} and the group {group}, one of which has to be able to read the file"
    )
}

/// Warns if everything that clients send is read by a process that may do everything.
pub(crate) fn warn() {
    if unistd::geteuid().is_root() {
        tracing::warn!(
            "the server runs as root: set --user-id, so that it becomes another user once its ports are bound"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(line: &str) -> Result<Option<Account>, String> {
        let options = Options::read(["smtpd"].into_iter().chain(line.split_whitespace())).unwrap();
        Account::new(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn users_and_groups_are_looked_up_before_anything_starts() {
        let of = |user, group| {
            Ok(Some(Account {
                user: Uid::from_raw(user),
                group: Gid::from_raw(group),
            }))
        };
        for (line, expected) in [
            ("", Ok(None)),
            ("--user-id root", of(0, 0)),
            ("--user-id 0", of(0, 0)),
            ("--user-id 0 --group-id 4321", of(0, 4321)),
            ("--user-id 4211234567 --group-id 5", of(4_211_234_567, 5)),
            ("--user-id 4211234567", Err("--user-id: the system has no user with the number 4211234567, so --group-id is needed".to_owned())),
            ("--user-id no-such-user", Err("--user-id: the system has no user named no-such-user".to_owned())),
            ("--user-id 1 --group-id no-such-group", Err("--group-id: the system has no group named no-such-group".to_owned())),
        ] {
            assert_eq!(account(line), expected, "{line}");
        }
    }
}
