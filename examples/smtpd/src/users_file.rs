//! The file of users.

use std::{borrow::Cow, collections::HashMap, path::Path};

use smtpd_tower::{
    Auth, Request,
    password_hash::{PasswordHash, PasswordVerifier},
    phase::AuthOutcome,
};

use crate::{
    file::{self, Pipes},
    users::NAMES,
    values::user_name,
};

/// The users of a file, with hashes of their passwords.
#[derive(Debug)]
pub(crate) struct UsersFile {
    /// By the canonical form of the name.
    users: HashMap<String, (String, PasswordHash)>,
    verifier: PasswordVerifier,
    /// A warning if the hashes differ in cost.
    cost_warning: Option<String>,
}

impl UsersFile {
    /// Reads a file with a line `name:$argon2id$...` for each user; empty lines and those that begin with `#` are
    /// skipped.
    ///
    /// # Errors
    /// Fails with all lines that are wrong.
    pub(crate) fn read(path: &Path, pipes: Pipes) -> Result<Self, Vec<String>> {
        let named = |fault: String| format!("{}:{fault}", path.display());
        let text = file::read(path, pipes).map_err(|error| vec![error])?;
        let named_all = |faults| file::first_of(faults).map(named).collect::<Vec<_>>();
        let mut users = Self::parse(&text).map_err(named_all)?;
        users.cost_warning = users.cost_warning.map(named);
        Ok(users)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut users, mut faults) = (HashMap::new(), Vec::new());
        let (mut first, mut cost_warning) = (None, None);
        for (number, line) in file::lines(text) {
            let (name, hash) = match user(line) {
                Ok(user) => user,
                Err(fault) => {
                    faults.push(format!("{number}: {fault}"));
                    continue;
                }
            };
            let (first_number, first) = first.get_or_insert_with(|| (number, hash.clone()));
            if !hash.costs_as_much_as(first) && cost_warning.is_none() {
                cost_warning = Some(format!(
                    "{number}: this hash costs more or less than that of line {first_number}: the time of a refusal tells which users have the cheap ones"
                ));
            }
            let key = NAMES.user(&name).into_owned();
            if users.insert(key, (name, hash)).is_some() {
                faults.push(format!("{number}: an earlier line has the same user"));
            }
        }
        if users.is_empty() && faults.is_empty() {
            faults.push(" the file has no user in it".to_owned());
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            verifier: PasswordVerifier::new()
                .unknown_users_like(users.values().map(|(_, hash)| hash)),
            users,
            cost_warning,
        })
    }

    pub(crate) fn cost_warning(&self) -> Option<&str> {
        self.cost_warning.as_deref()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.users.values().map(|(name, _)| name)
    }

    /// Returns the name of a user as the file gives it.
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        let (name, _) = self.users.get(&*NAMES.user(name))?;
        Some(name)
    }

    pub(crate) async fn login(&self, request: &Request<Auth>) -> AuthOutcome {
        let user = self
            .users
            .get(&*NAMES.user(request.credentials().username()));
        let user = user.map(|(name, hash)| (name, hash));
        self.verifier.verify(request, user).await
    }
}

fn user(line: &str) -> Result<(String, PasswordHash), Cow<'static, str>> {
    match line.trim().split_once(':') {
        Some((name, hash)) if !name.trim().is_empty() => {
            let name = user_name(name)?;
            let hash = hash.trim().parse::<PasswordHash>();
            Ok((name, hash.map_err(|fault| fault.to_string())?))
        }
        _ => Err("expected NAME:HASH".into()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of the password `secret`, with cheap parameters.
    pub(crate) const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw";

    #[test]
    fn a_faulty_file_names_the_line() {
        for (text, fault) in [
            ("", " the file has no user in it"),
            ("# nobody\n", " the file has no user in it"),
            ("\nalice", "2: expected NAME:HASH"),
            ("alice:secret", "1: expected a hash such as $argon2id$"),
            ("alice:", "1: expected a hash such as $argon2id$"),
            (
                "alice:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
                "1: expected a hash such as $argon2id$",
            ),
            (
                "#\nalice:$scrypt$ln=4$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                "2: the hash is not by Argon2",
            ),
        ] {
            let error = UsersFile::parse(text).unwrap_err().concat();
            assert!(error.starts_with(fault), "{text}: {error}");
        }
        for (name, fault) in [
            ("", "1: expected NAME:HASH"),
            (" \t", "1: expected NAME:HASH"),
            ("al\tice", "1: the user name holds control characters"),
            ("\u{1}alice", "1: the user name holds control characters"),
            ("al\u{202e}ice", "1: the user name holds control characters"),
        ] {
            let error = UsersFile::parse(&format!("{name}:{HASH}"));
            let error = error.unwrap_err().concat();
            assert!(error.starts_with(fault), "{name:?}: {error}");
        }
        for (one, other) in [
            ("m\u{fc}ller", "mu\u{308}ller"),
            ("alice", "Alice"),
            ("alice@b.test", "alice@B.test"),
        ] {
            let twice = format!("{one}:{HASH}\n#\n{other}:{HASH}\n");
            let error = UsersFile::parse(&twice).unwrap_err();
            assert_eq!(error, ["3: an earlier line has the same user"]);
        }
    }

    #[test]
    fn only_the_first_faulty_line_is_told() {
        let text = format!("alice\nbob:{HASH}\nbob:{HASH}\n:\n");
        let faults = UsersFile::parse(&text).unwrap_err();
        let lines: Vec<_> = faults.iter().map(|fault| &fault[..2]).collect();
        assert_eq!(lines, ["1:", "3:", "4:"]);
        let other = "<html>\n".repeat(50);
        let faults = UsersFile::parse(&other).unwrap_err();
        assert_eq!((faults.len(), file::first_of(faults).count()), (50, 21));
    }

    #[test]
    fn hashes_of_several_costs_are_warned_about() {
        let heavy = HASH.replace("m=8", "m=16");
        for (text, warning) in [
            (format!("alice:{HASH}\nbob:{HASH}\n"), None),
            (
                format!("#\nalice:{HASH}\nbob:{heavy}\ncarol:{heavy}\n"),
                Some("3: "),
            ),
        ] {
            let users = UsersFile::parse(&text).unwrap();
            assert_eq!(users.cost_warning().is_some(), warning.is_some());
            let said = users.cost_warning().unwrap_or_default();
            assert!(said.starts_with(warning.unwrap_or_default()), "{said}");
        }
    }
}
