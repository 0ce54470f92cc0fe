//! Layers against unwelcome clients. What they have counted and learned outlasts a reload that does not change their settings.

use std::{
    net::{IpAddr, ToSocketAddrs as _},
    path::Path,
    pin::Pin,
    sync::LazyLock,
    time::Duration,
};

use smtpd_tower::{
    guard::Guard,
    layer::{
        Exempt, GreylistLayer, GreylistPolicy, RateLimitLayer, ReverseDnsLayer, SessionsPerIpLayer,
        TarpitLayer,
    },
    limiter::Rate,
    memory::MemoryBudget,
};
use tokio::{sync::Semaphore, task};

use crate::{options::Options, values::Proxy, with_causes};

/// The layers, as far as the options ask for them.
#[derive(Clone)]
pub(crate) struct Clients {
    /// It counts for all servers, and has the settings of the latest.
    pub(crate) guard: Guard,
    guard_settings: Guard,
    memory: Limit<u64, MemoryBudget>,
    exempt: Vec<Proxy>,
    pub(crate) sessions: Limit<Rate, RateLimitLayer>,
    pub(crate) messages: Limit<Rate, RateLimitLayer>,
    pub(crate) recipients: Limit<Rate, RateLimitLayer>,
    pub(crate) at_a_time: Limit<u32, SessionsPerIpLayer>,
    greylist: GreylistLayer,
    delay: Option<Duration>,
    tarpit: Option<Duration>,
    names: ReverseDnsLayer<Resolver>,
    has_names: bool,
}

/// A layer with the setting that it was made for.
#[derive(Clone)]
pub(crate) struct Limit<T, L>(Option<(T, L)>);

impl<T: PartialEq + Copy, L: Clone> Limit<T, L> {
    const NONE: Self = Self(None);

    /// The layer, if there is a limit.
    pub(crate) fn layer(&self) -> Option<L> {
        self.0.as_ref().map(|(_, layer)| layer.clone())
    }

    /// The layer for a setting. An unchanged one goes on counting.
    fn next(&self, is_same: bool, setting: Option<T>, new: impl FnOnce(T) -> L) -> Self {
        match (setting, &self.0) {
            (Some(setting), Some((old, layer))) if is_same && setting == *old => {
                Self(Some((setting, layer.clone())))
            }
            (setting, _) => Self(setting.map(|setting| (setting, new(setting)))),
        }
    }
}

impl Clients {
    /// What is there before any settings apply, and stays.
    pub(crate) fn new(options: &Options) -> Self {
        let guard = options.guard.new_guard();
        Self {
            guard_settings: guard.clone(),
            guard,
            memory: Limit::NONE,
            exempt: Vec::new(),
            sessions: Limit::NONE,
            messages: Limit::NONE,
            recipients: Limit::NONE,
            at_a_time: Limit::NONE,
            greylist: GreylistLayer::new(),
            delay: None,
            tarpit: None,
            names: ReverseDnsLayer::new(resolve as Resolver).resolver_confirms(),
            has_names: false,
        }
    }

    /// The layers of other options.
    pub(crate) fn next(&self, options: &Options) -> Self {
        let is_same = self.exempt == options.exempt;
        let exempt = exempt(Exempt::new(), &options.exempt);
        let rate = |rate| RateLimitLayer::per_ip(rate).exempt(exempt.clone());
        let at_a_time = |n| {
            let n = usize::try_from(n).unwrap_or(usize::MAX);
            SessionsPerIpLayer::new(n).exempt(exempt.clone())
        };
        let memory = options.limits.memory_budget.map(|bytes| bytes.get());
        let most = options.max_sessions_per_client.map(|n| n.get());
        Self {
            guard: self.guard.clone(),
            guard_settings: options.guard.guard(),
            memory: self.memory.next(true, memory, MemoryBudget::new),
            exempt: options.exempt.clone(),
            sessions: self.sessions.next(is_same, options.rate, rate),
            messages: (self.messages).next(is_same, options.message_rate.or(options.rate), rate),
            recipients: self.recipients.next(is_same, options.recipient_rate, rate),
            at_a_time: self.at_a_time.next(is_same, most, at_a_time),
            greylist: self.greylist.clone(),
            delay: options.greylist,
            tarpit: options.tarpit,
            names: self.names.clone(),
            has_names: options.reverse_dns == Some(true),
        }
    }

    /// Gives the guard its settings, once they are to be served.
    pub(crate) fn set_guard(&self) {
        self.guard.reload(&self.guard_settings);
    }

    pub(crate) fn memory(&self) -> MemoryBudget {
        self.memory.layer().unwrap_or_else(MemoryBudget::shared)
    }

    pub(crate) fn tarpit(&self) -> Option<TarpitLayer> {
        let exempt = exempt(Exempt::local(), &self.exempt);
        self.tarpit
            .map(|delay| TarpitLayer::new(delay).exempt(exempt))
    }

    pub(crate) fn greylist(&self) -> Option<GreylistLayer> {
        let exempt = exempt(Exempt::local().authenticated(), &self.exempt);
        let policy = |delay| GreylistPolicy::new().with_delay(delay);
        let greylist = self.greylist.clone().exempt(exempt);
        self.delay.map(|delay| greylist.policy(policy(delay)))
    }

    pub(crate) fn names(&self) -> Option<ReverseDnsLayer<Resolver>> {
        self.has_names.then(|| self.names.clone())
    }
}

/// # Errors
/// Fails if what greylisting learns could not be kept.
pub(crate) fn check(options: &Options) -> Result<(), String> {
    let Some(path) = &options.greylist_file else {
        return Ok(());
    };
    let above = path.parent().filter(|above| *above != Path::new(""));
    match above.is_none_or(Path::is_dir) {
        true => Ok(()),
        false => Err(format!(
            "{}: {}: the directory of the file does not exist; create it, or name another file",
            options.given.place("greylist-file"),
            path.display()
        )),
    }
}

/// Reads what greylisting of an earlier server has learned. It is a convenience: a file that cannot be read is no reason to
/// defer mail.
pub(crate) async fn restore(clients: &Clients, options: &Options) {
    let load = |greylist: &GreylistLayer, path: &Path| match greylist.store().load(path) {
        Err(error) if !error.is_not_found() => {
            let error = with_causes(&error);
            tracing::warn!(
                "what greylisting has learned cannot be read, so it starts empty: {}: {error}",
                path.display()
            );
        }
        _ => {}
    };
    with_greylist(clients, options, load).await;
}

/// Keeps what greylisting has learned.
pub(crate) async fn keep(clients: &Clients, options: &Options) {
    let save = |greylist: &GreylistLayer, path: &Path| {
        if let Err(error) = greylist.store().save(path) {
            tracing::warn!(
                "what greylisting has learned cannot be written, so a restart would forget it: {}: {error}",
                path.display()
            );
        }
    };
    with_greylist(clients, options, save).await;
}

/// Does something with the file of greylisting, in another thread.
async fn with_greylist(
    clients: &Clients,
    options: &Options,
    act: impl FnOnce(&GreylistLayer, &Path) + Send + 'static,
) {
    if let Some(path) = options.greylist_file.clone() {
        let greylist = clients.greylist.clone();
        // It fails only if the runtime ends.
        let _ = task::spawn_blocking(move || act(&greylist, &path)).await;
    }
}

fn exempt(exempt: Exempt, clients: &[Proxy]) -> Exempt {
    let networks = clients.iter().filter_map(Proxy::network);
    let exempt = exempt.networks(networks);
    match clients.contains(&Proxy::Unix) {
        true => exempt.unix_sockets(),
        false => exempt,
    }
}

/// Finds the confirmed name of an address.
pub(crate) type Resolver = fn(IpAddr) -> Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Looks a name up, and that it leads back to the address, as the system is configured: /etc/hosts, the DNS or others.
///
/// Each lookup blocks a thread for as long as the system tries. A lookup that nobody waits for any more keeps its thread, so
/// that a slow DNS leaves the other threads to deliveries.
fn resolve(ip: IpAddr) -> Pin<Box<dyn Future<Output = Option<String>> + Send>> {
    static THREADS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(32));
    Box::pin(async move {
        let permit = THREADS.acquire().await.ok()?;
        let lookup = task::spawn_blocking(move || {
            let _permit = permit;
            let name = dns_lookup::lookup_addr(&ip).ok()?;
            // It is the address again if there is no name.
            name.parse::<IpAddr>().is_err().then_some(())?;
            let mut addresses = (&*name, 0).to_socket_addrs().ok()?.take(100);
            let is_its = addresses.any(|address| address.ip().to_canonical() == ip.to_canonical());
            is_its.then_some(name)
        });
        lookup.await.ok()?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Options {
        Options::read(["smtpd"].into_iter().chain(line.split_whitespace())).unwrap()
    }

    /// Messages that arrive during a reload would be counted twice, or not at all.
    #[test]
    fn a_reload_forgets_how_much_memory_is_in_use() {
        let first = options("--memory-budget 1M");
        let clients = Clients::new(&first).next(&first);
        let held = clients.memory().reserve(1000).unwrap();
        let second = clients.next(&options("--memory-budget 1M --max-size 2M"));
        assert_eq!(second.memory().used(), 1000);
        let third = second.next(&options("--memory-budget 2M"));
        assert_eq!(
            (third.memory().used(), third.memory().limit()),
            (0, 2 << 20)
        );
        let last = third.next(&options(""));
        assert_eq!(last.memory().limit(), MemoryBudget::DEFAULT_LIMIT);
        drop(held);
        assert_eq!(clients.memory().used(), 0);
    }

    #[test]
    fn a_reload_forgets_whom_the_guard_has_counted() {
        let first = options("--guard-capacity 7");
        let clients = Clients::new(&first).next(&first);
        clients.set_guard();
        let second = clients.next(&options("--guard off"));
        assert!(clients.guard.is_on(), "not before it is served");
        second.set_guard();
        assert!(!clients.guard.is_on() && !second.guard.is_on());
        clients.next(&first).set_guard();
        assert!(second.guard.is_on());
    }
}
