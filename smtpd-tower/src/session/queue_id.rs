use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::serial;

/// The name of one message on this server, for logs, replies and the trace header.
///
/// [`ReceivedLayer`](crate::layer::ReceivedLayer) keeps one in the state of the transaction, where the delivery finds it:
///
/// ```
/// use smtpd_tower::{
///     Body, Data, Envelope, Reply, Request, Session, handler_fn,
///     layer::{QueueId, ReceivedLayer},
/// };
/// use tower::{ServiceBuilder, ServiceExt};
///
/// async fn deliver(request: Request<Data>) -> Reply {
///     match request.session().transaction().get::<QueueId>() {
///         Some(id) => Reply::queued(id),
///         None => Reply::OK,
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let data = ServiceBuilder::new()
///     .layer(ReceivedLayer::new())
///     .service(handler_fn(deliver));
/// let request = Request::new(
///     Session::local(),
///     Data::new(Envelope::default(), Body::from("Hello\r\n")),
/// );
/// assert!(data.oneshot(request).await?.merged().text().starts_with("Queued as "));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(Arc<str>);

impl QueueId {
    /// Creates a name that no other message has: 16 digits and capital letters, from the time in microseconds and a number that
    /// only this process can read.
    ///
    /// The time can be read from it, but not how many messages there were. Two processes give the same name to two messages of
    /// one microsecond with a probability of one in a billion.
    pub fn unique() -> Self {
        Self::at(SystemTime::now())
    }

    /// Returns the name that a store has kept, unless it cannot be one.
    #[cfg(feature = "queue")]
    pub(crate) fn stored(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let is_name = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
        ((1..=64).contains(&text.len()) && text.bytes().all(is_name)).then(|| Self(text.into()))
    }

    pub(crate) fn at(time: SystemTime) -> Self {
        let micros = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        Self::of(u64::try_from(micros).unwrap_or(u64::MAX), serial::push_next)
    }

    /// The time has the same width until the year 2085, and the number always, so no two pairs of them give the same text.
    fn of(micros: u64, push_serial: impl FnOnce(&mut String)) -> Self {
        let mut id = String::with_capacity(16);
        serial::push_base36(&mut id, micros, 10);
        push_serial(&mut id);
        Self(id.into())
    }

    /// Returns the text, which consists of digits and capital letters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for QueueId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn ids_of_one_instant_differ() {
        let now = SystemTime::now();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || (0..1_000).map(|_| QueueId::at(now)).collect::<Vec<_>>())
            })
            .collect();
        let ids: HashSet<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(ids.len(), 4_000);
    }

    #[test]
    fn time_and_number_stay_apart() {
        let table = [
            (0, "0000000000000000"),
            (35, "000000000Z000000"),
            (1_795_377_600_000_000, "HOEP2ZRI80000000"),
        ];
        for (micros, id) in table {
            assert_eq!(QueueId::of(micros, |id| id.push_str("000000")).as_str(), id);
        }
        let late = QueueId::of(u64::MAX, |id| id.push_str("000001"));
        assert_eq!(late.as_str(), "3W5E11264SGSF000001");
    }

    #[test]
    fn an_id_does_not_tell_how_many_messages_there_were() {
        let ids: Vec<_> = (0..50).map(|_| QueueId::at(UNIX_EPOCH)).collect();
        let is_sorted = ids.windows(2).all(|two| two[0].as_str() < two[1].as_str());
        assert!(!is_sorted, "{ids:?}");
        assert!(ids.iter().all(|id| id.as_str().len() == 16));
    }

    #[test]
    fn a_clock_before_1970_is_no_panic() {
        let before = UNIX_EPOCH - std::time::Duration::from_secs(1);
        assert!(QueueId::at(before).as_str().starts_with("0000000000"));
    }
}
