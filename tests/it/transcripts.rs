//! The transcripts of smtpd-core, played over the engine: by the client of the test kit, on a server whose services answer as the
//! transcript says. smtpd-core's own test, which also checks the events, describes the instructions.

#[path = "../../smtpd-core/tests/it/support/extensions.rs"]
#[allow(dead_code, reason = "smtpd-core's tests need all of it")]
mod extensions;
#[path = "../../smtpd-core/tests/it/transcripts/settings.rs"]
#[allow(dead_code, reason = "a player with TLS needs all of it")]
mod settings;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use smtpd_core::{
    DataReply, Reply,
    connection::AuthOutcome,
    sasl::{Identity, Mechanisms, Scram, Secret},
    test::{Line, Transcript},
};
use smtpd_tower::{
    Auth, BodyError, Connect, Data, Helo, Mail, Pipeline, Rcpt, Request, Server, handler_fn,
    net::TrustedPeers, test::Client,
};
use support::{settle, watch};

use self::settings::Settings;

/// The number of files that are played. Otherwise, a file that is no longer understood would go unnoticed.
const PLAYED: usize = 127;

/// The words of `! config:` that no server without TLS can obey.
const NOT_HERE: [&str; 5] = ["tls", "starttls", "require_tls", "exporter", "certificate"];

#[tokio::test(start_paused = true)]
async fn the_engine_says_what_the_connection_says() {
    watch();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("smtpd-core/tests/transcripts");
    let mut played = 0;
    let mut failed = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let transcript: Transcript = text.parse().unwrap();
        if !is_for_the_engine(&transcript) {
            continue;
        }
        played += 1;
        if let Err(error) = play(&text).await {
            failed.push(format!("{}: {error}", path.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(played, PLAYED, "PLAYED counts the transcripts");
}

fn instructions(transcript: &Transcript) -> impl Iterator<Item = &str> {
    instructions_to(transcript, usize::MAX)
}

/// The instructions up to that line.
fn instructions_to(transcript: &Transcript, last: usize) -> impl Iterator<Item = &str> {
    let lines = transcript
        .lines()
        .filter(move |(number, _)| *number <= last);
    lines.filter_map(|(_, line)| match line {
        Line::Instruction(text) => Some(text.as_str()),
        _ => None,
    })
}

/// The words of `! config:`, each without its value.
fn words(transcript: &Transcript) -> Vec<&str> {
    let configs = instructions(transcript).filter_map(|text| text.strip_prefix("config: "));
    let settings = configs.flat_map(|settings| settings.split(", "));
    settings
        .map(|setting| setting.split('=').next().unwrap_or_default())
        .collect()
}

/// Whether services can answer like that: they see a message as a body and no chunks, and a handshake needs keys.
fn is_for_the_engine(transcript: &Transcript) -> bool {
    let cannot = |text: &str| {
        let answers = ["early -> ", "chunk -> ", "data -> 2"];
        text == "tls" || answers.iter().any(|answer| text.starts_with(answer))
    };
    let words = words(transcript);
    !instructions(transcript).any(cannot)
        && !NOT_HERE.iter().any(|word| words.contains(word))
        // Otherwise the server does not start.
        && settings(transcript).driver.check_plaintext().is_ok()
}

fn settings(transcript: &Transcript) -> Settings {
    let config = instructions(transcript).find_map(|text| text.strip_prefix("config: "));
    Settings::parse(config.unwrap_or_default())
}

async fn play(text: &str) -> Result<(), String> {
    let transcript: Transcript = text.parse().unwrap();
    let answers = Answers::default();
    let server = server(&transcript, &answers);
    // The server asks about the connection at once.
    let mut first = transcript.lines();
    let first = first.find(|(_, line)| matches!(line, Line::Client(_) | Line::Server(_)));
    let mut done = first.map_or(0, |(number, _)| number - 1);
    instructions_to(&transcript, done).for_each(|text| answers.add(text));
    let mut client = match words(&transcript).contains(&"lmtp") {
        true => Client::options().lmtp().connect(&server),
        false => Client::connect(&server),
    };
    let lines: Vec<_> = text.lines().collect();
    for (number, line) in transcript.lines() {
        if let Line::Instruction(instruction) = line
            && number > done
        {
            play_lines(&mut client, &lines, done, number - 1).await?;
            done = number;
            answers.add(instruction);
        }
    }
    play_lines(&mut client, &lines, done, lines.len()).await?;
    let _ = client.finish().await;
    let end = client.play("S: [closed]").await;
    end.map_err(|error| error.to_string())?;
    client.ended().await.map_err(|error| error.to_string())?;
    let unused = answers.0.lock().unwrap();
    match unused.is_empty() {
        true => Ok(()),
        false => Err(format!("nobody asked for {unused:?}")),
    }
}

/// Plays the lines of the client and of the server from one line to another. An answer after them is for later commands alone, so
/// the server has handled all of them when this returns.
async fn play_lines(
    client: &mut Client,
    lines: &[&str],
    from: usize,
    to: usize,
) -> Result<(), String> {
    // The error shows the numbers of the lines in the file.
    let numbered = lines[..to].iter().enumerate();
    let part = numbered.map(|(at, line)| match line.get(..2) {
        Some("C:" | "C|" | "S:" | "S|") if at >= from => *line,
        _ => "",
    });
    let part: Vec<_> = part.collect();
    client
        .play(&part.join("\n"))
        .await
        .map_err(|error| error.to_string())?;
    settle().await;
    Ok(())
}

fn server(transcript: &Transcript, answers: &Answers) -> Server {
    let settings = settings(transcript);
    let words = words(transcript);
    let peers = match settings.trusted {
        true => "127.0.0.0/8",
        false => "192.0.2.0/24",
    };
    let peers = || TrustedPeers::parse([peers]).unwrap();
    let mut pipeline = pipeline(answers);
    if words.contains(&"auth") {
        pipeline = with_auth(pipeline, answers);
    }
    let config = settings.driver.get_config().clone();
    let mut server = Server::new("mx.example.org", pipeline).configure(|_| config);
    if words.contains(&"xclient") {
        server = server.xclient_from(peers());
    }
    if words.contains(&"xforward") {
        server = server.xforward_from(peers());
    }
    server
}

fn pipeline(answers: &Answers) -> Pipeline {
    let [connect, helo, mail, rcpt, data] = std::array::from_fn(|_| answers.clone());
    Pipeline::new()
        .connect(handler_fn(move |_: Request<Connect>| {
            std::future::ready(connect.reply("connect", ""))
        }))
        .helo(handler_fn(move |request: Request<Helo>| {
            std::future::ready(helo.reply("helo", request.name().as_str()))
        }))
        .mail(handler_fn(move |request: Request<Mail>| {
            std::future::ready(mail.reply("mail", &request.sender().to_string()))
        }))
        .rcpt(handler_fn(move |request: Request<Rcpt>| {
            std::future::ready(rcpt.reply("rcpt", &request.recipient().to_string()))
        }))
        .data(handler_fn(move |request: Request<Data>| {
            let answers = data.clone();
            async move {
                if let Some(refusal) = answers.take("data", "") {
                    return Ok(refusal.parse::<Reply>().unwrap().into());
                }
                let collected = request.into_body().collect().await;
                // An answer that accepts a message which has failed must not reach the client.
                let replies = match answers.take("message", "") {
                    Some(replies) => replies,
                    None => collected.map(|_| "250 2.0.0 Taken".to_owned())?,
                };
                let replies = replies.split(" | ").map(|reply| reply.parse().unwrap());
                let replies: Vec<Reply> = replies.collect();
                Ok::<_, BodyError>(match <[_; 1]>::try_from(replies) {
                    Ok([reply]) => reply.into(),
                    Err(replies) => DataReply::each(replies),
                })
            }
        }))
}

fn with_auth(pipeline: Pipeline, answers: &Answers) -> Pipeline {
    let answers = answers.clone();
    pipeline.auth(handler_fn(move |_: Request<Auth>| {
        std::future::ready(match answers.take("auth", "") {
            None => AuthOutcome::Verify(Secret::password("secret")),
            Some(text) => match text.strip_prefix("accept ") {
                Some(name) => Identity::new(name).into(),
                None => text.parse::<Reply>().unwrap().into(),
            },
        })
    }))
}

/// The mechanisms of SCRAM are always there.
fn with_scram(mechanisms: Mechanisms, name: &str) -> Mechanisms {
    match name {
        "SCRAM-SHA-1" => mechanisms.with(Scram::sha1()),
        "SCRAM-SHA-256" => mechanisms.with(Scram::sha256()),
        "SCRAM-SHA-256-PLUS" => mechanisms.with(Scram::sha256().plus()),
        _ => panic!("no such mechanism: {name}"),
    }
}

/// The answers that are not used up yet, each with its event and its key.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<(String, String)>>>);

impl Answers {
    fn add(&self, instruction: &str) {
        if let Some((event, answer)) = instruction.split_once(" -> ") {
            // The client that XCLIENT names is one that connects.
            let event = if event == "xclient" { "connect" } else { event };
            let answer = (event.to_owned(), answer.to_owned());
            self.0.lock().unwrap().push(answer);
        }
    }

    /// Takes the first answer to that event, if there is one with that key or without any.
    fn take(&self, event: &str, key: &str) -> Option<String> {
        let key = key.trim_matches(['<', '>']);
        let with_key = format!("{event} {key}");
        let mut answers = self.0.lock().unwrap();
        let is_due = |known: &str| known == event || known == with_key;
        let due = answers.iter().position(|(known, _)| is_due(known))?;
        Some(answers.remove(due).1)
    }

    fn reply(&self, event: &str, key: &str) -> Reply {
        let answer = self.take(event, key);
        answer.map_or(Reply::OK, |answer| answer.parse().unwrap())
    }
}
