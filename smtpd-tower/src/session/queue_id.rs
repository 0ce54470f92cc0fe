use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueId(Arc<str>);

impl QueueId {
    /// Creates a name that no other message has, from the time in microseconds and a number that grows with each message of this
    /// process, in digits and capital letters.
    ///
    /// Both can be read from it: it is a name, not a secret.
    pub fn unique() -> Self {
        Self::at(SystemTime::now())
    }

    pub(crate) fn at(time: SystemTime) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let micros = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        Self::of(u64::try_from(micros).unwrap_or(u64::MAX), number)
    }

    /// The time has the same width until the year 2085, so no two pairs of time and number give the same text.
    fn of(micros: u64, number: u64) -> Self {
        Self(format!("{:0>10}{}", base36(micros), base36(number)).into())
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

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.extend(char::from_digit((number % 36) as u32, 36));
        number /= 36;
        if number == 0 {
            break;
        }
    }
    let digits = digits.iter().rev();
    digits.map(char::to_ascii_uppercase).collect()
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
            (0, 0, "00000000000"),
            (35, 36, "000000000Z10"),
            (1_795_377_600_000_000, 1, "HOEP2ZRI801"),
            (0, u64::MAX, "00000000003W5E11264SGSF"),
        ];
        for (micros, number, id) in table {
            assert_eq!(QueueId::of(micros, number).as_str(), id);
        }
        assert_ne!(QueueId::of(1, 36), QueueId::of(36, 0));
    }

    #[test]
    fn a_clock_before_1970_is_no_panic() {
        let before = UNIX_EPOCH - std::time::Duration::from_secs(1);
        assert!(QueueId::at(before).as_str().starts_with("0000000000"));
    }
}
