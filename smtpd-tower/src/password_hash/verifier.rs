//! Compares passwords with their hashes.

use std::{
    hash::{DefaultHasher, Hasher},
    num::NonZero,
    sync::Arc,
};

use argon2::{Argon2, Params};
use smtpd_core::{
    connection::AuthOutcome,
    reply::Reply,
    sasl::{Credentials, Identity, prepare_name},
};
use zeroize::Zeroizing;

use super::{PasswordHash, memory::Memory};
use crate::{
    limiter::ClientKey,
    net::Prefixes,
    permits::Permits,
    phase::{Auth, Request},
};

/// Compares passwords with their hashes, for the AUTH phase: in tokio's threads for blocking work, with a limit on how many run
/// at once.
///
/// In the whole process, one comparison runs at a time for each processor, including those with the keys of SCRAM. Others wait
/// for it, for 10 seconds at most. Clients take turns, and so do the networks that they are in (a /16, a /24 and an address of
/// IPv4, a /32, a /48 and a /64 of IPv6), so a client with many addresses gets no more turns. A client that disconnects no longer
/// waits. If more than a thousand wait, the network with the most of them loses one. A client that loses its place or waits too
/// long receives [`Reply::auth_unavailable`].
///
/// An unknown user costs as much time as a known one. Clones share the limit.
///
/// A password may be hashed as users type it, or as [`prepare_name`] prepares it by SASLprep (RFC 4013), which is better (RFC
/// 4616 section 2): then it does not matter how accents are written. What a client sends is compared as it is and, if SASLprep
/// changes it, also in the prepared form. Such a password takes twice the time, for any user.
///
/// ```
/// use std::{collections::HashMap, sync::Arc};
/// use smtpd_tower::{
///     Auth, Pipeline, Request, handler_fn,
///     password_hash::{PasswordHash, PasswordVerifier},
///     phase::AuthOutcome,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let hash: PasswordHash =
///     "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw".parse()?;
/// let users = Arc::new(HashMap::from([("alice", hash)]));
/// let verifier = PasswordVerifier::new().unknown_users_like(users.values());
///
/// let pipeline =
///     Pipeline::new().auth(handler_fn(move |request: Request<Auth>| {
///         let (verifier, users) = (verifier.clone(), users.clone());
///         async move {
///             verifier
///                 .verify(
///                     &request,
///                     users.get_key_value(request.credentials().username()),
///                 )
///                 .await
///         }
///     }));
/// # drop(pipeline);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct PasswordVerifier {
    nobody: Nobody,
    limit: Option<Permits>,
    memory: Arc<Memory>,
}

/// The cost of unknown users.
#[derive(Clone, Debug)]
struct Nobody {
    /// At least one.
    hashes: Arc<[PasswordHash]>,
    /// Chooses one of them by the user name, in a way that cannot be predicted without knowing the hashes.
    key: DefaultHasher,
}

impl Nobody {
    fn like(hashes: Arc<[PasswordHash]>) -> Self {
        let mut key = DefaultHasher::new();
        hashes.iter().for_each(|hash| hash.add_to(&mut key));
        Self { hashes, key }
    }

    fn hash(&self, name: &str) -> &PasswordHash {
        let mut key = self.key.clone();
        key.write(name.as_bytes());
        let chosen = key.finish() % self.hashes.len().max(1) as u64;
        &self.hashes[chosen as usize]
    }
}

impl PasswordVerifier {
    /// Creates a verifier for which unknown users cost as much as Argon2id with 19 MiB and two passes.
    ///
    /// The verifier and its clones keep up to 64 MiB of memory from finished comparisons for later ones.
    pub fn new() -> Self {
        let hash = PasswordHash::of_nobody(Argon2::default(), Params::DEFAULT_OUTPUT_LEN);
        Self {
            nobody: Nobody::like([hash].into()),
            limit: None,
            memory: Arc::default(),
        }
    }

    /// Makes unknown users cost as much as the known ones, whose hashes are given. If these differ in cost, each unknown name
    /// costs as much as one of them, always the same one until a hash changes: otherwise the time would reveal which names are
    /// unknown. Without any hash, nothing changes.
    #[must_use]
    pub fn unknown_users_like<'a>(
        mut self,
        hashes: impl IntoIterator<Item = &'a PasswordHash>,
    ) -> Self {
        let mut hashes: Vec<_> = hashes.into_iter().cloned().collect();
        if !hashes.is_empty() {
            // In an order that does not depend on that of a map.
            hashes.sort_by(|a, b| {
                a.0.salt
                    .cmp(&b.0.salt)
                    .then_with(|| a.0.hash.cmp(&b.0.hash))
            });
            self.nobody = Nobody::like(hashes.into());
        }
        self
    }

    /// Sets how many comparisons run at a time. Default: one for each processor, which is also the maximum. Each needs the memory
    /// that its hash asks for.
    #[must_use]
    pub fn at_a_time(mut self, permits: NonZero<usize>) -> Self {
        self.limit = Some(Permits::new(permits));
        self
    }

    /// Accepts a client that knows the password of the user, whose stored name and hash are given; `None` stands for an unknown
    /// user.
    ///
    /// The [identity](crate::session::Session::identity) of the session is the stored name, not what the client has written: if
    /// you look names up without regard to case, `alice` and `Alice` are one user for all limits and rights.
    ///
    /// Rejects clients that want to act as another user (RFC 4616 section 2), and mechanisms that do not carry the password, for
    /// which a hash is useless. If there is not enough memory, or too many wait, the client may try again: it receives
    /// [`Reply::auth_unavailable`].
    pub async fn verify<N: AsRef<str> + ?Sized>(
        &self,
        request: &Request<Auth>,
        user: Option<(&N, &PasswordHash)>,
    ) -> AuthOutcome {
        let credentials = request.credentials();
        if credentials.password().is_none() {
            return Reply::auth_failed().into();
        }
        let (name, hash) = match user {
            Some((name, hash)) => (Some(name.as_ref()), hash),
            None => (None, self.nobody.hash(credentials.username())),
        };
        let fits = self.fits(request, hash.clone()).await;
        outcome(credentials, name, fits)
    }

    async fn fits(&self, request: &Request<Auth>, hash: PasswordHash) -> Option<bool> {
        let session = request.session();
        let client = ClientKey::of_session(session, Prefixes::CLIENT).map(ClientKey::network);
        let (memory, credentials) = (self.memory.clone(), request.credentials().clone());
        let own = self.limit.as_ref();
        let compared = session.permits().compute(client, own, move || {
            let sent = credentials.password().unwrap_or_default();
            let prepared = prepare_name(sent).map(|text| Zeroizing::new(text.into_owned()));
            // The number of comparisons depends only on what was sent, and all are made: the time reveals nothing.
            let prepared = prepared.as_ref().map(|text| text.as_str());
            let forms = [Some(sent), prepared.filter(|prepared| *prepared != sent)];
            memory.lend(hash.blocks(), |blocks| {
                let fits = |form: &str| hash.fits(form, blocks);
                forms
                    .into_iter()
                    .flatten()
                    .map(fits)
                    .fold(false, |any, one| any | one)
            })
        });
        compared.await.ok()?
    }
}

/// Returns the outcome of a comparison, if there was one, for the user of that name.
fn outcome(credentials: &Credentials, name: Option<&str>, fits: Option<bool>) -> AuthOutcome {
    let may_act_as = |name| !credentials.acts_as_other() || credentials.authzid() == Some(name);
    match (fits, name) {
        (Some(true), Some(name)) if may_act_as(name) => Identity::new(name).into(),
        (Some(_), _) => Reply::auth_failed().into(),
        (None, _) => Reply::auth_unavailable().into(),
    }
}

impl Default for PasswordVerifier {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use smtpd_core::sasl::MechanismName;

    use super::{
        super::tests::{HASH, hash},
        *,
    };
    use crate::session::Session;

    fn request(credentials: Credentials) -> Request<Auth> {
        const PLAIN: MechanismName = MechanismName::from_static("PLAIN");
        Request::new(Session::local(), Auth::new(PLAIN, credentials))
    }

    fn alice(password: &str) -> Request<Auth> {
        request(Credentials::plain("alice", password).unwrap())
    }

    async fn verify(credentials: Credentials, hash: Option<&PasswordHash>) -> AuthOutcome {
        PasswordVerifier::new()
            .verify(&request(credentials), hash.map(|hash| ("alice", hash)))
            .await
    }

    #[tokio::test]
    async fn the_password_decides() {
        for (password, known, authzid, welcome) in [
            ("secret", true, "", true),
            ("secret", true, "alice", true),
            ("secret", true, "bob", false),
            ("Secret", true, "", false),
            ("secret", false, "", false),
        ] {
            let credentials = Credentials::plain("alice", password)
                .unwrap()
                .with_authzid(authzid)
                .unwrap();
            match verify(credentials, known.then_some(&hash())).await {
                AuthOutcome::Accept(identity) => assert!(welcome && identity.as_str() == "alice"),
                AuthOutcome::Refuse(reply) => assert!(!welcome && reply == Reply::auth_failed()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_writes_its_name_in_another_case_is_another_identity() {
        for (typed, authzid, welcome) in [
            ("ALICE", "", true),
            ("ALICE", "alice", true),
            ("ALICE", "ALICE", true),
            ("ALICE", "bob", false),
        ] {
            let credentials = Credentials::plain(typed, "secret")
                .unwrap()
                .with_authzid(authzid)
                .unwrap();
            match verify(credentials, Some(&hash())).await {
                AuthOutcome::Accept(identity) => assert!(welcome && identity.as_str() == "alice"),
                outcome => assert!(!welcome, "{outcome:?}"),
            }
        }
    }

    /// The option `--user` of the reference server accepts all of these, too.
    #[tokio::test]
    async fn a_password_that_is_written_in_another_way_is_the_same() {
        let hash_of = |password: &str| {
            let mut stored = hash();
            let new = Arc::get_mut(&mut stored.0).unwrap();
            let (argon2, salt) = (&new.argon2, &new.salt);
            argon2
                .hash_password_into(password.as_bytes(), salt, &mut new.hash)
                .unwrap();
            stored
        };
        for (sent, hashed, welcome) in [
            ("s\u{e9}cret", "s\u{e9}cret", true),
            ("se\u{301}cret", "s\u{e9}cret", true),
            ("se\u{301}cret", "se\u{301}cret", true),
            ("\u{ff53}ecret", "secret", true),
            ("secret\u{b2}", "secret\u{b2}", true),
            ("secret\u{b2}", "secret2", true),
            ("secret\u{1f600}", "secret\u{1f600}", true),
            ("\u{ad}", "\u{ad}", true),
            ("secret2", "secret\u{b2}", false),
            ("\u{ff33}ecret", "secret", false),
        ] {
            let credentials = Credentials::plain("alice", sent).unwrap();
            let outcome = verify(credentials, Some(&hash_of(hashed))).await;
            let accepted = matches!(outcome, AuthOutcome::Accept(_));
            assert_eq!(accepted, welcome, "{sent:?} for {hashed:?}");
        }
    }

    #[tokio::test]
    async fn a_mechanism_without_the_password_is_refused() {
        for credentials in [
            Credentials::lookup("alice").unwrap(),
            Credentials::bearer("alice", "secret").unwrap(),
            Credentials::external(),
        ] {
            let outcome = verify(credentials, Some(&hash())).await;
            assert!(matches!(outcome, AuthOutcome::Refuse(_)));
        }
    }

    /// Returns the hash of another user, with that parameter for the memory.
    fn costing(memory: u32, salt: u32) -> PasswordHash {
        let hash = HASH.replace("m=8", &format!("m={memory}"));
        hash.replace("c29tZXNhbHQ", &format!("c29tZXNh{salt:02}Q"))
            .parse()
            .unwrap()
    }

    #[test]
    fn unknown_users_cost_what_the_known_do() {
        let cost = |hash: &PasswordHash| hash.0.argon2.params().m_cost();
        let plain = PasswordVerifier::new();
        assert_eq!(cost(plain.nobody.hash("alice")), Params::DEFAULT.m_cost());
        let like_none = plain.clone().unknown_users_like([]);
        assert_eq!(
            cost(like_none.nobody.hash("alice")),
            Params::DEFAULT.m_cost()
        );
        let like_one = plain.clone().unknown_users_like(&[hash()]);
        assert_eq!(cost(like_one.nobody.hash("alice")), 8);

        // Three users in four are cheap, and so are about three in four unknown names.
        let mut users: Vec<_> = (10..40).map(|salt| costing(8, salt)).collect();
        users.extend((40..50).map(|salt| costing(64, salt)));
        let like_all = plain.clone().unknown_users_like(&users);
        let names: Vec<_> = (0..1000).map(|number| format!("user{number}")).collect();
        let costs = |verifier: &PasswordVerifier| -> Vec<_> {
            let hashes = names.iter().map(|name| verifier.nobody.hash(name));
            hashes.map(cost).collect()
        };
        let first = costs(&like_all);
        let heavy = first.iter().filter(|cost| **cost == 64).count();
        assert!((150..350).contains(&heavy), "{heavy}");
        // The same after a restart, in whatever order a map has them; different if the hashes are.
        users.reverse();
        assert_eq!(costs(&plain.clone().unknown_users_like(&users)), first);
        users[0] = costing(64, 99);
        assert_ne!(costs(&plain.unknown_users_like(&users)), first);
    }

    #[tokio::test]
    async fn an_unknown_user_is_refused_whatever_it_is_compared_with() {
        let verifier = PasswordVerifier::new().unknown_users_like(&[hash()]);
        let outcome = verifier.verify::<str>(&alice("secret"), None).await;
        assert!(matches!(outcome, AuthOutcome::Refuse(reply) if reply == Reply::auth_failed()));
    }

    #[tokio::test]
    async fn they_take_turns() {
        let verifier = PasswordVerifier::new().at_a_time(NonZero::<usize>::MIN);
        let limit = verifier.limit.clone().unwrap();
        let permit = limit.acquire(None).await.unwrap();
        let waiting = tokio::spawn({
            let verifier = verifier.clone();
            async move {
                verifier
                    .verify(&alice("secret"), Some(("alice", &hash())))
                    .await
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(permit);
        assert!(matches!(waiting.await.unwrap(), AuthOutcome::Accept(_)));
        assert!(
            tokio_test::task::spawn(limit.acquire(None))
                .poll()
                .is_ready()
        );
    }

    #[test]
    fn if_nothing_was_compared_the_client_may_try_again() {
        let credentials = Credentials::plain("alice", "secret").unwrap();
        let AuthOutcome::Refuse(reply) = outcome(&credentials, Some("alice"), None) else {
            panic!()
        };
        assert_eq!(
            reply.to_string(),
            "454 4.7.0 Temporary authentication failure"
        );
    }
}
