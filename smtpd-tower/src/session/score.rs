use std::borrow::Cow;

use super::{Session, TypedMap};

/// A client can make a handler find any number of reasons, and they must not fill memory.
const MOST_REASONS: usize = 64;

/// How suspicious a message is: points with their reasons, collected phase by phase.
///
/// [`add`](Self::add) counts for the rest of the session, [`add_to_message`](Self::add_to_message) until the transaction ends;
/// [`of`](Self::of) returns both. Points may be negative. Points for the same reason add up. Beyond 64 reasons in one session, or
/// in one transaction, the points still count, but the reasons are dropped.
///
/// ```
/// use smtpd_tower::session::{Score, Session};
///
/// let session = Session::local();
/// Score::add(&session, 3, "no reverse DNS");
/// Score::add_to_message(&session, -1, "known sender");
///
/// let score = Score::of(&session);
/// assert_eq!(score.total(), 2);
/// assert!(score.reasons().eq([("no reverse DNS", 3), ("known sender", -1)]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Score {
    items: Vec<Item>,
    /// Points added when there was no room for another reason.
    beyond: i32,
}

#[derive(Clone, Debug)]
struct Item {
    source: Source,
    reason: Cow<'static, str>,
    points: i32,
}

/// What added points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Layer(u64),
    Hand,
}

impl Score {
    /// Adds points for every message of the session.
    pub fn add(session: &Session, points: i32, reason: impl Into<Cow<'static, str>>) {
        Self::put(session.state(), Source::Hand, points, reason.into());
    }

    /// Adds points for the current message. They are cleared at the next MAIL, RSET, HELO or STARTTLS.
    pub fn add_to_message(session: &Session, points: i32, reason: impl Into<Cow<'static, str>>) {
        Self::put(session.transaction(), Source::Hand, points, reason.into());
    }

    /// Returns the points so far, for the session and for the message.
    pub fn of(session: &Session) -> Self {
        let mut score: Self = session.get().unwrap_or_default();
        let message: Self = session.transaction().get().unwrap_or_default();
        score.items.extend(message.items);
        score.beyond = score.beyond.saturating_add(message.beyond);
        score
    }

    /// Returns the sum.
    pub fn total(&self) -> i32 {
        let points = self.items.iter().map(|item| item.points);
        points.fold(self.beyond, i32::saturating_add)
    }

    /// Returns the reasons, each with its points, in the order of their first points.
    pub fn reasons(&self) -> impl Iterator<Item = (&str, i32)> {
        self.items.iter().map(|item| (&*item.reason, item.points))
    }

    /// Returns the [`total`](Self::total) of [`of`](Self::of), without copying the reasons.
    pub(crate) fn total_of(session: &Session) -> i32 {
        let total = |map: &TypedMap| map.read(|score: &Self| score.total()).unwrap_or_default();
        total(session.state()).saturating_add(total(session.transaction()))
    }

    pub(crate) fn put(map: &TypedMap, source: Source, points: i32, reason: Cow<'static, str>) {
        if points == 0 {
            return;
        }
        map.update(|score: &mut Self| {
            let has_room = score.items.len() < MOST_REASONS;
            let mut items = score.items.iter_mut();
            match items.find(|item| item.source == source && item.reason == reason) {
                Some(item) => item.points = item.points.saturating_add(points),
                None if has_room => score.items.push(Item {
                    source,
                    reason,
                    points,
                }),
                None => score.beyond = score.beyond.saturating_add(points),
            }
        });
    }

    pub(crate) fn take_back(map: &TypedMap, source: Source) {
        map.update(|score: &mut Self| score.items.retain(|item| item.source != source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_without_end_fill_memory() {
        let session = Session::local();
        for n in 0..1000 {
            Score::add_to_message(&session, 1, format!("reason {n}"));
            Score::add_to_message(&session, 0, format!("none {n}"));
        }
        let score = Score::of(&session);
        assert_eq!(Score::total_of(&session), 1000);
        assert_eq!(
            (score.total(), score.reasons().count()),
            (1000, MOST_REASONS)
        );
        Score::add(&session, i32::MAX, "much");
        Score::add(&session, i32::MAX, "much");
        assert_eq!(Score::of(&session).total(), i32::MAX);
    }
}
