//! Inspects a message while it arrives, and stops as soon as it has seen enough.
//!
//! `cargo run --example streaming -- 127.0.0.1:2525`

use smtpd_tower::{
    BodyError, Data, Pipeline, Rcpt, Reply, Request, Server, handler_fn, system_hostname,
};
use tokio::net::TcpListener;

/// A pattern that virus scanners agree to find, so that they can be tested.
const EICAR: &[u8] = b"$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!";

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:2525".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let pipeline = Pipeline::new()
        .rcpt(handler_fn(async |_: Request<Rcpt>| {}))
        .data(handler_fn(scan));
    Server::new(system_hostname(), pipeline)
        .configure(|config| config.max_message_size(100 << 20))
        .serve(listener)
        .await
}

/// Keeps no more of the message than the last bytes that may begin a match. Once it has replied, the server reads and drops the
/// rest, and sends the reply at the end.
async fn scan(mut request: Request<Data>) -> Result<Reply, BodyError> {
    let mut window = Vec::new();
    let mut size = 0;
    while let Some(chunk) = request.body_mut().chunk().await {
        let chunk = chunk?;
        size += chunk.len();
        window.extend_from_slice(&chunk);
        if window.windows(EICAR.len()).any(|bytes| bytes == EICAR) {
            return Ok(Reply::rejected(format!(
                "Virus found within the first {size} bytes"
            )));
        }
        window.drain(..window.len().saturating_sub(EICAR.len() - 1));
    }
    Ok(Reply::ok(format!("{size} bytes without a virus")))
}
