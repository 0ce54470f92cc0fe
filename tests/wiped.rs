//! What a client authenticates with is not left behind in memory, neither while its session goes on nor afterwards.
//!
//! A test binary of its own, because it searches all memory of its process: what other tests keep there would be found too.
#![cfg(target_os = "linux")]

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use smtpd_tower::{
    Auth, Command, Helo, Pipeline, Reply, Request, Secret, Server, Session, handler_fn,
    sasl::{Mechanisms, OAuthBearer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

/// What stands in memory under this mask is not found.
const MASK: u8 = 0x55;

/// The password, masked.
const PASSWORD: [u8; 22] = [
    0x0f, 0x24, 0x62, 0x78, 0x23, 0x1e, 0x65, 0x25, 0x0d, 0x22, 0x6c, 0x66, 0x19, 0x38, 0x01, 0x32,
    0x60, 0x26, 0x07, 0x31, 0x0c, 0x37,
];

/// The base64 of the response of PLAIN with it, for `alice`, masked.
const RESPONSE: [u8; 40] = [
    0x14, 0x12, 0x13, 0x26, 0x34, 0x02, 0x1b, 0x39, 0x14, 0x13, 0x25, 0x2d, 0x1b, 0x2c, 0x64, 0x67,
    0x06, 0x2f, 0x17, 0x22, 0x02, 0x1d, 0x36, 0x60, 0x18, 0x65, 0x2d, 0x21, 0x03, 0x12, 0x36, 0x64,
    0x36, 0x64, 0x1f, 0x3e, 0x02, 0x02, 0x1c, 0x68,
];

/// How often this process has it in memory that it can write to.
fn copies(masked: &[u8]) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    // The same memory for everything that is read, which is left out.
    let mut page = vec![0; 1 << 20];
    let own = page.as_ptr() as u64;
    let own = own..own + page.len() as u64;
    let mut found = 0;
    for map in maps.lines() {
        let mut words = map.split_ascii_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let is_file = words.next_back().is_some_and(|path| path.starts_with('/'));
        if !rights.starts_with("rw") || is_file {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [mut at, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        while at < end {
            let len = page.len().min((end - at) as usize);
            let Ok(read) = memory.read_at(&mut page[..len], at) else {
                break;
            };
            for place in places(&page[..read], masked) {
                found += usize::from(!own.contains(&(at + place as u64)));
            }
            if read < page.len() {
                break;
            }
            at += (read - masked.len()) as u64;
        }
    }
    found
}

fn places<'a>(page: &'a [u8], masked: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    memchr::memchr_iter(masked[0] ^ MASK, page).filter(move |&at| {
        let found = page[at..].iter().zip(masked);
        page.len() - at >= masked.len() && found.fold(true, |same, (a, b)| same & (a ^ MASK == *b))
    })
}

/// A connection on which the client says one part after the other, each when the one before was answered. It makes them up byte
/// by byte, so that only the server has them in memory.
struct Said(Arc<Mutex<Script>>);

struct Script {
    /// Masked.
    parts: VecDeque<Vec<u8>>,
    /// How much is read at once.
    step: usize,
    answered: bool,
    ends: bool,
    reader: Option<Waker>,
}

impl AsyncRead for Said {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut script = self.0.lock().unwrap();
        let script = &mut *script;
        if script.parts.front().is_some_and(Vec::is_empty) && script.answered {
            script.parts.pop_front();
            script.answered = false;
        }
        let step = script.step.min(buf.remaining());
        match script.parts.front_mut().filter(|part| !part.is_empty()) {
            Some(part) => {
                for byte in part.drain(..step.min(part.len())) {
                    buf.put_slice(&[byte ^ MASK]);
                }
            }
            None if script.ends => {}
            None => {
                script.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut script = self.0.lock().unwrap();
        script.answered = true;
        if let Some(reader) = script.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn masked(text: &str) -> Vec<u8> {
    // `$` stands for the response.
    let parts = text
        .split('$')
        .map(|part| part.bytes().map(|byte| byte ^ MASK).collect());
    parts.collect::<Vec<Vec<u8>>>().join(&RESPONSE[..])
}

/// `commands` says whether there is a service for unknown commands.
fn server(seen: &Arc<Mutex<usize>>, commands: bool) -> Server {
    let seen = seen.clone();
    let auth = handler_fn(move |request: Request<Auth>| {
        let seen = seen.clone();
        async move {
            // A test that finds nothing here would find nothing anywhere.
            if request.credentials().password().is_some() {
                assert!(copies(&PASSWORD) > 0);
                *seen.lock().unwrap() += 1;
            }
            yield_now().await;
            match request.credentials().username() {
                "alice" => Ok(Secret::password("wrong")),
                _ => Err(Reply::auth_failed()),
            }
        }
    });
    let helo = handler_fn(async |_: Request<Helo>| yield_now().await);
    let command = handler_fn(async |request: Request<Command>| {
        yield_now().await;
        request.default_reply().clone()
    });
    let mechanisms = Mechanisms::default().with(OAuthBearer::new());
    let pipeline = Pipeline::new().auth(auth).helo(helo);
    let pipeline = if commands {
        pipeline.command(command)
    } else {
        pipeline
    };
    Server::new("mx.test", pipeline).configure(move |config| {
        let config = config.mechanisms(mechanisms).allow_insecure_auth(true);
        config.strict_pipelining(false)
    })
}

#[tokio::test]
async fn a_password_is_wiped_wherever_it_has_come_through() {
    let dialogs: [(&str, &[&str], usize); 10] = [
        ("with AUTH", &["EHLO c\r\n", "AUTH PLAIN $\r\n"], 1),
        (
            "after a challenge",
            &["EHLO c\r\n", "AUTH PLAIN\r\n", "$\r\n"],
            1,
        ),
        ("sent ahead", &["EHLO c\r\nAUTH PLAIN $\r\nNOOP\r\n"], 1),
        (
            "behind much else",
            &["EHLO c\r\nNOOP\r\nNOOP\r\nAUTH PLAIN\r\n$\r\nNOOP\r\n"],
            1,
        ),
        ("too early", &["AUTH PLAIN $\r\n", "NOOP\r\n"], 0),
        (
            "for another mechanism",
            &["EHLO c\r\n", "AUTH NONE $\r\n", "$\r\n"],
            0,
        ),
        ("as a command", &["EHLO c\r\n", "$\r\n", "NOOP\r\n"], 0),
        ("as no token", &["EHLO c\r\n", "AUTH OAUTHBEARER $\r\n"], 0),
        ("cut off", &["EHLO c\r\n", "AUTH PLAIN $"], 0),
        (
            "cut off after a challenge",
            &["EHLO c\r\n", "AUTH PLAIN\r\n", "$"],
            0,
        ),
    ];
    for (dialog, parts, checks) in dialogs {
        for (step, commands) in [
            (7, false),
            (usize::MAX, false),
            (7, true),
            (usize::MAX, true),
        ] {
            let seen = Arc::default();
            let script = Arc::new(Mutex::new(Script {
                parts: parts.iter().map(|part| masked(part)).collect(),
                step,
                answered: false,
                ends: false,
                reader: None,
            }));
            // The greeting comes first.
            script.lock().unwrap().parts.push_front(Vec::new());
            let io = Said(script.clone());
            let peer = Session::local().client_addr().clone();
            let session = tokio::spawn(server(&seen, commands).serve_connection(io, peer));
            for _ in 0..1000 {
                yield_now().await;
            }
            let rest = script
                .lock()
                .unwrap()
                .parts
                .iter()
                .map(Vec::len)
                .sum::<usize>();
            assert_eq!(rest, 0, "{dialog} by {step}, {commands}: not all was read");
            assert_eq!(
                *seen.lock().unwrap(),
                checks,
                "{dialog} by {step}, {commands}"
            );
            if dialog.starts_with("cut off") {
                assert!(
                    copies(&RESPONSE) > 0,
                    "{dialog} by {step}, {commands}: it is awaited"
                );
            } else {
                assert_wiped(&format!("{dialog} by {step}, {commands}, in the session"));
            }

            script.lock().unwrap().ends = true;
            let reader = script.lock().unwrap().reader.take();
            reader.unwrap().wake();
            session.await.unwrap();
            assert_wiped(&format!(
                "{dialog} by {step}, {commands}, after the session"
            ));
        }
    }
}

fn assert_wiped(when: &str) {
    assert_eq!((copies(&RESPONSE), copies(&PASSWORD)), (0, 0), "{when}");
}
