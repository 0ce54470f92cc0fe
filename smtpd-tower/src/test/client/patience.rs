//! How long a client waits: a server that says nothing fails the test, and does not stop it.

use std::time::{Duration, Instant};

use tokio::{pin, select, time::sleep};

use super::ClientError;

/// How long each step of a client waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// So long by tokio's clock.
    Exactly(Duration),
    /// So long in real time, and ten years by a clock that is paused: waiting costs nothing there, and is often what is tested.
    Default(Duration),
}

impl Default for Patience {
    fn default() -> Self {
        Self::Default(Duration::from_secs(30))
    }
}

/// How long a client waits by a paused clock. All timeouts of a server are shorter, unless they are meant to be none.
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Patience {
    /// Waits for the step, whose result `awaited` names.
    ///
    /// # Errors
    ///
    /// Returns that of the step, or [`ClientError::TimedOut`].
    pub(super) async fn wait<T, E: From<ClientError>>(
        self,
        awaited: &str,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        pin!(step);
        let limit = match self {
            Self::Exactly(limit) => limit,
            Self::Default(limit) => {
                let start = Instant::now();
                select! {
                    biased;
                    result = &mut step => return result,
                    () = sleep(limit) => {}
                }
                if start.elapsed() >= limit {
                    return Err(timed_out(awaited, limit).into());
                }
                // The clock has jumped, because it is paused.
                YEARS
            }
        };
        select! {
            biased;
            result = step => result,
            () = sleep(limit) => Err(timed_out(awaited, limit).into()),
        }
    }
}

fn timed_out(awaited: &str, limit: Duration) -> ClientError {
    ClientError::TimedOut {
        awaited: awaited.to_owned(),
        limit,
    }
}

/// Returns what a client waits for after this line. A line that is not a command may hold a secret, and is not shown.
pub(super) fn reply_to(line: &str) -> String {
    const VERBS: [&str; 17] = [
        "AUTH", "BDAT", "DATA", "EHLO", "ETRN", "EXPN", "HELO", "HELP", "LHLO", "MAIL", "NOOP",
        "QUIT", "RCPT", "RSET", "STARTTLS", "VRFY", "XCLIENT",
    ];
    let word = line.split(' ').next().unwrap_or_default();
    let verb = VERBS.iter().find(|verb| verb.eq_ignore_ascii_case(word));
    match verb {
        Some(verb) => format!("the reply to {verb}"),
        None => "the reply to the last line".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(20);

    async fn waits(patience: Patience) -> Result<(), ClientError> {
        patience.wait("a reply", pending()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_is_waited_for_as_long_as_a_server_may_take() {
        let start = time::Instant::now();
        let late = async {
            time::sleep(YEARS / 2).await;
            Ok::<_, ClientError>(7)
        };
        assert_eq!(Patience::default().wait("it", late).await.unwrap(), 7);
        assert_eq!(start.elapsed(), YEARS / 2);
        let error = waits(Patience::default()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "timed out after 315360000s, waiting for a reply"
        );
        let start = time::Instant::now();
        assert!(waits(Patience::Exactly(MOMENT)).await.is_err());
        assert_eq!(start.elapsed(), MOMENT);
    }

    #[tokio::test]
    async fn real_time_is_not_waited_for_long() {
        let start = Instant::now();
        for patience in [Patience::Default(MOMENT), Patience::Exactly(MOMENT)] {
            let error = waits(patience).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "timed out after 20ms, waiting for a reply"
            );
        }
        assert!(start.elapsed() < YEARS);
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(reply_to("mail FROM:<a@b.c>"), "the reply to MAIL");
        for line in ["aHVudGVyMg==", "", "hunter"] {
            assert_eq!(reply_to(line), "the reply to the last line");
        }
    }
}
