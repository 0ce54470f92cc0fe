//! What the extensions have to say of a session and of its parameters.

use super::{Connection, envelope::parameter_error};
use crate::{
    extension::{Extension, Prdr, SessionFacts},
    parameter::{MailAuth, Parameter, ParameterError, ParameterRule, Parameters, Size},
    reply::Reply,
};

impl Connection {
    /// What the extensions may know of this session.
    pub(super) fn facts(&self) -> SessionFacts<'_> {
        let mut facts = SessionFacts::new(&self.config);
        if self.tls {
            facts = facts.with_tls();
        }
        if self.client.identity.is_some() {
            facts = facts.with_identity();
        }
        facts
    }

    /// Whether the extension of that keyword is on, and offered in this session now.
    pub(super) fn is_offered(&self, keyword: &str) -> bool {
        let extension = self.config.extensions.find(keyword);
        extension.is_some_and(|extension| extension.is_offered(self.facts()))
    }

    /// Whether MAIL has asked for a reply to each recipient (draft-hall-prdr-00 section 4.2).
    pub(super) fn replies_to_each(&self, parameters: &Parameters) -> bool {
        parameters.contains(Prdr::KEYWORD) && self.is_offered(Prdr::KEYWORD)
    }

    /// What stands against the parameters of a MAIL although each of them is known and well-formed.
    pub(super) fn check_mail_parameters(&self, parameters: &Parameters) -> Result<(), Reply> {
        for extension in self.asked_of(parameters, |one| one.mail_parameters()) {
            self.check_offer(extension)?;
            extension.check_mail(parameters, self.facts())?;
        }
        Ok(())
    }

    /// The same of a RCPT.
    pub(super) fn check_rcpt_parameters(&self, parameters: &Parameters) -> Result<(), Reply> {
        if parameters.is_empty() {
            return Ok(());
        }
        self.asked_of(parameters, |one| one.rcpt_parameters())
            .try_for_each(|extension| self.check_offer(extension))
    }

    /// The extensions that any of the parameters belongs to.
    fn asked_of(
        &self,
        parameters: &Parameters,
        rules: for<'e> fn(&'e dyn Extension) -> &'e [ParameterRule],
    ) -> impl Iterator<Item = &dyn Extension> {
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
    fn check_offer(&self, extension: &dyn Extension) -> Result<(), Reply> {
        if extension.is_offered(self.facts()) {
            Ok(())
        } else {
            Err(parameter_error(ParameterError::Unknown))
        }
    }
}
