//! `--check`: what is served, or all that is wrong, without a server.

use std::{
    fs,
    process::{Command, Output},
};

/// What is said of a file of options beside other files: on standard error, on standard output, and the exit status.
fn checked(options: &str, files: &[(&str, &str)]) -> (Vec<String>, String, i32) {
    checked_with(&[], options, files)
}

fn checked_with(
    line: &[&str],
    options: &str,
    files: &[(&str, &str)],
) -> (Vec<String>, String, i32) {
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
        .args(line)
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
    let (errors, said, status) = checked(
        options,
        &[("recipients", "abuse@example.org\nb@example.net\n")],
    );
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
}

/// Sockets that systemd would pass decide what works, and a check from a shell does not see them.
pub(super) async fn sockets() {
    let users = "user = 'alice:secret'\n";
    let options = format!("mode = 'mx'\ndomain = 'a.test'\n{users}tls-self-signed = true\n");
    let of = |line: &[&str]| checked_with(line, &options, &[]);
    let (errors, said, status) = of(&[]);
    let warning = "smtpd: warning: --mode mx offers no AUTH, so users need a listener";
    assert!(
        errors.iter().any(|error| error.starts_with(warning)),
        "{errors:?}"
    );
    assert!(
        said.contains("\nlisten further sockets, if systemd passes any\n"),
        "{said}"
    );
    assert_eq!(status, 0);
    let (errors, said, status) = of(&["--sockets=smtp,submissions"]);
    assert!(
        !errors.iter().any(|error| error.starts_with(warning)),
        "{errors:?}"
    );
    assert!(
        said.contains("\nlisten submissions socket from systemd\n"),
        "{said}"
    );
    assert!(
        !said.contains("further") && !said.contains(":2525"),
        "{said}"
    );
    assert_eq!(status, 0);
    let (errors, _, status) = of(&["--sockets=smtp"]);
    assert!(
        errors[0].contains("smtpd.toml:1: mode: --mode mx offers no AUTH"),
        "{errors:?}"
    );
    assert_eq!(status, 2);
    let (errors, _, status) = of(&["--sockets=smpt"]);
    assert_eq!(
        errors[0],
        "smtpd: --sockets: expected smtp, smtps, submission, submissions, lmtp, http, not \"smpt\""
    );
    assert_eq!(status, 2);
    let without_users = options.replace(users, "");
    let (errors, _, status) = checked_with(&["--sockets=submission"], &without_users, &[]);
    assert!(
        errors[0].contains("needs --user, --users or --oauth-token"),
        "{errors:?}"
    );
    assert_eq!((errors.len(), status), (1, 2));
}

#[test]
fn a_check_of_options_tells_the_first_mistake_only() {
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
            "smtpd: smtpd.toml:3: mode: --mode mx needs --domain, which says for whom mail is accepted",
        ]
    );
}

#[test]
fn a_check_of_files_tells_the_first_mistake_only() {
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
    assert_eq!((said.as_str(), status), ("", 2), "{errors:?}");
    let starts = [
        "smtpd: smtpd.toml:7: listen: nobody.invalid:25: ",
        "smtpd: smtpd.toml:7: listen: unix:none/smtp: the directory of the socket does not exist",
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
#[test]
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

/// Each of these was seen only once the one before it was repaired.
#[test]
fn mistakes_in_files_are_told_after_those_in_options() {
    let options = "log-level = 'verbose'\ndomian = 'example.org'\nrecipients = 'list'\nusers = 'none'\n\
        recipient-delimiter = 'ab'\nmode = 'mx'\ntls-key = ['a', 'b']\nrequire-tls = true\ngroup-id = 'no-such-group'\n";
    let line = [
        "--max-recipients=0",
        "--listen=nobody.invalid:25",
        "--discrad",
    ];
    let files = [("list", "alice\n")];
    let (errors, said, status) = checked_with(&line, options, &files);
    assert_eq!((said.as_str(), status), ("", 2), "{errors:?}");
    let starts = [
        "smtpd: --max-recipients: expected a number from 1 to 4294967295",
        "smtpd: --discrad: there is no such option; the nearest is discard",
        "smtpd: smtpd.toml:1: log-level: expected off, error, warn, info, debug, trace, not \"verbose\"",
        "smtpd: smtpd.toml:2: domian: there is no such option; the nearest is domain",
        "smtpd: smtpd.toml:5: recipient-delimiter: ",
        "smtpd: --listen: nobody.invalid:25: ",
        "smtpd: smtpd.toml:7: tls-key: --tls-key needs --tls-cert",
        "smtpd: smtpd.toml:8: require-tls: --require-tls needs --tls-cert or --tls-self-signed",
        "smtpd: smtpd.toml:9: group-id: --group-id needs --user-id",
        "smtpd: smtpd.toml:4: users: none: No such file or directory",
        "smtpd: smtpd.toml:3: recipients: list:1: `alice` is not an address; expected ",
    ];
    for start in starts {
        let found = errors
            .iter()
            .filter(|error| error.starts_with(start))
            .count();
        assert_eq!(found, 1, "{start}: {errors:#?}");
    }
    let rest: Vec<_> = errors
        .iter()
        .filter(|error| !starts.iter().any(|start| error.starts_with(start)))
        .collect();
    // That --tls-key is given twice, and --tls-cert never, is said twice; of --domain, which is misspelled, nothing else is said.
    assert!(
        rest.iter().all(|error| error.contains("tls-key: ")),
        "{rest:#?}"
    );
}

/// What follows from a mistake is not another one.
#[test]
fn a_mistake_is_told_together_with_what_follows_from_it() {
    for (options, mistake) in [
        (
            "tls-cert = ['cert.pem']\ntls-key-passphrase-file = ['a', 'b']\nrequire-tls = true",
            "2: tls-key-passphrase-file: ",
        ),
        ("mode = 'mx'\ndomain = 'a b'", "2: domain: "),
        ("user-id = 4211234567\ngroup-id = ''", "2: group-id: "),
        ("greylist = 'soon'\ngreylist-file = 'x'", "1: greylist: "),
        ("require-tls = true\ntls-cert = [\n", "4: "),
        (
            "user = 'a:b'\nauth-mechanisms = 'NTLM'\nrequire-auth = true",
            "2: auth-mechanisms: ",
        ),
    ] {
        let (errors, _, status) = checked(options, &[]);
        let mistake = format!("smtpd: smtpd.toml:{mistake}");
        let is_of_file = |error: &String| error.contains("No such file");
        assert!(!errors.iter().any(is_of_file), "{errors:#?}");
        assert!(
            errors.iter().all(|error| error.starts_with(&mistake)),
            "{errors:#?}"
        );
        assert!(!errors.is_empty() && status == 2, "{options}");
    }
}

/// The status tells a supervisor whether another start is of any use.
#[test]
fn mistakes_in_files_cannot_be_told_from_those_in_options() {
    for (options, status) in [
        ("", 0),
        ("users = 'none'", 1),
        ("tls-cert = 'none'", 1),
        ("user-id = 'no-such-user'", 1),
        ("listen = 'nobody.invalid:25'", 1),
        ("hostname = 'a b'", 2),
        ("mode = 'mx'", 2),
        ("moed = 'mx'", 2),
        ("users = 'none'\nmoed = 'mx'", 2),
        ("timeout 5", 2),
    ] {
        let (errors, _, found) = checked(options, &[]);
        assert_eq!(found, status, "{options}: {errors:?}");
        let output = Command::new(env!("CARGO_BIN_EXE_smtpd"))
            .arg("--check")
            .arg("--no-such")
            .output();
        assert_eq!(output.unwrap().status.code(), Some(2));
    }
}

/// A check of a server that runs must not write into its Maildir, nor wait for a lock there.
#[test]
fn a_check_stores_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let mail = dir.path().join("mail");
    for part in ["tmp", "new", "cur"] {
        fs::create_dir_all(mail.join(part)).unwrap();
    }
    let changed = || fs::metadata(mail.join("tmp")).unwrap().modified().unwrap();
    let before = changed();
    let output = Command::new(env!("CARGO_BIN_EXE_smtpd"))
        .arg(format!("--maildir={}", mail.display()))
        .arg("--check")
        .output();
    assert!(output.unwrap().status.success());
    assert_eq!(changed(), before);
}
