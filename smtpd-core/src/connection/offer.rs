//! What a session currently offers: the extensions and their parameters.

use super::envelope::parameter_error;
use crate::{
    address::{Charset, PathOptions},
    config::DriverConfig,
    extension::{Extension, Prdr, SessionFacts},
    parameter::{MailAuth, Parameter, ParameterError, ParameterRule, Parameters, Size},
    reply::Reply,
};

/// The settings, and the session in which they are offered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    pub(super) config: &'a DriverConfig,
    tls: bool,
    authenticated: bool,
}

impl<'a> Offer<'a> {
    #[inline]
    pub(super) const fn new(config: &'a DriverConfig, tls: bool, authenticated: bool) -> Self {
        Self {
            config,
            tls,
            authenticated,
        }
    }

    /// Returns what the extensions may know about the session. Most commands do not need it.
    pub(super) const fn facts(self) -> SessionFacts<'a> {
        let mut facts = SessionFacts::new(self.config);
        if self.tls {
            facts = facts.with_tls();
        }
        if self.authenticated {
            facts = facts.with_identity();
        }
        facts
    }

    /// Returns whether the extension with this keyword is on, and currently offered in this session.
    pub(super) fn has(self, keyword: &str) -> bool {
        let extension = self.config.settings.extensions.find(keyword);
        extension.is_some_and(|extension| extension.is_offered(self.facts()))
    }

    /// Returns whether MAIL requested a reply for each recipient (draft-hall-prdr-00 section 4.2).
    pub(super) fn replies_to_each(self, parameters: &Parameters) -> bool {
        parameters.contains(Prdr::KEYWORD) && self.has(Prdr::KEYWORD)
    }

    /// Returns how to parse addresses; UTF-8 in them requires SMTPUTF8.
    pub(super) const fn path_options(self, utf8: bool) -> PathOptions {
        let utf8 = utf8 && self.config.settings.extensions.known().utf8;
        let charset = if utf8 { Charset::Utf8 } else { Charset::Ascii };
        PathOptions::new(self.config.settings.leniency, charset)
    }

    /// Checks the parameters of a MAIL, each of which is known and well-formed.
    pub(super) fn check_mail(self, parameters: &Parameters) -> Result<(), Reply> {
        for extension in self.concerned(parameters, |one| one.mail_parameters()) {
            self.check(extension)?;
            extension.check_mail(parameters, self.facts())?;
        }
        Ok(())
    }

    /// Checks the parameters of a RCPT in the same way.
    pub(super) fn check_rcpt(self, parameters: &Parameters) -> Result<(), Reply> {
        if parameters.is_empty() {
            return Ok(());
        }
        self.concerned(parameters, |one| one.rcpt_parameters())
            .try_for_each(|extension| self.check(extension))
    }

    /// Returns the extensions that any of the parameters belongs to.
    fn concerned(
        self,
        parameters: &Parameters,
        rules: for<'e> fn(&'e dyn Extension) -> &'e [ParameterRule],
    ) -> impl Iterator<Item = &'a dyn Extension> {
        let others = |(keyword, _): (&str, _)| {
            let own = [Size::KEYWORD, MailAuth::KEYWORD];
            !own.iter().any(|one| one.eq_ignore_ascii_case(keyword))
        };
        let any = parameters.iter().any(others);
        let all = any.then(|| self.config.settings.extensions.iter());
        all.into_iter().flatten().filter(move |&extension| {
            rules(extension)
                .iter()
                .any(|rule| parameters.contains(rule.keyword()))
        })
    }

    /// An extension that is not offered is unknown.
    fn check(self, extension: &dyn Extension) -> Result<(), Reply> {
        if extension.is_offered(self.facts()) {
            Ok(())
        } else {
            Err(parameter_error(ParameterError::Unknown))
        }
    }
}
