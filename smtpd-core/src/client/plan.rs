//! How a message is sent to a server that offers certain extensions: the commands, and what must not be sent at all.

use std::{fmt::Write, sync::Arc};

use super::{capabilities::Capabilities, config::ClientConfig, unsupported::Unsupported};
use crate::{
    envelope::{Envelope, Recipient},
    parameter::{BodyType, By, ByMode, NoSupport, Parameters, Size, ValidSince},
    protocol::Protocol,
};

/// A message that is to be sent: its envelope, and its size where it is known.
///
/// The parameters of the envelope are passed on where the server offers the extension that they belong to. The rest depends on
/// the parameter:
///
/// | parameter | if the server lacks it |
/// |---|---|
/// | `BODY=8BITMIME`, `BODY=BINARYMIME`, `SMTPUTF8`, `REQUIRETLS`, `BY` with `R`, `HOLDFOR`, `HOLDUNTIL`, `SOLICIT`, unknown ones | the message is not sent ([`Unsupported`]) |
/// | an address that is not ASCII, `RRVS` with `R` | it is not sent to that recipient |
/// | `RET`, `ENVID`, `NOTIFY`, `ORCPT`, `BY` with `N`, `MT-PRIORITY`, `RRVS` with `C` | left out ([`Report::omitted`](super::Report::omitted)) |
/// | `SIZE`, `BODY=7BIT`, `AUTH`, `PRDR` | left out, because nothing depends on it |
///
/// ```
/// use std::sync::Arc;
///
/// use smtpd_core::{Envelope, client::Transaction};
///
/// let envelope = Envelope::new("a@example.com".parse()?)
///     .with_recipient("b@example.org".parse()?);
/// let transaction = Transaction::new(Arc::new(envelope)).size(1024);
/// assert_eq!(transaction.envelope().recipients().len(), 1);
/// # Ok::<(), smtpd_core::address::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Transaction {
    envelope: Arc<Envelope>,
    size: Option<u64>,
}

impl Transaction {
    /// Creates a transaction for this sender and these recipients.
    pub const fn new(envelope: Arc<Envelope>) -> Self {
        Self {
            envelope,
            size: None,
        }
    }

    /// Sets the size of the message in bytes, which the server is told before, and which must not exceed its limit (RFC 1870).
    /// Default: the parameter `SIZE` of the envelope, if it has one.
    #[must_use]
    pub fn size(self, bytes: u64) -> Self {
        Self {
            size: Some(bytes),
            ..self
        }
    }

    /// Returns the envelope.
    pub const fn envelope(&self) -> &Arc<Envelope> {
        &self.envelope
    }
}

/// What a plan depends on, besides the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Circumstances<'a> {
    pub(super) config: &'a ClientConfig,
    pub(super) offers: &'a Capabilities,
    /// Whether the session runs over TLS with a verified certificate.
    pub(super) is_verified: bool,
    pub(super) is_authenticated: bool,
}

/// The commands of a transaction.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) mail: String,
    /// One for each recipient.
    pub(super) rcpts: Vec<Result<String, Unsupported>>,
    /// Whether the message is sent by BDAT.
    pub(super) is_chunked: bool,
    /// Whether a reply for each recipient was requested.
    pub(super) is_prdr: bool,
    pub(super) omitted: Vec<&'static str>,
}

/// What becomes of a parameter.
enum Fate {
    Sent,
    /// Left out, which the sender may want to know.
    Omitted(&'static str),
    /// Left out: it makes no difference.
    Dropped,
}

impl Plan {
    pub(super) fn new(
        transaction: &Transaction,
        circumstances: Circumstances<'_>,
    ) -> Result<Self, Unsupported> {
        let envelope = &transaction.envelope;
        let parameters = envelope.parameters();
        let offers = circumstances.offers;
        circumstances.check_message(transaction)?;
        let mut plan = Self {
            mail: format!("MAIL FROM:<{}>", envelope.sender().as_str()),
            rcpts: Vec::with_capacity(envelope.recipients().len()),
            is_chunked: circumstances.is_chunked(),
            is_prdr: circumstances.is_prdr(envelope.recipients().len()),
            omitted: Vec::new(),
        };
        let size = transaction.known_size().filter(|_| offers.has("SIZE"));
        if let Some(size) = size {
            let _ = write!(plan.mail, " SIZE={size}"); // never fails for a String
        }
        for (keyword, value) in parameters.iter() {
            let fate = circumstances.fate_of_mail(keyword, value, parameters)?;
            plan.settle(fate, keyword, value);
        }
        if circumstances.needs_utf8(envelope) && !parameters.contains("SMTPUTF8") {
            plan.mail.push_str(" SMTPUTF8");
        }
        if plan.is_prdr {
            plan.mail.push_str(" PRDR");
        }
        for recipient in envelope.recipients() {
            let command = plan.rcpt(recipient, circumstances);
            plan.rcpts.push(command);
        }
        Ok(plan)
    }

    fn settle(&mut self, fate: Fate, keyword: &str, value: Option<&str>) {
        match fate {
            Fate::Sent => append(&mut self.mail, keyword, value),
            Fate::Omitted(keyword) => self.omit(keyword),
            Fate::Dropped => {}
        }
    }

    fn omit(&mut self, keyword: &'static str) {
        if !self.omitted.contains(&keyword) {
            self.omitted.push(keyword);
        }
    }

    fn rcpt(
        &mut self,
        recipient: &Recipient,
        circumstances: Circumstances<'_>,
    ) -> Result<String, Unsupported> {
        if !is_ascii(recipient) && !circumstances.offers_utf8() {
            return Err(Unsupported::SmtpUtf8);
        }
        let mut command = format!("RCPT TO:<{}>", recipient.path().as_str());
        for (keyword, value) in recipient.parameters().iter() {
            let fate = circumstances.fate_of_rcpt(keyword, recipient.parameters())?;
            match fate {
                Fate::Sent => append(&mut command, keyword, value),
                Fate::Omitted(keyword) => self.omit(keyword),
                Fate::Dropped => {}
            }
        }
        Ok(command)
    }
}

impl Transaction {
    fn known_size(&self) -> Option<u64> {
        let declared = self.envelope.parameters().get::<Size>();
        self.size.or_else(|| declared.map(Size::bytes))
    }
}

impl Circumstances<'_> {
    /// Checks what the message as a whole needs.
    fn check_message(self, transaction: &Transaction) -> Result<(), Unsupported> {
        let envelope = &transaction.envelope;
        let parameters = envelope.parameters();
        match (transaction.known_size(), self.offers.size_limit()) {
            // RFC 1870 section 6.1
            (Some(size), Some(limit)) if size > limit => return Err(Unsupported::Size { limit }),
            _ => {}
        }
        match parameters.get::<BodyType>().unwrap_or_default() {
            BodyType::EightBitMime if !self.offers.has("8BITMIME") => {
                return Err(Unsupported::EightBitMime);
            }
            // RFC 3030 section 3: such a message can only be sent by BDAT.
            BodyType::BinaryMime if !(self.offers.has("BINARYMIME") && self.is_chunked()) => {
                return Err(Unsupported::BinaryMime);
            }
            _ => {}
        }
        let sender_is_ascii = envelope.sender().as_str().is_ascii() && parameters.is_ascii();
        if (!sender_is_ascii || parameters.contains("SMTPUTF8")) && !self.offers_utf8() {
            return Err(Unsupported::SmtpUtf8);
        }
        // RFC 8689 section 4.2.1
        match parameters.contains("REQUIRETLS") {
            true if !self.is_verified => Err(Unsupported::VerifiedTls),
            true if !self.offers.has("REQUIRETLS") => Err(Unsupported::RequireTls),
            _ => Ok(()),
        }
    }

    fn is_chunked(self) -> bool {
        self.config.chunking && self.offers.has("CHUNKING")
    }

    /// draft-hall-prdr-00. LMTP has a reply for each recipient anyway.
    fn is_prdr(self, recipients: usize) -> bool {
        let is_useful = recipients > 1 && self.config.protocol == Protocol::Smtp;
        is_useful && self.config.prdr && self.offers.has("PRDR")
    }

    fn offers_utf8(self) -> bool {
        self.offers.has("SMTPUTF8")
    }

    /// RFC 6531 section 3.4: the parameter is needed for an address that is not ASCII.
    fn needs_utf8(self, envelope: &Envelope) -> bool {
        let mut recipients = envelope.recipients().iter();
        let is_plain = envelope.sender().as_str().is_ascii() && recipients.all(is_ascii);
        !is_plain && self.offers_utf8()
    }

    fn fate_of_mail(
        self,
        keyword: &str,
        value: Option<&str>,
        parameters: &Parameters,
    ) -> Result<Fate, Unsupported> {
        Ok(match keyword.to_ascii_uppercase().as_str() {
            "SIZE" | "PRDR" => Fate::Dropped, // written already, or by the plan itself
            "BODY" if value.is_some_and(|value| value.eq_ignore_ascii_case("7BIT")) => {
                self.sent_if("8BITMIME", Fate::Dropped)
            }
            "BODY" | "SMTPUTF8" | "REQUIRETLS" => Fate::Sent, // checked already
            // RFC 4954 section 5
            "AUTH" if self.is_authenticated => Fate::Sent,
            "AUTH" => Fate::Dropped,
            "RET" => self.sent_if("DSN", Fate::Omitted("RET")),
            "ENVID" => self.sent_if("DSN", Fate::Omitted("ENVID")),
            "MT-PRIORITY" => self.sent_if("MT-PRIORITY", Fate::Omitted("MT-PRIORITY")),
            "BY" => return self.fate_of_by(parameters),
            "HOLDFOR" | "HOLDUNTIL" if self.offers.has("FUTURERELEASE") => Fate::Sent,
            "SOLICIT" if self.offers.has("NO-SOLICITING") => Fate::Sent,
            other if self.offers.has(other) => Fate::Sent,
            other => return Err(Unsupported::Parameter(other.to_owned())),
        })
    }

    /// RFC 2852 section 4.1.4: a message that must be returned if it is late goes only to a server that does so, and not to one that
    /// wants more time.
    fn fate_of_by(self, parameters: &Parameters) -> Result<Fate, Unsupported> {
        let by = parameters.get::<By>();
        let returns = by.is_none_or(|by| by.mode() == ByMode::Return);
        let Some(minimum) = self.offers.argument("DELIVERBY") else {
            return match returns {
                true => Err(Unsupported::DeliverBy),
                false => Ok(Fate::Omitted("BY")),
            };
        };
        let minimum: i64 = minimum.parse().unwrap_or_default();
        match by {
            Some(by) if returns && i64::from(by.seconds()) < minimum => Err(Unsupported::DeliverBy),
            _ => Ok(Fate::Sent),
        }
    }

    fn fate_of_rcpt(self, keyword: &str, parameters: &Parameters) -> Result<Fate, Unsupported> {
        Ok(match keyword.to_ascii_uppercase().as_str() {
            "NOTIFY" => self.sent_if("DSN", Fate::Omitted("NOTIFY")),
            "ORCPT" => self.sent_if("DSN", Fate::Omitted("ORCPT")),
            "RRVS" if self.offers.has("RRVS") => Fate::Sent,
            "RRVS" => match parameters.get().map(ValidSince::no_support) {
                Some(NoSupport::Continue) => Fate::Omitted("RRVS"),
                _ => return Err(Unsupported::ValidSince),
            },
            other if self.offers.has(other) => Fate::Sent,
            other => return Err(Unsupported::Parameter(other.to_owned())),
        })
    }

    fn sent_if(self, keyword: &str, otherwise: Fate) -> Fate {
        match self.offers.has(keyword) {
            true => Fate::Sent,
            false => otherwise,
        }
    }
}

fn is_ascii(recipient: &Recipient) -> bool {
    recipient.path().as_str().is_ascii() && recipient.parameters().is_ascii()
}

fn append(command: &mut String, keyword: &str, value: Option<&str>) {
    command.push(' ');
    command.push_str(keyword);
    if let Some(value) = value {
        command.push('=');
        command.push_str(value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::{Charset, ForwardPath, Leniency, PathOptions, ReversePath};

    const ALL: &str = "PIPELINING\n8BITMIME\nSMTPUTF8\nDSN\nCHUNKING\nBINARYMIME\nSIZE 1000\nAUTH PLAIN\nREQUIRETLS\nDELIVERBY 60\nMT-PRIORITY\nFUTURERELEASE\nNO-SOLICITING\nRRVS\nPRDR\nXOWN";

    fn config() -> ClientConfig {
        ClientConfig::new("client.example".parse().unwrap())
    }

    fn plan(mail: &str, rcpts: &[(&str, &str)], offers: &str) -> Result<Plan, Unsupported> {
        plan_in(mail, rcpts, offers, |circumstances| circumstances)
    }

    fn plan_in(
        mail: &str,
        rcpts: &[(&str, &str)],
        offers: &str,
        change: impl FnOnce(Circumstances<'_>) -> Circumstances<'_>,
    ) -> Result<Plan, Unsupported> {
        let (sender, parameters) = mail.split_once(' ').unwrap_or((mail, ""));
        let mut envelope =
            Envelope::new(sender.parse().unwrap()).with_parameters(parameters.parse().unwrap());
        for (path, parameters) in rcpts {
            let (path, parameters) = (path.parse().unwrap(), parameters.parse().unwrap());
            envelope.push(Recipient::new(path, parameters));
        }
        let circumstances = Circumstances {
            config: &config(),
            offers: &offers.parse().unwrap(),
            is_verified: true,
            is_authenticated: true,
        };
        Plan::new(&Transaction::new(Arc::new(envelope)), change(circumstances))
    }

    #[test]
    fn everything_is_passed_on_where_it_is_offered() {
        let rcpt = "NOTIFY=SUCCESS ORCPT=rfc822;b@d RRVS=2014-04-03T23:01:00Z";
        let parameters = "SIZE=9 BODY=BINARYMIME SMTPUTF8 RET=HDRS ENVID=x AUTH=<> BY=60;R MT-PRIORITY=3 HOLDFOR=9 SOLICIT=org.example:ADV REQUIRETLS XOWN=1";
        let plan = plan(&format!("a@b {parameters}"), &[("b@d", rcpt)], ALL).unwrap();
        assert_eq!(plan.mail, format!("MAIL FROM:<a@b> {parameters}"));
        assert_eq!(plan.rcpts, [Ok(format!("RCPT TO:<b@d> {rcpt}"))]);
        assert!(plan.omitted.is_empty() && plan.is_chunked && !plan.is_prdr);
    }

    #[test]
    fn a_message_that_needs_what_the_server_lacks_is_not_sent() {
        use Unsupported::{BinaryMime, DeliverBy, EightBitMime, Parameter, RequireTls, SmtpUtf8};
        let without = |keyword: &str| ALL.replace(&format!("{keyword}\n"), "");
        for (mail, offers, error) in [
            ("a@b BODY=8bitmime", without("8BITMIME"), EightBitMime),
            ("a@b BODY=BINARYMIME", without("BINARYMIME"), BinaryMime),
            ("a@b BODY=BINARYMIME", without("CHUNKING"), BinaryMime),
            ("a@b SMTPUTF8", without("SMTPUTF8"), SmtpUtf8),
            ("\u{e5}@b", without("SMTPUTF8"), SmtpUtf8),
            ("a@b ENVID=\u{e5}", without("SMTPUTF8"), SmtpUtf8),
            ("a@b requiretls", without("REQUIRETLS"), RequireTls),
            (
                "a@b SIZE=1001",
                ALL.into(),
                Unsupported::Size { limit: 1000 },
            ),
            ("a@b BY=120;R", without("DELIVERBY 60"), DeliverBy),
            ("a@b BY=59;R", ALL.into(), DeliverBy),
            ("a@b HOLDFOR=9", String::new(), Parameter("HOLDFOR".into())),
            ("a@b XNEW", ALL.into(), Parameter("XNEW".into())),
        ] {
            let found = plan(mail, &[("b@d", "")], &offers).map(|plan| plan.mail);
            assert_eq!(found, Err(error), "{mail}");
        }
        let found = plan_in("a@b REQUIRETLS", &[], ALL, |circumstances| Circumstances {
            is_verified: false,
            ..circumstances
        });
        assert_eq!(found.unwrap_err(), Unsupported::VerifiedTls);
    }

    #[test]
    fn one_recipient_that_cannot_be_sent_to_leaves_the_others_alone() {
        let rcpts = [
            ("a@d", ""),
            ("\u{e5}@d", ""),
            ("c@d", "RRVS=2014-04-03T23:01:00Z"),
            ("d@d", "RRVS=2014-04-03T23:01:00Z;C"),
            ("postmaster", "XNEW"),
        ];
        let plan = plan("a@b", &rcpts, "SIZE").unwrap();
        let expected = [
            Ok("RCPT TO:<a@d>".to_owned()),
            Err(Unsupported::SmtpUtf8),
            Err(Unsupported::ValidSince),
            Ok("RCPT TO:<d@d>".to_owned()),
            Err(Unsupported::Parameter("XNEW".into())),
        ];
        assert_eq!(
            (plan.mail.as_str(), plan.omitted),
            ("MAIL FROM:<a@b>", vec!["RRVS"])
        );
        assert_eq!(plan.rcpts, expected);
    }

    #[test]
    fn what_may_be_left_out_is_left_out_and_reported() {
        let mail = "a@b RET=HDRS ENVID=x MT-PRIORITY=3 BY=9;N BODY=7BIT AUTH=<> SIZE=5";
        let rcpts = [
            ("b@d", "NOTIFY=NEVER ORCPT=rfc822;b@d"),
            ("c@d", "NOTIFY=NEVER"),
        ];
        let plan = plan_in(mail, &rcpts, "", |circumstances| Circumstances {
            is_authenticated: false,
            ..circumstances
        });
        let plan = plan.unwrap();
        assert_eq!(plan.mail, "MAIL FROM:<a@b>");
        assert_eq!(
            plan.omitted,
            ["RET", "ENVID", "MT-PRIORITY", "BY", "NOTIFY", "ORCPT"]
        );
        assert!(!plan.is_chunked && !plan.is_prdr);
    }

    #[test]
    fn an_address_that_is_not_ascii_asks_for_smtputf8() {
        let plan = plan("", &[("\u{e5}@d", ""), ("b@d", "")], ALL).unwrap();
        assert_eq!(plan.mail, "MAIL FROM:<> SMTPUTF8 PRDR");
        assert!(plan.is_prdr);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever a parser accepts is one line of a command.
        #[test]
        fn no_line_end_gets_into_a_command(
            sender in TRICKY, rcpt in TRICKY, parameters in "[A-Z=\r\n\0 \u{85}\u{2028}a+]{0,12}",
        ) {
            let options = PathOptions::new(Leniency::STRICT, Charset::Utf8);
            let sender = ReversePath::parse(format!("<{sender}>").as_bytes(), options).map(|(path, _)| path);
            let path = ForwardPath::parse(format!("<{rcpt}>").as_bytes(), options).map(|(path, _)| path);
            let parsed: Result<Parameters, _> = parameters.parse();
            let mut envelope = Envelope::new(sender.unwrap_or(ReversePath::Null));
            if let Ok(parsed) = &parsed {
                envelope = envelope.with_parameters(parsed.clone());
            }
            if let Ok(path) = path {
                envelope.push(Recipient::new(path, parsed.unwrap_or_default()));
            }
            let offers = format!("{ALL}\nA\nAA\nAAA\nB");
            let circumstances = Circumstances {
                config: &config(),
                offers: &offers.parse().unwrap(),
                is_verified: true,
                is_authenticated: true,
            };
            if let Ok(plan) = Plan::new(&Transaction::new(Arc::new(envelope)), circumstances) {
                prop_assert!(!plan.mail.contains(['\r', '\n', '\0']), "{:?}", plan.mail);
                for rcpt in plan.rcpts.into_iter().flatten() {
                    prop_assert!(!rcpt.contains(['\r', '\n', '\0']), "{:?}", rcpt);
                }
            }
        }
    }

    const TRICKY: &str = "(@r:)?[a\r\n\0 \"\\\\.\u{e5}\u{85}\u{2028}]{0,6}(@[a.\r\n]{1,4})?";
}
