use zeroize::Zeroizing;

use super::account::Channel;
#[cfg(feature = "scram")]
use crate::sasl::scram::{ScramClient, ScramHash};
use crate::sasl::{base64, digest};

/// A message of the client.
pub(crate) type Message = Zeroizing<Vec<u8>>;

/// One exchange of AUTH on the client's side.
#[derive(Debug)]
pub(crate) struct ClientExchange {
    name: &'static str,
    kind: Kind,
    /// Whether everything was sent, and verified, that must be before the server's 235 counts.
    done: bool,
}

/// The state of a mechanism.
pub(super) enum Kind {
    /// A single message, which is taken when it is sent. A challenge after it reports an error.
    One(Option<Message>),
    /// Messages, the last one first.
    Several(Vec<Message>),
    CramMd5(String, Zeroizing<String>),
    #[cfg(feature = "scram")]
    Scram(Box<ScramClient>, ScramState),
    Over,
}

#[cfg(feature = "scram")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScramState {
    Start,
    Proving,
    Verifying,
}

/// The server's challenge cannot be answered: the exchange must be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadChallenge;

impl ClientExchange {
    pub(super) const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            done: false,
        }
    }

    /// Returns the name of the mechanism.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns whether the server may accept the client now. A server that does so earlier has not proved who it is.
    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    /// Returns the initial response as the argument of AUTH, if the client speaks first in this mechanism.
    pub(crate) fn initial_response(&mut self) -> Option<Message> {
        let message = self.initial()?;
        Some(match message.is_empty() {
            true => Message::new(b"=".to_vec()), // RFC 4954 section 4
            false => base64::encode_secret(&message),
        })
    }

    /// Returns the line that answers the text of a 334.
    pub(crate) fn response(&mut self, challenge: &[u8]) -> Result<Message, BadChallenge> {
        let challenge = base64::decode(challenge).map_err(|_| BadChallenge)?;
        let message = self.answer(&challenge)?;
        Ok(base64::encode_secret(&message))
    }

    /// Returns the initial response, if the client speaks first in this mechanism.
    pub(super) fn initial(&mut self) -> Option<Message> {
        match &mut self.kind {
            Kind::One(message) => {
                self.done = true;
                message.take()
            }
            #[cfg(feature = "scram")]
            Kind::Scram(client, state @ ScramState::Start) => {
                *state = ScramState::Proving;
                Some(client.first())
            }
            _ => None,
        }
    }

    /// Returns the answer to a challenge.
    pub(super) fn answer(&mut self, challenge: &[u8]) -> Result<Message, BadChallenge> {
        match &mut self.kind {
            Kind::Several(messages) => {
                let message = messages.pop();
                self.done = messages.is_empty();
                message.ok_or(BadChallenge)
            }
            Kind::CramMd5(user, password) => {
                let digest = digest::hex(password, challenge).ok_or(BadChallenge)?;
                let message = format!("{user} {digest}");
                (self.done, self.kind) = (true, Kind::Over);
                Ok(Zeroizing::new(message.into_bytes()))
            }
            #[cfg(feature = "scram")]
            Kind::Scram(client, state @ ScramState::Proving) => {
                *state = ScramState::Verifying;
                client.prove(challenge).ok_or(BadChallenge)
            }
            #[cfg(feature = "scram")]
            Kind::Scram(client, ScramState::Verifying) => {
                self.done = client.verify(challenge);
                self.kind = Kind::Over;
                match self.done {
                    true => Ok(Message::default()),
                    false => Err(BadChallenge),
                }
            }
            // RFC 7628 section 3.2.3: the error must be acknowledged before the server refuses the token. XOAUTH2 wants an empty line.
            Kind::One(None) if matches!(self.name, "OAUTHBEARER" | "XOAUTH2") => {
                (self.done, self.kind) = (false, Kind::Over);
                Ok(Zeroizing::new(match self.name {
                    "OAUTHBEARER" => vec![1],
                    _ => Vec::new(),
                }))
            }
            _ => Err(BadChallenge),
        }
    }
}

impl Kind {
    pub(super) fn login(user: &str, password: &str) -> Self {
        let message = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
        Self::Several(vec![message(password), message(user)])
    }

    pub(super) fn cram_md5(user: &str, password: &str) -> Self {
        Self::CramMd5(user.to_owned(), Zeroizing::new(password.to_owned()))
    }

    #[cfg(not(feature = "scram"))]
    pub(super) fn scram(
        _: &str,
        _: (&str, &str),
        _: &str,
        _: &[&str],
        _: Channel<'_>,
    ) -> Option<Self> {
        None
    }

    /// RFC 5802 section 6: the -PLUS form binds the exchange to the channel; `y` reveals it if somebody has removed that form from
    /// what the server offers.
    #[cfg(feature = "scram")]
    pub(super) fn scram(
        name: &str,
        credentials: (&str, &str),
        authzid: &str,
        offered: &[&str],
        channel: Channel<'_>,
    ) -> Option<Self> {
        let hash = match name {
            "SCRAM-SHA-1" | "SCRAM-SHA-1-PLUS" => ScramHash::Sha1,
            _ => ScramHash::Sha256,
        };
        let offers_plus = offered.iter().any(|name| {
            name.len() > 5 && name[..5].eq_ignore_ascii_case("SCRAM") && name.ends_with("-PLUS")
        });
        let binding = channel.bindings.best();
        let (flag, data) = match (name.ends_with("-PLUS"), binding) {
            (true, Some((kind, data))) => (format!("p={kind}"), data),
            (true, None) => return None,
            (false, Some(_)) if !offers_plus => ("y".to_owned(), &[][..]),
            (false, _) => ("n".to_owned(), &[][..]),
        };
        let header = gs2_header(&flag, authzid);
        let client = ScramClient::new(hash, credentials, (header, data), channel.nonce?)?;
        Some(Self::Scram(Box::new(client), ScramState::Start))
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Several(_) => "Several",
            Self::CramMd5(..) => "CramMd5",
            #[cfg(feature = "scram")]
            Self::Scram(..) => "Scram",
            Self::Over => "Over",
        })
    }
}

/// `gs2-header` with this flag (RFC 5801 section 4), including its last comma.
pub(super) fn gs2_header(flag: &str, authzid: &str) -> String {
    if authzid.is_empty() {
        return format!("{flag},,");
    }
    let name = authzid.replace('=', "=3D").replace(',', "=2C");
    format!("{flag},a={name},")
}
