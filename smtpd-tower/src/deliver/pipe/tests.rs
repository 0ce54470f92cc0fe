#![cfg(target_os = "linux")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use smtpd_core::{address::ForwardPath, parameter::Parameters};
use tempfile::TempDir;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use super::*;
use crate::body::{BodyError, incoming};

/// A script in a directory of its own, which is its working directory.
struct Fixture {
    dir: TempDir,
    pipe: Pipe,
}

impl Fixture {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pipe = Pipe::new("sh").arg("-c").arg(script).directory(dir.path());
        Self { dir, pipe }
    }

    fn map(self, change: impl FnOnce(Pipe) -> Pipe) -> Self {
        Self {
            pipe: change(self.pipe),
            ..self
        }
    }

    async fn reply(&self, body: impl Into<Body>) -> String {
        let envelope = envelope("sender@example.com", &["user@example.org"]);
        let reply = self.deliver(envelope, body.into()).await;
        reply.merged().to_string()
    }

    async fn deliver(&self, envelope: Envelope, body: Body) -> DataReply {
        let request = Request::new(Session::local(), Data::new(envelope, body));
        let delivered = timeout(Duration::from_secs(100), self.pipe.clone().oneshot(request));
        delivered.await.unwrap().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    /// Waits for a file with a line, and returns that.
    async fn line(&self, name: &str) -> String {
        let read = || fs::read_to_string(self.file(name)).ok();
        wait_for(|| read().filter(|text| text.ends_with('\n')))
            .await
            .trim()
            .to_owned()
    }

    /// Waits until no command has a place.
    async fn is_idle(&self) {
        wait_for(|| (self.pipe.gate.free() == 20).then_some(())).await;
    }
}

fn envelope(sender: &str, recipients: &[&str]) -> Envelope {
    let sender = match sender {
        "" => Envelope::default(),
        sender => Envelope::new(sender.parse().unwrap()),
    };
    recipients.iter().fold(sender, |envelope, recipient| {
        envelope.with_recipient(recipient.parse::<ForwardPath>().unwrap())
    })
}

/// Waits until there is no process of this number, not even one that was not waited for.
async fn is_gone(pid: &str) {
    let path = Path::new("/proc").join(pid);
    wait_for(|| (!path.exists()).then_some(())).await;
}

async fn wait_for<T>(mut done: impl FnMut() -> Option<T>) -> T {
    for _ in 0..10_000 {
        match done() {
            Some(done) => return done,
            None => sleep(Duration::from_millis(5)).await,
        }
    }
    panic!("it did not happen");
}

async fn push(feed: &crate::body::Feed, chunk: impl Into<Bytes>) {
    feed.push(chunk.into()).await;
}

#[tokio::test]
async fn the_command_reads_the_bytes_of_the_message() {
    let all: Vec<u8> = (0..=255).collect();
    for message in [Vec::new(), all.clone(), all.repeat(20_000)] {
        let fixture = Fixture::new("cat > out");
        assert!(
            fixture
                .reply(message.clone())
                .await
                .starts_with("250 2.0.0 Queued as ")
        );
        assert!(fixture.read("out") == message);
    }
    let fixture = Fixture::new("cat > out").map(|pipe| {
        pipe.newline(Newline::Lf)
            .return_path(true)
            .delivered_to(true)
    });
    fixture
        .reply(Body::from("\r\nb\r\n").prepend("a: 1\r\n"))
        .await;
    let expected = "Return-Path: <sender@example.com>\nDelivered-To: user@example.org\na: 1\n\nb\n";
    assert_eq!(fixture.read("out"), expected.as_bytes());
}

#[tokio::test]
async fn the_exit_status_decides() {
    for (script, reply) in [
        ("cat >/dev/null; exit 67", "550 5.1.1"),
        ("cat >/dev/null; exit 75", "451 4.3.0"),
        ("cat >/dev/null; exit 3", "451 4.3.0"),
        ("cat >/dev/null; exit 69", "554 5.3.0"),
        ("cat >/dev/null; /no/such/program", "451 4.3.5"),
        ("cat >/dev/null; kill -9 $$", "451 4.3.0"),
        // Without reading it.
        ("exit 0", "250 2.0.0"),
        ("exec <&-; exit 0", "250 2.0.0"),
        ("exec <&-; sleep 0.05; exit 0", "250 2.0.0"),
        ("exit 77", "550 5.7.1"),
        ("exec <&-; sleep 0.05; exit 77", "550 5.7.1"),
    ] {
        let fixture = Fixture::new(script);
        for message in [Vec::new(), vec![b'x'; 1_000_000]] {
            let said = fixture.reply(message).await;
            assert!(said.starts_with(reply), "{script}: {said}");
        }
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_started_costs_no_message_and_is_not_sent_one() {
    let dir = tempfile::tempdir().unwrap();
    for program in [
        dir.path().join("none"),
        dir.path().to_owned(),
        "no-such-program".into(),
    ] {
        let (_feed, body) = incoming();
        let data = Data::new(Envelope::default(), body);
        let pipe = Pipe::new(program);
        let reply = pipe
            .oneshot(Request::new(Session::local(), data))
            .await
            .unwrap();
        assert!(
            reply.merged().to_string().starts_with("451 4.3.5"),
            "{reply:?}"
        );
    }
}

#[tokio::test]
async fn the_environment_holds_the_message_and_nothing_of_the_server() {
    let fixture = Fixture::new("env > out").map(|pipe| {
        pipe.env("FOLDER", "in")
            .env("SENDER", "nobody")
            .inherit_env("CARGO_MANIFEST_DIR")
            .inherit_env("NO_SUCH")
    });
    let parameters: Parameters = "ORCPT=rfc822;list+2Bowner@example.org".parse().unwrap();
    let mut envelope = envelope("a@example.com", &[]);
    let path = "b@example.org".parse().unwrap();
    envelope.push(smtpd_core::envelope::Recipient::new(path, parameters));
    let peer: std::net::SocketAddr = "192.0.2.7:99".parse().unwrap();
    let session = Session::from_peer(peer).with_identity("us\x01er");
    let data = Data::new(envelope, Body::from(""));
    let id = session.id();
    fixture
        .pipe
        .clone()
        .oneshot(Request::new(session, data))
        .await
        .unwrap();
    let text = String::from_utf8(fixture.read("out")).unwrap();
    let lines = text
        .lines()
        .filter(|line| !["PWD", "_", "SHLVL", "OLDPWD"].contains(&line.split('=').next().unwrap()));
    let mut lines: Vec<_> = lines
        .map(|line| match line.starts_with("QUEUE_ID=") {
            true => "QUEUE_ID",
            false => line,
        })
        .collect();
    lines.sort_unstable();
    let inherited =
        std::env::var("CARGO_MANIFEST_DIR").map(|path| format!("CARGO_MANIFEST_DIR={path}"));
    let session = format!("SESSION_ID={id}");
    let mut expected = vec![
        "CLIENT_ADDRESS=192.0.2.7",
        "FOLDER=in",
        "ORIGINAL_RECIPIENT=list+owner@example.org",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "QUEUE_ID",
        "RECIPIENT=b@example.org",
        "SASL_USERNAME=us?er",
        "SENDER=a@example.com",
        &session,
    ];
    expected.extend(inherited.as_deref());
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_value_is_one_argument_whatever_is_in_it() {
    let hostile = [
        "\"; touch pwned; $(touch pwned) `touch pwned` *\"@example.org",
        "\"-x y\"@example.org",
    ];
    let script = "printf '%s\\n' \"$@\" > out; printf '%s\\n' \"$RECIPIENT\" > env";
    let fixture = Fixture::new(script).map(|pipe| {
        pipe.arg("--")
            .arg(PipeArgument::Sender)
            .arg(PipeArgument::Recipient)
    });
    fixture
        .deliver(envelope("", &hostile), Body::from(""))
        .await;
    let recipients = format!("{}\n{}\n", hostile[0], hostile[1]);
    assert_eq!(
        String::from_utf8(fixture.read("out")).unwrap(),
        format!("\n{recipients}")
    );
    assert_eq!(String::from_utf8(fixture.read("env")).unwrap(), recipients);
    assert!(!fixture.file("pwned").exists());
    let fixture = Fixture::new("touch out").map(|pipe| pipe.arg(PipeArgument::Sender));
    let reply = fixture
        .deliver(envelope("-oQ/tmp@example.org", &[]), Body::from(""))
        .await;
    assert!(reply.merged().to_string().starts_with("553 5.1.3"));
    assert!(!fixture.file("out").exists());
}

/// Commands that note when they see the end of the message. The last two do not want to end.
const READERS: [&str; 3] = [
    "sleep 1000 & echo $! > other; echo $$ > pid; cat > out; touch whole",
    "trap '' TERM; sleep 1000 & echo $! > other; echo $$ > pid; cat > out; touch whole",
    "trap 'touch whole' EXIT; trap '' TERM; sleep 1000 & echo $! > other; echo $$ > pid; while :; do read x; done",
];

#[tokio::test]
async fn a_message_that_breaks_off_does_not_look_whole_to_the_command() {
    for script in READERS {
        let fixture = Fixture::new(script);
        let (feed, body) = incoming();
        let feeding = async {
            push(&feed, vec![b'x'; 100_000]).await;
            fixture.line("pid").await;
            feed.finish(Err(BodyError::Incomplete));
        };
        let (reply, ()) = tokio::join!(fixture.reply(body), feeding);
        assert!(reply.starts_with("451"), "{reply}");
        fixture.is_idle().await;
        is_gone(&fixture.line("pid").await).await;
        is_gone(&fixture.line("other").await).await;
        assert!(!fixture.file("whole").exists(), "{script}");
    }
}

#[tokio::test]
async fn a_delivery_that_is_dropped_kills_the_command_and_what_it_has_started() {
    for script in READERS {
        for is_whole in [false, true] {
            let script = match is_whole {
                // It does not end by itself.
                true => &*format!("{script}; rm whole; sleep 1000"),
                false => script,
            };
            let fixture = Fixture::new(script);
            let (feed, body) = incoming();
            let delivery = async { fixture.reply(body).await };
            let dropped = async {
                push(&feed, "some\r\n").await;
                fixture.line("other").await;
                fixture.line("pid").await;
                if is_whole {
                    feed.finish(Ok(()));
                    sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::select! {
                reply = delivery => panic!("{reply}"),
                () = dropped => {}
            }
            is_gone(&fixture.line("pid").await).await;
            is_gone(&fixture.line("other").await).await;
            fixture.is_idle().await;
            assert!(!fixture.file("whole").exists(), "{script}");
        }
    }
}

#[tokio::test]
async fn a_delivery_may_be_dropped_at_every_await() {
    let fixture = Fixture::new("cat > out; touch whole; cat out");
    for polls in 0.. {
        let _ = fs::remove_file(fixture.file("whole"));
        let (feed, body) = incoming();
        let data = Data::new(Envelope::default(), body);
        let mut delivery = tokio_test::task::spawn(
            fixture
                .pipe
                .clone()
                .oneshot(Request::new(Session::local(), data)),
        );
        let mut is_done = false;
        for poll in 0..polls {
            is_done = delivery.poll().is_ready();
            if is_done {
                break;
            }
            if poll < 2 {
                let _ = timeout(Duration::from_millis(20), push(&feed, vec![b'x'; 70_000])).await;
            }
            if poll == 2 {
                feed.finish(Ok(()));
            }
            sleep(Duration::from_millis(5)).await;
        }
        let was_whole = polls > 2;
        drop(delivery);
        fixture.is_idle().await;
        assert!(was_whole || !fixture.file("whole").exists(), "{polls}");
        if is_done {
            assert!(fixture.file("whole").exists());
            return;
        }
    }
}

#[tokio::test]
async fn a_command_that_does_not_read_or_does_not_end_is_killed() {
    let mut all = JoinSet::new();
    for script in [
        "echo $$ > pid; sleep 1000",
        "echo $$ > pid; cat > out; sleep 1000",
        "echo $$ > pid; yes",
    ] {
        for size in [10, 1_000_000] {
            all.spawn(async move {
                let limit = Duration::from_secs(1);
                let fixture = Fixture::new(script).map(|pipe| pipe.time_limit(limit));
                let reply = fixture.reply(vec![b'x'; size]).await;
                assert!(reply.starts_with("451 4.3.0"), "{reply}");
                fixture.is_idle().await;
                is_gone(&fixture.line("pid").await).await;
            });
        }
    }
    while let Some(one) = all.join_next().await {
        one.unwrap();
    }
}

#[tokio::test]
async fn a_slow_client_does_not_use_up_the_time_of_the_command() {
    let fixture = Fixture::new("cat > out").map(|pipe| pipe.time_limit(Duration::from_secs(5)));
    let (feed, body) = incoming();
    let feeding = async {
        for _ in 0..7 {
            sleep(Duration::from_secs(1)).await;
            push(&feed, "line\r\n").await;
        }
        feed.finish(Ok(()));
    };
    let (reply, ()) = tokio::join!(fixture.reply(body), feeding);
    assert!(reply.starts_with("250"), "{reply}");
}

#[tokio::test]
async fn a_refusal_is_sent_before_the_message_ends() {
    let fixture = Fixture::new("exit 67");
    let (feed, body) = incoming();
    push(&feed, "some\r\n").await;
    assert!(fixture.reply(body).await.starts_with("550 5.1.1"));
    // But no 250 is.
    let fixture = Fixture::new("exit 0");
    let (feed, body) = incoming();
    let mut delivery = Box::pin(fixture.reply(body));
    let early = timeout(Duration::from_millis(300), &mut delivery).await;
    assert!(early.is_err(), "{early:?}");
    feed.finish(Err(BodyError::TooLarge));
    assert!(delivery.await.starts_with("552"));
}

#[tokio::test]
async fn nobody_waits_for_a_daemon_that_holds_the_output() {
    let fixture = Fixture::new("cat > out; sleep 1000 & echo $! > other; echo started; exit 75")
        .map(|pipe| pipe.output_as_reply(true));
    assert_eq!(fixture.reply("message").await, "451 4.3.0 started");
    fixture.is_idle().await;
    // It may go on.
    let other = fixture.line("other").await;
    assert!(Path::new("/proc").join(&other).exists());
    let killed = std::process::Command::new("kill").arg(&other).status();
    assert!(killed.unwrap().success());
}

#[tokio::test]
async fn output_is_bounded_and_cannot_break_out_of_the_reply() {
    let script =
        "cat > out; printf '\\n\\033[2Jno\\r\\n250 ok\\n' >&2; head -c 5000000 /dev/zero; exit 69";
    let fixture = Fixture::new(script).map(|pipe| pipe.output_as_reply(true));
    assert_eq!(fixture.reply("message").await, "554 5.3.0 ?[2Jno");
    let fixture = Fixture::new(script).map(|pipe| pipe.output_as_reply(true).max_output(3));
    assert_eq!(fixture.reply("message").await, "554 5.3.0 ?[");
    let fixture = Fixture::new(script);
    assert_eq!(fixture.reply("message").await, "554 5.3.0 Message refused");
    let fixture = Fixture::new("echo secret; exit 70").map(|pipe| pipe.output_as_reply(true));
    assert_eq!(
        fixture.reply("message").await,
        "451 4.3.0 Local error in processing"
    );
}

#[tokio::test]
async fn a_fault_is_reported_with_what_the_command_wrote() {
    let (log, _guard) = crate::fault::test::Log::listen(tracing::Level::WARN);
    let fixture = Fixture::new("cat > out; printf 'no\\033 space\\n'; exit 70");
    fixture.reply("message").await;
    let lines = log.lines().join("\n");
    assert!(
        lines.contains("sh exited with status 70: no") && !lines.contains('\x1b'),
        "{lines}"
    );
}

#[tokio::test]
async fn the_command_runs_as_another_user_without_further_groups() {
    let fixture = Fixture::new("echo $(id -u) $(id -g) $(id -G)")
        .map(|pipe| pipe.output_as_reply(true).user(65_533, 65_534));
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(fixture.dir.path(), executable).unwrap();
    let expected = match rustix::process::geteuid().is_root() {
        true => "250 2.0.0 65533 65534 65534",
        false => "451 4.3.5 Local configuration error",
    };
    assert_eq!(fixture.reply("message").await, expected);
}

#[tokio::test]
async fn each_recipient_has_its_reply() {
    let fixture = Fixture::new("cat > \"$RECIPIENT\"; case $RECIPIENT in b@*) exit 67;; esac")
        .map(|pipe| pipe.each_recipient(true));
    let envelope = envelope("", &["a@example.org", "b@example.org", "c@example.org"]);
    let reply = fixture.deliver(envelope, Body::from("message")).await;
    let codes: Vec<_> = (0..3)
        .map(|n| reply.for_recipient(n).code().as_u16())
        .collect();
    assert_eq!(codes, [250, 550, 250]);
    for name in ["a", "b", "c"] {
        assert_eq!(fixture.read(&format!("{name}@example.org")), b"message");
    }
}

#[tokio::test]
async fn more_recipients_than_a_variable_holds_are_deferred() {
    let fixture = Fixture::new("printf '%s' \"$RECIPIENT\" | wc -c > out");
    let recipient = format!("{}@example.org", "x".repeat(52));
    let many = |n| envelope("", &vec![&*recipient; n]);
    let reply = fixture.deliver(many(1600), Body::from("")).await;
    assert!(
        reply.merged().to_string().starts_with("452 4.5.3"),
        "{reply:?}"
    );
    let reply = fixture.deliver(many(1575), Body::from("")).await;
    assert!(reply.is_positive(), "{reply:?}");
    assert_eq!(fixture.line("out").await, "102374");
}

#[tokio::test]
async fn commands_that_have_no_place_wait_and_then_are_deferred() {
    let fixture = Fixture::new("cat > out; sleep 1000");
    let Some(one) = NonZeroUsize::new(1) else {
        unreachable!()
    };
    let fixture = fixture.map(|pipe| pipe.concurrency(one).max_wait(Duration::from_millis(100)));
    let (_feed, body) = incoming();
    let mut first = Box::pin(fixture.reply(body));
    assert!(
        timeout(Duration::from_millis(50), &mut first)
            .await
            .is_err()
    );
    assert!(fixture.reply("message").await.starts_with("451 4.3.2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_messages_at_a_time() {
    let fixture = std::sync::Arc::new(
        Fixture::new("cat > $QUEUE_ID").map(|pipe| pipe.max_wait(Duration::from_secs(90))),
    );
    let mut deliveries = JoinSet::new();
    for n in 0..200_usize {
        let fixture = fixture.clone();
        deliveries.spawn(async move { fixture.reply(vec![b'x'; 1000 + n]).await });
    }
    while let Some(reply) = deliveries.join_next().await {
        assert!(reply.unwrap().starts_with("250"));
    }
    let mut sizes: Vec<_> = fs::read_dir(fixture.dir.path())
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, (1000..1200).collect::<Vec<_>>());
    fixture.is_idle().await;
}

/// Set for a process in which one test runs alone.
const ALONE: &str = "SMTPD_TEST_ALONE";

#[test]
fn no_descriptor_and_no_process_is_left() {
    if std::env::var_os(ALONE).is_some() {
        return leave_nothing();
    }
    let name = "deliver::pipe::tests::no_descriptor_and_no_process_is_left";
    let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
    let output = alone
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}

#[tokio::main(flavor = "current_thread")]
async fn leave_nothing() {
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || fs::read_to_string("/proc/thread-self/children").unwrap();
    let scripts = [
        "cat > out",
        "exit 67",
        "cat > out; sleep 1000",
        "sleep 1000",
        "/no/such",
        "kill -9 $$",
    ];
    let mut before = None;
    for _ in 0..3 {
        for script in scripts {
            let fixture =
                Fixture::new(script).map(|pipe| pipe.time_limit(Duration::from_millis(50)));
            fixture.reply(vec![b'x'; 200_000]).await;
            let (feed, body) = incoming();
            feed.finish(Err(BodyError::Incomplete));
            fixture.reply(body).await;
            fixture.is_idle().await;
        }
        let _ = Pipe::new("/no/such")
            .oneshot(Request::new(
                Session::local(),
                Data::new(Envelope::default(), Body::from("")),
            ))
            .await;
        assert_eq!(children(), "");
        let now = descriptors();
        assert_eq!(*before.get_or_insert(now), now);
    }
}

#[test]
fn without_a_runtime_the_command_is_killed_at_once() {
    let fixture = Fixture::new("echo $$ > pid; trap '' TERM; cat > out; touch whole");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (_feed, body) = incoming();
    let data = Data::new(Envelope::default(), body);
    let mut delivery = Box::pin(
        fixture
            .pipe
            .clone()
            .oneshot(Request::new(Session::local(), data)),
    );
    let pid = runtime.block_on(async {
        assert!(
            timeout(Duration::from_millis(50), &mut delivery)
                .await
                .is_err()
        );
        fixture.line("pid").await
    });
    drop(runtime);
    drop(delivery);
    // Not waited for any more, but ended.
    let stat = Path::new("/proc").join(pid).join("stat");
    while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(" Z ")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!fixture.file("whole").exists());
}
