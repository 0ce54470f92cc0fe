//! From the options to the settings of the protocol.

use smtpd_tower::{Config, Profile, Server, address::Leniency};

use crate::{extensions, mechanisms, options::Options, values::Lenient};

/// The settings of the protocol. Options that are not set leave the framework's defaults.
pub(crate) fn apply(options: &Options, config: Config) -> Config {
    let config = config
        .limits(|limits| options.limits.apply(limits))
        .timeouts(|timeouts| options.timeouts.apply(timeouts))
        .bare_newline(options.bare_lf.map(Into::into).unwrap_or_default())
        .nul_byte(options.nul.map(Into::into).unwrap_or_default());
    let config = match options.has_users() {
        true => config.mechanisms(mechanisms::offered(options)),
        false => config,
    };
    match &options.app_name {
        Some(name) => config.app_name(name),
        None => config,
    }
}

/// The server for a listener of a profile. What the options say about TLS and AUTH overrides the profile.
pub(crate) fn at(options: &Options, server: &Server, profile: Option<Profile>) -> Server {
    let server = match profile {
        Some(profile) => server.clone().profile(profile),
        None => server.clone(),
    };
    server.configure(|config| {
        let config = config.leniency(leniency(options, profile));
        let config = match profile {
            None | Some(Profile::Mx) => watch(options, config),
            _ => config,
        };
        let config = match profile {
            // Offered, but not required of a server that is trusted.
            Some(Profile::Lmtp) => {
                config.allow_insecure_auth(options.allow_plaintext_auth == Some(true))
            }
            _ => require(options, config),
        };
        match &*options.extensions {
            [] => config,
            lists => config.extensions(extensions::of(lists, profile)),
        }
    })
}

/// Other servers pass on what users of old programs rely on.
fn leniency(options: &Options, profile: Option<Profile>) -> Leniency {
    match (&*options.lenient, profile) {
        ([], Some(Profile::Mx)) => Leniency::COMMON,
        (list, _) => Lenient::all_of(list),
    }
}

/// What honest servers do not notice. The programs of users do: somebody waits for them.
fn watch(options: &Options, config: Config) -> Config {
    config
        .greeting_delay(options.greeting_delay.unwrap_or_default())
        .refuse_early_talkers(options.refuse_early_talkers == Some(true))
        .strict_pipelining(options.strict_pipelining == Some(true))
}

fn require(options: &Options, mut config: Config) -> Config {
    for (switch, set) in [
        (
            options.require_tls,
            Config::require_tls as fn(Config, bool) -> Config,
        ),
        (options.require_auth, Config::require_auth),
        (options.allow_plaintext_auth, Config::allow_insecure_auth),
    ] {
        if let Some(on) = switch {
            config = set(config, on);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(line: &str) -> Config {
        let args = ["smtpd"].into_iter().chain(line.split_whitespace());
        apply(&Options::read(args).unwrap(), Config::new("mx.test"))
    }

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let (set, unset) = (of(""), Config::new("mx.test"));
        assert_eq!(set.get_limits(), unset.get_limits());
        assert_eq!(set.get_timeouts(), unset.get_timeouts());
        assert_eq!(set.get_app_name(), unset.get_app_name());
    }

    #[test]
    fn limits_are_taken_over() {
        let config = of(
            "--max-size 0 --max-recipients 1 --max-errors 2 --max-auth-failures 3 --timeout 5 --app-name x",
        );
        let limits = config.get_limits();
        assert_eq!((limits.message_size, limits.recipients), (None, 1));
        assert_eq!((limits.errors, limits.auth_failures), (2, 3));
        assert_eq!(config.get_timeouts().command, Duration::from_secs(5));
        assert_eq!(config.get_app_name(), "x");
        assert_eq!(of("--max-size 7").get_limits().message_size, Some(7));
    }
}
