//! Who may authenticate.

use std::{collections::HashMap, path::Path, sync::Arc};

use smtpd_tower::{
    Auth, Identity, Reply, Request, Secret,
    address::AddressRules,
    phase::AuthOutcome,
    sasl::{Credentials, Mechanisms, prepare_name},
    session::TlsInfo,
};

use crate::{
    file::Pipes, mistakes::Mistakes, options::Options, users_file::UsersFile, values::User,
};

/// By which rules users are looked up: clients write their names in any case. Whatever they write, the user has the name that the
/// options or the file give it.
pub(crate) const NAMES: AddressRules = AddressRules::new().ignore_case(true);

/// The users of the server. An unknown user is rejected no sooner than one with a wrong password.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    passwords: Passwords,
    tokens: Arc<[User]>,
    /// Whether the common name of a certificate may name a user.
    common_names: bool,
    /// Users whose name is an address, by its local part.
    by_local_part: Arc<HashMap<String, String>>,
}

#[derive(Clone, Debug)]
enum Passwords {
    /// The passwords, so that the mechanism itself can verify what a client proves.
    Known(Arc<Known>),
    /// Hashes of them.
    Hashed(Arc<UsersFile>),
}

impl Users {
    /// Returns the users of the options, if there are any.
    ///
    /// # Errors
    /// Fails with all lines of the file that are wrong, or the users that are there twice.
    pub(crate) fn read(options: &Options, pipes: Pipes) -> Result<Option<Self>, Mistakes> {
        if !options.has_users() {
            return Ok(None);
        }
        let (option, passwords) = match &options.users {
            Some(path) => ("users", Passwords::hashed(path, pipes)),
            None => ("user", Passwords::known(&options.user)),
        };
        let place = options.given.place(option);
        let mut mistakes = Mistakes::default();
        let passwords = passwords.map_err(|faults| {
            mistakes.extend(faults.into_iter().map(|fault| format!("{place}: {fault}")));
        });
        let passwords = mistakes.or(passwords.ok())?;
        Ok(Some(Self::new(
            passwords,
            options.oauth_token.clone().into(),
            options.client_common_name.unwrap_or(true),
        )))
    }

    fn new(passwords: Passwords, tokens: Arc<[User]>, common_names: bool) -> Self {
        let users = Self {
            passwords,
            tokens,
            common_names,
            by_local_part: Arc::default(),
        };
        let addresses = users.names().filter_map(|name| {
            let (local, _) = name.rsplit_once('@')?;
            Some((NAMES.user(local).into_owned(), name.to_owned()))
        });
        let by_local_part = Arc::new(addresses.collect());
        Self {
            by_local_part,
            ..users
        }
    }

    /// Returns how many there are, those with a token included.
    pub(crate) fn count(&self) -> usize {
        self.names().count()
    }

    /// Returns warnings about these users, for the administrator, one per line.
    pub(crate) fn warnings(&self, mechanisms: &Mechanisms) -> Vec<String> {
        let mut names = mechanisms.iter().map(|mechanism| mechanism.name());
        let scram = names.any(|name| name.as_str().starts_with("SCRAM-"));
        match &self.passwords {
            Passwords::Known(users) if scram => users.without_scram(),
            Passwords::Known(_) => Vec::new(),
            Passwords::Hashed(users) => users
                .cost_warning()
                .map(str::to_owned)
                .into_iter()
                .collect(),
        }
    }

    /// The handler of the AUTH phase.
    pub(crate) async fn login(self, request: Request<Auth>) -> AuthOutcome {
        if request.mechanism().as_str() == "EXTERNAL" {
            return self.certified(&request);
        }
        let credentials = request.credentials();
        self.explain(&request, credentials.username());
        if credentials.bearer_token().is_some() {
            return self.owner(credentials);
        }
        match &self.passwords {
            Passwords::Known(users) => users.secret(credentials.username()).into(),
            Passwords::Hashed(users) => users.login(&request).await,
        }
    }

    /// Logs that a client gives an address for a user whose name is none, or the other way round: administrators look for a wrong
    /// password then.
    fn explain(&self, request: &Request<Auth>, given: &str) {
        if given.is_empty() || self.has(given) {
            return;
        }
        if let Some(user) = self.similar(given) {
            let session = request.session();
            tracing::info!(
                session = session.id(),
                peer = %session.client_addr(),
                given = %given.escape_debug(),
                user,
                "the client must log in with the whole name of the user, as it is in the list of users"
            );
        }
    }

    fn has(&self, name: &str) -> bool {
        let is_it = |user: &User| NAMES.user(&user.name) == NAMES.user(name);
        self.passwords.find(name).is_some() || self.tokens.iter().any(is_it)
    }

    /// The user whose name differs by the domain alone.
    fn similar(&self, name: &str) -> Option<&str> {
        match name.rsplit_once('@') {
            Some((local, _)) => self.passwords.find(local),
            None => self
                .by_local_part
                .get(&*NAMES.user(name))
                .map(String::as_str),
        }
    }

    /// The user that the client's certificate is for: that of a mail address in it, of a host, or where there are no
    /// alternative names at all, of the common name (RFC 6125 section 6.4.4). A client that says who it is must be that one
    /// (RFC 4422 section 3.4.1).
    fn certified(&self, request: &Request<Auth>) -> AuthOutcome {
        let tls = request.session().tls();
        let names = tls.and_then(TlsInfo::client_names).unwrap_or_default();
        let claimed = request.credentials().authzid();
        let hosts = names.emails().iter().chain(names.dns_names());
        let common = names
            .common_name()
            .filter(|_| self.common_names && !names.has_alternative_names());
        let mut users = hosts
            .map(String::as_str)
            .chain(common)
            .filter_map(prepare_name)
            .filter_map(|name| self.named(&name));
        match users.find(|name| claimed.is_none_or(|claimed| claimed == *name)) {
            Some(name) => Identity::new(name).into(),
            None => Reply::auth_failed().into(),
        }
    }

    /// The user of that name. Of an address in a certificate, the case of the host does not count (RFC 5280 section 7.5).
    fn named(&self, name: &str) -> Option<&str> {
        let is_same = |user: &&str| match (user.rsplit_once('@'), name.rsplit_once('@')) {
            (Some((one, host)), Some((other, its_host))) => {
                one == other && host.eq_ignore_ascii_case(its_host)
            }
            _ => false,
        };
        let same = self.names().find(|user| *user == name);
        same.or_else(|| self.names().find(is_same))
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let (known, hashed) = match &self.passwords {
            Passwords::Known(users) => (Some(users.names()), None),
            Passwords::Hashed(users) => (None, Some(users.names())),
        };
        let with_token = self.tokens.iter().map(|user| &*user.name);
        let all = with_token.chain(known.into_iter().flatten());
        all.chain(hashed.into_iter().flatten().map(String::as_str))
    }

    /// Returns the owner of the token. Clients need not send a name, but if they do, it has to match (RFC 7628 section 3.2.1).
    fn owner(&self, credentials: &Credentials) -> AuthOutcome {
        let name = NAMES.user(credentials.username());
        let mut owners = self
            .tokens
            .iter()
            .filter(|user| name.is_empty() || NAMES.user(&user.name) == name);
        match owners.find(|user| credentials.verify(&user.password)) {
            Some(user) => Identity::new(&user.name).into(),
            None => Reply::auth_failed().into(),
        }
    }
}

impl Passwords {
    fn hashed(path: &Path, pipes: Pipes) -> Result<Self, Vec<String>> {
        UsersFile::read(path, pipes).map(|users| Self::Hashed(Arc::new(users)))
    }

    /// Returns the name of a user as the options or the file give it.
    fn find(&self, name: &str) -> Option<&str> {
        match self {
            Self::Known(users) => users.find(name),
            Self::Hashed(users) => users.find(name),
        }
    }

    fn known(users: &[User]) -> Result<Self, Vec<String>> {
        let mut nobody = [0; 32];
        getrandom::fill(&mut nobody).map_err(|error| vec![error.to_string()])?;
        let nobody = nobody.map(|byte| char::from(b'!' + byte % 64));
        let (mut secrets, mut faults) = (HashMap::new(), Vec::new());
        for user in users {
            let name = &user.name;
            let secret = user.password.clone().with_user(&**name);
            let earlier = secrets.insert(NAMES.user(name).into_owned(), secret);
            if earlier.is_some() {
                faults.push(format!("two users have the name {name}"));
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self::Known(Arc::new(Known {
            secrets,
            nobody: Secret::password(String::from_iter(nobody)),
        })))
    }
}

#[derive(Debug)]
struct Known {
    /// By the canonical form of the name. Each has the name itself.
    secrets: HashMap<String, Secret>,
    /// Used as the secret of unknown users: nobody can guess it, and verifying it takes as long as any other.
    nobody: Secret,
}

impl Known {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.secrets
            .values()
            .filter_map(Secret::user)
            .map(Identity::as_str)
    }

    /// A line for each user whose password SCRAM cannot use.
    fn without_scram(&self) -> Vec<String> {
        let users = self.secrets.values();
        let mut names: Vec<_> = users
            .filter(|secret| !secret.supports_scram())
            .filter_map(Secret::user)
            .collect();
        names.sort();
        let warn = |name| {
            format!(
                "{name} cannot log in by SCRAM, which most clients prefer: SASLprep (RFC 4013) forbids a character of the password"
            )
        };
        names.into_iter().map(warn).collect()
    }

    fn find(&self, name: &str) -> Option<&str> {
        let secret = self.secrets.get(&*NAMES.user(name))?;
        secret.user().map(Identity::as_str)
    }

    fn secret(&self, name: &str) -> Secret {
        let known = self.secrets.get(&*NAMES.user(name));
        known.unwrap_or(&self.nobody).clone()
    }
}

#[cfg(test)]
mod tests {
    use smtpd_tower::{
        Session,
        sasl::{MechanismName, Scram},
        test::Client,
    };

    use super::*;
    use crate::{
        listen::Kind,
        served::{Purpose, Served},
        users_file::tests::HASH,
    };

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
            password: Secret::password(secret),
        }
    }

    fn of(passwords: Passwords) -> Users {
        let tokens = [someone("alice", "token-a"), someone("bob", "token-b")];
        Users::new(passwords, tokens.into(), true)
    }

    fn hashed() -> Users {
        let text = format!("# users\n\nalice:{HASH}\n");
        of(Passwords::Hashed(Arc::new(
            UsersFile::parse(&text).unwrap(),
        )))
    }

    #[tokio::test]
    async fn hashes_are_verified() {
        let users = hashed();
        for (name, password, welcome) in [
            ("alice", "secret", true),
            ("alice", "Secret", false),
            ("bob", "secret", false),
            ("Alice", "secret", true),
            ("Alice", "Secret", false),
        ] {
            let outcome = login(&users, credentials(name, password)).await;
            match outcome {
                AuthOutcome::Accept(identity) => assert!(welcome && identity.as_str() == "alice"),
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
            ("ALICE", "secret", true),
            ("alice", "x", false),
            ("bob", "secret", false),
        ] {
            let credentials = credentials(name, password);
            let AuthOutcome::Verify(secret) = login(&users, credentials.clone()).await else {
                panic!("the mechanism has to verify");
            };
            assert_eq!(credentials.verify(&secret), welcome);
            let user = secret.user().map(Identity::as_str);
            assert_eq!(user, (name != "bob").then_some("alice"));
        }
    }

    #[tokio::test]
    async fn a_token_is_good_for_its_owner_alone() {
        for (name, token, owner) in [
            ("alice", "token-a", Some("alice")),
            ("Alice", "token-a", Some("alice")),
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
        let users = of(Passwords::known(&[
            someone("a@b.test", "x"),
            someone("c.test", "x"),
            someone("e@F.Test", "x"),
        ])
        .unwrap());
        for (der, claimed, user) in [
            (
                der(&["a@b.test"], &["c.test"], "alice"),
                "",
                Some("a@b.test"),
            ),
            (der(&["z@b.test"], &["c.test"], "alice"), "", Some("c.test")),
            (der(&[], &[], "alice"), "", Some("alice")),
            (der(&["a@B.TEST"], &[], "x"), "", Some("a@b.test")),
            (der(&["e@f.test"], &[], "x"), "", Some("e@F.Test")),
            (der(&["A@b.test"], &[], "x"), "", None),
            (der(&[], &["d.test"], "alice"), "", None),
            (der(&["a@b.test"], &[], "alice"), "alice", None),
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
            let tls = TlsInfo::new(smtpd_tower::session::TlsVersion::Tls13, "x")
                .with_peer_certificates(Some(der.into()));
            let credentials = Credentials::external().with_authzid(claimed).unwrap();
            let auth = || Auth::new(EXTERNAL, credentials.clone());
            let request = || Request::new(Session::local().with_tls(tls.clone()), auth());
            let mut without_common_names = users.clone();
            without_common_names.common_names = false;
            let outcome = without_common_names.login(request()).await;
            assert_eq!(
                matches!(outcome, AuthOutcome::Accept(_)),
                user.is_some_and(|user| user != "alice"),
                "{claimed}"
            );
            match users.clone().login(request()).await {
                AuthOutcome::Accept(identity) => assert_eq!(Some(identity.as_str()), user),
                AuthOutcome::Refuse(_) => assert_eq!(user, None, "{claimed}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn no_two_users_have_one_name() {
        let twice = ["alice", "alice "].map(|name| format!("{name}:x").parse::<User>().unwrap());
        let error = Passwords::known(&twice).unwrap_err();
        assert_eq!(error, ["two users have the name alice"]);
    }

    #[test]
    fn passwords_that_scram_cannot_use_are_warned_about() {
        let passwords = [
            someone("alice", "s\u{e9}cret"),
            someone("bob", "\u{1f600}"),
            someone("carol", "\u{ad}"),
        ];
        let users = of(Passwords::known(&passwords).unwrap());
        assert!(users.warnings(&Mechanisms::default()).is_empty());
        let scram = Mechanisms::default().with(Scram::sha1());
        let warnings = users.warnings(&scram);
        let names: Vec<_> = warnings.iter().map(|text| text.split(' ').next()).collect();
        assert_eq!(names, [Some("bob"), Some("carol")]);
        assert!(!warnings.concat().contains('\u{1f600}'));
    }

    /// What each mechanism answers to this name, for users of these options.
    async fn replies(options: &str, mechanisms: &[&str], name: &str) -> Vec<u16> {
        let line =
            format!("smtpd --discard --allow-plaintext-auth --max-auth-failures 9 {options}");
        let options = Options::read(line.split_whitespace()).unwrap();
        let served = Served::read(options, None, Purpose::Start).await.unwrap();
        let mut client = Client::connect(&served.server(Kind::Smtp));
        client.greeting().await.unwrap();
        let mut codes = Vec::new();
        for mechanism in mechanisms {
            client.ehlo("c.test").await.unwrap();
            let reply = match *mechanism {
                "PLAIN" => client.auth_plain(name, "secret").await,
                "LOGIN" => client.auth_login(name, "secret").await,
                "SCRAM" => client.auth_scram_sha256(name, "secret").await,
                _ => client.auth_cram_md5(name, "secret").await,
            };
            let code = reply.unwrap().code().as_u16();
            codes.push(code);
            if code == 235 {
                // A session authenticates once.
                client = Client::connect(&served.server(Kind::Smtp));
                client.greeting().await.unwrap();
            }
        }
        codes
    }

    /// Names are compared in full, whatever the case of letters: an address is a name like any other.
    #[tokio::test]
    async fn a_user_cannot_log_in_with_an_address() {
        let dir = tempfile::tempdir().unwrap();
        for (stored, given, welcome) in [
            ("bob@example.com", "bob@example.com", true),
            ("bob@example.com", "Bob@Example.COM", true),
            ("Bob@Example.com", "bob@example.com", true),
            ("bob@example.com", "bob", false),
            ("bob@example.com", "bob@example.org", false),
            ("bob@example.com", "@example.com", false),
            ("bob", "bob", true),
            ("bob", "BOB", true),
            ("bob", "bob@example.com", false),
            ("b\u{f6}b@example.com", "B\u{d6}B@example.com", true),
        ] {
            let code = if welcome { 235 } else { 535 };
            let all = ["PLAIN", "LOGIN", "SCRAM", "CRAM-MD5"];
            let codes = replies(&format!("--user {stored}:secret"), &all, given).await;
            assert_eq!(codes, [code; 4], "{stored} by {given}");
            let file = dir.path().join("users");
            std::fs::write(&file, format!("{stored}:{HASH}\n")).unwrap();
            let file = format!("--users {}", file.display());
            let codes = replies(&file, &["PLAIN", "LOGIN"], given).await;
            assert_eq!(codes, [code; 2], "{stored} in a file by {given}");
        }
    }

    #[tokio::test]
    async fn nobody_is_told_that_only_the_domain_is_wrong() {
        let known = |name| of(Passwords::known(&[someone(name, "x")]).unwrap());
        let hashed = |name| {
            let users = UsersFile::parse(&format!("{name}:{HASH}\n")).unwrap();
            of(Passwords::Hashed(Arc::new(users)))
        };
        for (stored, given, is_told) in [
            ("carol@example.com", "Carol", true),
            ("carol", "CAROL@example.com", true),
            ("carol", "carol", false),
            ("carol@example.com", "carol@example.com", false),
            ("carol@example.com", "dave", false),
            ("carol", "", false),
            // The owner of a token, who has no password.
            ("carol", "alice", false),
        ] {
            for users in [known(stored), hashed(stored)] {
                let (guard, written) = crate::log::tests::capture(false);
                if !given.is_empty() {
                    drop(login(&users, credentials(given, "wrong")).await);
                }
                drop(guard);
                let text = written.text();
                let is_there = text.contains("whole name of the user") && text.contains(stored);
                assert_eq!(is_there, is_told, "{stored} by {given}: {text}");
            }
        }
    }

    /// The spelling of a name does not matter: in the options, in the file, or as sent by the client.
    #[tokio::test]
    async fn a_user_is_found_however_the_name_is_written() {
        const WRITTEN: [&str; 3] = ["m\u{fc}ller", "mu\u{308}ller", "\u{ff4d}\u{fc}ller"];
        for stored in WRITTEN {
            let known = format!("{stored}:secret").parse::<User>().unwrap();
            let known = of(Passwords::known(&[known]).unwrap());
            let text = format!(" {stored} :{HASH}\n");
            let hashed = of(Passwords::Hashed(Arc::new(
                UsersFile::parse(&text).unwrap(),
            )));
            for given in WRITTEN {
                let given = credentials(given, "secret");
                let outcome = login(&hashed, given.clone()).await;
                assert!(
                    matches!(outcome, AuthOutcome::Accept(user) if user.as_str() == WRITTEN[0])
                );
                let AuthOutcome::Verify(secret) = login(&known, given.clone()).await else {
                    panic!()
                };
                assert!(given.verify(&secret));
            }
        }
    }
}
