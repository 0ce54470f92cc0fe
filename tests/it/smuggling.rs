//! A sample of the corpus of smuggling attempts, over the engine; smtpd-core's own test plays all of it.

#[path = "../../smtpd-core/tests/it/corpus/rows.rs"]
mod rows;

use std::path::Path;

use smtpd_tower::{Pipeline, Rcpt, Request, Server, deliver::Inbox, handler_fn, test::Client};
use support::watch;

use self::rows::{Corpus, Outcome, POLICIES, Row};

/// One string of so many, each under the next policy, is played.
const EVERY: usize = 17;

#[tokio::test(start_paused = true)]
async fn nothing_is_smuggled_through_the_engine() {
    watch();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("smtpd-core/tests/corpus");
    for (name, is_chunk) in [
        ("data.tsv", false),
        ("data_at_start.tsv", false),
        ("bdat.tsv", true),
    ] {
        let corpus = Corpus::read(&folder, name);
        let rows = corpus.rows.iter().enumerate();
        for (at, row) in rows.filter(|(at, row)| at % EVERY == 0 || row.messages > 1) {
            let policy = at % POLICIES.len();
            let (played, expected) = (
                play(&corpus, row, policy, is_chunk).await,
                corpus.outcome(row, policy),
            );
            let shown = row.string.escape_ascii();
            assert_eq!(played, expected, "{name} {shown}, policy {policy}");
        }
    }
}

async fn play(corpus: &Corpus, row: &Row, policy: usize, is_chunk: bool) -> Outcome {
    let inbox = Inbox::new();
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(inbox.clone());
    let (newline, nul) = POLICIES[policy];
    let server = Server::new("mx.test", pipeline)
        .configure(move |config| config.bare_newline(newline).nul_byte(nul));
    let mut client = Client::connect(&server);
    client.greeting().await.unwrap();
    client.ehlo("c").await.unwrap();
    client.mail("a@example.com").await.unwrap();
    client.rcpt("b@example.org").await.unwrap();
    let mut text = corpus.text(row);
    if is_chunk {
        let bdat = format!("BDAT {} LAST\r\n", text.len());
        client.raw(bdat).await.unwrap();
    } else {
        client
            .command("DATA")
            .await
            .unwrap()
            .expect_code(354)
            .unwrap();
        text.extend_from_slice(b".\r\n");
    }
    // In two writes, the first of which ends within the string.
    let cut = corpus.before.len() + row.string.len() / 2;
    client.raw(&text[..cut]).await.unwrap();
    support::settle().await;
    client
        .raw([&text[cut..], b"QUIT\r\n"].concat())
        .await
        .unwrap();
    let mut replies = Vec::new();
    while replies.last() != Some(&221) {
        replies.push(client.reply().await.unwrap().code().as_u16());
    }
    client.ended().await.unwrap();
    let messages = inbox.messages();
    let stored = messages.iter().map(|mail| mail.message().to_vec());
    Outcome {
        stored: stored.collect(),
        replies,
    }
}
