//! `--check`: what would be served, or everything that is wrong.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use tokio::net::lookup_host;

use crate::{
    amounts,
    listen::Kind,
    mistakes::Mistakes,
    options::Options,
    served::{Purpose, Served},
    sockets::{self, Passing},
    values::Address,
};

/// Reads everything that the server would read, and prints what it found. The mistakes are those that were found before.
pub(crate) async fn run(options: Options, mut mistakes: Mistakes) -> ExitCode {
    mistakes.unless(sockets::check(options.passed.names()));
    mistakes.unless(addresses(&options).await);
    let served = mistakes.unless(Served::read(options, None, Purpose::Check).await);
    match mistakes.or(served) {
        Ok(served) => {
            let certificates = served.parts.tls.iter().flat_map(|tls| tls.warnings());
            let certificates = certificates.map(|warning| warning.to_string());
            for warning in served.warnings.iter().cloned().chain(certificates) {
                let _ = writeln!(io::stderr(), "smtpd: warning: {warning}");
            }
            let _ = io::stdout().write_all(description(&served).as_bytes());
            ExitCode::SUCCESS
        }
        Err(mistakes) => {
            mistakes.print();
            mistakes.exit_code().into()
        }
    }
}

/// Resolves the addresses of all listeners. They are not bound: a server may be running.
async fn addresses(options: &Options) -> Result<(), Mistakes> {
    let mut mistakes = Mistakes::default();
    for kind in Kind::ALL {
        for address in kind.addresses(options) {
            let place = options.given.place(kind.option());
            match address {
                Address::Tcp(name) => {
                    if let Err(error) = lookup_host(name).await {
                        mistakes.add(format!("{place}: {address}: {error}"));
                    }
                }
                Address::Unix(socket) => {
                    let above = socket
                        .path
                        .parent()
                        .filter(|above| !above.as_os_str().is_empty());
                    if above.is_some_and(|above| !above.is_dir()) {
                        mistakes.add(format!("{place}: {address}: the directory of the socket does not exist; create it first"));
                    }
                }
            }
        }
    }
    mistakes.or(Some(()))
}

fn description(served: &Served) -> String {
    let (options, parts) = (&served.options, &served.parts);
    let mut text = format!("hostname {}\n", served.hostname);
    for kind in Kind::ALL {
        for address in kind.addresses(options) {
            text += &format!("listen {} {address}\n", kind.name());
        }
    }
    for name in options.passed.names() {
        text += &format!("listen {name} socket from systemd\n");
    }
    if options.passed == Passing::Unknown {
        text += "listen further sockets, if systemd passes any\n";
    }
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text += &format!("{name} {value}\n");
        }
    };
    for domain in &options.domain {
        line("domain", Some(domain.to_string()));
    }
    let recipients = parts.recipients.as_ref();
    line("recipients", recipients.map(|list| list.count.to_string()));
    let users = parts.users.as_ref();
    line("users", users.map(|users| users.count().to_string()));
    let tls = parts.tls.as_ref().map(|_| "on".to_owned());
    line("tls", tls);
    let maildir = served.maildir.as_ref();
    line(
        "maildir",
        maildir.map(|dir| dir.path().display().to_string()),
    );
    line("tarpit", options.tarpit.map(amounts::shown));
    line("greylist", options.greylist.map(amounts::shown));
    let limits = served.server(Kind::Smtp);
    let limits = limits.get_config().get_limits();
    let size = limits.message_size.map(|size| size.to_string());
    line("max-size", size.or_else(|| Some("none".to_owned())));
    line("max-recipients", Some(limits.recipients.to_string()));
    text
}
