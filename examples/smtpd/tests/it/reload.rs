//! The reference server as a process: what it reads again at SIGHUP.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use support::Client;
use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use crate::reference::Reference;

/// Far more than anything in here needs, unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

/// A server with a file of options, which tests replace.
struct Served {
    server: Reference,
    log: UnboundedReceiver<String>,
    dir: tempfile::TempDir,
}

impl Served {
    /// Starts it with these files, of which `smtpd.toml` has the options.
    fn start(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let config = format!("--config={}", dir.path().join("smtpd.toml").display());
        let options = ["--listen=127.0.0.1:0", &config];
        let mut server = Reference::start_logging_to(Stdio::piped(), 1, &options);
        let (sender, log) = unbounded_channel();
        let lines = BufReader::new(server.process.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self { server, log, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Replaces a file as a whole.
    fn replace(&self, name: &str, text: &str) {
        let new = self.path("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    /// Sends SIGHUP, and waits for a line of the log with all these words.
    async fn reload(&mut self, words: &[&str]) {
        self.server.signal("HUP");
        self.logged(words).await;
    }

    async fn logged(&mut self, words: &[&str]) {
        let found = async {
            loop {
                let line = self.log.recv().await.expect("the server goes on");
                if words.iter().all(|word| line.contains(word)) {
                    break;
                }
            }
        };
        timeout(HANGS, found)
            .await
            .unwrap_or_else(|_| panic!("{words:?}"));
    }

    async fn connect(&self) -> Client<TcpStream> {
        Client::over(
            TcpStream::connect(self.server.address("smtp"))
                .await
                .unwrap(),
        )
    }

    /// The app name in the greeting.
    async fn app_name(&self) -> String {
        let greeting = self.connect().await.expect("220 mx.test ").await;
        greeting.split(' ').nth(2).unwrap().to_owned()
    }
}

/// Two settings, in which all parts have the same number.
fn config(number: usize) -> String {
    format!(
        "app-name = 'app{number}'\nmax-size = {size}\ndomain = 'd{number}.test'\nrecipients = 'list{number}'\nquiet = true\n",
        size = number + 1_000
    )
}

/// A session that must see one of them only. Returns which.
async fn see(mut client: Client<TcpStream>) -> usize {
    let greeting = client.expect("220 mx.test app").await;
    let number = greeting["220 mx.test app".len()..].split(' ').next();
    let number: usize = number.unwrap().parse().unwrap();
    let announced = client.cmd("EHLO c", "250").await;
    let size = format!("SIZE {}", number + 1_000);
    assert!(announced.contains(&size), "{greeting}: {announced}");
    client.cmd("MAIL FROM:<a@example.com>", "250").await;
    for (user, domain, code) in [
        (number, number, "250"),
        (1 - number, number, "550 5.1.1"),
        (1 - number, 1 - number, "550"),
    ] {
        client
            .cmd(&format!("RCPT TO:<u{user}@d{domain}.test>"), code)
            .await;
    }
    client.cmd("DATA", "354").await;
    client.cmd("Subject: x\r\n\r\nHello\r\n.", "250").await;
    client.cmd("QUIT", "221").await;
    number
}

#[tokio::test]
async fn a_session_sees_half_of_each_settings_while_they_are_read_a_thousand_times() {
    let served = Served::start(&[
        ("smtpd.toml", &config(0)),
        ("list0", "u0@d0.test\n"),
        ("list1", "u1@d1.test\n"),
    ]);
    let signals = "for i in 1 2 3 4 5 6 7 8 9 10; do kill -s HUP $0; done";
    let pid = served.server.process.id().to_string();
    let mut seen = [0; 2];
    let load = async {
        for round in 0..100 {
            served.replace("smtpd.toml", &config(round % 2));
            let sent = tokio::process::Command::new("sh")
                .args(["-c", signals, &pid])
                .status();
            let sessions = async {
                let mut all = Vec::new();
                for _ in 0..4 {
                    all.push(tokio::spawn(see(served.connect().await)));
                }
                for session in all {
                    seen[session.await.unwrap()] += 1;
                }
            };
            assert!(tokio::join!(sent, sessions).0.unwrap().success());
        }
    };
    timeout(3 * HANGS, load).await.unwrap();
    assert_eq!(seen[0] + seen[1], 400);
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    assert_eq!(served.server.delivered().len(), 400, "no message is lost");
}

#[tokio::test]
async fn a_file_that_is_broken_ends_what_was_served() {
    let good = |name: &str| {
        format!(
            "app-name = '{name}'\ndomain = 'example.org'\nrecipients = 'list'\nusers = 'users'\n"
        )
    };
    let hash = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$L1qnTgpsWMa/dMHjDHhQFw";
    let users = format!("alice:{hash}\n");
    let mut served = Served::start(&[
        ("smtpd.toml", &good("first")),
        ("list", "a@example.org\n"),
        ("users", &users),
    ]);
    let refused = ["the old settings stay: "];
    for (name, text, words) in [
        (
            "smtpd.toml",
            "app-name = 'second'\nmax-size = 'x'\n",
            "smtpd.toml:2: max-size: expected a number",
        ),
        // Half of it was written.
        ("smtpd.toml", &good("second")[..50], "smtpd.toml:3: "),
        (
            "smtpd.toml",
            "app-name = 'second'\nmode = 'mx'\nrecipients = 'list'\n",
            "smtpd.toml:3: recipients: --recipients needs --domain",
        ),
        (
            "list",
            "a@example.org\nb@\n",
            "list:2: `b@` is not an address",
        ),
        ("users", &users[..40], "users:1: expected a hash such as"),
    ] {
        let old = fs::read_to_string(served.path(name)).unwrap();
        if name != "smtpd.toml" {
            served.replace("smtpd.toml", &good("second"));
        }
        served.replace(name, text);
        served.reload(&[refused[0], words]).await;
        assert_eq!(served.app_name().await, "first", "{text}");
        served.replace(name, &old);
        served.replace("smtpd.toml", &good("first"));
    }
    for name in ["smtpd.toml", "list", "users"] {
        let path = served.path(name);
        let kept = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        served.reload(&[refused[0], name, "No such file"]).await;
        assert!(
            Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        served
            .reload(&[refused[0], name, "not a regular file"])
            .await;
        assert_eq!(served.app_name().await, "first", "{name}");
        fs::remove_file(&path).unwrap();
        served.replace(name, &kept);
    }
    served.replace("smtpd.toml", &good("third"));
    served.replace("list", "a@example.org\nb@example.org\n");
    served
        .reload(&[
            "the settings have been read again",
            "app-name",
            "/list",
            "users=1",
            "recipients=2",
        ])
        .await;
    assert_eq!(served.app_name().await, "third");
}

#[tokio::test]
async fn what_takes_a_restart_is_not_told() {
    let mut served = Served::start(&[("smtpd.toml", "app-name = 'first'\n")]);
    let begun = served.connect().await;
    served.replace(
        "smtpd.toml",
        "app-name = 'second'\nthreads = 1\nmode = 'submission'\nguard-capacity = 10\n",
    );
    served
        .reload(&["level=info", "read again", "changed=app-name"])
        .await;
    served
        .logged(&[
            "level=warn",
            "these options take effect at the next start: guard-capacity,mode,threads",
        ])
        .await;
    assert_eq!(served.app_name().await, "second");
    served.replace(
        "smtpd.toml",
        "app-name = 'second'\nrequire-auth = true\nmode = 'submission'\n",
    );
    served.reload(&["level=error", "needs --user"]).await;
    served
        .logged(&["level=error", "it takes a restart to change mode"])
        .await;
    served.replace("smtpd.toml", "app-name = 'second'\n");
    let mut begun = begun;
    begun.expect("220 mx.test first").await;
    begun.cmd("EHLO c", "250").await;
    served
        .reload(&["level=info", "read again", "changed=nothing"])
        .await;
    begun.cmd("QUIT", "221").await;
}

#[tokio::test]
async fn limits_change_at_the_next_start_only() {
    let long = format!("NOOP {}", "x".repeat(600));
    let limited = "max-command-line = 600\nmax-messages = 1\nstrict-pipelining = true\n\
        memory-budget = '1M'\nmin-free-space = '8000000T'\nguard = 'off'\ntimeout-line = '200ms'\n";
    let mut served = Served::start(&[("smtpd.toml", "")]);
    for (config, reply, changed) in [
        (
            limited,
            "500",
            "changed=guard,max-command-line,max-messages,memory-budget,min-free-space,strict-pipelining,timeout-line",
        ),
        (limited, "500", "changed=nothing"),
        ("", "250", "changed=guard,max-command-line,"),
    ] {
        served.replace("smtpd.toml", config);
        served.reload(&["read again", changed]).await;
        let mut client = served.connect().await;
        client.expect("220").await;
        client.cmd("EHLO c", "250").await;
        client.cmd(&long, reply).await;
        if reply == "250" {
            client.cmd("MAIL FROM:<>", "250").await;
            continue;
        }
        client.send("NO").await;
        client.expect("421 4.4.2").await;
        let mut early = served.connect().await;
        early.expect("220").await;
        early.send("EHLO c\r\nNOOP\r\n").await;
        early.expect("554").await;
    }
}

/// With an empty password file, nobody could log in until somebody notices.
#[tokio::test]
async fn users_come_and_go_at_the_next_start_only() {
    let alice = "user = 'alice:secret'\nallow-plaintext-auth = true\n";
    let mut served = Served::start(&[("smtpd.toml", alice)]);
    // alice with `secret`, and bob with `other`
    let logins = [
        "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
        "AUTH PLAIN AGJvYgBvdGhlcg==",
    ];
    for (config, codes) in [
        (alice, ["235", "535"]),
        (
            "user = 'bob:other'\nallow-plaintext-auth = true\n",
            ["535", "235"],
        ),
        ("", ["50", "50"]),
        (alice, ["235", "535"]),
    ] {
        served.replace("smtpd.toml", config);
        served.reload(&["the settings have been read again"]).await;
        for (login, code) in logins.iter().zip(codes) {
            let mut client = served.connect().await;
            client.expect("220").await;
            client.cmd("EHLO c", "250").await;
            client.cmd(login, code).await;
        }
    }
}

#[tokio::test]
async fn what_a_client_has_used_up_is_its_own_again_after_a_reload() {
    let config = |name: &str, rate| format!("app-name = '{name}'\nrate = '{rate}/1h'\n");
    let mut served = Served::start(&[("smtpd.toml", &config("first", 2))]);
    assert_eq!(served.app_name().await, "first");
    served.replace("smtpd.toml", &config("second", 2));
    served.reload(&["the settings have been read again"]).await;
    assert_eq!(served.app_name().await, "second");
    served.connect().await.expect("421").await;
    // Another limit begins anew.
    served.replace("smtpd.toml", &config("third", 100));
    served.reload(&["the settings have been read again"]).await;
    assert_eq!(served.app_name().await, "third");
}

#[tokio::test]
async fn a_client_that_guesses_passwords_is_forgotten_at_a_reload() {
    let config = |name: &str, logins| {
        format!(
            "app-name = '{name}'\nuser = 'alice:secret'\nallow-plaintext-auth = true\n\
             guard-exempt = 'none'\nguard-failed-logins = '{logins}/1h'\n"
        )
    };
    // alice with `wrong`, and with `secret`
    let (wrong, right) = (
        "AUTH PLAIN AGFsaWNlAHdyb25n",
        "AUTH PLAIN AGFsaWNlAHNlY3JldA==",
    );
    let login = async |served: &Served, login: &str, code: &str| {
        let mut client = served.connect().await;
        client.expect("220").await;
        client.cmd("EHLO c", "250").await;
        client.cmd(login, code).await;
    };
    let mut served = Served::start(&[("smtpd.toml", &config("first", 2))]);
    for _ in 0..2 {
        login(&served, wrong, "535").await;
    }
    served.replace("smtpd.toml", &config("second", 2));
    served.reload(&["the settings have been read again"]).await;
    assert_eq!(served.app_name().await, "second");
    login(&served, right, "454").await;
    // Another limit applies to what was counted before.
    served.replace("smtpd.toml", &config("third", 100));
    served.reload(&["the settings have been read again"]).await;
    login(&served, right, "235").await;
}
