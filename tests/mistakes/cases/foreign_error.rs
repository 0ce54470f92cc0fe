use std::io;

use smtpd_tower::{Data, Pipeline, Request, handler_fn};

async fn store(request: Request<Data>) -> io::Result<()> {
    tokio::fs::create_dir_all(request.envelope().sender().as_str()).await?;
    Ok(())
}

fn main() {
    let _ = Pipeline::new().data(handler_fn(store));
}
