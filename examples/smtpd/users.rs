//! Who may authenticate.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc};

use smtpd_tower::{
    Auth, AuthOutcome, Credentials, Identity, PasswordHash, PasswordVerifier, Reply, Request,
    Secret, TlsInfo,
};

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
        if request.mechanism() == "EXTERNAL" {
            return self.certified(&request);
        }
        let credentials = request.credentials();
        if credentials.bearer_token().is_some() {
            return self.owner(credentials);
        }
        match &self.passwords {
            Passwords::Known(users) => users.secret(credentials.username()).into(),
            Passwords::Hashed(users) => users.login(&request).await,
        }
    }

    /// The user that the client's certificate is for: that of a mail address in it, of a host, or of the common name. A
    /// client that says who it is must be that one (RFC 4422 section 3.4.1).
    fn certified(&self, request: &Request<Auth>) -> AuthOutcome {
        let tls = request.session().tls();
        let names = tls.and_then(TlsInfo::client_names).unwrap_or_default();
        let claimed = request.credentials().authzid();
        let hosts = names.emails().iter().chain(names.dns_names());
        let mut users = hosts
            .map(String::as_str)
            .chain(names.common_name())
            .filter(|name| self.knows(name));
        match users.find(|name| claimed.is_none_or(|claimed| claimed == *name)) {
            Some(name) => Identity::new(name).into(),
            None => Reply::auth_failed().into(),
        }
    }

    fn knows(&self, name: &str) -> bool {
        self.tokens.iter().any(|user| user.name == name)
            || match &self.passwords {
                Passwords::Known(users) => users.secrets.contains_key(name),
                Passwords::Hashed(users) => users.hashes.contains_key(name),
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
    verifier: PasswordVerifier,
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
        let (_, hash) = users.first().ok_or(" there is no user in it")?;
        Ok(Self {
            verifier: PasswordVerifier::new().unknown_users_like(hash),
            hashes: users.into_iter().collect(),
        })
    }

    async fn login(&self, request: &Request<Auth>) -> AuthOutcome {
        let hash = self.hashes.get(request.credentials().username());
        self.verifier.verify(request, hash).await
    }
}

fn user(line: &str) -> Result<(String, PasswordHash), String> {
    match line.trim().split_once(':') {
        Some((name, hash)) if !name.is_empty() => {
            let hash = hash.parse().map_err(|fault| format!("{fault}"))?;
            Ok((name.to_owned(), hash))
        }
        _ => Err("expected NAME:HASH".to_owned()),
    }
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

    #[tokio::test]
    async fn a_certificate_is_good_for_the_users_in_it() {
        const EXTERNAL: MechanismName = MechanismName::from_static("EXTERNAL");
        let der = |emails: &[&str], hosts: &[&str], name: &str| {
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            let mut params = rcgen::CertificateParams::new(hosts).unwrap();
            let emails = emails.iter().map(|email| (*email).try_into().unwrap());
            params
                .subject_alt_names
                .extend(emails.map(rcgen::SanType::Rfc822Name));
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let key = rcgen::KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let users =
            of(Passwords::known(&[someone("a@b.test", "x"), someone("c.test", "x")]).unwrap());
        for (der, claimed, user) in [
            (
                der(&["a@b.test"], &["c.test"], "alice"),
                "",
                Some("a@b.test"),
            ),
            (der(&["z@b.test"], &["c.test"], "alice"), "", Some("c.test")),
            (der(&[], &["d.test"], "alice"), "", Some("alice")),
            (
                der(&["a@b.test"], &["c.test"], "x"),
                "c.test",
                Some("c.test"),
            ),
            (der(&["a@b.test"], &[], "x"), "alice", None),
            (der(&["a@b.test"], &[], "x"), "x", None),
            (der(&[], &[], "mallory"), "", None),
            (Vec::new(), "", None),
        ] {
            let tls = TlsInfo::new(smtpd_tower::TlsVersion::Tls13, "x")
                .with_peer_certificates(Some(der.into()));
            let credentials = Credentials::external().with_authzid(claimed).unwrap();
            let auth = Auth::new(EXTERNAL, credentials);
            let request = Request::new(Session::local().with_tls(tls), auth);
            match users.clone().login(request).await {
                AuthOutcome::Accept(identity) => assert_eq!(Some(identity.as_str()), user),
                AuthOutcome::Refuse(_) => assert_eq!(user, None, "{claimed}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_faulty_file_names_the_line() {
        for (text, fault) in [
            ("", " there is no user in it"),
            ("# nobody\n", " there is no user in it"),
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
            let error = Hashed::parse(text).unwrap_err();
            assert!(error.starts_with(fault), "{text}: {error}");
        }
        let nameless = format!(":{HASH}");
        assert!(Hashed::parse(&nameless).is_err());
    }
}
