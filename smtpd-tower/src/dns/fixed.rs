use std::{
    collections::HashMap,
    future::{pending, ready},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{Dns, DnsError, Lookup, Mx};

/// A resolver that answers from a table, and does not use the network.
///
/// Names are compared without regard to case and to a final dot. A name that is not in the table does not exist.
///
/// ```
/// use smtpd_tower::dns::{Dns, DnsError, FixedDns, Mx};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let dns = FixedDns::new()
///     .with_mx("example.org", 10, "mx.example.org")
///     .with_address("mx.example.org", [192, 0, 2, 1])
///     .with_failure("broken.example");
/// assert_eq!(
///     dns.mx("Example.ORG.").await,
///     Ok(vec![Mx::new(10, "mx.example.org")])
/// );
/// assert_eq!(dns.txt("example.org").await, Err(DnsError::NoRecords));
/// assert_eq!(dns.ipv4("example.net").await, Err(DnsError::NoSuchName));
/// assert_eq!(dns.ipv4("broken.example").await, Err(DnsError::Failed));
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct FixedDns {
    names: Arc<HashMap<String, Entry>>,
    addresses: Arc<HashMap<IpAddr, Vec<String>>>,
}

/// What the table has about a name.
#[derive(Clone, Debug, Default)]
struct Entry {
    ipv4: Vec<Ipv4Addr>,
    ipv6: Vec<Ipv6Addr>,
    txt: Vec<Vec<u8>>,
    mx: Vec<Mx>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Fails,
    Hangs,
}

impl FixedDns {
    /// Creates a resolver without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an address of a host, and leaves the other ones.
    #[must_use]
    pub fn with_address(self, name: &str, ip: impl Into<IpAddr>) -> Self {
        self.change(name, |entry| match ip.into() {
            IpAddr::V4(ip) => entry.ipv4.push(ip),
            IpAddr::V6(ip) => entry.ipv6.push(ip),
        })
    }

    /// Adds a text.
    #[must_use]
    pub fn with_txt(self, name: &str, text: impl Into<Vec<u8>>) -> Self {
        self.change(name, |entry| entry.txt.push(text.into()))
    }

    /// Adds a host that receives the mail of a domain. A preference of 0 and the exchange `.` mean that none does (RFC 7505).
    #[must_use]
    pub fn with_mx(self, name: &str, preference: u16, exchange: &str) -> Self {
        self.change(name, |entry| entry.mx.push(Mx::new(preference, exchange)))
    }

    /// Adds a name of an address.
    #[must_use]
    pub fn with_ptr(mut self, ip: impl Into<IpAddr>, name: &str) -> Self {
        let names = Arc::make_mut(&mut self.addresses);
        names.entry(ip.into()).or_default().push(name.to_owned());
        self
    }

    /// Makes all queries for that name fail.
    #[must_use]
    pub fn with_failure(self, name: &str) -> Self {
        self.change(name, |entry| entry.trouble = Some(Trouble::Fails))
    }

    /// Makes all queries for that name wait for ever, which no real resolver should do: for tests of timeouts.
    #[must_use]
    pub fn with_hang(self, name: &str) -> Self {
        self.change(name, |entry| entry.trouble = Some(Trouble::Hangs))
    }

    fn change(mut self, name: &str, change: impl FnOnce(&mut Entry)) -> Self {
        let names = Arc::make_mut(&mut self.names);
        change(names.entry(key(name)).or_default());
        self
    }

    fn answer<T: Send + 'static>(
        &self,
        name: &str,
        records: impl FnOnce(&Entry) -> Vec<T>,
    ) -> Lookup<Vec<T>> {
        let Some(entry) = self.names.get(&key(name)) else {
            return Box::pin(ready(Err(DnsError::NoSuchName)));
        };
        match entry.trouble {
            Some(Trouble::Fails) => Box::pin(ready(Err(DnsError::Failed))),
            Some(Trouble::Hangs) => Box::pin(pending()),
            None => Box::pin(ready(some(records(entry)))),
        }
    }
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn some<T>(records: Vec<T>) -> Result<Vec<T>, DnsError> {
    match records.is_empty() {
        true => Err(DnsError::NoRecords),
        false => Ok(records),
    }
}

impl Dns for FixedDns {
    fn ipv4(&self, name: &str) -> Lookup<Vec<Ipv4Addr>> {
        self.answer(name, |entry| entry.ipv4.clone())
    }

    fn ipv6(&self, name: &str) -> Lookup<Vec<Ipv6Addr>> {
        self.answer(name, |entry| entry.ipv6.clone())
    }

    fn txt(&self, name: &str) -> Lookup<Vec<Vec<u8>>> {
        self.answer(name, |entry| entry.txt.clone())
    }

    fn mx(&self, name: &str) -> Lookup<Vec<Mx>> {
        self.answer(name, |entry| entry.mx.clone())
    }

    fn ptr(&self, ip: IpAddr) -> Lookup<Vec<String>> {
        let names = self.addresses.get(&ip.to_canonical()).cloned();
        Box::pin(ready(names.ok_or(DnsError::NoSuchName)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn each_kind_of_answer_is_told_from_the_others() {
        let dns: Arc<dyn Dns> = Arc::new(
            FixedDns::new()
                .with_address("Mx.example.org.", [192, 0, 2, 1])
                .with_address("mx.example.org", [192, 0, 2, 2])
                .with_address("mx.example.org", "2001:db8::1".parse::<IpAddr>().unwrap())
                .with_txt("example.org", "v=spf1 -all")
                .with_mx("null.example", 0, ".")
                .with_ptr([192, 0, 2, 1], "mx.example.org")
                .with_failure("broken.example"),
        );
        let both: Vec<Ipv4Addr> = vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        assert_eq!(dns.ipv4("MX.example.org").await, Ok(both));
        assert_eq!(dns.ipv6("mx.example.org.").await.unwrap().len(), 1);
        assert_eq!(
            dns.txt("example.org").await,
            Ok(vec![b"v=spf1 -all".to_vec()])
        );
        assert!(dns.mx("null.example").await.unwrap()[0].is_null());
        assert!(!Mx::new(1, ".").is_null() && !Mx::new(0, "a").is_null());
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(dns.ptr(mapped).await, Ok(vec!["mx.example.org".to_owned()]));
        assert_eq!(dns.mx("example.org").await, Err(DnsError::NoRecords));
        assert_eq!(dns.mx("example.net").await, Err(DnsError::NoSuchName));
        assert_eq!(
            dns.ptr([192, 0, 2, 9].into()).await,
            Err(DnsError::NoSuchName)
        );
        assert_eq!(dns.txt("broken.example").await, Err(DnsError::Failed));
        assert!(!DnsError::Failed.is_negative_answer());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_hangs_never_answers() {
        let dns = FixedDns::new().with_hang("slow.example");
        let asked = timeout(Duration::from_secs(3_600), dns.mx("slow.example"));
        assert!(asked.await.is_err());
    }
}
