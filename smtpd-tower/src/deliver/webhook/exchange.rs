use std::{future::poll_fn, pin::Pin};

use hyper::{
    Request, Response,
    body::{Body as _, Incoming},
};
use hyper_util::client::legacy::{Client, Error};

use super::{
    connect::Connector,
    error::{Problem, WebhookError},
    outgoing::{Feed, Outgoing},
};
use crate::{
    body::{Body, BodyError},
    deliver::patience::{Exhausted, Patience},
};

/// How many bytes of a response are read.
const MAX_RESPONSE: usize = 16 * 1024;

/// What a service responded.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    Body(BodyError),
    Service(WebhookError),
}

/// Sends a request whose body is at hand.
pub(super) async fn send(
    client: &Client<Connector, Outgoing>,
    request: Request<Outgoing>,
    patience: &mut Patience,
) -> Result<Answer, Failure> {
    let response = patience.within(client.request(request)).await?;
    read(response.map_err(not_sent)?, patience).await
}

/// Sends a request, and a message as its body while that arrives.
pub(super) async fn stream(
    client: &Client<Connector, Outgoing>,
    request: Request<Outgoing>,
    mut feed: Feed,
    mut message: Body,
    patience: &mut Patience,
) -> Result<Answer, Failure> {
    let mut response = std::pin::pin!(client.request(request));
    let opened = patience.within(async {
        tokio::select! {
            biased;
            response = &mut response => Some(response),
            () = feed.wanted() => None,
        }
    });
    if let Some(early) = opened.await? {
        return responded_early(early, patience).await;
    }
    loop {
        let chunk = tokio::select! {
            biased;
            response = &mut response => return responded_early(response, patience).await,
            chunk = message.chunk() => chunk,
        };
        // An error drops the feed, which aborts the request.
        let Some(chunk) = chunk.transpose().map_err(Failure::Body)? else {
            break;
        };
        let sent = patience.within(async {
            tokio::select! {
                biased;
                response = &mut response => Some(response),
                () = feed.push(chunk) => None,
            }
        });
        if let Some(early) = sent.await? {
            return responded_early(early, patience).await;
        }
    }
    let rest = patience.within(async {
        tokio::select! {
            biased;
            response = &mut response => Err(response),
            () = feed.finish() => Ok(()),
        }
    });
    if let Err(early) = rest.await? {
        return responded_early(early, patience).await;
    }
    let response = patience.within(response).await?;
    read(response.map_err(not_sent)?, patience).await
}

/// Returns the answer to a message that was not sent to its end. It cannot be accepted.
async fn responded_early(
    response: Result<Response<Incoming>, Error>,
    patience: &mut Patience,
) -> Result<Answer, Failure> {
    let response = response.map_err(not_sent)?;
    if response.status().is_success() {
        let status = response.status().as_u16();
        return Err(fault(Problem::Early(status)));
    }
    read(response, patience).await
}

/// Reads the beginning of the body. A connection with more is closed.
async fn read(response: Response<Incoming>, patience: &mut Patience) -> Result<Answer, Failure> {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while bytes.len() < MAX_RESPONSE {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let Some(frame) = patience.within(frame).await? else {
            break;
        };
        let frame = frame.map_err(|error| fault(Problem::Response(error.into())))?;
        if let Ok(data) = frame.into_data() {
            let room = MAX_RESPONSE - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(Answer {
        status: head.status.as_u16(),
        body: bytes,
    })
}

fn not_sent(error: Error) -> Failure {
    fault(match error.is_connect() {
        true => Problem::Request(error.into()),
        false => Problem::Response(error.into()),
    })
}

const fn fault(problem: Problem) -> Failure {
    Failure::Service(WebhookError::new(problem))
}

impl From<Exhausted> for Failure {
    fn from(Exhausted(limit): Exhausted) -> Self {
        fault(Problem::TimedOut(limit))
    }
}
