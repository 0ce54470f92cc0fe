//! What a router has to do.

use smtpd_tower::phase::PhaseKind;

use crate::{
    rules::{Case, Checked},
    scene::{Call, Outcome},
    station::Said,
};

impl Case<'_> {
    /// Each recipient has the reply of its route.
    pub fn routed(&self, routes: &[(&'static str, usize)], otherwise: Option<usize>) -> Checked {
        if self.call.outcome == Outcome::Dropped {
            return Ok(());
        }
        let facts = &self.call.facts;
        let recipients = match &facts.recipient {
            Some(recipient) => std::slice::from_ref(recipient),
            None => &facts.recipients[..],
        };
        let route = |recipient: &String| {
            let found = routes
                .iter()
                .find(|(domain, _)| recipient.ends_with(&format!("@{domain}")));
            found.map(|(_, slot)| *slot).or(otherwise)
        };
        let is_one = recipients
            .windows(2)
            .all(|pair| route(&pair[0]) == route(&pair[1]));
        if let Outcome::Panicked(_) = self.call.outcome
            && !is_one
        {
            return Err("the panic of a route passes".to_owned());
        }
        for (number, recipient) in recipients.iter().enumerate() {
            let said = self.call.outcome.said(number);
            let child = route(recipient).map(|slot| {
                self.children
                    .iter()
                    .filter(move |child| child.place.1 == slot)
            });
            let Some(mut calls) = child else {
                if said.is_none_or(|said| said.class() < 4) {
                    return Err(format!("{recipient} has no route: {said:?}"));
                }
                continue;
            };
            let (call, more) = (calls.next(), calls.next());
            if more.is_some() {
                return Err(format!("the route of {recipient} is asked twice"));
            }
            self.answered(said, call, number, recipient, recipients)?;
        }
        Ok(())
    }

    fn answered(
        &self,
        said: Option<&Said>,
        call: Option<&&Call>,
        number: usize,
        recipient: &str,
        all: &[String],
    ) -> Checked {
        let Some(call) = call else {
            // The route is not ready, or the message is refused as a whole for another recipient.
            let fine = said.is_none_or(|said| said.class() >= 4);
            return fine
                .then_some(())
                .ok_or_else(|| format!("{recipient}: {said:?} without asking"));
        };
        let route = call.place.1;
        let own = |other: &&String| call.facts.recipients.contains(other);
        let at = match self.call.place.0 {
            PhaseKind::Data => all.iter().take(number).filter(own).count(),
            _ => 0,
        };
        match (&call.outcome, said) {
            (Outcome::Said(_), said) if said == call.outcome.said(at) => Ok(()),
            (Outcome::Failed(_) | Outcome::Panicked(_), None) => Ok(()),
            (
                Outcome::Failed(_) | Outcome::Panicked(_) | Outcome::Open | Outcome::Dropped,
                Some(said),
            ) if said.class() == 4 => Ok(()),
            (told, said) => Err(format!(
                "{recipient} has the reply {said:?} of route {route}, which replied {told:?}"
            )),
        }
    }
}
