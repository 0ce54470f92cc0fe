//! The data service: how much of a message it reads, how, and what it answers.

use std::future::pending;

use bytes::Bytes;
use smtpd_tower::{Body, BodyError, BoxError, Data, DataReply, Reply, Request};
use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use crate::services::{Delivery, Plan, Shared, yield_once};

pub async fn deliver(
    shared: Shared,
    plan: Plan,
    request: Request<Data>,
) -> Result<DataReply, BoxError> {
    let number = begin(&shared);
    let mut body = request.into_body();
    let some = usize::from(plan.argument());
    match plan.style() {
        // Answers before the end of the message.
        4 => {
            read(&shared, number, plan, &mut body, some).await?;
            Ok(taken(&shared, number))
        }
        5 => Ok(taken(&shared, number)),
        6 => {
            read(&shared, number, plan, &mut body, some).await?;
            shared.lock().kept.push(body);
            Ok(taken(&shared, number))
        }
        7 => beside(&shared, number, plan, body).await,
        8 => {
            let _ = read(&shared, number, plan, &mut body, some).await;
            Ok(Reply::rejected("Scripted").into())
        }
        9 => {
            let _ = read(&shared, number, plan, &mut body, some).await;
            pending().await
        }
        10 => {
            read(&shared, number, plan, &mut body, some).await?;
            Err("scripted".into())
        }
        11 => {
            read(&shared, number, plan, &mut body, some).await?;
            panic!("fuzz: in a data service");
        }
        14 => {
            if let Err(error) = read(&shared, number, plan, &mut body, usize::MAX).await {
                sleep(plan.time()).await;
                return Err(error.into());
            }
            Ok(taken(&shared, number))
        }
        _ => {
            read(&shared, number, plan, &mut body, usize::MAX).await?;
            Ok(taken(&shared, number))
        }
    }
}

fn begin(shared: &Shared) -> usize {
    let mut journal = shared.lock();
    journal.waits = false;
    journal.deliveries.push(Delivery::default());
    journal.deliveries.len() - 1
}

/// The number in the reply tells which call it belongs to.
fn taken(shared: &Shared, number: usize) -> DataReply {
    shared.lock().deliveries[number].taken = true;
    Reply::ok(format!("Taken {number}.")).into()
}

/// Lets a task beside the session read the message, and waits for it.
async fn beside(
    shared: &Shared,
    number: usize,
    plan: Plan,
    mut body: Body,
) -> Result<DataReply, BoxError> {
    let (done, end) = oneshot::channel();
    let journal = shared.clone();
    let consumer = async move {
        let result = read(&journal, number, plan, &mut body, usize::MAX).await;
        let _ = done.send(result);
    };
    shared.lock().spawned.push(Box::pin(consumer));
    end.await??;
    Ok(taken(shared, number))
}

/// Reads up to so many pieces.
async fn read(
    shared: &Shared,
    number: usize,
    plan: Plan,
    body: &mut Body,
    most: usize,
) -> Result<(), BodyError> {
    for _ in 0..most {
        let piece = next(shared, plan, body).await;
        match piece {
            Some(Ok(piece)) => shared.lock().deliveries[number]
                .body
                .extend_from_slice(&piece),
            Some(Err(error)) => return Err(error),
            None => {
                shared.lock().deliveries[number].complete = true;
                break;
            }
        }
    }
    Ok(())
}

/// The next piece, after what the plan does before it.
async fn next(shared: &Shared, plan: Plan, body: &mut Body) -> Option<Result<Bytes, BodyError>> {
    match plan.style() {
        1 => yield_once().await,
        2 => sleep(plan.time()).await,
        // Gives up a poll that takes too long, and goes on later.
        3 => {
            if let Ok(piece) = timeout(plan.time(), body.chunk()).await {
                return piece;
            }
            sleep(plan.time()).await;
        }
        _ => {}
    }
    shared.lock().waits = true;
    let piece = body.chunk().await;
    shared.lock().waits = false;
    piece
}
