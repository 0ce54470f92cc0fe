use std::sync::Arc;

use smtpd_tower::{Pipeline, Rcpt, Reply, Request, handler_fn_with};

async fn rcpt(_users: Arc<Vec<String>>, _: Request<Rcpt>) -> Reply {
    Reply::OK
}

fn main() {
    let users = vec!["alice@example.org".to_owned()];
    let _ = Pipeline::new().rcpt(handler_fn_with(users, rcpt));
}
