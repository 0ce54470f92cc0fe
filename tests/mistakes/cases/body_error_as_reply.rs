use smtpd_tower::{Data, Pipeline, Reply, Request, handler_fn};

async fn store(request: Request<Data>) -> Result<Reply, Reply> {
    let message = request.into_body().collect().await?;
    Ok(Reply::ok(format!("{} bytes", message.len())))
}

fn main() {
    let _ = Pipeline::new().data(handler_fn(store));
}
