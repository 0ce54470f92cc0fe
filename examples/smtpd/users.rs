//! Who may authenticate.

use std::{collections::HashMap, fs, io, num::NonZero, path::Path, sync::Arc, thread};

use argon2::{Argon2, Params, password_hash::PasswordVerifier, password_hash::phc::PasswordHash};
use smtpd_tower::{Auth, AuthOutcome, Credentials, Identity, Reply, Request, Secret};
use tokio::{sync::Semaphore, task};

use crate::{options::Options, values::User};

/// The users of the server. Whoever is not among them is told so no sooner than whoever gives a wrong password.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    passwords: Passwords,
    tokens: Arc<[User]>,
}

#[derive(Clone, Debug)]
enum Passwords {
    /// The passwords, so that the mechanism itself can verify what a client proves.
    Known(Arc<Known>),
    /// Hashes of them.
    Hashed(Arc<Hashed>),
}

impl Users {
    /// The users that the options name, if they name any.
    pub(crate) fn new(options: &Options) -> io::Result<Option<Self>> {
        if !options.has_users() {
            return Ok(None);
        }
        let passwords = match &options.users {
            Some(path) => Passwords::hashed(path)?,
            None => Passwords::known(&options.user)?,
        };
        let tokens = options.oauth_token.clone().into();
        Ok(Some(Self { passwords, tokens }))
    }

    /// The handler of the AUTH phase.
    pub(crate) async fn login(self, request: Request<Auth>) -> AuthOutcome {
        let credentials = request.credentials();
        if credentials.bearer_token().is_some() {
            return self.owner(credentials);
        }
        match self.passwords {
            Passwords::Known(users) => users.secret(credentials.username()).into(),
            Passwords::Hashed(users) => users.login(credentials.clone()).await,
        }
    }

    /// Whose token it is. Clients need not say who they are, but if they do, it must be so (RFC 7628 section 3.2.1).
    fn owner(&self, credentials: &Credentials) -> AuthOutcome {
        let name = credentials.username();
        let mut owners = self
            .tokens
            .iter()
            .filter(|user| name.is_empty() || user.name == name);
        match owners.find(|user| credentials.verify(&user.password)) {
            Some(user) => Identity::new(&user.name).into(),
            None => Reply::auth_failed().into(),
        }
    }
}

impl Passwords {
    fn known(users: &[User]) -> io::Result<Self> {
        let mut nobody = [0; 32];
        getrandom::fill(&mut nobody).map_err(io::Error::other)?;
        let nobody = nobody.map(|octet| char::from(b'!' + octet % 64));
        let secrets = users
            .iter()
            .map(|user| (user.name.clone(), user.password.clone()));
        Ok(Self::Known(Arc::new(Known {
            secrets: secrets.collect(),
            nobody: Secret::plain(String::from_iter(nobody)),
        })))
    }

    /// Reads a file with a line `name:$argon2id$...` for each user; empty lines and those that begin with `#` are
    /// skipped.
    fn hashed(path: &Path) -> io::Result<Self> {
        let named = |fault: String| io::Error::other(format!("{}:{fault}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| named(format!(" {error}")))?;
        Ok(Self::Hashed(Arc::new(Hashed::parse(&text).map_err(named)?)))
    }
}

#[derive(Debug)]
struct Known {
    secrets: HashMap<String, Secret>,
    /// Stands for the secret of unknown users: nobody can guess it, and verifying it takes as long as any other.
    nobody: Secret,
}

impl Known {
    fn secret(&self, name: &str) -> Secret {
        self.secrets.get(name).unwrap_or(&self.nobody).clone()
    }
}

#[derive(Debug)]
struct Hashed {
    hashes: HashMap<String, PasswordHash>,
    /// What the password of an unknown user is verified with, for the time that it takes.
    nobody: PasswordHash,
    /// A verification takes tens of milliseconds and of MiB, so there is one at a time for each processor.
    turns: Arc<Semaphore>,
}

impl Hashed {
    fn parse(text: &str) -> Result<Self, String> {
        let lines = text
            .lines()
            .zip(1..)
            .filter(|(line, _)| !line.trim().is_empty() && !line.starts_with('#'));
        let users =
            lines.map(|(line, number)| user(line).map_err(|fault| format!("{number}: {fault}")));
        let users: Vec<_> = users.collect::<Result<_, _>>()?;
        let (_, nobody) = users.first().cloned().ok_or(" there is no user in it")?;
        Ok(Self {
            hashes: users.into_iter().collect(),
            nobody,
            turns: Arc::new(Semaphore::new(
                thread::available_parallelism().map_or(1, NonZero::get),
            )),
        })
    }

    async fn login(self: Arc<Self>, credentials: Credentials) -> AuthOutcome {
        let Ok(turn) = self.turns.clone().acquire_owned().await else {
            return Reply::try_again("Cannot authenticate now").into();
        };
        let verified = task::spawn_blocking(move || {
            // Held by the work and not by the session: a client that goes away does not end the work.
            let _turn = turn;
            self.verify(&credentials)
        });
        match verified.await {
            Ok(outcome) => outcome,
            Err(_) => Reply::try_again("Cannot authenticate now").into(),
        }
    }

    fn verify(&self, credentials: &Credentials) -> AuthOutcome {
        let name = credentials.username();
        let hash = self.hashes.get(name);
        let password = credentials.password().unwrap_or_default();
        let fits = Argon2::default()
            .verify_password(password.as_bytes(), hash.unwrap_or(&self.nobody))
            .is_ok();
        // Nobody here may act as somebody else (RFC 4616 section 2).
        if hash.is_some() && fits && !password.is_empty() && !credentials.acts_as_other() {
            Identity::new(name).into()
        } else {
            Reply::auth_failed().into()
        }
    }
}

fn user(line: &str) -> Result<(String, PasswordHash), &'static str> {
    const FORM: &str = "expected NAME:$argon2id$...";
    let (name, hash) = line.trim().split_once(':').ok_or(FORM)?;
    let hash = PasswordHash::new(hash).map_err(|_| FORM)?;
    // Whatever could go wrong with it later goes wrong here.
    let usable = Params::try_from(&hash).is_ok() && hash.salt.is_some() && hash.hash.is_some();
    if name.is_empty() || hash.algorithm.as_str() != "argon2id" || !usable {
        return Err(FORM);
    }
    Ok((name.to_owned(), hash))
}

#[cfg(test)]
mod tests {
    use smtpd_tower::{Session, sasl::MechanismName};

    use super::*;

    /// Of the password `secret`, with parameters that cost next to nothing.
    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw";

    fn credentials(name: &str, password: &str) -> Credentials {
        Credentials::plain(name, password).unwrap()
    }

    async fn login(users: &Users, credentials: Credentials) -> AuthOutcome {
        const PLAIN: MechanismName = MechanismName::from_static("PLAIN");
        users
            .clone()
            .login(Request::new(
                Session::local(),
                Auth::new(PLAIN, credentials),
            ))
            .await
    }

    fn someone(name: &str, secret: &str) -> User {
        User {
            name: name.to_owned(),
            password: Secret::plain(secret),
        }
    }

    fn of(passwords: Passwords) -> Users {
        Users {
            passwords,
            tokens: [someone("alice", "token-a"), someone("bob", "token-b")].into(),
        }
    }

    fn hashed() -> Users {
        let text = format!("# users\n\nalice:{HASH}\n");
        of(Passwords::Hashed(Arc::new(Hashed::parse(&text).unwrap())))
    }

    #[tokio::test]
    async fn hashes_are_verified() {
        let users = hashed();
        for (name, password, welcome) in [
            ("alice", "secret", true),
            ("alice", "Secret", false),
            ("bob", "secret", false),
            ("Alice", "secret", false),
        ] {
            let outcome = login(&users, credentials(name, password)).await;
            match outcome {
                AuthOutcome::Accept(identity) => assert!(welcome && identity.as_str() == name),
                AuthOutcome::Refuse(reply) => assert!(!welcome && reply == Reply::auth_failed()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_user_cannot_act_as_another() {
        let alice = credentials("alice", "secret");
        for (authzid, welcome) in [("alice", true), ("", true), ("bob", false)] {
            let outcome = login(&hashed(), alice.clone().with_authzid(authzid).unwrap()).await;
            assert_eq!(
                matches!(outcome, AuthOutcome::Accept(_)),
                welcome,
                "{authzid}"
            );
        }
    }

    #[tokio::test]
    async fn unknown_users_get_a_secret_that_nobody_knows() {
        let users = of(Passwords::known(&[someone("alice", "secret")]).unwrap());
        for (name, password, welcome) in [
            ("alice", "secret", true),
            ("alice", "x", false),
            ("bob", "secret", false),
        ] {
            let credentials = credentials(name, password);
            let AuthOutcome::Verify(secret) = login(&users, credentials.clone()).await else {
                panic!("the mechanism has to verify");
            };
            assert_eq!(credentials.verify(&secret), welcome);
        }
    }

    #[tokio::test]
    async fn a_token_is_good_for_its_owner_alone() {
        for (name, token, owner) in [
            ("alice", "token-a", Some("alice")),
            ("bob", "token-b", Some("bob")),
            ("", "token-b", Some("bob")),
            ("alice", "token-b", None),
            ("carol", "token-a", None),
            ("alice", "token-", None),
            ("alice", "secret", None),
            ("", "x", None),
        ] {
            let credentials = Credentials::bearer(name, token).unwrap();
            match (login(&hashed(), credentials).await, owner) {
                (AuthOutcome::Accept(identity), Some(owner)) => {
                    assert_eq!(identity.as_str(), owner)
                }
                (AuthOutcome::Refuse(reply), None) => assert_eq!(reply, Reply::auth_failed()),
                (outcome, _) => panic!("{name} {token}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn a_faulty_file_names_the_line() {
        for (text, fault) in [
            ("", " there is no user in it"),
            ("# nobody\n", " there is no user in it"),
            ("\nalice", "2: expected NAME:$argon2id$..."),
            ("alice:secret", "1: expected NAME:$argon2id$..."),
            ("alice:", "1: expected NAME:$argon2id$..."),
            (
                "alice:$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
                "1: expected NAME:$argon2id$...",
            ),
            (
                "alice:$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                "1: expected NAME:$argon2id$...",
            ),
        ] {
            assert_eq!(Hashed::parse(text).unwrap_err(), fault, "{text}");
        }
        let nameless = format!(":{HASH}");
        assert!(Hashed::parse(&nameless).is_err());
    }
}
