//! What a session offers now: the extensions, and the parameters that they bring.

use super::envelope::parameter_error;
use crate::{
    address::{Charset, PathOptions},
    config::Config,
    extension::{Extension, Prdr, SessionFacts},
    parameter::{MailAuth, Parameter, ParameterError, ParameterRule, Parameters, Size},
    reply::Reply,
};

/// The settings, and the session that they are offered in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer<'a> {
    pub(super) config: &'a Config,
    tls: bool,
    authenticated: bool,
}

impl<'a> Offer<'a> {
    #[inline]
    pub(super) const fn new(config: &'a Config, tls: bool, authenticated: bool) -> Self {
        Self {
            config,
            tls,
            authenticated,
        }
    }

    /// What the extensions may know of the session. Most commands do not need it.
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

    /// Whether the extension of that keyword is on, and offered in this session now.
    pub(super) fn has(self, keyword: &str) -> bool {
        let extension = self.config.extensions.find(keyword);
        extension.is_some_and(|extension| extension.is_offered(self.facts()))
    }

    /// Whether MAIL has asked for a reply to each recipient (draft-hall-prdr-00 section 4.2).
    pub(super) fn replies_to_each(self, parameters: &Parameters) -> bool {
        parameters.contains(Prdr::KEYWORD) && self.has(Prdr::KEYWORD)
    }

    /// What addresses may look like; UTF-8 in them needs SMTPUTF8.
    pub(super) const fn path_options(self, utf8: bool) -> PathOptions {
        let utf8 = utf8 && self.config.extensions.known().utf8;
        let charset = if utf8 { Charset::Utf8 } else { Charset::Ascii };
        PathOptions::new(self.config.leniency, charset)
    }

    /// What stands against the parameters of a MAIL although each of them is known and well-formed.
    pub(super) fn check_mail(self, parameters: &Parameters) -> Result<(), Reply> {
        for extension in self.concerned(parameters, |one| one.mail_parameters()) {
            self.check(extension)?;
            extension.check_mail(parameters, self.facts())?;
        }
        Ok(())
    }

    /// The same of a RCPT.
    pub(super) fn check_rcpt(self, parameters: &Parameters) -> Result<(), Reply> {
        if parameters.is_empty() {
            return Ok(());
        }
        self.concerned(parameters, |one| one.rcpt_parameters())
            .try_for_each(|extension| self.check(extension))
    }

    /// The extensions that any of the parameters belongs to.
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
        let all = any.then(|| self.config.extensions.iter());
        all.into_iter().flatten().filter(move |&extension| {
            rules(extension)
                .iter()
                .any(|rule| parameters.contains(rule.keyword()))
        })
    }

    /// What is not offered is not known.
    fn check(self, extension: &dyn Extension) -> Result<(), Reply> {
        if extension.is_offered(self.facts()) {
            Ok(())
        } else {
            Err(parameter_error(ParameterError::Unknown))
        }
    }
}
