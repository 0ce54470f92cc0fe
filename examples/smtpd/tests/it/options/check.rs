//! `--check`: what is served, or all that is wrong, without a server.

use std::{
    fs,
    process::{Command, Output},
};

/// What is said of a file of options beside other files: on standard error, on standard output, and the exit status.
fn checked(options: &str, files: &[(&str, &str)]) -> (Vec<String>, String, i32) {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let path = dir.path().join("smtpd.toml");
    fs::write(&path, format!("{options}\nmaildir = 'mail'\n")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_smtpd"))
        .arg("--check")
        .arg("--config")
        .arg(path)
        .output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap();
    let base = format!("{}/", dir.path().display());
    let text = |bytes| String::from_utf8(bytes).unwrap().replace(&base, "");
    let errors = text(stderr).lines().map(str::to_owned).collect();
    assert!(!dir.path().join("mail").exists(), "a check creates nothing");
    (errors, text(stdout), status.code().unwrap())
}

pub(super) async fn check() {
    let options = "hostname = 'm\u{fc}nchen.example'\nlisten = '127.0.0.1:25'\ndomain = 'example.org'\n\
        recipients = 'recipients'\nmax-size = '10M'\ntls-self-signed-keep = true";
    let (errors, said, status) =
        checked(options, &[("recipients", "a@example.org\nb@example.net\n")]);
    assert_eq!(status, 0, "{errors:?}");
    assert_eq!(
        errors,
        [
            "smtpd: warning: smtpd.toml:4: recipients: recipients:2: example.net is not a --domain, so mail to it is rejected"
        ]
    );
    for line in [
        "hostname xn--mnchen-3ya.example",
        "listen smtp 127.0.0.1:25",
        "domain example.org",
        "recipients 2",
        "tls on",
        "maildir mail",
        "max-size 10485760",
    ] {
        assert!(said.lines().any(|one| one == line), "{line} in {said}");
    }
    what_is_wrong_with_the_options_is_told();
    what_is_wrong_with_the_files_is_told();
    a_start_tells_the_first_mistake_only();
}

fn what_is_wrong_with_the_options_is_told() {
    let (errors, said, status) = checked("log-level = 'verbose'\nmax-sise = '10M'\n", &[]);
    assert_eq!((said.as_str(), status), ("", 2));
    assert_eq!(
        errors,
        [
            "smtpd: smtpd.toml:1: log-level: expected off, error, warn, info, debug, trace, not \"verbose\"",
            "smtpd: smtpd.toml:2: max-sise: there is no such option; the nearest is max-size",
        ]
    );
    let options = "require-tls = true\nrecipient-delimiter = '+'\nmode = 'mx'\n";
    let (errors, _, status) = checked(options, &[]);
    assert_eq!(status, 2);
    assert_eq!(
        errors,
        [
            "smtpd: smtpd.toml:1: require-tls: --require-tls needs --tls-cert or --tls-self-signed",
            "smtpd: smtpd.toml:2: recipient-delimiter: --recipient-delimiter needs --recipients",
            "smtpd: smtpd.toml:3: mode: --mode mx needs --domain: mail for other domains is not taken",
        ]
    );
}

fn what_is_wrong_with_the_files_is_told() {
    let options = "hostname = 'not a hostname'\ndomain = 'example.org'\nusers = 'none'\nrecipients = 'list'\n\
        tls-cert = 'cert.pem'\nsni = ['a.test=cert.pem,cert.pem']\nlisten = ['127.0.0.1:0', 'nobody.invalid:25', 'unix:none/smtp']\n";
    let files = [
        (
            "list",
            "\u{feff}# all\nalice\n@example.org\nb b@example.org\n",
        ),
        ("cert.pem", "x"),
    ];
    let (errors, said, status) = checked(options, &files);
    assert_eq!((said.as_str(), status), ("", 1), "{errors:?}");
    let starts = [
        "smtpd: smtpd.toml:7: listen: nobody.invalid:25: ",
        "smtpd: smtpd.toml:7: listen: unix:none/smtp: there is no such directory",
        "smtpd: smtpd.toml:1: hostname: \"not a hostname\" is neither a domain, such as mx.example.org, ",
        "smtpd: smtpd.toml:3: users: none: No such file or directory",
        "smtpd: smtpd.toml:4: recipients: list:2: `alice` is not an address; expected ",
        "smtpd: smtpd.toml:4: recipients: list:4: `b b@example.org` is not an address; expected ",
        "smtpd: smtpd.toml:5: tls-cert: cert.pem: ",
        "smtpd: smtpd.toml:6: sni: cert.pem: ",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}\n{start}");
    }
    let options = "tls-cert = 'none'\nclient-ca = 'neither'\ngreylist = '5m'\ngreylist-file = 'no/greylist'\n";
    let (errors, _, status) = checked(options, &[]);
    assert_eq!((errors.len(), status), (3, 1), "{errors:#?}");
}

/// A start says the same, and where nothing can be stored.
fn a_start_tells_the_first_mistake_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for check in ["--check", "--quiet"] {
        let output = Command::new(env!("CARGO_BIN_EXE_smtpd"))
            .arg(format!("--maildir={}", file.join("mail").display()))
            .args(["--hostname=", "--users=/none", "--user=a:b", check])
            .output();
        let Output { status, stderr, .. } = output.unwrap();
        let errors = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(2), "{errors}");
        for error in [
            "smtpd: --user and --users exclude each other\n",
            "smtpd: --hostname: \"\" is neither a domain",
            "smtpd: --users: /none: No such file",
            "smtpd: --maildir: ",
        ] {
            assert!(errors.contains(error), "{error} in {errors}");
        }
        assert_eq!(errors.lines().count(), 4, "{errors}");
    }
}
