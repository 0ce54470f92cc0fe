//! How a transcript sets up its server, by the instruction `! config: max_size=100, auth=PLAIN LOGIN`.

use smtpd_core::{
    Config, Limits, Protocol,
    address::Leniency,
    config::{BareNewline, DriverConfig, NulByte},
    extension::Extensions,
    sasl::{Anonymous, CramMd5, External, Login, Mechanisms, OAuthBearer, Plain, XOAuth2},
};

use super::{extensions, with_scram};

/// The settings of a server, of its connection, and of the player.
pub(crate) struct Settings {
    pub(crate) driver: DriverConfig,
    /// The session begins with TLS.
    pub(crate) tls: bool,
    /// TLS has a channel binding.
    pub(crate) exporter: bool,
    /// The peer may use XCLIENT and XFORWARD.
    pub(crate) trusted: bool,
    /// The client has a certificate.
    pub(crate) certificate: bool,
    /// The input is not split.
    pub(crate) whole: bool,
}

impl Settings {
    pub(crate) fn parse(text: &str) -> Self {
        let (mut config, mut limits) = (Config::new("mx.example.org"), Limits::default());
        let mut extensions = Extensions::default();
        let mut protocol = Protocol::Smtp;
        let (mut starttls, mut xclient, mut xforward) = (false, false, false);
        let (mut tls, mut exporter, mut trusted) = (false, false, false);
        let (mut certificate, mut whole) = (false, false);
        for setting in text.split(", ").filter(|setting| !setting.is_empty()) {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            match key {
                "tls" => tls = true,
                "exporter" => exporter = true,
                "trusted" => trusted = true,
                "certificate" => certificate = true,
                "whole" => whole = true,
                "starttls" => starttls = true,
                "require_tls" => {
                    config = config.require_tls(true);
                    starttls = true;
                }
                "xclient" => xclient = true,
                "xforward" => xforward = true,
                "lmtp" => protocol = Protocol::Lmtp,
                "with" => extensions = value.split(' ').fold(extensions, extensions::with),
                "without" => extensions = value.split(' ').fold(extensions, without),
                _ => config = apply(config, &mut limits, key, value),
            }
        }
        let config = config.extensions(extensions).limits(|own| *own = limits);
        Self {
            driver: DriverConfig::new(config)
                .protocol(protocol)
                .starttls(starttls)
                .xclient(xclient)
                .xforward(xforward),
            tls,
            exporter,
            trusted,
            certificate,
            whole,
        }
    }
}

fn apply(config: Config, limits: &mut Limits, key: &str, value: &str) -> Config {
    let number = || value.parse::<u32>().unwrap();
    match key {
        "max_size" => limits.message_size = (number() > 0).then(|| number().into()),
        "max_rcpt" => limits.recipients = number(),
        "max_domains" => limits.recipient_domains = Some(number()),
        "max_line" => limits.command_line = number() as usize,
        "max_errors" => limits.errors = number(),
        "max_prompt" => limits.prompt_refusals = number(),
        "max_rejected" => limits.rejected_recipients = number(),
        "max_deferred" => limits.deferred_recipients = number(),
        "max_auth_failures" => limits.auth_failures = number(),
        "max_idle" => limits.idle_commands = number(),
        "max_after_refusal" => limits.after_refusal = number(),
        "max_messages" => limits.messages = number(),
        "max_header" => limits.header_section = number().into(),
        "max_header_lines" => limits.header_lines = number(),
        "max_session_bytes" => limits.session_bytes = Some(number().into()),
        "max_drain" => limits.drain = number().into(),
        "require_auth" => return config.require_auth(true),
        "insecure_auth" => return config.allow_insecure_auth(true),
        "strict_pipelining" => return config.strict_pipelining(true),
        "auth" => {
            return config.mechanisms(mechanisms(value)).entropy(|nonce| {
                nonce.fill(0);
                true
            });
        }
        "no_entropy" => return config.mechanisms(Mechanisms::none().with(CramMd5)),
        "bare_newline" => return config.bare_newline(policy(value)),
        "lenient" => return config.leniency(Leniency::COMMON),
        "nul" => return config.nul_byte(nul_policy(value)),
        _ => panic!("no such setting: {key}"),
    }
    config
}

fn without(extensions: Extensions, keyword: &str) -> Extensions {
    assert!(extensions.contains(keyword), "no such extension: {keyword}");
    extensions.retain(|extension| extension.keyword() != keyword)
}

fn mechanisms(names: &str) -> Mechanisms {
    names
        .split(' ')
        .fold(Mechanisms::none(), |mechanisms, name| match name {
            "PLAIN" => mechanisms.with(Plain),
            "LOGIN" => mechanisms.with(Login),
            "CRAM-MD5" => mechanisms.with(CramMd5),
            "OAUTHBEARER" => mechanisms.with(OAuthBearer::new()),
            "XOAUTH2" => mechanisms.with(XOAuth2::new()),
            "EXTERNAL" => mechanisms.with(External),
            "ANONYMOUS" => mechanisms.with(Anonymous),
            _ => with_scram(mechanisms, name),
        })
}

fn policy(name: &str) -> BareNewline {
    match name {
        "reject" => BareNewline::Reject,
        "normalize" => BareNewline::Normalize,
        "pass" => BareNewline::PassThrough,
        _ => panic!("no such policy: {name}"),
    }
}

fn nul_policy(name: &str) -> NulByte {
    match name {
        "reject" => NulByte::Reject,
        "strip" => NulByte::Strip,
        "pass" => NulByte::PassThrough,
        _ => panic!("no such policy: {name}"),
    }
}
