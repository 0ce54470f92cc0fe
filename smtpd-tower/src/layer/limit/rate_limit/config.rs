use std::{hash::Hash, num::NonZeroU32, sync::Arc};

use smtpd_core::reply::Reply;

use super::{Counted, replies::Replies};
use crate::{
    layer::{Exempt, limit::watch::Watch},
    limiter::{Limited, Rate, RateLimiter, Reservation, Share},
    reload::Reloadable,
    session::Session,
};

/// The settings that do not depend on the phase, and the table.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) limiter: RateLimiter<AnyKey>,
    pub(super) counted: Counted,
    pub(super) replies: Replies,
    pub(super) without_key: Option<Reply>,
    pub(super) exempt: Option<Reloadable<Exempt>>,
    pub(super) rate: Option<RateOf>,
    pub(super) watch: Option<Watch>,
}

/// Stands for the keys, which may be of another type in each phase.
pub(super) enum AnyKey {}

pub(super) type RateOf = Arc<dyn Fn(&Session) -> Option<Rate> + Send + Sync>;

impl Config {
    pub(super) fn new(rate: Rate, counted: Counted) -> Self {
        Self {
            limiter: RateLimiter::new(rate),
            counted,
            replies: Replies::Fixed(Replies::default_reply()),
            without_key: None,
            exempt: None,
            rate: None,
            watch: None,
        }
    }

    pub(super) fn is_exempt(&self, session: &Session) -> bool {
        let exempt = self.exempt.as_ref();
        exempt.is_some_and(|exempt| exempt.with(|exempt| exempt.contains(session)))
    }

    /// Reserves the events of a key and of its network, or neither.
    pub(super) fn reserve<K: Hash>(
        &self,
        key: K,
        network: Option<(K, NonZeroU32)>,
        share: Share,
        n: NonZeroU32,
    ) -> Result<(Reservation, Option<Reservation>), Limited> {
        let client = self.limiter.reserve_any(key, share, n)?;
        let network = match network {
            Some((key, factor)) => {
                let key = share.common_key(key);
                Some(self.limiter.reserve_any(key, share.times(factor), n)?)
            }
            None => None,
        };
        Ok((client, network))
    }

    pub(super) fn refuse(&self, session: &Session, limited: Limited) -> Reply {
        if let Some(watch) = &self.watch {
            watch.refused(session);
        }
        self.replies.reply(limited)
    }
}
